// A picture in SVG of lines, bands, bars or a heat map on two axes. Colours are the style sheet's own, by name.

import { newId, short } from "./dom.js";

/** Pixels between the baselines of two names beside a picture. */
const LINE = 14;
/** Pixels from a point within which it is told. */
const REACH = 40;

function svg(tag, props = {}, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(props)) if (value !== undefined) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

/** A colour of the style sheet. */
export const colour = (name) => `var(--${name})`;

/** Lowest and highest of some numbers; those that are missing are passed over. */
export const extent = (values) =>
  values.reduce(
    ([low, high], value) => (value === null ? [low, high] : [Math.min(low, value), Math.max(high, value)]),
    [Infinity, -Infinity],
  );

/** About `count` round numbers in a range, at least `least` apart. */
export function ticks([low, high], count = 5, least = 0) {
  const rough = (high - low) / count || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = Math.max(least, power * ([1, 2, 5].find((times) => times * power >= rough) ?? 10));
  const first = Math.ceil(low / step);
  return Array.from({ length: Math.floor(high / step) - first + 1 }, (_, i) => (first + i) * step);
}

const scale =
  ([low, high], [from, to]) =>
  (value) =>
    from + ((value - low) / (high - low || 1)) * (to - from);

/** A range around values, with a little air; the air is more where all are the same. */
function around(values) {
  const [low, high] = extent(values);
  if (low > high) return [0, 1];
  const air = 0.06 * (high - low) || Math.abs(high) || 1;
  return [low - air, high + air];
}

/** The path through some points, `[left, top]`; one without a top is a gap. `stairs` hold each value to the next. */
function path(points, stairs = false) {
  let drawn = "";
  let down = false;
  for (const [left, top] of points) {
    const [x, y] = [left.toFixed(1), top?.toFixed(1)];
    if (top !== null) drawn += !down ? `M${x} ${y}` : stairs ? `H${x}V${y}` : `L${x} ${y}`;
    down = top !== null;
  }
  return drawn;
}

const pointsOf = (mark, across, up, values = mark.y) =>
  mark.x.map((at, i) => [across(at), values[i] === null ? null : up(values[i])]);

/** How each kind of mark is drawn, given the scales. */
const draw = {
  /** {x, y, color, width, dash, stairs, fill}: a line; `fill` colours what is between it and zero. */
  line(mark, across, up) {
    const points = pointsOf(mark, across, up);
    const stroke = { stroke: mark.color, "stroke-width": mark.width, "stroke-dasharray": mark.dash };
    const there = (i) => (points[i]?.[1] ?? null) !== null;
    // A point between two gaps is on no line.
    const alone = points.filter((_, i) => there(i) && !there(i - 1) && !there(i + 1));
    const r = points.length === 1 ? 3.5 : Math.max(mark.width, 1.5);
    const line = path(points, mark.stairs);
    const area = mark.fill && `${line}V${up(0).toFixed(1)}H${points[0][0].toFixed(1)}Z`;
    return [
      ...(area ? [svg("path", { d: area, fill: mark.fill })] : []),
      svg("path", { d: line, fill: "none", "stroke-linejoin": "round", ...stroke }),
      ...alone.map(([cx, cy]) => svg("circle", { cx, cy, r, fill: mark.color })),
    ];
  },
  /** {x, low, high, color, opacity}: all that is between two lines. */
  band(mark, across, up) {
    const back = pointsOf(mark, across, up, mark.low).reverse();
    const d = `${path([...pointsOf(mark, across, up, mark.high), ...back])}Z`;
    return [svg("path", { d, fill: mark.color, "fill-opacity": mark.opacity })];
  },
  /** {x, y, color}: a bar from zero at each x, which are 1 apart. */
  bars(mark, across, up) {
    const wide = 0.75 * (across(1) - across(0));
    const there = pointsOf(mark, across, up).filter(([, top]) => top !== null);
    const bars = there.map(
      ([left, top]) => `M${(left - wide / 2).toFixed(1)} ${up(0)}V${top.toFixed(1)}h${wide.toFixed(1)}V${up(0)}`,
    );
    return [svg("path", { d: bars.join(""), fill: mark.color })];
  },
  /** {from, to, color}: a part of the x axis, over the whole height. */
  span(mark, across) {
    return [
      svg("rect", {
        x: across(mark.from),
        width: across(mark.to) - across(mark.from),
        height: "100%",
        fill: mark.color,
      }),
    ];
  },
  /** {values, limit}: a cell for each value, `values[x - 1][y - 1]`; on a canvas, which is not a part of the SVG. */
  heat: () => [],
};

/** The canvas of a heat map, a pixel a cell: clear at zero, and the colour of its sign, full at the limit. */
function heatMap({ values, limit }) {
  const [width, height] = [values.length, values[0].length];
  const canvas = document.createElement("canvas");
  Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const style = getComputedStyle(document.documentElement);
  const [above, below] = ["--accent", "--low"].map((name) => {
    context.fillStyle = style.getPropertyValue(name);
    context.fillRect(0, 0, 1, 1);
    return context.getImageData(0, 0, 1, 1).data.slice(0, 3);
  });
  const image = context.createImageData(width, height);
  values.forEach((column, x) =>
    column.forEach((value, y) => {
      const at = 4 * ((height - 1 - y) * width + x);
      image.data.set(value < 0 ? below : above, at);
      image.data[at + 3] = 255 * Math.min(1, Math.abs(value) / limit);
    }),
  );
  context.putImageData(image, 0, 0);
  return canvas;
}

/** The colours of a heat map and their values, to the right of it. */
function legend(limit, left, height) {
  const id = newId("colours");
  const stop = (offset, name) => svg("stop", { offset, "stop-color": colour(name) });
  const up = scale([-limit, limit], [height, 0]);
  return svg(
    "g",
    { transform: `translate(${left + 14} 0)` },
    svg("linearGradient", { id, x2: 0, y2: 1 }, stop(0, "accent"), stop(0.5, "surface"), stop(1, "low")),
    svg("rect", { width: 9, height, fill: `url(#${id})` }),
    ...ticks([-limit, limit], 4).map((value) => svg("text", { x: 14, y: up(value), dy: "0.35em" }, short(value))),
  );
}

/** The last of some numbers that is not missing. */
export const lastOf = (values) => values.findLast((value) => value !== null) ?? null;

/** Names at the ends of their lines, `{y, text, color}`, moved apart where they would meet; none beside no line. */
function endNames(names, left, height, up) {
  const sorted = names.filter(({ y }) => y !== null).map((name) => ({ ...name, top: up(name.y) })).sort((a, b) => a.top - b.top);
  let last = -Infinity;
  for (const name of sorted) last = name.top = Math.max(name.top, last + LINE, LINE / 2);
  let floor = height - LINE / 2;
  for (const name of sorted.reverse()) {
    name.top = Math.min(name.top, floor);
    floor = name.top - LINE;
  }
  return sorted.map(({ top, text, color }) => svg("text", { x: left + 8, y: top, dy: "0.35em", fill: color }, text));
}

function xAxis({ title = "", marks }, across, width, height) {
  return svg(
    "g",
    { "text-anchor": "middle", transform: `translate(0 ${height})` },
    ...marks.map(([value, text]) => svg("text", { x: across(value), y: 15 }, text)),
    svg("text", { x: width / 2, y: 32 }, title),
  );
}

function yAxis({ title = "", marks, grid = true }, up, left, width, height) {
  const turned = `translate(${14 - left} ${height / 2}) rotate(-90)`;
  return svg(
    "g",
    { "text-anchor": "end" },
    ...(grid ? marks.map(([value]) => svg("path", { class: "grid", d: `M0 ${up(value)}h${width}` })) : []),
    ...marks.map(([value, text]) => svg("text", { x: -6, y: up(value), dy: "0.35em" }, text)),
    svg("text", { "text-anchor": "middle", transform: turned }, title),
  );
}

/** An axis with all that it leaves open: its range, and `marks`, pairs of a value and its words. */
function whole({ range, count = 5, least, format = short, marks, ...rest }, values) {
  range ??= around(values);
  return { range, marks: marks ?? ticks(range, count, least).map((value) => [value, format(value)]), ...rest };
}

/** What a mark has at its value that is nearest to a place, as {left, top, words}; nothing where it has no words. */
function nearest(mark, place, across, up) {
  if (!mark.words) return [];
  const i = mark.x.reduce(
    (best, at, i) => (Math.abs(across(at) - place) < Math.abs(across(mark.x[best]) - place) ? i : best),
    0,
  );
  if (mark.y[i] === null || mark.y[i] === undefined) return [];
  return [{ left: across(mark.x[i]), top: up(mark.y[i]), words: mark.words(i) }];
}

/**
 * Draw a picture of `width` × `height` pixels.
 *
 * `picture` is {margin, x, y, marks, names, key, legend}: `x` and `y` are axes, {title, range, count, least, format,
 * marks, grid}, all optional; each of `marks` is {kind, ...} of those above, with `words(i)`, what is told of its i-th
 * point; `names` are {y, text, color} beside it, `key` the same above it; `legend` shows the colours of a heat map.
 *
 * Returns {nodes, across, margin, at}: what to show; where a value of x is, in pixels from the left; and `at(left,
 * top)`, {left, top, words} of the point that is nearest to a place, or null.
 */
function drawing({ margin, x, y = {}, marks, names = [], key = [], legend: limits = false }, width, height) {
  const [w, h] = [Math.max(width - margin.l - margin.r, 1), Math.max(height - margin.t - margin.b, 1)];
  const [first, last] = extent(marks.flatMap((mark) => mark.x ?? []));
  const axes = {
    x: whole({ range: [first, last], ...x }, []),
    y: whole(
      y,
      marks.flatMap((mark) => [mark.y, mark.low, mark.high].flatMap((values) => values ?? [])),
    ),
  };
  const across = scale(axes.x.range, [0, w]);
  const up = scale(axes.y.range, [h, 0]);
  const heat = marks.find((mark) => mark.kind === "heat");
  const canvas = heat ? [heatMap(heat)] : [];
  for (const one of canvas)
    Object.assign(one.style, { left: `${margin.l}px`, top: `${margin.t}px`, width: `${w}px`, height: `${h}px` });
  const frame = svg(
    "g",
    { transform: `translate(${margin.l} ${margin.t})` },
    yAxis(axes.y, up, margin.l, w, h),
    xAxis(axes.x, across, w, h),
    // An SVG within, since it shows nothing that leaves it.
    svg("svg", { width: w, height: h }, ...marks.flatMap((mark) => draw[mark.kind](mark, across, up))),
    ...endNames(names, across(last + (marks.some((mark) => mark.kind === "bars") ? 0.4 : 0)), h, up),
    ...(heat && limits ? [legend(heat.limit, w, h)] : []),
    svg("text", { y: -10 }, ...key.map(({ text, color }, i) => svg("tspan", { dx: i && 12, fill: color }, text))),
  );

  const at = (left, top) => {
    const [place, level] = [left - margin.l, top - margin.t];
    if (place < 0 || place > w || level < 0 || level > h) return null;
    const cell = heat && heatCell(heat, place / w, 1 - level / h);
    const found = cell
      ? [{ left: place, top: level, words: cell }]
      : marks.flatMap((mark) => nearest(mark, place, across, up));
    const away = (one) => Math.hypot(one.left - place, (one.top - level) / 4);
    const best = found.sort((a, b) => away(a) - away(b))[0];
    return best && away(best) < REACH ? { ...best, left: best.left + margin.l, top: best.top + margin.t } : null;
  };
  return {
    nodes: [...canvas, svg("svg", { width, height }, frame)],
    margin,
    at,
    across: (value) => margin.l + across(value),
  };
}

/**
 * Draw pictures below each other on the x axis of the last, `width` pixels wide, with `inner` pixels for each y axis,
 * or as many as a picture's own `inner` says.
 *
 * Returns {nodes, across, margin, height, at}, as `drawing` does, of all of them.
 */
export function stacked(pictures, width, inner) {
  let height = 0;
  const panels = pictures.map((picture, i) => {
    const last = i === pictures.length - 1;
    const margin = { ...picture.margin, b: last ? picture.margin.b : 6 };
    const x = last ? picture.x : { ...picture.x, title: "", marks: [] };
    const own = margin.t + (picture.inner ?? inner) + margin.b;
    const drawn = drawing({ ...picture, margin, x }, width, own);
    const node = document.createElement("div");
    node.className = "panel";
    node.style.height = `${own}px`;
    node.append(...drawn.nodes);
    const panel = { ...drawn, node, top: height, bottom: height + own };
    height += own;
    return panel;
  });
  return {
    nodes: panels.map((panel) => panel.node),
    across: panels[0].across,
    margin: { ...pictures[0].margin, b: pictures.at(-1).margin.b },
    height,
    at(left, top) {
      const panel = panels.find((one) => top < one.bottom);
      const found = panel?.at(left, top - panel.top);
      return found ? { ...found, top: found.top + panel.top } : null;
    },
  };
}

function heatCell({ values, words }, right, high) {
  const x = Math.min(Math.floor(right * values.length), values.length - 1);
  const y = Math.min(Math.floor(high * values[0].length), values[0].length - 1);
  return words(x, y);
}
