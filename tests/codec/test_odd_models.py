"""Requests to models of a shape that is not shipped: one feature, no unknown token, an output that is not finite."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.reference import Array, float32, model, same_bits
from tests.running import STORE, RunningServer, running_server

HIDDEN = 4


def gru(features: int, big: float = 0.0) -> bytes:
    """An ordinary `nn.GRU` with a head of two outputs, its state in and out, weights from a seed.

    `big` times the input is added to the outputs.
    """
    generator = np.random.default_rng(0)

    def weights(name: str, *shape: int) -> onnx.TensorProto:
        return numpy_helper.from_array((generator.standard_normal(shape) * 0.5).astype(np.float32), name)

    head = numpy_helper.from_array(np.ones((HIDDEN, 2), np.float32), "head")
    tensors = [
        weights("W", 1, 3 * HIDDEN, features), weights("R", 1, 3 * HIDDEN, HIDDEN), weights("B", 1, 6 * HIDDEN), head,
        numpy_helper.from_array(np.array([1], np.int64), "one"), numpy_helper.from_array(np.float32([big]), "big"),
    ]  # fmt: skip
    nodes = [
        helper.make_node("Transpose", ["input"], ["x"], perm=[1, 0, 2]),
        helper.make_node("GRU", ["x", "W", "R", "B", "", "h"], ["y", "h_out"], hidden_size=HIDDEN),
        helper.make_node("Squeeze", ["y", "one"], ["s"]),
        helper.make_node("Transpose", ["s"], ["t"], perm=[1, 0, 2]),
        helper.make_node("MatMul", ["t", "head"], ["scores" if big else "output"]),
    ]
    if big:
        nodes += [
            helper.make_node("Mul", ["input", "big"], ["passed"]),
            helper.make_node("Add", ["scores", "passed"], ["output"]),
        ]
    kind = TensorProto.FLOAT
    inputs = [
        helper.make_tensor_value_info("input", kind, ["batch", "time", features]),
        helper.make_tensor_value_info("h", kind, [1, "batch", HIDDEN]),
    ]
    outputs = [
        helper.make_tensor_value_info("output", kind, ["batch", "time", 2]),
        helper.make_tensor_value_info("h_out", kind, [1, "batch", HIDDEN]),
    ]
    graph = helper.make_graph(nodes, "gru", inputs, outputs, tensors)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.checker.check_model(proto)
    return proto.SerializeToString()


def run_alone(content: bytes, sequence: Array) -> Array:
    session = ort.InferenceSession(content, providers=["CPUExecutionProvider"])
    feeds = {"input": sequence[None], "h": np.zeros((1, 1, HIDDEN), np.float32)}
    rows: Array = session.run(["output"], feeds)[0][0]
    return rows


def put(root: Path, name: str, content: bytes, spec: dict) -> None:
    folder = root / name / "1"
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(content)
    (folder / "model.json").write_text(json.dumps(spec))


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    root = tmp_path_factory.mktemp("odd")
    values = {"kind": "values", "mean": [10.0, -10.0], "std": [2.0, 0.5]}
    put(root, "signal", gru(1), {"task": "forecasting", "decoder": values})
    put(root, "huge", gru(1, big=1e10), {})
    put(root, "plain", gru(2), {})
    put(root, "short-mean", gru(1), {"decoder": {"kind": "values", "mean": [0.0] * 3, "std": [1.0] * 3}})
    shutil.copytree(STORE / "names-gru", root / "strict-names")
    spec = model("names-gru").spec.dump()
    del spec["input"]["unknown"]
    (root / "strict-names" / "1" / "model.json").write_text(json.dumps(spec))
    with running_server(root) as one:
        yield one


SIGNAL = [0.5, -1.0, 2.0, 0.25]


@pytest.mark.parametrize("given", [SIGNAL, [[value] for value in SIGNAL], [0.5, [-1.0], 2.0, [0.25]]])
def test_steps_of_one_feature_may_be_plain_numbers(odd: RunningServer, given: list) -> None:
    response = odd.predict("signal", sequence=given, **{"return": "steps"})
    assert response.status_code == 200, response.text
    wanted = run_alone(gru(1), np.array(SIGNAL, np.float32)[:, None])
    (result,) = response.json()["results"]
    assert same_bits(float32(result["outputs"]), wanted)


@pytest.mark.parametrize("given", [[[0.5], -1.0, 2.0], [[0.5], [1.0], 3.0]])
def test_rows_may_be_followed_by_plain_numbers(odd: RunningServer, given: list) -> None:
    response = odd.predict("signal", sequence=given)
    assert response.status_code in (200, 422), response.text


@pytest.mark.parametrize(
    ("given", "code", "where"),
    [
        ([0.5, [1.0, 2.0]], "ragged_features", "sequence[1]"),
        ([[1.0, 2.0], [1.0, 2.0]], "wrong_features", "sequence[0]"),
        ([0.5, 1e39], "not_finite", "sequence[1][0]"),
        ([0.5, "a"], "invalid_field", "sequence[1]"),
        ([], "empty_sequence", "sequence"),
    ],
)
def test_faults_of_a_plain_signal_are_placed(odd: RunningServer, given: list, code: str, where: str) -> None:
    response = odd.predict("signal", sequence=given)
    assert response.status_code == 422, response.text
    assert (response.json()["code"], response.json()["where"]) == (code, where)


def test_plain_numbers_are_no_steps_of_several_features(odd: RunningServer) -> None:
    response = odd.predict("plain", sequence=[1.0, 2.0])
    assert response.status_code == 422
    assert response.json()["where"] == "sequence[0]"


@pytest.mark.parametrize("returns", ["final", "steps"])
def test_values_are_decoded_into_the_units_of_the_data(odd: RunningServer, returns: str) -> None:
    (result,) = odd.predict("signal", sequence=SIGNAL, **{"return": returns}).json()["results"]
    outputs = np.array(result["output" if returns == "final" else "outputs"], np.float64)
    np.testing.assert_allclose(result["decoded"], outputs * [2.0, 0.5] + [10.0, -10.0], rtol=1e-6)


def test_a_model_without_a_decoder_gives_its_outputs_alone(odd: RunningServer) -> None:
    (result,) = odd.predict("plain", sequence=[[1.0, 2.0]]).json()["results"]
    assert set(result) == {"length", "output"}


def test_an_output_that_is_not_finite_is_said_to_be_and_travels_in_binary(odd: RunningServer) -> None:
    response = odd.predict("huge", sequence=[5.0, 1e30])
    assert (response.status_code, response.json()["code"]) == (500, "not_finite_output")
    assert response.json()["where"] == "sequence"
    response = odd.client.post(
        "/v1/models/huge/predict", json={"sequence": [5.0, 1e30]}, headers={"accept": "application/octet-stream"}
    )
    assert response.status_code == 200
    wanted = run_alone(gru(1, big=1e10), np.array([[5.0], [1e30]], np.float32))[-1]
    assert not np.isfinite(wanted).all()
    np.testing.assert_array_equal(np.frombuffer(response.content, "<f4"), wanted)


def test_a_character_outside_the_vocabulary_is_placed_where_no_token_stands_for_it(odd: RunningServer) -> None:
    response = odd.predict("strict-names", sequences=["abc", "a漢c"])
    assert (response.status_code, response.json()["code"]) == (422, "unknown_token")
    assert response.json()["where"] == "sequences[1][1]"
    assert odd.predict("strict-names", sequences=["abc"]).status_code == 200


def test_a_text_for_a_model_of_features_is_refused(odd: RunningServer) -> None:
    response = odd.predict("plain", sequence="abc")
    assert (response.status_code, response.json()["code"]) == (422, "invalid_field")


def test_a_spec_whose_units_do_not_fit_the_output_is_refused_at_load_or_never_fails(odd: RunningServer) -> None:
    response = odd.predict("short-mean", sequence=SIGNAL)
    assert response.status_code in (200, 404), response.text
