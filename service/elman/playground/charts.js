// Charts: pictures with a heading, each with a description and a table of its numbers.

import { el, newId, table } from "./dom.js";
import { stacked } from "./drawing.js";

const watched = new Set();
/** The mark of the browser's timeline at the first picture. */
const FIRST = "first chart";

/**
 * A figure. `draw(build, words)` draws the picture that `build()` gives (drawing.js says what that is), and draws it
 * anew when the scheme or the width changes; `words` is {label, head, rows}: what the picture shows, in words, and its
 * numbers (rows may be a function, called when somebody asks for them). `of` tells it from others with its title.
 * `mark(step)` draws a line at a step.
 *
 * `build()` may give a list of pictures instead, which stand below each other on one x axis, one axis of y each.
 */
export function chart({ title, of = "", height = 240, aside = null, note = "", level = "h3" }) {
  const whole = of ? `${title} of ${of}` : title;
  const titleId = newId("chart");
  const plot = el("div", { class: "plot", role: "img", "aria-labelledby": titleId });
  plot.style.height = `${height}px`;
  const heading = el(level, { id: titleId }, title);
  const notes = el("p", { class: "note" }, note);
  const numbers = el("div", { class: "numbers", role: "region", tabindex: 0, "aria-label": `${whole}: numbers` });
  const details = el(
    "details",
    { class: "table-toggle" },
    el("summary", {}, "Table", el("span", { class: "unseen" }, ` of ${whole}`)),
    numbers,
  );
  const line = el("div", { class: "marker", hidden: true });
  // What is under the pointer. The table says the same to those who have none.
  const tip = el("div", { class: "tip", hidden: true, "aria-hidden": "true" });
  const element = el(
    "figure",
    { class: "chart" },
    el("figcaption", {}, heading, aside, notes),
    el("div", { class: "drawn" }, plot, line, tip),
    details,
  );
  const state = { build: null, words: null, at: null, pointer: null, drawn: null, width: 0 };

  const fill = () => {
    if (!details.open || !state.words) return;
    const { head, rows } = state.words;
    numbers.replaceChildren(table(head, typeof rows === "function" ? rows() : rows, whole));
  };
  details.addEventListener("toggle", fill);

  function render() {
    // Without a width it is out of sight, and drawn when it is seen again.
    state.width = plot.clientWidth;
    if (!state.build || !state.width) return;
    const pictures = [state.build()].flat();
    const { t, b } = pictures[0].margin;
    const inner = pictures.length > 1 ? Math.max(30, Math.min(72, 320 / pictures.length)) : height - t - b;
    state.drawn = stacked(pictures, state.width, inner);
    plot.style.height = `${state.drawn.height}px`;
    plot.replaceChildren(...state.drawn.nodes);
    if (!performance.getEntriesByName(FIRST).length) performance.mark(FIRST);
    place();
    point();
  }

  /** The line at a step. It is beside the picture, which need not be drawn anew when it moves. */
  function place() {
    line.hidden = state.at === null || !state.drawn;
    if (line.hidden) return;
    const { margin, across, height: whole } = state.drawn;
    line.style.left = `${across(state.at)}px`;
    line.style.top = `${margin.t}px`;
    line.style.height = `${whole - margin.t - margin.b}px`;
  }

  function point() {
    const found = state.pointer && state.drawn?.at(...state.pointer);
    tip.hidden = !found;
    if (!found) return;
    tip.textContent = found.words;
    tip.style.left = `${Math.min(found.left + 10, state.width - tip.offsetWidth)}px`;
    tip.style.top = `${Math.max(found.top - tip.offsetHeight - 6, 0)}px`;
  }

  plot.addEventListener("pointermove", (event) => {
    const box = plot.getBoundingClientRect();
    state.pointer = [event.clientX - box.left, event.clientY - box.top];
    point();
  });
  plot.addEventListener("pointerleave", () => {
    state.pointer = null;
    point();
  });
  new ResizeObserver(() => {
    if (plot.clientWidth !== state.width) render();
  }).observe(plot);
  watched.add(render);

  return {
    element,
    plot,
    title: (words) => (heading.textContent = words),
    note: (words) => (notes.textContent = words),
    draw(build, words) {
      state.build = build;
      state.words = words;
      plot.removeAttribute("aria-labelledby");
      plot.setAttribute("aria-label", words.label);
      fill();
      render();
    },
    mark(step) {
      state.at = step;
      place();
    },
  };
}

/** Steps above which an axis has numbers for names. */
export const MOST_NAMED = 40;

/** The x axis of steps: the characters of a text under their steps, or numbers. */
export function stepAxis(labels, length, title = "step") {
  const range = [0.5, length + 0.5];
  if (!labels || length > MOST_NAMED) return { range, title, count: length > 12 ? 10 : length, least: 1 };
  return { range, marks: labels.map((label, i) => [i + 1, label]) };
}

// A heat map's colours are in its pixels, where the style sheet does not reach.
const scheme = window.matchMedia("(prefers-color-scheme: dark)");
scheme.addEventListener("change", () => watched.forEach((render) => render()));
