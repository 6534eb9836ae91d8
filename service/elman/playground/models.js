// Models: all that the server serves and refuses, to be searched.

import { remembered } from "./address.js";
import { versionOf } from "./api.js";
import { el, field, plural } from "./dom.js";

export function models(page) {
  const search = el("input", { type: "search", autocomplete: "off", spellcheck: "false", on: { input: searched } });
  const memory = remembered();
  memory.begin({ search });
  const count = el("p", { class: "muted lead", role: "status" });
  const groups = el("div", { class: "model-groups" });
  const refused = el("section", { class: "card", "aria-label": "Refused" });
  const element = el(
    "div",
    {},
    el("div", { class: "section-head" }, el("h2", {}, "Models"), count),
    field("Search", search, "by name, task or cell"),
    groups,
    refused,
  );

  function searched() {
    paint();
    page.follow();
  }

  function paint() {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const matches = (text) => words.every((word) => text.toLowerCase().includes(word));
    const found = page.models().filter((one) => matches(`${one.name} ${one.task} ${one.cell}`));
    count.textContent = `${plural(found.length, "model")} served${words.length ? " with these words" : ""}`;
    groups.replaceChildren(
      ...[...byTask(found)].map(([task, ones]) =>
        el("section", { class: "card", "aria-label": task }, el("h3", {}, task), el("ul", {}, ...ones.map(entry))),
      ),
    );
    const files = page.refused().filter((one) => matches(`${one.name} ${one.reason}`));
    refused.hidden = !files.length;
    refused.replaceChildren(el("h3", {}, "Refused"), ...files.map(refusal));
  }

  return {
    element,
    model: false,
    offers: () => true,
    always: true,
    empty: "",
    async show(card, entered) {
      if (entered) memory.fill({ search: "", ...entered });
      paint();
      return true;
    },
    address: memory.address,
    /** What is served or refused has changed. */
    changed: paint,
    hide() {},
  };
}

/** Cards by task, in the order of the first of each. */
export function byTask(cards) {
  const groups = new Map();
  for (const one of cards) groups.set(one.task, [...(groups.get(one.task) ?? []), one]);
  return groups;
}

function entry(card) {
  const version = versionOf(card);
  const cells = `${card.cell.toUpperCase()}, ${plural(card.layers, "layer")} of ${card.hidden_size}`;
  return el(
    "li",
    {},
    el("a", { href: `#explore/${encodeURIComponent(card.name)}${version ? `/${version}` : ""}` }, card.name),
    el("span", { class: "muted" }, card.streaming ? `${cells}, step by step` : `${cells}, whole sequences`),
  );
}

/** A file that is not served, why, and what would mend it. */
export const refusal = (one) =>
  el(
    "p",
    {},
    el("strong", {}, one.name),
    one.version ? ` ${one.version}` : "",
    `: ${one.reason}. `,
    el("span", { class: "muted" }, one.remedy ?? ""),
  );
