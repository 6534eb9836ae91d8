// Generate: a network that is fed its own tokens, as they come.

import { events, modelPath, versionOf } from "./api.js";
import { curl, keywords, literal, python, snippets } from "./code.js";
import { el, field, newId, number, plural, say, select } from "./dom.js";
import { staticInputs } from "./named.js";
import { show } from "./reading.js";

export function generate(page) {
  let card = null;
  let run = null;

  const prompt = el("input", { type: "text", autocomplete: "off", spellcheck: "false" });
  const condition = select([]);
  const conditionField = field("Condition", condition);
  const statics = staticInputs(() => {});
  const temperature = dial("Temperature", 0, 2, 0.05, 0.8);
  const topP = dial("Top-p", 0.05, 1, 0.05, 1);
  const topK = number(0, { min: 0, step: 1 });
  const seed = number("", { step: 1, min: 0, placeholder: "any" });
  const samples = number(6, { min: 1, max: 64, step: 1 });
  const steps = number(40, { min: 1, step: 1 });
  const go = el("button", { class: "primary" }, "Generate");
  const place = el("div", {});
  const stop = el("button", { type: "button", disabled: true }, "Stop");
  const form = el(
    "form",
    { class: "card", "aria-label": "What to generate" },
    el("h2", {}, "What to generate"),
    conditionField,
    field("Prompt", prompt, "what it begins with; may be empty"),
    statics.element,
    temperature.element,
    topP.element,
    el(
      "div",
      { class: "fields two" },
      field("Top-k", topK, "0: all"),
      field("Samples", samples),
      field("Seed", seed),
      field("Longest", steps, "steps"),
    ),
    place,
    el("div", { class: "actions" }, go, stop),
  );
  const status = el("p", { class: "muted lead" }, "Tokens appear as the server makes them.");
  const outputs = el("ul", { class: "samples", "aria-label": "Samples" });
  const code = snippets();
  const element = el(
    "div",
    {},
    el(
      "div",
      { class: "split" },
      el("div", { class: "side" }, form),
      el("section", { class: "card results", "aria-label": "Samples" }, el("h2", {}, "Samples"), status, outputs),
    ),
    code.element,
  );

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    page.attempt(start);
  });
  form.addEventListener("input", () => page.attempt(showCode));
  stop.addEventListener("click", () => run?.abort());

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
      temperature: temperature.value(),
      top_k: Number(topK.value),
      top_p: topP.value(),
      seed: optional(seed),
      samples: Number(samples.value),
    };
  }

  async function start() {
    run?.abort();
    outputs.replaceChildren();
    status.textContent = "";
    const mine = (run = new AbortController());
    const body = { ...request(), stream: true };
    const began = performance.now();
    let count = 0;
    let done = null;
    const lines = Array.from({ length: body.samples }, (_, i) => sample(i, body.prompt));
    outputs.replaceChildren(...lines.map((line) => line.element));
    outputs.setAttribute("aria-busy", "true");
    stop.disabled = false;
    status.textContent = "Generating…";
    page.clear();
    showCode();
    try {
      await events(modelPath(card, "generate"), body, mine.signal, (name, data) => {
        if (name === "error") throw page.problemOf(data);
        if (name === "done") done = data;
        else if (data) {
          count += 1;
          lines[data.sample].add(data);
        }
      });
      finish();
    } catch (error) {
      if (error.name !== "AbortError") page.problem(error);
      if (mine === run)
        status.textContent =
          error.name === "AbortError" ? `Stopped after ${plural(count, "token")}.` : "It failed: the message says why.";
    }
    if (mine === run) {
      run = null;
      stop.disabled = true;
      outputs.removeAttribute("aria-busy");
    }

    function finish() {
      const seconds = (performance.now() - began) / 1000;
      done?.results.forEach((result, i) => lines[i].finish(result));
      const unknown = done?.unknown?.map((one) => one.character).join(" ");
      const words =
        `${plural(count, "token")} in ${seconds.toFixed(seconds < 1 ? 2 : 1)} s.` +
        (unknown ? ` Not in the vocabulary, read as unknown: ${unknown}` : "");
      status.replaceChildren(
        words,
        done ? " " : "",
        done
          ? el(
              "span",
              {},
              "Seed ",
              el("span", { class: "mono seed" }, String(done.seed)),
              " ",
              el(
                "button",
                {
                  type: "button",
                  class: "quiet",
                  on: {
                    click: () => {
                      seed.value = done.seed;
                      showCode();
                      seed.focus();
                    },
                  },
                },
                "Keep this seed",
              ),
            )
          : "",
      );
      say(`${words} ${done ? done.results.map((result) => result.text).join(", ") : ""}`);
    }
  }

  function showCode() {
    const body = request();
    const { prompt: start, ...options } = body;
    code.show({
      curl: curl("POST", modelPath(card, "generate"), { ...body, stream: true }, " -N"),
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
    async show(next) {
      if (card === next) return;
      run?.abort();
      card = next;
      const conditions = card.generation.conditions ?? [];
      conditionField.hidden = !conditions.length;
      condition.replaceChildren(
        el("option", { value: "" }, "none"),
        ...conditions.map((one) => el("option", { value: one }, show(one))),
      );
      if (conditions.length) condition.value = conditions[0];
      prompt.value = "";
      statics.set(card);
      // A model without a token to start from refuses an empty prompt.
      if (card.generation.start !== null || conditions.length) return page.attempt(start);
      outputs.replaceChildren();
      status.textContent = "This model has no token to start from: type a prompt.";
      return page.attempt(showCode);
    },
    place,
    hide: () => run?.abort(),
  };
}

/** A slider with its value beside its name. */
function dial(words, min, max, step, value) {
  const id = newId("dial");
  const control = el("input", { type: "range", min, max, step, id });
  control.value = value;
  const reading = el("output", { for: id, class: "number" }, String(value));
  control.addEventListener("input", () => (reading.textContent = control.value));
  return {
    element: el("div", { class: "field dial" }, el("label", { for: id }, words), reading, control),
    value: () => Number(control.value),
  };
}

/** One sample's line: the prompt, then each token as it comes, then how it ended. */
function sample(index, prompt) {
  const text = el("span", { class: "made" });
  const ending = el("span", { class: "muted ending" }, "…");
  const given = el("span", { class: "given" }, typeof prompt === "string" ? prompt : prompt.join(" "));
  return {
    element: el("li", { class: "sample", "data-sample": index }, el("span", { class: "text" }, given, text), ending),
    add: ({ text: piece, token }) => text.append(el("span", { class: "token" }, piece ?? `${token} `)),
    finish({ steps, reason }) {
      ending.textContent = `${plural(steps, "step")}, ${{ end: "ended itself", stop: "met a stop", length: "cut at the longest" }[reason] ?? reason}`;
    },
  };
}
