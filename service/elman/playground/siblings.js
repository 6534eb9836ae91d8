// Siblings: models that differ in their cell alone, beside each other.

import { chart } from "./charts.js";
import { el, percent, plural } from "./dom.js";
import { drawHidden, drawInfluence, drawOutputs } from "./pictures.js";
import { inWords, ranking, show, valueRows } from "./reading.js";

const CELLS = ["rnn", "lstm", "gru"];

/** The names of a model's family: its own with each cell, RNN first; only its own where it has no cell in it. */
export function familyNames(name) {
  const cellIn = (cell) => new RegExp(`(^|[-_])${cell}($|[-_])`);
  const found = CELLS.find((cell) => cellIn(cell).test(name));
  return found ? CELLS.map((cell) => name.replace(cellIn(found), `$1${cell}$2`)) : [name];
}

/** The models whose name is this one's with the cell replaced, RNN first; this one is among them. */
export const siblings = (card, models) =>
  familyNames(card.name)
    .map((name) => (name === card.name ? card : models.find((one) => one.name === name)))
    .filter(Boolean);

/** The state tensor that is drawn of a model beside others: its first. */
export const firstState = (result) => result.hidden && Object.keys(result.hidden)[0];

/** One model of several, by its title: small pictures on the same axes. */
export function column(card, title = card.name) {
  const outputs = chart({ title: "Outputs", height: 150, level: "h4" });
  const reach = chart({ title: "Influence", height: 130, level: "h4" });
  const state = chart({ title: "Hidden state", height: 170, level: "h4" });
  const answer = el("p", { class: "answer small" });
  return {
    element: el(
      "section",
      { class: "card column", "aria-label": title },
      el("header", {}, el("h3", {}, card.cell.toUpperCase()), el("span", { class: "muted mono" }, title)),
      answer,
      outputs.element,
      reach.element,
      state.element,
    ),
    /** Draw an answer; `most` is the highest share of influence of all models, and `limit` the full colour of a state. */
    draw(sequence, { card, result, reach: influence }, most, limit) {
      const labels = ranking(result);
      answer.replaceChildren(
        ...(labels
          ? [el("strong", {}, show(labels.best.name)), " ", el("span", { class: "number" }, percent(labels.best.p))]
          : [el("strong", { class: "number" }, inWords(valueRows(result).at(-1)))]),
      );
      drawOutputs(outputs, card, sequence, result, true);
      reach.element.hidden = !influence;
      if (influence) {
        reach.note(`${influence.span} of ${plural(influence.length, "step")} hold 90 %`);
        drawInfluence(reach, sequence, influence, most);
      }
      const name = firstState(result);
      state.element.hidden = !name;
      if (name) drawHidden(state, sequence, result.hidden[name], name, true, limit);
    },
  };
}
