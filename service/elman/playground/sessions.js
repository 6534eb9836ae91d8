// The lists beside a session: those of the model, and the states that were kept.

import { el } from "./dom.js";

/** The end of an id: its beginning is the time, which neighbours share. */
export const shortId = (id) => (id.length > 12 ? `…${id.slice(-10)}` : id);

/** Two cards. `choose(session)`, `putBack(state)` and `openFrom(state)` are called for what is pressed. */
export function sessionLists({ make, choose, putBack, openFrom }) {
  const sessions = el("ul", { class: "list", "aria-label": "Sessions of this model" });
  const noSession = el("p", { class: "empty" }, "No session yet.");
  const states = el("ul", { class: "list", "aria-label": "Kept states" });
  const noState = el(
    "p",
    { class: "empty" },
    "A state that you keep can be put back into any session of this model, whenever you like.",
  );
  const element = el(
    "div",
    { class: "side" },
    el("section", { class: "card", "aria-label": "Sessions" }, el("h2", {}, "Sessions"), ...make, sessions, noSession),
    el("section", { class: "card", "aria-label": "States" }, el("h2", {}, "Kept states"), states, noState),
  );

  const sessionRow = (one, current) =>
    el(
      "li",
      {},
      el(
        "button",
        {
          type: "button",
          class: "row",
          "aria-current": one.id === current?.id ? "true" : false,
          on: { click: () => choose(one) },
        },
        el("span", { class: "mono" }, shortId(one.id)),
        el("span", { class: "number" }, `step ${one.step}`),
      ),
    );

  const stateRow = (state, current) =>
    el(
      "li",
      { class: "kept" },
      el(
        "span",
        {},
        el("strong", {}, `step ${state.step}`),
        " ",
        el("span", { class: "muted mono" }, `of ${shortId(state.of)}`),
      ),
      el(
        "span",
        { class: "actions" },
        el(
          "button",
          {
            type: "button",
            disabled: !current,
            "aria-label": `Put back the state of step ${state.step}`,
            on: { click: () => putBack(state) },
          },
          "Put back",
        ),
        el(
          "button",
          {
            type: "button",
            "aria-label": `New session from the state of step ${state.step}`,
            on: { click: () => openFrom(state) },
          },
          "New from it",
        ),
      ),
    );

  return {
    element,
    paint(list, kept, current) {
      noSession.hidden = list.length > 0;
      sessions.replaceChildren(...list.map((one) => sessionRow(one, current)));
      noState.hidden = kept.length > 0;
      states.replaceChildren(...kept.map((state) => stateRow(state, current)));
    },
  };
}
