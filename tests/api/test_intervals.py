"""Paths from the errors of whole forecasts: the point forecast plus those of one forecast, drawn by the seed."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from elman.repository.spec import DecoderSpec, ErrorsSpec, ForecastSpec, ModelSpec
from tests.looping import Mix, Network, forecast, forecast_alone, forecaster, put_forecaster
from tests.running import RunningServer, running_server

# They start servers of their own.
pytestmark = pytest.mark.slow

Array = np.ndarray[Any, Any]
STEPS = 6
RNG = np.random.default_rng(0)
ONE, TWO = (RNG.standard_normal((30, STEPS, values)) for values in (1, 2))


def errors(table: Array, **options: Any) -> ErrorsSpec:
    return ErrorsSpec(rows=tuple(tuple(map(tuple, row)) for row in table.tolist()), **options)


def held(share: float, values: int = 1) -> tuple[tuple[float, ...], ...]:
    return ((share,) * values,) * STEPS


@pytest.fixture(scope="module")
def networks() -> dict[str, Network]:
    return {"one": forecaster("gru", 1, 1), "many": forecaster("lstm", 4, 2)}


@pytest.fixture(scope="module")
def seers(tmp_path_factory: pytest.TempPathFactory, networks: dict[str, Network]) -> Iterator[RunningServer]:
    root = tmp_path_factory.mktemp("seers")
    one, two = errors(ONE, coverage=held(0.75)), errors(TWO)
    put_forecaster(root, "one", networks["one"], ForecastSpec(errors=one, minimum=9.5))
    put_forecaster(root, "share", networks["one"], ForecastSpec(errors=errors(ONE / 10, offset=5.0)))
    put_forecaster(
        root, "many", networks["many"], ForecastSpec(target=(2, 0), known=(3, 1), known_for="same", errors=two)
    )
    put_forecaster(root, "wrong", networks["one"], ForecastSpec(errors=two))
    window = ForecastSpec(drive="window", window=8, errors=one)
    networks["one"].put(
        root,
        "window",
        ModelSpec(task="forecasting", decoder=DecoderSpec(kind="values", mean=(10.0,), std=(2.0,)), forecast=window),
    )
    with running_server(root) as server:
        yield server


def series(features: int = 1) -> Array:
    return (10 + 2 * np.random.default_rng(1).standard_normal((30, features))).astype(np.float32)


def drawn(table: Array, seed: int, path: int, horizon: int) -> Array:
    """The errors `(horizon, values)` that a path is given."""
    chosen: Array = table[int(Mix(seed).uniform(path, 0) * len(table)), :horizon]
    return chosen


@pytest.mark.parametrize("horizon", [1, 4, STEPS])
def test_a_path_is_the_point_forecast_and_the_errors_of_one_forecast(
    seers: RunningServer, networks: dict[str, Network], horizon: int
) -> None:
    data = series()
    answer = forecast(seers, "one", series=data.tolist(), horizon=horizon, samples=40, seed=7, paths=True)
    assert answer["point"] == forecast(seers, "one", series=data.tolist(), horizon=horizon)["point"]
    first = np.maximum(forecast_alone(networks["one"], data, 1), 9.5)[0]
    np.testing.assert_allclose(answer["point"][:1], first, atol=1e-4)
    for path in range(40):
        wanted = np.maximum(np.array(answer["point"]) + drawn(ONE, 7, path, horizon)[:, 0], 9.5)
        np.testing.assert_allclose(answer["paths"][path], wanted, atol=1e-12)
    np.testing.assert_allclose(answer["quantiles"]["0.9"], np.quantile(answer["paths"], 0.9, axis=0))
    few = forecast(seers, "one", series=data.tolist(), horizon=horizon, samples=3, seed=7, paths=True)
    assert few["paths"] == answer["paths"][:3], "a path must not depend on its company"


def test_the_errors_of_values_that_are_forecast_together_stay_together(seers: RunningServer) -> None:
    data, future = series(4).tolist(), np.ones((4, 2)).tolist()
    answer = forecast(seers, "many", series=data, future=future, horizon=4, samples=5, seed=1, paths=True)
    for path in range(5):
        wanted = np.array(answer["point"]) + drawn(TWO, 1, path, 4)
        np.testing.assert_allclose(answer["paths"][path], wanted, atol=1e-12)


def test_no_two_series_of_a_request_share_their_draws(seers: RunningServer) -> None:
    data = series().tolist()
    answer = forecast(seers, "share", series_list=[data, data], horizon=3, samples=40, seed=1, paths=True)
    first, second = (np.array(one["paths"]) for one in answer["results"])
    assert answer["results"][0] == {
        key: value
        for key, value in forecast(seers, "share", series=data, horizon=3, samples=40, seed=1, paths=True).items()
        if key in answer["results"][0]
    }
    assert (first != second).any(axis=1).sum() > 30


def test_with_an_offset_the_errors_grow_with_the_forecast(seers: RunningServer) -> None:
    answer = forecast(seers, "share", series=series().tolist(), horizon=3, samples=5, seed=1, paths=True)
    point = np.array(answer["point"])
    for path in range(5):
        wanted = point + drawn(ONE / 10, 1, path, 3)[:, 0] * (np.abs(point) + 5.0)
        np.testing.assert_allclose(answer["paths"][path], wanted, atol=1e-12)


def test_a_model_that_reads_windows_has_them_too(seers: RunningServer) -> None:
    answer = forecast(seers, "window", series=series().tolist(), horizon=STEPS, samples=5, seed=1, paths=True)
    wanted = np.array(answer["point"]) + drawn(ONE, 1, 4, STEPS)[:, 0]
    np.testing.assert_allclose(answer["paths"][4], wanted, atol=1e-12)


def test_no_interval_is_given_where_no_error_is_known(seers: RunningServer) -> None:
    body = {"series": series().tolist(), "horizon": STEPS + 1, "samples": 5}
    answer = seers.client.post("/v1/models/one/forecast", json=body)
    assert (answer.status_code, answer.json()["where"]) == (422, "horizon"), answer.text
    assert answer.json()["expected"] == f"1 to {STEPS}, or samples: 0"
    assert len(forecast(seers, "one", **{**body, "samples": 0})["point"]) == STEPS + 1
    assert forecast(seers, "one", series=body["series"], samples=5)["horizon"] == STEPS, "as many as are known"


def test_the_card_has_the_coverage(seers: RunningServer) -> None:
    card = seers.client.get("/v1/models/one").json()["forecast"]
    assert (card["sampled"], card["max_sampled"]) == (True, STEPS)
    assert card["coverage"] == {"level": 0.8, "shares": [[0.75]] * STEPS}
    assert seers.client.get("/v1/models/many").json()["forecast"]["coverage"] is None


def test_errors_of_another_number_of_values_are_refused(seers: RunningServer) -> None:
    answer = seers.client.post("/v1/models/wrong/forecast", json={"series": [10.0] * 5})
    assert (answer.status_code, answer.json()["code"]) == (409, "cannot_forecast")
    assert "errors of its spec are of 2 values a step, its forecasts of 1" in answer.json()["detail"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"rows": [[[1.0], [2.0]], [[1.0]]]},
        {"rows": [[[1.0], [2.0, 3.0]]] * 2},
        {"rows": [[[1.0]]]},
        {"rows": [[]] * 2},
        {"rows": [[[]]] * 2},
        {"rows": [[[1.0]]] * 2, "coverage": [[0.5], [0.5]]},
        {"rows": [[[1.0]]] * 2, "offset": -1.0},
    ],
)
def test_a_table_that_is_none_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"same number|at least 2|coverage must|greater than 0"):
        ErrorsSpec.model_validate(wrong)
