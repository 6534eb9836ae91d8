// A line that is drawn: with a pointer or a finger, or with the keys, a step at a time.

import { el, short } from "./dom.js";

const WIDTH = 1000;
const HEIGHT = 200;
/** Shares of the whole height that a key moves a step by. */
const NUDGES = { ArrowUp: 0.05, ArrowDown: -0.05, PageUp: 0.2, PageDown: -0.2 };

function svg(tag, props = {}) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(props)) node.setAttribute(name, value);
  return node;
}

/**
 * The line. `changed()` is called when a value is another, `moved(step)` when another step is chosen, from 1 on.
 *
 * {element, set, values, mark}: `set(values, range, name)` shows a line, `values()` gives it, in its own units, and
 * `mark(step)` chooses a step.
 */
export function slate({ changed, moved }) {
  let series = [];
  let low = 0;
  let high = 1;
  let name = "value";
  let at = 1;
  let last = null;

  const line = svg("polyline", { fill: "none", "vector-effect": "non-scaling-stroke", class: "slate-line" });
  const cursor = svg("line", { y1: 0, y2: HEIGHT, "vector-effect": "non-scaling-stroke", class: "slate-cursor" });
  const picture = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", "aria-hidden": "true" });
  picture.append(cursor, line);
  const dot = el("span", { class: "slate-dot", "aria-hidden": "true" });
  const top = el("span", { class: "slate-top number", "aria-hidden": "true" });
  const bottom = el("span", { class: "slate-bottom number", "aria-hidden": "true" });
  const element = el(
    "div",
    { class: "slate", role: "slider", tabindex: 0, "aria-orientation": "vertical", "aria-label": "Your line" },
    picture,
    dot,
    top,
    bottom,
  );

  const across = (step) => (step - 0.5) / series.length;
  const share = (value) => (value - low) / (high - low || 1);
  const clamp = (x) => Math.max(0, Math.min(1, x));
  const valueAt = (part) => Number((low + clamp(part) * (high - low)).toPrecision(4));

  function paint() {
    line.setAttribute(
      "points",
      series.map((value, i) => `${WIDTH * across(i + 1)},${HEIGHT * (1 - clamp(share(value)))}`).join(" "),
    );
    const [x, value] = [across(at), series[at - 1]];
    cursor.setAttribute("x1", WIDTH * x);
    cursor.setAttribute("x2", WIDTH * x);
    dot.style.left = `${100 * x}%`;
    dot.style.top = `${100 * (1 - clamp(share(value)))}%`;
    element.setAttribute("aria-valuenow", value);
    element.setAttribute("aria-valuetext", `step ${at} of ${series.length}: ${short(value)} ${name}`);
  }

  function mark(step) {
    if (!series.length) return;
    at = Math.max(1, Math.min(series.length, step));
    paint();
  }

  /** Draw from where the pointer was to where it is. */
  function draw(event) {
    const box = element.getBoundingClientRect();
    const step = Math.min(series.length, Math.floor(clamp((event.clientX - box.left) / box.width) * series.length) + 1);
    const part = 1 - clamp((event.clientY - box.top) / box.height);
    const from = last ?? { step, part };
    for (let i = Math.min(from.step, step); i <= Math.max(from.step, step); i++) {
      const way = from.step === step ? 1 : (i - from.step) / (step - from.step);
      series[i - 1] = valueAt(from.part + (part - from.part) * way);
    }
    last = { step, part };
    mark(step);
    moved(step);
    changed();
  }

  element.addEventListener("pointerdown", (event) => {
    if (event.button || !series.length) return;
    element.setPointerCapture(event.pointerId);
    last = null;
    draw(event);
  });
  element.addEventListener("pointermove", (event) => {
    if (last) draw(event);
  });
  for (const end of ["pointerup", "pointercancel"]) element.addEventListener(end, () => (last = null));

  element.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 1, End: series.length }[event.key];
    const nudge = NUDGES[event.key];
    if (!series.length || (step === undefined && nudge === undefined)) return;
    event.preventDefault();
    if (nudge !== undefined) {
      series[at - 1] = valueAt(share(series[at - 1]) + nudge);
      changed();
    }
    mark(step ?? at);
    moved(at);
  });

  return {
    element,
    mark,
    values: () => [...series],
    set(values, range, words) {
      series = [...values];
      [low, high] = range;
      name = words;
      top.textContent = short(high);
      bottom.textContent = short(low);
      element.setAttribute("aria-valuemin", low);
      element.setAttribute("aria-valuemax", high);
      mark(Math.min(at, series.length));
    },
  };
}
