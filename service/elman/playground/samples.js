// One generated text: its tokens as they come, how it ended, and how probable it was.

import { el, percent, plural, short, table } from "./dom.js";
import { show } from "./reading.js";

const ENDINGS = { end: "ended itself", stop: "met a stop", length: "cut at the longest" };

/** A line of the list: `add(event)` for each token of a stream, and `finish(result, names)`. */
export function sample(index, prompt) {
  const text = el("span", { class: "made" });
  /** The texts of the tokens that came, one by one. */
  const pieces = [];
  const ending = el("span", { class: "muted ending" }, "…");
  const given = el("span", { class: "given" }, typeof prompt === "string" ? prompt : prompt.join(" "));
  const element = el("li", { class: "sample", "data-sample": index }, el("span", { class: "text" }, given, text), ending);
  return {
    element,
    add({ text: piece, token, logprob }) {
      const span = el("span", { class: "token" }, piece ?? `${token} `);
      if (logprob !== undefined) {
        span.classList.add("told");
        span.style.setProperty("--p", percent(Math.exp(logprob)).replace(" ", ""));
      }
      text.append(span);
      if (token !== null) pieces.push(piece);
    },
    /** Say how it ended. `names` are texts of tokens by id. */
    finish(result, names) {
      const { steps, reason, cumulative_logprob: total, score, logprobs } = result;
      // A beam search streams nothing.
      if (!text.hasChildNodes()) text.append(result.text ?? result.tokens.join(" "));
      ending.textContent = [
        plural(steps, "step"),
        ENDINGS[reason] ?? reason,
        ...(score === undefined ? [] : [`score ${short(score)}`]),
        ...(total === undefined ? [] : [`log-probability ${short(total)}`]),
      ].join(", ");
      if (logprobs) element.append(tokenTable(result, names, pieces));
    },
  };
}

/** Every token with its log-probability, and the most probable tokens of its step, to be opened. */
function tokenTable({ tokens, logprobs, text }, names, pieces) {
  const name = (token) => (names.has(token) ? show(names.get(token)) : `token ${token}`);
  const rows = logprobs.map(({ logprob, top }, i) => [
    pieces[i] ? show(pieces[i]) : name(tokens[i]),
    logprob,
    percent(Math.exp(logprob)),
    top.map((one) => `${name(one.token)} ${percent(Math.exp(one.logprob))}`).join(", "),
  ]);
  const title = `Log-probabilities of ${text ?? tokens.join(" ")}`;
  return el(
    "details",
    { class: "more" },
    el("summary", {}, "Log-probabilities", el("span", { class: "unseen" }, ` of ${text ?? tokens.join(" ")}`)),
    el(
      "div",
      { class: "scroll", role: "region", tabindex: 0, "aria-label": title },
      table(["token", "log-probability", "probability", "most probable"], rows, title),
    ),
  );
}

/** The texts of tokens by id, as far as an answer has them. */
export const tokenNames = (results) =>
  new Map(
    results
      .flatMap((result) => result.logprobs ?? [])
      .flatMap(({ top }) => top)
      .filter(({ text }) => text !== undefined && text !== null)
      .map(({ token, text }) => [token, text]),
  );
