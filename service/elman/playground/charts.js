// Charts: drawn by Plotly in the page's own colours, each with a description and a table of its numbers.

import { el, newId, table } from "./dom.js";

const NARROW = 480;
/** How far out of sight a chart is drawn already. */
const NEAR = "300px";
const watched = new Set();
let loading = null;

/** The charting library, fetched when the first chart is drawn. Null where the server does not have it. */
function library() {
  loading ??= new Promise((resolve) => {
    const script = el("script", { src: "playground/vendor/plotly.min.js" });
    script.onload = () => resolve(window.Plotly);
    script.onerror = () => resolve(null);
    document.head.append(script);
  });
  return loading;
}

/** The page's colours, as the style sheet has them in this scheme. */
function colours() {
  const style = getComputedStyle(document.documentElement);
  const read = (name) => style.getPropertyValue(name).trim();
  return {
    ink: read("--ink"),
    muted: read("--muted"),
    line: read("--line"),
    surface: read("--surface"),
    accent: read("--accent"),
    accentSoft: read("--accent-soft"),
    rest: [read("--rest-1"), read("--rest-2"), read("--rest-3"), read("--rest-4")],
    low: read("--low"),
  };
}

/**
 * A figure. `draw(build, words)` draws what `build(colours)` gives, {traces, layout}, and draws it anew when the scheme
 * or the width changes; `words` is {label, head, rows}: what the picture shows, in words, and its numbers (rows may be a
 * function, called when somebody asks for them). `mark(step)` draws a line at a step.
 */
export function chart({ title, height = 240, aside = null, note = "", level = "h3" }) {
  const titleId = newId("chart");
  const plot = el("div", { class: "plot", role: "img", "aria-labelledby": titleId });
  plot.style.height = `${height}px`;
  const heading = el(level, { id: titleId }, title);
  const notes = el("p", { class: "note" }, note);
  const numbers = el("div", { class: "numbers", role: "region", tabindex: 0, "aria-label": `${title}: numbers` });
  const details = el(
    "details",
    { class: "table-toggle" },
    el("summary", {}, "Table", el("span", { class: "unseen" }, ` of ${title}`)),
    numbers,
  );
  const line = el("div", { class: "marker", hidden: true });
  const element = el(
    "figure",
    { class: "chart" },
    el("figcaption", {}, heading, aside, notes),
    el("div", { class: "drawn" }, plot, line),
    details,
  );
  const state = { build: null, words: null, at: null, layout: null, width: 0, stale: false, near: false };

  const fill = () => {
    if (!details.open || !state.words) return;
    const { head, rows } = state.words;
    numbers.replaceChildren(table(head, typeof rows === "function" ? rows() : rows, title));
  };
  details.addEventListener("toggle", fill);

  /** Draw, where somebody is near enough to look; or else once somebody is. */
  async function render() {
    state.stale = true;
    if (!state.build || !state.near || !plot.clientWidth) return;
    const Plotly = await library();
    if (!Plotly) {
      plot.replaceChildren(
        el(
          "p",
          { class: "empty" },
          "The charting library is not installed on the server; the table below has the numbers.",
        ),
      );
      plot.style.height = "auto";
      return;
    }
    if (!state.stale || !plot.clientWidth) return;
    state.stale = false;
    state.width = plot.clientWidth;
    const c = colours();
    const { traces, layout = {} } = state.build(c);
    state.layout = merged(base(c, state.width, plot.clientHeight), layout);
    await Plotly.react(plot, traces, state.layout, { displayModeBar: false, showTips: false, doubleClick: false });
    place();
  }

  /** The line at a step is the page's own: to move it costs nothing, where the library would draw all anew. */
  function place() {
    line.hidden = state.at === null || !state.layout;
    if (line.hidden) return;
    const { margin, xaxis, width, height } = state.layout;
    const share = (state.at - xaxis.range[0]) / (xaxis.range[1] - xaxis.range[0]);
    line.style.left = `${margin.l + share * (width - margin.l - margin.r)}px`;
    line.style.top = `${margin.t}px`;
    line.style.height = `${height - margin.t - margin.b}px`;
  }

  new ResizeObserver(() => {
    if (plot.clientWidth && plot.clientWidth !== state.width) render();
  }).observe(plot);
  new IntersectionObserver(
    (entries) => {
      state.near = entries.at(-1).isIntersecting;
      if (state.near && state.stale) render();
    },
    { rootMargin: NEAR },
  ).observe(plot);
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
      return render();
    },
    mark(step) {
      state.at = step;
      place();
    },
  };
}

function base(c, width, height) {
  const axis = {
    color: c.muted,
    gridcolor: c.line,
    zerolinecolor: c.line,
    linecolor: c.line,
    tickfont: { size: 11.5, color: c.muted },
    title: { font: { size: 11.5, color: c.muted }, standoff: 6 },
    fixedrange: true,
    automargin: false,
  };
  return {
    width,
    height,
    autosize: false,
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: c.ink },
    margin: { l: 40, r: width < NARROW ? 10 : 14, t: 8, b: 38 },
    showlegend: false,
    dragmode: false,
    hovermode: "closest",
    hoverlabel: { bgcolor: c.surface, bordercolor: c.line, font: { color: c.ink, size: 12 } },
    xaxis: { ...axis, showgrid: false },
    yaxis: { ...axis, nticks: 5 },
    bargap: 0.25,
  };
}

function merged(...layouts) {
  const whole = {};
  for (const layout of layouts) {
    for (const [name, value] of Object.entries(layout)) {
      const plain = value && typeof value === "object" && !Array.isArray(value);
      whole[name] = plain ? merged(whole[name] || {}, value) : value;
    }
  }
  return whole;
}

/** Steps above which an axis has numbers for names. */
export const MOST_NAMED = 40;

/** The x axis of steps: the characters of a text under their steps, or numbers. */
export function stepAxis(labels, length, title = "step") {
  const common = { title: { text: title }, range: [0.5, length + 0.5] };
  if (!labels || length > MOST_NAMED)
    return { ...common, tickformat: "d", ...(length > 12 ? { nticks: 10 } : { tick0: 1, dtick: 1 }) };
  return {
    ...common,
    title: { text: "" },
    tickmode: "array",
    tickvals: labels.map((_, i) => i + 1),
    ticktext: labels,
    tickangle: 0,
  };
}

/** Values from −limit over zero to limit: dark over the surface's own colour to the accent. */
export const diverging = (c) => [
  [0, c.low],
  [0.5, c.surface],
  [1, c.accent],
];

/** Names beside the ends of their lines, moved apart where they would meet. `ends` is [{y, text, color}]. */
export function endNames(ends, x, top, bottom, gap) {
  const sorted = [...ends].sort((a, b) => b.y - a.y);
  let last = top + gap;
  for (const end of sorted) {
    end.at = Math.min(end.y, last - gap);
    last = end.at;
  }
  let floor = bottom;
  for (const end of sorted.reverse()) {
    end.at = Math.max(end.at, floor);
    floor = end.at + gap;
  }
  return sorted.map(({ at, text, color }) => ({
    x,
    y: at,
    xref: "x",
    yref: "y",
    xanchor: "left",
    xshift: 8,
    showarrow: false,
    text,
    font: { size: 12, color },
    align: "left",
  }));
}

const scheme = window.matchMedia("(prefers-color-scheme: dark)");
scheme.addEventListener("change", () => watched.forEach((render) => render()));
