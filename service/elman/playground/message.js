// The message of the page: what did not work, and where. It stands beside what was asked.

import { isAboutKey, Problem } from "./api.js";
import { el } from "./dom.js";

/** Problems of the page or the server as a whole, and not of what a view asks. */
const ABOUT_ALL = new Set(["unreachable", "draining", "unauthorized", "forbidden", "unknown_model", "other_view"]);
/** What is asked again when the server answers: it was not there, or about to stop. */
const LOST = new Set(["unreachable", "draining"]);

/** `place()` is where a view has its messages, if it has such a place; `askKey(problem)` opens the dialog for a key. */
export function message({ place, askKey }) {
  const box = document.getElementById("problem");
  const home = el("div", {});
  box.replaceWith(home);
  home.append(box);
  /** The code of what went wrong last, until something succeeds; and what is shown of it. */
  let code = null;
  let shown = "";

  function close() {
    box.replaceChildren();
    shown = "";
  }

  return {
    /** Whether the server was not there for what was asked last. */
    lost: () => LOST.has(code),
    tell(error) {
      const asked = error instanceof Problem;
      const words = [error.code, error.message, error.where].join(" ");
      code = asked ? error.code : "page";
      // What is said already is not said again.
      if (shown === words) return;
      shown = words;
      // Beside what was asked, unless it is about the page or the server as a whole.
      (asked && !ABOUT_ALL.has(code) ? (place() ?? home) : home).append(box);
      box.replaceChildren(
        el(
          "div",
          { class: "problem" },
          el(
            "p",
            { class: "problem-head" },
            el("strong", {}, asked ? error.title : "This did not work"),
            asked ? el("code", {}, code) : null,
            asked && error.status ? el("span", { class: "muted number" }, String(error.status)) : null,
          ),
          el("p", {}, error.message),
          asked && error.where ? el("p", {}, "Where: ", el("code", {}, error.where)) : null,
          asked && error.expected !== undefined && error.expected !== null
            ? el(
                "p",
                { class: "muted" },
                "Expected: ",
                typeof error.expected === "object" ? JSON.stringify(error.expected) : String(error.expected),
              )
            : null,
          isAboutKey(error) ? el("button", { type: "button", on: { click: () => askKey(error) } }, "Enter a key") : null,
          el(
            "button",
            { type: "button", class: "quiet close", "aria-label": "Close the message", on: { click: close } },
            "Close",
          ),
        ),
      );
      if (!asked) console.warn(error);
    },
    /** Take the message away; with a code, only a message of that code. */
    clear(only) {
      if (only && code !== only) return;
      close();
      code = null;
    },
  };
}
