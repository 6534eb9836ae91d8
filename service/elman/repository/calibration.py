"""What a run of a network costs on this machine: a fixed part, a part a step, and a part a row and step."""

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from elman.repository.executor import Executor
from elman.repository.network import Array, Network
from elman.repository.runtime import GraphSession, RuntimeFailure

_CHUNK = 16
# For graphs that do not run on so few steps.
_LONG_CHUNKS = (128, 1024)
# ONNX Runtime multiplies matrices by blocks of 6 rows with AVX2, of 12 with AVX-512 and of 4 with NEON: multiples of 12
# leave none of them part empty.
_BATCHES = (1, 4, 12, 24, 64)
# Fewer rows than these are taken only where these are so much dearer.
_FEW_ROWS = 12
_DEARER = 1.5
# Of more, the best is sought. A run holds up what comes meanwhile: one of so many seconds doubles the cost of its rows.
# Of those that are this close to the best, the smallest is taken.
_RUN_DOUBLES = 0.02
_CLOSE = 1.08
# In a file of so many bytes the products are so large that more than a few rows make a row no cheaper.
_LARGE_NBYTES = 4 << 20
# Runs are timed until the least few times of each agree so far, and none for more seconds or more often than this.
_FEWEST_RUNS = 3
_AGREE = 1.03
_SECONDS = 0.04
_MOST_RUNS = 12
# A run that takes long is timed less often, and no more than this.
_SLOW_SECONDS = 0.2
# Once the first runs have taken so many seconds, no more rows are tried than a few, and after so many no more at all.
_LATE = 0.1
_TOO_LATE = 1.0
# What the engine itself spends on a run, and on a row of it, however many steps it takes.
_RUN_SECONDS = 40e-6
_ROW_SECONDS = 2e-6

Run = Callable[[], object]


@dataclass(frozen=True)
class Calibration:
    """What a run costs in seconds: `run + row * rows + steps * (step + row_step * rows)`, padding included.

    `batch` is the best number of rows of a run: by what a row costs, and by how long a run holds up what comes
    meanwhile.
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
    """Time a few runs. Takes up to a quarter of a second for a model of a megabyte. `session`: it, opened."""
    executor = Executor(network, min_rows, session)
    chunk = _chunk(executor)
    runs = _prepare(executor, chunk)
    long = _time(runs)
    batch = _choose(long)
    return _fit(long, _short(executor, long, chunk, batch), chunk, batch)


def _chunk(executor: Executor) -> int:
    """Steps of the runs that are timed: so many that the graph runs on them."""
    network = executor.network
    if network.layout == "step":
        return 1
    for chunk in (_CHUNK, *_LONG_CHUNKS) if network.window is None else ():
        with contextlib.suppress(RuntimeFailure):
            _run(executor, 1, chunk)()
            return chunk
    return network.window or _CHUNK


def _choose(long: dict[int, float]) -> int:
    """The best number of rows, by the seconds that runs of each take."""
    costs = {rows: (_RUN_SECONDS + seconds) / rows for rows, seconds in long.items()}
    few = min((rows for rows in costs if rows < _FEW_ROWS), key=costs.__getitem__)
    many = {rows: cost * (1 + long[rows] / _RUN_DOUBLES) for rows, cost in costs.items() if rows >= _FEW_ROWS}
    if not many or costs[min(many)] > _DEARER * costs[few]:
        return few
    return next(rows for rows, cost in many.items() if cost <= _CLOSE * min(many.values()))


def _prepare(executor: Executor, chunk: int) -> dict[int, Run]:
    """A run for each number of rows that is tried. It has run once, so that it finds what it needs in memory."""
    network = executor.network
    most = min(network.max_rows or _BATCHES[-1], _FEW_ROWS if len(network.model) > _LARGE_NBYTES else _BATCHES[-1])
    began = time.thread_time()
    runs: dict[int, Run] = {}
    for rows in sorted({min(rows, most) for rows in _BATCHES}):
        if runs and time.thread_time() - began > (_LATE if rows > _FEW_ROWS else _TOO_LATE):
            break
        runs[rows] = _run(executor, rows, chunk)
        runs[rows]()
    return runs


def _short(executor: Executor, long: dict[int, float], chunk: int, batch: int) -> dict[int, float]:
    """As `long` for one row and `batch` rows, of one step; a share of it where the graph takes no single steps."""
    if executor.network.window is None:
        with contextlib.suppress(RuntimeFailure):
            return _time({rows: _run(executor, rows, 1) for rows in (1, batch)})
    return {rows: long[rows] / chunk for rows in (1, batch)}


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


def _run(executor: Executor, rows: int, chunk: int) -> Run:
    """A run of so many sequences of `chunk` steps, to be called often."""
    data, lengths, select, others = _inputs(executor.network, rows, chunk)
    states = executor.initial_states(rows)
    return lambda: executor.run(data, lengths, states, select, others)


def _time(runs: dict[int, Run]) -> dict[int, float]:
    """Processor seconds that each takes: the least of some.

    They take turns, so that what else the machine does slows all alike. Where it does much, more of them are needed
    until some are undisturbed.
    """
    times: dict[int, list[float]] = {rows: [] for rows in runs}
    left = list(runs)
    while left and not all(_agree(times[rows]) for rows in left):
        for rows in left:
            began = time.thread_time()
            runs[rows]()
            times[rows].append(time.thread_time() - began)
        left = [rows for rows in left if not _is_enough(times[rows])]
    return {rows: min(found) for rows, found in times.items()}


def _agree(times: list[float]) -> bool:
    return len(times) >= _FEWEST_RUNS and sorted(times)[_FEWEST_RUNS - 1] <= _AGREE * min(times)


def _is_enough(times: list[float]) -> bool:
    number, spent = len(times), sum(times)
    return number >= _MOST_RUNS or spent > (_SECONDS if number >= _FEWEST_RUNS else _SLOW_SECONDS)


def _inputs(network: Network, rows: int, chunk: int) -> tuple[Array, Array, Array, list[Array]]:
    shape = (rows, chunk) if network.features is None else (rows, chunk, network.features)
    data = np.zeros(shape, network.input_dtype)
    others = [np.zeros((rows, chunk, *(extent or 1 for extent in one.shape)), one.dtype) for one in network.further]
    per_row = network.others[len(network.further) :]
    others += [np.zeros((rows, *(extent or 1 for extent in one.shape)), one.dtype) for one in per_row]
    return data, np.full(rows, chunk, np.int32), np.zeros((0, 2), np.int64), others
