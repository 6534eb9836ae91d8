// The line of the tour: numbers that a visitor draws, a step each.

import { el, field, newId, select } from "./dom.js";
import { STEPS } from "./family.js";
import { asText } from "./input.js";
import { slate } from "./slate.js";

/** How far a step is raised, as a share of the height of the line. */
const RAISED = 0.4;
/** Lines to begin with, by name: each gives a share of the height, from 0 to 1, at a share of the width. */
const SHAPES = {
  waves: ["Waves", (t) => 0.5 + 0.4 * Math.sin(8 * Math.PI * t)],
  pulse: ["One peak", (t) => 0.15 + 0.75 * Math.exp(-(((t - 0.3) / 0.04) ** 2))],
  stair: ["A step", (t) => (t < 0.5 ? 0.2 : 0.8)],
  ramp: ["A slope", (t) => 0.1 + 0.8 * t],
  flat: ["Flat", () => 0.4],
};

/** The lowest and the highest first value of some sequences; -1 to 1 without any. */
function rangeOf(sequences) {
  const values = sequences.flatMap((rows) => rows.map(([value]) => value));
  const [low, high] = values.reduce(([a, b], value) => [Math.min(a, value), Math.max(b, value)], [Infinity, -Infinity]);
  return low < high ? [low, high] : [-1, 1];
}

/** Something to read, as the tour has it. `changed()` is called when it is another, `moved(step)` when a step is chosen. */
export function drawnLine({ changed, moved }) {
  let card = null;
  let range = [0, 1];
  let rows = [];
  const line = slate({
    changed() {
      shape.value = "own";
      changed();
    },
    moved,
  });
  const hint = el(
    "p",
    { class: "muted", id: newId("hint") },
    "Draw it with a finger or the mouse. With the keys: left and right choose a step, up and down move it.",
  );
  line.element.setAttribute("aria-describedby", hint.id);
  const shape = select([], {
    on: {
      change() {
        if (shape.value !== "own") take(shape.value);
        changed();
      },
    },
  });
  const fed = el("p", { class: "muted" });

  const words = () => card.input.names?.[0] ?? "";

  /** Take one of the lines to begin with. */
  function take(name) {
    const [low, high] = range;
    const drawn = (t) => Number((low + SHAPES[name][1](t) * (high - low)).toPrecision(4));
    shape.value = name;
    line.set(
      name === "example" ? rows.map(([value]) => value) : Array.from({ length: STEPS }, (_, i) => drawn((i + 0.5) / STEPS)),
      range,
      words(),
    );
  }

  /** The rows that a line stands for: other features are those of an example, or zero. */
  const rowsOf = (values) =>
    values.map((value, i) => [value, ...(rows[i]?.slice(1) ?? Array(Math.max(card.input.size - 1, 0)).fill(0))]);

  return {
    words: {
      noun: "line",
      unit: "step",
      made: "drew",
      other: "draw another line",
      altered: "moved far up or down",
      left: "What is left of the moved step",
    },
    title: "Your line",
    head: field("Start from", shape),
    element: line.element,
    below: el("div", {}, hint, fed),
    /** Be for this model. Whether that is another one. */
    fit(next, examples) {
      if (card === next) return false;
      card = next;
      const sequences = examples.map((one) => one.sequence).filter(Array.isArray);
      range = rangeOf(sequences);
      rows = (sequences[0] ?? []).slice(-STEPS);
      shape.replaceChildren(
        ...(rows.length === STEPS ? [el("option", { value: "example" }, "A held-out example")] : []),
        ...Object.entries(SHAPES).map(([name, [title]]) => el("option", { value: name }, title)),
        el("option", { value: "own" }, "What I drew"),
      );
      const { size, names } = card.input;
      fed.textContent =
        size > 1
          ? `No three models here read one number a step. ${card.name} reads ${size}: you draw the first${names ? `, “${names[0]}”` : ""}, and the others are ${rows.length ? "those of an example" : "zero"}.`
          : "";
      return true;
    },
    /** The line of an address; the one to begin with where it has none that will do. */
    fill({ line: values = "", from }) {
      const numbers = values.split(" ").map(Number);
      const known = [...shape.options].some((one) => one.value === from && from !== "own");
      if (numbers.length === STEPS && numbers.every(Number.isFinite)) {
        shape.value = "own";
        line.set(numbers, range, words());
      } else take(known ? from : shape.options[0].value);
    },
    address() {
      if (shape.value === "own") return { line: line.values().join(" ") };
      return shape.selectedIndex ? { from: shape.value } : {};
    },
    first: () => Math.round(STEPS / 3),
    length: () => STEPS,
    sequence: () => rowsOf(line.values()),
    text: () => asText(rowsOf(line.values())),
    /** The same line with a step raised, or lowered where it is high already. */
    altered(step) {
      const [low, high] = range;
      const values = line.values();
      const by = (values[step - 1] > low + 0.6 * (high - low) ? -RAISED : RAISED) * (high - low);
      return rowsOf(values.map((value, i) => (i === step - 1 ? Number((value + by).toPrecision(4)) : value)));
    },
    mark: line.mark,
    invalid() {},
    told() {},
  };
}
