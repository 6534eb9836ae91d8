// The facts of a model: its card, in the words of someone who has not met it.

import { el, grouped, plural } from "./dom.js";
import { stepWords } from "./input.js";

/** The card as a list. */
export function facts(card) {
  const { batching, input, state } = card;
  const rows = [
    ["Task", card.task],
    ["Network", `${card.cell.toUpperCase()}, ${plural(card.layers, "layer")} of ${card.hidden_size}`],
    ["Direction", card.direction === "forward" ? "forward" : "both ways"],
    ["Input", input.names && input.names.length <= 8 ? input.names.join(" · ") : stepWords(card)],
    ["Output", outputWords(card)],
    ["State", `${grouped(state.bytes)} bytes (${state.tensors.map((tensor) => tensor.name).join(", ") || "none"})`],
    [
      "Batching",
      batching.exact ? "exact, the same bits in any batch" : (batching.reason ?? `within ${batching.tolerance}`),
    ],
    ["Digest", el("span", { class: "mono", title: card.digest }, card.digest.replace("sha256:", "").slice(0, 12))],
  ];
  return el(
    "dl",
    { class: "facts", "aria-label": `Card of ${card.name}` },
    ...rows.map(([term, words]) => el("div", {}, el("dt", {}, term), el("dd", {}, words))),
  );
}

/** What comes out at a step, in words. */
function outputWords({ output, outputs, task, forecast }) {
  if (output.labels) return `one of ${plural(output.labels.length, "label")}`;
  if (task === "generation") return `the next of ${plural(output.size, "token")}`;
  return forecast
    ? `the next ${output.size === 1 ? "value" : `${output.size} values`}`
    : `${plural(output.size, "number")} ${outputs[0].role === "final" ? "for the whole sequence" : "a step"}`;
}
