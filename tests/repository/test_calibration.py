"""Calibration: the same batch from one load to the next, also where the machine does other things meanwhile."""

import random
from collections.abc import Iterator

import pytest

from elman.repository import calibration

# Microseconds of runs of 16 steps, by rows, of three LSTMs on an idle core with AVX2: 12 features and 64 units, 64 and
# 256, 128 and 512 twice.
RUNS = {
    "small": {1: 89, 4: 109, 12: 198, 24: 346, 64: 818},
    "mid": {1: 573, 4: 652, 12: 1652, 24: 3296, 64: 8920},
    "big": {1: 4888, 4: 7160, 12: 17730},
}
BEST = {"small": 64, "mid": 12, "big": 12}


@pytest.mark.parametrize("name", RUNS)
def test_a_few_per_cent_change_no_batch(name: str) -> None:
    drawn = random.Random(name)
    chosen = {
        calibration._choose({rows: time * 1e-6 * drawn.uniform(0.98, 1.04) for rows, time in RUNS[name].items()})
        for _ in range(500)
    }
    assert chosen == {BEST[name]}


@pytest.mark.parametrize(
    ("runs", "batch"),
    [
        pytest.param({1: 1e-3}, 1, id="the graph takes one row"),
        pytest.param({1: 1e-3, 4: 1.1e-3, 8: 1.2e-3}, 8, id="the graph takes eight"),
        pytest.param({rows: rows * 1e-3 for rows in (1, 4, 12, 24, 64)}, 12, id="rows are no cheaper together"),
        pytest.param({rows: rows**2 * 1e-3 for rows in (1, 4, 12, 24, 64)}, 1, id="rows are dearer together"),
        pytest.param({rows: 1e-3 + rows * 1e-9 for rows in (1, 4, 12, 24, 64)}, 64, id="more rows cost nothing"),
        pytest.param({rows: 1.0 + rows * 1e-9 for rows in (1, 4, 12, 24, 64)}, 64, id="not even where runs are long"),
    ],
)
def test_the_batch_suits_the_costs(runs: dict[int, float], batch: int) -> None:
    assert calibration._choose(runs) == batch


class Machine:
    """A clock that runs move on, each by its own time and what disturbs it."""

    def __init__(self, disturbances: Iterator[float]) -> None:
        self.now = 0.0
        self.calls: dict[int, int] = {}
        self._disturbances = disturbances

    def thread_time(self) -> float:
        return self.now

    def runs(self, seconds: dict[int, float]) -> dict[int, calibration.Run]:
        return {rows: lambda rows=rows: self._run(rows, seconds[rows]) for rows in seconds}  # type: ignore[misc]

    def _run(self, rows: int, seconds: float) -> None:
        self.calls[rows] = self.calls.get(rows, 0) + 1
        self.now += seconds * next(self._disturbances)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Machine:
    drawn = random.Random(1)
    busy = (1.0 if drawn.random() < 0.5 else drawn.uniform(1.0, 2.0) for _ in iter(int, 1))
    quiet = (drawn.uniform(1.0, 1.01) for _ in iter(int, 1))
    machine = Machine({"busy": busy, "quiet": quiet}[request.param])
    monkeypatch.setattr(calibration, "time", machine)
    return machine


@pytest.mark.parametrize("machine", ["busy", "quiet"], indirect=True)
@pytest.mark.parametrize("name", RUNS)
def test_the_least_time_is_the_undisturbed_one(machine: Machine, name: str) -> None:
    seconds = {rows: time * 1e-6 for rows, time in RUNS[name].items()}
    found = calibration._time(machine.runs(seconds))
    assert found == pytest.approx(seconds, rel=0.1)
    assert calibration._choose(found) == BEST[name]


@pytest.mark.parametrize("machine", ["quiet"], indirect=True)
def test_no_more_runs_are_made_than_are_needed(machine: Machine) -> None:
    calibration._time(machine.runs({1: 1e-4, 4: 2e-4}))
    assert machine.calls == {1: 3, 4: 3}


@pytest.mark.parametrize("machine", ["busy"], indirect=True)
def test_a_slow_model_is_not_run_often(machine: Machine) -> None:
    calibration._time(machine.runs({1: 0.3, 4: 1.0}))
    assert machine.calls == {1: 1, 4: 1}
