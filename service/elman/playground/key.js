// The key: asked for in a dialog when the server wants one, kept for this tab, and never part of an address.

import { check, key, onRefusal } from "./api.js";
import { el, field, newId } from "./dom.js";

/**
 * The dialog. It opens when a request is refused for its key; the request is sent again with the key that is given.
 * `changed()` is called when another key is in force and no request waits for it. `open()` shows the dialog.
 */
export function keyDialog(changed) {
  const heading = el("h2", { id: newId("key") });
  const words = el("p", { id: newId("key") });
  const fault = el("p", { class: "fault", role: "alert", id: newId("key") });
  const box = el("input", {
    type: "password",
    autocomplete: "off",
    spellcheck: "false",
    "aria-describedby": fault.id,
    on: { input: () => wrong("") },
  });
  const use = el("button", { class: "primary" }, "Use this key");
  const forget = el("button", { type: "button", on: { click: forgetIt } }, "Forget the key");
  const cancel = el("button", { type: "button", on: { click: () => dialog.close() } }, "Cancel");
  const form = el(
    "form",
    { on: { submit: tryIt } },
    heading,
    words,
    el("div", { class: "field-and-fault" }, field("API key", box, "kept until this tab is closed"), fault),
    el("div", { class: "actions" }, use, cancel, forget),
  );
  const dialog = el("dialog", { class: "key-dialog", "aria-labelledby": heading.id, "aria-describedby": words.id }, form);
  document.body.append(dialog);

  /** What waits for a key: `{answer, settle}`, or null. */
  let waiting = null;
  /** The key with which nobody wanted to be asked again. */
  let declined = null;

  dialog.addEventListener("close", () => {
    if (waiting) declined = key.get();
    settle(false);
  });
  dialog.addEventListener("keydown", (event) => {
    if (event.key !== "Tab") return;
    const stops = [...form.querySelectorAll("input, button")].filter((one) => !one.hidden && !one.disabled);
    const [end, start] = event.shiftKey ? [stops[0], stops.at(-1)] : [stops.at(-1), stops[0]];
    if (document.activeElement !== end) return;
    event.preventDefault();
    start.focus();
  });
  onRefusal(ask);

  function open(problem = null) {
    const has = Boolean(key.get());
    heading.textContent = !problem ? "API key" : has ? "The server wants another key" : "The server asks for a key";
    words.textContent = problem
      ? "What you were doing goes on when the server accepts the key."
      : "Only where the server asks for one. It is sent with each request from now on.";
    forget.hidden = !has;
    wrong(problem && has ? problem.message : "");
    // Somebody may be typing a key already.
    if (dialog.open) return;
    box.value = "";
    dialog.showModal();
    box.focus();
  }

  /** Whether there is another key than the one that was refused. All that wait share one dialog. */
  function ask(problem) {
    if (declined === key.get()) return false;
    if (!waiting) {
      waiting = {};
      waiting.answer = new Promise((resolve) => (waiting.settle = resolve));
      open(problem);
    }
    return waiting.answer;
  }

  function settle(answer) {
    const before = waiting;
    waiting = null;
    before?.settle(answer);
    return Boolean(before);
  }

  function wrong(text) {
    fault.textContent = text;
    box.setAttribute("aria-invalid", String(Boolean(text)));
  }

  function take(next) {
    key.set(next);
    declined = null;
    const waited = settle(true);
    dialog.close();
    if (!waited) changed();
  }

  function forgetIt() {
    take("");
  }

  async function tryIt(event) {
    event.preventDefault();
    const candidate = box.value.trim();
    if (use.getAttribute("aria-disabled") === "true") return;
    if (!candidate) return wrong("Type or paste a key.");
    if (/[^!-~]/.test(candidate)) return wrong("A key has no spaces, accents or line ends. Copy it again.");
    use.setAttribute("aria-disabled", "true");
    const problem = await check(candidate);
    use.removeAttribute("aria-disabled");
    if (!dialog.open || box.value.trim() !== candidate) return;
    if (!problem) return take(candidate);
    wrong(problem.status === 401 ? "The server does not know this key. Copy it again, or ask who runs the server." : problem.message);
    box.focus();
  }

  return { open };
}
