// Engine: what the server is doing, asked once a second while somebody looks.

import { get, modelPath, post } from "./api.js";
import { chart } from "./charts.js";
import { curl, python, snippets } from "./code.js";
import { el, grouped, plural, say, short, table } from "./dom.js";
import { colour } from "./drawing.js";
import { refusal } from "./models.js";
import { answerState } from "./state.js";

const EVERY = 1000;
/** Milliseconds until the view says that it waits. */
const LATE = 1000;
const WAITING = "Waiting for the server's figures";
/** Readings that are kept: two minutes. */
const KEPT = 120;

export function engine(page) {
  let timer = 0;
  let before = null;
  let readings = [];
  let paused = false;
  let visible = false;
  /** Counts requests and pauses: an answer to an earlier request is ignored. */
  let asked = 0;
  let late = 0;
  /** The code of the last problem; null after an answer. */
  let failed = null;

  const tiles = {
    steps: tile("Steps a second"),
    rows: tile("Rows a run"),
    queued: tile("Queued"),
    sessions: tile("Sessions"),
    pending: tile("Work waiting"),
  };
  const pause = el("button", { type: "button", "aria-pressed": "false" }, "Pause");
  const burst = el("button", { type: "button" }, "Send a burst");
  const figures = {
    steps: chart({ title: "Steps a second", height: 190, note: "All models together." }),
    rows: chart({ title: "Batch occupancy", height: 190, note: "Rows a run, in the mean of a second." }),
    queued: chart({ title: "Queue", height: 190, note: "Sequences not done yet." }),
  };
  const models = el("div", { class: "scroll", role: "region", tabindex: 0, "aria-label": "Stats by model" });
  const refusals = el("section", { class: "card", "aria-label": "Refused", hidden: true });
  const code = snippets();
  const totals = el("dl", { class: "tiles" }, ...Object.values(tiles).map((one) => one.element));
  const charts = el(
    "div",
    { class: "columns" },
    ...Object.values(figures).map((one) => el("div", { class: "card" }, one.element)),
  );
  const byModel = el(
    "section",
    { class: "card", "aria-label": "Models" },
    el("h2", {}, "By model, since the server started"),
    models,
  );
  const state = answerState(totals, charts, byModel);
  const element = el(
    "div",
    {},
    el(
      "div",
      { class: "section-head row" },
      el(
        "div",
        {},
        el("h2", {}, "Engine"),
        el(
          "p",
          { class: "muted lead" },
          "Sequences join and leave a running batch between steps. Asked once a second, and not while this page is out of sight.",
        ),
      ),
      el("div", { class: "actions" }, burst, pause),
    ),
    state.line,
    totals,
    charts,
    byModel,
    refusals,
    code.element,
  );

  pause.addEventListener("click", () => {
    paused = !paused;
    pause.setAttribute("aria-pressed", String(paused));
    pause.textContent = paused ? "Go on" : "Pause";
    look();
  });
  burst.addEventListener("click", sendBurst);
  document.addEventListener("visibilitychange", look);

  /** Ask while the view is seen, and only then. */
  function look() {
    clearTimeout(timer);
    clearTimeout(late);
    asked += 1;
    if (visible && !paused && !document.hidden) return void read();
    before = null;
    // Nothing is waited for.
    if (readings.length) state.ready(paused ? `Paused. ${ofThen()}` : "");
    else state.reset();
  }

  const ofThen = () => `These are the figures of ${readings.at(-1).clock.toLocaleTimeString()}.`;

  async function read() {
    const mine = (asked += 1);
    const began = performance.now();
    late = setTimeout(() => state.ask(WAITING), readings.length || failed ? LATE : 0);
    try {
      const now = await get("v1/engine");
      if (mine !== asked) return;
      if (failed) page.clear(failed);
      failed = null;
      state.ready();
      take(now, performance.now());
    } catch (error) {
      if (mine !== asked) return;
      lose(error);
    }
    clearTimeout(late);
    timer = setTimeout(read, Math.max(100, EVERY - (performance.now() - began)));
  }

  /** Say once that there is no answer. What came before stays, as out of date. */
  function lose(error) {
    before = null;
    if (readings.length) state.doubt(`There is no answer. ${ofThen()}`);
    else state.fail();
    if (failed !== error.code) page.problem(error);
    failed = error.code;
  }

  function take(now, at) {
    const sum = (name) => now.models.reduce((total, one) => total + one[name], 0);
    const totals = { runs: sum("runs"), rows: sum("rows"), steps: sum("steps"), at };
    // A server that was started anew counts from nothing.
    const first = !before || Object.keys(totals).some((name) => totals[name] < before[name]);
    const runs = first ? 0 : totals.runs - before.runs;
    const seconds = first ? 1 : (at - before.at) / 1000;
    const reading = {
      steps: first ? 0 : (totals.steps - before.steps) / seconds,
      rows: runs ? (totals.rows - before.rows) / runs : 0,
      queued: now.queued,
      clock: new Date(),
    };
    before = totals;
    readings = [...readings, reading].slice(-KEPT);
    tiles.steps.set(grouped(reading.steps));
    tiles.rows.set(runs ? reading.rows.toFixed(1) : "idle");
    tiles.queued.set(grouped(now.queued));
    tiles.sessions.set(grouped(now.sessions));
    tiles.pending.set(`${(1000 * now.pending_seconds).toFixed(0)} ms`);
    draw("steps", "steps a second", 100);
    draw("rows", "rows a run", 4);
    draw("queued", "sequences", 4);
    models.replaceChildren(modelTable(now.models));
  }

  function draw(name, unit, least) {
    const y = readings.map((reading) => reading[name]);
    const x = readings.map((reading) => (reading.clock - readings.at(-1).clock) / 1000);
    figures[name].draw(
      () => ({
        margin: { l: 44, r: 14, t: 8, b: 38 },
        x: {
          range: [-KEPT / 2, 0],
          title: "seconds ago",
          marks: [-60, -40, -20, 0].map((second) => [second, second ? String(-second) : "now"]),
        },
        y: { range: [0, Math.max(...y, least) * 1.15], count: 4, least: 1, format: compact },
        marks: [
          {
            kind: "line",
            x,
            y,
            color: colour("accent"),
            width: 2,
            stairs: true,
            fill: colour("accent-soft"),
            words: (i) => `${short(y[i])} ${unit}`,
          },
        ],
      }),
      {
        label: `${unit} over the last ${plural(y.length, "second")}: now ${grouped(y.at(-1))}, at most ${grouped(Math.max(...y))}.`,
        head: ["time", unit],
        rows: () => readings.map((reading) => [reading.clock.toLocaleTimeString(), reading[name]]).reverse(),
      },
    );
  }

  /** Held-out sequences of the model that was looked at last, a few hundred in one request. */
  async function sendBurst() {
    const card = page.chosen();
    burst.disabled = true;
    try {
      const examples = card ? await page.examples(card) : [];
      const sequences = examples.map((one) => one.sequence);
      if (!sequences.length) throw new Error("the model that is chosen has no examples to send");
      const many = Array.from({ length: 512 }, (_, i) => sequences[i % sequences.length]);
      const began = performance.now();
      await Promise.all([0, 1].map(() => post(modelPath(card, "predict"), { sequences: many })));
      say(`${2 * many.length} sequences to ${card.name} took ${Math.round(performance.now() - began)} milliseconds`);
    } catch (error) {
      page.problem(error);
    }
    burst.disabled = false;
  }

  /** The files that are not served, and what would mend each. */
  function showRefused() {
    const files = page.refused();
    refusals.hidden = !files.length;
    refusals.replaceChildren(
      el("h2", {}, "Refused"),
      ...files.map(refusal),
    );
  }

  return {
    element,
    model: false,
    offers: () => true,
    empty: "",
    async show() {
      visible = true;
      failed = null;
      showRefused();
      code.show({
        curl: curl("GET", "v1/engine"),
        python: python(["print(elman.engine())"]),
      });
      look();
    },
    changed: showRefused,
    hide() {
      visible = false;
      look();
    },
  };
}

/** 12000 as 12K: as wide as there is room for beside a chart. */
const compact = new Intl.NumberFormat("en", { notation: "compact" }).format;

function tile(words) {
  const value = el("dd", { class: "number" }, "–");
  return {
    element: el("div", { class: "tile" }, el("dt", {}, words), value),
    set: (text) => {
      value.textContent = text;
    },
  };
}

function modelTable(models) {
  const busiest = [...models].sort((a, b) => b.steps - a.steps);
  return table(
    ["model", "runs", "rows a run", "steps", "padding", "sequences", "queued"],
    busiest.map((one) => [
      one.model + (models.filter(({ model }) => model === one.model).length > 1 ? ` ${one.version}` : ""),
      grouped(one.runs),
      one.runs ? (one.rows / one.runs).toFixed(1) : "–",
      grouped(one.steps),
      one.steps ? `${((100 * one.padded_steps) / (one.steps + one.padded_steps)).toFixed(1)} %` : "–",
      grouped(one.sequences),
      grouped(one.queued),
    ]),
    "Stats by model",
  );
}
