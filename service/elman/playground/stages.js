// The stages of the tour: what each says, and what it draws of the answers.

import { chart, stepAxis } from "./charts.js";
import { el, percent, plural, short } from "./dom.js";
import { colour } from "./drawing.js";
import { drawHidden, drawOutputs, margins } from "./pictures.js";
import { inWords, ranking, show, stepNames, valueRows } from "./reading.js";

/** What an answer of a model is, in the words of somebody who has not met it. */
function answerOf(card) {
  if (card.forecast) return "what it expects to come next";
  if (card.task === "generation") return "which character it expects next";
  return card.output.labels ? "which label it thinks the likeliest" : "its output";
}

const numbersOf = ({ state }) => plural(state.bytes / 4, "number");

/** The answer after each step as one number: of labels the probability of the one that wins in the end. */
function answersOf(result) {
  const labels = ranking(result);
  return labels ? labels.series(labels.best.name).map((p) => p ?? 0) : valueRows(result).map(([value]) => value);
}

/** How much each step moved the answer; the first moved it from nothing. */
const addedBy = (result) => answersOf(result).map((value, t, all) => value - (t ? all[t - 1] : 0));

/** How far a step moved the answer, in a sentence. */
function movedWords(result, step) {
  const by = addedBy(result)[step - 1];
  const labels = ranking(result);
  if (!labels) return `This step moved it by ${short(by)}.`;
  const points = `${short(Math.abs(Number((100 * by).toFixed(1))))} percentage points`;
  return `This step ${by < 0 ? "lowered" : "raised"} the probability of ${show(labels.best.name)}, the answer in the end, by ${points}.`;
}

/** A step and its character, where it is one. */
const stepWords = (sequence, step) => {
  const named = stepNames(sequence);
  return named ? `${step}, “${named[step - 1]}”,` : String(step);
};

const after = (result, step) => inWords(result.decoded?.[step - 1], result.outputs?.[step - 1]);

/** How far two memories are apart after each step: the distance of all their numbers. */
function apart(one, other) {
  const squares = Object.keys(one).map((name) =>
    one[name].map((row, t) => row.reduce((sum, value, i) => sum + (value - other[name][t][i]) ** 2, 0)),
  );
  return squares[0].map((_, t) => Math.sqrt(squares.reduce((sum, rows) => sum + rows[t], 0)));
}

/**
 * {top, half, left}: the step after which the distance is greatest, the steps until half of it is gone, null if it
 * stays, and what share of it is left at the end.
 */
function fading(distances, step) {
  const later = distances.slice(step - 1);
  const peak = Math.max(...later);
  const top = later.indexOf(peak);
  const half = later.findIndex((value, t) => t > top && value <= peak / 2);
  return { top: step + top, half: half < 0 || !peak ? null : half - top, left: peak ? later.at(-1) / peak : 0 };
}

function fadingWords({ top, half, left }) {
  const gone = half === null ? "More than half of it stays to the end" : `Half of it is gone ${plural(half, "step")} later`;
  return `The difference is greatest after step ${top}. ${gone}; after the last step ${percent(left)} is left.`;
}

/** The two texts that are read, where they are texts. */
const beside = (sequence, altered) => (typeof altered === "string" ? `“${sequence}” and “${altered}”. ` : "");

/** Bars of one number a step; those from `from` on in the accent's colour. */
function drawBars(figure, sequence, values, { from = 1, highest, label, head, inWords = short, small = false }) {
  const named = stepNames(sequence);
  const x = values.map((_, i) => i + 1);
  const lowest = Math.min(0, ...values);
  const top = highest ?? Math.max(...values, 0);
  const bars = (part, color) => ({
    kind: "bars",
    x: part,
    y: part.map((step) => values[step - 1]),
    color: colour(color),
    words: (i) => `${inWords(values[part[i] - 1])}, step ${part[i]}`,
  });
  figure.draw(
    () => ({
      margin: margins(small, figure.plot.clientWidth, Boolean(named)),
      x: stepAxis(named, values.length),
      y: { range: [1.08 * lowest, 1.08 * top || 1], count: 3, format: inWords },
      marks: [bars(x.slice(0, from - 1), "rest-3"), bars(x.slice(from - 1), "accent")],
    }),
    { label, head: ["step", head], rows: () => values.map((value, i) => [String(i + 1), value]) },
  );
}

/** The stages. `address(view, card)` is where another view shows a model. */
export function stages({ address }) {
  return [stepByStep(), memory(), fades(), cells(), onward(address)];
}

function stepByStep() {
  const outputs = chart({ title: "The answer after each step", height: 190 });
  const added = chart({ title: "What each step added", height: 130 });
  const line = el("p", { class: "answer small", role: "status" });
  return {
    title: "One step at a time",
    alone: true,
    words: ({ main }, { noun, unit, other }) => [
      `The network reads your ${noun} from left to right, one ${unit} at a time. After every ${unit} it has an answer: ${answerOf(main)}.`,
      `Move through the ${unit}s, and see how much each of them changes the answer. Then ${other}.`,
    ],
    figures: () => [line, outputs.element, added.element],
    draw(shown) {
      const [{ card, plain }] = shown.answers;
      drawOutputs(outputs, card, shown.sequence, plain);
      const values = addedBy(plain);
      added.title(`What each ${shown.words.unit} added`);
      drawBars(added, shown.sequence, values, {
        label: `How much each of ${plural(values.length, shown.words.unit)} moved the answer.`,
        head: "moved by",
        inWords: ranking(plain) ? (share) => `${short(Number((100 * share).toFixed(1)))}%` : short,
      });
    },
    at({ answers: [{ plain }], sequence, step }) {
      line.textContent = `After step ${stepWords(sequence, step)} the answer is ${after(plain, step)}. ${movedWords(plain, step)}`;
      outputs.mark(step);
      added.mark(step);
    },
  };
}

function memory() {
  const figure = chart({ title: "The memory after each step", height: 220 });
  const line = el("p", { class: "callout", role: "status" });
  return {
    title: "What the memory holds",
    alone: true,
    cuts: true,
    words: ({ main }, { noun, unit }) => [
      `When the network goes on to the next ${unit}, it never sees the earlier part of your ${noun} again. It keeps ${numbersOf(main)}, and these are all that it knows of the past.`,
      `In the picture a column is the memory after one ${unit}. Choose a ${unit}: the server reads the ${noun} up to there, hands over its memory, and reads the rest from that memory alone.`,
    ],
    figures: () => [line, figure.element],
    draw(shown) {
      const { cut, answers, step, sequence, words } = shown;
      const [{ card, plain }] = answers;
      const [name, rows] = Object.entries(plain.hidden)[0];
      const whole = plain.outputs.slice(cut.at);
      const same = whole.filter((row, i) => row.every((value, j) => value === cut.tail[i]?.[j])).length;
      line.textContent = !whole.length
        ? "Choose an earlier step: after the last one nothing is left to read."
        : `Cut after step ${cut.at}: ${card.state.bytes} bytes were handed over. Of the ${plural(whole.length, "answer")} after them, ${same === whole.length ? "all are" : `${same} are`} the same to the last bit as when the ${words.noun} is read whole.`;
      drawHidden(figure, sequence, rows, name, true);
      figure.mark(step);
    },
  };
}

function fades() {
  const figure = chart({ title: "How far the two memories are apart", height: 190 });
  const line = el("p", { class: "answer small", role: "status" });
  return {
    title: "What fades",
    alone: true,
    raises: true,
    words: (_, { noun, unit, made, altered, other }) => [
      `A memory of fixed size cannot keep everything. Here the ${noun} is read twice: as you ${made} it, and with the chosen ${unit} ${altered}.`,
      `After that ${unit} the two memories differ. The difference may grow at first. Then it fades as more ${unit}s come in: the network forgets. Choose another ${unit}, or ${other}: what comes later decides what is forgotten.`,
    ],
    figures: () => [line, figure.element],
    draw({ answers: [{ plain, other }], sequence, altered, step }) {
      const distances = apart(plain.hidden, other.hidden);
      line.textContent = `${beside(sequence, altered)}${fadingWords(fading(distances, step))}`;
      drawBars(figure, sequence, distances, {
        from: step,
        label: `How far the two memories are apart after each step. ${line.textContent}`,
        head: "distance",
      });
      figure.mark(step);
    },
  };
}

const CELL_WORDS = {
  rnn: "The plain cell, of 1990. It writes its whole memory anew at every step.",
  lstm: "Of 1997. It keeps a second memory, and gates decide what is written, kept and shown.",
  gru: "Of 2014. One memory, and gates that decide how much of it stays.",
};

function cells() {
  const columns = new Map();
  const words = el("p", { class: "callout", hidden: true });
  const holder = el("div", { class: "columns" });
  function columnOf(card) {
    if (columns.has(card.name)) return columns.get(card.name);
    const outputs = chart({ title: "The answer after each step", of: card.name, height: 140, level: "h4" });
    const distance = chart({ title: "What is left of the moved step", of: card.name, height: 120, level: "h4" });
    const state = chart({ title: "Memory", of: card.name, height: 140, level: "h4" });
    const line = el("p", {});
    const element = el(
      "section",
      { class: "column", "aria-label": card.name, "data-model": card.name },
      el("header", {}, el("h3", {}, card.cell.toUpperCase()), el("span", { class: "muted mono" }, card.name)),
      el("p", { class: "muted" }, CELL_WORDS[card.cell] ?? ""),
      line,
      outputs.element,
      distance.element,
      state.element,
    );
    const column = {
      element,
      draw({ sequence, step, words }, { plain, other }) {
        const distances = apart(plain.hidden, other.hidden);
        const peak = Math.max(...distances) || 1;
        const shares = distances.map((value) => value / peak);
        line.textContent = fadingWords(fading(distances, step));
        drawOutputs(outputs, card, sequence, plain, true);
        distance.title(words.left);
        drawBars(distance, sequence, shares, { from: step, highest: 1, small: true, label: `Distance of the two memories, as a share of the greatest. ${line.textContent}`, head: "share" });
        const [name, rows] = Object.entries(plain.hidden)[0];
        drawHidden(state, sequence, rows, name, true);
        for (const one of [outputs, distance, state]) one.mark(step);
      },
    };
    columns.set(card.name, column);
    return column;
  }
  return {
    title: "RNN, LSTM and GRU",
    raises: true,
    words: ({ all, main }, { noun, unit }) => [
      all.length > 1
        ? `The same ${noun}, with the same ${unit} changed, through ${plural(all.length, "network")} that learned the same task. They differ in their cell: in how a ${unit} changes the memory.`
        : `Networks differ in their cell: in how a ${unit} changes the memory. Here is the ${noun} through the one that is served, ${main.name}.`,
    ],
    figures({ all, missing }) {
      words.hidden = !missing.length && all.length > 1;
      words.textContent = missing.length
        ? `To compare all three cells, serve ${missing.join(" and ")} too: they come in here by themselves.`
        : `The name of ${all[0].name} has no cell in it, so that its siblings cannot be found. Models that are called alike but for rnn, lstm and gru are compared here.`;
      holder.replaceChildren(...all.map((card) => columnOf(card).element));
      return [words, holder];
    },
    draw: (shown) => shown.answers.forEach((answer) => columnOf(answer.card).draw(shown, answer)),
  };
}

function onward(address) {
  return {
    title: "Go on",
    still: true,
    words: ({ main }) => [
      "You have seen the whole idea. A step comes in, changes a memory of fixed size, and gives an answer. What the memory holds is all that is left of the past, and how long it holds it depends on the cell and on what it has learned.",
      el(
        "ul",
        { class: "onward" },
        el("li", {}, el("a", { href: address("explore", main) }, "Explore"), ": one sequence in full, with the influence of each step on the last answer."),
        el("li", {}, el("a", { href: address("session", main) }, "Session"), ": the memory kept on the server, while the steps come one by one."),
        el("li", {}, el("a", { href: "#models" }, "Models"), ": all that this server serves."),
      ),
    ],
    figures: () => [],
  };
}
