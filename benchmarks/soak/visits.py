"""The visits of a soak: each asks for one kind of thing and checks every answer."""

import asyncio
import contextlib
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
from websockets.frames import CloseCode

from benchmarks.soak.truth import MAX_TOKENS, SEER, VALUES, WRITER, Array, Case, Truth

OCTETS = {"content-type": "application/octet-stream", "accept": "application/octet-stream"}
STREAMED = ("vowels-gru", "vowels-lstm")
TURNED = "turning"
"""The model whose file is replaced."""
COMING = "coming"
"""The model that is unloaded and loaded."""
COPIED = "vowels-gru"
"""The file that it is a copy of."""

# Of the forecast, in units of the data, whose standard deviation is about 34: the server computes in float64.
_TOLERANCE = 0.05
_TIMEOUT = 60.0
PATIENCE = 300.0
"""Seconds that a server which is started anew may take, and so for which a request is sent again and again."""

KEPT = 2.0
"""Seconds after which an idle connection is not used again."""

# The server closes an idle connection after five seconds. On a busy machine we may stand still for as long, after we
# have looked whether the connection is open. So a request may be lost if the one before is older than this.
_IDLE = 4.5
# How a server that is stopping closes a stream.
_GOING = (CloseCode.GOING_AWAY, CloseCode.SERVICE_RESTART, CloseCode.TRY_AGAIN_LATER)


class Wrong(Exception):
    """An answer is not the right one."""


class Lost(Exception):
    """There is no answer: the server was killed or is stopping, or the request was sent too late."""


@dataclass
class Books:
    """What came of the visits: right answers and lost requests by kind, and all that was wrong."""

    right: Counter[str] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


@dataclass
class Target:
    """A server that is visited.

    Attributes:
        killed: whether it is killed and restarted. Then requests may be lost, but nothing that was answered.
        turns: how often the file of the model `TURNED` was replaced.
        turning: whether it is being replaced now.
    """

    port: int
    killed: bool
    turns: int = 0
    turning: bool = False


@dataclass
class Visit:
    """One visit to a server, on one connection.

    Attributes:
        written: when the last request was sent, on the clock of `time.monotonic`.
    """

    target: Target
    client: httpx.AsyncClient
    truth: Truth
    rng: np.random.Generator
    books: Books
    kind: str
    written: float = field(default_factory=time.monotonic)

    def check(self, right: bool, what: object = "") -> None:
        """Count a right answer. Raises Wrong."""
        if not right:
            raise Wrong(str(what)[:600])
        self.books.right[self.kind] += 1

    def one_of(self, choices: Any) -> Any:
        return choices[int(self.rng.integers(len(choices)))]

    def no_answer(self, what: str, error: Exception, *, late: bool = False) -> Exception:
        """What to raise where an answer is missing.

        late: whether it was sent so late that the server may have closed the idle connection before.
        """
        return (Lost if self.target.killed or late else Wrong)(f"{what} has no answer: {error!r}")

    def check_open(self, status: object) -> None:
        """Raise Lost if the status is that of a server that is stopping."""
        if status == 503 and self.target.killed:
            raise Lost

    async def ask(self, method: str, path: str, status: int | None = 200, **options: Any) -> httpx.Response:
        """Send a request. Raises Lost, and Wrong if it is answered with another status."""
        before = self.written

        async def trace(event: str, _: object) -> None:
            # It fails if the connection is closed already.
            if event in ("http11.send_request_headers.complete", "http11.send_request_headers.failed"):
                self.written = time.monotonic()

        try:
            response = await self.client.request(method, path, extensions={"trace": trace}, **options)
        except httpx.TransportError as error:
            raise self.no_answer(f"{method} {path}", error, late=self.written - before > _IDLE) from error
        self.check_open(response.status_code)
        if status is not None and response.status_code != status:
            raise Wrong(f"{method} {path} is answered with {response.status_code}: {response.text[:400]}")
        return response

    async def surely(self, method: str, path: str, status: int = 200, **options: Any) -> httpx.Response:
        """Send a request until it is answered. Raises Wrong."""
        async for _ in self.turns():
            with self.counted():
                return await self.ask(method, path, status, **options)
        raise Wrong(f"{method} {path} is not answered for {PATIENCE:g} seconds")

    async def turns(self) -> AsyncIterator[None]:
        """Turns of trying something, with a pause between two of them, until it takes too long."""
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            yield
            await asyncio.sleep(0.2)

    @contextlib.contextmanager
    def counted(self) -> Iterator[None]:
        """Count what is lost, and go on."""
        try:
            yield
        except Lost:
            self.books.lost[self.kind] += 1


def float32(numbers: object) -> Array:
    """Numbers read from JSON, as the float32 that they were written from."""
    return np.array(numbers, np.float64).astype(np.float32)


def same_bits(one: Array, other: Array) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()


async def predict_json(visit: Visit) -> None:
    """Up to six sequences at once, each with its last output or all."""
    name = visit.one_of(VALUES)
    cases: list[Case] = [visit.one_of(visit.truth.values[name]) for _ in range(visit.rng.integers(1, 7))]
    every = bool(visit.rng.integers(2))
    body = {"sequences": [case.sequence.tolist() for case in cases], "return": "steps" if every else "final"}
    answer = (await visit.ask("POST", f"/v1/models/{name}/predict", json=body)).json()
    for case, result in zip(cases, answer["results"], strict=True):
        wanted = case.outputs if every else case.outputs[-1]
        visit.check(same_bits(float32(result["outputs" if every else "output"]), wanted), (name, body, result))


async def predict_octets(visit: Visit) -> None:
    name = visit.one_of(VALUES)
    case: Case = visit.one_of(visit.truth.values[name])
    path = f"/v1/models/{name}/predict?return=steps"
    answer = await visit.ask("POST", path, content=case.sequence.tobytes(), headers=OCTETS)
    rows = np.frombuffer(answer.content, "<f4").reshape(-1, case.outputs.shape[1])
    visit.check(same_bits(rows, case.outputs), (name, len(case.sequence)))


async def predict_turned(visit: Visit) -> None:
    """Ask the model whose file is replaced. The answer is that of the old file or of the new one, never a mixture."""
    ids, *both = visit.one_of(visit.truth.turning)
    turns, body = visit.target.turns, {"sequence": ids.tolist(), "return": "steps", "decode": False}
    turning = visit.target.turning
    (result,) = (await visit.ask("POST", f"/v1/models/{TURNED}/predict", json=body)).json()["results"]
    if turns == visit.target.turns and not turning and not visit.target.turning:
        both = [both[turns % 2]]
    visit.check(any(same_bits(float32(result["outputs"]), one) for one in both), (TURNED, turns, body, result))


async def predict_coming(visit: Visit) -> None:
    """Ask the model that is unloaded and loaded. It is right, or unknown."""
    case: Case = visit.one_of(visit.truth.values[COPIED])
    path = f"/v1/models/{COMING}/predict"
    response = await visit.ask("POST", path, None, content=case.sequence.tobytes(), headers=OCTETS)
    if response.status_code == 404:
        visit.check(response.json()["code"] == "unknown_model", response.text)
    else:
        visit.check(same_bits(np.frombuffer(response.content, "<f4"), case.outputs[-1]), response.text)


async def walk(visit: Visit) -> None:
    """Make a session and step it to the end of a sequence, sometimes twice. Fork it, read its state, and end it."""
    name = visit.one_of(STREAMED)
    case: Case = visit.one_of(visit.truth.values[name])
    id = (await visit.surely("POST", f"/v1/models/{name}/sessions", 201)).json()["id"]
    path, at, split = f"/v1/sessions/{id}", 0, int(visit.rng.integers(len(case.sequence) + 1))
    while at < split:
        at = await _step(visit, path, case, at, min(split, at + int(visit.rng.integers(1, 7))))
    token = (await visit.surely("GET", f"{path}/state")).json()
    visit.check(token["step"] == at, token)
    if at < len(case.sequence):
        await _continue(visit, name, case, at, token["state"], path)
    # One that is deleted by a request whose answer is lost is gone when it is asked again.
    with contextlib.suppress(Lost):
        await visit.ask("DELETE", path, 204)


async def _continue(visit: Visit, name: str, case: Case, at: int, token: str, path: str) -> None:
    """Go on from a session at step `at` in three ways: itself, a fork of it, and its token."""
    rest = {"sequence": case.sequence[at:].tolist(), "return": "steps", "decode": False}
    body = {**rest, "state": token}
    (result,) = (await visit.surely("POST", f"/v1/models/{name}/predict", json=body)).json()["results"]
    visit.check(same_bits(float32(result["outputs"]), case.outputs[at:]), (name, at, result))
    try:
        fork = (await visit.ask("POST", f"{path}/fork", 201)).json()["id"]
    except Lost:
        fork = None
    await _step(visit, path, case, at, len(case.sequence))
    if fork is not None:
        await _step(visit, f"/v1/sessions/{fork}", case, at, len(case.sequence))
        with contextlib.suppress(Lost):
            await visit.ask("DELETE", f"/v1/sessions/{fork}", 204)


async def _step(visit: Visit, path: str, case: Case, at: int, until: int) -> int:
    """Run the steps from `at` to `until`, and now and then once more. Returns `until`."""
    body = {"sequence": case.sequence[at:until].tolist(), "at": at, "return": "steps", "decode": False}
    for turn in range(1 + (visit.rng.random() < 0.2)):
        answer = (await visit.surely("POST", f"{path}/steps", json=body)).json()
        visit.check(answer["step"] == until, answer)
        visit.check(same_bits(float32(answer["outputs"]), case.outputs[at:until]), (at, until, answer))
        if turn:
            visit.check(answer["replayed"], answer)
    return until


@dataclass
class Progress:
    """How far a stream has come.

    Attributes:
        session: its id; empty until the server has told it.
        at: how many steps are answered.
        sent: up to which step frames were sent. The last one may have no answer yet.
    """

    session: str = ""
    at: int = 0
    sent: int = 0


async def stream(visit: Visit) -> None:
    """Step a session by the frames of a WebSocket, which is cut in the middle and opened again.

    Where the server is killed, the stream goes on at the frame that has no answer.
    """
    name = visit.one_of(STREAMED)
    case: Case = visit.one_of(visit.truth.values[name])
    length, progress = len(case.sequence), Progress()
    cut = int(visit.rng.integers(1, length + 1))
    async for _ in visit.turns():
        if progress.at == length:
            break
        with visit.counted():
            await _connect(visit, name, case, progress, cut if progress.at < cut else length)
    visit.check(progress.at == length, f"a stream is not answered for {PATIENCE:g} seconds")
    with contextlib.suppress(Lost):
        await visit.ask("DELETE", f"/v1/sessions/{progress.session}", 204)


async def _connect(visit: Visit, name: str, case: Case, progress: Progress, until: int) -> None:
    """Open a stream, go on with it up to a step, and close it, or cut it. Raises Lost and Wrong."""
    path = f"/v1/models/{name}/stream?return=steps&decode=false"
    url = f"ws://127.0.0.1:{visit.target.port}{path}" + (progress.session and f"&session={progress.session}")
    try:
        # Without pings: an answer that never comes is found by a time limit.
        async with connect(url, compression=None, open_timeout=_TIMEOUT, ping_interval=None, proxy=None) as socket:
            hello = json.loads(await _receive(socket))
            visit.check_open(hello.get("status"))
            visit.check(hello.get("step") in (progress.at, progress.sent), (progress, hello))
            progress.session = hello["session"]
            while progress.at < until:
                await _frame(visit, socket, case, progress, until)
            if visit.rng.integers(2):
                socket.transport.abort()
    except (OSError, WebSocketException) as error:
        if not _may_end(error):
            raise Wrong(f"a stream ends: {error!r}") from error
        raise visit.no_answer("a stream", error) from error


async def _receive(socket: ClientConnection) -> str | bytes:
    return await asyncio.wait_for(socket.recv(), _TIMEOUT)


def _may_end(error: Exception) -> bool:
    """Whether a server that is killed or stopping may end a stream in this way."""
    if isinstance(error, InvalidStatus):
        return error.response.status_code == 503
    return not isinstance(error, ConnectionClosed) or error.rcvd is None or error.rcvd.code in _GOING


async def _frame(visit: Visit, socket: ClientConnection, case: Case, progress: Progress, until: int) -> None:
    """Send a frame and check its answer. One that was sent before says which step it begins at, and is done once."""
    at, again = progress.at, progress.sent > progress.at
    end = progress.sent if again else min(until, at + int(visit.rng.integers(1, 12)))
    octets = not again and bool(visit.rng.integers(2))
    piece, progress.sent = case.sequence[at:end], end
    await socket.send(piece.tobytes() if octets else json.dumps({"sequence": piece.tolist(), "at": at}))
    answer = await _receive(socket)
    if isinstance(answer, bytes):
        rows = np.frombuffer(answer, "<f4").reshape(-1, case.outputs.shape[1])
    else:
        told = json.loads(answer)
        visit.check_open(told.get("status"))
        rows = float32(told["outputs"])
    visit.check(same_bits(rows, case.outputs[at:end]) and octets == isinstance(answer, bytes), (at, end, answer))
    progress.at = end


async def generate(visit: Visit) -> None:
    """The likeliest text, as a whole or as a stream of events."""
    wanted = visit.one_of(visit.truth.texts)
    body = {"prompt": wanted.prompt, "temperature": 0, "max_steps": MAX_TOKENS, "stream": bool(visit.rng.integers(2))}
    answer = await visit.ask("POST", f"/v1/models/{WRITER}/generate", json=body)
    if body["stream"]:
        last = answer.text.rpartition("event: done\ndata: ")[2]
        result = json.loads(last)["results"][0]
    else:
        (result,) = answer.json()["results"]
    visit.check((result["text"], result["tokens"]) == (wanted.text, wanted.tokens), (body, answer.text))


async def forecast(visit: Visit) -> None:
    body, wanted = visit.one_of(visit.truth.forecasts)
    answer = (await visit.ask("POST", f"/v1/models/{SEER}/forecast", json=body)).json()
    visit.check(np.allclose(answer["point"], wanted, rtol=0, atol=_TOLERANCE), (body, answer, wanted))


_REFUSALS: tuple[tuple[str, str, bytes, int, str], ...] = (
    ("POST", "/v1/models/vowels-gru/predict", b'{"sequence": [[1, 2', 400, "invalid_json"),
    ("POST", "/v1/models/vowels-gru/predict", b'{"sequence": [[1, 2]]}', 422, "wrong_features"),
    ("POST", "/v1/models/vowels-gru/predict", b'{"sequence": []}', 422, "empty_sequence"),
    ("POST", "/v1/models/vowels-gru/predict", b'{"sequense": 1}', 422, "invalid_field"),
    ("POST", "/v1/models/nobody/predict", b"{}", 404, "unknown_model"),
    ("POST", "/v1/models/vowels-lstm-bidirectional/sessions", b"{}", 409, "not_streamable"),
    ("POST", "/v1/models/vowels-gru/generate", b"{}", 409, "cannot_generate"),
    ("POST", "/v1/sessions/nobody/steps", b'{"sequence": [[1]]}', 404, "unknown_session"),
    ("POST", "/v2/repository/models/nobody/load", b"", 404, "unknown_model"),
    ("GET", "/nowhere", b"", 404, "unknown_route"),
)  # fmt: skip


async def mistakes(visit: Visit) -> None:
    """Requests that must be refused, each with its reason."""
    method, path, body, status, code = visit.one_of(_REFUSALS)
    headers = {"content-type": "application/json"}
    answer = (await visit.ask(method, path, status, content=body, headers=headers)).json()
    visit.check(answer["code"] == code, answer)


async def look(visit: Visit) -> None:
    """What an operator and a page ask for."""
    for path in ("/v1/models", "/v1/engine", "/v1/sessions", "/metrics", "/readyz", "/openapi.json"):
        visit.check(bool((await visit.ask("GET", path)).content), path)


async def abort(visit: Visit) -> None:
    """Begin a request, and go away before it is answered."""
    long, head = visit.rng.bytes(48 * 2000), b"POST /v1/models/vowels-lstm/predict?return=steps HTTP/1.1\r\nhost: t\r\n"
    whole = head + b"content-type: application/octet-stream\r\ncontent-length: %d\r\n\r\n%b"
    text = b'{"prompt": "Mc", "samples": 20, "seed": 1, "stream": true}'
    streamed = b"POST /v1/models/%b/generate HTTP/1.1\r\nhost: t\r\ncontent-length: %d\r\n\r\n%b"
    upgrade = (
        b"GET /v1/models/vowels-gru/stream?ttl=1 HTTP/1.1\r\nhost: t\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
        b"sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n\x81\xfe\x10"
    )
    zeros = whole % (len(long), bytes(len(long)))
    data = visit.one_of(
        [head, whole % (len(long), long[:999]), zeros, streamed % (WRITER.encode(), len(text), text), upgrade, long]
    )
    _, writer = await asyncio.open_connection("127.0.0.1", visit.target.port)
    with contextlib.suppress(OSError):
        writer.write(data)
        await writer.drain()
        await asyncio.sleep(visit.rng.uniform(0.0, 0.1))
    writer.transport.abort()
    visit.books.right[visit.kind] += 1


STEADY: dict[str, tuple[int, Callable[[Visit], Awaitable[None]]]] = {
    "predict, JSON": (2, predict_json),
    "predict, octets": (2, predict_octets),
    "a model that is replaced": (2, predict_turned),
    "a model that comes and goes": (1, predict_coming),
    "sessions": (3, walk),
    "streams": (2, stream),
    "generate": (2, generate),
    "forecast": (1, forecast),
    "mistakes": (1, mistakes),
    "what operators look at": (1, look),
    "aborted": (2, abort),
}
"""By kind, how many visit at once the server that is never killed, and what they do."""

KILLED: dict[str, tuple[int, Callable[[Visit], Awaitable[None]]]] = {
    "predict, octets": (2, predict_octets),
    "sessions": (4, walk),
    "streams": (2, stream),
    "generate": (1, generate),
}
"""The same for the server that is killed and restarted."""
