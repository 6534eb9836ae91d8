"""What a run of a network costs on this machine: a fixed part, a part a step, and a part a row and step."""

import time
from dataclasses import dataclass

import numpy as np

from service.repository.executor import Executor
from service.repository.network import Array, Network

_CHUNK = 16
_BATCHES = (1, 4, 8, 16, 32, 64)
# Rows are added to a batch as long as that makes a row cheaper by this share.
_WORTH = 0.97
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

    def seconds(self, length: int) -> float:
        """What a sequence of `length` steps costs in a full batch."""
        return length * (self.row_step + self.step / self.batch) + self.row + self.run / self.batch


def calibrate(network: Network, min_rows: int) -> Calibration:
    """Time a few runs. Takes about a quarter of a second for a model of a few megabytes."""
    executor = Executor(network, min_rows)
    chunk = 1 if network.layout == "step" else _CHUNK
    deadline = time.thread_time() + _BUDGET
    long: dict[int, float] = {}
    for rows in _BATCHES:
        if rows > (network.max_rows or rows) or (long and time.thread_time() > deadline):
            break
        long[rows] = _time(executor, rows, chunk, deadline)
    batch = _best_batch(long)
    short = {rows: _time(executor, rows, 1, deadline) for rows in (1, batch)}
    return _fit(long, short, chunk, batch)


def _best_batch(long: dict[int, float]) -> int:
    best = 1
    for rows in sorted(long)[1:]:
        if (_RUN_SECONDS + long[rows]) / rows < _WORTH * (_RUN_SECONDS + long[best]) / best:
            best = rows
    return best


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
    """Processor seconds that a run takes: the least of a few."""
    data, lengths, select = _inputs(executor.network, rows, chunk)
    states = executor.initial_states(rows)
    least = float("inf")
    for _ in range(5):
        started = time.thread_time()
        executor.run(data, lengths, states, select)
        ended = time.thread_time()
        least = min(least, ended - started)
        if ended > deadline:
            break
    return least


def _inputs(network: Network, rows: int, chunk: int) -> tuple[Array, Array, Array]:
    shape = (rows, chunk) if network.features is None else (rows, chunk, network.features)
    data = np.zeros(shape, network.input_dtype)
    return data, np.full(rows, chunk, np.int32), np.zeros((0, 2), np.int64)
