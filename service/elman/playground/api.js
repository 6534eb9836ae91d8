// The server's routes, by relative address, so that the page works behind any path prefix.

const KEY = "elman-key";
/** What a proxy answers for a server that is not there. */
const BETWEEN = new Set([502, 503, 504]);

/** What a refused request says: code, detail, and where in the request. */
export class Problem extends Error {
  constructor(body, status) {
    super(body.detail || body.title || `the server answered ${status}`);
    this.code = body.code || String(status);
    this.title = body.title || "Error";
    this.where = body.where;
    this.expected = body.expected;
    this.status = status;
  }
}

/** The server's root, without the slash at its end: what the shown commands start from. */
export const root = new URL("..", import.meta.url).href.replace(/\/$/, "");

export const key = {
  get: () => sessionStorage.getItem(KEY) || "",
  set: (value) => (value ? sessionStorage.setItem(KEY, value) : sessionStorage.removeItem(KEY)),
};

/** Ask, and give the answer's JSON (null where there is no content). Raises Problem; an abort goes through as it is. */
export async function call(method, path, body, signal) {
  const response = await send(method, path, body, signal);
  return response.status === 204 ? null : reached(response.json());
}

export const get = (path, signal) => call("GET", path, undefined, signal);
export const post = (path, body, signal) => call("POST", path, body, signal);

/** The version of a card where it is not the default, which is the highest; or undefined. */
export const versionOf = (card) => (card.version === Math.max(...card.versions) ? undefined : card.version);

/** Where a model's verbs are: its default version, or a version that is named. */
export function modelPath(card, verb) {
  const version = versionOf(card);
  return `v1/models/${encodeURIComponent(card.name)}/${version ? `versions/${version}/` : ""}${verb}`;
}

/** Post, and call `receive(event, data)` for each server-sent event until the answer ends. */
export async function events(path, body, signal, receive) {
  const response = await send("POST", path, body, signal);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reached(reader.read());
    rest += value || "";
    const blocks = rest.split(/\r?\n\r?\n/);
    rest = blocks.pop();
    for (const block of blocks) receive(...parseEvent(block));
    if (done) return;
  }
}

function parseEvent(block) {
  let name = "message";
  const data = [];
  for (const line of block.split(/\r?\n/)) {
    if (line.startsWith("event:")) name = line.slice(6).trim();
    else if (line.startsWith("data:")) data.push(line.slice(5).trimStart());
  }
  return [name, data.length ? JSON.parse(data.join("\n")) : null];
}

/** Called with the Problem when a request is refused for its key. It gives whether there is another key to try. */
export let onRefusal;
const asking = new Promise((known) => (onRefusal = known));
const another = async (problem) => (await asking)(problem);

/** Whether a request was refused because of its key: there is none, it is unknown, or it does not have the role. */
export const isAboutKey = ({ status, where }) => status === 401 || (status === 403 && where === "header Authorization");

/** Why the server does not accept a key, as a Problem; null if it does. */
export async function check(candidate) {
  try {
    await sendOnce("GET", "v1/models", { shown: candidate });
    return null;
  } catch (problem) {
    return problem;
  }
}

/** Delete without waiting for the answer, also while the page is being left. */
export function discard(path) {
  sendOnce("DELETE", path, { keepalive: true }).catch(() => {});
}

async function send(method, path, body, signal) {
  for (;;) {
    const shown = key.get();
    try {
      return await sendOnce(method, path, { body, signal, shown });
    } catch (problem) {
      if (!isAboutKey(problem)) throw problem;
      if (shown === key.get() && !(await another(problem))) throw problem;
      signal?.throwIfAborted();
    }
  }
}

async function sendOnce(method, path, { body, signal, shown = key.get(), keepalive = false }) {
  const headers = {};
  if (body !== undefined) headers["Content-Type"] = "application/json";
  if (shown) headers.Authorization = `Bearer ${shown}`;
  const response = await reached(
    fetch(`${root}/${path}`, {
      method,
      headers,
      signal,
      keepalive,
      body: body === undefined ? undefined : JSON.stringify(body),
    }),
  );
  if (response.ok) return response;
  const problem = await response.json().catch(() => ({}));
  signal?.throwIfAborted();
  if (!problem.code && !problem.detail && BETWEEN.has(response.status)) throw unreachable(`what stands before it answers ${response.status}`);
  throw new Problem(problem, response.status);
}

/** What comes from the server, or a Problem where it is lost on the way; an abort goes through as it is. */
async function reached(coming) {
  try {
    return await coming;
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw unreachable();
  }
}

const unreachable = (why) =>
  new Problem({ code: "unreachable", title: "No answer", detail: ["the server cannot be reached", why].filter(Boolean).join(": ") }, 0);
