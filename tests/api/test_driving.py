"""How a forecaster is driven: its units, what is known ahead and for which step, windows, and several steps at once.

Each forecast is held to a plain loop in ONNX Runtime.
"""

import json
from collections.abc import Iterator
from statistics import NormalDist
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper

from elman.repository.spec import DecoderSpec, ForecastSpec, HeadSpec, InputSpec, ModelSpec
from tests.looping import Mix, Network, forecast, forecaster
from tests.repository import graphs
from tests.running import RunningServer, running_server

# They start servers of their own.
pytestmark = pytest.mark.slow

Array = np.ndarray[Any, Any]
# Of the data: features 0 and 2 are foretold, 1 is known ahead.
INPUT_MEAN, INPUT_STD = np.array([280.0, 3.0, -40.0]), np.array([60.0, 2.0, 5.0])
MEAN, STD = (280.0, -40.0), (60.0, 5.0)
WINDOW, STEPS = 8, 5


def spec(**forecast: Any) -> ModelSpec:
    """Of a network of three features that was trained on standardised data."""
    return ModelSpec(
        task="forecasting",
        input=InputSpec(mean=tuple(INPUT_MEAN), std=tuple(INPUT_STD)),
        decoder=DecoderSpec(kind="values", mean=MEAN, std=STD),
        forecast=ForecastSpec(**{"target": (0, 2), "known": (1,), "known_for": "same"} | forecast),
    )


def direct(window: int | None) -> onnx.ModelProto:
    """(batch, time, features) to (batch, 10): five steps of two values; the time is fixed if it takes windows."""
    rng = np.random.default_rng(5)
    flat = (WINDOW if window else 1) * graphs.HIDDEN
    tensors = [graphs.constant("head", 0.5 * rng.standard_normal((flat, 2 * STEPS)), np.float32)]
    if window:
        tensors.append(graphs.constant("shape", [-1, flat]))
        first = helper.make_node("Reshape", ["steps", "shape"], ["end"])
    else:
        tensors.append(graphs.constant("minus", -1))
        first = helper.make_node("Gather", ["steps", "minus"], ["end"], axis=1)
    after = (first, helper.make_node("MatMul", ["end", "head"], ["output"]))
    return graphs.tagger("GRU", time=window or "time", after=after, tensors=tuple(tensors))


RESIDUALS = tuple(tuple(float(10 * path + step) for step in range(2 * STEPS)) for path in range(4))


@pytest.fixture(scope="module")
def network() -> Network:
    return forecaster("gru", 3, 2)


@pytest.fixture(scope="module")
def seers(tmp_path_factory: pytest.TempPathFactory, network: Network) -> Iterator[RunningServer]:
    root = tmp_path_factory.mktemp("driven")
    network.put(root, "same", spec())
    network.put(root, "next", spec(known_for="next"))
    network.put(root, "window", spec(drive="window", window=WINDOW))
    network.put(root, "window-next", spec(drive="window", window=WINDOW, known_for="next"))
    for name, window in (("direct", None), ("direct-window", WINDOW)):
        folder = root / name / "1"
        folder.mkdir(parents=True)
        onnx.save(direct(window), folder / "model.onnx")
        forecast = {"drive": "direct", "horizon": STEPS, "known": (), "residuals": RESIDUALS}
        (folder / "model.json").write_text(json.dumps(spec(**forecast).dump()))
    drawn = ModelSpec(
        task="forecasting",
        decoder=DecoderSpec(kind="values", mean=(5.0,), std=(2.0,)),
        forecast=ForecastSpec(head=HeadSpec(kind="normal", transform="softplus")),
    )
    forecaster("lstm", 1, 2).put(root, "normal", drawn)
    with running_server(root) as one:
        yield one


def series(length: int, seed: int = 0) -> Array:
    rng = np.random.default_rng(seed)
    return INPUT_MEAN + INPUT_STD * rng.standard_normal((length, 3))


def loop(network: Network, rows: Array, future: Array, horizon: int, window: int | None = None) -> Array:
    """Values in the data's units; `rows` are as the network was trained, `future` has the known feature of each row
    that is fed back."""
    scaled = (rows - INPUT_MEAN) / INPUT_STD
    values = []
    for step in range(horizon):
        part = scaled[-window:] if window else scaled
        value = network(part[None].astype(np.float32))[0][0, -1] * STD + MEAN
        values.append(value)
        if step + 1 < horizon:
            row = np.array([value[0], future[step], value[1]])
            scaled = np.concatenate([scaled, (row - INPUT_MEAN)[None] / INPUT_STD])
    return np.array(values)


def test_what_is_fed_back_is_scaled_as_the_network_reads_it(seers: RunningServer, network: Network) -> None:
    rows, ahead = series(30), series(12, 1)[:, 1]
    point = forecast(seers, "same", series=rows.tolist(), horizon=12, future=ahead.tolist())["point"]
    np.testing.assert_allclose(point, loop(network, rows, ahead, 12), rtol=1e-5)
    decoded = seers.predict("same", sequence=rows.tolist()).json()["results"][0]["decoded"]
    np.testing.assert_allclose(decoded, point[0], rtol=1e-6)


def test_every_way_in_is_scaled(seers: RunningServer, network: Network) -> None:
    rows = series(9)
    scaled = ((rows - INPUT_MEAN) / INPUT_STD).astype(np.float32)
    right = network(scaled[None])[0][0]
    body = {"sequence": rows.tolist(), "return": "steps"}
    np.testing.assert_allclose(seers.predict("same", **body).json()["results"][0]["outputs"], right, atol=1e-5)
    octets = seers.client.post(
        "/v1/models/same/predict",
        content=rows.astype("<f4").tobytes(),
        params={"return": "steps"},
        headers={"content-type": "application/octet-stream"},
    )
    np.testing.assert_allclose(octets.json()["results"][0]["outputs"], right, atol=1e-4)
    id = seers.client.post("/v1/models/same/sessions").json()["id"]
    answer = seers.client.post(f"/v1/sessions/{id}/steps", json=body).json()
    np.testing.assert_allclose(answer["outputs"], right, atol=1e-5)
    ahead = series(4, 3)[:, 1]
    point = forecast(seers, "same", session=id, horizon=4, future=ahead.tolist())["point"]
    np.testing.assert_allclose(point, loop(network, rows, ahead, 4), rtol=1e-5)


@pytest.mark.parametrize("model", ["next", "window-next"])
def test_what_is_known_for_the_next_step_is_read_with_the_step_before(
    seers: RunningServer, network: Network, model: str
) -> None:
    rows, ahead = series(20, 4), series(6, 5)[:, 1]
    as_trained = rows.copy()
    as_trained[:-1, 1], as_trained[-1, 1] = rows[1:, 1], ahead[0]
    right = loop(network, as_trained, ahead[1:], 6, WINDOW if model == "window-next" else None)
    point = forecast(seers, model, series=rows.tolist(), horizon=6, future=ahead.tolist())["point"]
    np.testing.assert_allclose(point, right, rtol=1e-5)
    problem = forecast(seers, model, 422, series=rows.tolist(), horizon=6, future=ahead[:5].tolist())
    assert (problem["where"], problem["expected"]) == ("future", "6 rows of 1")


def test_the_last_row_ahead_is_not_asked_for_where_it_is_not_read(seers: RunningServer) -> None:
    rows, ahead = series(20, 4).tolist(), series(6, 5)[:, 1].tolist()
    points = [forecast(seers, "same", series=rows, horizon=6, future=ahead[:count])["point"] for count in (5, 6)]
    assert points[0] == points[1]
    assert forecast(seers, "same", series=rows, horizon=1)["point"] == points[0][:1]


def test_a_window_is_read_anew_at_each_step(seers: RunningServer, network: Network) -> None:
    rows, ahead = series(20, 6), series(9, 7)[:, 1]
    body = {"series": rows.tolist(), "horizon": 10, "future": ahead.tolist()}
    right = loop(network, rows, ahead, 10, WINDOW)
    np.testing.assert_allclose(forecast(seers, "window", **body)["point"], right, rtol=1e-5)
    assert not np.allclose(right, loop(network, rows, ahead, 10), rtol=1e-3), (
        "carrying the state on is another forecast"
    )
    problem = forecast(seers, "window", 422, **{**body, "series": rows[:7].tolist()})
    assert (problem["code"], problem["where"], problem["expected"]) == ("wrong_length", "series", "8 steps or more")
    state = seers.predict("window", sequence=rows.tolist(), return_state=True).json()["results"][0]["state"]
    problem = forecast(seers, "window", 422, state=state, horizon=2, future=[[1.0]])
    assert problem["where"] == "state"


@pytest.mark.parametrize("model", ["same", "next", "window", "window-next", "direct", "direct-window"])
def test_several_series_are_forecast_as_each_alone(seers: RunningServer, model: str) -> None:
    data = [series(20 + 3 * index, 30 + index) for index in range(3)]
    ahead = {} if "direct" in model else {"future": [series(9, 40 + index)[:, 1].tolist() for index in range(3)]}
    together = forecast(seers, model, series_list=[one.tolist() for one in data], horizon=STEPS, **ahead)["results"]
    for index, result in enumerate(together):
        own = {name: values[index] for name, values in ahead.items()}
        alone = forecast(seers, model, series=data[index].tolist(), horizon=STEPS, **own)
        np.testing.assert_allclose(result["point"], alone["point"], rtol=1e-6)
    if "window" in model:
        short = [data[0].tolist(), data[1][:7].tolist()]
        problem = forecast(
            seers, model, 422, series_list=short, horizon=1, **{"future": [[1.0], [1.0]]} if ahead else {}
        )
        assert (problem["code"], problem["where"]) == ("wrong_length", "series_list[1]")


@pytest.mark.parametrize(("model", "window"), [("direct", None), ("direct-window", WINDOW)])
def test_a_direct_model_foretells_all_steps_in_one_run(seers: RunningServer, model: str, window: int | None) -> None:
    rows = series(20, 8)
    scaled = ((rows - INPUT_MEAN) / INPUT_STD).astype(np.float32)[-(window or 20) :]
    session = ort.InferenceSession(direct(window).SerializeToString(), providers=["CPUExecutionProvider"])
    right = session.run(["output"], {"input": scaled[None]})[0].reshape(STEPS, 2) * STD + MEAN
    answer = forecast(seers, model, series=rows.tolist(), horizon=STEPS, samples=6, seed=3, paths=True)
    np.testing.assert_allclose(answer["point"], right, rtol=1e-5)
    errors = np.array(RESIDUALS).reshape(-1, STEPS, 2)
    for path, values in enumerate(answer["paths"]):
        drawn = errors[int(Mix(3).uniform(path, 0) * len(errors))]
        np.testing.assert_allclose(values, right + drawn, rtol=1e-5)
    part = forecast(seers, model, series=rows.tolist(), horizon=2)
    np.testing.assert_allclose(part["point"], right[:2], rtol=1e-5)
    assert forecast(seers, model, series=rows.tolist())["point"] == answer["point"], "all steps, if none are named"
    problem = forecast(seers, model, 422, series=rows.tolist(), horizon=STEPS + 1)
    assert (problem["where"], problem["expected"]) == ("horizon", "1 to 5")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"input": {"mean": [0.0]}}, "mean and std go together"),
        ({"input": {"mean": [0.0], "std": [0.0]}}, "greater than 0"),
        ({"input": {"mean": [0.0, 1.0], "std": [1.0]}}, "mean lists 2 numbers and std 1"),
        ({"input": {"mean": [0.0, 1.0], "std": [1.0, 1.0], "size": 3}}, "mean lists 2 numbers but size is 3"),
        ({"decoder": {"kind": "values", "mean": [0.0], "std": [-1.0]}}, "greater than 0"),
        ({"forecast": {"drive": "direct"}}, "a direct model has a horizon"),
        ({"forecast": {"future": "ahead"}}, "future is the input of a direct model"),
        ({"forecast": {"drive": "direct", "horizon": 3, "known": [0]}}, "by an input of its own"),
        ({"forecast": {"known": [0]}}, "known needs known_for"),
        ({"forecast": {"horizon": 3}}, "a direct model has a horizon"),
        ({"forecast": {"window": 3}}, "a recursive model reads no window"),
    ],
)
def test_a_spec_that_contradicts_itself_is_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ModelSpec.model_validate(wrong)


def test_a_distribution_is_drawn_from_and_its_draws_are_fed_back(seers: RunningServer) -> None:
    network, rows = forecaster("lstm", 1, 2), series(15)[:, :1] / 100
    answer = forecast(seers, "normal", series=rows.tolist(), horizon=3, samples=200, seed=4, paths=True)
    assert seers.client.get("/v1/models/normal").json()["forecast"]["sampled"]

    def parameters(rows: Array) -> tuple[float, float]:
        mean, raw = network(rows[None].astype(np.float32))[0][0, -1].astype(np.float64)
        return 5 + 2 * mean, 2 * float(np.logaddexp(0.0, raw))

    point = rows
    for value in answer["point"]:
        mean, _ = parameters(point)
        assert value == pytest.approx(mean, rel=1e-5)
        point = np.concatenate([point, [[mean]]])
    for path in (0, 57):
        drawn = rows
        for step, value in enumerate(answer["paths"][path]):
            mean, std = parameters(drawn)
            assert value == pytest.approx(mean + std * NormalDist().inv_cdf(Mix(4).uniform(path, step)), rel=1e-4)
            drawn = np.concatenate([drawn, [[value]]])
    decoded = seers.predict("normal", sequence=rows.tolist()).json()["results"][0]["decoded"]
    np.testing.assert_allclose(decoded, answer["point"][:1], rtol=1e-6)
