// Forecast: a history, and the fan of what may come after it.

import { modelPath, post, Problem, versionOf } from "./api.js";
import { chart } from "./charts.js";
import { curl, keywords, literal, python, snippets } from "./code.js";
import { el, field, nameAndUnit, number, plural, say, select, short } from "./dom.js";
import { colour } from "./drawing.js";
import { asText, MADE_UP, madeUp, parseNumbers, stepWords } from "./input.js";
import { staticInputs } from "./named.js";
import { answerState } from "./state.js";

export function forecast(page) {
  let card = null;
  let examples = [];
  let run = null;

  const example = select([]);
  const exampleField = field("Held-out history", example, "never seen in training");
  const history = el("textarea", { rows: 7, spellcheck: "false", class: "mono" });
  const historyField = field("History", history);
  const future = el("textarea", { rows: 4, spellcheck: "false", class: "mono" });
  const futureField = field("Known ahead", future);
  const horizon = number(24, { min: 1, step: 1 });
  const samples = number(100, { min: 0, step: 1 });
  const quantiles = el("input", { type: "text", value: "0.05, 0.25, 0.5, 0.75, 0.95", autocomplete: "off" });
  const seed = number(1, { min: 0, step: 1, placeholder: "any" });
  const statics = staticInputs(() => {});
  const outputs = select([]);
  const outputsField = field("Shown", outputs);
  const go = el("button", { class: "primary" }, "Forecast");
  const place = el("div", {});
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
    el("details", { class: "more" }, el("summary", {}, "The numbers themselves"), historyField, futureField),
    place,
    el("div", { class: "actions" }, go),
  );
  const headline = el("p", { class: "answer" });
  const detail = el("p", { class: "muted lead" });
  const figure = chart({ title: "Forecast", height: 420, level: "h2" });
  const code = snippets();
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
    start();
  });
  example.addEventListener("change", () => {
    fill();
    start();
  });
  outputs.addEventListener("change", () => start());

  function fill() {
    const one = examples[Number(example.value)] ?? { sequence: madeUp(card), future: madeUpFuture() };
    history.value = asText(one.sequence);
    future.value = one.future ? asText(one.future) : "";
    if (one.truth) horizon.value = one.truth.length;
  }

  /** The features that are known ahead, for a model that has no examples. */
  function madeUpFuture() {
    const known = card.forecast.known ?? [];
    const rows = madeUp(card, MADE_UP + Number(horizon.value)).slice(MADE_UP);
    return known.length ? rows.map((row) => known.map((i) => row[i])) : null;
  }

  function request() {
    const ahead = Math.round(Number(horizon.value));
    const count = ahead > (card.forecast.max_sampled ?? Infinity) ? 0 : Math.round(Number(samples.value));
    const rows =
      future.value.trim() && card.forecast.known?.length
        ? parseNumbers(future.value, { input: { kind: "features", size: card.forecast.known.length } })
        : undefined;
    const series = parseNumbers(history.value, card);
    return {
      series,
      static: statics.value(),
      horizon: ahead,
      samples: count,
      quantiles: count
        ? quantiles.value
            .split(/[\s,;]+/)
            .filter(Boolean)
            .map(quantile)
        : undefined,
      seed: seed.value === "" ? undefined : Number(seed.value),
      future: rows?.slice(0, ahead),
    };
  }

  async function start() {
    run?.abort();
    const mine = (run = new AbortController());
    state.ask();
    try {
      const body = request();
      showCode(body);
      const answer = await post(modelPath(card, "forecast"), body, mine.signal);
      page.clear();
      state.ready();
      present(body, answer);
    } catch (error) {
      if (error.name === "AbortError") return;
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
    const bands = Object.entries(answer.quantiles ?? {})
      .map(([q, rows]) => [Number(q), rows.map((row) => at(row, which))])
      .sort((a, b) => a[0] - b[0]);
    const target = card.forecast.target?.[which] ?? which;
    const past = body.series.map((row) => at(row, target));
    const name = card.input.names?.[target] ?? "value";
    const error = truth
      ? point.slice(0, truth.length).reduce((sum, value, i) => sum + Math.abs(value - truth[i]), 0) / truth.length
      : null;
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
    draw(past, point, bands, truth, name, answer);
    say(`Forecast of ${plural(answer.horizon, "step")}: the last is ${short(point.at(-1))}`);
  }

  function draw(past, point, bands, truth, name, answer) {
    const shown = past.slice(-Math.max(3 * point.length, 36));
    const before = shown.map((_, i) => i - shown.length + 1);
    const ahead = point.map((_, i) => i + 1);
    const now = shown.at(-1);
    const pairs = pairsOf(bands);
    const shares = pairs.map(([low, high]) => `${Math.round(100 * (high[0] - low[0]))} %`);
    const line = (name, x, y, color, width, dash) => ({
      kind: "line",
      x,
      y,
      color: colour(color),
      width,
      dash,
      words: (i) => `${short(y[i])} ${name}, step ${x[i]}`,
    });
    const picture = {
      margin: { l: 56, r: 16, t: 30, b: 40 },
      x: { title: "steps from now" },
      y: { title: name },
      marks: [
        ...pairs.map(([[, low], [, high]], i) => ({
          kind: "band",
          x: [0, ...ahead],
          low: [now, ...low],
          high: [now, ...high],
          color: colour("accent"),
          opacity: 0.13 + 0.09 * i,
        })),
        line("history", before, shown, "ink", 1.6),
        ...(truth ? [line("truth", [0, ...ahead.slice(0, truth.length)], [now, ...truth], "ink", 1.4, "3 3")] : []),
        line("forecast", [0, ...ahead], [now, ...point], "accent", 2.6),
      ],
      // The names of the lines, each in its own colour.
      key: [
        { text: "history", color: colour("ink") },
        ...(truth ? [{ text: "┄ truth", color: colour("ink") }] : []),
        { text: "forecast", color: colour("accent") },
      ],
    };
    const head = [
      "step",
      "forecast",
      ...(answer.mean ? ["mean"] : []),
      ...bands.map(([q]) => `quantile ${q}`),
      ...(truth ? ["truth"] : []),
    ];
    const which = Number(outputs.value) || 0;
    const { max_sampled: most, coverage } = card.forecast;
    figure.note(
      [
        shares.length
          ? `The ${shares.length === 1 ? "band holds" : "bands hold"} ${shares.join(" and ")} of the sampled paths.`
          : "",
        shares.length && coverage ? held(coverage, which) : "",
        point.length > (most ?? Infinity) ? `There is no band: the model's errors are known for ${plural(most, "step")}.` : "",
      ]
        .filter(Boolean)
        .join(" "),
    );
    figure.mark(0);
    figure.draw(() => picture, {
      label: `Forecast of ${name}: ${plural(point.length, "step")} ahead, from ${short(point[0])} to ${short(point.at(-1))}${truth ? ", with what truly came" : ""}.`,
      head,
      rows: () =>
        point.map((value, i) => [
          String(i + 1),
          value,
          ...(answer.mean ? [at(answer.mean[i], which)] : []),
          ...bands.map(([, rows]) => rows[i]),
          ...(truth ? [truth[i] ?? null] : []),
        ]),
    });
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
    async show(next) {
      if (card === next) return;
      card = next;
      state.reset();
      const offered = await page.examples(next);
      if (card !== next) return;
      examples = offered;
      exampleField.hidden = !examples.length;
      statics.set(card);
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
      samples.disabled = card.forecast.sampled === false;
      if (samples.disabled) samples.value = 0;
      fill();
      await start();
    },
    place,
    again: () => start(),
    hide: () => run?.abort(),
  };
}

/** What the middle interval held of held-out data. */
function held({ level, shares }, which) {
  const percents = shares.map((row) => Math.round(100 * at(row, which)));
  return `Of held-out data, intervals of ${Math.round(100 * level)} % held ${Math.min(...percents)} to ${Math.max(...percents)} %.`;
}

/** An output of several, or the only one. */
const at = (row, which) => (Array.isArray(row) ? row[Math.min(which, row.length - 1)] : row);

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

/** The pairs of quantiles around the middle, the widest first. */
const pairsOf = (bands) => Array.from({ length: Math.floor(bands.length / 2) }, (_, i) => [bands[i], bands.at(-1 - i)]);
