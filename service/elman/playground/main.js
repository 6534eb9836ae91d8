// The page: tabs, the model that is chosen, its card, and the errors of the API.

import { parsed, written } from "./address.js";
import { get, modelPath, Problem, versionOf } from "./api.js";
import { el, field, newId, same, say, select } from "./dom.js";
import { askModels } from "./early.js";
import { engine } from "./engine.js";
import { explore } from "./explore.js";
import { facts } from "./facts.js";
import { forecast } from "./forecast.js";
import { generate } from "./generate.js";
import { keyDialog } from "./key.js";
import { message } from "./message.js";
import { byTask, models as home, refusal } from "./models.js";
import { parted, ports } from "./named.js";
import { session } from "./session.js";
import { tour } from "./tour.js";

const VIEWS = { tour, models: home, explore, session, generate, forecast, engine };
/** What a newcomer sees first, where it is served. */
const FIRST = ["names-gru", "names-lstm", "names-rnn"];
/** Milliseconds between two looks at what is served. */
const LOOK = 3000;
/** Models that a list shows at once. Of more, one types the name. */
const MOST_LISTED = 40;
const NO_FILES = "Files of a sequence are read in the views Explore and Forecast.";
const told = message({ place: () => views[view].place, askKey: (problem) => keys.open(problem) });
const modelBox = document.getElementById("model");
const about = el("div", { class: "about" });
const narrow = window.matchMedia("(max-width: 520px)");
narrow.addEventListener("change", placeAbout);
const tabs = [...document.querySelectorAll('[role="tab"]')];

let models = [];
let refused = [];
let view = "explore";
/** The model that each view was last used with, and the one that was chosen last at all. */
const used = new Map();
let last = null;
/** The card that is shown. */
let shown = null;
/** The list of models as the server last gave it, and as the view that is shown knows it. */
let asked = "";
let seen = "";
/** How many views were opened, and whether the last of them shows what it was opened with. */
let opened = 0;
let settled = false;
/** How often something was chosen: what comes for an earlier choice is passed over. */
let turn = 0;
/** The address that is opened; null at first. After Back, `location.hash` is another until `hashchange` comes. */
let at = null;
/** How often the models were asked for, and which of the answers is in force. */
let asks = 0;
let heard = 0;
/** Examples by card: a card that changes is another object. */
const examples = new WeakMap();

const page = {
  models: () => models,
  refused: () => refused,
  chosen: () => last,
  /** The card of a model, of its default version unless one is named. Raises Problem. */
  async card(name, version = 0) {
    const found = models.find((one) => one.name === name && (!version || one.version === version));
    return found ?? get(`v1/models/${encodeURIComponent(name)}${version ? `/versions/${version}` : ""}`);
  },
  /** A model's examples; none where the server refuses them. Raises Problem where it cannot be asked. */
  async examples(card) {
    if (card.examples === 0) return [];
    if (!examples.has(card)) {
      try {
        const answer = await get(modelPath(card, "examples"));
        examples.set(card, answer.examples.map((one) => parted(card, one)));
      } catch (error) {
        if (error.status === 401 || error.code === "unreachable") throw error;
        return [];
      }
    }
    return examples.get(card);
  },
  problem: (error) => told.tell(error),
  clear: (code) => told.clear(code),
  /** A button that puts what is shown into the address, and copies that. */
  sharing: () => el("button", { type: "button", name: "share", class: "quiet share", on: { click: share } }, "Share"),
  problemOf: (body) => new Problem(body, body.status),
};

/** The page as a view has it: what a view says counts while it is shown. */
function pageFor(name) {
  const whileShown =
    (call) =>
    (...given) =>
      name === view ? call(...given) : undefined;
  const [problem, clear] = [page.problem, page.clear].map(whileShown);
  return {
    ...page,
    problem,
    clear,
    follow: whileShown(follow),
    /** Call, and show what it raises. */
    async attempt(action) {
      try {
        await action();
      } catch (error) {
        problem(error);
      }
    },
  };
}

const views = {};
for (const [name, create] of Object.entries(VIEWS)) {
  views[name] = create(pageFor(name));
  views[name].nothing = el("section", { class: "card empty nothing", hidden: true, "aria-label": "Nothing to show" });
  document.getElementById(name).append(views[name].nothing, views[name].element);
}

/** The view that a tab opens. */
const viewOf = (tab) => tab.getAttribute("aria-controls");

// Tabs: one is in the tab order; the arrows, Home and End go from one to the next.
tabs.forEach((tab, i) => {
  tab.addEventListener("click", () => go(viewOf(tab)));
  tab.addEventListener("keydown", (event) => {
    const to = { ArrowRight: i + 1, ArrowLeft: i - 1, Home: 0, End: tabs.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    const next = tabs[(to + tabs.length) % tabs.length];
    next.focus();
    go(viewOf(next));
  });
});

/** Open a view as somebody asked for it: Back leads to what was there before. */
function go(next, wanted, entered) {
  if (asked) return open(next, wanted, { push: true, entered });
  history.pushState(null, "", written(next, null));
  return arrive();
}

/**
 * Show a view, with a model that it can show, and with what is entered there; by itself, with what was before.
 *
 * Whether nothing else was opened meanwhile.
 */
async function open(next, wanted, { push = false, entered } = {}) {
  const mine = (opened += 1);
  const moved = next !== view || mine === 1;
  turn += 1;
  settled = false;
  if (next !== view) views[view].hide();
  view = next;
  page.clear();
  for (const tab of tabs) {
    const chosen = viewOf(tab) === view;
    tab.setAttribute("aria-selected", String(chosen));
    tab.tabIndex = chosen ? 0 : -1;
    document.getElementById(viewOf(tab)).hidden = !chosen;
  }
  if (moved)
    document.querySelector('[aria-selected="true"]').scrollIntoView({ block: "nearest", inline: "nearest" });
  seen = asked;
  const { offers, model = true, element, nothing } = views[view];
  const offered = models.filter(offers);
  const first = FIRST.map((one) => offered.find((other) => other.name === one)).find(Boolean);
  const card =
    wanted ?? used.get(view) ?? (offered.includes(last) ? last : null) ?? akin(last, offered) ?? first ?? offered[0];
  const has = Boolean(card) || Boolean(views[view].always);
  element.hidden = !has;
  nothing.hidden = has;
  if (!has) showNothing(nothing, views[view].empty);
  modelBox.hidden = !card || !model;
  if (card && model) {
    used.set(view, card);
    last = card;
    showModel(card, offered);
  }
  document.title = `${document.getElementById(`tab-${view}`).textContent} · Elman`;
  const hash = written(view, card && model ? card : null, entered);
  const elsewhere = location.hash.split("?")[0] !== hash.split("?")[0];
  if (push || !arriving()) write(elsewhere ? hash : location.hash, { push });
  try {
    const asBefore = has && (await views[view].show(card, entered));
    if (mine !== opened) return false;
    settled = true;
    // A view that is as it was left has an address with what is entered there.
    if (asBefore && !arriving()) write(address());
  } catch (error) {
    if (mine === opened) page.problem(error);
  }
  return mine === opened;
}

/** Open the view that is shown once more, with what is entered. */
function reopen() {
  const entered = settled ? views[view].address?.() : parsed(location.hash).entered;
  return open(view, used.get(view), { entered });
}

/** Whether the address is still to be opened. What is shown must not be written over it. */
const arriving = () => location.hash !== at;

/** Write the address of what is opened. With `push`, Back leads to the one before. */
function write(hash, { push = false } = {}) {
  if (location.hash !== hash) history[push ? "pushState" : "replaceState"](null, "", hash);
  at = location.hash;
}

/** The address of what is shown, with what is entered where an address can hold that. */
const address = () => written(view, views[view].model === false ? null : shown, views[view].address?.());

/**
 * The view shows the answer to what is entered: the address follows.
 *
 * Back leads to the model as it opens; with `again`, also to what was entered before, and with false to neither.
 */
function follow({ again = !location.hash.includes("?") } = {}) {
  // An answer to what was left by Back must not undo that.
  if (!arriving()) write(address(), { push: again });
}

/** Put what is shown into the address, and copy that where the browser allows it. */
async function share({ target }) {
  const hash = address();
  // What is shown is what is chosen, and not what Back was about to lead to.
  turn += 1;
  write(hash, { push: true });
  const entered = Object.keys(views[view].address?.() ?? {}).length > 0;
  const what = views[view].model === false ? "view" : "model";
  const alone = entered ? `to the ${what} alone (the input is too long)` : `to the ${what}`;
  const words = hash.includes("?") ? "with the input" : alone;
  try {
    await navigator.clipboard.writeText(location.href);
    target.textContent = `Link ${words} copied`;
  } catch {
    // Without HTTPS, or without leave, a page cannot copy.
    target.textContent = `Link ${words} is in the address bar`;
  }
  say(target.textContent);
}

/** Why a view has nothing to show, and the files that are not served. */
function showNothing(place, words) {
  place.replaceChildren(
    el("p", {}, words),
    ...(refused.length ? [el("h2", {}, "Refused"), ...refused.map(refusal)] : []),
  );
}

/** A model of the same family, of the same cell where there is one: names-lstm-generator for names-lstm. */
function akin(card, offered) {
  const family = offered.filter((one) => card && one.name.split("-")[0] === card.name.split("-")[0]);
  return family.find((one) => one.cell === card.cell) ?? family[0];
}

/** The model that is chosen, those that may be, and its card. */
function showModel(card, offered) {
  const choose = () => {
    const found = offered.find((one) => one.name === choice.value);
    if (found && found !== card) go(view, found);
  };
  const choice = offered.length > MOST_LISTED ? typed(card, offered, choose) : listed(card, offered, choose);
  choice.name = "model";
  const version =
    card.versions.length > 1
      ? field(
          "Version",
          select(
            [...card.versions].reverse().map((one) => [one, String(one)]),
            { name: "version", on: { change: (event) => openVersion(card, Number(event.target.value)) } },
          ),
        )
      : null;
  shown = card;
  const focused = modelBox.contains(document.activeElement) ? document.activeElement.name : null;
  modelBox.replaceChildren(
    el("div", { class: "choice" }, field("Model", choice), choice.names ?? null, version, page.sharing()),
  );
  about.replaceChildren(facts(card), ports(card));
  placeAbout();
  if (version) version.querySelector("select").value = card.version;
  // Whoever is at a control stays there, so that its keys go on.
  if (focused !== null) (modelBox.querySelector(`[name="${focused || "model"}"]`) ?? choice).focus();
}

/** The card of the model: above the view, or below it on a phone where the view would be out of sight. */
function placeAbout() {
  (narrow.matches && views[view].below ? views[view].below : modelBox).append(about);
}

/** A list of the models, by task. */
function listed(card, offered, choose) {
  return el(
    "select",
    { on: { change: choose } },
    ...[...byTask(offered)].map(([task, ones]) =>
      el(
        "optgroup",
        { label: task },
        ...ones.map((one) => el("option", { value: one.name, selected: one.name === card.name }, one.name)),
      ),
    ),
  );
}

/** A box to type a model's name, which the browser completes. */
function typed(card, offered, choose) {
  const id = newId("names");
  const box = el("input", { type: "text", list: id, autocomplete: "off", spellcheck: "false", on: { change: choose } });
  box.value = card.name;
  box.names = el("datalist", { id }, ...offered.map((one) => el("option", { value: one.name })));
  return box;
}

/** Show another version of the model, with what is entered. */
async function openVersion(card, version) {
  const mine = (turn += 1);
  try {
    const found = await page.card(card.name, version);
    if (mine === turn) go(view, found, views[view].address?.());
  } catch (error) {
    if (mine !== turn) return;
    showModel(card, models.filter(views[view].offers));
    page.problem(error);
  }
}

const keys = keyDialog(() => arrive({ anew: true }));
document.getElementById("key").addEventListener("click", () => keys.open());

/** Ask which models there are. Cards that are as they were stay the same. */
async function ask() {
  const mine = (asks += 1);
  const answer = await askModels();
  const now = JSON.stringify(answer);
  if (mine < heard) return;
  heard = mine;
  if (now === asked) return;
  asked = now;
  const before = new Map(models.map((one) => [JSON.stringify(one), one]));
  models = answer.models.map((one) => before.get(JSON.stringify(one)) ?? one);
  refused = answer.refused;
  for (const [name, card] of used) used.set(name, served(card));
  last = served(last);
}

/** Open what the address says. Models are asked for where it may name one that is not known yet. */
async function arrive({ anew = false } = {}) {
  const mine = (turn += 1);
  const { hash } = location;
  const { view: wanted, model, version, entered } = parsed(hash);
  const known = Object.hasOwn(VIEWS, wanted) ? wanted : "explore";
  const find = () => models.find((one) => one.name === model);
  let fault = null;
  at = null;
  try {
    if (anew || !asked || (model && !find())) await ask();
  } catch (error) {
    if (mine === turn) page.problem(error);
    return;
  } finally {
    document.getElementById("loading").hidden = true;
  }
  const card = find();
  const fits = !model || (card && views[known].offers(card));
  const named = fits && card && version ? await page.card(model, version).catch((error) => (fault = error) && card) : card;
  if (mine !== turn) return;
  at = hash;
  if (!fits) await missing(known, model, card);
  else if ((await open(known, named, { entered })) && fault) page.problem(fault);
}

/** Say that the address names a model that is not there, or that this view is not for. */
async function missing(next, name, card) {
  const file = refused.find((one) => one.name === name);
  const hash = at;
  if (!(await open(card ? "explore" : "models", card))) return;
  if (!arriving()) write(hash);
  page.problem(
    new Problem(
      card
        ? { code: "other_view", title: "Not for this model", detail: `${name} has no view “${next}”; it is shown here.` }
        : {
            code: "unknown_model",
            title: "No such model",
            detail: file ? `${name} is refused: ${file.reason}. ${file.remedy ?? ""}` : `There is no model “${name}” here.`,
          },
    ),
  );
}

/** Look whether models came or went, and whether the server is there again, while somebody looks at the page. */
async function look() {
  try {
    const lost = told.lost();
    if (document.hidden || (!asked && !lost)) return;
    await ask();
    if (arriving()) return await arrive();
    const changed = seen !== asked;
    seen = asked;
    if (changed) views[view].changed?.();
    const card = used.get(view);
    const other = changed && views[view].model !== false && (!card || card !== shown);
    if (lost || other) await reopen();
    else if (changed && views[view].model !== false) showModel(card, models.filter(views[view].offers));
  } catch (error) {
    if (error.code !== "unreachable") page.problem(error);
  } finally {
    setTimeout(look, LOOK);
  }
}

/** The card of a model as it is served now: of its default version, or of the other one that was chosen. */
function served(card) {
  const found = card && models.find((one) => one.name === card.name);
  if (!found || !versionOf(card) || !found.versions.includes(card.version)) return found;
  return same(card.versions, found.versions) ? card : { ...card, versions: found.versions };
}

// While the page is read the browser would put the focus on a panel whose name is the address.
window.addEventListener("load", () => tabs.forEach((tab) => (document.getElementById(viewOf(tab)).tabIndex = 0)));

// A file that is dropped would make the browser leave the page. The view that can read it does.
const isFile = (event) => event.dataTransfer?.types.includes("Files");
window.addEventListener("dragover", (event) => {
  if (isFile(event)) event.preventDefault();
});
window.addEventListener("drop", (event) => {
  if (!isFile(event)) return;
  event.preventDefault();
  const [file] = event.dataTransfer.files;
  if (views[view].read) views[view].read(file);
  else page.problem(new Problem({ code: "no_files", title: "No file is read here", detail: NO_FILES }, 0));
});
// The target of this link is no view.
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  document.getElementById("main").focus();
});
window.addEventListener("hashchange", () => arrive());
arrive();
setTimeout(look, LOOK);
