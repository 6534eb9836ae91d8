// Several models on one sequence: the three cells, or two models that somebody chose, with their difference.

import { versionOf } from "./api.js";
import { chart } from "./charts.js";
import { el, field, nameAndUnit, plural, select, short } from "./dom.js";
import { headNames, isPlain, kindOf, outputsOf, withOutput } from "./named.js";
import { colourLimit, drawChannels, shares } from "./pictures.js";
import { outputNames, ranking, show, stepNames, valueRows } from "./reading.js";
import { bodyFor, influenceOf, predict } from "./request.js";
import { column, firstState, siblings } from "./siblings.js";

/** Labels that are drawn of two models: those that either gives the highest probabilities. */
const MOST_LABELS = 5;

/** `names-gru`, or `names-gru/1` of a version that is not the default. */
export const titleOf = (card) => [card.name, versionOf(card)].filter(Boolean).join("/");

const cells = (family) => family.map((one) => one.cell.toUpperCase());

/** A control to choose a second model, and the models beside each other. `changed()` is called when it is another. */
export function comparison(page, changed) {
  const choice = select([], { on: { change: () => changed() } });
  const output = select([], { on: { change: () => changed() } });
  const choiceField = field("Compare with", choice);
  const outputField = field("Output to compare", output);
  const both = chart({ title: "Both models", height: 240 });
  const difference = el("div", { class: "card both", hidden: true }, both.element);
  const reachWords = el("p", { class: "muted lead" });
  const title = el("h2", {});
  const place = el("div", { class: "columns" });
  const element = el(
    "section",
    { class: "compare", hidden: true },
    el("div", { class: "section-head" }, title, reachWords),
    difference,
    place,
  );
  let columns = [];
  let family = [];
  /** The rows of the outputs that are drawn: there may be one for the whole sequence. */
  let rows = 1;

  const beside = (card) => (isPlain(card) ? siblings(card, page.models()).filter(isPlain) : [card]);

  /** The models and versions that take the same sequences. */
  function candidates(card) {
    const versions = page.models().find((one) => one.name === card.name)?.versions ?? card.versions;
    const others = page.models().filter((one) => one.name !== card.name && kindOf(one) === kindOf(card));
    return [
      ...versions.filter((one) => one !== card.version).map((one) => [`${card.name}/${one}`, `version ${one}`]),
      ...others.map((one) => [one.name, one.name]),
    ];
  }

  /** Offer the outputs that all of these models have. The one that is chosen stays in any case. Gives their names. */
  function offer(cards) {
    const isPrimary = (name) => cards.every((one) => one.outputs[0].name === name);
    const [first, ...others] = cards.map(outputsOf);
    const shared = first.filter((name) => !isPrimary(name) && others.every((names) => names.includes(name)));
    const kept = isPrimary(output.value) ? "" : output.value;
    const names = kept && !shared.includes(kept) ? [...shared, kept] : shared;
    output.replaceChildren(
      el("option", { value: "" }, "the primary one"),
      ...names.map((name) => el("option", { value: name }, name)),
    );
    output.value = kept;
    outputField.hidden = !names.length;
    return shared;
  }

  async function chosen() {
    const [name, version] = choice.value.split("/");
    return page.card(name, Number(version));
  }

  function layOut(next, words) {
    title.textContent = words;
    element.setAttribute("aria-label", words);
    if (next.length === family.length && next.every((one, i) => one === family[i])) return;
    family = next;
    columns = family.map((one) => column(one, titleOf(one)));
    place.replaceChildren(...columns.map((one) => one.element));
  }

  return {
    element,
    fields: [choiceField, outputField],
    choice,
    output,
    set(card) {
      const found = candidates(card);
      const three = beside(card);
      choice.replaceChildren(
        el("option", { value: "" }, three.length > 1 ? cells(three).join(", ") : "nothing"),
        ...found.map(([value, words]) => el("option", { value }, words)),
      );
      choiceField.hidden = !found.length;
      // An address may name any of its outputs.
      output.replaceChildren(...["", ...outputsOf(card)].map((value) => el("option", { value })));
      outputField.hidden = true;
    },
    mark: (step) => both.mark(Math.min(step, rows)),
    /** Draw what is beside `asked`, {card, sequence, body, result, length}. Raises Problem. */
    async draw(asked, signal) {
      const { card, sequence, body, length } = asked;
      const second = choice.value ? await chosen() : null;
      const next = second ? [card, second] : beside(card);
      if (next.length < 2) {
        element.hidden = outputField.hidden = true;
        return;
      }
      const shared = offer(next);
      const name = shared.includes(output.value) ? output.value : "";
      const given = { sequence: body.sequence, static: body.static };
      const answers = await Promise.all(
        next.map(async (one) => {
          const heads = headNames(one).includes(name) ? [name] : undefined;
          const known = one === card && (!heads || asked.result.heads?.[name]);
          const result = known
            ? asked.result
            : await predict(one, bodyFor(one, sequence, given.sequence, given.static, heads), signal);
          // How far a step reaches is asked of the primary output alone.
          if (name) return { ...withOutput(one, result, name), reach: null };
          return { card: one, result, reach: await influenceOf(one, length, given, signal) };
        }),
      );
      element.hidden = false;
      layOut(next, second ? `${next.map(titleOf).join(" and ")} side by side` : threeWords(cells(next)));
      const most = Math.max(...answers.flatMap(({ reach }) => (reach ? shares(reach.influence) : [])), 0);
      const limit = commonLimit(answers);
      answers.forEach((answer, i) => columns[i].draw(sequence, answer, most, limit));
      const channels = second ? channelsOf(answers) : [];
      reachWords.textContent = [
        spanWords(answers, length, second ? titleOf : (one) => one.cell.toUpperCase()),
        output.value && !name ? `Not all of them have an output “${output.value}”. Their primary outputs are shown.` : "",
        second && !channels.length ? "Their outputs have no name in common, so there is no difference to draw." : "",
      ]
        .filter(Boolean)
        .join(" ");
      difference.hidden = !channels.length;
      rows = Math.max(...channels.flatMap(({ values }) => values.map((one) => one.length)));
      if (channels.length) drawBoth(both, sequence, answers, channels, { name, whole: rows === 1 && length > 1 });
    },
  };
}

const threeWords = (names) => `${names.slice(0, -1).join(", ")} and ${names.at(-1)} side by side`;

function spanWords(answers, length, name) {
  const spans = answers.filter(({ reach }) => reach).map(({ card, reach }) => `${name(card)} ${reach.span}`);
  return spans.length
    ? `90 % of the influence on the answer lies in the last steps, of ${length}: ${spans.join(", ")}.`
    : "";
}

/** One scale of colours for the first states of several models. */
function commonLimit(answers) {
  const states = answers.filter(({ result }) => result.hidden).map(({ result }) => result.hidden[firstState(result)]);
  const name = answers.map(({ result }) => firstState(result)).find(Boolean);
  return states.length ? colourLimit(name, states) : 1;
}

/** What both models give: {name, unit, values, difference}; `values` are those of the first and of the second model. */
const channelsOf = (answers) => common(answers).map((one) => ({ ...one, difference: beyond(...one.values) }));

function common(answers) {
  const labels = answers.map(({ result }) => ranking(result));
  if (labels.every(Boolean)) {
    const [first, second] = labels;
    const highest = (name) => Math.max(...labels.flatMap((one) => one.series(name)).map((p) => p ?? 0));
    return first.names
      .filter((name) => second.names.includes(name))
      .map((name) => ({ name: show(name), unit: "%", high: highest(name), values: labels.map((one) => one.series(name)) }))
      .sort((a, b) => b.high - a.high)
      .slice(0, MOST_LABELS);
  }
  if (labels.some(Boolean)) return [];
  const rows = answers.map(({ result }) => valueRows(result));
  const [first, second] = answers.map(({ card }, i) => outputNames(card, rows[i][0].length));
  return first
    .map((name, i) => ({ name, unit: nameAndUnit(name)[1], at: [i, second.indexOf(name)] }))
    .filter(({ at }) => at[1] >= 0)
    .map(({ at, ...rest }) => ({ ...rest, values: rows.map((one, i) => one.map((row) => row[at[i]])) }));
}

/**
 * An axis for each channel with both models on it, and one below for the difference, on one scale for each unit.
 *
 * `name` is the output that was chosen, and `whole` says that it has one row for the whole sequence.
 */
function drawBoth(figure, sequence, answers, channels, { name: chosen, whole }) {
  const names = answers.map(({ card }) => titleOf(card));
  figure.title(`${chosen ? `Output ${chosen} of ` : ""}${names[0]} and ${names[1]}, and their difference`);
  const most = new Map();
  for (const { unit, difference: values } of channels)
    most.set(unit, Math.max(most.get(unit) ?? 0, ...values.map((value) => Math.abs(value ?? 0))));
  const largest = channels
    .flatMap(({ name, difference: values }) => values.map((value, i) => ({ name, value, step: i + 1 })))
    .reduce((a, b) => (Math.abs(b.value ?? 0) > Math.abs(a.value ?? 0) ? b : a));
  const where = whole ? "for the whole sequence" : `at step ${largest.step}`;
  const words = largest.value
    ? `The largest difference is ${short(largest.value)}, of ${largest.name} ${where}.`
    : "There is no difference.";
  figure.note(`${words} Under each output, what ${names[1]} gives beyond ${names[0]}.`);
  const length = Math.max(...channels.flatMap(({ values }) => values.map((one) => one.length)));
  const panels = channels.flatMap(({ name, unit, values, difference: apart }) => {
    const limit = most.get(unit) || 1;
    return [
      {
        lines: [
          { values: values[1], color: "ink", width: 1.4, dash: "5 3", name: `${name}, ${names[1]}` },
          { values: values[0], color: "accent", width: 2, name: `${name}, ${names[0]}` },
        ],
        ends: [{ text: name, color: "ink" }],
        inner: 64,
        y: unit === "%" ? { range: [-0.04, 1.04], marks: [0, 1].map((p) => [p, `${100 * p}%`]) } : {},
      },
      {
        lines: [{ values: apart, color: "rest-1", name: `${name}, difference` }],
        ends: [{ text: "difference", color: "muted" }],
        y: { range: [-1.1 * limit, 1.1 * limit], marks: [-limit, 0, limit].map((value) => [value, rounded(value)]) },
        bars: true,
        inner: 44,
      },
    ];
  });
  drawChannels(figure, panels, length, {
    named: stepNames(sequence),
    key: [
      { text: names[0], color: "accent" },
      { text: `┄ ${names[1]}`, color: "ink" },
    ],
    label: `${chosen ? `Output ${chosen}` : "Outputs"} of ${names[0]} and ${names[1]} ${whole ? where : `after each of ${plural(length, "step")}`}, and their difference. ${words}`,
    head: ["step", ...channels.flatMap(({ name }) => [...names.map((one) => `${name}, ${one}`), `${name}, difference`])],
    rows: () =>
      Array.from({ length }, (_, i) => [
        String(i + 1),
        ...channels.flatMap(({ values, difference: apart }) => [...values, apart].map((one) => one[i] ?? null)),
      ]),
  });
}

const rounded = (value) => short(Number(value.toPrecision(2)));

/** What the second has beyond the first, where both have something. */
const beyond = (first, second) =>
  first.map((value, i) => ((value ?? null) === null || (second[i] ?? null) === null ? null : second[i] - value));
