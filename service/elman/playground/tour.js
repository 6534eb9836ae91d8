// Tour: what a recurrent network does, in a few stages, on a line that the visitor draws or a word that is typed.

import { modelPath, post } from "./api.js";
import { debounced, el, field, newId, same, select } from "./dom.js";
import { families } from "./family.js";
import { drawnLine } from "./line.js";
import { topOf } from "./reading.js";
import { stages } from "./stages.js";
import { answerState } from "./state.js";
import { typedWord } from "./word.js";

const READS = { line: "a line of numbers", word: "a word" };

export function tour(page) {
  /** The models that are shown, with the `kind` of what they read. */
  let models = null;
  /** Those that what is read is laid out for. */
  let ready = null;
  /** The kinds that the served models read. */
  let kinds = [];
  let kind = null;
  let stage = 0;
  let step = 1;
  let run = null;
  let shown = null;
  let visible = false;

  const soon = debounced(() => start(), 120);
  const hooks = {
    changed() {
      if (step > given().length()) step = given().length();
      mark();
      later();
    },
    moved: go,
  };
  const givens = { line: drawnLine(hooks), word: typedWord(hooks) };
  const given = () => givens[kind];
  const reads = select([], {
    on: {
      change() {
        kind = reads.value;
        page.attempt(() => begin(null, { again: true }));
      },
    },
  });
  const readsField = field("The network reads", reads);
  const slider = el("input", { type: "range", min: 1, step: 1, id: newId("step") });
  slider.addEventListener("input", () => go(Number(slider.value)));
  const at = el("output", { for: slider.id, class: "at" });
  const place = el("div", {});
  const title = el("h2", {});
  const begun = el("div", {});
  const holder = el("div", {});
  const below = el("div", {});
  const drawn = el(
    "section",
    { class: "card given" },
    el("div", { class: "slate-head" }, title, readsField, begun),
    holder,
    el("div", { class: "slate-step" }, el("label", { for: slider.id }, "Chosen step"), slider, at),
    place,
    below,
  );

  const parts = stages({ address });
  const steps = el(
    "ol",
    { class: "stages" },
    ...parts.map((part, i) =>
      el(
        "li",
        {},
        el("button", { type: "button", on: { click: () => turn(i) } }, `${i + 1}`, el("span", {}, `. ${part.title}`)),
      ),
    ),
  );
  const heading = el("h2", { tabindex: -1 });
  const count = el("p", { class: "muted" });
  const told = el("div", { class: "stage-words" });
  const results = el("section", { class: "card stage-results", "aria-label": "What the network does" });
  const state = answerState(results);
  const back = el("button", { type: "button", on: { click: () => turn(stage - 1) } }, "Back");
  const next = el("button", { type: "button", class: "primary", on: { click: () => turn(stage + 1) } }, "Next");
  const story = el(
    "div",
    { class: "tour-left" },
    el("section", { class: "stage", "aria-label": "Stage" }, count, heading, told),
    drawn,
  );
  const needs = el("section", { class: "card", "aria-label": "What the tour needs", hidden: true });
  const guided = el(
    "div",
    { class: "tour" },
    el("nav", { "aria-label": "Stages of the tour" }, steps),
    el(
      "div",
      { class: "tour-columns" },
      story,
      el(
        "div",
        { class: "tour-right" },
        state.line,
        results,
        el("div", { class: "actions" }, back, next, page.sharing()),
      ),
    ),
  );
  const element = el("div", {}, guided, needs);

  /** Take the models that are served now, for what an address or the visitor wants to be read. Null if none will do. */
  function choose(wanted) {
    const found = families(page.models());
    kinds = Object.keys(givens).filter((one) => found[one]);
    guided.hidden = !kinds.length;
    needs.hidden = kinds.length > 0;
    if (!kinds.length) {
      models = null;
      needs.replaceChildren(
        el("h2", {}, "The tour needs a model that reads a step at a time"),
        el("p", {}, "No model here does what the tour shows. It needs one that reads numbers or characters and carries its state, such as sunspots-gru or names-gru of the models that come with Elman."),
        el("p", {}, "To compare the three cells it needs two more, whose names differ in the cell alone: sunspots-rnn and sunspots-lstm. The tour begins here as soon as they are served."),
      );
      return null;
    }
    kind = kinds.includes(wanted) ? wanted : kinds[0];
    reads.replaceChildren(...kinds.map((one) => el("option", { value: one }, READS[one])));
    reads.value = kind;
    readsField.hidden = kinds.length < 2;
    return { kind, ...found[kind] };
  }

  /** Show the models of this server, and something for them to read. With `again`, Back leads to what was there. */
  async function begin(entered, { again = false } = {}) {
    const found = choose(entered ? entered.reads : kind);
    if (!found) return;
    if (!entered && shown && same(found, models)) return;
    end();
    const other = models?.kind !== kind;
    models = found;
    shown = null;
    if (entered) stage = Math.max(0, Math.min(parts.length - 1, Math.round(Number(entered.stage) || 1) - 1));
    paint();
    state.ask();
    const examples = await page.examples(found.main).catch((error) => {
      if (models === found) state.fail();
      throw error;
    });
    if (models !== found) return;
    const fresh = given().fit(found.main, examples);
    if (fresh || entered) given().fill(entered ?? {});
    if (fresh || entered || other) step = stepOf(entered?.step);
    ready = found;
    mark();
    if (again) page.follow({ again });
    await start();
  }

  /** The step of an address; the one to begin with where it has none that will do. */
  const stepOf = (entered) =>
    Number(entered) >= 1 && Number(entered) <= given().length() ? Math.round(Number(entered)) : given().first();

  /** What an address says: the stage, the step and what is read, as far as they are not those to begin with. */
  function written() {
    const entered = {};
    if (!ready || ready !== models) return entered;
    if (kind !== kinds[0]) entered.reads = kind;
    if (stage) entered.stage = String(stage + 1);
    if (step !== given().first()) entered.step = String(step);
    return { ...entered, ...given().address() };
  }

  function later() {
    end();
    state.ask();
    soon();
  }

  /** End what is under way: nothing that comes of it is shown. */
  function end() {
    soon.cancel();
    run?.abort();
  }

  /** Ask the models of this stage for their answers, and show them. */
  async function start() {
    end();
    if (!visible || !models || ready !== models) return;
    run = new AbortController();
    const { signal } = run;
    const part = parts[stage];
    shown = null;
    if (part.still) {
      state.reset();
      paint();
      return page.follow();
    }
    state.ask();
    try {
      const sequence = given().sequence();
      const asked = part.alone ? [models.main] : models.all;
      const sequences = part.raises ? [sequence, given().altered(step)] : [sequence];
      const answers = await Promise.all(
        asked.map(async (card) => {
          const body = { sequences, return: "steps", hidden: true, top: topOf(card) };
          const [plain, other] = (await post(modelPath(card, "predict"), body, signal)).results;
          return { card, plain, other };
        }),
      );
      const cut = part.cuts ? await cutIn(models.main, sequence, signal) : null;
      page.clear();
      shown = { step, sequence, altered: sequences[1], answers, cut, words: given().words };
      given().invalid(false);
      given().told(answers[0].plain);
      state.ready();
      part.draw(shown);
      part.at?.(shown);
      page.follow();
    } catch (error) {
      if (signal.aborted) return;
      state.fail();
      given().invalid(error.code === "no_sequence");
      page.problem(error);
    }
  }

  /** What is read, in two parts, with nothing but the state between them. */
  async function cutIn(card, sequence, signal) {
    const path = modelPath(card, "predict");
    const part = (from, to) => (typeof sequence === "string" ? [...sequence].slice(from, to).join("") : sequence.slice(from, to));
    const at = step;
    const [head] = (await post(path, { sequence: part(0, at), return_state: true }, signal)).results;
    const rest = part(at);
    if (!rest.length) return { at, tail: [] };
    const [tail] = (await post(path, { sequence: rest, state: head.state, return: "steps" }, signal)).results;
    return { at, tail: tail.outputs };
  }

  /** Choose a step. What depends on it is asked for anew. */
  function go(next) {
    if (next === step) return;
    step = Math.max(1, Math.min(given().length(), next));
    mark();
    const part = parts[stage];
    if (part.raises || part.cuts) later();
    else if (shown && !results.hidden) part.at?.({ ...shown, step });
  }

  function mark() {
    const length = given().length();
    given().mark(step);
    slider.max = length;
    slider.value = step;
    slider.setAttribute("aria-valuetext", `step ${step} of ${length}`);
    at.textContent = `${step} of ${length}`;
  }

  /** Turn to a stage, as somebody asked for it. */
  function turn(to) {
    if (to === parts.length || to < 0) return;
    stage = to;
    // An address says nothing of what is still being made ready.
    if (ready === models) page.follow({ again: true });
    paint();
    state.reset();
    start();
    heading.focus({ preventScroll: true });
    heading.scrollIntoView({ block: "nearest" });
  }

  function paint() {
    const part = parts[stage];
    steps.querySelectorAll("button").forEach((button, i) => {
      if (i !== stage) return button.removeAttribute("aria-current");
      button.setAttribute("aria-current", "step");
    });
    count.textContent = `Stage ${stage + 1} of ${parts.length}`;
    heading.textContent = part.title;
    const { words } = given();
    drawn.setAttribute("aria-label", given().title);
    title.textContent = given().title;
    if (!holder.contains(given().element)) {
      begun.replaceChildren(given().head);
      holder.replaceChildren(given().element);
      below.replaceChildren(...[given().below].filter(Boolean));
    }
    told.replaceChildren(...part.words(models, words).map((one) => (typeof one === "string" ? el("p", {}, one) : one)));
    results.replaceChildren(...part.figures(models, words));
    back.disabled = stage === 0;
    next.hidden = stage === parts.length - 1;
  }

  /** The address of a view with what is read in it. */
  function address(view, card) {
    return `#${view}/${encodeURIComponent(card.name)}?${new URLSearchParams({ input: given().text() })}`;
  }

  return {
    element,
    model: false,
    offers: () => true,
    always: true,
    empty: "",
    async show(_, entered) {
      visible = true;
      if (entered && !same(entered, written())) await begin(entered);
      else await begin();
      return true;
    },
    address: written,
    changed: () => page.attempt(begin),
    place,
    hide() {
      visible = false;
      end();
    },
  };
}
