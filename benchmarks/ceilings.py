"""Ceilings for any server: the speed of the kernel alone, and of JSON decoding and encoding alone."""

import contextlib
import os
import statistics
import time
from collections.abc import Callable, Iterator
from itertools import chain
from struct import pack

import msgspec
import numpy as np
import orjson
import simdjson

from benchmarks.workload import Workload
from elman.repository.model import Model
from elman.repository.runtime import GraphSession

BATCHES = (1, 4, 8, 16, 32, 64)
CHUNKS = (8, 16, 32, 64, 128)
_RUNS = 3


@contextlib.contextmanager
def pinned(core: int) -> Iterator[None]:
    """Pin this process to one core within the context."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class Kernel:
    """The network's kernel alone: full batches of equal lengths, arrays made beforehand, one output row decoded."""

    def __init__(self, model: Model) -> None:
        self.network = model.network
        self._session = GraphSession(model.network.model)
        self._feeds = {(rows, steps): self._make(rows, steps) for rows in BATCHES for steps in CHUNKS}

    def _make(self, rows: int, steps: int) -> dict[str, np.ndarray]:
        network = self.network
        rng = np.random.default_rng(rows)
        data = rng.standard_normal((rows, steps, network.features or 1), np.float32)
        states = [np.repeat(state.initial, rows, axis=state.batch_axis) for state in network.states]
        return dict(network.feeds(data, np.full(rows, steps, np.int32), states, np.zeros((1, 2), np.int64)))

    def best(self, seconds: float) -> tuple[float, str]:
        """(useful steps per second, the batch shape that reached it). Tries all shapes for about `seconds`."""
        rates: dict[tuple[int, int], float] = {}
        until = time.perf_counter() + seconds
        while not rates or time.perf_counter() < until:
            for rows, steps in self._feeds:
                if len(rates) == len(self._feeds) and rates[rows, steps] < 0.7 * max(rates.values()):
                    continue
                rate = rows * steps / self._time(rows, steps)
                rates[rows, steps] = max(rate, rates.get((rows, steps), 0.0))
        best = max(rates, key=rates.__getitem__)
        return rates[best], f"{best[0]} rows of {best[1]} steps"

    def _time(self, rows: int, steps: int) -> float:
        fetches, feeds = self.network.fetches(), self._feeds[rows, steps]
        started = time.process_time()
        for _ in range(_RUNS):
            self._session.run(fetches, feeds)
        return (time.process_time() - started) / _RUNS


class _Body(msgspec.Struct):
    sequence: list[list[float]]


def _by_orjson(body: bytes) -> np.ndarray:
    return np.array(orjson.loads(body)["sequence"], np.float32)


def _by_msgspec() -> Callable[[bytes], np.ndarray]:
    decoder = msgspec.json.Decoder(_Body)

    def decode(body: bytes) -> np.ndarray:
        rows = decoder.decode(body).sequence
        flat = list(chain.from_iterable(rows))
        return np.frombuffer(pack(f"{len(flat)}f", *flat), np.float32).reshape(len(rows), -1)

    return decode


def _by_simdjson() -> Callable[[bytes], np.ndarray]:
    parser = simdjson.Parser()

    def decode(body: bytes) -> np.ndarray:
        sequence = parser.parse(body)["sequence"]
        numbers = np.frombuffer(sequence.as_buffer(of_type="d"), np.float64)
        return numbers.astype(np.float32).reshape(len(sequence), -1)

    return decode


def json_seconds(workload: Workload, seconds: float) -> float:
    """Seconds per request to decode a body and to encode an answer, with the fastest library of three."""
    bodies, rows = workload.bodies("json"), np.ones(workload.shape.outputs, np.float32) / 3
    ways = [_by_orjson, _by_msgspec(), _by_simdjson()]
    best = []
    for decode in ways:
        until = time.perf_counter() + seconds / len(ways)
        rounds: list[float] = []
        while not rounds or time.perf_counter() < until:
            started = time.process_time()
            for body in bodies:
                decode(body)
                orjson.dumps({"output": rows}, option=orjson.OPT_SERIALIZE_NUMPY)
            rounds.append((time.process_time() - started) / len(bodies))
        best.append(statistics.median(rounds))
    return min(best)
