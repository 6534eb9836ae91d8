"""Ways to batch, on the same queue, runner and kernel in process: what continuous batching itself is worth.

Sixty-four sequences are in flight at all times, as with sixty-four connections: each that ends is followed by another.
"""

import time
from typing import Protocol

from benchmarks.workload import Workload
from elman.api.server import policy_of
from elman.engine.queue import ModelQueue
from elman.engine.scheduler import Batch
from elman.engine.sequence import Sequence
from elman.repository.model import Model
from elman.settings import Settings

IN_FLIGHT = 64
BATCH = 16


class Waiting(Protocol):
    """What a queue needs of its scheduler."""

    def __len__(self) -> int: ...
    def add(self, sequence: Sequence) -> None: ...
    def schedule(self, now: float) -> Batch | None: ...
    def update(self, batch: Batch | None) -> list[Sequence]: ...


class Padded:
    """The sixteen oldest sequences, run whole and padded to the longest."""

    def __init__(self, batch: int = BATCH) -> None:
        self.batch = batch
        self._waiting: list[Sequence] = []

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, sequence: Sequence) -> None:
        self._waiting.append(sequence)

    def choose(self, waiting: list[Sequence]) -> list[Sequence]:
        return waiting[: self.batch]

    def schedule(self, now: float) -> Batch | None:
        chosen = self.choose(self._waiting)
        gone = set(map(id, chosen))
        self._waiting = [one for one in self._waiting if id(one) not in gone]
        return Batch(chosen, [one.length for one in chosen])

    def update(self, batch: Batch | None) -> list[Sequence]:
        return batch.sequences if batch else []


class Bucketed(Padded):
    """The oldest sequence, and the fifteen closest to it in length."""

    def choose(self, waiting: list[Sequence]) -> list[Sequence]:
        oldest = waiting[0].length
        return sorted(waiting, key=lambda one: abs(one.length - oldest))[: self.batch]


POLICIES = ("continuous", "bucketed", "padded", "singly")


class Flight:
    """A queue under one policy, kept full from a workload."""

    def __init__(self, model: Model, workload: Workload, policy: str) -> None:
        self.queue = ModelQueue(model, policy_of(model, Settings()))
        others: dict[str, Waiting] = {"bucketed": Bucketed(), "padded": Padded(), "singly": Padded(batch=1)}
        self.waiting: Waiting = others.get(policy, self.queue.scheduler)
        self.queue.scheduler = self.waiting  # type: ignore[assignment]
        self._inputs = workload.sequences
        self.num_drawn = 0

    def iterate(self) -> int:
        """Fill up, and run one batch. Returns the steps of the sequences that ended."""
        while len(self.waiting) < IN_FLIGHT:
            self.queue.add([Sequence(self._inputs[self.num_drawn % len(self._inputs)])])
            self.num_drawn += 1
        done, _ = self.queue.iterate(time.monotonic())
        for sequence in done:
            if sequence.error is not None:
                raise sequence.error
        return sum(sequence.length for sequence in done)

    def steps_per_second(self, seconds: float) -> float:
        """Useful steps per second of processor time, measured for about `seconds`."""
        useful = 0
        # Sequences are counted when they end, so the same number must be unfinished at the start and at the end.
        while self.num_drawn < 3 * IN_FLIGHT:
            self.iterate()
        started, until = time.process_time(), time.perf_counter() + seconds
        while time.perf_counter() < until:
            useful += self.iterate()
        return useful / (time.process_time() - started)
