// What an answer of steps says: ranked labels, or values, at every step.

import { percent, short } from "./dom.js";

/** Labels to ask for: all of them where that is few. */
const MOST = 40;

/** Whether a model's outputs are decoded into labels or tokens with probabilities. */
export const ranked = (card) => Boolean(card.output.labels) || card.task === "generation";

export const topOf = (card) => Math.min(card.output.size, MOST);

/** {length, names, at(step), best, series(name)} of labels with their probability; null where there are none. */
export function ranking(result) {
  const decoded = result.decoded;
  if (!Array.isArray(decoded) || !decoded.length || !decoded[0]?.top) return null;
  const steps = decoded.map((one) =>
    one.top.map(({ label, token, probability }) => ({ name: label ?? token, p: probability })),
  );
  const names = [...new Set(steps.flat().map((one) => one.name))];
  return {
    length: steps.length,
    names,
    at: (step) => steps[step - 1],
    best: steps.at(-1)[0],
    series: (name) => steps.map((step) => step.find((one) => one.name === name)?.p ?? null),
  };
}

/** Rows of numbers, a step a row: decoded into the data's units where the model can, or the outputs as they are. */
export function valueRows(result) {
  const rows = Array.isArray(result.decoded) && result.decoded.length ? result.decoded : result.outputs;
  return rows.map((row) => (Array.isArray(row) ? row.flat(Infinity) : [row]));
}

/** The names of a model's outputs. */
export const outputNames = (card, width) =>
  card.output.labels ??
  (card.forecast?.target && card.input.names
    ? card.forecast.target.map((i) => card.input.names[i])
    : Array.from({ length: width }, (_, i) => (width === 1 ? "output" : `output ${i + 1}`)));

/** One decoded output in words: a label with its probability, or its values. */
export function inWords(decoded, output) {
  if (decoded && !Array.isArray(decoded) && typeof decoded === "object")
    return `${show(decoded.label ?? decoded.token)}, ${percent(decoded.probability)}`;
  const values = decoded ?? output;
  if (values === null || values === undefined) return "no output yet";
  return [values].flat(Infinity).slice(0, 6).map(short).join(", ");
}

/** A label or token to be read: a space and a line end are seen. */
export const show = (name) => (name === " " ? "␣" : name === "\n" ? "↵" : String(name));

/** The steps' own names: the characters of a text, or null. */
export const stepNames = (sequence) => (typeof sequence === "string" ? [...sequence].map(show) : null);
