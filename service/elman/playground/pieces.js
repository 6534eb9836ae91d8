// The next piece of a sequence: typed, pasted, or taken from an example a few steps at a time.

import { Problem } from "./api.js";
import { el, field, number, select } from "./dom.js";
import { asText, madeUp, parseNumbers, stepWords } from "./input.js";

/** Steps of a piece that nobody has chosen. */
const STEPS = 5;
const CHARACTERS = 3;

/** A control for one piece after another. `value()` gives it or raises Problem. */
export function pieceInput() {
  const text = el("input", { type: "text", autocomplete: "off", autocapitalize: "off", spellcheck: "false" });
  const numbers = el("textarea", { rows: 3, spellcheck: "false", class: "mono" });
  const holder = el("div");
  const example = select([], { on: { change: () => begin() } });
  const size = number(STEPS, { min: 1, step: 1 });
  const takeButton = el("button", { type: "button", on: { click: () => take() } }, "Take");
  const choice = el(
    "details",
    { class: "more" },
    el("summary", {}, "From an example"),
    el("div", { class: "fields" }, field("Example", example), field("Steps a piece", size), takeButton),
  );
  const element = el("div", { class: "piece" }, holder, choice);
  let card = null;
  let sources = [];
  /** The further inputs of each, by name; undefined where there are none. */
  let others = [];
  let from = 0;
  let taken = 0;
  /** Whether somebody has typed since the piece was read. */
  let edited = false;

  // What stands there is a suggestion: whoever types replaces it.
  text.addEventListener("focus", () => text.select());
  for (const one of [text, numbers]) one.addEventListener("input", () => (edited = true));

  const isText = () => card.input.kind === "tokens" && card.input.text;
  const box = () => (isText() ? text : numbers);
  const chosen = () => Number(example.value) || 0;
  const source = () => sources[chosen()];

  function take(count = Math.max(1, Math.round(Number(size.value)) || 1)) {
    const all = [...source()];
    if (taken >= all.length) taken = 0;
    from = taken;
    const piece = all.slice(from, from + count);
    taken += piece.length;
    edited = false;
    box().value = isText() ? piece.join("") : asText(piece);
  }

  /** The first piece: one step, which for a signal is one frame. */
  function begin() {
    taken = 0;
    take(card.input.kind === "frames" ? card.input.size : 1);
  }

  return {
    element,
    begin,
    set(next, examples) {
      card = next;
      sources = examples.length ? examples.map((one) => one.sequence) : [madeUp(card)];
      others = examples.map((one) => one.further);
      example.replaceChildren(...examples.map((one, i) => el("option", { value: i }, one.title)));
      choice.hidden = !examples.length;
      size.value = card.input.kind === "frames" ? card.input.stride : isText() ? CHARACTERS : STEPS;
      holder.replaceChildren(
        isText() ? field("Piece", text, "one character a step") : field("Piece", numbers, `${stepWords(card)}; CSV or JSON`),
      );
      begin();
    },
    /** The further inputs of the piece, where it is a part of an example that has them. */
    further() {
      const parts = Object.entries((!edited && others[chosen()]) || {});
      return Object.fromEntries(parts.map(([name, rows]) => [name, rows.slice(from, taken)]));
    },
    value() {
      edited = false;
      if (!isText()) return parseNumbers(numbers.value, card);
      if (text.value) return text.value;
      throw new Problem({ code: "no_sequence", title: "No sequence", detail: "type something", where: "sequence" }, 0);
    },
    /** Suggest what comes after the piece that was sent, unless another is typed already. */
    next() {
      if (edited) return;
      if (isText() && taken >= [...source()].length) text.value = "";
      else take();
      if (document.activeElement === text) text.select();
    },
    invalid: (wrong) => box().setAttribute("aria-invalid", String(wrong)),
    focus: () => box().focus(),
  };
}
