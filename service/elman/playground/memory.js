// Memory: all that a network knows of what came before, as far as the page can ask for it.

import { post, modelPath } from "./api.js";
import { chart } from "./charts.js";
import { el, plural, select } from "./dom.js";
import { drawHidden } from "./pictures.js";

/** Numbers of state that are asked for at most: of more steps the memory is not shown. */
const MOST_STATE = 400_000;
/** Steps whose memory is drawn. */
const MOST_STEPS = 240;

/** Whether the state after each step can be asked for, of so many steps. */
export const remembers = (card, steps) =>
  card.streaming &&
  card.window === null &&
  card.state.tensors.length > 0 &&
  (steps * card.state.bytes) / 4 <= MOST_STATE;

/** The steps that a model of a fixed window needs before its next answer; 0 if none, or if it has no window. */
export const missing = (card, step) => Math.max(0, (card.window ?? 0) - step);

/** The state after each step of a piece, `{name: rows}`, from the state before it. Raises Problem. */
export async function traced(card, sequence, state, signal) {
  const body = { sequence, state, hidden: true, decode: false };
  return (await post(modelPath(card, "predict"), body, signal)).results[0].hidden;
}

/** The memory of a session: the state after each of its last steps, or how many steps of its window are there. */
export function memoryPanel({ height = 110 } = {}) {
  const tensor = select([], { "aria-label": "State", on: { change: paint } });
  const figure = chart({ title: "Memory", height, aside: el("div", { class: "inline" }, tensor) });
  const bar = el("progress", {});
  const words = el("p", { class: "muted" });
  const kept = el("div", { class: "kept-steps" }, el("h3", {}, "Memory"), bar, words);
  const note = el("p", { class: "empty" });
  const element = el("div", { class: "memory" }, figure.element, kept, note);
  let drawn = null;

  /** `traces` are pairs of a piece and its `{name: rows}`, or null where it is not known. */
  function show(card, step, traces) {
    const known = traces.filter(([, hidden]) => hidden);
    const names = known.length ? Object.keys(known.at(-1)[1]) : [];
    figure.element.hidden = !names.length;
    kept.hidden = card.window === null;
    note.hidden = names.length > 0 || card.window !== null;
    if (card.window !== null) return showWindow(card, step);
    if (!names.length) {
      note.textContent = card.state.tensors.length
        ? "The memory is shown after the next step that is sent from here."
        : "This model keeps no state that can be shown.";
      return;
    }
    if ([...tensor.options].map((one) => one.value).join() !== names.join())
      tensor.replaceChildren(...names.map((name) => el("option", { value: name }, name)));
    tensor.hidden = names.length < 2;
    drawn = known;
    paint();
  }

  function paint() {
    const name = tensor.value;
    const rows = drawn.flatMap(([, hidden]) => hidden[name]).slice(-MOST_STEPS);
    const pieces = drawn.map(([piece]) => piece);
    const text = pieces.every((piece) => typeof piece === "string") ? [...pieces.join("")].slice(-rows.length).join("") : null;
    figure.note(`${plural(rows[0].length, "number")}, all that is kept of the past`);
    drawHidden(figure, text?.length === rows.length ? text : [], rows, name, { small: true });
  }

  function showWindow(card, step) {
    const most = card.window - 1;
    bar.max = most;
    bar.value = Math.min(step, most);
    bar.setAttribute("aria-label", "Steps kept");
    words.textContent =
      `The model reads ${plural(card.window, "step")} at once. The session keeps the last ${most} of them: ` +
      `${Math.min(step, most)} of ${most} are there.`;
  }

  return { element, show };
}
