// A series that is drawn by pointer, or taken from a shape.

import { el, field, number, select } from "./dom.js";
import { extent } from "./drawing.js";
import { stepsFor } from "./input.js";

const SHAPES = {
  zero: () => 0.5,
  sine: (t) => 0.5 + 0.4 * Math.sin(4 * Math.PI * t),
  step: (t) => (t < 0.5 ? 0.2 : 0.8),
  ramp: (t) => 0.1 + 0.8 * t,
  pulse: (t) => (Math.abs(t - 0.5) < 0.06 ? 0.9 : 0.3),
};

/**
 * A canvas to draw a series on by pointer; shapes and Paste are there for those who use none.
 *
 * {element, fit, value}: `fit` draws it anew once it is on the page, and `value` gives a row a step, or samples.
 */
export function drawingPad(card, examples, changed) {
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
  const steps = number(card.input.kind === "frames" ? card.input.size + 24 * card.input.stride : stepsFor(card), {
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
  for (const end of ["pointerup", "pointercancel"])
    canvas.addEventListener(end, () => {
      last = null;
      changed();
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
  const [low, high] = extent(values);
  if (low > high) return [-1, 1];
  const unit = 10 ** Math.floor(Math.log10(Math.max(high - low, 1e-9)));
  return [
    Number((Math.floor(low / unit) * unit).toPrecision(6)),
    Number((Math.ceil(high / unit) * unit).toPrecision(6)),
  ];
}
