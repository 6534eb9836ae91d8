// The inputs of a model beside its data, and its further outputs, by name.

import { Problem } from "./api.js";
import { el, field, number, select, table } from "./dom.js";
import { parseNumbers } from "./input.js";

/** The values that a static input of any size starts with. */
const OPEN = 2;

const isInput = (role) => (one) => one.role === role;

/** The sequence inputs beside the data. */
const furtherOf = (card) => card.inputs.slice(1).filter(isInput("sequence"));
const staticsOf = (card) => card.inputs.filter(isInput("static"));

/** The outputs beside the primary one that a request may ask for. */
const headsOf = (card) => card.outputs.slice(1).filter(({ role }) => role === "steps" || role === "final");

/** Whether a model takes its data alone. */
export const isPlain = (card) => !furtherOf(card).length && !staticsOf(card).length;

/** A sequence as a request carries it: its data, or an object by name where there are further inputs. */
const whole = (card, data, further) => (further ? { [card.inputs[0].name]: data, ...further } : data);

/** The data of a sequence as a request carries it. */
export const dataOf = (card, sequence) => (furtherOf(card).length ? sequence[card.inputs[0].name] : sequence);

/** Every input and output of a model with its role, to be opened. */
export function ports(card) {
  const several = !isPlain(card) || headsOf(card).length > 0;
  const rows = [
    ...card.inputs.map((one) => ["input", one]),
    ...card.outputs.map((one) => ["output", one]),
  ].map(([side, one]) => [one.name, side, one.role, sizeWords(one), one.dtype, one.found]);
  return el(
    "details",
    { class: "more ports", open: several },
    el("summary", {}, "Inputs and outputs"),
    el(
      "div",
      { class: "scroll", role: "region", tabindex: 0, "aria-label": "Inputs and outputs" },
      table(["name", "side", "role", "shape", "dtype", "found"], rows, "Inputs and outputs"),
    ),
  );
}

const sizeWords = ({ shape }) => shape.map((extent) => extent ?? "any").join(" × ") || "1";

/** Fields for the static inputs. `changed()` is called when one is another. */
export function staticInputs(changed) {
  const element = el("div", { class: "named" });
  let controls = [];
  return {
    element,
    set(card) {
      controls = staticsOf(card).map((one) => [one, staticControl(one, changed)]);
      element.hidden = !controls.length;
      element.replaceChildren(...controls.map(([one, control]) => field(one.name, control, staticWords(one))));
    },
    /** An object by name, or undefined where the model has none. Raises Problem. */
    value: () =>
      controls.length
        ? Object.fromEntries(controls.map(([one, control]) => [one.name, staticValue(one, control)]))
        : undefined,
  };
}

const isNumber = ({ shape }) => !shape.length || (shape.length === 1 && shape[0] === 1);
const isWhole = ({ dtype }) => /^u?int/.test(dtype);

function staticWords(one) {
  const numbers = isNumber(one) ? (isWhole(one) ? "a whole number" : "a value") : `${sizeWords(one)} values in JSON,`;
  return `${numbers} for each sequence`;
}

function staticControl(one, changed) {
  const on = { input: changed };
  if (!isNumber(one)) return el("textarea", { rows: 2, spellcheck: "false", class: "mono", value: zeros(one), on });
  if (one.dtype === "bool") return select([["false"], ["true"]].map(([word]) => [word, word]), { on });
  return number(0, { step: isWhole(one) ? 1 : "any", on });
}

/** Nested lists of zeros of an input's shape, in JSON. */
function zeros({ shape, dtype }) {
  const nested = (extents) =>
    extents.length
      ? Array.from({ length: extents[0] ?? OPEN }, () => nested(extents.slice(1)))
      : dtype === "bool"
        ? false
        : 0;
  return JSON.stringify(nested(shape));
}

function staticValue(one, control) {
  if (one.dtype !== "bool" && isNumber(one) && control.value !== "") return Number(control.value);
  try {
    return JSON.parse(control.value);
  } catch {
    throw bad(`${one.name}: ${control.value ? "this is not JSON" : "there is no value yet"}`, `static.${one.name}`);
  }
}

const bad = (detail, where) => new Problem({ code: "no_value", title: "No value", detail, where }, 0);

/** A box for each further sequence input. A box that nobody has changed is as long as the data. */
export function furtherInputs(changed) {
  const element = el("div", { class: "named" });
  let card = null;
  let boxes = [];
  return {
    element,
    set(next) {
      card = next;
      boxes = furtherOf(card).map((one) => {
        const on = { input: () => changed() };
        const box = el("textarea", { rows: 4, spellcheck: "false", class: "mono", on });
        box.addEventListener("input", () => (box.dataset.changed = box.value.trim() ? "yes" : ""));
        return [one, box];
      });
      element.hidden = !boxes.length;
      element.replaceChildren(
        ...boxes.map(([one, box]) => field(one.name, box, `${perStep(one)}; CSV or JSON; empty for ones`)),
      );
    },
    /** The sequence that has this data. Raises Problem. */
    with(data) {
      if (!boxes.length) return data;
      const length = [...data].length;
      return whole(card, data, Object.fromEntries(boxes.map(([one, box]) => [one.name, stepsOf(one, box, length)])));
    },
  };
}

const widthOf = ({ shape }) => shape.reduce((product, extent) => product * (extent ?? 1), 1);

const perStep = (one) => (widthOf(one) === 1 ? "one number a step" : `a line a step, ${widthOf(one)} numbers a line`);

function stepsOf(one, box, length) {
  if (!box.dataset.changed) {
    const row = widthOf(one) === 1 ? "1" : Array(widthOf(one)).fill("1").join(", ");
    box.value = Array(length).fill(row).join("\n");
  }
  const kind = widthOf(one) === 1 ? "tokens" : "features";
  const rows = parseNumbers(box.value, { input: { kind, size: widthOf(one) } });
  return one.dtype === "bool" ? rows.map((row) => [row].flat().map(Boolean)) : rows;
}

/** A check box for each further output. `changed()` is called when one is another. */
export function headChoice(changed) {
  const element = el("fieldset", { class: "heads" });
  let boxes = [];
  return {
    element,
    set(card) {
      boxes = headsOf(card).map((one) => el("input", { type: "checkbox", value: one.name, on: { change: changed } }));
      element.hidden = !boxes.length;
      element.replaceChildren(
        el("legend", {}, "Further outputs"),
        ...boxes.map((box) => el("label", { class: "check" }, box, box.value)),
      );
    },
    /** The names that are checked; undefined where none is. */
    value() {
      const names = boxes.filter((box) => box.checked).map((box) => box.value);
      return names.length ? names : undefined;
    },
  };
}
