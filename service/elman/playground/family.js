// Which models the tour is given: of those served, the ones to which a drawn line or a typed word is best fed.

import { remembers } from "./memory.js";
import { isPlain } from "./named.js";
import { ranked } from "./reading.js";
import { isFinal } from "./request.js";
import { familyNames, siblings } from "./siblings.js";

/** Steps of the line, and of a word at most. */
export const STEPS = 48;
export const LONGEST = 40;

/** The cell that is shown by itself: its memory is one row of numbers. */
const ALONE = ["gru", "lstm", "rnn"];

/** What a model can be given in the tour, and which models are taken after others. */
const KINDS = {
  line: {
    reads: ({ input }) => input.kind === "features",
    later: ({ input }) => input.size > 1,
  },
  word: {
    reads: (card) => card.input.kind === "tokens" && card.input.text && ranked(card),
    later: (card) => card.task === "generation",
  },
};

/**
 * {line, word}, each {main, all, missing}: the model that is shown by itself, it and those that differ from it in their
 * cell alone, and the names of those that are not there. A kind is left out where no model will do.
 *
 * A family of three cells is taken before one of fewer.
 */
export function families(models) {
  const found = Object.entries(KINDS).map(([name, kind]) => [name, family(models, kind)]);
  return Object.fromEntries(found.filter(([, one]) => one));
}

function family(models, { reads, later }) {
  const fits = (card) => reads(card) && isPlain(card) && !isFinal(card) && remembers(card, STEPS);
  const rank = (ones) => 10 * later(ones[0]) - ones.length;
  const found = models
    .filter(fits)
    .map((card) => siblings(card, models).filter((one) => fits(one) && one.input.size === card.input.size))
    .sort((a, b) => rank(a) - rank(b))[0];
  if (!found) return null;
  const main = ALONE.map((cell) => found.find((one) => one.cell === cell)).find(Boolean) ?? found[0];
  const has = new Set(found.map((one) => one.name));
  return { main, all: found, missing: familyNames(main.name).filter((name) => !has.has(name)) };
}
