// What would do the same from a shell and from Python.

import { key, root } from "./api.js";
import { el, grouped, newId, say } from "./dom.js";
import { ranked } from "./reading.js";

/** Characters of an array of numbers above which its middle is left out, and those that are shown at its ends. */
const LONGEST = 480;
const HEAD = 200;
const TAIL = 40;

/** Two blocks of code with a copy button each. `show({curl, python})` fills them. */
export function snippets() {
  const curl = block("curl");
  const python = block("Python");
  const element = el(
    "section",
    { class: "snippets", "aria-label": "The same from outside this page", hidden: true },
    el("h2", {}, "The same from outside"),
    el("div", { class: "pair" }, curl.element, python.element),
  );
  return {
    element,
    show(code) {
      element.hidden = false;
      curl.show(code.curl);
      python.show(code.python);
    },
  };
}

function block(name) {
  const code = el("code");
  let whole = "";
  const id = newId("code");
  const copy = el("button", { type: "button", class: "quiet", "aria-label": `Copy the ${name} code` }, "Copy");
  copy.addEventListener("click", async () => {
    const done = await copied(code, whole);
    copy.textContent = done ? "Copied" : "Selected";
    say(
      done ? `The ${name} code is copied` : `The ${name} code is selected: the browser does not let the page copy it`,
    );
    setTimeout(() => (copy.textContent = "Copy"), 1600);
  });
  return {
    element: el(
      "div",
      { class: "code" },
      el("div", { class: "code-head" }, el("span", { id }, name), copy),
      el("pre", { tabindex: 0, role: "region", "aria-labelledby": id, "data-language": name.toLowerCase() }, code),
    ),
    show(text) {
      // What somebody reads at the moment is not folded again.
      if (text !== whole) code.replaceChildren(...abridged(text));
      whole = text;
    },
  };
}

/** A text with the middle of each long array of numbers folded into a button. */
function abridged(text) {
  const nodes = [];
  let from = 0;
  for (const { index, 0: array } of text.matchAll(/\[[-+\w.,\s[\]]*\]/g)) {
    if (array.length <= LONGEST) continue;
    const between = array.includes("],") ? "]," : ",";
    const start = array.indexOf(between, HEAD) + between.length;
    const end = array.lastIndexOf(between, array.length - TAIL) + between.length;
    if (start >= end) continue;
    const middle = array.slice(start, end);
    nodes.push(text.slice(from, index + start), folded(middle, middle.split(between).length - 1));
    from = index + end;
  }
  return [...nodes, text.slice(from)];
}

/** A button that becomes the text that it stands for. */
function folded(text, count) {
  const button = el(
    "button",
    {
      type: "button",
      class: "quiet folded",
      on: {
        click() {
          const pre = button.closest("pre");
          button.replaceWith(text);
          pre.focus();
        },
      },
    },
    `… ${grouped(count)} more …`,
  );
  return button;
}

/** Copy the whole text. Where the browser does not let a page do so, as without TLS, it is left selected. */
async function copied(element, whole) {
  try {
    await navigator.clipboard.writeText(whole);
    return true;
  } catch {
    element.textContent = whole;
    getSelection().selectAllChildren(element);
    return false;
  }
}

/** A curl command for a request of JSON. */
export function curl(method, path, body, flags = "") {
  const parts = [`curl -s${flags}`];
  if (method !== "GET" && !(method === "POST" && body !== undefined)) parts.push(`-X ${method}`);
  parts.push(quoted(`${root}/${path}`));
  if (key.get()) parts.push('-H "Authorization: Bearer $ELMAN_API_KEY"');
  const line = parts.join(" ");
  return body === undefined ? line : `${line} \\\n  -d ${quoted(JSON.stringify(body))}`;
}

const quoted = (text) => (/^[\w:/.\-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`);

/** A program that opens a client; `lines` stand inside, each indented once. */
export function python(lines, imports = []) {
  const open = key.get() ? `Client(${literal(root)}, api_key=os.environ["ELMAN_API_KEY"])` : `Client(${literal(root)})`;
  const head = [...(key.get() ? ["import os", ""] : []), ...imports, "from elman import Client"];
  return [...head, "", `with ${open} as elman:`, ...lines.map((line) => "    " + line)].join("\n");
}

/** A JSON value as Python writes it. */
export function literal(value) {
  if (value === null || value === undefined) return "None";
  if (value === true) return "True";
  if (value === false) return "False";
  if (Array.isArray(value)) return `[${value.map(literal).join(", ")}]`;
  if (typeof value === "object") {
    return `{${Object.entries(value)
      .map(([name, one]) => `${literal(name)}: ${literal(one)}`)
      .join(", ")}}`;
  }
  return JSON.stringify(value);
}

/** What a program needs for a sequence: `{imports, value}`, an array but for a text, or several by name. */
export function sequenceCode(card, sequence) {
  if (typeof sequence === "string") return { imports: [], value: literal(sequence) };
  if (!Array.isArray(sequence)) {
    const arrays = Object.entries(sequence).map(([name, values]) => `${literal(name)}: ${arrayCode(card, name, values)}`);
    return { imports: ["import numpy as np"], value: `{${arrays.join(", ")}}` };
  }
  const type = card.input.kind === "tokens" ? "np.int32" : "np.float32";
  return { imports: ["import numpy as np"], value: `np.array(${literal(sequence)}, ${type})` };
}

/** One of several sequence inputs as an array. */
function arrayCode(card, name, values) {
  if (typeof values === "string") return literal(values);
  return `np.array(${literal(values)}, np.${card.inputs.find((one) => one.name === name).dtype})`;
}

/** The line that prints what an answer says last: a label, values in the data's units, or the bare outputs. */
export function printed(card, name, answer, before = "") {
  if (answer ? answer.decoded?.at(-1)?.top : ranked(card)) return `print(${before}${name}.label, ${name}.probability)`;
  const has = answer?.decoded?.length;
  if (answer?.output) return `print(${before}${name}.${has ? "values" : "output"})`;
  return `print(${before}${name}.${has ? "values" : "outputs"}[-1:])`;
}

/** Keyword arguments, those that are undefined left out, with a comma before each. */
export const keywords = (values) =>
  Object.entries(values)
    .filter(([, value]) => value !== undefined)
    .map(([name, value]) => `, ${name}=${literal(value)}`)
    .join("");
