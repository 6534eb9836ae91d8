// A box for a text, a character a step. It says which characters the model does not know.

import { Problem } from "./api.js";
import { el, newId } from "./dom.js";
import { show } from "./reading.js";

/** {control, note, read, value, invalid, unknown}: the box, and the note that belongs below it. */
export function textBox(changed, props = {}) {
  const note = el("p", { class: "unknown", id: newId("unknown"), hidden: true });
  const control = el("input", {
    type: "text",
    "aria-describedby": note.id,
    autocomplete: "off",
    autocapitalize: "words",
    spellcheck: "false",
    on: { input: changed },
    ...props,
  });
  /** The text as a model reads it. */
  const read = ({ input }) => (input.normalisation ? control.value.normalize(input.normalisation) : control.value);
  return {
    control,
    note,
    read,
    /** As `read`. Raises Problem where there is nothing. */
    value(card) {
      if (control.value) return read(card);
      throw new Problem({ code: "no_sequence", title: "No sequence", detail: "type something" }, 0);
    },
    invalid: (wrong) => control.setAttribute("aria-invalid", String(wrong)),
    /** Mark the characters that the model does not know, as an answer lists them. */
    unknown(found = []) {
      note.hidden = !found.length;
      const marks = found.flatMap(({ character }) => [" ", el("mark", {}, show(character))]);
      note.replaceChildren("Not in the vocabulary:", ...marks, ". The model reads its unknown token instead.");
    },
  };
}
