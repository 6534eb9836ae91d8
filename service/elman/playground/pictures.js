// The pictures of one sequence, all on the same axis of steps: outputs, influence, hidden state.

import { MOST_NAMED, stepAxis } from "./charts.js";
import { nameAndUnit, percent, plural, short } from "./dom.js";
import { colour, extent, lastOf } from "./drawing.js";
import { outputNames, ranking, show, stepNames, valueRows } from "./reading.js";

/** Room to the right of a chart for the names of its lines; all charts of a column share it, so that steps align. */
const BESIDE = 104;
/** Points of a line, above which some are left out. */
const MOST_POINTS = 3000;
/** Channels that are drawn; a table has all of them. */
const MOST_CHANNELS = 12;
/** How the truth is drawn under what was foreseen. */
const CAME = { color: "ink", width: 1.1, dash: "2 3" };
/** Probability from which a line has its name beside it. */
const NAMED_FROM = 0.15;
/** The lines after the leader's, the likeliest first, tell each other apart by their dashes. */
const DASHES = [undefined, undefined, "6 4", "2 3", "6 3 2 3"];
/** The room around a picture. */
export const margins = (small, width, named) => ({
  l: small ? 40 : 48,
  r: small ? 12 : width < 480 ? 84 : BESIDE,
  t: 8,
  b: named ? 24 : 38,
});

/** A name in as many characters as there is room for beside a chart. */
function beside(feature, plot) {
  const [name] = nameAndUnit(feature);
  const most = plot.clientWidth < 480 ? 10 : 14;
  return name.length > most ? `${name.slice(0, most - 1).trimEnd()}…` : name;
}

/** Whether an axis has the steps' own names under it, and so no title. */
const isNamed = (names) => Boolean(names) && names.length <= MOST_NAMED;

const steps = (length) => Array.from({ length }, (_, i) => i + 1);

/** o_1..o_n: probabilities of the labels, the best in the accent's colour, or values. */
export function drawOutputs(figure, card, sequence, result, small = false) {
  const labels = ranking(result);
  return labels ? drawRanking(figure, sequence, labels, small) : drawValues(figure, card, sequence, result, small);
}

function drawRanking(figure, sequence, labels, small) {
  const x = steps(labels.length);
  const named = stepNames(sequence);
  const height = (name) => Math.max(...labels.series(name).map((p) => p ?? 0));
  const rest = labels.names.filter((name) => name !== labels.best.name).sort((a, b) => height(b) - height(a));
  const order = [labels.best.name, ...rest];
  const last = labels.at(labels.length);
  const build = () => ({
    margin: margins(small, figure.plot.clientWidth, isNamed(named)),
    x: stepAxis(named, labels.length),
    y: { range: [-0.02, 1.02], marks: (small ? [0, 0.5, 1] : [0, 0.25, 0.5, 0.75, 1]).map((p) => [p, `${100 * p}%`]) },
    marks: order
      .map((name, i) => ({
        kind: "line",
        x,
        y: labels.series(name),
        color: lineColour(i),
        width: i === 0 ? 2.6 : i < 5 ? 1.6 : 0.8,
        dash: DASHES[i],
        words: (at) => `${percent(labels.series(name)[at])} ${show(name)}, step ${x[at]}`,
      }))
      .reverse(),
    // Named are the leader and those of the next four that mattered at any step.
    names: order
      .slice(0, small ? 0 : 5)
      .filter((name, i) => i === 0 || height(name) >= NAMED_FROM)
      .map((name, i) => ({
        y: last.find((one) => one.name === name)?.p ?? 0,
        text: beside(show(name), figure.plot),
        color: colour(i === 0 ? "accent" : "muted"),
      })),
  });
  figure.draw(build, {
    label: `Probability of each label after each of ${plural(labels.length, "step")}. After the last, ${show(labels.best.name)} leads with ${percent(labels.best.p)}.`,
    head: ["step", ...order.map(show)],
    rows: () => x.map((step) => [stepWords(step, named), ...order.map((name) => labels.series(name)[step - 1])]),
  });
}

const lineColour = (i) => colour(i === 0 ? "accent" : i < 5 ? `rest-${Math.min(i, 3)}` : "rest-4");

const stepWords = (step, named) => (named ? `${step} ${named[step - 1]}` : String(step));

function drawValues(figure, card, sequence, result, small) {
  const rows = valueRows(result);
  const width = Math.min(rows[0]?.length ?? 0, MOST_CHANNELS);
  const names = outputNames(card, width).slice(0, width);
  const came = whatCame(card, sequence, width);
  const channels = names.map((name, i) => ({
    lines: [
      ...(came[i] ? [{ ...CAME, values: came[i], name: "came" }] : []),
      { color: "accent", width: 2, values: rows.map((row) => row[i]), name },
    ],
    ends: [{ text: name, color: "accent" }, ...(came[i] ? [{ text: "what came", color: "muted", of: 0 }] : [])],
  }));
  drawChannels(figure, channels, rows.length, {
    small,
    named: stepNames(sequence),
    label: `Output after each of ${plural(rows.length, "step")}. The last is ${(rows.at(-1) ?? []).slice(0, width).map(short).join(", ")}.`,
    head: ["step", ...names, ...came.map((_, i) => (width > 1 ? `${names[i]} that came` : "what came"))],
    rows: () =>
      rows.map((row, i) => [String(i + 1), ...row.slice(0, width), ...came.map((values) => values[i] ?? null)]),
  });
}

/**
 * Channels below each other, one axis of y each, on one axis of steps.
 *
 * A channel is {lines, ends, y, bars, inner}: `lines` are {values, color, width, dash, name}, `ends` are the names beside
 * it, {text, color}, each at the end of the line `of` (of the last one without), `y` is its axis, `bars` draws bars, and
 * `inner` is its height in pixels. `key` are names above all of them, {text, color}.
 */
export function drawChannels(figure, channels, length, { small = false, named = null, axis, key = [], ...words }) {
  const every = Math.ceil(length / MOST_POINTS);
  const kept = (values) => values.filter((_, i) => i % every === 0);
  const picture = ({ lines, ends, y = {}, bars = false, inner }, i) => {
    const margin = margins(small, figure.plot.clientWidth, isNamed(named));
    // Where there is no room beside a channel, its names stand above it.
    const above = [...(i === 0 ? key : []), ...(small && channels.length > 1 ? ends.slice(0, 1) : [])];
    return {
      margin: { ...margin, t: above.length ? 24 : margin.t },
      inner,
      x: axis ?? stepAxis(named, length),
      y: channels.length > 1 ? { count: channels.length > 4 ? 3 : 4, ...y } : y,
      marks: lines.map((line) => ({
        kind: bars ? "bars" : "line",
        x: kept(steps(line.values.length)),
        y: kept(line.values),
        color: colour(line.color),
        width: line.width,
        dash: line.dash,
        words: (at) => `${short(kept(line.values)[at])} ${line.name}, step ${at * every + 1}`,
      })),
      names: (small ? [] : ends).map(({ text, color, of = -1 }) => ({
        y: lastOf(lines.at(of).values),
        text: beside(text, figure.plot),
        color: colour(color),
      })),
      key: above.map(({ text, color }) => ({ text, color: colour(color) })),
    };
  };
  figure.draw(() => channels.map(picture), words);
}

/** Of a forecaster: what its outputs should have been, the next step's own values. */
function whatCame(card, sequence, width) {
  if (!card.forecast || !Array.isArray(sequence)) return [];
  const targets = card.forecast.target ?? Array.from({ length: width }, (_, i) => i);
  return targets
    .slice(0, width)
    .map((target) => sequence.slice(1).map((row) => (Array.isArray(row) ? row[target] : row)));
}

/** The numbers that went in, an axis a feature: those of the data, where it is numbers, and of `further` by name. */
export function drawInput(figure, card, data, further = {}) {
  const columns = [
    ...(isNumbers(card, data) ? columnsOf(data, card.input.names, (i, width) => (width === 1 ? "value" : `feature ${i + 1}`)) : []),
    ...Object.entries(further).flatMap(([name, values]) =>
      columnsOf(values, null, (i, width) => (width === 1 ? name : `${name} ${i + 1}`)),
    ),
  ];
  figure.element.hidden = !columns.length;
  if (!columns.length) return;
  const length = columns[0].values.length;
  const missing = columns.flatMap(({ values }) => values).filter((value) => value === null).length;
  const shown = columns.slice(0, MOST_CHANNELS);
  figure.note(
    [
      missing ? `${plural(missing, "value")} missing, each a gap in its line.` : "",
      shown.length < columns.length ? `The first ${shown.length} of ${columns.length} features; the table has all.` : "",
    ]
      .filter(Boolean)
      .join(" "),
  );
  const channels = shown.map(({ name, values }) => ({
    lines: [{ values, color: "ink", width: 1.2, name }],
    ends: columns.length > 1 ? [{ text: name, color: "muted" }] : [],
  }));
  drawChannels(figure, channels, length, {
    axis: stepAxis(null, length, card.input.kind === "frames" ? "sample" : "step"),
    label: `The sequence: ${plural(length, "step")} of ${plural(columns.length, "number")}.`,
    head: ["step", ...columns.map(({ name }) => name)],
    rows: () => steps(length).map((step) => [String(step), ...columns.map(({ values }) => values[step - 1])]),
  });
}

/** Whether the data are numbers to draw, and no tokens. */
const isNumbers = (card, data) => typeof data !== "string" && card.input.kind !== "tokens";

/** The columns of some rows, {name, values}: by these names, or as `naming(index, width)` calls them. */
function columnsOf(values, names, naming) {
  const rows = values.map((row) => [row].flat(Infinity).map((value) => (value === null ? null : Number(value))));
  return rows[0].map((_, i) => ({
    name: names?.[i] ?? naming(i, rows[0].length),
    values: rows.map((row) => row[i]),
  }));
}

/**
 * How far each step reaches into o_n; the last `span` steps, which hold 90 % of it, in the accent's colour.
 *
 * With `most`, the highest share of the pictures beside it, as shares of the whole: networks whose outputs move by
 * different amounts are then compared.
 */
export function drawInfluence(figure, sequence, answer, most = null) {
  const { influence, span } = answer;
  const named = stepNames(sequence);
  const n = influence.length;
  const first = n - span + 1;
  const small = most !== null;
  const values = small ? shares(influence) : influence;
  const highest = small ? most : Math.max(...influence, 0);
  const inWords = small ? percent : short;
  const bars = (part, color) => ({
    kind: "bars",
    x: part,
    y: part.map((step) => values[step - 1]),
    color: colour(color),
    words: (i) => `${inWords(values[part[i] - 1])}, step ${part[i]}`,
  });
  figure.draw(
    () => ({
      margin: margins(small, figure.plot.clientWidth, isNamed(named)),
      x: stepAxis(named, n),
      y: {
        range: [0, highest * 1.08 || 1],
        count: small ? 2 : 4,
        format: small ? (share) => `${Math.round(100 * share)}%` : short,
      },
      marks: [
        { kind: "span", from: first - 0.5, to: n + 0.5, color: colour("accent-soft") },
        bars(steps(n).slice(0, first - 1), "rest-3"),
        bars(steps(n).slice(first - 1), "accent"),
      ],
    }),
    {
      label: `Influence of each step on the last output. 90 % of it lies in the last ${span} of ${plural(n, "step")}.`,
      head: ["step", small ? "share of the influence" : "influence"],
      rows: () => values.map((value, i) => [stepWords(i + 1, named), small ? percent(value) : value]),
    },
  );
}

/** Each step's share of the whole influence. */
export function shares(influence) {
  const total = influence.reduce((sum, value) => sum + value, 0);
  return influence.map((value) => (total ? value / total : 0));
}

/** The value that has the full colour, for states that are on one scale of colours. */
export function colourLimit(name, states) {
  const highest = Math.max(...states.flatMap((rows) => rows.map((row) => Math.max(...row.map(Math.abs)))), 1e-6);
  // h is an output of tanh or a mean of such: on the scale of all that it can be, unless a foreign cell has another.
  return name === "h" && highest <= 1 ? 1 : highest;
}

/** The hidden state after every step, a column a step. `limit` is the value that has the full colour. */
export function drawHidden(figure, sequence, rows, name, small = false, limit = colourLimit(name, [rows])) {
  const units = rows[0].length;
  const [low, high] = extent(rows.flat());
  const x = steps(rows.length);
  figure.draw(
    () => ({
      margin: margins(small, figure.plot.clientWidth, isNamed(stepNames(sequence))),
      x: stepAxis(stepNames(sequence), rows.length),
      y: { range: [0.5, units + 0.5], title: small ? "" : "unit", count: small ? 2 : 5, least: 1, grid: false },
      marks: [
        {
          kind: "heat",
          values: rows,
          limit,
          words: (i, unit) => `${short(rows[i][unit])}, unit ${unit + 1}, step ${i + 1}`,
        },
      ],
      legend: !small,
    }),
    {
      label: `The state ${name}: ${plural(units, "unit")} after each of ${plural(rows.length, "step")}, between ${short(low)} and ${short(high)}.`,
      head: ["unit", ...x.map(String)],
      rows: () => rows[0].map((_, unit) => [String(unit + 1), ...rows.map((row) => row[unit])]),
    },
  );
}
