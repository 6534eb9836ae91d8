// Explore: one sequence, its outputs, its hidden state and its influence, and the three cells beside each other.

import { remembered } from "./address.js";
import { modelPath, Problem, versionOf } from "./api.js";
import { chart } from "./charts.js";
import { curl, keywords, literal, printed, python, sequenceCode, snippets } from "./code.js";
import { comparison } from "./compare.js";
import { debounced, el, nameAndUnit, newId, percent, plural, same, select, say, short, table } from "./dom.js";
import { lengthWords, sequenceInput } from "./input.js";
import { dataOf, furtherInputs, headChoice, headsOf, partsOf, staticInputs } from "./named.js";
import { drawHidden, drawInfluence, drawInput, drawOutputs } from "./pictures.js";
import { inWords, outputNames, ranking, show, stepNames, valueRows } from "./reading.js";
import { bodyFor, influenceOf, isFinal, predict, reaches } from "./request.js";
import { answerState } from "./state.js";

export function explore(page) {
  /** The model that the fields are for; null while it is another. */
  let card = null;
  let run = null;
  /** Ends the question how far each step reaches, which is asked anew for another target. */
  let reaching = null;
  let shown = null;
  /** Whether the influence or the comparison failed. */
  let missed = false;
  let timer = 0;

  const input = sequenceInput(({ now }) => {
    if (!card) return;
    statics.take(input.example()?.static);
    now ? start() : later();
  });
  const soon = debounced(() => start(), 250);
  const later = () => {
    if (!card) return;
    end();
    state.ask();
    soon();
  };
  const further = furtherInputs(later);
  const statics = staticInputs(later);
  const heads = headChoice(() => start());
  const compared = comparison(page, () => start());
  const headFigures = el("div", { class: "head-figures" });

  const headline = el("p", { class: "answer" });
  const expected = el("p", { class: "muted expected" });
  const bars = el("div", { class: "bars" });
  const barsTitle = el("h2", {}, "After the last step");
  const play = el("button", { type: "button", class: "play" }, "Play");
  const sliderId = newId("step");
  const slider = el("input", { type: "range", min: 1, max: 1, step: 1, value: 1, id: sliderId });
  const at = el("output", { for: sliderId, class: "at" });
  const strip = el("div", { class: "strip mono", "aria-hidden": "true" });

  const target = select([["", "the whole output"]]);
  target.id = newId("target");
  const targetField = el("div", { class: "inline" }, el("label", { for: target.id }, "on"), target);
  const tensor = select([]);
  tensor.id = newId("tensor");
  const tensorField = el("div", { class: "inline" }, el("label", { for: tensor.id }, "state"), tensor);

  const figures = {
    input: chart({ title: "Input", height: 170 }),
    outputs: chart({ title: "Outputs, step by step", height: 280 }),
    influence: chart({ title: "Influence", height: 190, aside: targetField }),
    hidden: chart({ title: "Hidden state", height: 300, aside: tensorField }),
  };
  const code = snippets();
  const options = remembered();
  /** All that can be entered here, for the address. */
  const parts = [input, further, statics, heads, options];
  const address = () => Object.assign({}, ...parts.map((part) => part.address()));

  const stepper = el(
    "div",
    { class: "card stepper" },
    play,
    el("label", { for: sliderId, class: "unseen" }, "Step"),
    slider,
    at,
    strip,
  );
  const results = el(
    "div",
    { class: "results" },
    stepper,
    el(
      "div",
      { class: "card score" },
      figures.input.element,
      figures.outputs.element,
      headFigures,
      figures.influence.element,
      figures.hidden.element,
    ),
  );
  const answer = el("section", { class: "card", "aria-label": "Answer" }, barsTitle, headline, expected, bars);
  const around = el("div", {}, compared.element);
  const state = answerState(results, answer, around);
  const place = el("div", {});
  const element = el(
    "div",
    {},
    el(
      "div",
      { class: "split" },
      el(
        "div",
        { class: "side" },
        el(
          "section",
          { class: "card", "aria-label": "Sequence" },
          el("h2", {}, "Sequence"),
          input.element,
          place,
          further.element,
          statics.element,
          heads.element,
          ...compared.fields,
        ),
        answer,
      ),
      el("div", { class: "results-column" }, state.line, results),
    ),
    around,
    code.element,
  );

  slider.addEventListener("input", () => {
    stop();
    go(Number(slider.value));
  });
  play.addEventListener("click", () => (timer ? stop() : begin()));
  target.addEventListener("change", () => {
    if (!card) return;
    influence(shown);
    page.follow();
    if (shown) showCode(shown.card, shown.body, shown.result);
  });
  tensor.addEventListener("change", () => {
    if (!card) return;
    hidden(shown);
    page.follow();
  });

  function begin() {
    if (!shown) return;
    const n = shown.length;
    const wait = Math.max(60, Math.min(420, 9000 / n));
    if (Number(slider.value) >= n) go(1);
    play.textContent = "Pause";
    timer = setInterval(() => {
      const next = Number(slider.value) + 1;
      if (next > n) stop();
      else go(next);
    }, wait);
  }

  function stop() {
    clearInterval(timer);
    timer = 0;
    play.textContent = "Play";
  }

  /** End what is under way: nothing that comes of it is shown. */
  function end() {
    stop();
    soon.cancel();
    run?.abort();
    reaching?.abort();
  }

  /** Show the answer after `step` steps. */
  function go(step) {
    const { card, length, names, result, labels } = shown;
    // An output may have fewer rows than its input has steps.
    const row = Math.max(Math.ceil((step * result.outputs.length) / length), 1);
    slider.value = step;
    slider.setAttribute("aria-valuetext", `step ${step} of ${length}${names ? `, ${names[step - 1]}` : ""}`);
    at.textContent = `${step} of ${length}`;
    strip.querySelectorAll("span").forEach((cell, i) => {
      cell.classList.toggle("done", i < step);
      cell.classList.toggle("now", i === step - 1);
    });
    barsTitle.textContent =
      step === length
        ? `After ${length === 1 ? "the only step" : `all ${length} steps`}`
        : `After step ${step} of ${length}`;
    const width = Math.min(card.output.size, 6);
    if (labels) {
      const top = labels.at(row).slice(0, 5);
      headline.replaceChildren(
        el("strong", {}, show(top[0].name)),
        " ",
        el("span", { class: "number" }, percent(top[0].p)),
      );
      bars.replaceChildren(...top.map(({ name, p }, i) => bar(show(name), p, i === 0)));
    } else {
      const values = valueRows(result)[row - 1] ?? [];
      const names = outputNames(card, width);
      const [first, unit] = nameAndUnit(names[0]);
      headline.replaceChildren(
        el("strong", { class: "number" }, inWords(values.slice(0, 1)), unit && ` ${unit}`),
        ` ${first}`,
      );
      bars.replaceChildren(
        ...values
          .slice(1, width)
          .map((value, i) =>
            el("div", { class: "value" }, el("span", {}, names[i + 1]), el("span", { class: "number" }, short(value))),
          ),
      );
    }
    figures.outputs.mark(row);
    figures.hidden.mark(step);
    compared.mark(row);
    if (!figures.input.element.hidden && card.input.kind !== "frames") figures.input.mark(step);
  }

  async function start() {
    // Until its fields are ready there is no model. Ending that work here would leave the view without one.
    if (!card) return;
    end();
    missed = false;
    run = new AbortController();
    const { signal } = run;
    const mine = card;
    state.ask();
    try {
      const sequence = input.value();
      const whole = further.with(sequence, input.example()?.further);
      const body = bodyFor(mine, sequence, whole, statics.value(), heads.value());
      showCode(mine, body);
      const result = await predict(mine, body, signal);
      page.clear();
      showCode(mine, body, result);
      present(mine, sequence, body, result);
      input.invalid(false);
      await Promise.all([influence(shown), beside(shown, signal)]);
    } catch (error) {
      if (signal.aborted) return;
      state.fail();
      input.invalid(!error.where || error.where.startsWith("sequence") || error.where.startsWith("line"));
      page.problem(error);
    }
  }

  function present(mine, sequence, body, result) {
    const length = result.length;
    if (!length) throw new Problem({ detail: "the sequence is too short for one frame: the model gave no output" }, 0);
    state.ready();
    const labels = ranking(result);
    shown = { card: mine, sequence, body, result, labels, length, names: stepNames(sequence) };
    input.unknown(result.unknown);
    const unknown = new Set(result.unknown?.map(({ character }) => character));
    slider.max = length;
    strip.hidden = !shown.names || length > 60;
    strip.replaceChildren(
      ...(strip.hidden
        ? []
        : shown.names.map((name, i) =>
            el(
              "span",
              {
                class: unknown.has([...sequence][i]) ? "unknown" : null,
                on: {
                  click: () => {
                    stop();
                    go(i + 1);
                  },
                },
              },
              name,
            ),
          )),
    );
    drawInput(figures.input, mine, sequence, partsOf(mine, body.sequence).further);
    stepper.hidden = figures.outputs.element.hidden = isFinal(mine);
    figures.outputs.title(outputTitle(mine, labels));
    figures.outputs.note(headsOf(mine).length ? `The primary output, “${mine.outputs[0].name}”.` : "");
    drawOutputs(figures.outputs, mine, sequence, result);
    const own = isFinal(mine) && !labels ? { [mine.outputs[0].name]: valueRows(result)[0] } : {};
    drawHeads(mine, sequence, { ...own, ...result.heads });
    hidden(shown);
    const example = input.example();
    const known = mine.output.labels?.includes(example?.expected) ? example.expected : null;
    expected.textContent =
      labels && known
        ? `The held-out answer is ${known}: ${labels.best.name === known ? "right" : "this model is wrong"}.`
        : "";
    go(length);
    page.follow();
    say(`${mine.name}: ${inWords(result.decoded?.at(-1), result.outputs?.at(-1))} after ${lengthWords(sequence)}`);
  }

  /** A chart for each further output of a row a step, and a table for one of a single row. */
  function drawHeads(mine, sequence, named) {
    headFigures.replaceChildren();
    for (const [name, rows] of Object.entries(named)) {
      const perStep = Array.isArray(rows[0]);
      const output = { size: (perStep ? rows[0] : rows).length, labels: null };
      const plain = { ...mine, output, task: "raw", forecast: null };
      if (!perStep) {
        headFigures.append(rowTable(`Output ${name}`, outputNames(plain, output.size), rows));
        continue;
      }
      const figure = chart({ title: `Output ${name}`, height: 190 });
      // A chart has a width once it is on the page.
      headFigures.append(figure.element);
      drawOutputs(figure, plain, sequence, { outputs: rows });
    }
  }

  function hidden(one) {
    const states = one?.result.hidden;
    figures.hidden.element.hidden = !states;
    if (!states) return;
    const rows = states[tensor.value];
    figures.hidden.note(
      `${plural(rows[0].length, "unit")}: all that the network remembers of the past, a column a step.`,
    );
    drawHidden(figures.hidden, one.sequence, rows, tensor.value);
  }

  async function influence(one) {
    reaching?.abort();
    reaching = new AbortController();
    const { signal } = reaching;
    if (!one || !reaches(one.card, one.length)) {
      figures.influence.element.hidden = true;
      return;
    }
    targetField.hidden = !one.card.output.labels;
    const wanted = target.value || undefined;
    try {
      const { sequence, static: given } = one.body;
      const answer = await influenceOf(one.card, one.length, { sequence, static: given, target: wanted }, signal);
      figures.influence.element.hidden = false;
      figures.influence.note(spanWords(answer, wanted));
      drawInfluence(figures.influence, one.sequence, answer);
    } catch (error) {
      if (signal.aborted) return;
      figures.influence.element.hidden = missed = true;
      page.problem(error);
    }
  }

  /** The models beside the one that is shown, whose answer stands without them too. */
  async function beside(one, signal) {
    try {
      await compared.draw(one, signal);
    } catch (error) {
      if (signal.aborted) return;
      compared.element.hidden = missed = true;
      page.problem(error);
    }
  }

  function showCode(mine, body, result = null) {
    const { sequence, static: given, heads: named } = body;
    const { imports, value } = sequenceCode(mine, sequence);
    const { length } = dataOf(mine, sequence);
    const of = target.value || undefined;
    code.show({
      curl: [
        curl("POST", modelPath(mine, "predict"), body),
        ...(reaches(mine, length)
          ? [curl("POST", modelPath(mine, "influence"), { sequence, static: given, target: of })]
          : []),
      ].join("\n\n"),
      python: python(
        [
          `model = elman.model(${literal(mine.name)}${keywords({ version: versionOf(mine) })})`,
          `sequence = ${value}`,
          `result = model.predict(sequence, returns=${literal(body.return)}${keywords({ top: body.top, static: given, heads: named, hidden: body.hidden })})`,
          printed(mine, "result", result),
          ...(reaches(mine, length)
            ? [
                `influence = model.influence(sequence${keywords({ target: of, static: given })})`,
                "print(influence.span, influence.influence)",
              ]
            : []),
        ],
        imports,
      ),
    });
  }

  return {
    element,
    offers: () => true,
    empty: "No model is served.",
    async show(next, entered) {
      if (card === next && (!entered || same(entered, address()))) {
        if (missed || !state.holds()) await start();
        return true;
      }
      end();
      card = shown = null;
      state.reset();
      state.ask();
      const mine = (run = new AbortController());
      const examples = await page.examples(next).catch((error) => {
        if (!mine.signal.aborted) state.fail();
        throw error;
      });
      if (mine.signal.aborted) return;
      card = next;
      target.replaceChildren(
        el("option", { value: "" }, "the whole output"),
        ...(card.output.labels ?? []).map((label) => el("option", { value: label }, label)),
      );
      const states = card.state.tensors.map(({ name }) => name);
      tensor.replaceChildren(...states.map((name) => el("option", { value: name }, name)));
      tensorField.hidden = states.length < 2;
      figures.influence.element.hidden = figures.hidden.element.hidden = compared.element.hidden = true;
      input.set(card, examples);
      for (const one of [further, statics, heads, compared]) one.set(card);
      options.begin({ target, state: tensor, with: compared.choice, output: compared.output });
      input.fill(entered ?? {});
      statics.take(input.example()?.static);
      for (const part of parts.slice(1)) part.fill(entered ?? {});
      await start();
    },
    place,
    address,
    /** Read a file that was dropped onto the page. */
    read: input.read,
    /** What goes with an answer that is shown comes all the same. */
    hide: () => (state.holds() ? stop() : end()),
  };
}

function outputTitle(card, labels) {
  if (card.task === "generation") return "Probability of each next token, step by step";
  if (labels) return "Probability of each label, step by step";
  return card.forecast ? "The next value, foreseen at each step" : "Outputs, step by step";
}

function spanWords({ span, length }, target) {
  const what = target ? `“${target}”` : "the last output";
  if (!span) return `No step that is withheld moves ${what}.`;
  return `How far ${what} moves when a step is withheld. 90 % of it lies in the last ${span} of ${plural(length, "step")}.`;
}

/** An output with one row for the whole sequence. */
function rowTable(title, names, row) {
  return el(
    "section",
    { "aria-label": title },
    el("h3", {}, title),
    el("p", { class: "muted lead" }, "One row for the whole sequence."),
    el(
      "div",
      { class: "scroll", role: "region", tabindex: 0, "aria-label": `Numbers of ${title}` },
      table(["step", ...names], [["all", ...row]], title),
    ),
  );
}

function bar(name, p, first) {
  const fill = el("span", { class: "fill" });
  fill.style.width = `${(100 * p).toFixed(2)}%`;
  return el(
    "div",
    { class: first ? "bar first" : "bar" },
    el("span", { class: "name", title: name }, name),
    el("span", { class: "track" }, fill),
    el("span", { class: "number" }, percent(p)),
  );
}
