// The picture of a forecast: a history, and the fan of what may come after it.

import { plural, short } from "./dom.js";
import { colour } from "./drawing.js";

/** An output of several, or the only one. */
export const at = (row, which) => (Array.isArray(row) ? row[Math.min(which, row.length - 1)] : row);

/** The quantiles of an output of a forecast: pairs of a level and its values, the lowest first. */
export const bandsOf = (answer, which) =>
  Object.entries(answer.quantiles ?? {})
    .map(([level, rows]) => [Number(level), rows.map((row) => at(row, which))])
    .sort((a, b) => a[0] - b[0]);

/** Draw the output `which` of a forecast after its `past`, with what came, `truth`, or null where nobody knows it. */
export function drawFan(figure, card, { past, answer, which, truth, name }) {
  const point = answer.point.map((row) => at(row, which));
  const bands = bandsOf(answer, which);
  const shown = past.slice(-Math.max(3 * point.length, 36));
  const before = shown.map((_, i) => i - shown.length + 1);
  const ahead = point.map((_, i) => i + 1);
  // The fan opens at the last value of the history, where that is not missing.
  const now = shown.at(-1) ?? null;
  const from = now === null ? [] : [now];
  const steps = now === null ? ahead : [0, ...ahead];
  const pairs = pairsOf(bands);
  const shares = pairs.map(([low, high]) => `${Math.round(100 * (high[0] - low[0]))} %`);
  const line = (words, x, y, color, width, dash) => ({
    kind: "line",
    x,
    y,
    color: colour(color),
    width,
    dash,
    words: (i) => `${short(y[i])} ${words}, step ${x[i]}`,
  });
  const picture = {
    margin: { l: 56, r: 16, t: 30, b: 40 },
    x: { title: "steps from now" },
    y: { title: name },
    marks: [
      ...pairs.map(([[, low], [, high]], i) => ({
        kind: "band",
        x: steps,
        low: [...from, ...low],
        high: [...from, ...high],
        color: colour("accent"),
        opacity: 0.13 + 0.09 * i,
      })),
      line("history", before, shown, "ink", 1.6),
      ...(truth ? [line("truth", steps.slice(0, from.length + truth.length), [...from, ...truth], "ink", 1.4, "3 3")] : []),
      line("forecast", steps, [...from, ...point], "accent", 2.6),
    ],
    // The names of the lines, each in its own colour.
    key: [
      { text: "history", color: colour("ink") },
      ...(truth ? [{ text: "┄ truth", color: colour("ink") }] : []),
      { text: "forecast", color: colour("accent") },
      ...(shares.length ? [{ text: `▒ ${shares.join(", ")}`, color: colour("accent") }] : []),
    ],
  };
  const head = [
    "step",
    "forecast",
    ...(answer.mean ? ["mean"] : []),
    ...bands.map(([level]) => `quantile ${level}`),
    ...(truth ? ["truth"] : []),
  ];
  figure.note(notes(card, shown, point, shares, which).join(" "));
  figure.mark(0);
  figure.draw(() => picture, {
    label: `Forecast of ${name}: ${plural(point.length, "step")} ahead, from ${short(point[0])} to ${short(point.at(-1))}${truth ? ", with what truly came" : ""}.`,
    head,
    rows: () =>
      point.map((value, i) => [
        String(i + 1),
        value,
        ...(answer.mean ? [at(answer.mean[i], which)] : []),
        ...bands.map(([, rows]) => rows[i]),
        ...(truth ? [truth[i] ?? null] : []),
      ]),
  });
}

function notes(card, shown, point, shares, which) {
  const { max_sampled: most, coverage } = card.forecast;
  const missing = shown.filter((value) => value === null).length;
  const told = [];
  if (missing) told.push(`${plural(missing, "value")} of this history missing, each a gap in the line.`);
  if (shares.length)
    told.push(`The ${shares.length === 1 ? "band holds" : "bands hold"} ${shares.join(" and ")} of the sampled paths.`);
  if (shares.length && coverage) told.push(held(coverage, which));
  if (point.length > (most ?? Infinity))
    told.push(`There is no band: the model's errors are known for ${plural(most, "step")}.`);
  return told;
}

/** What the middle interval held of held-out data. */
function held({ level, shares }, which) {
  const percents = shares.map((row) => Math.round(100 * at(row, which)));
  return `Of held-out data, intervals of ${Math.round(100 * level)} % held ${Math.min(...percents)} to ${Math.max(...percents)} %.`;
}

/** The pairs of quantiles around the middle, the widest first. */
const pairsOf = (bands) => Array.from({ length: Math.floor(bands.length / 2) }, (_, i) => [bands[i], bands.at(-1 - i)]);
