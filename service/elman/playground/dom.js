// Elements, and words and numbers as the page writes them.

/** An element. `props` are attributes, but for `class`, `on` (listeners by event), `value`, `checked` and `hidden`. */
export function el(tag, props = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "on") for (const [event, listener] of Object.entries(value)) node.addEventListener(event, listener);
    else if (name === "value" || name === "checked") node[name] = value;
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

let count = 0;

/** An id that is nowhere else on the page. */
export const newId = (word) => `${word}-${++count}`;

/** A label above its control; `note` stands beside the label's words. */
export function field(words, control, note = "") {
  control.id ||= newId("field");
  return el(
    "div",
    { class: "field" },
    el("label", { for: control.id }, words, note ? el("small", {}, " " + note) : null),
    control,
  );
}

/** A number input. */
export const number = (value, props = {}) => el("input", { type: "number", inputmode: "decimal", value, ...props });

/** A select of `[value, words]` pairs. */
export function select(options, props = {}) {
  return el("select", props, ...options.map(([value, words]) => el("option", { value }, words)));
}

export const percent = (share) => `${(100 * share).toFixed(1)} %`;

/** A number to four significant digits, in as few characters as that takes. */
export function short(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  if (Number.isInteger(value)) return grouped(value);
  return String(Number(value.toPrecision(4))).replace("-", "−");
}

/** A whole number with its thousands apart. */
export const grouped = (value) =>
  String(Math.round(value))
    .replace(/\B(?=(\d{3})+$)/g, "\u202f")
    .replace("-", "−");

/** `[name, unit]` of a feature: "demand, GW" is a demand in GW. The unit may be empty. */
export function nameAndUnit(feature) {
  const comma = feature.lastIndexOf(", ");
  return comma < 0 ? [feature, ""] : [feature.slice(0, comma), feature.slice(comma + 2)];
}

export const plural = (number, word, many = word + "s") => `${grouped(number)} ${number === 1 ? word : many}`;

/** Say something to those who listen to the page; it is on the screen elsewhere. */
export function say(words) {
  document.getElementById("said").textContent = words;
}

/** A table with a head and a header to each row; numbers are written short, and what is missing as a dash. */
export function table(head, rows, caption) {
  const cell = (value) => el("td", {}, typeof value === "number" ? short(value) : (value ?? "–"));
  return el(
    "table",
    {},
    el("caption", { class: "unseen" }, caption),
    el("thead", {}, el("tr", {}, ...head.map((words) => el("th", { scope: "col" }, words)))),
    el(
      "tbody",
      {},
      ...rows.map(([first, ...rest]) => el("tr", {}, el("th", { scope: "row" }, first), ...rest.map(cell))),
    ),
  );
}

/** Whether two values of JSON are the same. */
export const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);

/** Wait until `wait` milliseconds have passed without another call. `cancel()` takes the last call back. */
export function debounced(call, wait) {
  let timer = 0;
  const later = (...args) => {
    clearTimeout(timer);
    timer = setTimeout(() => call(...args), wait);
  };
  later.cancel = () => clearTimeout(timer);
  return later;
}
