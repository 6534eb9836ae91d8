// Session: a state that lives on the server, stepped, forked and rewound by hand.

import { call, get, modelPath, post, versionOf } from "./api.js";
import { chart } from "./charts.js";
import { curl, keywords, literal, printed, python, sequenceCode, snippets } from "./code.js";
import { el, field, number, plural, say, select, table } from "./dom.js";
import { asText, madeUp, parseNumbers, stepWords } from "./input.js";
import { dataOf, furtherInputs, staticInputs } from "./named.js";
import { drawOutputs } from "./pictures.js";
import { inWords, topOf } from "./reading.js";

const LISTED = 20;
const MOST_PAGES = 50;

export function session(page) {
  let card = null;
  let examples = [];
  let list = [];
  let current = null;
  let kept = [];
  /** What this page has sent, by session: [{from, to, piece, answer}]. */
  const sent = new Map();
  let taken = 0;

  const ttl = number("", { min: 1, step: 1, placeholder: "default" });
  const create = el("button", { type: "button", class: "primary" }, "New session");
  const statics = staticInputs(() => showCode());
  const further = furtherInputs(() => {});
  const sessions = el("ul", { class: "list", "aria-label": "Sessions of this model" });
  const listEmpty = el("p", { class: "empty" }, "No session yet.");
  const states = el("ul", { class: "list", "aria-label": "Kept states" });
  const statesEmpty = el(
    "p",
    { class: "empty" },
    "A state that you keep can be put back into any session of this model, whenever you like.",
  );

  const idLine = el("p", { class: "muted mono id" });
  const stepLine = el("p", { class: "figure-line" });
  const outputLine = el("p", { class: "answer" });
  const piece = el("input", { type: "text", autocomplete: "off", spellcheck: "false" });
  const numbers = el("textarea", { rows: 5, spellcheck: "false", class: "mono" });
  const pieceHolder = el("div");
  const example = select([]);
  const size = number(5, { min: 1, step: 1 });
  const take = el("button", { type: "button" }, "Take");
  const takeFields = el("div", { class: "fields" }, field("Example", example), field("Steps a piece", size), take);
  const sendButton = el("button", { class: "primary" }, "Send");
  const retry = el("button", { type: "button" }, "Retry the last");
  const fork = el("button", { type: "button" }, "Fork");
  const keep = el("button", { type: "button" }, "Keep state");
  const remove = el("button", { type: "button", class: "danger" }, "Delete");
  const place = el("div", {});
  const form = el(
    "form",
    { class: "send" },
    takeFields,
    pieceHolder,
    further.element,
    place,
    el("div", { class: "actions" }, sendButton, retry, fork, keep, remove),
  );
  const replayed = el("p", { class: "callout", hidden: true });
  const log = el("div", { class: "scroll", role: "region", tabindex: 0, "aria-label": "What was sent" });
  const figure = chart({ title: "Outputs over the session", height: 240 });
  const code = snippets();

  const live = el(
    "section",
    { class: "card live", "aria-label": "Session", hidden: true },
    el(
      "div",
      { class: "live-head" },
      el("div", {}, el("h2", {}, "Session"), idLine),
      el("div", { class: "live-now" }, stepLine, outputLine),
    ),
    form,
    replayed,
    figure.element,
    el("h3", {}, "Sent"),
    log,
  );
  const none = el(
    "section",
    { class: "card", "aria-label": "Session" },
    el("h2", {}, "A session is a state that the server keeps"),
    el(
      "p",
      { class: "muted" },
      "Send a sequence piece by piece and the answer goes on where it was, bit for bit as if it had come whole. Fork it to try two futures of one past; keep its state and go back to it.",
    ),
  );
  const element = el(
    "div",
    {},
    el(
      "div",
      { class: "split" },
      el(
        "div",
        { class: "side" },
        el(
          "section",
          { class: "card", "aria-label": "Sessions" },
          el("h2", {}, "Sessions"),
          statics.element,
          el("div", { class: "fields ending" }, field("Lifetime", ttl, "seconds"), create),
          sessions,
          listEmpty,
        ),
        el("section", { class: "card", "aria-label": "States" }, el("h2", {}, "Kept states"), states, statesEmpty),
      ),
      el("div", { class: "results" }, none, live),
    ),
    code.element,
  );

  const attempt = (action) => async (event) => {
    event?.preventDefault();
    try {
      page.clear();
      replayed.hidden = true;
      await action();
    } catch (error) {
      page.problem(error);
    }
  };
  create.addEventListener(
    "click",
    attempt(() => open({ static: statics.value() })),
  );
  form.addEventListener("submit", attempt(sendPiece));
  retry.addEventListener("click", attempt(sendAgain));
  fork.addEventListener("click", attempt(forkIt));
  keep.addEventListener("click", attempt(keepState));
  remove.addEventListener("click", attempt(removeIt));
  take.addEventListener(
    "click",
    attempt(async () => takePiece()),
  );
  example.addEventListener("change", () => {
    taken = 0;
  });

  async function refresh() {
    const before = current;
    const newest = await newestSessions();
    // Asked for by itself: it may be older than those that are listed.
    const own = before === null ? null : await sessionOf(before.id);
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
      const answer = await get(`v1/sessions?${query}`);
      found = [...found, ...answer.sessions].slice(-LISTED);
      after = answer.next;
    }
    return found;
  }

  async function sessionOf(id) {
    try {
      return await get(`v1/sessions/${id}`);
    } catch (error) {
      if (error.status === 404) return null;
      throw error;
    }
  }

  async function open(body) {
    const seconds = Number(ttl.value) || undefined;
    const made = await post(modelPath(card, "sessions"), { ...body, ttl: seconds });
    current = made;
    sent.set(made.id, []);
    await refresh();
    say(`A new session of ${card.name}, at step ${made.step}`);
    showCode();
    return made;
  }

  function value() {
    const text = card.input.kind === "tokens" && card.input.text;
    return further.with(text ? piece.value : parseNumbers(numbers.value, card));
  }

  async function sendPiece() {
    await step({ sequence: value(), at: current.step, return: "steps", top: topOf(card) });
    piece.value = "";
    if (!piece.isConnected) takePiece(true);
    else piece.focus();
  }

  async function sendAgain() {
    const last = sent.get(current.id).at(-1);
    const answer = await post(`v1/sessions/${current.id}/steps`, last.body);
    replayed.hidden = false;
    replayed.replaceChildren(
      "The same request again, ",
      el("code", {}, `"at": ${last.body.at}`),
      ": ",
      el("code", {}, `"replayed": ${answer.replayed}`),
      `, still at step ${answer.step}, ${same(answer, last.answer) ? "and the same answer to the bit" : "and another answer"}.`,
    );
    say(`replayed: ${answer.replayed}, step ${answer.step}`);
    await refresh();
    showCode(last.body);
  }

  async function step(body) {
    const { id, step: from } = current;
    showCode(body);
    const answer = await post(`v1/sessions/${id}/steps`, body);
    if (!sent.has(id)) sent.set(id, []);
    sent.get(id).push({ from, to: answer.step, body, answer });
    await refresh();
    say(`Step ${answer.step}: ${inWords(answer.decoded?.at(-1), answer.outputs?.at(-1))}`);
  }

  async function forkIt() {
    const made = await post(`v1/sessions/${current.id}/fork`, {});
    sent.set(made.id, [...(sent.get(current.id) ?? [])]);
    current = made;
    await refresh();
    say(`Forked at step ${made.step}`);
    code.show({
      curl: curl("POST", `v1/sessions/${made.id}/fork`, {}),
      python: ofSession(["other = session.fork(keep=True)", "print(other.id, other.step_count)"]),
    });
  }

  async function keepState() {
    const answer = await get(`v1/sessions/${current.id}/state`);
    kept.push({ ...answer, of: current.id, entries: [...(sent.get(current.id) ?? [])] });
    paint();
    say(`The state of step ${answer.step} is kept`);
    code.show({
      curl: curl("GET", `v1/sessions/${current.id}/state`),
      python: ofSession(["token = session.state()", "print(token)"]),
    });
  }

  const putBack = (state) =>
    attempt(async () => {
      await call("PUT", `v1/sessions/${current.id}/state`, { state: state.state });
      sent.set(current.id, [...state.entries]);
      await refresh();
      say(`Back at step ${current.step}`);
      code.show({
        curl: curl("PUT", `v1/sessions/${current.id}/state`, { state: state.state }),
        python: ofSession([`session.restore(${literal(state.state)})`, "print(session.step_count)"]),
      });
    });

  const openFrom = (state) =>
    attempt(async () => {
      const made = await open({ state: state.state });
      sent.set(made.id, [...state.entries]);
      paint();
    });

  async function removeIt() {
    await call("DELETE", `v1/sessions/${current.id}`);
    sent.delete(current.id);
    current = null;
    await refresh();
    say("The session is deleted");
    create.focus();
  }

  function takePiece(quiet = false) {
    const source = examples[Number(example.value)]?.sequence;
    if (!source || typeof source === "string") return;
    const count = Math.max(1, Math.round(Number(size.value)) || 1);
    if (quiet && taken >= source.length) taken = 0;
    const rows = source.slice(taken, taken + count);
    taken = taken + count >= source.length ? 0 : taken + count;
    numbers.value = asText(rows);
  }

  function paint() {
    listEmpty.hidden = list.length > 0;
    sessions.replaceChildren(
      ...list.map((one) => {
        const button = el(
          "button",
          {
            type: "button",
            class: "row",
            "aria-current": one.id === current?.id ? "true" : false,
            on: {
              click: () => {
                current = one;
                replayed.hidden = true;
                paint();
              },
            },
          },
          el("span", { class: "mono" }, shortId(one.id)),
          el("span", { class: "number" }, `step ${one.step}`),
        );
        return el("li", {}, button);
      }),
    );
    statesEmpty.hidden = kept.length > 0;
    states.replaceChildren(
      ...kept.map((state) =>
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
                on: { click: putBack(state) },
              },
              "Put back",
            ),
            el(
              "button",
              {
                type: "button",
                "aria-label": `New session from the state of step ${state.step}`,
                on: { click: openFrom(state) },
              },
              "New from it",
            ),
          ),
        ),
      ),
    );
    live.hidden = !current;
    none.hidden = Boolean(current);
    if (!current) return;
    const entries = sent.get(current.id) ?? [];
    const last = entries.at(-1);
    idLine.textContent = current.id;
    stepLine.replaceChildren(
      el("strong", { class: "number" }, String(current.step)),
      ` ${card.input.kind === "frames" ? "samples received" : current.step === 1 ? "step" : "steps"}`,
    );
    outputLine.textContent = last
      ? inWords(last.answer.decoded?.at(-1), last.answer.outputs?.at(-1))
      : current.step
        ? "what came before was not sent from here"
        : "nothing sent yet";
    retry.disabled = !last;
    log.replaceChildren(
      entries.length
        ? table(
            ["steps", "piece", "answer", "replayed"],
            entries.map((entry) => [
              `${entry.from + 1}–${entry.to}`,
              pieceWords(card, dataOf(card, entry.body.sequence)),
              inWords(entry.answer.decoded?.at(-1), entry.answer.outputs?.at(-1)),
              String(entry.answer.replayed),
            ]),
            "What was sent, and the answers",
          )
        : el("p", { class: "empty" }, "Nothing yet."),
    );
    const outputs = entries.flatMap((entry) => entry.answer.outputs ?? []);
    figure.element.hidden = !outputs.length;
    if (!outputs.length) return;
    const decoded = entries.every((entry) => Array.isArray(entry.answer.decoded))
      ? entries.flatMap((entry) => entry.answer.decoded)
      : null;
    const sequence = entries.map((entry) => dataOf(card, entry.body.sequence));
    figure.note(entries[0].from ? `From step ${entries[0].from + 1} on.` : "");
    drawOutputs(figure, card, typeof sequence[0] === "string" ? sequence.join("") : sequence.flat(), {
      outputs,
      decoded,
    });
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
      curl: curl("POST", `v1/sessions/${current.id}/steps`, body),
      python: ofSession(
        [
          `answer = session.step(${value}, returns="steps", top=${body.top})`,
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

  return {
    element,
    offers: (one) => one.streaming,
    empty: "No model here carries its state from request to request: each needs its whole sequence at once.",
    async show(next) {
      const other = card !== next;
      card = next;
      const offered = await page.examples(next);
      if (card !== next) return;
      examples = offered;
      if (other) {
        current = null;
        kept = [];
        taken = 0;
        statics.set(card);
        further.set(card);
        const text = card.input.kind === "tokens" && card.input.text;
        takeFields.hidden = text || !examples.length;
        example.replaceChildren(...examples.map((one, i) => el("option", { value: i }, one.title)));
        pieceHolder.replaceChildren(
          text
            ? field("Piece", piece, "one character a step")
            : field("Piece", numbers, `${stepWords(card)}; CSV or JSON`),
        );
        size.value = card.input.kind === "frames" ? card.input.stride : 5;
        piece.value =
          text ? [...(examples[0]?.sequence ?? madeUp(card))].slice(0, 3).join("") : "";
        const made = madeUp(card, Number(size.value));
        numbers.value = text || examples.length ? "" : asText(card.input.kind === "features" ? made : made.slice(0, size.value));
        takePiece();
      }
      showCode();
      await attempt(refresh)();
    },
    /** Beside the piece, where one can be sent. */
    get place() {
      return current ? place : null;
    },
    hide() {},
  };
}

const same = (a, b) => JSON.stringify([a.outputs, a.decoded]) === JSON.stringify([b.outputs, b.decoded]);

/** The end of an id: its beginning is the time, which neighbours share. */
const shortId = (id) => (id.length > 12 ? `…${id.slice(-10)}` : id);

const pieceWords = (card, sequence) =>
  typeof sequence === "string" ? sequence : plural(sequence.length, card.input.kind === "frames" ? "sample" : "step");
