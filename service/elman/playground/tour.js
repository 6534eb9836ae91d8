// Tour: what a recurrent network does, in a few stages, on a line that the visitor draws.

import { modelPath, post } from "./api.js";
import { debounced, el, field, newId, same, select } from "./dom.js";
import { family, rangeOf, SHAPES, STEPS } from "./family.js";
import { asText } from "./input.js";
import { slate } from "./slate.js";
import { stages } from "./stages.js";
import { answerState } from "./state.js";

/** How far a step is raised, as a share of the height of the line. */
const RAISED = 0.4;
/** The step that is chosen to begin with. */
const FIRST = Math.round(STEPS / 3);

export function tour(page) {
  let models = null;
  /** The model that the line was laid out for. */
  let fitted = null;
  let range = [0, 1];
  let rows = [];
  let stage = 0;
  let step = FIRST;
  let run = null;
  let shown = null;
  let visible = false;

  const soon = debounced(() => start(), 120);
  const line = slate({
    changed() {
      shape.value = "own";
      later();
    },
    moved: go,
  });
  const hint = el(
    "p",
    { class: "muted", id: newId("hint") },
    "Draw it with a finger or the mouse. With the keys: left and right choose a step, up and down move it.",
  );
  line.element.setAttribute("aria-describedby", hint.id);
  const shape = select([], {
    on: {
      change() {
        if (shape.value !== "own") take(shape.value);
        later();
      },
    },
  });
  const slider = el("input", { type: "range", min: 1, max: STEPS, step: 1, id: newId("step") });
  slider.addEventListener("input", () => go(Number(slider.value)));
  const at = el("output", { for: slider.id, class: "at" });
  const fed = el("p", { class: "muted" });
  const drawn = el(
    "section",
    { class: "card", "aria-label": "Your line" },
    el("div", { class: "slate-head" }, el("h2", {}, "Your line"), field("Start from", shape)),
    line.element,
    el("div", { class: "slate-step" }, el("label", { for: slider.id }, "Chosen step"), slider, at),
    hint,
    fed,
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
  const place = el("div", {});
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
        place,
        state.line,
        results,
        el("div", { class: "actions" }, back, next, page.sharing()),
      ),
    ),
  );
  const element = el("div", {}, guided, needs);

  /** Take the models that are served now. Whether there is something to show. */
  function choose() {
    const found = family(page.models());
    guided.hidden = !found;
    needs.hidden = Boolean(found);
    if (!found) {
      models = null;
      needs.replaceChildren(
        el("h2", {}, "The tour needs a model that reads numbers"),
        el("p", {}, "No model here does what the tour shows. It needs one that reads numbers a step at a time and carries its state, such as sunspots-gru of the models that come with Elman."),
        el("p", {}, "To compare the three cells it needs two more, whose names differ in the cell alone: sunspots-rnn and sunspots-lstm. The tour begins here as soon as they are served."),
      );
    }
    return found;
  }

  /** Show the models of this server, and a line for them. */
  async function begin(entered) {
    const found = choose();
    if (!found) return;
    if (!entered && shown && same(found, models)) return;
    end();
    models = found;
    if (entered) stage = Math.max(0, Math.min(parts.length - 1, Math.round(Number(entered.stage) || 1) - 1));
    paint();
    state.ask();
    const examples = await page.examples(found.main).catch((error) => {
      if (models === found) state.fail();
      throw error;
    });
    if (models !== found) return;
    const other = fitted !== found.main;
    if (other) {
      fitted = found.main;
      const sequences = examples.map((one) => one.sequence).filter(Array.isArray);
      range = rangeOf(sequences, 0);
      rows = (sequences[0] ?? []).slice(-STEPS);
      shape.replaceChildren(
        ...(rows.length === STEPS ? [el("option", { value: "example" }, "A held-out example")] : []),
        ...Object.entries(SHAPES).map(([name, [title]]) => el("option", { value: name }, title)),
        el("option", { value: "own" }, "What I drew"),
      );
      const { size, names } = found.main.input;
      fed.textContent =
        size > 1
          ? `No three models here read one number a step. ${found.main.name} reads ${size}: you draw the first${names ? `, “${names[0]}”` : ""}, and the others are ${rows.length ? "those of an example" : "zero"}.`
          : "";
    }
    if (other || entered) takeEntered(entered ?? {});
    await start();
  }

  /** The line and the step of an address; those to begin with where it has none that will do. */
  function takeEntered({ line: values = "", from, step: at }) {
    const numbers = values.split(" ").map(Number);
    const known = [...shape.options].some((one) => one.value === from && from !== "own");
    step = Number(at) >= 1 && Number(at) <= STEPS ? Math.round(Number(at)) : FIRST;
    if (numbers.length === STEPS && numbers.every(Number.isFinite)) {
      shape.value = "own";
      line.set(numbers, range, words());
    } else take(known ? from : shape.options[0].value);
    mark();
  }

  /** What an address says: the stage, the step and the line, as far as they are not those to begin with. */
  function written() {
    const entered = {};
    if (!fitted) return entered;
    if (stage) entered.stage = String(stage + 1);
    if (step !== FIRST) entered.step = String(step);
    if (shape.value === "own") entered.line = line.values().join(" ");
    else if (shape.selectedIndex) entered.from = shape.value;
    return entered;
  }

  const words = () => models.main.input.names?.[0] ?? "";

  /** Take one of the lines to begin with. */
  function take(name) {
    const [low, high] = range;
    const drawn = (t) => Number((low + SHAPES[name][1](t) * (high - low)).toPrecision(4));
    shape.value = name;
    line.set(
      name === "example" ? rows.map(([value]) => value) : Array.from({ length: STEPS }, (_, i) => drawn((i + 0.5) / STEPS)),
      range,
      words(),
    );
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

  /** The rows that a line stands for: other features are those of an example, or zero. */
  const rowsOf = (values) =>
    values.map((value, i) => [
      value,
      ...(rows[i]?.slice(1) ?? Array(Math.max(models.main.input.size - 1, 0)).fill(0)),
    ]);

  /** The same line with the chosen step raised, or lowered where it is high already. */
  function raised(values) {
    const [low, high] = range;
    const by = (values[step - 1] > low + 0.6 * (high - low) ? -RAISED : RAISED) * (high - low);
    return values.map((value, i) => (i === step - 1 ? Number((value + by).toPrecision(4)) : value));
  }

  /** Ask the models of this stage for their answers, and show them. */
  async function start() {
    end();
    if (!visible || fitted !== models?.main) return;
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
      const values = line.values();
      const sequence = rowsOf(values);
      const asked = part.alone ? [models.main] : models.all;
      const sequences = part.raises ? [sequence, rowsOf(raised(values))] : [sequence];
      const answers = await Promise.all(
        asked.map(async (card) => {
          const body = { sequences, return: "steps", hidden: true, top: Math.min(card.output.size, 10) };
          const [plain, other] = (await post(modelPath(card, "predict"), body, signal)).results;
          return { card, plain, other };
        }),
      );
      const cut = part.cuts ? await cutIn(models.main, sequence, signal) : null;
      page.clear();
      shown = { step, sequence, answers, cut, missing: models.missing };
      state.ready();
      part.draw(shown);
      part.at?.(shown);
      page.follow();
    } catch (error) {
      if (signal.aborted) return;
      state.fail();
      page.problem(error);
    }
  }

  /** The line read in two parts, with nothing but the state between them. */
  async function cutIn(card, sequence, signal) {
    const path = modelPath(card, "predict");
    const [head] = (await post(path, { sequence: sequence.slice(0, step), return_state: true }, signal)).results;
    const rest = sequence.slice(step);
    if (!rest.length) return { at: step, tail: [] };
    const [tail] = (await post(path, { sequence: rest, state: head.state, return: "steps" }, signal)).results;
    return { at: step, tail: tail.outputs };
  }

  /** Choose a step. What depends on it is asked for anew. */
  function go(next) {
    if (next === step) return;
    step = next;
    mark();
    const part = parts[stage];
    if (part.raises || part.cuts) later();
    else if (shown && !results.hidden) part.at?.({ ...shown, step });
  }

  function mark() {
    line.mark(step);
    slider.value = step;
    slider.setAttribute("aria-valuetext", `step ${step} of ${STEPS}`);
    at.textContent = `${step} of ${STEPS}`;
  }

  /** Turn to a stage, as somebody asked for it. */
  function turn(to) {
    if (to === parts.length || to < 0) return;
    stage = to;
    page.follow({ again: true });
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
    told.replaceChildren(...part.words(models).map((one) => (typeof one === "string" ? el("p", {}, one) : one)));
    results.replaceChildren(...part.figures(models));
    back.disabled = stage === 0;
    next.hidden = stage === parts.length - 1;
  }

  /** The address of a view with the line in it. */
  function address(view, card) {
    const input = asText(rowsOf(line.values()));
    return `#${view}/${encodeURIComponent(card.name)}?${new URLSearchParams({ input })}`;
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
