"""Forecasts over HTTP are the plain loop in ONNX Runtime; quantiles are those of its paths."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from elman.api.forecast import encode_forecast
from elman.codec.requests import ForecastRequest
from elman.errors import NotFiniteOutput
from elman.repository.spec import ForecastSpec
from tests.looping import RESIDUALS, Mix, Network, forecast, forecast_alone, forecaster, put_forecaster
from tests.running import STORE, RunningServer, running_server

CELLS = ("rnn", "lstm", "gru")
Array = np.ndarray[Any, Any]
PAIRS = ((0.5, -0.5), (-0.5, 0.5), (0.0, 0.0))
STEPS, WINDOW = 500, 200


@pytest.fixture(scope="module")
def networks() -> dict[str, Network]:
    ones = {cell: forecaster(cell, 1, 1) for cell in CELLS}  # type: ignore[arg-type]
    ones |= {"direct": forecaster("gru", 1, STEPS), "window": forecaster("gru", 1, 1)}
    return {**ones, "many": forecaster("lstm", 4, 2), "bare": forecaster("gru", 1, 1), "odd": forecaster("gru", 3, 1)}


@pytest.fixture(scope="module")
def seers(tmp_path_factory: pytest.TempPathFactory, networks: dict[str, Network]) -> Iterator[RunningServer]:
    root = tmp_path_factory.mktemp("seers")
    for cell in CELLS:
        put_forecaster(root, cell, networks[cell], ForecastSpec(residuals=RESIDUALS, minimum=0.0))
    put_forecaster(
        root, "many", networks["many"], ForecastSpec(target=(2, 0), known=(3, 1), known_for="same", residuals=PAIRS)
    )
    at_once = ForecastSpec(drive="direct", horizon=STEPS, target=(0,), residuals=((0.0,) * STEPS,))
    put_forecaster(root, "direct", networks["direct"], at_once)
    windows = ForecastSpec(drive="window", window=WINDOW, residuals=RESIDUALS)
    put_forecaster(root, "window", networks["window"], windows)
    put_forecaster(root, "bare", networks["bare"], ForecastSpec())
    put_forecaster(root, "odd", networks["odd"], ForecastSpec(target=(0,), known=(2,), known_for="same"))
    (root / "vowels-gru").symlink_to(STORE / "vowels-gru")
    (root / "names-gru").symlink_to(STORE / "names-gru")
    with running_server(root) as one:
        yield one


def series(length: int = 30, features: int = 1) -> Array:
    return (10 + 2 * np.random.default_rng(length).standard_normal((length, features))).astype(np.float32)


def draws(residuals: tuple[tuple[float, ...], ...], seed: int, path: int, horizon: int) -> Array:
    mix = Mix(seed)
    return np.array([residuals[int(mix.uniform(path, step) * len(residuals))] for step in range(horizon)])


@pytest.mark.parametrize("cell", CELLS)
def test_the_point_forecast_is_the_loop_without_noise(
    seers: RunningServer, networks: dict[str, Network], cell: str
) -> None:
    data = series()
    answer = forecast(seers, cell, series=data[:, 0].tolist(), horizon=20)
    assert "mean" not in answer and answer["horizon"] == 20
    np.testing.assert_allclose(answer["point"], forecast_alone(networks[cell], data, 20)[:, 0], atol=1e-4)
    rows = forecast(seers, cell, series=data.tolist(), horizon=1)
    assert rows["point"] == answer["point"][:1]


@pytest.mark.parametrize("cell", CELLS)
def test_paths_add_residuals_by_the_seed(seers: RunningServer, networks: dict[str, Network], cell: str) -> None:
    data = series()
    body = {"series": data[:, 0].tolist(), "horizon": 12, "samples": 20, "seed": 9, "quantiles": [0.05, 0.5, 0.95]}
    answer = forecast(seers, cell, **body, paths=True)
    paths = np.array(answer["paths"])
    for path in range(20):
        drawn = draws(RESIDUALS, 9, path, 12)
        wanted = forecast_alone(networks[cell], data, 12, draws=drawn)[:, 0]
        np.testing.assert_allclose(paths[path], wanted, atol=1e-4)
    np.testing.assert_allclose(answer["mean"], paths.mean(axis=0))
    for level in (0.05, 0.5, 0.95):
        np.testing.assert_allclose(answer["quantiles"][f"{level:g}"], np.quantile(paths, level, axis=0))
    assert forecast(seers, cell, **body, paths=True) == answer
    few = forecast(seers, cell, **{**body, "samples": 3}, paths=True)
    assert few["paths"] == answer["paths"][:3], "a path must not depend on its company"


def test_several_outputs_and_what_is_known_ahead(seers: RunningServer, networks: dict[str, Network]) -> None:
    data, future = series(25, 4), series(9, 2)
    answer = forecast(
        seers, "many", series=data.tolist(), horizon=8, future=future.tolist(), samples=5, seed=1, paths=True
    )
    loop = {"future": future, "target": (2, 0), "known": (3, 1)}
    wanted = forecast_alone(networks["many"], data, 8, **loop)  # type: ignore[arg-type]
    np.testing.assert_allclose(answer["point"], wanted, atol=1e-4)
    assert np.shape(answer["quantiles"]["0.5"]) == (8, 2)
    path = forecast_alone(networks["many"], data, 8, **loop, draws=draws(PAIRS, 1, 4, 8))  # type: ignore[arg-type]
    np.testing.assert_allclose(answer["paths"][4], path, atol=1e-4)


def test_it_goes_on_from_a_session_and_from_a_token(seers: RunningServer) -> None:
    data = series()[:, 0].tolist()
    straight = forecast(seers, "gru", series=data, horizon=10)["point"]
    id = seers.client.post("/v1/models/gru/sessions").json()["id"]
    empty = seers.client.post("/v1/models/gru/forecast", json={"session": id})
    assert (empty.status_code, empty.json()["code"]) == (422, "empty_sequence")
    seers.client.post(f"/v1/sessions/{id}/steps", json={"sequence": data}).raise_for_status()
    assert forecast(seers, "gru", session=id, horizon=10)["point"] == straight
    head = seers.client.post("/v1/models/gru/predict", json={"sequence": data[:20], "return_state": True}).json()[
        "results"
    ][0]
    assert forecast(seers, "gru", state=head["state"], series=data[20:], horizon=10)["point"] == straight
    assert seers.client.get(f"/v1/sessions/{id}").json()["step"] == 30


@pytest.mark.slow
def test_a_session_is_forecast_by_the_version_that_it_began_with(
    seers: RunningServer, networks: dict[str, Network], tmp_path: Path
) -> None:
    """Another version beside it, of another width, neither changes what it says nor harms what others ask."""
    put_forecaster(tmp_path, "one", networks["gru"], ForecastSpec(residuals=RESIDUALS))
    with running_server(tmp_path, poll=0) as server:
        data = series()[:, 0].tolist()
        id = server.client.post("/v1/models/one/sessions").json()["id"]
        server.client.post(f"/v1/sessions/{id}/steps", json={"sequence": data}).raise_for_status()
        body = {"session": id, "horizon": 6, "samples": 9, "seed": 2}
        before = forecast(server, "one", **body)
        put_forecaster(
            tmp_path / "later", "one", networks["many"], ForecastSpec(target=(2, 0), known=(3, 1), known_for="same")
        )
        shutil.move(tmp_path / "later" / "one" / "1", tmp_path / "one" / "2")
        server.client.post("/v2/repository/models/one/load").raise_for_status()
        assert server.client.get("/v1/models/one").json()["version"] == 2
        assert forecast(server, "one", **body) == before
        assert server.client.post("/v1/models/one/versions/1/forecast", json=body).json() == before
        other = server.client.post("/v1/models/one/versions/2/forecast", json=body)
        assert (other.status_code, other.json()["where"]) == (422, "session")


def test_values_are_held_at_the_minimum(seers: RunningServer) -> None:
    answer = forecast(seers, "rnn", series=[-400.0, 400.0] * 20, horizon=50, samples=50, paths=True)
    assert np.min(answer["paths"]) >= 0.0 and np.min(answer["point"]) >= 0.0


@pytest.mark.parametrize(
    ("model", "body", "status", "code", "words"),
    [
        ("vowels-gru", {"series": [[0.0] * 12]}, 409, "cannot_forecast", "task is classification"),
        ("names-gru", {"series": [[0.0]]}, 409, "cannot_forecast", "tokens"),
        ("bare", {"series": [1.0, 2.0], "samples": 5}, 409, "cannot_forecast", "residuals"),
        ("odd", {"series": [[1.0, 2.0, 3.0]]}, 409, "cannot_forecast", "feature 1"),
        ("gru", {}, 422, "invalid_field", "no series"),
        ("gru", {"series": []}, 422, "empty_sequence", ""),
        ("gru", {"series": [1.0], "horizon": 0}, 422, "invalid_field", "horizon"),
        ("gru", {"series": [1.0], "quantiles": [1.5]}, 422, "invalid_field", "quantiles"),
        ("gru", {"series": [1.0], "future": [[1.0]]}, 422, "invalid_field", "ahead"),
        ("gru", {"series": [1.0], "samples": 1000, "horizon": 100_000}, 413, "too_long", "values"),
        (
            "gru",
            {"series": [1.0], "samples": 1, "horizon": 100_000, "quantiles": [n / 100 for n in range(1, 100)]},
            413,
            "too_long",
            "10100000 values",
        ),
        ("direct", {"series_list": [[1.0]] * 5, "samples": 5000, "horizon": 1}, 413, "too_long", "12502500 values"),
        (
            "window",
            {"series_list": [[1.0] * WINDOW] * 100, "samples": 5000, "horizon": 2},
            413,
            "too_long",
            "400080000 bytes",
        ),
        ("gru", {"series": [1.0], "horizon": 10**400}, 422, "invalid_field", "horizon"),
        ("many", {"series": [[1.0] * 4], "horizon": 1, "future": [[1.0, 1e39]]}, 422, "not_finite", "float32"),
        ("many", {"series": [[1.0] * 4], "horizon": 4, "future": [[1.0, 2.0]] * 2}, 422, "invalid_field", "2 rows"),
        ("many", {"series": [[1.0] * 4], "horizon": 2, "future": [[1.0]] * 2}, 422, "wrong_features", "1 values"),
        ("many", {"series": [[1.0] * 3], "horizon": 2, "future": [[1.0] * 2] * 2}, 422, "wrong_features", ""),
    ],
)
def test_what_cannot_be_forecast_says_why(
    seers: RunningServer, model: str, body: dict[str, Any], status: int, code: str, words: str
) -> None:
    answer = seers.client.post(f"/v1/models/{model}/forecast", json=body)
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert words in answer.json()["detail"]


def test_several_series_are_each_the_plain_loop_with_noise_of_its_own(
    seers: RunningServer, networks: dict[str, Network]
) -> None:
    """Each of its own length and with its own future. Path p of series i draws as path 65536 i + p would alone."""
    data = [series(length, 4) for length in (25, 7, 40)]
    ahead = [series(9 + length, 2) for length in range(3)]
    many = {"series_list": [one.tolist() for one in data], "future": [one.tolist() for one in ahead]}
    body = {"horizon": 8, "samples": 4, "seed": 6, "paths": True}
    answer = forecast(seers, "many", **many, **body)
    assert (answer["horizon"], answer["seed"], len(answer["results"])) == (8, 6, 3) and "point" not in answer
    for index, (rows, future, result) in enumerate(zip(data, ahead, answer["results"], strict=True)):
        loop: dict[str, Any] = {"future": future, "target": (2, 0), "known": (3, 1)}
        np.testing.assert_allclose(result["point"], forecast_alone(networks["many"], rows, 8, **loop), atol=1e-4)
        for path in range(4):
            drawn = draws(PAIRS, 6, 65536 * index + path, 8)
            wanted = forecast_alone(networks["many"], rows, 8, **loop, draws=drawn)
            np.testing.assert_allclose(result["paths"][path], wanted, atol=1e-4)
    alone = forecast(seers, "many", series=data[0].tolist(), future=ahead[0].tolist(), **body)
    for name, values in answer["results"][0].items():
        for mine, theirs in zip(np.array(list(values)), np.array(list(alone[name])), strict=True):
            np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize(
    ("model", "body", "status", "where"),
    [
        ("gru", {"series_list": []}, 422, "series_list"),
        ("gru", {"series_list": [[1.0], []]}, 422, "series_list[1]"),
        ("gru", {"series_list": [[1.0], [1.0, [2.0], [3.0, 4.0]]]}, 422, "series_list[1][2]"),
        ("gru", {"series_list": [[1.0], [1.0, 1e39]]}, 422, "series_list[1][1][0]"),
        ("gru", {"series_list": [[1.0]], "series": [1.0]}, 422, "series_list"),
        ("gru", {"series_list": [[1.0]], "state": "x"}, 422, "series_list"),
        ("gru", {"series_list": [[1.0]] * 3, "future": [[], [1.0], []]}, 422, "future[1]"),
        ("gru", {"series_list": [[1.0]] * 12_000, "samples": 800, "horizon": 1}, 413, "samples"),
        ("gru", {"series_list": [[1.0]] * 300, "samples": 60, "horizon": 200, "paths": True}, 413, "samples"),
        ("gru", {"series_list": [[1.0]] * 300, "samples": 200, "horizon": 200}, 413, "samples"),
        ("gru", {"series_list": [[1.0]] * 20_001}, 413, "series_list"),
        ("many", {"series_list": [[[1.0] * 4]] * 2, "horizon": 2}, 422, "future[0]"),
        ("many", {"series_list": [[[1.0] * 4]] * 2, "horizon": 2, "future": [[[1.0, 2.0]]]}, 422, "future"),
        ("many", {"series_list": [[[1.0] * 4]], "horizon": 2, "future": [[[1.0]]]}, 422, "future[0][0]"),
        ("many", {"series": [[1.0] * 4], "horizon": 2, "future": [[[1.0], 2.0]]}, 422, "future[0]"),
    ],
)
def test_an_error_names_the_series(
    seers: RunningServer, model: str, body: dict[str, Any], status: int, where: str
) -> None:
    answer = seers.client.post(f"/v1/models/{model}/forecast", json=body)
    assert (answer.status_code, answer.json().get("where")) == (status, where), answer.text


def test_a_late_forecast_does_not_say_that_it_was_nearly_done(seers: RunningServer) -> None:
    body = {"series": [1.0], "horizon": 100_000, "timeout": 0.2}
    answer = seers.client.post("/v1/models/gru/forecast", json=body)
    assert answer.status_code == 504 and " of " not in answer.json()["detail"], answer.text


def test_the_first_step_that_is_not_finite_is_named() -> None:
    values = np.zeros((3, 2, 5, 1))
    values[0, 0, 4], values[2, 1, 3] = np.nan, np.inf
    request: Any = ForecastRequest(series_list=[None], samples=1)
    with pytest.raises(NotFiniteOutput, match="of series 2 is not finite from step 3"):
        encode_forecast(("gru", 1), request, 0, values)


def test_a_card_says_how_it_forecasts(seers: RunningServer) -> None:
    card = seers.client.get("/v1/models/many").json()
    assert card["forecast"] == {
        "drive": "recursive", "window": None, "max_horizon": None,
        "target": [2, 0], "known": [3, 1], "known_for": "same", "sampled": True,
        "max_sampled": None, "coverage": None,
    }  # fmt: skip
    assert seers.client.get("/v1/models/odd").json()["forecast"] is None
