"""What a run of a network costs on this machine: a fixed part, a part a step, and a part a row and step."""

import time
from dataclasses import dataclass
from math import log2

import numpy as np

from elman.repository.executor import Executor
from elman.repository.network import Array, Network
from elman.repository.runtime import GraphSession, RuntimeFailure

_CHUNK = 16
_BATCHES = (1, 4, 8, 16, 32, 64)
# A batch has so many rows where they are no dearer than fewer, and is doubled as long as that leaves of a row's cost no
# more than this share.
_FEW_ROWS = 8
_NO_DEARER = 1.02
_WORTH = 0.975
# A batch this much larger than the best so far is not tried.
_MOST_TIMES = 4
# Runs that are timed of each kind, and how few of them once time is up.
_MOST_RUNS = 10
_FEWEST_RUNS = 2
# What one model's calibration may take, in seconds.
_BUDGET = 0.25
# What the engine itself spends on a run, and on a row of it, however many steps it takes.
_RUN_SECONDS = 40e-6
_ROW_SECONDS = 2e-6


@dataclass(frozen=True)
class Calibration:
    """What a run costs in seconds: `run + row * rows + steps * (step + row_step * rows)`, padding included.

    `batch` is the number of rows from which more rows make a row no cheaper.
    """

    run: float = 15e-6
    row: float = 2e-6
    step: float = 1e-6
    row_step: float = 1.5e-6
    batch: int = 16

    def before_steps(self, rows: int) -> float:
        """What a run of some rows costs before its first step."""
        return self.run + self.row * rows

    def step_seconds(self, rows: int) -> float:
        """What each step of a run of some rows costs."""
        return self.step + self.row_step * rows

    def run_seconds(self, rows: int, steps: int) -> float:
        """What a run costs."""
        return self.before_steps(rows) + steps * self.step_seconds(rows)

    def seconds(self, length: int) -> float:
        """What a sequence of `length` steps costs in a full batch."""
        return length * (self.row_step + self.step / self.batch) + self.row + self.run / self.batch


def calibrate(network: Network, min_rows: int, session: GraphSession) -> Calibration:
    """Time a few runs. Takes about a quarter of a second for a model of a few megabytes. `session`: it, opened."""
    executor = Executor(network, min_rows, session)
    chunk = 1 if network.layout == "step" else network.window or _CHUNK
    deadline = time.thread_time() + _BUDGET
    long: dict[int, float] = {}
    batch = 1
    for rows in _BATCHES:
        late = bool(long) and time.thread_time() > deadline
        if late or rows > (network.max_rows or rows) or rows > _MOST_TIMES * batch:
            break
        long[rows] = _time(executor, rows, chunk, deadline)
        worth = _NO_DEARER if rows <= _FEW_ROWS else _WORTH ** log2(rows / batch)
        if _row_seconds(long, rows) < worth * _row_seconds(long, batch):
            batch = rows
    short = {rows: _time_short(executor, rows, long[rows] / chunk, deadline) for rows in (1, batch)}
    return _fit(long, short, chunk, batch)


def _time_short(executor: Executor, rows: int, otherwise: float, deadline: float) -> float:
    """As `_time` of one step; `otherwise` where the graph takes no sequence of one step."""
    if executor.network.window is not None:
        return otherwise
    try:
        return _time(executor, rows, 1, deadline)
    except RuntimeFailure:
        return otherwise


def _row_seconds(long: dict[int, float], rows: int) -> float:
    return (_RUN_SECONDS + long[rows]) / rows


def _fit(long: dict[int, float], short: dict[int, float], chunk: int, batch: int) -> Calibration:
    """The four parts, from one row and `batch` rows, each over one step and over `chunk` steps."""
    steps = max(chunk - 1, 1)
    each = {rows: max(long[rows] - short[rows], 1e-9) / steps if chunk > 1 else short[rows] for rows in (1, batch)}
    once = {rows: max(short[rows] - each[rows], 1e-6) for rows in (1, batch)}
    if batch == 1:
        return Calibration(once[1] + _RUN_SECONDS, _ROW_SECONDS, 0.0, each[1], 1)
    row_step = max((each[batch] - each[1]) / (batch - 1), 1e-9)
    row = max((once[batch] - once[1]) / (batch - 1), 0.0)
    run = max(once[batch] - row * batch, 1e-6)
    return Calibration(run + _RUN_SECONDS, row + _ROW_SECONDS, max(each[1] - row_step, 0.0), row_step, batch)


def _time(executor: Executor, rows: int, chunk: int, deadline: float) -> float:
    """Processor seconds that a run takes: the least of a few, after one that finds nothing in the caches."""
    data, lengths, select, others = _inputs(executor.network, rows, chunk)
    states = executor.initial_states(rows)
    executor.run(data, lengths, states, select, others)
    least = float("inf")
    ended = time.thread_time()
    for number in range(_MOST_RUNS):
        started = ended
        executor.run(data, lengths, states, select, others)
        ended = time.thread_time()
        least = min(least, ended - started)
        if ended > deadline and number + 1 >= _FEWEST_RUNS:
            break
    return least


def _inputs(network: Network, rows: int, chunk: int) -> tuple[Array, Array, Array, list[Array]]:
    shape = (rows, chunk) if network.features is None else (rows, chunk, network.features)
    data = np.zeros(shape, network.input_dtype)
    others = [np.zeros((rows, chunk, *(extent or 1 for extent in one.shape)), one.dtype) for one in network.further]
    per_row = network.others[len(network.further) :]
    others += [np.zeros((rows, *(extent or 1 for extent in one.shape)), one.dtype) for one in per_row]
    return data, np.full(rows, chunk, np.int32), np.zeros((0, 2), np.int64), others
