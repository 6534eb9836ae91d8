"""A light caller beside a heavy one of every shape: its latencies against those on the idle server, in one run.

The server, the heavy caller and the light one are processes of their own. The heavy caller has one key and the light
one another. Beside them, `/livez` is asked. The server has one core, both callers the other one. There the light caller
has priority, so that it does not measure how the heavy one keeps it from its core.

As a control, the same callers meet a server that does nothing: what the light one measures there is not Elman's.
"""

import asyncio
import contextlib
import http.client
import json
import multiprocessing
import os
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

from benchmarks import paths
from benchmarks.environments import BENCH, ROOT
from benchmarks.load import quantile, request
from benchmarks.measure import machine, say
from benchmarks.processes import Process, cores, free_port
from benchmarks.serving import fetch, serving

STORE = ROOT / "models" / "store"
_MODEL, _TOKENS, _SERIES, _WRITER = "vowels-gru", "names-gru", "sunspots-gru", "names-gru-generator"
_PATHS, _HORIZON = 5000, 100
_LIGHT, _HEAVY = "light", "heavy"
_JSON, _OCTETS = "application/json", "application/octet-stream"
# Seconds between two requests of the light caller, and between two questions for the health.
_PAUSE, _LIVEZ_PAUSE = 0.02, 0.05
# Added to the niceness of the heavy caller.
_NICENESS = 10
# Seconds after which a heavy caller has begun to be heavy.
_RAMP = 2.0
_SLOW_PIECE, _SLOW_PAUSE = 1 << 20, 0.2
_LARGE = 60 * 2**20


@dataclass(frozen=True)
class Settings:
    """What one run measures: each shape for `seconds`, `rounds` times."""

    rounds: int = 3
    seconds: float = 10.0
    shapes: tuple[str, ...] = ()


QUICK = Settings(rounds=1, seconds=4.0)


@dataclass(frozen=True)
class Shape:
    """What a heavy caller does: `connections` that each send one request after the other.

    `pause` is between two pieces of a request of `_SLOW_PIECE` bytes; 0 sends it at once.
    """

    connections: int
    requests: Callable[[], list[bytes]]
    pause: float = 0.0


def _ask(path: str, body: bytes, kind: str = _JSON) -> list[bytes]:
    return [request(path, body, kind, headers=[f"Authorization: Bearer {_HEAVY}"])]


def _predict(model: str, body: Any, kind: str = _JSON) -> list[bytes]:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return _ask(f"/v1/models/{model}/predict", content, kind)


def _rows(length: int) -> list[list[float]]:
    rows: list[list[float]] = np.random.default_rng(0).random((length, 12)).round(3).tolist()
    return rows


def _large() -> list[bytes]:
    row = json.dumps([0.123456789] * 12).encode()
    rows = b",".join([row] * (_LARGE // (len(row) + 1)))
    return _predict(_MODEL, b'{"sequence": [' + rows + b"]}")


def _written(samples: int, steps: int) -> list[bytes]:
    body = {"samples": samples, "max_steps": steps, "condition": "Irish", "seed": 1}
    return _ask(f"/v1/models/{_WRITER}/generate", json.dumps(body).encode())


def _forecast() -> list[bytes]:
    body = {"series": [[value] for value in range(1, 61)], "samples": _PATHS, "horizon": _HORIZON}
    return _ask(f"/v1/models/{_SERIES}/forecast", json.dumps(body).encode())


SHAPES = {
    "300 connections of small requests": Shape(300, lambda: _predict(_MODEL, {"sequence": _rows(10)})),
    "500 sequences of 200 steps": Shape(4, lambda: _predict(_MODEL, {"sequences": [_rows(200)] * 500})),
    "18,000 sequences of one step": Shape(2, lambda: _predict(_TOKENS, {"sequences": ["a"] * 18_000})),
    "sequences of 100,000 steps": Shape(
        3, lambda: _predict(_MODEL, np.full((100_000, 12), 0.5, "<f4").tobytes(), _OCTETS)
    ),
    "bodies of 60 MB": Shape(3, _large),
    "bodies of 60 MB, sent slowly": Shape(12, _large, _SLOW_PAUSE),
    "millions of empty lists": Shape(3, lambda: _predict(_MODEL, b'{"sequence": [' + b"[]," * 10_000_000 + b"[]]}")),
    "forecasts of 5,000 paths": Shape(2, _forecast),
    "generate, 100 samples": Shape(4, lambda: _written(100, 200)),
}
# These keep their own connections.
STREAMING = ("64 streams",)
STEPPING = ("steps of 64 sessions", *STREAMING)


def run(settings: Settings, save: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Measure each shape, every time after the idle server, and return the results. `save` gets them after each."""
    started = time.monotonic()
    results: dict[str, Any] = {"machine": machine(), "settings": asdict(settings), "fairness": {}}
    names = [name for name in (*SHAPES, *STEPPING) if not settings.shapes or name in settings.shapes]
    with tempfile.TemporaryDirectory(prefix="fairness-") as place, contextlib.ExitStack() as stack:
        folder, logs = Path(place), BENCH / "logs"
        keys = {"api_keys": f"{_LIGHT},{_HEAVY}"}
        process = stack.enter_context(serving(_repository(folder), folder / "store", logs / "fairness.log", **keys))
        nothing = stack.enter_context(_nothing(logs / "nothing.log"))
        stack.enter_context(_on_the_callers_core())
        for _ in range(settings.rounds):
            for name in names:
                one = {
                    "idle": beside(process.port, None, settings.seconds / 2),
                    "loaded": beside(process.port, name, settings.seconds),
                    "control": None if name in STREAMING else beside(nothing.port, name, settings.seconds / 2),
                }
                results["fairness"].setdefault(name, []).append(one)
                results["machine"]["minutes"] = (time.monotonic() - started) / 60
                say(
                    f"  {name}: p99 "
                    + ", ".join(f"{state} {1e3 * at['p99']:.1f} ms" for state, at in one.items() if at)
                )
                save(results)
    return results


def _repository(folder: Path) -> Path:
    """The models that are asked for. The forecaster samples each path by a run of its own."""
    repository = folder / "models"
    paths.Loop(_SERIES, repository, paths.Settings(samples=_PATHS, horizon=_HORIZON))
    for name in (_MODEL, _TOKENS, _WRITER):
        (repository / name).symlink_to(STORE / name)
    return repository


@contextlib.contextmanager
def _nothing(log: Path) -> Iterator[Process]:
    """The server that does nothing, on the core of the server."""
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.nothing", str(port)]
    with Process(command, port, cores()[0], log, {"PYTHONPATH": str(ROOT)}) as process:
        process.wait_until_ready()
        yield process


@contextlib.contextmanager
def _on_the_callers_core() -> Iterator[None]:
    """Run on the core of the callers, and so do processes that are started meanwhile."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cores()[1]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def beside(port: int, shape: str | None, seconds: float) -> dict[str, Any]:
    """Latencies of the light caller and of `/livez` in `seconds`, beside a heavy caller or alone."""
    with Heavy(port, shape) as answered:
        if shape is not None:
            time.sleep(_RAMP)
        livez: dict[str, Any] = {}
        health = threading.Thread(target=lambda: livez.update(_paced(port, _livez, seconds, _LIVEZ_PAUSE)))
        health.start()
        light = _paced(port, _light, seconds, _PAUSE)
        health.join()
    return {**light, "livez_p99": livez["p99"], "heavy": dict(answered)}


class Heavy:
    """The heavy caller, in a process of its own, while the block runs. Gives what it was answered, by status."""

    def __init__(self, port: int, shape: str | None) -> None:
        self._port, self._shape = port, shape
        self._answered: Counter[str] = Counter()

    def __enter__(self) -> Counter[str]:
        if self._shape is not None:
            context = multiprocessing.get_context("spawn")
            self._ours, theirs = context.Pipe()
            self._process = context.Process(target=_be_heavy, args=(self._port, self._shape, theirs), daemon=True)
            self._process.start()
            self._ours.recv()
        return self._answered

    def __exit__(self, *_: object) -> None:
        if self._shape is not None:
            self._ours.send(None)
            self._answered.update(self._ours.recv())
            self._process.join()


def _be_heavy(port: int, shape: str, pipe: Any) -> None:
    os.nice(_NICENESS)
    asyncio.run(_load(port, shape, pipe))


async def _load(port: int, name: str, pipe: Any) -> None:
    answered: Counter[str] = Counter()
    if name in STEPPING:
        step = _stream if name in STREAMING else _session
        sessions = [await asyncio.to_thread(_new_session, port) for _ in range(64)]
        tasks = [asyncio.create_task(step(port, one, answered)) for one in sessions]
    else:
        shape = SHAPES[name]
        requests = shape.requests()
        tasks = [
            asyncio.create_task(_keep_sending(port, requests, shape.pause, answered)) for _ in range(shape.connections)
        ]
    pipe.send(None)
    await asyncio.to_thread(pipe.recv)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    pipe.send(answered)


def _new_session(port: int) -> str:
    headers = {"authorization": f"Bearer {_HEAVY}", "content-type": _JSON}
    _, _, answer = fetch(port, "POST", f"/v1/models/{_MODEL}/sessions", b"{}", headers)
    return str(json.loads(answer)["id"])


async def _keep_sending(port: int, requests: list[bytes], pause: float, answered: Counter[str]) -> None:
    """Send requests on one connection after the other until cancelled."""
    while True:
        try:
            await _send_on_one(port, requests, pause, answered)
        except (OSError, EOFError, ValueError):
            answered["lost"] += 1
            await asyncio.sleep(0.05)


async def _send_on_one(port: int, requests: list[bytes], pause: float, answered: Counter[str]) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        while True:
            for content in requests:
                for piece in _pieces(content, pause):
                    writer.write(piece)
                    await asyncio.sleep(pause)
                await writer.drain()
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
                await reader.readexactly(length)
                answered[head[9:12].decode()] += 1
    finally:
        writer.close()


def _pieces(content: bytes, pause: float) -> Iterator[bytes]:
    if not pause:
        yield content
        return
    for at in range(0, len(content), _SLOW_PIECE):
        yield content[at : at + _SLOW_PIECE]


async def _session(port: int, session: str, answered: Counter[str]) -> None:
    content = _ask(f"/v1/sessions/{session}/steps", json.dumps({"sequence": _rows(1)}).encode())
    await _keep_sending(port, content, 0.0, answered)


async def _stream(port: int, session: str, answered: Counter[str]) -> None:
    url = f"ws://127.0.0.1:{port}/v1/models/{_MODEL}/stream?session={session}"
    frame = json.dumps({"sequence": _rows(1)})
    try:
        async with connect(url, additional_headers={"authorization": f"Bearer {_HEAVY}"}) as socket:
            await socket.recv()
            while True:
                await socket.send(frame)
                await socket.recv()
                answered["frames"] += 1
    except (OSError, WebSocketException):
        answered["lost"] += 1


def _light(connection: http.client.HTTPConnection) -> int:
    headers = {"authorization": f"Bearer {_LIGHT}", "content-type": _JSON}
    connection.request("POST", f"/v1/models/{_MODEL}/predict", _LIGHT_BODY, headers)
    response = connection.getresponse()
    response.read()
    return response.status


_LIGHT_BODY = json.dumps({"sequence": _rows(10)}).encode()


def _livez(connection: http.client.HTTPConnection) -> int:
    connection.request("GET", "/livez")
    response = connection.getresponse()
    response.read()
    return response.status


def _paced(port: int, ask: Callable[[http.client.HTTPConnection], int], seconds: float, pause: float) -> dict[str, Any]:
    """Ask again and again for `seconds`, with a pause after each answer. Latencies in seconds, and how many failed."""
    latencies, statuses = [], Counter[int]()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    until = time.perf_counter() + seconds
    while (started := time.perf_counter()) < until:
        statuses[ask(connection)] += 1
        latencies.append(time.perf_counter() - started)
        time.sleep(pause)
    connection.close()
    find = partial(quantile, sorted(latencies))
    failed = sum(count for status, count in statuses.items() if status != 200)
    return {"p50": find(0.5), "p99": find(0.99), "most": find(1.0), "answers": len(latencies), "failed": failed}
