// What a sequence is asked for: its outputs, with the state where that is small, and its influence where it has one.

import { modelPath, post } from "./api.js";
import { topOf } from "./reading.js";

/** Numbers of state that are asked for at most: a longer sequence is shown without. */
const MOST_STATE = 400_000;
/** Steps whose influence is asked for at most: it takes as many runs. */
const MOST_INFLUENCE = 400;

/** Whether it can be asked how far each step reaches: less than a window, or than a single step, is nothing to read. */
export const reaches = (card, length) => card.streaming && !card.window && length > 1 && length <= MOST_INFLUENCE;

/** Whether a model gives one row for the whole sequence, and none a step. */
export const isFinal = (card) => card.outputs[0].role === "final";

/** The body of a predict request; `sequence` has the `data`, and further inputs where there are some. */
export function bodyFor(card, data, sequence = data, given = undefined, heads = undefined) {
  const numbers = (data.length * card.state.bytes) / 4;
  return {
    sequence,
    static: given,
    heads,
    return: isFinal(card) ? "final" : "steps",
    top: topOf(card),
    hidden: card.streaming && card.state.tensors.length > 0 && numbers <= MOST_STATE ? true : undefined,
  };
}

/** The answer to a request, with its rows in `outputs` and `decoded`, also where it is a single one. Raises Problem. */
export async function predict(card, body, signal) {
  return inRows(body, (await post(modelPath(card, "predict"), body, signal)).results[0]);
}

/** An answer with its rows in `outputs` and `decoded`, also where it is a single one. */
export function inRows(body, answer) {
  if (body.return === "steps" || !answer.length) return answer;
  return { ...answer, outputs: [answer.output], decoded: answer.decoded && [answer.decoded] };
}

/** How far each step reaches; null where that is not asked. */
export const influenceOf = async (card, length, body, signal) =>
  reaches(card, length) ? post(modelPath(card, "influence"), body, signal) : null;
