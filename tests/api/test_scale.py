"""Series that are each scaled by their own mean and std, and series with missing values, as plain loops in torch."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from elman import export
from elman.exporter.errors import ExportRefused
from elman.repository.spec import ForecastSpec, HeadSpec, InputSpec, ModelSpec
from tests import looping
from tests.looping import Mix
from tests.running import RunningServer, running_server

pytestmark = pytest.mark.torch

Array = np.ndarray[Any, Any]
HORIZON = 6
# Of the data: feature 0 is foretold, feature 1 is known ahead, and feature 2 says what is missing.
KNOWN_MEAN, KNOWN_STD = 12.0, 7.0
RESIDUALS = ((0.5,), (-0.25,), (0.0,))


class Net(nn.Module):
    """Reads rows of one or more features; with `steps` it gives that many values after the last row."""

    def __init__(self, features: int, steps: int = 0, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.rnn, self.steps = nn.GRU(features, 16, batch_first=True), steps
        self.head = nn.Linear(16, steps or 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        read = self.rnn(x)[0]
        out: torch.Tensor = self.head(read[:, -1] if self.steps else read)
        return out


class ReadsMissing(Net):
    """Reads NaN itself: it takes a zero in its place."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(torch.nan_to_num(x))


NETS: dict[str, Net] = {
    "plain": Net(1),
    "known": Net(2),
    "window": Net(2),
    "direct": Net(1, HORIZON),
    "filled": Net(1),
    "valued": Net(2),
    "reads": ReadsMissing(2),
    "both": Net(1),
}


def given(**more: Any) -> dict[str, Any]:
    return {"task": "forecasting", "reads": "series", **more}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    root = tmp_path_factory.mktemp("scaled")
    covariate = {"input_mean": [0.0, KNOWN_MEAN], "input_std": [1.0, KNOWN_STD]}
    mask = InputSpec(missing=-1.0, missing_mask=1)
    options: dict[str, dict[str, Any]] = {
        "plain": given(spec=ModelSpec(forecast=ForecastSpec(residuals=RESIDUALS))),
        "known": given(**covariate, spec=ModelSpec(forecast=ForecastSpec(target=(0,), known=(1,), known_for="same"))),
        "window": given(
            **covariate,
            spec=ModelSpec(forecast=ForecastSpec(drive="window", window=8, target=(0,), known=(1,), known_for="same")),
        ),
        "direct": given(spec=ModelSpec(forecast=ForecastSpec(drive="direct", horizon=HORIZON))),
        "filled": {"task": "forecasting", "spec": ModelSpec(input=InputSpec(missing="forward_fill"))},
        "valued": {"task": "forecasting", "spec": ModelSpec(input=mask)},
        "reads": {"task": "forecasting", "spec": ModelSpec(input=InputSpec(missing="model", missing_mask=1))},
        "both": given(spec=ModelSpec(input=InputSpec(missing="forward_fill"))),
    }
    for name, net in NETS.items():
        example = torch.zeros(2, 9, net.rnn.input_size)
        export(net, root / name / "1" / "model.onnx", example=example, **options[name])
    with running_server(root) as one:
        yield one


def run(net: nn.Module, rows: Array) -> Array:
    """The outputs of one sequence, float64."""
    with torch.no_grad():
        found: Array = net(torch.tensor(rows[None], dtype=torch.float32)).numpy()[0].astype(np.float64)
    return found


def level(length: int, seed: int = 0) -> Array:
    """A series far from zero, `(length,)`."""
    rng = np.random.default_rng(seed)
    return 5000.0 * (1 + seed) + 40.0 * np.sin(np.arange(length) / 2) + rng.normal(0, 8, length)


def loop(net: Net, series: Array, ahead: Array | None = None, window: int | None = None, draws: Any = None) -> Array:
    """The forecast of rows `(length, features)` in the data's units: the target scaled by its own context."""
    context = series[-window:] if window else series
    mean, std = context[:, 0].mean(), context[:, 0].std()
    z = np.column_stack([(series[:, 0] - mean) / std, (series[:, 1:] - KNOWN_MEAN) / KNOWN_STD])
    values = []
    for step in range(HORIZON):
        value = run(net, z[-window:] if window else z)[-1, 0]
        value = value if draws is None else value + draws[step]
        values.append(value * std + mean)
        if step + 1 < HORIZON:
            row = [value] if ahead is None else [value, (ahead[step] - KNOWN_MEAN) / KNOWN_STD]
            z = np.concatenate([z, [row]])
    return np.array(values)


def forecast(server: RunningServer, model: str, code: int = 200, **body: object) -> dict[str, Any]:
    return looping.forecast(server, model, code, **{"horizon": HORIZON, **body})


def predict(server: RunningServer, model: str, sequence: Any, **body: Any) -> dict[str, Any]:
    answer = server.predict(model, sequence=sequence, **body)
    assert answer.status_code == 200, answer.text
    return dict(answer.json()["results"][0])


def test_each_series_is_scaled_by_its_own_mean_and_std(server: RunningServer) -> None:
    data = [level(length, seed) for seed, length in enumerate((20, 35, 12))]
    answer = forecast(server, "plain", series_list=[one.tolist() for one in data], samples=3, seed=2, paths=True)
    for index, (one, result) in enumerate(zip(data, answer["results"], strict=True)):
        np.testing.assert_allclose(result["point"], loop(NETS["plain"], one[:, None]), rtol=1e-5)
        for path in range(3):
            numbers = [Mix(2).uniform(65536 * index + path, step) for step in range(HORIZON)]
            draws = [RESIDUALS[int(number * len(RESIDUALS))][0] for number in numbers]
            np.testing.assert_allclose(result["paths"][path], loop(NETS["plain"], one[:, None], draws=draws), rtol=1e-5)
    decoded = predict(server, "plain", data[0].tolist())["decoded"]
    np.testing.assert_allclose(decoded, answer["results"][0]["point"][:1], rtol=1e-6)


@pytest.mark.parametrize("model", ["known", "window"])
def test_what_is_known_ahead_has_the_scale_of_the_model(server: RunningServer, model: str) -> None:
    rows = np.column_stack([level(24), np.arange(24.0)])
    ahead = np.arange(24.0, 24.0 + HORIZON)
    right = loop(NETS[model], rows, ahead, 8 if model == "window" else None)
    point = forecast(server, model, series=rows.tolist(), future=ahead.tolist())["point"]
    np.testing.assert_allclose(point, right, rtol=1e-5)


def test_a_direct_model_answers_in_the_units_of_the_series(server: RunningServer) -> None:
    data = level(30, 3)
    right = run(NETS["direct"], ((data - data.mean()) / data.std())[:, None]) * data.std() + data.mean()
    np.testing.assert_allclose(forecast(server, "direct", series=data.tolist())["point"], right, rtol=1e-5)
    np.testing.assert_allclose(predict(server, "direct", data.tolist())["decoded"], right, rtol=1e-5)


def test_a_state_keeps_the_scale_of_the_rows_that_it_began_with(server: RunningServer) -> None:
    """A token of predict, a session made with it, a fork, and forecasts from all of them."""
    data = level(40, 1)
    head, tail = data[:25], data[25:]
    mean, std = head.mean(), head.std()
    right = run(NETS["plain"], ((data - mean) / std)[:, None])[:, 0] * std + mean
    first = predict(server, "plain", head.tolist(), return_state=True)
    np.testing.assert_allclose(first["decoded"], right[24:25], rtol=1e-5)
    going_on = predict(server, "plain", tail.tolist(), state=first["state"], **{"return": "steps"})
    np.testing.assert_allclose(np.ravel(going_on["decoded"]), right[25:], rtol=1e-5)
    id = server.client.post("/v1/models/plain/sessions", json={"state": first["state"]}).json()["id"]
    for at, part in ((25, tail[:1]), (26, tail[1:])):
        body = {"sequence": part.tolist(), "return": "steps", "at": at}
        answers = [server.client.post(f"/v1/sessions/{id}/steps", json=body).json() for _ in range(2)]
        assert answers[1]["replayed"] and answers[0]["decoded"] == answers[1]["decoded"]
        np.testing.assert_allclose(np.ravel(answers[0]["decoded"]), right[at : at + len(part)], rtol=1e-5)
    fork = server.client.post(f"/v1/sessions/{id}/fork", json={}).json()["id"]
    points = [forecast(server, "plain", session=one)["point"] for one in (id, fork)]
    points.append(forecast(server, "plain", state=first["state"], series=tail.tolist())["point"])
    assert points[0] == points[1]
    np.testing.assert_allclose(points[2], points[0], rtol=1e-6)
    assert points[0][0] == pytest.approx(right[-1], rel=1e-5)


def test_a_session_without_a_scale_is_refused(server: RunningServer) -> None:
    id = server.client.post("/v1/models/plain/sessions").json()["id"]
    problem = server.client.post(f"/v1/sessions/{id}/steps", json={"sequence": [1.0, 2.0]}).json()
    assert problem["code"] == "not_streamable" and "no scale yet" in problem["detail"]


def test_a_series_that_does_not_vary_has_std_1_and_one_step_has_no_scale(server: RunningServer) -> None:
    for value in (0.0, 0.1, 7e6):
        right = run(NETS["plain"], np.zeros((9, 1)))[-1, 0] + value
        found = forecast(server, "plain", series=[value] * 9, horizon=1)["point"][0]
        assert found == pytest.approx(right, rel=1e-6, abs=1e-6)
    problem = forecast(server, "plain", 422, series_list=[[1.0, 2.0], [3.0]])
    assert (problem["code"], problem["where"]) == ("wrong_length", "series_list[1]")


def test_influence_is_in_the_units_of_the_series(server: RunningServer) -> None:
    data = level(6)
    z = ((data - data.mean()) / data.std())[:, None]
    whole = run(NETS["plain"], z)[-1, 0]
    right = [abs(run(NETS["plain"], np.delete(z, step, axis=0))[-1, 0] - whole) * data.std() for step in range(6)]
    answer = server.client.post("/v1/models/plain/influence", json={"sequence": data.tolist()}).json()
    np.testing.assert_allclose(answer["influence"], right, rtol=1e-4, atol=1e-5)


GAPS = [3.0, None, None, 4.0, 5.0, None]
FILLED = [3.0, 3.0, 3.0, 4.0, 5.0, 5.0]


def test_a_missing_value_is_that_of_the_step_before(server: RunningServer) -> None:
    right = run(NETS["filled"], np.array(FILLED)[:, None])
    body: dict[str, Any] = {"return": "steps"}
    np.testing.assert_allclose(predict(server, "filled", GAPS, **body)["outputs"], right, atol=1e-5)
    assert forecast(server, "filled", series=GAPS)["point"] == forecast(server, "filled", series=FILLED)["point"]
    octets = server.client.post(
        "/v1/models/filled/predict",
        content=np.array(GAPS, "<f4").tobytes(),
        params=body,
        headers={"content-type": "application/octet-stream"},
    )
    np.testing.assert_allclose(octets.json()["results"][0]["outputs"], right, atol=1e-5)
    problem = server.predict("filled", sequences=[FILLED, [None, 1.0]]).json()
    assert (problem["where"], problem["detail"]) == ("sequences[1][0][0]", "a value is missing, and none before it")


def test_a_session_fills_from_the_step_before_the_request(server: RunningServer) -> None:
    right = run(NETS["filled"], np.array(FILLED)[:, None])
    id = server.client.post("/v1/models/filled/sessions").json()["id"]
    for step, value in enumerate(GAPS):
        answer = server.client.post(f"/v1/sessions/{id}/steps", json={"sequence": [value]}).json()
        np.testing.assert_allclose(answer["output"], right[step], atol=1e-5)
    state = predict(server, "filled", GAPS[:2], return_state=True)["state"]
    found = predict(server, "filled", GAPS[2:], state=state, **{"return": "steps"})["outputs"]
    np.testing.assert_allclose(found, right[2:], atol=1e-5)


def test_a_mask_says_what_is_missing_and_stays_0_for_what_is_fed_back(server: RunningServer) -> None:
    """A number in the place of what is missing, or NaN that the module reads itself."""
    sent = [[value, None] for value in GAPS]
    for model, fill in (("valued", -1.0), ("reads", 0.0)):
        rows = np.array([[fill if value is None else value, float(value is None)] for value in GAPS])
        point = []
        for _ in range(3):
            point.append(run(NETS[model], rows)[-1, 0])
            rows = np.concatenate([rows, [[point[-1], 0.0]]])
        np.testing.assert_allclose(forecast(server, model, series=sent, horizon=3)["point"], point, rtol=1e-5)
    problem = server.predict("valued", sequence=[[1.0, 0.0], [1.0, 1.0]]).json()
    assert problem["where"] == "sequence[1][1]" and problem["expected"] == "0 or null"


def test_the_scale_is_of_the_values_that_are_there(server: RunningServer) -> None:
    there = np.array([value for value in GAPS if value is not None])
    z = (np.array(FILLED) - there.mean()) / there.std()
    right = run(NETS["both"], z[:, None])[-1, 0] * there.std() + there.mean()
    assert forecast(server, "both", series=GAPS, horizon=1)["point"][0] == pytest.approx(right, rel=1e-5)
    problem = forecast(server, "both", 422, series=[None, None], horizon=1)
    assert (problem["where"], problem["detail"]) == ("series", "feature 0 has no value in the whole series")


def test_a_missing_value_is_refused_where_the_spec_names_no_way(server: RunningServer) -> None:
    for model, body, where in (
        ("plain", {"series": [1.0, None]}, "series[1]"),
        ("known", {"series_list": [[[1.0, 2.0], [1.0, None]]], "future": [[1.0] * 5]}, "series_list[0][1][1]"),
        ("known", {"series": [[1.0, 2.0]] * 3, "future": [1.0, None]}, "future[1]"),
    ):
        problem = forecast(server, model, 422, **body)
        assert (problem["where"], problem["detail"]) == (where, "a value is missing")
    octets = server.client.post(
        "/v1/models/plain/predict",
        content=np.array([1.0, np.nan], "<f4").tobytes(),
        headers={"content-type": "application/octet-stream"},
    ).json()
    assert (octets["where"], octets["detail"]) == ("sequence[1][0]", "a value is missing (NaN)")


def test_the_card_says_how_values_are_read(server: RunningServer) -> None:
    cards = {name: server.client.get(f"/v1/models/{name}").json()["input"] for name in ("plain", "valued", "reads")}
    assert cards["plain"]["scale"] == "series" and "missing" not in cards["plain"]
    assert (cards["valued"]["missing"], cards["valued"]["missing_mask"]) == (-1.0, 1)
    assert cards["reads"]["missing"] == "model"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"input": {"scaled": [0]}}, "there is none"),
        ({"input": {"missing_mask": 0}}, "goes with missing"),
        ({"input": {"kind": "tokens", "scale": "series"}}, "features, not of tokens"),
        ({"input": {"size": 2, "scale": "series", "scaled": [2]}}, "beyond the 2"),
        (
            {"task": "forecasting", "input": {"scale": "series"}, "decoder": {"mean": [0.0], "std": [1.0]}},
            "no mean and",
        ),
        (
            {
                "task": "forecasting",
                "input": {"scale": "series"},
                "forecast": {"errors": {"rows": [[[1.0]], [[2.0]]]}},
            },
            "give them an offset",
        ),
        (
            {
                "task": "forecasting",
                "input": {"scale": "series"},
                "forecast": {"head": HeadSpec(kind="negative_binomial").model_dump()},
            },
            "counts, which have no scale",
        ),
    ],
)
def test_a_spec_that_contradicts_itself_is_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ModelSpec.model_validate(wrong)


def test_export_refuses_two_scales_of_one_output(tmp_path: Path) -> None:
    with pytest.raises(ExportRefused, match="leave out mean and std"):
        export(Net(1), tmp_path / "model.onnx", example=torch.zeros(1, 4, 1), **given(mean=[0.0], std=[2.0]))
