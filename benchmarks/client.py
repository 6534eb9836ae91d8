"""The awaitable client beside aiohttp: as many predictions at once, of the same server, in turns."""

import asyncio
import json
import os
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.environments import BENCH
from benchmarks.measure import WrongAnswer, machine, say
from benchmarks.models import Shape, write_model
from benchmarks.processes import Process, cores
from benchmarks.serving import serving
from benchmarks.workload import Array, reference, with_lengths
from elman import AsyncClient

MODEL = Shape("client", 12, 64)
ELMAN, AS_JSON, AS_BYTES = "elman.AsyncClient", "aiohttp, JSON", "aiohttp, bytes"
_TOLERANCE = 1e-4
_BYTES = "application/octet-stream"

Predict = Callable[[Array], Awaitable[Array]]
"""One prediction: the output after the last step of a sequence."""


@dataclass(frozen=True)
class Settings:
    """`calls` predictions of `steps` steps are awaited at once, again and again for `seconds`."""

    rounds: int = 9
    seconds: float = 3.0
    calls: int = 500
    steps: int = 20


QUICK = Settings(rounds=3, seconds=0.5)


def run(settings: Settings, save: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Measure every client in turns, and return the results. `save` gets them at the end."""
    started = time.monotonic()
    results: dict[str, Any] = {"machine": machine(), "settings": asdict(settings), "model": MODEL.title}
    with tempfile.TemporaryDirectory(prefix="client-") as folder:
        path = write_model(MODEL, Path(folder) / "models")
        sequences = with_lengths(MODEL, [settings.steps] * settings.calls).sequences
        expected = reference(path, sequences)
        with serving(path.parents[2], Path(folder), BENCH / "logs" / "client.log", store="memory") as process, _alone():
            results["clients"] = asyncio.run(_measured(process, sequences, expected, settings))
    results["machine"]["minutes"] = (time.monotonic() - started) / 60
    save(results)
    return results


@contextmanager
def _alone() -> Iterator[None]:
    """The clients run on one core, and the server on another."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cores()[1]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


async def _measured(
    process: Process, sequences: list[Array], expected: list[Array], settings: Settings
) -> dict[str, list[dict[str, float]]]:
    aiohttp = import_module("aiohttp")
    url = f"http://127.0.0.1:{process.port}"
    async with AsyncClient(url) as client, aiohttp.ClientSession(url) as session:
        clients = {ELMAN: _elman(client), AS_JSON: _with_json(session), AS_BYTES: _with_bytes(session)}
        cells: dict[str, list[dict[str, float]]] = {name: [] for name in clients}
        for predict in clients.values():
            _check(await asyncio.gather(*map(predict, sequences)), expected)
        for turn in range(settings.rounds):
            for name in reversed(clients) if turn % 2 else clients:
                cells[name].append(await _round(clients[name], sequences, settings.seconds))
            ours, *theirs = (cells[name][-1]["seconds"] for name in clients)
            ratios = " and ".join(f"{ours / one:.2f}" for one in theirs)
            say(f"  round {turn + 1}: {1e6 * ours:.0f} µs a call, {ratios} times aiohttp's with JSON and with bytes")
    return cells


async def _round(predict: Predict, sequences: list[Array], seconds: float) -> dict[str, float]:
    """Seconds, and processor seconds of this process, for each call."""
    num_calls, began, cpu = 0, time.perf_counter(), time.process_time()
    while not num_calls or time.perf_counter() < began + seconds:
        await asyncio.gather(*map(predict, sequences))
        num_calls += len(sequences)
    spent = time.perf_counter() - began, time.process_time() - cpu
    return {"seconds": spent[0] / num_calls, "cpu": spent[1] / num_calls}


def _check(found: list[Array], expected: list[Array]) -> None:
    apart = max(float(np.abs(one - right).max()) for one, right in zip(found, expected, strict=True))
    if apart > _TOLERANCE:
        raise WrongAnswer(f"an output is {apart} away from that of ONNX Runtime")


def _elman(client: AsyncClient) -> Predict:
    model = client.model(MODEL.name)

    async def predict(sequence: Array) -> Array:
        output = (await model.predict(sequence)).output
        assert output is not None
        return output

    return predict


def _with_json(session: Any) -> Predict:
    """As one would write it: lists of numbers there and back."""

    async def predict(sequence: Array) -> Array:
        async with session.post(_path(), json={"sequence": sequence.tolist()}) as response:
            response.raise_for_status()
            return np.array((await response.json())["results"][0]["output"], np.float32)

    return predict


def _with_bytes(session: Any) -> Predict:
    """The same bytes as our client sends, once it knows that the model takes sequences of this shape."""
    headers = {"content-type": _BYTES, "accept": "application/json"}

    async def predict(sequence: Array) -> Array:
        async with session.post(_path(), data=sequence.tobytes(), headers=headers) as response:
            response.raise_for_status()
            return np.array(json.loads(await response.read())["results"][0]["output"], np.float32)

    return predict


def _path() -> str:
    return f"/v1/models/{MODEL.name}/predict"
