// Where a sequence comes from: typed, pasted, drawn or a held-out example.

import { Problem } from "./api.js";
import { el, field, newId, plural, same } from "./dom.js";
import { textOf } from "./files.js";
import { drawingPad } from "./pad.js";
import { textBox } from "./text.js";

/** Features above which nobody draws. */
const DRAWABLE = 6;

/** Words for a value that is missing, as programs write them. */
const MISSING = new Set(["", '""', "null", "nan", "na"]);
const isMissing = (cell) => MISSING.has(cell.toLowerCase());

/**
 * Numbers from CSV (a line a step; a head of names is passed over), a line of numbers, or JSON. A missing value is null,
 * where the model takes it. Raises Problem.
 */
export function parseNumbers(text, card) {
  const trimmed = text.trim();
  if (!trimmed) throw bad("there is nothing here yet");
  if (trimmed.startsWith("[")) return parseJSON(trimmed);
  const flat = card.input.kind !== "features";
  const cells = text
    .split(/\r?\n/)
    .filter((line) => line.trim())
    .map((line) => cellsOf(line, card.input.size));
  if (cells.length > 1 && isHead(cells[0])) cells.shift();
  const rows = cells.map((row, i) => row.map((cell, j) => toNumber(cell, i, j, card)));
  if (flat || (card.input.size === 1 && rows.length === 1)) return flat ? rows.flat() : rows[0].map((value) => [value]);
  return rows;
}

/** The cells of a line. What is empty before the first separator or behind the last one counts where a row is as wide. */
function cellsOf(line, width) {
  const cells = line.replace(/^ +| +$/g, "").split(/ *[,;\t] *| +/);
  const inner = cells.slice(cells[0] === "" ? 1 : 0, cells.at(-1) === "" ? -1 : undefined);
  return cells.length === width ? cells : inner;
}

const isHead = (cells) =>
  cells.every((cell) => isMissing(cell) || Number.isNaN(Number(cell))) && !cells.every(isMissing);

function parseJSON(text) {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw bad(`this is not JSON: ${error.message}`);
  }
}

function toNumber(cell, line, column, card) {
  const missing = isMissing(cell);
  if (missing && card.input.missing !== undefined) return null;
  const value = Number(cell);
  if (!missing && Number.isFinite(value)) return value;
  throw new Problem(
    {
      code: missing ? "missing_value" : "not_a_number",
      title: missing ? "A value is missing" : "Not a number",
      detail: missing ? "a value is missing, and the model does not take missing values" : `${JSON.stringify(cell)} is not a number`,
      where: `line ${line + 1}, column ${column + 1}`,
    },
    0,
  );
}

const bad = (detail) => new Problem({ code: "no_sequence", title: "No sequence", detail }, 0);

/** Numbers as one would paste them: a line a step; what is missing as `null`. */
export const asText = (sequence) =>
  typeof sequence === "string" ? sequence : sequence.map((row) => [row].flat(Infinity).map(String).join(", ")).join("\n");

/** What the model wants of one step, in words. */
export function stepWords(card) {
  const { kind, size } = card.input;
  if (kind === "tokens")
    return card.input.text ? "one character a step" : `token ids, 0 to ${card.input.vocabulary_size - 1}`;
  if (kind === "frames") return "samples of a signal";
  const missing = card.input.missing === undefined ? "" : "; null for what is missing";
  return (size === 1 ? "one number a step" : `a line a step, ${size} numbers a line`) + missing;
}

/** Steps of a sequence that is made up. */
const MADE_UP = 40;
/** Tokens of one. */
const MADE_UP_TOKENS = 12;

/** Steps that a model must be given; where it takes any, `few`, or as many as a run of a forecaster reads. */
export const stepsFor = (card, few = MADE_UP) => card.window ?? Math.max(few, card.forecast?.window ?? 0);

/** A sequence for a model that has no examples: waves, or the first tokens in their order. */
export function madeUp(card, steps = stepsFor(card)) {
  const { kind, size, missing_mask: mask } = card.input;
  if (kind === "tokens") {
    const count = card.input.vocabulary_size ?? 1;
    const tokens = Math.min(steps, stepsFor(card, MADE_UP_TOKENS));
    if (card.input.text) return card.window ? "an example ".repeat(tokens).slice(0, tokens) : "an example";
    return Array.from({ length: tokens }, (_, i) => (i + 1) % count);
  }
  // The server itself sets the feature that says what is missing.
  const wave = (t, i) => (i === mask ? 0 : Number(Math.sin((2 * Math.PI * t) / (8 + 5 * (i % 7)) + i).toFixed(3)));
  if (kind === "frames") return Array.from({ length: size + 24 * card.input.stride }, (_, t) => wave(t, 0));
  return Array.from({ length: steps }, (_, t) => Array.from({ length: size }, (_, i) => wave(t, i)));
}

/** A control for one sequence. `changed({now})` is called when it is another; `value()` gives it or raises Problem. */
export function sequenceInput(changed) {
  let card = null;
  let examples = [];
  let mode = null;
  let pad = null;
  /** What is wrong with the file that was chosen last, and what stands for its reading, as long as it counts. */
  let fault = null;
  let reading = null;
  /** What is entered before anybody has entered anything. */
  let began = {};
  const edited = (how) => {
    fault = reading = null;
    changed(how);
  };
  const file = el("input", { type: "file", on: { change: () => read(file.files[0]) } });
  const modes = el("div", { class: "segments", role: "radiogroup", "aria-label": "Where the sequence comes from" });
  const body = el("div", { class: "input-body" });
  const box = textBox(() => edited({ now: false }));
  const text = box.control;
  const paste = el("textarea", {
    rows: 8,
    spellcheck: "false",
    class: "mono",
    on: { input: () => edited({ now: false }) },
  });
  const example = el("select", { on: { change: () => edited({ now: true }) } });

  function show(next) {
    mode = next;
    for (const radio of modes.querySelectorAll("input")) radio.checked = radio.value === mode;
    const whole = card.window ? `; exactly ${card.window} steps` : "";
    const made = whole + (examples.length ? "" : "; made up, since the model has no examples");
    if (mode === "type") body.replaceChildren(field("Text", text, stepWords(card) + made), box.note);
    if (mode === "paste") body.replaceChildren(field("Numbers", paste, `${stepWords(card)}; CSV or JSON${made}`));
    if (mode === "example") body.replaceChildren(field("Held-out example", example, "never seen in training"));
    if (mode === "draw") {
      pad ??= drawingPad(card, examples, () => edited({ now: true }));
      body.replaceChildren(pad.element);
      pad.fit();
    }
  }

  async function read(chosen) {
    if (!chosen) return;
    const mine = (reading = {});
    try {
      const words = await textOf(chosen);
      if (mine !== reading) return;
      take(words);
      edited({ now: true });
    } catch (error) {
      if (mine !== reading) return;
      fault = error;
      changed({ now: true });
    }
    file.value = "";
  }

  /** Take a text, as one would type or paste it. */
  function take(words) {
    const typed = card.input.kind === "tokens" && card.input.text;
    (typed ? text : paste).value = words;
    show(typed ? "type" : "paste");
  }

  /** What is entered, by name, as an address has it. */
  function entered() {
    if (mode === "example") return { example: example.value };
    return { input: mode === "draw" ? asText(pad.value()) : (mode === "type" ? text : paste).value };
  }

  const element = el(
    "div",
    { class: "sequence-input" },
    modes,
    body,
    el(
      "details",
      { class: "more" },
      el("summary", {}, "From a file"),
      field("File", file, "CSV, JSON, NPY or Parquet; or drop it here"),
    ),
  );

  return {
    element,
    /** Read a file that was dropped. */
    read,
    /** What is entered, but for what it begins with. */
    address: () => (same(entered(), began) ? {} : entered()),
    /** Enter what an address has. */
    fill({ example: index, input: words }) {
      if (examples[Number(index)]) {
        example.value = index;
        show("example");
      } else if (words !== undefined) take(words);
    },
    set(nextCard, nextExamples) {
      card = nextCard;
      examples = nextExamples;
      pad = fault = reading = null;
      const { kind, size } = card.input;
      const offered = [];
      if (kind === "tokens" && card.input.text) offered.push(["type", "Type"]);
      else offered.push(["paste", "Paste"]);
      if (kind === "frames" || (kind === "features" && size <= DRAWABLE)) offered.push(["draw", "Draw"]);
      if (examples.length) offered.push(["example", "Example"]);
      const name = newId("mode");
      modes.replaceChildren(
        ...offered.map(([value, words]) =>
          el(
            "label",
            {},
            el("input", {
              type: "radio",
              name,
              value,
              on: {
                change: () => {
                  carryOver(value);
                  show(value);
                  edited({ now: true });
                },
              },
            }),
            el("span", {}, words),
          ),
        ),
      );
      example.replaceChildren(
        ...examples.map((one, i) =>
          el(
            "option",
            { value: i },
            one.expected && !one.title.includes(one.expected) ? `${one.title} (${one.expected})` : one.title,
          ),
        ),
      );
      const texts = examples.map((one) => one.sequence).filter((sequence) => typeof sequence === "string");
      const first = examples[0]?.sequence ?? madeUp(card);
      text.value = texts[Math.floor((3 * texts.length) / 4)] ?? (typeof first === "string" ? first : "");
      paste.value = typeof first === "string" ? "" : asText(first);
      show(offered.some(([value]) => value === "type") ? "type" : examples.length ? "example" : offered[0][0]);
      began = entered();
    },
    value() {
      if (fault) throw fault;
      if (mode === "type") return box.value(card);
      if (mode === "paste") return parseNumbers(paste.value, card);
      if (mode === "draw") return pad.value();
      return examples[Number(example.value)].sequence;
    },
    /** Mark the control as wrong, or as right. */
    invalid(wrong) {
      for (const control of [text, paste, example]) control.setAttribute("aria-invalid", String(wrong));
    },
    unknown: box.unknown,
    /** The example that is chosen, where it is one. */
    example: () => {
      if (mode === "example") return examples[Number(example.value)];
      return mode === "type" ? examples.find((one) => one.sequence === text.value) : undefined;
    },
  };

  /** From an example to its text, so that one can change it by hand. */
  function carryOver(next) {
    if (mode !== "example" || !examples.length) return;
    const { sequence } = examples[Number(example.value)];
    if (next === "type") text.value = sequence;
    if (next === "paste") paste.value = asText(sequence);
  }
}

/** How long a sequence is, in words. */
export const lengthWords = (sequence) => plural([...sequence].length, "step");
