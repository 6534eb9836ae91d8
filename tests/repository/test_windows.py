"""Models of a fixed number of steps: any batch of windows, and sessions that slide the window over the steps."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import graphs
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from conftest import Service, outputs, run
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper
from test_refusals import load, refusal

from elman.client import Client, RequestError, StepConflict, Unable
from elman.codec.windows import slide
from elman.engine.sequence import Inputs, Sequence
from tests.reference import Array

# They start servers of their own.
pytestmark = pytest.mark.slow

WINDOW, FEATURES, HIDDEN = 6, graphs.FEATURES, graphs.HIDDEN


def flattened(batch: int | str = "batch") -> onnx.ModelProto:
    """(batch, 6, features) and `gain` per step to 2 numbers, by a layer over the flattened outputs of an LSTM."""
    rng = np.random.default_rng(3)
    before = (helper.make_node("Mul", ["input", "gain"], ["given"]),)
    after = (
        helper.make_node("Reshape", ["steps", "flat"], ["row"]),
        helper.make_node("MatMul", ["row", "dense"], ["output"]),
        helper.make_node("ReduceSum", ["row", "one"], ["total"], keepdims=1),
    )
    tensors = (
        graphs.constant("flat", [-1, WINDOW * HIDDEN]),
        graphs.constant("dense", rng.standard_normal((WINDOW * HIDDEN, 2)), np.float32),
    )
    extra = (graphs.value("gain", [batch, WINDOW, 1]),)
    proto = graphs.tagger(time=WINDOW, before=before, after=after, tensors=tensors, extra=extra)
    proto.graph.input[0].CopyFrom(graphs.value("input", [batch, WINDOW, FEATURES]))
    proto.graph.output.append(graphs.value("total", None))
    return proto


def plain() -> onnx.ModelProto:
    """As `flattened`, without `gain`."""
    proto = flattened()
    proto.graph.input.pop()
    proto.graph.node[0].CopyFrom(helper.make_node("Identity", ["input"], ["given"]))
    return proto


@pytest.fixture(scope="module")
def service(serve: Callable[[Path], Service], tmp_path_factory: pytest.TempPathFactory) -> Service:
    root = tmp_path_factory.mktemp("windows")
    for name, proto in (("gained", flattened()), ("plain", plain()), ("single", flattened(batch=1))):
        folder = root / name / "1"
        folder.mkdir(parents=True)
        onnx.save(proto, folder / "model.onnx")
    return serve(root)


def truth(series: dict[str, Array], proto: onnx.ModelProto | None = None) -> dict[str, Array]:
    """The outputs of each whole window of a series: `(windows, 2)` and `(windows, 1)`."""
    session = ort.InferenceSession((proto or flattened()).SerializeToString(), providers=["CPUExecutionProvider"])
    rows: dict[str, list[Array]] = {"output": [], "total": []}
    for end in range(WINDOW, len(series["input"]) + 1):
        feeds = {name: values[None, end - WINDOW : end] for name, values in series.items()}
        for name, array in zip(rows, session.run(list(rows), feeds), strict=True):
            rows[name].append(array[0])
    return {name: np.array(values) for name, values in rows.items()}


def series(length: int, seed: int = 0) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    data = rng.standard_normal((length, FEATURES)).astype(np.float32)
    return {"input": data, "gain": rng.uniform(0.5, 1.5, (length, 1)).astype(np.float32)}


def part(one: dict[str, Array], begin: int, end: int) -> dict[str, Array]:
    return {name: values[begin:end] for name, values in one.items()}


@pytest.mark.parametrize("name", ["gained", "single"])
def test_a_session_answers_every_step_once_it_has_a_window(service: Service, name: str) -> None:
    one = series(17)
    expected = truth(one)
    with Client(service.url) as client:
        card = client.model(name).card()
        assert (card.raw["window"], card.streaming) == (WINDOW, True)
        with client.model(name).session() as session:
            early = session.step(part(one, 0, 4), returns="steps")
            assert (early.length, early.step, len(early.outputs)) == (0, 4, 0)  # type: ignore[arg-type]
            assert session.step(part(one, 4, 5)).output is None
            sixth = session.step(part(one, 5, 6), heads=["total"])
            np.testing.assert_allclose(sixth.output, expected["output"][0], atol=1e-5)
            np.testing.assert_allclose(sixth.heads["total"], expected["total"][0], atol=1e-5)  # type: ignore[index]
            more = session.step(part(one, 6, 12), returns="steps")
            assert (more.length, more.step) == (6, 12)
            np.testing.assert_allclose(more.outputs, expected["output"][1:7], atol=1e-5)
            last = session.step(part(one, 12, 17))
            assert (last.length, last.step) == (5, 17)
            np.testing.assert_allclose(last.output, expected["output"][-1], atol=1e-5)


def test_steps_happen_once_and_a_state_can_be_carried(service: Service) -> None:
    one = series(12, 1)
    expected = truth({"input": one["input"]}, plain())["output"]
    url = f"/v1/sessions/{service.client.post('/v1/models/plain/sessions').json()['id']}"

    def step(begin: int, end: int, at: int) -> dict[str, Any]:
        body = {"sequence": one["input"][begin:end].tolist(), "at": at}
        answer = service.client.post(f"{url}/steps", json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()  # type: ignore[no-any-return]

    step(0, 5, 0)
    token = service.client.get(f"{url}/state").json()["state"]
    first, again = step(5, 8, 5), step(5, 8, 5)
    assert (first["replayed"], again["replayed"]) == (False, True)
    assert first["output"] == again["output"]
    np.testing.assert_allclose(first["output"], expected[2], atol=1e-5)
    with Client(service.url) as client, client.model("plain").session(state=token) as other:
        assert other.step_count == 5
        np.testing.assert_allclose(other.step(one["input"][5:12]).output, expected[-1], atol=1e-5)
        session = client.session(url.rpartition("/")[2])
        with session as mine:
            fork = mine.fork()
            with fork as forked:
                np.testing.assert_allclose(forked.step(one["input"][8:9]).output, expected[3], atol=1e-5)
        session._calls.step_count = 3  # type: ignore[attr-defined]
        with pytest.raises(StepConflict):
            session.step(one["input"][3:4])  # type: ignore[attr-defined]


def test_octets_go_through_a_session_of_windows(service: Service) -> None:
    one = series(9, 2)["input"]
    expected = truth({"input": one}, plain())["output"]
    id = service.client.post("/v1/models/plain/sessions").json()["id"]
    octets = {"content-type": "application/octet-stream", "accept": "application/octet-stream"}
    answer = service.client.post(
        f"/v1/sessions/{id}/steps", params={"return": "steps"}, content=one.tobytes(), headers=octets
    )
    assert answer.headers["elman-shape"] == "4,2"
    np.testing.assert_allclose(np.frombuffer(answer.content, "<f4").reshape(4, 2), expected, atol=1e-5)


def test_predict_takes_whole_windows_and_no_state(service: Service) -> None:
    with Client(service.url) as client:
        model = client.model("plain")
        rows = [series(WINDOW, seed)["input"] for seed in range(5)]
        expected = [truth({"input": row}, plain())["output"][0] for row in rows]
        for result, right in zip(model.predict(rows), expected, strict=True):
            np.testing.assert_allclose(result.output, right, atol=1e-5)
        with pytest.raises(RequestError) as caught:
            model.predict([rows[0], rows[1][:5]])
        assert (caught.value.code, caught.value.where, caught.value.expected) == (
            "wrong_length",
            "sequences[1]",
            WINDOW,
        )
        with pytest.raises(Unable, match="no running state"):
            model.predict(rows[0], return_state=True)


@given(st.lists(st.integers(0, 9), max_size=8), st.integers(1, 5))
def test_windows_are_the_same_however_the_steps_come(pieces: list[int], window: int) -> None:
    steps = np.arange(sum(pieces))
    found: list[list[int]] = []
    recent: tuple[Array, ...] = ()
    at = 0
    for piece in pieces:
        windows, recent = slide(recent, Inputs(steps[at : at + piece]), window)
        found += [one.data.tolist() for one in windows]
        at += piece
        assert len(recent[0]) == min(at, window - 1)
    assert found == [list(range(end - window, end)) for end in range(window, len(steps) + 1)]


def block(rows: int) -> onnx.ModelProto:
    """(batch, 6, features) to (batch, rows, 1): a layer over all outputs of an LSTM, as a forecaster of windows has."""
    rng = np.random.default_rng(6)
    after = (
        helper.make_node("Reshape", ["steps", "flat"], ["row"]),
        helper.make_node("MatMul", ["row", "dense"], ["values"]),
        helper.make_node("Reshape", ["values", "shape"], ["output"]),
    )
    tensors = (
        graphs.constant("flat", [-1, WINDOW * HIDDEN]),
        graphs.constant("dense", rng.standard_normal((WINDOW * HIDDEN, rows)), np.float32),
        graphs.constant("shape", [-1, rows, 1]),
    )
    return graphs.tagger(time=WINDOW, after=after, tensors=tensors)


def own(proto: onnx.ModelProto, row: Array) -> Array:
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    found: Array = session.run(["output"], {"input": row[None]})[0][0]
    return found


def test_a_block_as_long_as_the_window_is_not_taken_for_its_steps(tmp_path: Path) -> None:
    proto = block(WINDOW)
    refused = refusal(proto, tmp_path)
    assert "6 rows, as many as the window has steps" in refused.reason
    assert refused.template == {"outputs": {"output": {"role": "final"}}}
    row = series(WINDOW)["input"]
    for role in ("final", "steps"):
        model = load(proto, tmp_path, {"outputs": {"output": {"role": role}}})
        assert model.network.answering[0].role == role
        found = outputs(run(model, [Sequence(row, "steps" if role == "steps" else "final")])[0])
        right = own(proto, row)
        np.testing.assert_allclose(found, right if role == "steps" else right.reshape(1, -1), atol=1e-5)


def test_a_block_of_another_length_is_one_answer(tmp_path: Path) -> None:
    proto = block(WINDOW - 1)
    model = load(proto, tmp_path)
    assert (model.network.answering[0].role, model.network.output_size) == ("final", WINDOW - 1)


def test_rows_that_follow_the_steps_are_steps(tmp_path: Path) -> None:
    """The reshapes hide the axis of time, but no row moves with a later step."""
    after = (
        helper.make_node("Reshape", ["steps", "flat"], ["row"]),
        helper.make_node("Tanh", ["row"], ["bent"]),
        helper.make_node("Reshape", ["bent", "shape"], ["output"]),
    )
    tensors = (graphs.constant("flat", [-1, HIDDEN]), graphs.constant("shape", [-1, WINDOW, HIDDEN]))
    proto = graphs.tagger(time=WINDOW, after=after, tensors=tensors)
    model = load(proto, tmp_path)
    assert model.network.answering[0].role == "steps"
    row = series(WINDOW)["input"]
    np.testing.assert_allclose(outputs(run(model, [Sequence(row, "steps")])[0]), own(proto, row), atol=1e-5)


@pytest.mark.parametrize(("told", "has"), [("steps", "no axis of time"), ("final", "the axis of time")])
def test_a_role_that_the_graph_contradicts_is_refused(tmp_path: Path, told: str, has: str) -> None:
    after = () if told == "final" else (helper.make_node("Gather", ["steps", "end"], ["output"], axis=1),)
    proto = graphs.tagger(after=after, tensors=(graphs.constant("end", -1),))
    assert has in refusal(proto, tmp_path, {"outputs": {"output": {"role": told}}}).reason
