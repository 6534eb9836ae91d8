"""What a forecast feeds back: the last output in the data's units, on the features that it is, beside what is known."""

from typing import Any

import numpy as np

from elman.engine.forecasting import ForecastPlan, SamplePath
from tests.looping import Mix

Array = np.ndarray[Any, Any]


def plan(horizon: int = 3, **options: Any) -> ForecastPlan:
    fields: dict[str, Any] = {
        "future": np.full((horizon - 1, 4), -1.0, np.float32),
        "target": (2, 0),
        "mean": np.array([10.0, 20.0]),
        "std": np.array([2.0, 0.5]),
        "input_mean": np.zeros(2),
        "input_std": np.ones(2),
        "residuals": np.zeros((0, 2)),
        "minimum": None,
        "seed": 5,
    }
    return ForecastPlan(horizon, **fields | options)


def feed(paths: list[SamplePath], outputs: list[list[float]]) -> list[Array | None]:
    return paths[0].feed(list(paths), np.array(outputs, np.float32))


def test_a_value_is_read_next_on_its_own_features_and_what_is_known_stands_beside_it() -> None:
    future = np.arange(8, dtype=np.float32).reshape(2, 4)
    path = SamplePath(plan(future=future), path=None)
    (first,) = feed([path], [[1.0, 2.0]])
    assert first is not None and first.tolist() == [[21.0, 1.0, 12.0, 3.0]]
    (second,) = feed([path], [[0.0, 0.0]])
    assert second is not None and second.tolist() == [[20.0, 5.0, 10.0, 7.0]]
    assert feed([path], [[-1.0, -2.0]]) == [None]
    assert path.values.tolist() == [[12.0, 21.0], [10.0, 20.0], [8.0, 19.0]]
    assert future.tolist() == np.arange(8).reshape(2, 4).tolist(), "the plan is shared by all paths"


def test_a_path_adds_the_residuals_that_its_seed_draws_and_the_point_forecast_none() -> None:
    residuals = np.array([[1.0, -1.0], [2.0, -2.0], [4.0, -4.0]])
    shared = plan(horizon=4, residuals=residuals)
    paths = [SamplePath(shared, number) for number in (None, 0, 7)]
    for _ in range(4):
        feed(paths, [[0.0, 0.0]] * 3)
    assert paths[0].values.tolist() == [[10.0, 20.0]] * 4
    for path in paths[1:]:
        assert path.path is not None
        drawn = [residuals[int(3 * Mix(5).uniform(path.path, step))] for step in range(4)]
        assert path.values.tolist() == [[10.0 + up, 20.0 + down] for up, down in drawn]


def test_values_are_held_at_the_minimum_before_they_are_read_again() -> None:
    path = SamplePath(plan(minimum=9.0, residuals=np.array([[-50.0, -50.0]])), path=1)
    (inputs,) = feed([path], [[0.0, 0.0]])
    assert inputs is not None and inputs[0, [2, 0]].tolist() == [9.0, 9.0]
    assert path.values[0].tolist() == [9.0, 9.0]


def test_paths_of_several_forecasts_run_side_by_side() -> None:
    one, other = SamplePath(plan(horizon=2), None), SamplePath(plan(horizon=2, mean=np.zeros(2), std=np.ones(2)), None)
    feed([one, other], [[1.0, 1.0], [1.0, 1.0]])
    assert one.values[0].tolist() == [12.0, 20.5] and other.values[0].tolist() == [1.0, 1.0]
