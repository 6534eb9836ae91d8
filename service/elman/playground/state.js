// Whether what a view shows is the answer to what it asks.

import { el } from "./dom.js";

const WORDS = {
  loading: "Waiting for the answer",
  stale: "Waiting for the answer to what you changed",
  failed: "There is no answer to this: the message says why.",
};

/**
 * The state of a view's answer: empty, loading, ready, stale (another is on its way, this one is dimmed) or failed.
 * The elements of the answer are shown only where it is ready or stale. `line` says what is waited for.
 */
export function answerState(...parts) {
  const line = el("p", { class: "state-line", hidden: true });
  let state = "empty";
  let began = 0;
  let timer = 0;

  function set(next) {
    state = next;
    clearInterval(timer);
    const waits = next === "loading" || next === "stale";
    for (const part of parts) {
      part.hidden = next !== "ready" && next !== "stale";
      part.classList.toggle("stale", next === "stale");
      if (waits) part.setAttribute("aria-busy", "true");
      else part.removeAttribute("aria-busy");
    }
    line.dataset.state = next;
    line.hidden = !WORDS[next];
    line.textContent = WORDS[next] ?? "";
    if (!waits) return;
    began = performance.now();
    timer = setInterval(() => {
      line.textContent = `${WORDS[next]}: ${Math.round((performance.now() - began) / 1000)} s`;
    }, 1000);
  }
  set("empty");

  return {
    line,
    /** Another answer is on its way, or will be asked for in a moment. */
    ask() {
      if (state !== "loading" && state !== "stale") set(state === "ready" ? "stale" : "loading");
    },
    ready: () => set("ready"),
    fail: () => set("failed"),
    reset: () => set("empty"),
  };
}
