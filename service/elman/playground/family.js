// Which models the tour is given: of those served, the ones to which a drawn line is best fed.

import { isPlain } from "./named.js";
import { remembers } from "./memory.js";
import { familyNames, siblings } from "./siblings.js";

/** Steps of the line. */
export const STEPS = 48;

/** The cell that is shown by itself: its memory is one row of numbers. */
const ALONE = ["gru", "lstm", "rnn"];

/** Whether a model reads numbers a step at a time, and its memory can be asked for after each. */
const reads = (card) => card.input.kind === "features" && isPlain(card) && remembers(card, STEPS);

/**
 * {main, all, missing}: the model that is shown by itself, it and those that differ from it in their cell alone, and
 * the names of those that are not there. Null where no model will do.
 *
 * A family of one number a step is taken before one of several, and one of three cells before one of fewer.
 */
export function family(models) {
  const found = models
    .filter(reads)
    .map((card) => siblings(card, models).filter((one) => reads(one) && one.input.size === card.input.size))
    .sort((a, b) => rank(a) - rank(b))[0];
  if (!found) return null;
  const main = ALONE.map((cell) => found.find((one) => one.cell === cell)).find(Boolean) ?? found[0];
  const has = new Set(found.map((one) => one.name));
  return { main, all: found, missing: familyNames(main.name).filter((name) => !has.has(name)) };
}

const rank = (ones) => 10 * Math.min(ones[0].input.size - 1, 1) - ones.length;

/** The lowest and the highest value of a feature over some sequences; -1 to 1 without any. */
export function rangeOf(sequences, feature) {
  const values = sequences.flatMap((rows) => rows.map((row) => row[feature]));
  const [low, high] = values.reduce(([a, b], value) => [Math.min(a, value), Math.max(b, value)], [Infinity, -Infinity]);
  return low < high ? [low, high] : [-1, 1];
}

/** Lines to begin with, by name: each gives a share of the height, from 0 to 1, at a share of the width. */
export const SHAPES = {
  waves: ["Waves", (t) => 0.5 + 0.4 * Math.sin(8 * Math.PI * t)],
  pulse: ["One peak", (t) => 0.15 + 0.75 * Math.exp(-(((t - 0.3) / 0.04) ** 2))],
  stair: ["A step", (t) => (t < 0.5 ? 0.2 : 0.8)],
  ramp: ["A slope", (t) => 0.1 + 0.8 * t],
  flat: ["Flat", () => 0.4],
};
