"""Files as converters and people write them: nodes in any order, odd names, loops that stop, short sequences."""

from pathlib import Path

import graphs
import numpy as np
import onnx
import onnxruntime
import pytest
from conftest import queue_of, run_alone
from onnx import TensorProto, helper
from test_refusals import load, refusal
from test_roles import holds, rows
from test_whole_only import LONG, answering, is_whole
from truth import Given, Truth, served

from elman.engine.sequence import Return
from elman.errors import ModelFailed
from elman.repository.model_file import load_model


def backwards(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph with its last node first, which ONNX Runtime opens too."""
    nodes = list(proto.graph.node)[::-1]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    return proto


def reads_the_last_thirty_steps() -> onnx.ModelProto:
    """No probe is as long, so that the order of the nodes must not hide it from the analysis."""
    return answering(
        ("Slice", ["steps", "minus30", "end1", "at1"], ["cut"], {"name": "cut"}),
        ("ReduceMax", ["cut"], ["output"], {"axes": [1], "keepdims": 0, "name": "most"}),
    )


@pytest.mark.parametrize("order", ["sorted", "backwards"])
def test_the_order_of_the_nodes_hides_nothing(tmp_path: Path, order: str) -> None:
    proto = reads_the_last_thirty_steps()
    proto.graph.initializer.extend([graphs.constant("minus30", [-30]), graphs.constant("end1", [2**31 - 1])])
    if order == "backwards":
        proto = backwards(proto)
    model = load(proto, tmp_path)
    is_whole(model, "cut")
    holds(model, proto, rows(*LONG))


def test_a_plain_file_is_served_in_any_order_of_its_nodes(tmp_path: Path) -> None:
    """ONNX Runtime's own converter to float16 adds its casts at the end of the file."""
    proto = backwards(graphs.tagger("GRU"))
    model = load(proto, tmp_path)
    assert (model.proof.exact, model.proof.streaming, model.proof.batched) == (True, True, "ragged"), model.proof
    holds(model, proto, rows(1, 7, 40))


def test_a_name_that_the_server_keeps_for_itself(tmp_path: Path) -> None:
    proto = graphs.tagger("GRU")
    proto.graph.input[0].name = proto.graph.node[0].input[0] = "elman.lengths"
    refused = refusal(proto, tmp_path)
    assert "that begin with elman." in refused.reason
    assert "elman.lengths" in str(refused.node)


def looping(condition: bool) -> onnx.ModelProto:
    """A sum over the steps in a Loop, of every third step, or until it is larger than any probe is at first."""
    step = [
        helper.make_node("Mul", ["i", "stride"], ["at"]),
        helper.make_node("Gather", ["input", "at"], ["x"], axis=1),
        helper.make_node("MatMul", ["x", "w"], ["xw"]),
        helper.make_node("Add", ["h", "xw"], ["sum"]),
        helper.make_node("Tanh", ["sum"], ["next"]),
        helper.make_node("Less", ["i", "none"], ["short"]),
        helper.make_node("Identity", ["short" if condition else "go"], ["on"]),
    ]
    state = [graphs.value("h", None), graphs.value("next", None)]
    flags = [graphs.value(name, [], TensorProto.BOOL) for name in ("go", "on")]
    body = helper.make_graph(
        step, "body", [graphs.value("i", [], TensorProto.INT64), flags[0], state[0]], [flags[1], state[1]]
    )
    nodes = [
        helper.make_node("Shape", ["input"], ["sizes"]),
        helper.make_node("Gather", ["sizes", "axis"], ["count"]),
        helper.make_node("Add", ["count", "two"], ["more"]),
        helper.make_node("Div", ["more", "three"], ["trips"]),
        helper.make_node("Gather", ["input", "none"], ["first"], axis=1),
        helper.make_node("MatMul", ["first", "w"], ["wide"]),
        helper.make_node("Mul", ["wide", "nothing"], ["h0"]),
        helper.make_node("Loop", ["trips", "yes", "h0"], ["output"], body=body, name="loop"),
    ]
    weights = np.random.default_rng(0).standard_normal((graphs.FEATURES, graphs.HIDDEN))
    tensors = [
        graphs.constant("w", weights, np.float32),
        graphs.constant("nothing", 0, np.float32),
        graphs.constant("yes", True, np.bool_),
        *(graphs.constant(name, at) for name, at in {"none": 0, "axis": 1, "two": 2, "three": 3, "stride": 3}.items()),
    ]
    return graphs.model(
        nodes,
        [graphs.value("input", ["batch", "time", graphs.FEATURES])],
        [graphs.value("output", ["batch", graphs.HIDDEN])],
        tensors,
    )


def test_a_loop_that_stops_early_is_not_called_unrolled(tmp_path: Path) -> None:
    refused = refusal(looping(condition=True), tmp_path)
    assert "stops before the end" in refused.reason
    assert "a condition of its own is not served" in str(refused.remedy)


def test_a_loop_over_every_third_step_is_served(tmp_path: Path) -> None:
    """Of most lengths it does not read the last step, which an unrolled network never does."""
    proto = looping(condition=False)
    model = load(proto, tmp_path)
    is_whole(model, "loop")
    holds(model, proto, rows(1, 2, 3, 4, 11, 40))


@pytest.mark.parametrize("returns", ["final", "steps"])
def test_a_sequence_that_is_too_short_for_an_output_fails_alone(tmp_path: Path, returns: Return) -> None:
    """The second step, the fourth and so on: a sequence of one step has none of them."""
    proto = answering(("Slice", ["steps", "at1", "end1", "at1", "at2"], ["output"]))
    proto.graph.initializer.append(graphs.constant("end1", [2**31 - 1]))
    model = load(proto, tmp_path)
    queue = queue_of(model)
    short, long = (Given(row).sequence(model, returns) for row in rows(1, 4))
    for one in (short, long):
        queue.scheduler.add(one)
    while len(queue.scheduler):
        queue.iterate(0.0)
    assert long.error is None
    assert [len(block) for block in long.outputs] == [2 if returns == "steps" else 1]
    if returns == "steps":
        assert short.error is None
        assert [len(block) for block in short.outputs] == [0]
    else:
        assert isinstance(short.error, ModelFailed)
        assert "a sequence of length 1: it is too short" in str(short.error)


@pytest.mark.parametrize("role", ["sequence", "mask"])
def test_an_input_without_an_axis_of_time_cannot_have_a_value_for_each_step(tmp_path: Path, role: str) -> None:
    proto = answering(
        ("Squeeze", ["hn", "at0"], ["h"]),
        ("Unsqueeze", ["gain", "at1"], ["wide"]),
        ("Mul", ["h", "wide"], ["output"]),
        extra=[graphs.value("gain", ["batch"])],
    )
    refused = refusal(proto, tmp_path, {"inputs": {"gain": {"role": role}}})
    assert f"says that the input 'gain' is '{role}', but it has no axis of time" in refused.reason


def test_an_output_that_is_listed_twice_is_a_mistake_of_model_json(tmp_path: Path) -> None:
    refused = refusal(graphs.tagger(), tmp_path, {"outputs": ["output", "output"]})
    assert "outputs lists a name twice" in refused.reason


def test_a_model_json_of_an_editor_that_adds_a_byte_order_mark(tmp_path: Path) -> None:
    graphs.save(graphs.tagger(), tmp_path)
    (tmp_path / "model.json").write_text('{"task": "tagging"}', encoding="utf-8-sig")
    assert load_model(tmp_path / "model.onnx", "model", 1).spec.task == "tagging"


@pytest.mark.parametrize("kind", ["INT8", "UINT8", "INT4"])
def test_a_product_with_rounded_weights_has_the_answers_of_the_file(tmp_path: Path, kind: str) -> None:
    """ONNX Runtime would round what such weights are multiplied with, too, which the file does not say."""
    weights = np.random.default_rng(0).integers(0, 8, (graphs.HIDDEN, 6))
    head = (
        helper.make_node("DequantizeLinear", ["rounded", "scale"], ["weights"]),
        helper.make_node("MatMul", ["steps", "weights"], ["output"]),
    )
    rounded = helper.make_tensor("rounded", TensorProto.DataType.Value(kind), weights.shape, weights.reshape(-1))
    proto = graphs.tagger(after=head, tensors=(rounded, graphs.constant("scale", 0.07, np.float32)))
    proto.opset_import[0].version, proto.ir_version = 21, 10
    model = load(proto, tmp_path)
    assert (model.proof.batched, model.proof.streaming, model.proof.exact) == ("ragged", True, True)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    plain = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    for row in rows(1, 5, 9):
        (expected,) = plain.run(None, {"input": row[None]})
        np.testing.assert_allclose(run_alone(model, row, "steps"), expected[0], rtol=0, atol=1e-6)


def attending() -> onnx.ModelProto:
    """The output of each step, and the weights of attention to all steps, (batch, time, time)."""
    after = (
        helper.make_node("Transpose", ["steps"], ["turned"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["steps", "turned"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["weights"], axis=2),
        helper.make_node("MatMul", ["weights", "steps"], ["output"]),
    )
    proto = graphs.tagger(after=after)
    proto.graph.output.append(graphs.value("weights", None))
    return proto


def test_weights_of_attention_are_refused_with_a_model_json_that_serves_the_rest(tmp_path: Path) -> None:
    proto = attending()
    refused = refusal(proto, tmp_path)
    assert "of the output 'weights' is of another length in each run: 7 of 7 steps and 11 of 11 steps" in refused.reason
    assert refused.template == {"outputs": {"weights": {"role": "unused"}}}
    model = load(proto, tmp_path, refused.template)
    assert not model.proof.chunked
    holds(model, proto, rows(1, 4, 9))


def test_an_output_of_two_rows_for_each_step_is_refused_for_that(tmp_path: Path) -> None:
    after = (
        helper.make_node("Unsqueeze", ["steps", "at2"], ["single"]),
        helper.make_node("Concat", ["single", "single"], ["double"], axis=2),
        helper.make_node("Reshape", ["double", "shape"], ["output"]),
    )
    tensors = (graphs.constant("at2", [2]), graphs.constant("shape", [0, -1, graphs.HIDDEN]))
    refused = refusal(graphs.tagger(after=after, tensors=tensors), tmp_path)
    assert "axis 1 of the output 'output' is of another length in each run: 14 of 7 steps" in refused.reason


def test_the_lengths_of_a_reversal_are_filled_by_the_server(tmp_path: Path) -> None:
    before = helper.make_node("ReverseSequence", ["input", "count"], ["given"], batch_axis=0, time_axis=1)
    proto = graphs.tagger(before=(before,), extra=(graphs.value("count", ["batch"], TensorProto.INT64),))
    model = load(proto, tmp_path)
    assert {one.name: one.role for one in model.network.inputs}["count"] == "lengths"
    assert not model.proof.chunked
    truth, data = Truth(proto), rows(1, 5, 9, 5)
    found = served(model, [Given(row) for row in data], "steps")
    for row, answer in zip(data, found, strict=True):
        assert answer is not None
        right = truth.answers({"input": row[None], "count": np.array([len(row)])})["output"][0]
        np.testing.assert_allclose(answer["output"], right, atol=1e-6)
