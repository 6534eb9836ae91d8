// Generate: a network that is fed its own tokens, as they come.

import { drawnIn, remembered } from "./address.js";
import { events, modelPath, post, versionOf } from "./api.js";
import { curl, keywords, literal, python, snippets } from "./code.js";
import { el, field, newId, number, plural, same, say, select } from "./dom.js";
import { staticInputs } from "./named.js";
import { show } from "./reading.js";
import { sample, tokenNames } from "./samples.js";
import { answerState } from "./state.js";

const CUT = "the answer ended before all tokens had come";

/** What the options begin with, by their names in a request. */
const BEGIN = {
  prompt: "",
  max_steps: 40,
  logprobs: "",
  temperature: 0.8,
  top_k: 0,
  top_p: 1,
  seed: "",
  samples: 6,
  num_beams: 1,
  num_return_sequences: 3,
  length_penalty: 1,
};

export function generate(page) {
  let card = null;
  let run = null;
  /** What was asked for last, as an address has it; of samples without a seed, with the seed that was drawn. */
  let asked = {};
  /** Whether that did not come, because something went wrong or the view was left. */
  let missed = false;

  const prompt = el("input", { type: "text", autocomplete: "off", spellcheck: "false" });
  const condition = select([]);
  const conditionField = field("Condition", condition);
  const statics = staticInputs(() => {});
  const temperature = dial("Temperature", 0, 2, 0.05);
  const topP = dial("Top-p", 0.05, 1, 0.05);
  const topK = number(0, { min: 0, step: 1 });
  const seed = number("", { step: 1, min: 0, placeholder: "any" });
  const samples = number(6, { min: 1, max: 64, step: 1 });
  const steps = number(40, { min: 1, step: 1 });
  const beams = number(1, { min: 1, max: 64, step: 1 });
  const texts = number(3, { min: 1, max: 64, step: 1 });
  const penalty = number(1, { min: -10, max: 10, step: "any" });
  const logprobs = number("", { min: 0, max: 20, step: 1, placeholder: "none" });
  /** Those that an address has. */
  const controls = {
    prompt,
    condition,
    max_steps: steps,
    logprobs,
    temperature: temperature.control,
    top_k: topK,
    top_p: topP.control,
    seed,
    samples,
    num_beams: beams,
    num_return_sequences: texts,
    length_penalty: penalty,
  };
  const go = el("button", { class: "primary" }, "Generate");
  const place = el("div", {});
  const stop = el("button", { type: "button", disabled: true }, "Stop");
  /** What says how samples are drawn; a beam search draws none. */
  const drawn = el(
    "div",
    { class: "part" },
    temperature.element,
    topP.element,
    el(
      "div",
      { class: "fields two" },
      field("Top-k", topK, "0: all"),
      field("Samples", samples),
      field("Seed", seed),
    ),
  );
  const searched = el(
    "div",
    { class: "fields two", hidden: true },
    field("Results", texts, "the best"),
    field("Length penalty", penalty),
  );
  const options = remembered();
  const parts = [options, statics];
  const address = () => Object.assign({}, ...parts.map((part) => part.address()));
  const form = el(
    "form",
    { class: "card", "aria-label": "What to generate" },
    el("h2", {}, "What to generate"),
    conditionField,
    field("Prompt", prompt, "what it begins with; may be empty"),
    statics.element,
    drawn,
    el(
      "div",
      { class: "fields two" },
      field("Longest", steps, "in steps"),
      field("Log-probabilities", logprobs, "of how many tokens"),
      field("Beams", beams, "1 draws at random"),
    ),
    searched,
    place,
    el("div", { class: "actions" }, go, stop),
  );
  const status = el("p", { class: "muted lead" }, "Tokens appear as the server makes them.");
  const outputs = el("ul", { class: "samples", "aria-label": "Samples" });
  const state = answerState(outputs);
  const code = snippets();
  const element = el(
    "div",
    {},
    el(
      "div",
      { class: "split" },
      el("div", { class: "side" }, form),
      el(
        "section",
        { class: "card results", "aria-label": "Samples" },
        el("h2", {}, "Samples"),
        state.line,
        status,
        outputs,
      ),
    ),
    code.element,
  );

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    page.attempt(() => start({ again: true }));
  });
  form.addEventListener("input", () => page.attempt(showCode));
  for (const event of ["input", "filled"]) beams.addEventListener(event, showOptions);
  stop.addEventListener("click", () => run?.abort());

  const searches = () => Number(beams.value) > 1;

  function showOptions() {
    drawn.hidden = searches();
    searched.hidden = !searches();
  }

  const optional = (control) => (control.value === "" ? undefined : Number(control.value));

  function request() {
    const text = card.input.text;
    return {
      prompt: text
        ? prompt.value
        : prompt.value.trim()
          ? prompt.value
              .trim()
              .split(/[\s,]+/)
              .map(Number)
          : [],
      condition: condition.value || undefined,
      static: statics.value(),
      max_steps: Number(steps.value),
      logprobs: optional(logprobs),
      ...(searches() ? search() : draw()),
    };
  }

  const draw = () => ({
    temperature: Number(temperature.control.value),
    top_k: Number(topK.value),
    top_p: Number(topP.control.value),
    seed: optional(seed),
    samples: Number(samples.value),
  });

  const search = () => ({
    num_beams: Number(beams.value),
    num_return_sequences: Math.min(Number(texts.value), Number(beams.value)),
    length_penalty: Number(penalty.value),
  });

  /** End what is under way: nothing that comes of it is shown. */
  function end() {
    run?.abort();
    run = null;
    stop.disabled = true;
    outputs.removeAttribute("aria-busy");
  }

  /** Generate what is entered; with `again`, somebody asked for it. `drawn` is the seed where none is entered. */
  async function start({ again = false, drawn } = {}) {
    end();
    status.textContent = "";
    let body;
    try {
      body = request();
    } catch (error) {
      state.fail();
      throw error;
    }
    const mine = (run = new AbortController());
    state.ask();
    asked = address();
    missed = false;
    if ("seed" in body) body.seed ??= drawn;
    if (body.seed !== undefined && seed.value === "") asked.drawn = String(drawn);
    const began = performance.now();
    let count = 0;
    let done = null;
    let lines = [];
    /** Show lines for so many samples or texts. */
    const lay = (number) => {
      lines = Array.from({ length: number }, (_, i) => sample(i, body.prompt));
      outputs.replaceChildren(...lines.map((line) => line.element));
      state.ready();
    };
    /** The first token: what was there before gives way to it. */
    const begin = () => {
      lay(body.samples);
      outputs.setAttribute("aria-busy", "true");
      status.textContent = "Generating…";
    };
    stop.disabled = false;
    page.clear();
    showCode();
    page.follow({ again });
    try {
      if (body.num_beams) {
        done = await post(modelPath(card, "generate"), body, mine.signal);
        count = done.results.reduce((sum, result) => sum + result.steps, 0);
        lay(done.results.length);
      } else {
        await events(modelPath(card, "generate"), { ...body, stream: true }, mine.signal, (name, data) => {
          if (name === "error") throw page.problemOf(data);
          if (name === "done") done = data;
          else if (data) {
            if (!lines.length) begin();
            count += 1;
            lines[data.sample].add(data);
          }
        });
        if (!done) throw page.problemOf({ code: "unreachable", title: "No answer", detail: CUT });
      }
      finish();
    } catch (error) {
      const stopped = mine.signal.aborted;
      if (mine === run) {
        if (!stopped) state.fail();
        else if (!lines.length) state.reset();
        status.textContent = stopped ? `Stopped after ${plural(count, "token")}.` : "";
      }
      if (!stopped) {
        missed = true;
        page.problem(error);
      }
    }
    if (mine === run) end();

    function finish() {
      const seconds = (performance.now() - began) / 1000;
      const names = tokenNames(done.results);
      if (!lines.length) lay(done.results.length);
      done.results.forEach((result, i) => lines[i].finish(result, names));
      const unknown = done.unknown?.map((one) => one.character).join(" ");
      const words =
        `${plural(count, "token")} in ${seconds.toFixed(seconds < 1 ? 2 : 1)} s.` +
        (unknown ? ` Not in the vocabulary, read as unknown: ${unknown}` : "");
      const seeded = done.seed !== null;
      if (seeded && body.seed === undefined) {
        asked.drawn = String(done.seed);
        page.follow({ again: false });
      }
      status.replaceChildren(words, ...(seeded ? [" ", seedWords(done.seed)] : []));
      say(`${words} ${done.results.map((result) => result.text).join(", ")}`);
    }
  }

  /** The seed that was drawn, and a button to keep it. */
  function seedWords(value) {
    const keep = () => {
      seed.value = value;
      showCode();
      seed.focus();
    };
    return el(
      "span",
      {},
      "Seed ",
      el("span", { class: "mono seed" }, String(value)),
      " ",
      el("button", { type: "button", class: "quiet", on: { click: keep } }, "Keep this seed"),
    );
  }

  function showCode() {
    const body = request();
    const { prompt: start, ...options } = body;
    code.show({
      curl: searches()
        ? curl("POST", modelPath(card, "generate"), body)
        : curl("POST", modelPath(card, "generate"), { ...body, stream: true }, " -N"),
      python: python([
        `model = elman.model(${literal(card.name)}${keywords({ version: versionOf(card) })})`,
        `answer = model.generate(${literal(start)}${keywords(options)})`,
        "for result in answer.results:",
        "    print(result.text)",
      ]),
    });
  }

  return {
    element,
    offers: (one) => Boolean(one.generation),
    empty: 'No model here generates. One does whose outputs are the next token: export it with task="generation".',
    async show(next, entered) {
      if (card === next && (!entered || same(entered, asked))) {
        if (missed) await page.attempt(() => start({ drawn: drawnIn(asked) }));
        return true;
      }
      end();
      state.reset();
      card = next;
      asked = {};
      missed = false;
      const conditions = card.generation.conditions ?? [];
      conditionField.hidden = !conditions.length;
      condition.replaceChildren(
        el("option", { value: "" }, "none"),
        ...conditions.map((one) => el("option", { value: one }, show(one))),
      );
      if (conditions.length) condition.value = conditions[0];
      statics.set(card);
      options.begin(controls, BEGIN);
      for (const part of parts) part.fill(entered ?? {});
      showOptions();
      // A model without a token to start from refuses an empty prompt.
      if (prompt.value || card.generation.start !== null || conditions.length)
        return page.attempt(() => start({ drawn: drawnIn(entered) }));
      status.textContent = "This model has no token to start from: type a prompt.";
      return page.attempt(showCode);
    },
    place,
    address: () => asked,
    hide() {
      missed ||= Boolean(run);
      run?.abort();
    },
  };
}

/** A slider with its value beside its name. */
function dial(words, min, max, step) {
  const id = newId("dial");
  const control = el("input", { type: "range", min, max, step, id });
  const reading = el("output", { for: id, class: "number" });
  for (const event of ["input", "filled"])
    control.addEventListener(event, () => (reading.textContent = control.value));
  return { element: el("div", { class: "field dial" }, el("label", { for: id }, words), reading, control), control };
}
