"""Forecasts of models that read other sequences beside the series. Each is held to a plain loop in ONNX Runtime."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from elman import Client
from elman.repository.spec import DecoderSpec, ForecastSpec, InputSpec, ModelSpec
from tests.cli.command import elman
from tests.looping import forecast
from tests.repository import graphs
from tests.running import RunningServer, running_server

# They start a server of their own.
pytestmark = pytest.mark.slow

Array = np.ndarray[Any, Any]
Given = dict[str, Array]
HIDDEN, FEATURES, WINDOW = graphs.HIDDEN, graphs.FEATURES, 6
# Feature 0 is foretold. Features 1 and 2 are known ahead.
MEAN, STD = np.array([50.0, 3.0, -2.0]), np.array([8.0, 2.0, 1.0])


def network(outputs: int) -> onnx.ModelProto:
    """Reads "input" (batch, time, 3), "calendar" (batch, time, 2) and the ids "day" (batch, time)."""
    rng = np.random.default_rng(8)
    shapes = {"days": (7, 1), "mixing": (FEATURES + 3, FEATURES), "head": (HIDDEN, outputs)}
    return graphs.tagger(
        "GRU",
        states=("h",),
        finals=("h_out",),
        before=(
            helper.make_node("Gather", ["days", "day"], ["embedded"]),
            helper.make_node("Concat", ["input", "calendar", "embedded"], ["all"], axis=2),
            helper.make_node("MatMul", ["all", "mixing"], ["given"]),
        ),
        after=(helper.make_node("MatMul", ["steps", "head"], ["output"]),),
        tensors=tuple(graphs.constant(name, rng.standard_normal(shape), np.float32) for name, shape in shapes.items()),
        extra=(
            graphs.value("calendar", ["batch", "time", 2]),
            graphs.value("day", ["batch", "time"], TensorProto.INT64),
        ),
    )


def spec(outputs: int = 1, **driven: Any) -> ModelSpec:
    known = () if outputs == FEATURES or driven.get("drive") == "direct" else (1, 2)
    return ModelSpec(
        task="forecasting",
        input=InputSpec(names=("load", "price", "wind"), mean=tuple(MEAN), std=tuple(STD)),
        decoder=DecoderSpec(kind="values", mean=tuple(MEAN[:outputs]), std=tuple(STD[:outputs])),
        forecast=ForecastSpec(target=tuple(range(outputs)), known=known, **driven),
    )


SPECS = {
    "same": spec(known_for="same", residuals=((4.0,), (-4.0,))),
    "next": spec(known_for="next"),
    "window": spec(known_for="same", drive="window", window=WINDOW),
    "window-next": spec(known_for="next", drive="window", window=WINDOW),
    "all": spec(FEATURES, known_for="same"),
    "direct": spec(drive="direct", horizon=1),
    "unsaid": spec(FEATURES),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("further")
    for name, one in SPECS.items():
        version = root / name / "1"
        version.mkdir(parents=True)
        onnx.save(network(FEATURES if name in ("all", "unsaid") else 1), version / "model.onnx")
        (version / "model.json").write_text(json.dumps(one.dump()))
    return root


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[RunningServer]:
    with running_server(folder) as one:
        yield one


def given(length: int, seed: int = 0) -> Given:
    rng = np.random.default_rng(seed)
    return {
        "input": MEAN + STD * rng.standard_normal((length, FEATURES)),
        "calendar": rng.standard_normal((length, 2)),
        "day": rng.integers(0, 7, length),
    }


def ahead(length: int, seed: int = 1, known: bool = True) -> Given:
    """What is known of the coming steps: two features of the series, and the other sequences."""
    rows = given(length, seed)
    rows["input"] = rows["input"][:, 1:]
    return rows if known else {name: rows[name] for name in ("calendar", "day")}


def lists(of: Given) -> dict[str, Any]:
    return {name: rows.tolist() for name, rows in of.items()}


def loop(past: Given, future: Given, horizon: int, *, window: int | None = None, shifted: bool = False) -> Array:
    """The values that are foretold, `(horizon, outputs)`: the whole past, or the last rows, run anew for each."""
    outputs = 1 if "input" in future else FEATURES
    session = ort.InferenceSession(network(outputs).SerializeToString(), providers=["CPUExecutionProvider"])
    past = {name: rows.copy() for name, rows in past.items()}
    if shifted:
        for name in ("calendar", "day"):
            past[name] = np.concatenate([past[name][1:], future[name][:1]])
        past["input"][:, 1:] = np.concatenate([past["input"][1:, 1:], future["input"][:1]])
        future = {name: rows[1:] for name, rows in future.items()}
    values: list[Array] = []
    for step in range(horizon):
        read = {name: rows[-(window or 0) :][None] for name, rows in past.items()}
        data = ((read["input"] - MEAN) / STD).astype(np.float32)
        calendar = read["calendar"].astype(np.float32)
        h = np.zeros((1, 1, HIDDEN), np.float32)
        output = session.run(["output"], {"input": data, "calendar": calendar, "day": read["day"], "h": h})[0][0, -1]
        values.append(output * STD[:outputs] + MEAN[:outputs])
        if step + 1 < horizon:
            row = np.concatenate([values[-1], future["input"][step] if outputs == 1 else []])
            past["input"] = np.concatenate([past["input"], row[None]])
            for name in ("calendar", "day"):
                past[name] = np.concatenate([past[name], future[name][step : step + 1]])
    return np.array(values)


def test_an_object_is_refused_where_there_are_no_names(server: RunningServer) -> None:
    for future in ({"calendar": [1.0]}, [{"calendar": [1.0]}], [[{}, {}]]):
        problem = forecast(server, "direct", 422, series=lists(given(8)), horizon=1, future=future)
        assert problem["where"].startswith("future")


@pytest.mark.parametrize("model", ["same", "next", "window", "window-next", "all"])
def test_the_other_sequences_are_read_ahead(server: RunningServer, model: str) -> None:
    past, future = given(20), ahead(9, known=model != "all")
    driven: dict[str, Any] = {"window": WINDOW if "window" in model else None, "shifted": "next" in model}
    right = loop(past, future, 9, **driven).squeeze()
    answer = forecast(server, model, series=lists(past), horizon=9, future=lists(future))
    np.testing.assert_allclose(answer["point"], right, rtol=1e-4, atol=1e-3)
    other = ahead(9, 2, known=model != "all")
    many = forecast(
        server, model, series_list=[lists(given(14, 5)), lists(past)], horizon=9, future=[lists(other), lists(future)]
    )
    np.testing.assert_allclose(many["results"][1]["point"], right, rtol=1e-4, atol=1e-3)
    right = loop(given(14, 5), other, 9, **driven).squeeze()
    np.testing.assert_allclose(many["results"][0]["point"], right, rtol=1e-4, atol=1e-3)


def test_paths_and_sessions_read_them_too(server: RunningServer) -> None:
    past, future = given(20), ahead(4)
    body = {"horizon": 4, "future": lists(future), "samples": 300, "paths": True, "seed": 3}
    answer = forecast(server, "same", series=lists(past), **body)
    session = ort.InferenceSession(network(1).SerializeToString(), providers=["CPUExecutionProvider"])
    assert len(session.get_inputs()) == 4
    for path in (answer["paths"][0], answer["paths"][299]):
        read = past
        for step in range(3):
            added = {"input": np.array([path[step], *future["input"][step]])[None]}
            added |= {name: future[name][step : step + 1] for name in ("calendar", "day")}
            read = {name: np.concatenate([read[name], added[name]]) for name in read}
            found = loop(read, future, 1).item()
            assert abs(abs(path[step + 1] - found) - 4.0) < 1e-2
    id = server.client.post("/v1/models/same/sessions").json()["id"]
    assert server.client.post(f"/v1/sessions/{id}/steps", json={"sequence": lists(past)}).status_code == 200
    point = forecast(server, "same", session=id, horizon=4, future=lists(future))["point"]
    np.testing.assert_allclose(point, answer["point"], rtol=1e-5)


def test_one_step_needs_nothing_ahead(server: RunningServer) -> None:
    for model in ("same", "direct"):
        point = forecast(server, model, series=lists(given(20)), horizon=1)["point"]
        np.testing.assert_allclose(point, loop(given(20), ahead(1), 1)[:, 0], rtol=1e-4)


@pytest.mark.parametrize(
    ("future", "where", "expected"),
    [
        (None, "future", "an object of input, calendar, day, each with 3 rows"),
        ([[1.0, 2.0]] * 3, "future", "an object of input, calendar, day, each with 3 rows"),
        ({"calendar": [[1.0, 2.0]] * 3}, "future", "an object of input, calendar, day, each with 3 rows"),
        ({"calendar": [[1.0, 2.0]] * 2}, "future.calendar", "3 rows"),
        ({"calendar": [[1.0, "x"]] * 3}, "future.calendar[0][1]", "number"),
        ({"day": [1, 9, 1]}, "future.day[1]", "0 to 6"),
        ({"day": [1, 2.5, 1]}, "future.day[1]", "integer"),
        ({"input": [[1.0]] * 3}, "future.input[0]", "3 rows of 2: price, wind"),
        ({"input": 3}, "future.input", "array"),
        ({"input": [[1.0, "x"]] * 3}, "future.input[0][1]", "number"),
        ({"input": [[1.0, 10**400]] * 3}, "future.input[0][1]", "a finite float32"),
    ],
)
def test_what_is_missing_is_asked_for(server: RunningServer, future: Any, where: str, expected: str) -> None:
    if isinstance(future, dict) and where != "future":
        future = lists(ahead(3)) | future
    problem = forecast(server, "same", 422, series=lists(given(8)), horizon=4, future=future)
    assert (problem["where"], problem["expected"]) == (where, expected)


def test_a_file_must_say_for_which_step_they_are(server: RunningServer) -> None:
    problem = forecast(server, "unsaid", 409, series=lists(given(8)), horizon=4)
    assert "'calendar', 'day'" in problem["detail"]
    assert "forecast.known_for" in problem["detail"]


def test_the_client_takes_them_by_name(server: RunningServer) -> None:
    past, future = given(20), ahead(4)
    with Client(server.url) as client:
        model = client.model("same")
        found = model.forecast(past, 4, future=future)
        np.testing.assert_allclose(found.point, loop(past, future, 4)[:, 0], rtol=1e-4)
        both = model.forecast([past, given(9, 6)], 4, future=[future, ahead(4, 7)])
        np.testing.assert_allclose(both[0].point, found.point)
        np.testing.assert_allclose(both[1].point, loop(given(9, 6), ahead(4, 7), 4)[:, 0], rtol=1e-4)


@pytest.mark.parametrize("model", ["same", "window-next", "all"])
def test_the_command_takes_them_as_columns(folder: Path, tmp_path: Path, model: str) -> None:
    known = model != "all"
    series = {"a": (given(12), ahead(5, known=known)), "b": (given(9, 3), ahead(5, 4, known=known))}
    inputs = {"input": ["load", "price", "wind"], "calendar": ["calendar_0", "calendar_1"], "day": ["day"]}

    def write(name: str, part: int) -> None:
        columns = inputs | {"input": inputs["input"][1:] if part else inputs["input"]}
        rows = []
        for id, one in series.items():
            cells = np.concatenate([part_of.reshape(len(part_of), -1) for part_of in one[part].values()], axis=1)
            rows += [[id, *row] for row in cells.tolist()]
        header = ["id", *(column for name in series["a"][part] for column in columns[name])]
        with (tmp_path / name).open("w", newline="") as file:
            csv.writer(file).writerows([header, *rows])

    write("in.csv", 0)
    write("ahead.csv", 1)
    asked = ("forecast", folder / model, "in.csv", "-n", 5, "--json", "-q")
    done = elman(*asked, "--future", "ahead.csv", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    driven: dict[str, Any] = {} if model != "window-next" else {"window": WINDOW, "shifted": True}
    for line, (past, future) in zip(done.stdout.splitlines(), series.values(), strict=True):
        right = loop(past, future, 5, **driven).squeeze()
        np.testing.assert_allclose(json.loads(line)["point"], right, rtol=1e-4, atol=1e-3)
    without = elman(*asked, cwd=tmp_path)
    assert without.returncode == 1
    assert "an object of" in without.stderr
