// The session that is shown: its last answer, its memory, and what was sent to it.

import { chart } from "./charts.js";
import { el, plural, short, table } from "./dom.js";
import { memoryPanel, missing } from "./memory.js";
import { dataOf, headNames } from "./named.js";
import { drawOutputs } from "./pictures.js";
import { inWords } from "./reading.js";
import { answerState } from "./state.js";

export const lastWords = (answer) => inWords(answer.decoded?.at(-1), answer.outputs?.at(-1));

/**
 * {element, state, paint, say}: `form` stands between the memory and what was sent; `paint` takes the card, the
 * session, what was sent to it, `[{from, to, body, answer, hidden}]`, and the static inputs that it was made with;
 * `say(answer, body, first)` tells what came of the same request again.
 */
export function livePanel(form) {
  const idLine = el("p", { class: "muted mono id" });
  const fixedLine = el("p", { class: "muted" });
  const stepLine = el("p", { class: "figure-line" });
  const outputLine = el("p", { class: "answer" });
  const missingLine = el("p", { class: "missing" });
  const outputList = el("dl", { class: "outputs", "aria-label": "Last outputs" });
  const memory = memoryPanel();
  const replayed = el("p", { class: "callout", hidden: true });
  const log = el("div", { class: "scroll", role: "region", tabindex: 0, "aria-label": "What was sent" });
  const figure = chart({ title: "Outputs over the session", height: 240 });
  const headFigures = el("div", { class: "head-figures" });
  const now = el(
    "div",
    { class: "now" },
    el("div", { class: "now-line" }, stepLine, outputLine),
    missingLine,
    outputList,
    memory.element,
  );
  const past = el("div", { class: "past" }, figure.element, headFigures, el("h3", {}, "Sent"), log);
  const state = answerState(now, past);
  const element = el(
    "section",
    { class: "card live", "aria-label": "Session", hidden: true },
    el("div", { class: "live-head" }, el("h2", {}, "Session"), idLine, fixedLine),
    state.line,
    now,
    form,
    replayed,
    past,
  );

  function paint(card, session, entries, statics) {
    const last = entries.at(-1);
    idLine.textContent = session.id;
    stepLine.replaceChildren(
      el("strong", { class: "number" }, String(session.step)),
      ` ${card.input.kind === "frames" ? "samples received" : session.step === 1 ? "step" : "steps"}`,
    );
    outputLine.textContent = last
      ? lastWords(last.answer)
      : session.step
        ? "what came before was not sent from here"
        : "nothing sent yet";
    const left = missing(card, session.step);
    missingLine.hidden = !left;
    missingLine.textContent =
      `An answer takes ${plural(card.window ?? 0, "step")}: ${plural(left, "step")} ${left === 1 ? "is" : "are"} still missing.`;
    paintFixed(card, statics);
    paintOutputs(card, last?.answer);
    memory.show(card, session.step, entries.map((entry) => [dataOf(card, entry.body.sequence), entry.hidden]));
    paintLog(card, entries);
    paintCharts(card, entries);
  }

  /** The static inputs that the session was made with: a session keeps them. */
  function paintFixed(card, statics) {
    const given = Object.entries(statics ?? {});
    fixedLine.hidden = !card.inputs.some((one) => one.role === "static");
    fixedLine.textContent = given.length
      ? `Fixed when it was made: ${given.map(([name, one]) => `${name} ${JSON.stringify(one)}`).join(", ")}.`
      : "Its static inputs were fixed when it was made, and not from here.";
  }

  /** The last row of every output, by name, where there are several. */
  function paintOutputs(card, answer) {
    const heads = Object.entries(answer?.heads ?? {});
    outputList.hidden = !heads.length;
    const rows = [
      [card.outputs[0].name, answer?.outputs?.at(-1) ?? []],
      ...heads.map(([name, rows]) => [name, Array.isArray(rows[0]) ? rows.at(-1) : rows]),
    ];
    outputList.replaceChildren(
      ...rows.map(([name, row]) =>
        el("div", {}, el("dt", {}, name), el("dd", {}, row.length ? row.slice(0, 6).map(short).join(", ") : "–")),
      ),
    );
  }

  function paintLog(card, entries) {
    const rows = entries.map((entry) => [
      `${entry.from + 1}–${entry.to}`,
      pieceWords(card, dataOf(card, entry.body.sequence)),
      lastWords(entry.answer),
      String(entry.answer.replayed),
    ]);
    log.replaceChildren(
      rows.length
        ? table(["steps", "piece", "answer", "replayed"], rows, "What was sent, and the answers")
        : el("p", { class: "empty" }, "Nothing yet."),
    );
  }

  function paintCharts(card, entries) {
    const outputs = entries.flatMap((entry) => entry.answer.outputs ?? []);
    figure.element.hidden = !outputs.length;
    headFigures.replaceChildren();
    if (!outputs.length) return;
    const decoded = entries.every((entry) => Array.isArray(entry.answer.decoded))
      ? entries.flatMap((entry) => entry.answer.decoded)
      : null;
    const pieces = entries.map((entry) => dataOf(card, entry.body.sequence));
    const whole = typeof pieces[0] === "string" ? pieces.join("") : pieces.flat();
    // A window answers from its last step on, and a model of one output a sequence after each piece.
    const final = entries[0].body.return === "final";
    const sequence = final ? [] : card.window === null ? whole : whole.slice(-outputs.length);
    const first = card.window === null ? entries[0].from : entries.at(-1).to - outputs.length;
    figure.note(final ? "One output after each piece." : first ? `From step ${first + 1} on.` : "");
    drawOutputs(figure, card, sequence, { outputs, decoded });
    for (const name of headNames(card)) {
      const rows = entries.flatMap((entry) => entry.answer.heads?.[name] ?? []);
      if (!rows.length || !Array.isArray(rows[0])) continue;
      const head = chart({ title: `Output ${name}`, height: 150 });
      // A chart has a width once it is on the page.
      headFigures.append(head.element);
      const plain = { ...card, output: { size: rows[0].length, labels: null }, task: "raw", forecast: null };
      drawOutputs(head, plain, sequence, { outputs: rows });
    }
  }

  return {
    element,
    state,
    paint,
    /** What the server said to the same request again; `first` is its answer before, null if none came. */
    say(answer, body, first = null) {
      const bits = !first ? "" : same(answer, first) ? ", and the same answer to the bit" : ", and another answer";
      replayed.hidden = false;
      replayed.replaceChildren(
        "The same request again, ",
        el("code", {}, `"at": ${body.at}`),
        ": ",
        el("code", {}, `"replayed": ${answer.replayed}`),
        `, ${first ? "still at" : "at"} step ${answer.step}${bits}.`,
      );
    },
    unsay: () => (replayed.hidden = true),
  };
}

const same = (a, b) => JSON.stringify([a.outputs, a.decoded]) === JSON.stringify([b.outputs, b.decoded]);

const pieceWords = (card, sequence) =>
  typeof sequence === "string" ? sequence : plural(sequence.length, card.input.kind === "frames" ? "sample" : "step");
