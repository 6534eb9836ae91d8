// The address: a view, a model in it, and what is entered there, all after the `#`.

import { versionOf } from "./api.js";

/** Characters of an address that are sure to survive being sent. */
const MOST = 8000;

/** {view, model, version, entered} of an address; `entered` has strings by name. */
export function parsed(hash) {
  const [path, ...query] = hash.slice(1).split("?");
  const [view, model, version] = path.split("/").map(decoded);
  return { view, model, version: Number(version), entered: Object.fromEntries(new URLSearchParams(query.join("?"))) };
}

/** A part of an address; as it is where somebody has cut it. */
function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

/** The address of a view, of a model in it, and of what is entered; without the last where it is too long. */
export function written(view, card, entered = {}) {
  const path = `#${[view, ...(card ? [card.name, versionOf(card)] : [])].filter(Boolean).join("/")}`;
  const whole = Object.keys(entered).length ? `${path}?${new URLSearchParams(entered)}` : path;
  return whole.length > MOST ? path : whole;
}

/** The seed that the server drew for what an address shows, where nobody entered one. */
export const drawnIn = (entered) => (entered?.drawn ? Number(entered.drawn) : undefined);

/** Controls with their names in an address. A value that a control begins with is left out of it. */
export function remembered() {
  let controls = {};
  let began = {};
  const held = () => Object.fromEntries(Object.entries(controls).map(([name, control]) => [name, valueOf(control)]));
  return {
    /** These are the controls. They begin with these values, or with what they have. */
    begin(next, values = {}) {
      controls = next;
      for (const [name, value] of Object.entries(values)) put(controls[name], String(value));
      began = held();
    },
    address: () => Object.fromEntries(Object.entries(held()).filter(([name, value]) => value !== began[name])),
    /** Take the values that an address has. */
    fill(entered) {
      for (const [name, control] of Object.entries(controls).filter(([name]) => name in entered)) {
        put(control, entered[name]);
        // A control does not take everything: a list has its options, and a box of numbers no words.
        if (valueOf(control) !== entered[name]) put(control, began[name]);
      }
    },
  };
}

const isCheck = (control) => control.type === "checkbox";
const valueOf = (control) => (isCheck(control) ? (control.checked ? "yes" : "no") : control.value);

function put(control, value) {
  if (isCheck(control)) control.checked = value === "yes";
  else control.value = value;
  control.dispatchEvent(new Event("filled"));
}
