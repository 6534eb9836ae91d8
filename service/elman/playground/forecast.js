// Forecast: a history, and the fan of what may come after it.

import { drawnIn, remembered } from "./address.js";
import { modelPath, post, Problem, versionOf } from "./api.js";
import { chart } from "./charts.js";
import { curl, keywords, literal, python, snippets } from "./code.js";
import { el, field, nameAndUnit, number, plural, same, say, select, short } from "./dom.js";
import { at, bandsOf, drawFan } from "./fan.js";
import { textOf } from "./files.js";
import { asText, madeUp, parseNumbers, stepsFor, stepWords } from "./input.js";
import { dataOf, furtherInputs, furtherOf, staticInputs } from "./named.js";
import { answerState } from "./state.js";

/** What the options begin with. */
const BEGIN = { samples: 100, quantiles: "0.05, 0.25, 0.5, 0.75, 0.95", seed: 1 };

export function forecast(page) {
  /** The model that the fields are for; null while it is another. */
  let card = null;
  let examples = [];
  let run = null;
  /** What was asked for last, as an address has it; of an answer without a seed, with the seed that was drawn. */
  let asked = {};
  /** The file that is being read. */
  let reading = null;

  const example = select([]);
  const exampleField = field("Held-out history", example, "never seen in training");
  const history = el("textarea", { rows: 7, spellcheck: "false", class: "mono" });
  const historyField = field("History", history);
  const future = el("textarea", { rows: 4, spellcheck: "false", class: "mono" });
  const futureField = field("Known ahead", future);
  const horizon = number(24, { min: 1, step: 1 });
  const samples = number(BEGIN.samples, { min: 0, step: 1 });
  const quantiles = el("input", { type: "text", value: BEGIN.quantiles, autocomplete: "off" });
  const seed = number(BEGIN.seed, { min: 0, step: 1, placeholder: "any" });
  const statics = staticInputs(() => {});
  const further = furtherInputs(() => {});
  const furtherAhead = furtherInputs(() => {}, { prefix: "ahead", words: ", known ahead" });
  const outputs = select([]);
  const outputsField = field("Shown", outputs);
  const go = el("button", { class: "primary" }, "Forecast");
  const place = el("div", {});
  const numbers = el(
    "details",
    { class: "more" },
    el("summary", {}, "The numbers themselves"),
    historyField,
    further.element,
    futureField,
    furtherAhead.element,
  );
  const form = el(
    "form",
    { class: "card", "aria-label": "What to forecast" },
    el("h2", {}, "From what, and how far"),
    exampleField,
    statics.element,
    el(
      "div",
      { class: "fields two" },
      field("Horizon", horizon, "steps"),
      field("Samples", samples, "paths"),
      field("Seed", seed),
      outputsField,
    ),
    field("Quantiles", quantiles),
    numbers,
    place,
    el("div", { class: "actions" }, go),
  );
  const headline = el("p", { class: "answer" });
  const detail = el("p", { class: "muted lead" });
  const figure = chart({ title: "Forecast", height: 420, level: "h2" });
  const code = snippets();
  const series = remembered();
  const options = remembered();
  /** What is known ahead, before anybody has changed it. */
  let begun = "";
  const parts = [series, options, statics, further, furtherAhead];
  const results = el(
    "section",
    { class: "card results", "aria-label": "Forecast" },
    headline,
    detail,
    figure.element,
  );
  const state = answerState(results);
  const element = el(
    "div",
    {},
    el(
      "div",
      { class: "split" },
      el("div", { class: "side" }, form),
      el("div", { class: "results-column" }, state.line, results),
    ),
    code.element,
  );

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    start({ again: true });
  });
  example.addEventListener("change", () => {
    if (!card) return;
    fill();
    start({ again: true });
  });
  horizon.addEventListener("input", () => {
    if (card && future.value === begun) fillAhead();
  });
  outputs.addEventListener("change", () => start({ again: true }));

  /** The example that is chosen; what is made up where there is none. */
  const chosen = () => examples[Number(example.value)] ?? { sequence: madeUp(card) };

  function fill() {
    const one = chosen();
    history.value = asText(one.sequence);
    if (one.truth) horizon.value = one.truth.length;
    fillAhead();
    statics.take(one.static);
    series.begin({ input: history, horizon });
  }

  function fillAhead() {
    const one = chosen();
    const rows = one.future ? dataAhead(one.future) : madeUpAhead();
    future.value = begun = rows ? asText(rows) : "";
  }

  /** What is entered, but for what it begins with. */
  const address = () =>
    Object.assign(
      Number(example.value) ? { example: example.value } : {},
      future.value === begun ? {} : { future: future.value },
      ...parts.map((part) => part.address()),
    );

  /** Of what is known ahead, the features of the series. */
  const dataAhead = (given) => (Array.isArray(given) ? given : given[card.inputs[0].name]);

  /** The features that are known ahead, for a model that has no examples. */
  function madeUpAhead() {
    const known = card.forecast.known ?? [];
    const past = stepsFor(card);
    const rows = madeUp(card, past + Number(horizon.value)).slice(past);
    return known.length ? rows.map((row) => known.map((i) => row[i])) : null;
  }

  /** Whether other sequences are read for the steps ahead: a direct model runs once, on the series alone. */
  const readsAhead = () => furtherOf(card).length > 0 && card.forecast.drive !== "direct";

  /** What is known ahead, as a request carries it: rows, or an object by name; undefined where it is nothing. */
  function known(ahead, given) {
    const { known: features, drive } = card.forecast;
    const kind = { input: { kind: "features", size: features?.length } };
    const all = future.value.trim() && features?.length ? parseNumbers(future.value, kind) : undefined;
    const rows = drive === "direct" ? all : all?.slice(0, ahead);
    if (!readsAhead()) return rows;
    const others = furtherAhead.values(ahead, Array.isArray(given) ? {} : given);
    return { ...(rows ? { [card.inputs[0].name]: rows } : {}), ...others };
  }

  function request(drawn) {
    const ahead = Math.round(Number(horizon.value)) || 0;
    const count = ahead > (card.forecast.max_sampled ?? Infinity) ? 0 : Math.round(Number(samples.value));
    const one = chosen();
    const own = history.value === asText(one.sequence);
    return {
      series: further.with(parseNumbers(history.value, card), own ? one.further : undefined),
      static: statics.value(),
      horizon: ahead,
      samples: count,
      quantiles: count
        ? quantiles.value
            .split(/[\s,;]+/)
            .filter(Boolean)
            .map(quantile)
        : undefined,
      seed: seed.value === "" ? drawn : Number(seed.value),
      future: known(ahead, one.future),
    };
  }

  /** Ask for the forecast of what is entered; with `again`, somebody did. `drawn` is the seed where none is. */
  async function start({ again = false, drawn } = {}) {
    // Until its fields are ready there is no model. Ending that work here would leave the view without one.
    if (!card) return;
    run?.abort();
    const mine = (run = new AbortController());
    state.ask();
    try {
      const body = request(drawn);
      asked = { ...address(), ...(seed.value === "" && drawn !== undefined ? { drawn: String(drawn) } : {}) };
      showCode(body);
      const answer = await post(modelPath(card, "forecast"), body, mine.signal);
      page.clear();
      state.ready();
      if (body.samples && body.seed === undefined) asked.drawn = String(answer.seed);
      present(body, answer);
      page.follow({ again });
    } catch (error) {
      if (mine.signal.aborted) return;
      state.fail();
      page.problem(error);
    }
  }

  function present(body, answer) {
    const which = Number(outputs.value) || 0;
    const one = examples[Number(example.value)];
    // The truth belongs to the example's own history: where that was changed, there is none.
    const truth =
      one?.truth && history.value === asText(one.sequence)
        ? one.truth.slice(0, answer.horizon).map((row) => at(row, which))
        : null;
    const point = answer.point.map((row) => at(row, which));
    const bands = bandsOf(answer, which);
    const target = card.forecast.target?.[which] ?? which;
    const past = dataOf(card, body.series).map((row) => at(row, target));
    const name = card.input.names?.[target] ?? "value";
    const misses = (truth ?? []).map((value, i) => (value === null ? null : Math.abs(point[i] - value)));
    const there = misses.filter((value) => value !== null);
    const error = there.length ? there.reduce((sum, value) => sum + value, 0) / there.length : null;
    const [what, unit] = nameAndUnit(name);
    headline.replaceChildren(
      el("strong", { class: "number" }, short(point.at(-1)), unit && ` ${unit}`),
      ` ${what} after ${plural(answer.horizon, "step")}`,
    );
    detail.textContent = [
      bands.length > 1
        ? `${Math.round(100 * (bands.at(-1)[0] - bands[0][0]))} % between ${short(bands[0][1].at(-1))} and ${short(bands.at(-1)[1].at(-1))} there.`
        : "",
      error === null ? "" : `The line misses the truth by ${short(error)} in the mean.`,
      answer.seed === null || answer.seed === undefined ? "" : `Seed ${answer.seed}.`,
    ]
      .filter(Boolean)
      .join(" ");
    drawFan(figure, card, { past, answer, which, truth, name });
    say(`Forecast of ${plural(answer.horizon, "step")}: the last is ${short(point.at(-1))}`);
  }

  function showCode(body) {
    const { series, ...options } = body;
    code.show({
      curl: curl("POST", modelPath(card, "forecast"), body),
      python: python([
        `model = elman.model(${literal(card.name)}${keywords({ version: versionOf(card) })})`,
        `answer = model.forecast(${literal(series)}${keywords(options)})`,
        "print(answer.point)",
        ...(body.samples ? ["print(answer.quantiles)"] : []),
      ]),
    });
  }

  return {
    element,
    offers: (one) => Boolean(one.forecast),
    empty: 'No model here forecasts. One does whose output is its own next input: export it with task="forecasting".',
    async show(next, entered) {
      if (card === next && (!entered || same(entered, asked))) {
        if (!state.holds()) await start({ drawn: drawnIn(asked) });
        return true;
      }
      run?.abort();
      card = reading = null;
      asked = {};
      state.reset();
      state.ask();
      const mine = (run = new AbortController());
      const offered = await page.examples(next).catch((error) => {
        if (!mine.signal.aborted) state.fail();
        throw error;
      });
      if (mine.signal.aborted) return;
      card = next;
      examples = offered;
      exampleField.hidden = !examples.length;
      for (const one of [further, furtherAhead]) one.set(card);
      statics.set(card, card.forecast.future);
      furtherAhead.element.hidden = !readsAhead();
      example.replaceChildren(...examples.map((one, i) => el("option", { value: i }, one.title)));
      const names = (card.forecast.target ?? [0]).map((i) => card.input.names?.[i] ?? `output ${i + 1}`);
      outputs.replaceChildren(...names.map((name, i) => el("option", { value: i }, name)));
      outputsField.hidden = names.length < 2;
      historyField
        .querySelector("label")
        .replaceChildren("History ", el("small", {}, `${stepWords(card)}; CSV or JSON`));
      horizon.value = card.forecast.max_horizon ?? card.forecast.max_sampled ?? 24;
      futureField.hidden = !card.forecast.known?.length;
      futureField
        .querySelector("label")
        .replaceChildren(
          "Known ahead ",
          el(
            "small",
            {},
            `a line a step: ${(card.forecast.known ?? []).map((i) => card.input.names?.[i] ?? `feature ${i + 1}`).join(", ")}`,
          ),
        );
      samples.disabled = quantiles.disabled = !card.forecast.sampled;
      const begin = { ...BEGIN, samples: card.forecast.sampled ? BEGIN.samples : 0 };
      options.begin({ samples, quantiles, seed, shown: outputs }, begin);
      if (examples[Number(entered?.example)]) example.value = entered.example;
      fill();
      if (entered?.future !== undefined) future.value = entered.future;
      if (entered?.input !== undefined) numbers.open = true;
      for (const part of parts) part.fill(entered ?? {});
      await start({ drawn: drawnIn(entered) });
    },
    place,
    address: () => asked,
    /** Read a file that was dropped onto the page. */
    async read(file) {
      const mine = (reading = {});
      try {
        const words = await textOf(file);
        if (mine !== reading) return;
        history.value = words;
        numbers.open = true;
        await start({ again: true });
      } catch (error) {
        if (mine === reading) page.problem(error);
      }
    },
    hide: () => run?.abort(),
  };
}

function quantile(text) {
  const value = Number(text);
  if (value > 0 && value < 1) return value;
  throw new Problem(
    {
      code: "invalid_quantile",
      title: "No quantile",
      detail: `${JSON.stringify(text)} is not between 0 and 1`,
      where: "quantiles",
    },
    0,
  );
}
