// Where a sequence comes from: typed, pasted, drawn or a held-out example.

import { Problem } from "./api.js";
import { el, field, newId, number, plural, select } from "./dom.js";
import { textOf } from "./files.js";

/** Features above which nobody draws. */
const DRAWABLE = 6;

/** Numbers from CSV (a line a step; a head of names is passed over), a line of numbers, or JSON. Raises Problem. */
export function parseNumbers(text, card) {
  const trimmed = text.trim();
  if (!trimmed) throw bad("there is nothing here yet");
  if (trimmed.startsWith("[")) return parseJSON(trimmed);
  const lines = trimmed.split(/\r?\n/).filter((line) => line.trim());
  const cells = lines.map((line) =>
    line
      .trim()
      .split(/\s*[,;\t]\s*|\s+/)
      .filter((cell) => cell !== ""),
  );
  if (cells.length > 1 && cells[0].every((cell) => Number.isNaN(Number(cell)))) cells.shift();
  const rows = cells.map((row, i) => row.map((cell, j) => toNumber(cell, i, j)));
  const flat = card.input.kind !== "features";
  if (flat || (card.input.size === 1 && rows.length === 1)) return flat ? rows.flat() : rows[0].map((value) => [value]);
  return rows;
}

function parseJSON(text) {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw bad(`this is not JSON: ${error.message}`);
  }
}

function toNumber(cell, line, column) {
  const value = Number(cell);
  if (Number.isFinite(value)) return value;
  throw new Problem(
    {
      code: "not_a_number",
      title: "Not a number",
      detail: `${JSON.stringify(cell)} is not a number`,
      where: `line ${line + 1}, column ${column + 1}`,
    },
    0,
  );
}

const bad = (detail) => new Problem({ code: "no_sequence", title: "No sequence", detail }, 0);

/** Numbers as one would paste them: a line a step. */
export const asText = (sequence) =>
  typeof sequence === "string"
    ? sequence
    : Array.isArray(sequence[0])
      ? sequence.map((row) => row.join(", ")).join("\n")
      : sequence.join("\n");

/** What the model wants of one step, in words. */
export function stepWords(card) {
  const { kind, size } = card.input;
  if (kind === "tokens")
    return card.input.text ? "one character a step" : `token ids, 0 to ${card.input.vocabulary_size - 1}`;
  if (kind === "frames") return "samples of a signal";
  return size === 1 ? "one number a step" : `a line a step, ${size} numbers a line`;
}

/** Steps of a sequence that is made up. */
export const MADE_UP = 40;

/** A sequence for a model that has no examples: waves, or the first tokens in their order. */
export function madeUp(card, steps = MADE_UP) {
  const { kind, size } = card.input;
  if (kind === "tokens") {
    const count = card.input.vocabulary_size ?? 1;
    return card.input.text ? "an example" : Array.from({ length: Math.min(steps, 12) }, (_, i) => (i + 1) % count);
  }
  const wave = (t, i) => Number(Math.sin((2 * Math.PI * t) / (8 + 5 * (i % 7)) + i).toFixed(3));
  if (kind === "frames") return Array.from({ length: size + 24 * card.input.stride }, (_, t) => wave(t, 0));
  return Array.from({ length: steps }, (_, t) => Array.from({ length: size }, (_, i) => wave(t, i)));
}

/** A control for one sequence. `changed({now})` is called when it is another; `value()` gives it or raises Problem. */
export function sequenceInput(changed) {
  let card = null;
  let examples = [];
  let mode = null;
  let pad = null;
  /** What is wrong with the file that was chosen last. */
  let fault = null;
  const edited = (how) => {
    fault = null;
    changed(how);
  };
  const file = el("input", { type: "file", on: { change: () => read(file.files[0]) } });
  const modes = el("div", { class: "segments", role: "radiogroup", "aria-label": "Where the sequence comes from" });
  const body = el("div", { class: "input-body" });
  const text = el("input", {
    type: "text",
    autocomplete: "off",
    autocapitalize: "words",
    spellcheck: "false",
    on: { input: () => edited({ now: false }) },
  });
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
    const made = examples.length ? "" : "; made up, since the model has no examples";
    if (mode === "type") body.replaceChildren(field("Text", text, stepWords(card) + made));
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
    const mine = card;
    try {
      const words = await textOf(chosen);
      if (card !== mine) return;
      fill(words);
      edited({ now: true });
    } catch (error) {
      fault = error;
      changed({ now: true });
    }
    file.value = "";
  }

  /** Take a text, as one would type or paste it. */
  function fill(words) {
    const typed = card.input.kind === "tokens" && card.input.text;
    (typed ? text : paste).value = words;
    show(typed ? "type" : "paste");
  }

  const element = el(
    "div",
    {
      class: "sequence-input",
      on: {
        dragover: (event) => event.preventDefault(),
        drop: (event) => {
          event.preventDefault();
          read(event.dataTransfer.files[0]);
        },
      },
    },
    modes,
    body,
    el(
      "details",
      { class: "more" },
      el("summary", {}, "From a file"),
      field("File", file, "CSV, JSON or NPY; or drop it here"),
    ),
  );

  return {
    element,
    fill,
    set(nextCard, nextExamples) {
      card = nextCard;
      examples = nextExamples;
      pad = null;
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
    },
    value() {
      if (fault) throw fault;
      if (mode === "type") {
        if (!text.value) throw bad("type something");
        return text.value;
      }
      if (mode === "paste") return parseNumbers(paste.value, card);
      if (mode === "draw") return pad.value();
      return examples[Number(example.value)].sequence;
    },
    /** Mark the control as wrong, or as right. */
    invalid(wrong) {
      for (const control of [text, paste, example]) control.setAttribute("aria-invalid", String(wrong));
    },
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

const SHAPES = {
  zero: () => 0.5,
  sine: (t) => 0.5 + 0.4 * Math.sin(4 * Math.PI * t),
  step: (t) => (t < 0.5 ? 0.2 : 0.8),
  ramp: (t) => 0.1 + 0.8 * t,
  pulse: (t) => (Math.abs(t - 0.5) < 0.06 ? 0.9 : 0.3),
};

/** A canvas to draw a series on by pointer; shapes and Paste are there for those who use none. */
function drawingPad(card, examples, changed) {
  const features = card.input.kind === "frames" ? 1 : card.input.size;
  const names =
    card.input.names || Array.from({ length: features }, (_, i) => (features === 1 ? "value" : `feature ${i + 1}`));
  const ranges = names.map((_, i) => range(examples, i));
  const canvas = el("canvas", {
    class: "pad",
    role: "img",
    "aria-label":
      "Drawing area: drag to draw the series. Without a pointer, choose a shape below, or paste numbers instead.",
  });
  const steps = number(card.input.kind === "frames" ? card.input.size + 24 * card.input.stride : 40, {
    min: 1,
    max: 5000,
    step: 1,
  });
  const which = select(names.map((name, i) => [i, name]));
  const shape = select([
    ["", "Choose"],
    ["zero", "Flat"],
    ["sine", "Sine"],
    ["step", "Step"],
    ["ramp", "Ramp"],
    ["pulse", "Pulse"],
  ]);
  const low = number(ranges[0][0], { step: "any" });
  const high = number(ranges[0][1], { step: "any" });
  let series = names.map(() => new Array(Number(steps.value)).fill(0.5));
  let last = null;

  const chosen = () => Number(which.value);
  const size = () => Math.max(1, Math.min(5000, Math.round(Number(steps.value)) || 1));

  function paint() {
    const ratio = window.devicePixelRatio || 1;
    const { clientWidth: width, clientHeight: height } = canvas;
    if (!width) return;
    canvas.width = width * ratio;
    canvas.height = height * ratio;
    const draw = canvas.getContext("2d");
    draw.scale(ratio, ratio);
    const style = getComputedStyle(document.documentElement);
    const read = (name) => style.getPropertyValue(name).trim();
    draw.strokeStyle = read("--line");
    draw.lineWidth = 1;
    for (const y of [0.25, 0.5, 0.75])
      line(draw, [
        [0, y * height],
        [width, y * height],
      ]);
    // The one that is drawn comes last, and so over the others.
    const order = series.map((_, i) => i).sort((a, b) => (a === chosen()) - (b === chosen()));
    order.forEach((i) => {
      const values = series[i];
      draw.strokeStyle = i === chosen() ? read("--accent") : read("--rest-3");
      draw.lineWidth = i === chosen() ? 2.5 : 1.5;
      line(
        draw,
        values.map((value, t) => [((t + 0.5) / values.length) * width, (1 - value) * height]),
      );
    });
  }

  function to(event) {
    const box = canvas.getBoundingClientRect();
    const values = series[chosen()];
    const clamp = (x) => Math.max(0, Math.min(1, x));
    const at = Math.min(values.length - 1, Math.floor(clamp((event.clientX - box.left) / box.width) * values.length));
    const value = clamp(1 - (event.clientY - box.top) / box.height);
    const from = last ?? { at, value };
    for (let t = Math.min(from.at, at); t <= Math.max(from.at, at); t++) {
      values[t] = from.at === at ? value : from.value + ((value - from.value) * (t - from.at)) / (at - from.at);
    }
    last = { at, value };
    paint();
  }

  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    last = null;
    to(event);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (last) to(event);
  });
  canvas.addEventListener("pointerup", () => {
    last = null;
    changed();
  });
  canvas.addEventListener("pointercancel", () => {
    last = null;
  });
  which.addEventListener("change", () => {
    [low.value, high.value] = ranges[chosen()];
    paint();
  });
  for (const [box, end] of [
    [low, 0],
    [high, 1],
  ]) {
    box.addEventListener("change", () => {
      ranges[chosen()][end] = Number(box.value);
      changed();
    });
  }
  shape.addEventListener("change", () => {
    if (!shape.value) return;
    series[chosen()] = Array.from({ length: size() }, (_, t) => SHAPES[shape.value]((t + 0.5) / size()));
    paint();
    changed();
  });
  steps.addEventListener("change", () => {
    series = series.map((values) =>
      Array.from({ length: size() }, (_, t) => values[Math.floor((t * values.length) / size())]),
    );
    paint();
    changed();
  });

  const scaled = (value, [bottom, top]) => Number((bottom + value * (top - bottom)).toFixed(4));
  return {
    element: el(
      "div",
      { class: "drawing" },
      canvas,
      el(
        "div",
        { class: "fields" },
        features > 1 ? field("Draw", which) : null,
        field("Shape", shape),
        field("Steps", steps),
        field("Bottom", low),
        field("Top", high),
      ),
    ),
    fit: () => requestAnimationFrame(paint),
    value() {
      const rows = Array.from({ length: size() }, (_, t) => series.map((values, i) => scaled(values[t], ranges[i])));
      return card.input.kind === "frames" ? rows.map(([value]) => value) : rows;
    },
  };
}

function line(draw, points) {
  draw.beginPath();
  points.forEach(([x, y], i) => (i ? draw.lineTo(x, y) : draw.moveTo(x, y)));
  draw.stroke();
}

/** The smallest and largest value of a feature over the examples, widened to round numbers. */
function range(examples, feature) {
  const values = examples.flatMap(({ sequence }) => sequence.map((row) => (Array.isArray(row) ? row[feature] : row)));
  if (!values.length) return [-1, 1];
  const [low, high] = values.reduce(([a, b], value) => [Math.min(a, value), Math.max(b, value)], [Infinity, -Infinity]);
  const unit = 10 ** Math.floor(Math.log10(Math.max(high - low, 1e-9)));
  return [
    Number((Math.floor(low / unit) * unit).toPrecision(6)),
    Number((Math.ceil(high / unit) * unit).toPrecision(6)),
  ];
}

/** How long a sequence is, in words. */
export const lengthWords = (sequence) => plural([...sequence].length, "step");
