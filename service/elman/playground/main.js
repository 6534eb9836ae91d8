// The page: tabs, the model that is chosen, its card, and the errors of the API.

import { get, key, modelPath, Problem, versionOf } from "./api.js";
import { el, field, grouped, plural, select } from "./dom.js";
import { engine } from "./engine.js";
import { explore } from "./explore.js";
import { forecast } from "./forecast.js";
import { generate } from "./generate.js";
import { stepWords } from "./input.js";
import { ports } from "./named.js";
import { session } from "./session.js";

const VIEWS = { explore, session, generate, forecast, engine };
/** What a newcomer sees first, where it is served. */
const FIRST = ["names-gru", "names-lstm", "names-rnn"];

const problemBox = document.getElementById("problem");
const modelBox = document.getElementById("model");
const tabs = [...document.querySelectorAll('[role="tab"]')];

let models = [];
let refused = [];
let view = "explore";
/** The model that each view was last used with, and the one that was chosen last at all. */
const used = new Map();
let last = null;
const examples = new Map();

const page = {
  models: () => models,
  refused: () => refused,
  chosen: () => last,
  async examples(card) {
    const where = modelPath(card, "examples");
    if (card.examples === 0) return [];
    if (!examples.has(where)) {
      try {
        examples.set(where, (await get(where)).examples);
      } catch (error) {
        if (error.status === 401) throw error;
        return [];
      }
    }
    return examples.get(where);
  },
  problem(error) {
    const asked = error instanceof Problem;
    const said = [error.code, error.message, error.where].join(" ");
    // What is said already is not said again, as by a view that asks every second.
    if (problemBox.dataset.said === said) return;
    problemBox.dataset.said = said;
    problemBox.dataset.code = asked ? error.code : "page";
    problemBox.replaceChildren(
      el(
        "div",
        { class: "problem" },
        el(
          "p",
          { class: "problem-head" },
          el("strong", {}, asked ? error.title : "This did not work"),
          asked ? el("code", {}, error.code) : null,
          asked && error.status ? el("span", { class: "muted number" }, String(error.status)) : null,
        ),
        el("p", {}, error.message),
        asked && error.where ? el("p", {}, "Where: ", el("code", {}, error.where)) : null,
        asked && error.expected !== undefined && error.expected !== null
          ? el(
              "p",
              { class: "muted" },
              "Expected: ",
              typeof error.expected === "object" ? JSON.stringify(error.expected) : String(error.expected),
            )
          : null,
        el(
          "button",
          {
            type: "button",
            class: "quiet close",
            "aria-label": "Close the message",
            on: { click: () => page.clear() },
          },
          "Close",
        ),
      ),
    );
    if (!asked) console.warn(error);
    if (asked && error.status === 401) keyBox.open = true;
  },
  /** Call, and show what it raises. */
  async attempt(action) {
    try {
      await action();
    } catch (error) {
      page.problem(error);
    }
  },
  problemOf: (body) => new Problem(body, body.status),
  /** Take the message away; with a code, only a message of that code. */
  clear(code) {
    if (code && problemBox.dataset.code !== code) return;
    problemBox.replaceChildren();
    delete problemBox.dataset.code;
    delete problemBox.dataset.said;
  },
};

const views = {};
for (const [name, create] of Object.entries(VIEWS)) {
  views[name] = create(page);
  views[name].nothing = el("p", { class: "card empty nothing", hidden: true }, views[name].empty);
  document.getElementById(name).append(views[name].nothing, views[name].element);
}

/** The view that a tab opens. */
const viewOf = (tab) => tab.getAttribute("aria-controls");

// Tabs: one is in the tab order; the arrows, Home and End go from one to the next.
tabs.forEach((tab, i) => {
  tab.addEventListener("click", () => open(viewOf(tab)));
  tab.addEventListener("keydown", (event) => {
    const to = { ArrowRight: i + 1, ArrowLeft: i - 1, Home: 0, End: tabs.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    const next = tabs[(to + tabs.length) % tabs.length];
    next.focus();
    open(viewOf(next));
  });
});
/** Show a view, with a model that it can show. */
async function open(next, wanted) {
  if (next !== view) views[view].hide();
  view = next;
  page.clear();
  for (const tab of tabs) {
    const chosen = viewOf(tab) === view;
    tab.setAttribute("aria-selected", String(chosen));
    tab.tabIndex = chosen ? 0 : -1;
    document.getElementById(viewOf(tab)).hidden = !chosen;
  }
  document.querySelector('[aria-selected="true"]').scrollIntoView({ block: "nearest", inline: "nearest" });
  const { offers, model = true, element, nothing } = views[view];
  const offered = models.filter(offers);
  const first = FIRST.map((one) => offered.find((other) => other.name === one)).find(Boolean);
  const card =
    wanted ?? used.get(view) ?? (offered.includes(last) ? last : null) ?? akin(last, offered) ?? first ?? offered[0];
  element.hidden = !card;
  nothing.hidden = Boolean(card);
  modelBox.hidden = !card || !model;
  if (card && model) {
    used.set(view, card);
    last = card;
    showModel(card, offered);
  }
  document.title = `${document.getElementById(`tab-${view}`).textContent} · Elman`;
  const hash = `#${[view, ...(card && model ? [card.name, versionOf(card)] : [])].filter(Boolean).join("/")}`;
  if (location.hash !== hash) history.replaceState(null, "", hash);
  if (!card) return;
  try {
    await views[view].show(card);
  } catch (error) {
    page.problem(error);
  }
}

/** A model of the same family, of the same cell where there is one: names-lstm-generator for names-lstm. */
function akin(card, offered) {
  const family = offered.filter((one) => card && one.name.split("-")[0] === card.name.split("-")[0]);
  return family.find((one) => one.cell === card.cell) ?? family[0];
}

/** The model that is chosen, those that may be, and its card. */
function showModel(card, offered) {
  const groups = grouping(offered);
  const choose = () =>
    open(
      view,
      offered.find((one) => one.name === choice.value),
    );
  const choice = el(
    "select",
    { on: { change: choose } },
    ...[...groups].map(([task, ones]) =>
      el(
        "optgroup",
        { label: task },
        ...ones.map((one) => el("option", { value: one.name, selected: one.name === card.name }, one.name)),
      ),
    ),
  );
  const version =
    card.versions.length > 1
      ? field(
          "Version",
          select(
            [...card.versions].reverse().map((one) => [one, String(one)]),
            { value: card.version, on: { change: (event) => openVersion(card, Number(event.target.value)) } },
          ),
        )
      : null;
  const hadFocus = modelBox.contains(document.activeElement);
  modelBox.replaceChildren(el("div", { class: "choice" }, field("Model", choice), version), facts(card), ports(card));
  if (version) version.querySelector("select").value = card.version;
  if (hadFocus) choice.focus();
}

/** Models by task. */
function grouping(offered) {
  const groups = new Map();
  for (const one of offered) groups.set(one.task, [...(groups.get(one.task) ?? []), one]);
  return groups;
}

/** Show another version of the model. */
async function openVersion(card, version) {
  try {
    await open(view, await get(`v1/models/${encodeURIComponent(card.name)}/versions/${version}`));
  } catch (error) {
    page.problem(error);
  }
}

/** The card, in the words of someone who has not met the model before. */
function facts(card) {
  const { batching, input, state } = card;
  const rows = [
    ["Task", card.task],
    ["Network", `${card.cell.toUpperCase()}, ${plural(card.layers, "layer")} of ${card.hidden_size}`],
    ["Direction", card.direction === "forward" ? "forward" : "both ways"],
    ["Input", input.names && input.names.length <= 8 ? input.names.join(" · ") : stepWords(card)],
    ["Output", outputWords(card)],
    ["State", `${grouped(state.bytes)} bytes (${state.tensors.map((tensor) => tensor.name).join(", ") || "none"})`],
    [
      "Batching",
      batching.exact ? "exact, the same bits in any batch" : (batching.reason ?? `within ${batching.tolerance}`),
    ],
    ["Digest", el("span", { class: "mono", title: card.digest }, card.digest.replace("sha256:", "").slice(0, 12))],
  ];
  return el(
    "dl",
    { class: "facts", "aria-label": `Card of ${card.name}` },
    ...rows.map(([term, words]) => el("div", {}, el("dt", {}, term), el("dd", {}, words))),
  );
}

/** What comes out at a step, in words. */
function outputWords({ output, task, forecast }) {
  if (output.labels) return `one of ${plural(output.labels.length, "label")}`;
  if (task === "generation") return `the next of ${plural(output.size, "token")}`;
  return forecast
    ? `the next ${output.size === 1 ? "value" : `${output.size} values`}`
    : `${plural(output.size, "number")} a step`;
}

const keyBox = document.querySelector(".key");
keyBox.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  keyBox.open = false;
  keyBox.querySelector("summary").focus();
});
document.getElementById("key").value = key.get();
document.getElementById("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  key.set(document.getElementById("key").value.trim());
  keyBox.open = false;
  load();
});

/** Ask which models there are, and open what the address says. */
async function load() {
  try {
    ({ models, refused } = await get("v1/models"));
    page.clear();
  } catch (error) {
    page.problem(error);
    return;
  }
  const [wantedView, wantedModel, version] = location.hash.slice(1).split("/").map(decodeURIComponent);
  const known = wantedView in VIEWS ? wantedView : "explore";
  const card = models.find((one) => one.name === wantedModel && views[known].offers(one));
  await open(known, card);
  if (card && version && Number(version) !== card.version) await openVersion(card, Number(version));
}

window.addEventListener("hashchange", load);
load();
