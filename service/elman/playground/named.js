// The inputs of a model beside its data, and its further outputs, by name.

import { remembered } from "./address.js";
import { Problem } from "./api.js";
import { el, field, number, select, table } from "./dom.js";
import { asText, parseNumbers } from "./input.js";

/** The values that a static input of any size starts with. */
const OPEN = 2;

const isInput = (role) => (one) => one.role === role;

/** The sequence inputs beside the data. */
export const furtherOf = (card) => card.inputs.slice(1).filter(isInput("sequence"));
const staticsOf = (card) => card.inputs.filter(isInput("static"));

/** The outputs beside the primary one that a request may ask for. */
export const headsOf = (card) => card.outputs.slice(1).filter(({ role }) => role === "steps" || role === "final");

/** The names of those outputs. */
export const headNames = (card) => headsOf(card).map((one) => one.name);

/** The names of all outputs with a row a step or a sequence, the primary one first. */
export const outputsOf = (card) => [card.outputs[0].name, ...headNames(card)];

/** {card, result}: a model and its answer with one of its outputs, by name, as if it gave that alone. */
export function withOutput(card, result, name) {
  const found = name === card.outputs[0].name ? result.outputs : result.heads[name];
  const rows = Array.isArray(found[0]) ? found : [found];
  const plain = { ...card, output: { size: rows[0].length, labels: null }, task: "raw", forecast: null };
  return { card: plain, result: { ...result, outputs: rows, decoded: null } };
}

/** Whether a model takes its data alone. */
export const isPlain = (card) => !furtherOf(card).length && !staticsOf(card).length;

/** A sequence as a request carries it: its data, or an object by name where there are further inputs. */
const whole = (card, data, further) => (further ? { [card.inputs[0].name]: data, ...further } : data);

/** The parts of a sequence as a request carries it: {data, further}, the further inputs by name. */
export function partsOf(card, sequence) {
  if (!furtherOf(card).length) return { data: sequence, further: {} };
  const { [card.inputs[0].name]: data, ...further } = sequence;
  return { data, further };
}

export const dataOf = (card, sequence) => partsOf(card, sequence).data;

/** An example with its data as `sequence`, and its further sequence inputs, where it has them, as `further`. */
export function parted(card, one) {
  if (typeof one.sequence === "string" || Array.isArray(one.sequence)) return one;
  const { data, further } = partsOf(card, one.sequence);
  return { ...one, sequence: data, further };
}

/** What a model takes, in a form to compare: two models with the same take the same sequences. */
export function kindOf(card) {
  const { kind, size, stride, left_pad: pad, text, vocabulary_size: ids, missing_mask: mask } = card.input;
  const data = [kind, size, stride, pad, text, text ? null : ids, mask, card.window];
  const further = [...furtherOf(card), ...staticsOf(card)].map(({ name, shape, dtype, role }) => [name, shape, dtype, role]);
  return JSON.stringify([data, further.length ? [card.inputs[0].name, ...further] : []]);
}

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
  const memory = remembered();
  let controls = [];
  return {
    element,
    /** Show those of a model; `without` is one that is given otherwise. */
    set(card, without = null) {
      controls = staticsOf(card)
        .filter((one) => one.name !== without)
        .map((one) => [one, staticControl(one, changed)]);
      memory.begin(Object.fromEntries(controls.map(([one, control]) => [`static.${one.name}`, control])));
      element.hidden = !controls.length;
      element.replaceChildren(...controls.map(([one, control]) => field(one.name, control, staticWords(one))));
    },
    address: memory.address,
    fill: memory.fill,
    /** Enter the values that an example comes with. */
    take(given = {}) {
      for (const [one, control] of controls)
        if (one.name in given) control.value = isNumber(one) ? [given[one.name]].flat()[0] : JSON.stringify(given[one.name]);
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

/**
 * A box for each further sequence input. One that nobody has changed is as long as the data.
 *
 * `prefix` is that of their names in an address, and `words` stand behind their names on the screen.
 */
export function furtherInputs(changed, { prefix = "input", words = "" } = {}) {
  const element = el("div", { class: "named" });
  const name = ([one]) => `${prefix}.${one.name}`;
  let card = null;
  let boxes = [];
  const mark = (box) => (box.dataset.changed = box.value.trim() ? "yes" : "");
  return {
    element,
    set(next) {
      card = next;
      boxes = furtherOf(card).map((one) => [one, el("textarea", { rows: 4, spellcheck: "false", class: "mono" })]);
      for (const [, box] of boxes)
        box.addEventListener("input", () => {
          mark(box);
          changed();
        });
      element.hidden = !boxes.length;
      element.replaceChildren(
        ...boxes.map(([one, box]) => field(one.name + words, box, `${perStep(one)}; CSV or JSON; empty for ones`)),
      );
    },
    address: () =>
      Object.fromEntries(boxes.filter(([, box]) => box.dataset.changed).map((one) => [name(one), one[1].value])),
    fill(entered) {
      for (const one of boxes.filter((one) => name(one) in entered)) {
        one[1].value = entered[name(one)];
        mark(one[1]);
      }
    },
    /** Their values by name, for this many steps; `given` has some of them. Raises Problem. */
    values: (length, given = {}) =>
      Object.fromEntries(boxes.map(([one, box]) => [one.name, stepsOf(one, box, length, given[one.name])])),
    /** The sequence that has this data. Raises Problem. */
    with(data, given) {
      return boxes.length ? whole(card, data, this.values([...data].length, given)) : data;
    },
  };
}

const widthOf = ({ shape }) => shape.reduce((product, extent) => product * (extent ?? 1), 1);

const perStep = (one) => (widthOf(one) === 1 ? "one number a step" : `a line a step, ${widthOf(one)} numbers a line`);

function stepsOf(one, box, length, given) {
  const width = widthOf(one);
  if (!length) return [];
  if (!box.dataset.changed)
    box.value = asText(given?.slice(0, length) ?? Array(length).fill(width === 1 ? 1 : Array(width).fill(1)));
  const rows = parseNumbers(box.value, { input: { kind: width === 1 ? "tokens" : "features", size: width } });
  return one.dtype === "bool" ? rows.map((row) => [row].flat().map(Boolean)) : rows;
}

/** A check box for each further output; all are checked. `changed()` is called when one is another. */
export function headChoice(changed) {
  const element = el("fieldset", { class: "heads" });
  const memory = remembered();
  let boxes = [];
  return {
    element,
    set(card) {
      boxes = headsOf(card).map((one) =>
        el("input", { type: "checkbox", value: one.name, checked: true, on: { change: changed } }),
      );
      memory.begin(Object.fromEntries(boxes.map((box) => [`head.${box.value}`, box])));
      element.hidden = !boxes.length;
      element.replaceChildren(
        el("legend", {}, "Further outputs"),
        ...boxes.map((box) => el("label", { class: "check" }, box, box.value)),
      );
    },
    address: memory.address,
    fill: memory.fill,
    /** The names that are checked; undefined where none is. */
    value() {
      const names = boxes.filter((box) => box.checked).map((box) => box.value);
      return names.length ? names : undefined;
    },
  };
}
