// The word of the tour: characters that a visitor types, a step each.

import { el, field, select } from "./dom.js";
import { LONGEST } from "./family.js";
import { madeUp } from "./input.js";
import { show } from "./reading.js";
import { textBox } from "./text.js";

/** What a character is replaced by; the second where it is the first. */
const OTHERS = ["a", "o"];
/** Examples that are offered. */
const OFFERED = 20;

/** Something to read, as the tour has it. `changed()` is called when it is another, `moved(step)` when a step is chosen. */
export function typedWord({ changed, moved }) {
  let card = null;
  let began = "";
  const box = textBox(
    () => {
      paint();
      changed();
    },
    { maxlength: LONGEST, disabled: true },
  );
  const from = select([], {
    on: {
      change() {
        if (!from.value) return;
        box.control.value = from.value;
        paint();
        changed();
      },
    },
  });
  // The keys move the slider below it.
  const strip = el("div", { class: "strip mono", "aria-hidden": "true" });
  const characters = () => (card ? [...box.read(card)] : []);

  function paint() {
    const known = [...from.options].some((one) => one.value === box.control.value);
    from.value = known ? box.control.value : "";
    strip.replaceChildren(
      ...characters().map((one, i) => el("span", { on: { click: () => moved(i + 1) } }, show(one))),
    );
    box.unknown();
  }

  return {
    words: {
      noun: "word",
      unit: "character",
      made: "typed",
      other: "type another word",
      altered: `replaced by “${OTHERS[0]}”, or by “${OTHERS[1]}” where it is one already`,
      left: "What is left of the other character",
    },
    title: "Your word",
    head: field("Start from", from),
    element: el("div", { class: "word" }, field("Word", box.control, `at most ${LONGEST} characters`), box.note, strip),
    below: null,
    /** Be for this model. Whether that is another one. */
    fit(next, examples) {
      if (card === next) return false;
      card = next;
      box.control.disabled = false;
      const texts = examples.map((one) => one.sequence).filter((one) => [...one].length <= LONGEST);
      began = texts[Math.floor((3 * texts.length) / 4)] ?? madeUp(card);
      from.replaceChildren(
        ...texts.slice(0, OFFERED).map((one) => el("option", { value: one }, one)),
        el("option", { value: "" }, "What I typed"),
      );
      return true;
    },
    /** The word of an address; the one to begin with where it has none. */
    fill({ word }) {
      box.control.value = [...(word || began)].slice(0, LONGEST).join("");
      paint();
    },
    address: () => (box.control.value && box.control.value !== began ? { word: box.control.value } : {}),
    first: () => Math.max(1, Math.ceil(characters().length / 3)),
    length: () => Math.max(1, characters().length),
    sequence: () => box.value(card),
    text: () => box.control.value,
    /** The same word with another character at a step. */
    altered(step) {
      const all = [...box.value(card)];
      all[step - 1] = OTHERS.find((one) => one !== all[step - 1]);
      return all.join("");
    },
    mark: (step) => strip.querySelectorAll("span").forEach((one, i) => one.classList.toggle("now", i === step - 1)),
    invalid: box.invalid,
    /** What an answer says of the characters. */
    told(result) {
      box.unknown(result.unknown);
      const unknown = new Set(result.unknown?.map(({ character }) => character));
      strip.querySelectorAll("span").forEach((one, i) => one.classList.toggle("unknown", unknown.has(characters()[i])));
    },
  };
}
