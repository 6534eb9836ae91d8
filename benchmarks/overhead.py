"""What the engine itself costs a sequence: the queue of a model whose kernel gives its answer at once.

    python -m benchmarks.overhead

Sixty-four sequences are in flight at all times. Those of kind `fed` are fed one step a run, as samples of a prompt are.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import numpy as np

from benchmarks.environments import BENCH
from benchmarks.models import SHAPES, write_model
from benchmarks.policies import IN_FLIGHT
from benchmarks.workload import draw
from elman.engine.feedback import Fed, Feedback
from elman.engine.queue import ModelQueue
from elman.engine.scheduler import Policy
from elman.engine.sequence import Sequence
from elman.repository.calibration import Calibration
from elman.repository.model import Model
from elman.repository.model_file import load_model
from elman.repository.network import SELECT, Array, Network

PARTS = ("scheduling", "gather", "scatter", "the rest")
KINDS = ("final", "steps", "state", "fed")
# About what runs of a model of 64 units cost: their lengths follow from it.
_COST = Calibration(run=60e-6, row=3e-6, step=5e-6, row_step=0.7e-6, batch=12)
_STEPS_FED = 32
# Runs of one round. Of several rounds the median counts, so that what else the machine does is left out.
_ROUND = 32


@dataclass
class Instant:
    """Stands for a `GraphSession`. Its outputs are zeros, and each state stays what it was.

    Attributes:
        began: when the last run began, in nanoseconds.
    """

    network: Network
    began: int = 0
    _zeros: dict[int, Array] = field(default_factory=dict)

    def run(self, outputs: list[str], feeds: dict[str, Array]) -> list[Array]:
        self.began = time.perf_counter_ns()
        selected = len(feeds[SELECT])
        if selected not in self._zeros:
            self._zeros[selected] = np.zeros((selected, self.network.output_size), np.float32)
        return [self._zeros[selected], *(feeds[state.input] for state in self.network.states)]


@dataclass(eq=False)
class Fixed:
    """A feedback of a fixed number of steps."""

    inputs: Array
    left: int = _STEPS_FED

    def feed(self, feedbacks: list[Feedback], outputs: Array) -> list[Fed]:
        return [one.next() for one in feedbacks if isinstance(one, Fixed)]

    def next(self) -> Array | None:
        self.left -= 1
        return self.inputs if self.left else None


class Bench:
    """A queue with an instant kernel, kept full with sequences of one kind."""

    def __init__(self, model: Model, sequences: list[Array], kind: str) -> None:
        self.kind = kind
        self.queue = ModelQueue(model, Policy(max_batch=_COST.batch, cost=_COST))
        self.num_drawn = 0
        self._sequences = sequences
        self._instant = Instant(model.network)
        self._spent = dict.fromkeys(PARTS, 0)
        runner: Any = self.queue.runner
        scheduler: Any = self.queue.scheduler
        runner._executor.session = self._instant
        self._state = bytes(runner.packing.nbytes)
        runner.run = self._split(runner.run)
        scheduler.schedule, scheduler.update = self._timed(scheduler.schedule), self._timed(scheduler.update)

    def _timed(self, call: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """A call of the scheduler."""

        def timed(argument: Any) -> Any:
            began = time.perf_counter_ns()
            result = call(argument)
            self._spent["scheduling"] += time.perf_counter_ns() - began
            return result

        return timed

    def _split(self, run: Callable[[Any], None]) -> Callable[[Any], None]:
        """The runner's call: what comes before the kernel, and what comes after it."""

        def split(batch: Any) -> None:
            began = time.perf_counter_ns()
            run(batch)
            self._spent["gather"] += self._instant.began - began
            self._spent["scatter"] += time.perf_counter_ns() - self._instant.began

        return split

    def new(self) -> Sequence:
        inputs = self._sequences[self.num_drawn % len(self._sequences)]
        self.num_drawn += 1
        if self.kind == "fed":
            return Sequence(inputs[:1], feedback=Fixed(inputs[:1]), more=_STEPS_FED, state=self._state)
        if self.kind == "state":
            return Sequence(inputs[:1], state=self._state, keep_state=True)
        return Sequence(inputs, returns="steps" if self.kind == "steps" else "final")

    def round(self, num_runs: int = _ROUND) -> tuple[dict[str, int], int]:
        """Nanoseconds of some runs by part, and the sequences that were done."""
        spent = self._spent = dict.fromkeys(PARTS, 0)
        queue, num_done, whole = self.queue, 0, 0
        for _ in range(num_runs):
            added = [[self.new()] for _ in range(IN_FLIGHT - len(queue.scheduler))]
            began = time.perf_counter_ns()
            for one in added:
                queue.add(one)
            queued = time.perf_counter_ns()
            done, _ = queue.iterate(time.monotonic())
            whole += time.perf_counter_ns() - began
            spent["scheduling"] += queued - began
            num_done += len(done)
        spent["the rest"] = whole - sum(spent.values())
        return spent, num_done

    def measure(self, num_rounds: int) -> dict[str, float]:
        """Microseconds a sequence by part, and the rows a sequence."""
        stats = self.queue.stats
        rows, num_done = stats.num_rows, 0
        rounds = []
        for _ in range(num_rounds):
            spent, done = self.round()
            rounds.append(spent)
            num_done += done
        each = 1e-3 * num_rounds / num_done
        parts = {name: each * median([spent[name] for spent in rounds]) for name in PARTS}
        return {**parts, "rows": (stats.num_rows - rows) / num_done}


def benches(name: str) -> dict[str, Bench]:
    """A bench for each kind of sequences of one model."""
    shape = SHAPES[name]
    model = load_model(write_model(shape, BENCH / "models" / name), name, 1)
    sequences = draw(shape, "lognormal", 400).sequences
    return {kind: Bench(model, sequences, kind) for kind in KINDS}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overhead", description=__doc__)
    parser.add_argument("--models", nargs="+", choices=SHAPES, default=["small"])
    parser.add_argument("--rounds", type=int, default=100, help=f"rounds of {_ROUND} runs")
    args = parser.parse_args()
    for name in args.models:
        for kind, bench in benches(name).items():
            bench.measure(args.rounds // 10 + 1)
            found = bench.measure(args.rounds)
            print(f"{name} {kind}: " + ", ".join(f"{part} {value:.2f}" for part, value in found.items()))


if __name__ == "__main__":
    main()
