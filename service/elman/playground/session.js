// Session: a state that lives on the server, stepped, forked and rewound by hand.

import { call, discard, modelPath, post, versionOf } from "./api.js";
import { curl, keywords, literal, printed, python, sequenceCode, snippets } from "./code.js";
import { el, field, number, say } from "./dom.js";
import { lastWords, livePanel } from "./live.js";
import { remembers, traced } from "./memory.js";
import { dataOf, furtherInputs, headNames, staticInputs } from "./named.js";
import { pieceInput } from "./pieces.js";
import { topOf } from "./reading.js";
import { inRows, isFinal } from "./request.js";
import { sessionLists } from "./sessions.js";

const LISTED = 20;
const MOST_PAGES = 50;
const WAITING = "Waiting for the answer to what was sent";
const LOST =
  "No answer came. The step may have been done or not. “Retry the last” sends it again with the same “at”: so it is done once.";
const GONE =
  "The session is gone: it was deleted, its lifetime is over, or the server kept it in memory and was started anew.";

export function session(page) {
  let card = null;
  let list = [];
  let current = null;
  let kept = [];
  let visible = false;
  /** What was asked for last, and all before it. */
  let doing = Promise.resolve();
  /** Ends what is under way when another model or view is opened. */
  let ending = new AbortController();
  /** The model that the fields are for. */
  let filled = null;
  /** The session that was made on arrival, until somebody does something with it: it is deleted on leaving. */
  let arrival = null;
  /** What this page has sent, by session: [{from, to, body, answer, hidden}]. */
  const sent = new Map();
  /** The body of steps that has no answer yet, by session. */
  const open = new Map();
  /** The static inputs of the sessions that were made here. */
  const fixed = new Map();

  const ttl = number("", { min: 1, step: 1, placeholder: "default" });
  const create = el("button", { type: "button", class: "primary" }, "New session");
  const statics = staticInputs(() => showCode());
  const further = furtherInputs(() => {});
  const piece = pieceInput();
  const retry = el("button", { type: "button" }, "Retry the last");
  const fork = el("button", { type: "button" }, "Fork");
  const keep = el("button", { type: "button" }, "Keep state");
  const remove = el("button", { type: "button", class: "danger" }, "Delete");
  const place = el("div", {});
  const form = el(
    "form",
    { class: "send" },
    piece.element,
    further.element,
    place,
    el("div", { class: "actions" }, el("button", { class: "primary" }, "Send"), retry, fork, keep, remove),
  );
  const live = livePanel(form);
  const lists = sessionLists({
    make: [statics.element, el("div", { class: "fields ending" }, field("Lifetime", ttl, "seconds"), create)],
    choose: (one) => attempt(() => choose(one))(),
    putBack: (token) => ofCurrent(() => putBack(token))(),
    openFrom: (token) => byHand(() => openFrom(token))(),
  });
  const code = snippets();
  const below = el("div", { class: "below" });
  const noneWords = el("p", { role: "status" });
  const none = el(
    "section",
    { class: "card", "aria-label": "Session" },
    el("h2", {}, "A session is a state that the server keeps"),
    noneWords,
    el(
      "p",
      { class: "muted" },
      "Send a sequence piece by piece and the answer goes on where it was, bit for bit as if it had come whole. Fork it to try two futures of one past; keep its state and go back to it.",
    ),
  );
  const element = el(
    "div",
    {},
    el("div", { class: "split beside" }, el("div", { class: "results" }, none, live.element), lists.element),
    code.element,
    below,
  );

  /** Do one thing after another, and show what it raises. */
  const attempt = (action) => (event) => {
    event?.preventDefault();
    const mine = ending;
    doing = doing.then(async () => {
      if (mine !== ending) return;
      try {
        page.clear();
        live.unsay();
        await fill();
        piece.invalid(false);
        await action();
      } catch (error) {
        if (mine === ending && error.name !== "AbortError") failed(error);
      }
    });
    return doing;
  };
  /** The same for what somebody asked for: the session is theirs from then on. */
  const byHand = (action) =>
    attempt(() => {
      arrival = null;
      return action();
    });
  /** And of the session that is shown by then, where there is one. */
  const ofCurrent = (action) => byHand(() => current && action());
  create.addEventListener("click", byHand(createIt));
  form.addEventListener("submit", ofCurrent(sendPiece));
  retry.addEventListener("click", ofCurrent(sendAgain));
  fork.addEventListener("click", ofCurrent(forkIt));
  keep.addEventListener("click", ofCurrent(keepState));
  remove.addEventListener("click", ofCurrent(removeIt));
  window.addEventListener("pagehide", leave);
  window.addEventListener("pageshow", (event) => {
    if (event.persisted && visible) attempt(goOn)();
  });

  const ask = (method, path, body) => call(method, path, body, ending.signal);
  const ofThis = (verb = "") => `v1/sessions/${current.id}${verb}`;

  /** Say what did not work, and whether what is shown still holds. */
  function failed(error) {
    if (current && error.status === 404) {
      sent.delete(current.id);
      open.delete(current.id);
      list = list.filter((one) => one.id !== current.id);
      return nothing(GONE);
    }
    page.problem(error);
    if (!current) return nothing("No session could be made: the message says why. “New session” tries again.");
    if (open.has(current.id)) live.state.doubt(LOST);
    else live.state.ready(`This was refused: the message says why. The session is still at step ${current.step}.`);
    if (filled === card) piece.invalid(/^(sequence|line)/.test(error.where ?? ""));
    paint();
  }

  /** There is no session to show. */
  function nothing(words = "") {
    current = null;
    noneWords.textContent = words;
    live.state.reset();
    paint();
  }

  function paint() {
    lists.paint(list, kept, current);
    live.element.hidden = !current;
    none.hidden = Boolean(current);
    if (!current) return;
    const entries = sent.get(current.id) ?? [];
    retry.disabled = !entries.length && !open.has(current.id);
    live.paint(card, current, entries, fixed.get(current.id));
  }

  async function refresh() {
    const before = current;
    const newest = await newestSessions();
    // Asked for by itself: it may be older than those that are listed.
    const own = before === null ? null : await ask("GET", `v1/sessions/${before.id}`);
    if (current?.id === before?.id) current = own;
    list = current === null || newest.some((one) => one.id === current.id) ? newest : [...newest, current];
    paint();
  }

  /** The last few of this model's sessions, which the server lists oldest first. */
  async function newestSessions() {
    let found = [];
    let after = "";
    for (let pages = 0; pages < MOST_PAGES && after !== null; pages++) {
      const query = `model=${encodeURIComponent(card.name)}&limit=1000` + (after ? `&after=${after}` : "");
      const answer = await ask("GET", `v1/sessions?${query}`);
      found = [...found, ...answer.sessions].slice(-LISTED);
      after = answer.next;
    }
    return found;
  }

  /** Have the fields be those of the model. */
  async function fill() {
    if (filled === card) return;
    const { signal } = ending;
    const examples = await page.examples(card);
    signal.throwIfAborted();
    statics.set(card);
    statics.take(examples[0]?.static);
    further.set(card);
    piece.set(card, examples);
    filled = card;
  }

  /** Go on with the session that is shown, or begin one with the first step of an example. */
  async function goOn() {
    showCode();
    if (current && open.has(current.id)) return sendAgain();
    if (current) {
      await refresh();
      return live.state.ready();
    }
    noneWords.textContent = "A session is being made.";
    piece.begin();
    await make({ static: statics.value() }, { onArrival: true });
    await sendPiece();
  }

  /** Delete what was made on arrival and nobody used. */
  function leave() {
    if (arrival) {
      discard(`v1/sessions/${arrival}`);
      sent.delete(arrival);
      if (current?.id === arrival) nothing();
    }
    arrival = null;
  }

  async function make(body, { entries = [], given = body.static, onArrival = false } = {}) {
    const { signal } = ending;
    // Not ended with the rest: a session whose id never came could not be deleted.
    const made = await post(modelPath(card, "sessions"), { ...body, ttl: Number(ttl.value) || undefined });
    if (onArrival && signal.aborted) discard(`v1/sessions/${made.id}`);
    signal.throwIfAborted();
    if (onArrival) arrival = made.id;
    current = made;
    sent.set(made.id, [...entries]);
    fixed.set(made.id, given);
    return made;
  }

  async function createIt() {
    const made = await make({ static: statics.value() });
    await refresh();
    live.state.ready();
    say(`A new session of ${card.name}, at step ${made.step}`);
    showCode();
    piece.focus();
  }

  async function sendPiece() {
    const heads = headNames(card);
    const given = piece.further();
    const sequence = further.with(piece.value(), given);
    // A session of windows answers every step, also where a window has one output.
    const returns = isFinal(card) && card.window === null ? "final" : "steps";
    const body = { sequence, at: current.step, return: returns, top: topOf(card) };
    if (heads.length) body.heads = heads;
    open.set(current.id, body);
    showCode(body);
    live.state.ask(WAITING);
    paint();
    const before = await stateBefore(body);
    const entry = await deliver(body);
    if (before?.step === entry.from && entry.answer.length) entry.hidden = await remembered(entry, before);
    piece.next();
    await refresh();
    live.state.ready();
    say(`Step ${entry.to}: ${lastWords(entry.answer)}`);
  }

  /** Send a body of steps, which stays open until there is an answer to it. */
  async function deliver(body) {
    const { id } = current;
    let answer;
    try {
      answer = inRows(body, await ask("POST", ofThis("/steps"), body));
    } catch (error) {
      if (error.status && error.status < 500) open.delete(id);
      throw error;
    }
    open.delete(id);
    if (!sent.has(id)) sent.set(id, []);
    const entry = { from: body.at, to: answer.step, body, answer, hidden: null };
    sent.get(id).push(entry);
    return entry;
  }

  /** The state before a piece, as a token, where the memory can be shown with it. */
  async function stateBefore({ sequence }) {
    if (!remembers(card, dataOf(card, sequence).length)) return null;
    try {
      return await ask("GET", ofThis("/state"));
    } catch (error) {
      if (!error.status || error.status === 404) throw error;
      return null;
    }
  }

  /** The state after each step of a piece; null where it cannot be asked for. The session has moved all the same. */
  async function remembered({ body }, before) {
    try {
      return await traced(card, body.sequence, before.state, ending.signal);
    } catch (error) {
      if (error.name === "AbortError") throw error;
      return null;
    }
  }

  async function sendAgain() {
    const body = open.get(current.id);
    const last = sent.get(current.id)?.at(-1);
    if (!body && !last) return;
    live.state.ask(WAITING);
    const answer = body
      ? (await deliver(body)).answer
      : inRows(last.body, await ask("POST", ofThis("/steps"), last.body));
    if (body) piece.next();
    live.say(answer, body ?? last.body, body ? null : last.answer);
    say(`replayed: ${answer.replayed}, step ${answer.step}`);
    await refresh();
    live.state.ready();
    showCode(body ?? last.body);
  }

  async function forkIt() {
    const { id } = current;
    const made = await ask("POST", ofThis("/fork"), {});
    sent.set(made.id, [...(sent.get(id) ?? [])]);
    fixed.set(made.id, fixed.get(id));
    current = made;
    await refresh();
    say(`Forked at step ${made.step}`);
    code.show({
      curl: curl("POST", ofThis("/fork"), {}),
      python: ofSession(["other = session.fork(keep=True)", "print(other.id, other.step_count)"]),
    });
  }

  async function keepState() {
    const { id } = current;
    const answer = await ask("GET", ofThis("/state"));
    kept.push({ ...answer, of: id, given: fixed.get(id), entries: [...(sent.get(id) ?? [])] });
    paint();
    say(`The state of step ${answer.step} is kept`);
    code.show({
      curl: curl("GET", ofThis("/state")),
      python: ofSession(["token = session.state()", "print(token)"]),
    });
  }

  async function putBack({ state, entries, given }) {
    await ask("PUT", ofThis("/state"), { state });
    sent.set(current.id, [...entries]);
    fixed.set(current.id, given);
    open.delete(current.id);
    await refresh();
    live.state.ready();
    say(`Back at step ${current.step}`);
    code.show({
      curl: curl("PUT", ofThis("/state"), { state }),
      python: ofSession([`session.restore(${literal(state)})`, "print(session.step_count)"]),
    });
  }

  async function openFrom({ state, entries, given }) {
    await make({ state }, { entries, given });
    await refresh();
    live.state.ready();
  }

  async function removeIt() {
    await ask("DELETE", ofThis());
    sent.delete(current.id);
    nothing();
    // The button that had the focus is hidden now.
    create.focus();
    await refresh();
    say("The session is deleted");
  }

  function choose({ id }) {
    const one = list.find((other) => other.id === id);
    if (!one) return;
    current = one;
    if (open.has(one.id)) live.state.doubt(LOST);
    else live.state.ready();
    paint();
  }

  function showCode(body) {
    const name = literal(card.name) + (versionOf(card) ? `, version=${card.version}` : "");
    if (!current || !body) {
      const given = { static: shownStatics() };
      code.show({
        curl: curl("POST", modelPath(card, "sessions"), given),
        python: python([
          `session = elman.model(${name}).session(keep=True${keywords(given)})`,
          "print(session.id, session.step_count)",
        ]),
      });
      return;
    }
    const { imports, value } = sequenceCode(card, body.sequence);
    code.show({
      curl: curl("POST", ofThis("/steps"), body),
      python: ofSession(
        [
          `answer = session.step(${value}, returns="${body.return}"${keywords({ top: body.top, heads: body.heads })})`,
          printed(card, "answer", null, "answer.step, "),
        ],
        imports,
      ),
    });
  }

  /** The static inputs; none while one of them cannot be read. */
  function shownStatics() {
    try {
      return statics.value();
    } catch {
      return undefined;
    }
  }

  /** A program that goes on with the session that is shown. */
  const ofSession = (lines, imports = []) =>
    python([`session = elman.session(${literal(current.id)})`, ...lines], imports);

  /** End what is under way, and leave. */
  function end() {
    ending.abort();
    ending = new AbortController();
    doing = Promise.resolve();
    leave();
  }

  return {
    element,
    /** Where the card of the model stands on a phone. */
    below,
    offers: (one) => one.streaming,
    empty: "No model here carries its state from request to request: each needs its whole sequence at once.",
    async show(next) {
      visible = true;
      if (card !== next) {
        end();
        card = next;
        kept = [];
        list = [];
        nothing();
      }
      await attempt(goOn)();
    },
    /** Beside the piece, where one can be sent. */
    get place() {
      return current ? place : null;
    },
    hide() {
      visible = false;
      end();
    },
  };
}
