// Whether what a view shows is the answer to what it asks.

import { el } from "./dom.js";

const WORDS = {
  loading: "Waiting for the answer",
  stale: "Waiting for the answer to what you changed",
  failed: "There is no answer to this: the message says why.",
};
const WAITS = new Set(["loading", "stale"]);
const SHOWS = new Set(["ready", "stale", "doubtful"]);
/** Milliseconds after which an answer that is out of date is dimmed: most are replaced before. */
const LATE = 250;

/**
 * The state of a view's answer: empty, loading, ready, stale (another is on its way, this one is dimmed), doubtful
 * (dimmed too, since something may have happened after it) or failed. The elements of the answer are shown only where
 * it is ready, stale or doubtful. `line` says what is waited for, or what went wrong.
 */
export function answerState(...parts) {
  const line = el("p", { class: "state-line", hidden: true });
  let state = "empty";
  let began = 0;
  let timer = 0;
  let late = 0;
  const dim = (wanted) => parts.forEach((part) => part.classList.toggle("stale", wanted));

  function set(next, words = WORDS[next] ?? "") {
    state = next;
    clearInterval(timer);
    clearTimeout(late);
    if (next === "stale") late = setTimeout(() => dim(true), LATE);
    else dim(next === "doubtful");
    for (const part of parts) {
      part.hidden = !SHOWS.has(next);
      if (WAITS.has(next)) part.setAttribute("aria-busy", "true");
      else part.removeAttribute("aria-busy");
    }
    line.dataset.state = next;
    line.hidden = !words;
    line.textContent = words;
    if (!WAITS.has(next)) return;
    began = performance.now();
    timer = setInterval(() => {
      line.textContent = `${words}: ${Math.round((performance.now() - began) / 1000)} s`;
    }, 1000);
  }
  set("empty");

  return {
    line,
    /** Whether what is shown is the answer. */
    holds: () => state === "ready",
    /** Another answer is on its way, or will be asked for in a moment. */
    ask(words) {
      if (!WAITS.has(state)) set(SHOWS.has(state) ? "stale" : "loading", words);
    },
    /** The answer that is shown holds; `words` are what is to be said of it. */
    ready: (words) => set("ready", words),
    /** The answer that is shown may be out of date. */
    doubt: (words) => set("doubtful", words),
    fail: (words) => set("failed", words),
    reset: () => set("empty"),
  };
}
