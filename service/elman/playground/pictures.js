// The pictures of one sequence, all on the same axis of steps: outputs, influence, hidden state.

import { MOST_NAMED, diverging, endNames, stepAxis } from "./charts.js";
import { nameAndUnit, percent, plural, short } from "./dom.js";
import { outputNames, ranking, show, stepNames, valueRows } from "./reading.js";

/** Room to the right of a chart for the names of its lines; all charts of a column share it, so that steps align. */
const BESIDE = 104;
/** Probability from which a line has its name beside it. */
const NAMED_FROM = 0.15;
const margins = (small, width, named) => ({
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
  const build = (c) => {
    const traces = order
      .map((name, i) => ({
        type: "scatter",
        mode: labels.length === 1 ? "markers" : "lines",
        x,
        y: labels.series(name),
        name: show(name),
        line: {
          color: lineColour(c, i),
          width: i === 0 ? 2.6 : i < 5 ? 1.6 : 0.8,
          dash: ["solid", "solid", "dash", "dot", "dashdot"][i] ?? "solid",
        },
        marker: { color: lineColour(c, i), size: 7 },
        hovertemplate: `%{y:.1%} ${show(name)}<extra>step %{x}</extra>`,
      }))
      .reverse();
    // Named are the leader and those of the next four that mattered at any step.
    const ends = order
      .slice(0, small ? 0 : 5)
      .filter((name, i) => i === 0 || height(name) >= NAMED_FROM)
      .map((name, i) => ({
        y: labels.at(labels.length).find((one) => one.name === name)?.p ?? 0,
        text: beside(show(name), figure.plot),
        color: i === 0 ? c.accent : c.muted,
      }));
    return {
      traces,
      layout: {
        margin: margins(small, figure.plot.clientWidth, isNamed(named)),
        xaxis: stepAxis(named, labels.length),
        yaxis: { range: [-0.02, 1.02], tickformat: ".0%", tickvals: small ? [0, 0.5, 1] : [0, 0.25, 0.5, 0.75, 1] },
        annotations: endNames(ends, labels.length, 0.98, 0.02, 0.07),
      },
    };
  };
  figure.draw(build, {
    label: `Probability of each label after each of ${plural(labels.length, "step")}. After the last, ${show(labels.best.name)} leads with ${percent(labels.best.p)}.`,
    head: ["step", ...order.map(show)],
    rows: () => x.map((step) => [stepWords(step, named), ...order.map((name) => labels.series(name)[step - 1])]),
  });
}

const lineColour = (c, i) => (i === 0 ? c.accent : i < 5 ? c.rest[Math.min(i - 1, 2)] : c.rest[3]);

const stepWords = (step, named) => (named ? `${step} ${named[step - 1]}` : String(step));

function drawValues(figure, card, sequence, result, small) {
  const rows = valueRows(result);
  const width = Math.min(rows[0]?.length ?? 0, 8);
  const names = outputNames(card, width).slice(0, width);
  const came = whatCame(card, sequence, width);
  const x = steps(rows.length);
  const column = (i) => rows.map((row) => row[i]);
  const mode = rows.length === 1 ? "markers" : "lines";
  const build = (c) => {
    const outputs = names.map((name, i) => ({
      type: "scatter",
      mode,
      x,
      y: column(i),
      name,
      line: { color: lineColour(c, i), width: i ? 1.5 : 2.4 },
      marker: { color: lineColour(c, i) },
      hovertemplate: `%{y:.4~g} ${name}<extra>step %{x}</extra>`,
    }));
    const truth = came.map((values) => ({
      type: "scatter",
      mode: "lines",
      x: steps(values.length),
      y: values,
      line: { color: c.ink, width: 1.1, dash: "2px,3px" },
      hovertemplate: "%{y:.4~g} came<extra>step %{x}</extra>",
    }));
    const all = [...rows.flatMap((row) => row.slice(0, width)), ...came.flat()];
    const [low, high] = extent(all);
    const ends = [
      ...names.map((text, i) => ({
        y: rows.at(-1)[i],
        text: beside(text, figure.plot),
        color: i === 0 ? c.accent : c.muted,
      })),
      ...(came.length ? [{ y: came[0].at(-1), text: "what came", color: c.muted }] : []),
    ];
    return {
      traces: [...truth, ...outputs.reverse()],
      layout: {
        margin: margins(small, figure.plot.clientWidth, isNamed(stepNames(sequence))),
        xaxis: stepAxis(stepNames(sequence), rows.length),
        annotations: small || !rows.length ? [] : endNames(ends, rows.length, high, low, 0.08 * (high - low || 1)),
      },
    };
  };
  figure.draw(build, {
    label: `Output after each of ${plural(rows.length, "step")}. The last is ${(rows.at(-1) ?? []).slice(0, width).map(short).join(", ")}.`,
    head: ["step", ...names, ...came.map((_, i) => (width > 1 ? `${names[i]} that came` : "what came"))],
    rows: () =>
      rows.map((row, i) => [String(i + 1), ...row.slice(0, width), ...came.map((values) => values[i] ?? null)]),
  });
}

/** Of a forecaster: what its outputs should have been, the next step's own values. */
function whatCame(card, sequence, width) {
  if (!card.forecast || !Array.isArray(sequence)) return [];
  const targets = card.forecast.target ?? Array.from({ length: width }, (_, i) => i);
  return targets
    .slice(0, width)
    .map((target) => sequence.slice(1).map((row) => (Array.isArray(row) ? row[target] : row)));
}

const extent = (values) =>
  values.reduce(([a, b], value) => [Math.min(a, value), Math.max(b, value)], [Infinity, -Infinity]);

/** The numbers that went in, a line a feature. */
export function drawInput(figure, card, sequence) {
  const rows = sequence.map((row) => (Array.isArray(row) ? row : [row]));
  const width = rows[0].length;
  const names = card.input.names ?? rows[0].map((_, i) => (width === 1 ? "value" : `feature ${i + 1}`));
  const shown = rows.length > 3000 ? rows.filter((_, i) => i % Math.ceil(rows.length / 3000) === 0) : rows;
  const x = rows.length > 3000 ? shown.map((_, i) => i * Math.ceil(rows.length / 3000) + 1) : steps(rows.length);
  figure.draw(
    (c) => ({
      traces: names.map((name, i) => ({
        type: "scatter",
        mode: rows.length === 1 ? "markers" : "lines",
        x,
        y: shown.map((row) => row[i]),
        name,
        line: {
          color: i === 0 ? c.ink : c.rest[(i - 1) % 3],
          width: 1.2,
          dash: ["solid", "dash", "dot"][Math.floor(i / 4) % 3],
        },
        hovertemplate: `%{y:.4~g} ${name}<extra>step %{x}</extra>`,
      })),
      layout: {
        margin: margins(false, figure.plot.clientWidth),
        xaxis: stepAxis(null, rows.length, card.input.kind === "frames" ? "sample" : "step"),
        annotations:
          width <= 6
            ? sideNames(
                names.slice(0, width).map((name) => beside(name, figure.plot)),
                shown.at(-1),
                x.at(-1),
                rows,
                c,
              )
            : [],
      },
    }),
    {
      label: `The sequence: ${plural(rows.length, "step")} of ${plural(width, "number")}.`,
      head: ["step", ...names],
      rows: () => rows.map((row, i) => [String(i + 1), ...row]),
    },
  );
}

function sideNames(names, last, x, rows, c) {
  const values = rows.flat();
  const [low, high] = extent(values);
  const gap = (high - low || 1) * 0.13;
  return endNames(
    names.map((text, i) => ({ y: last[i], text, color: c.muted })),
    x,
    high,
    low,
    gap,
  );
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
  figure.draw(
    (c) => ({
      traces: [
        {
          type: "bar",
          x: steps(n),
          y: values,
          marker: { color: steps(n).map((step) => (step >= first ? c.accent : c.rest[2])), line: { width: 0 } },
          hovertemplate: `%{y:${small ? ".1%" : ".4~g"}}<extra>step %{x}</extra>`,
        },
      ],
      layout: {
        margin: margins(small, figure.plot.clientWidth, isNamed(named)),
        xaxis: stepAxis(named, n),
        yaxis: { nticks: small ? 3 : 4, tickformat: small ? ".0%" : ".2~g", range: [0, highest * 1.08 || 1] },
        shapes: [
          {
            type: "rect",
            xref: "x",
            yref: "paper",
            x0: first - 0.5,
            x1: n + 0.5,
            y0: 0,
            y1: 1,
            fillcolor: c.accentSoft,
            line: { width: 0 },
            layer: "below",
          },
        ],
      },
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

/** The hidden state after every step, a column a step. */
export function drawHidden(figure, sequence, rows, name, small = false) {
  const units = rows[0].length;
  const flat = rows.flat();
  const [low, high] = extent(flat);
  const highest = Math.max(-low, high, 1e-6);
  // h is an output of tanh or a mean of such: on the scale of all that it can be, unless a foreign cell has another.
  const limit = name === "h" && highest <= 1 ? 1 : highest;
  const x = steps(rows.length);
  figure.draw(
    (c) => ({
      traces: [
        {
          type: "heatmap",
          x,
          y: Array.from({ length: units }, (_, i) => i + 1),
          z: rows[0].map((_, unit) => rows.map((row) => row[unit])),
          zmin: -limit,
          zmax: limit,
          zsmooth: false,
          colorscale: diverging(c),
          showscale: !small,
          colorbar: {
            thickness: 9,
            outlinewidth: 0,
            len: 1,
            x: 1,
            xpad: 14,
            y: 0.5,
            nticks: 5,
            tickfont: { size: 11, color: c.muted },
            tickformat: ".2~g",
          },
          hovertemplate: `%{z:.3f}<extra>unit %{y}, step %{x}</extra>`,
        },
      ],
      layout: {
        margin: margins(small, figure.plot.clientWidth, isNamed(stepNames(sequence))),
        xaxis: { ...stepAxis(stepNames(sequence), rows.length), ticks: "" },
        yaxis: {
          showgrid: false,
          zeroline: false,
          title: { text: small ? "" : "unit", standoff: 2 },
          range: [0.5, units + 0.5],
          nticks: small ? 3 : 5,
        },
      },
    }),
    {
      label: `The state ${name}: ${plural(units, "unit")} after each of ${plural(rows.length, "step")}, between ${short(low)} and ${short(high)}.`,
      head: ["unit", ...x.map(String)],
      rows: () => rows[0].map((_, unit) => [String(unit + 1), ...rows.map((row) => row[unit])]),
    },
  );
}
