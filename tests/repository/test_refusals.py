"""What cannot be served is refused by name, with the remedy and, where it helps, the model.json to start from."""

import json
import os
from pathlib import Path
from typing import Any

import graphs
import numpy as np
import onnx
import onnxruntime
import pytest
from conftest import outputs, run, run_alone
from onnx import helper

from elman.engine.sequence import Sequence
from elman.errors import ModelRefused
from elman.repository.model import Model
from elman.repository.model_file import load_model
from elman.repository.repository import Repository
from elman.repository.spec import parse_spec


def load(proto: onnx.ModelProto, folder: Path, spec: dict[str, Any] | None = None) -> Model:
    path = graphs.save(proto, folder)
    if spec is not None:
        (folder / "model.json").write_text(json.dumps(spec))
    return load_model(path, "model", 1)


def refusal(proto: onnx.ModelProto, folder: Path, spec: dict[str, Any] | None = None) -> ModelRefused:
    with pytest.raises(ModelRefused) as caught:
        load(proto, folder, spec)
    assert caught.value.remedy, f"no remedy: {caught.value}"
    return caught.value


def own_answers(proto: onnx.ModelProto, feeds: dict[str, Any]) -> dict[str, Any]:
    """What ONNX Runtime itself answers, by the name of each output."""
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


def starts_from(refused: ModelRefused) -> dict[str, Any]:
    """The model.json that a refusal prints, which must be a valid one."""
    assert refused.template is not None, f"no model.json to start from: {refused}"
    parse_spec(json.dumps(refused.template), "model.json")
    return dict(refused.template)


def test_the_plain_graph_that_these_tests_break_is_served(tmp_path: Path) -> None:
    assert load(graphs.tagger(), tmp_path).proof.exact


# The time axis


def frozen_by_a_reshape(time: int | str) -> onnx.ModelProto:
    frozen = graphs.constant("shape", [-1, 7, graphs.HIDDEN])
    after = (helper.make_node("Reshape", ["steps", "shape"], ["output"], name="view"),)
    return graphs.tagger(time=time, after=after, tensors=(frozen,))


def test_a_time_axis_declared_free_and_frozen_by_a_reshape(tmp_path: Path) -> None:
    refused = refusal(frozen_by_a_reshape("time"), tmp_path)
    assert "frozen" in refused.reason
    assert "view" in str(refused.node)
    assert "dynamic" in str(refused.remedy)


@pytest.mark.parametrize(
    ("producer", "remedy"), [("pytorch", "x.shape"), ("tf2onnx", "TimeDistributed"), ("another", "batch and time")]
)
def test_the_remedy_is_the_exporters_own(producer: str, remedy: str, tmp_path: Path) -> None:
    proto = frozen_by_a_reshape("time")
    proto.producer_name = producer
    assert remedy in str(refusal(proto, tmp_path).remedy)


def test_a_time_axis_declared_fixed_is_served_as_a_window(tmp_path: Path) -> None:
    model = load(frozen_by_a_reshape(7), tmp_path)
    assert model.network.window == 7
    row = np.random.default_rng(0).standard_normal((7, graphs.FEATURES)).astype(np.float32)
    plain = load(graphs.tagger(), tmp_path / "plain")
    np.testing.assert_array_equal(run_alone(model, row, "steps"), run_alone(plain, row, "steps"))


def test_a_network_unrolled_to_the_examples_length(tmp_path: Path) -> None:
    """What torch.onnx.export makes of nn.RNN: a MatMul and a Tanh for each step of the example."""
    rng = np.random.default_rng(0)
    tensors = [
        graphs.constant("w", rng.standard_normal((graphs.FEATURES, graphs.HIDDEN)), np.float32),
        graphs.constant("r", rng.standard_normal((graphs.HIDDEN, graphs.HIDDEN)) * 0.3, np.float32),
        graphs.constant("h0", np.zeros((1, graphs.HIDDEN)), np.float32),
    ]
    nodes, h, steps = [], "h0", []
    for t in range(5):
        tensors.append(graphs.constant(f"t{t}", t))
        nodes += [
            helper.make_node("Gather", ["input", f"t{t}"], [f"x{t}"], axis=1, name=f"step_{t}"),
            helper.make_node("MatMul", [f"x{t}", "w"], [f"xw{t}"]),
            helper.make_node("MatMul", [h, "r"], [f"hr{t}"]),
            helper.make_node("Add", [f"xw{t}", f"hr{t}"], [f"s{t}"]),
            helper.make_node("Tanh", [f"s{t}"], [f"h{t + 1}"]),
        ]
        h = f"h{t + 1}"
        steps.append(f"u{t}")
        tensors.append(graphs.constant(f"a{t}", [1]))
        nodes.append(helper.make_node("Unsqueeze", [h, f"a{t}"], [f"u{t}"]))
    nodes.append(helper.make_node("Concat", steps, ["output"], axis=1, name="all_steps"))
    inputs = [graphs.value("input", ["batch", "time", graphs.FEATURES])]
    refused = refusal(graphs.model(nodes, inputs, [graphs.value("output", None)], tensors), tmp_path)
    assert "frozen" in refused.reason
    assert refused.node
    assert "nn.RNN" in str(refused.remedy)
    # The same graph that says so itself is served for what it is.
    inputs = [graphs.value("input", ["batch", 5, graphs.FEATURES])]
    proto = graphs.model(nodes, inputs, [graphs.value("output", None)], tensors)
    model = load(proto, tmp_path)
    assert model.network.window == 5
    row = rng.standard_normal((5, graphs.FEATURES)).astype(np.float32)
    np.testing.assert_array_equal(run_alone(model, row, "steps"), own_answers(proto, {"input": row[None]})["output"][0])


def test_a_sequence_without_an_axis_of_rows(tmp_path: Path) -> None:
    add = helper.make_node("Unsqueeze", ["input", "zero"], ["given"])
    proto = graphs.tagger(before=(add,), tensors=(graphs.constant("zero", [0]),))
    del proto.graph.input[:]
    proto.graph.input.append(graphs.value("input", ["first", "second"]))
    refused = refusal(proto, tmp_path)
    assert f"a step has {graphs.FEATURES} features" in refused.reason
    assert "(batch, time, features)" in str(refused.remedy)
    assert refused.template is None, "one step of features does not serve it either"


# What looks ahead


def convolution(kernel: int, pads: list[int]) -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    kernels = rng.standard_normal((graphs.FEATURES, graphs.FEATURES, kernel)) * 0.5
    before = (
        helper.make_node("Transpose", ["input"], ["channels"], perm=[0, 2, 1]),
        helper.make_node("Conv", ["channels", "kernels"], ["mixed"], name="look", pads=pads, kernel_shape=[kernel]),
        helper.make_node("Transpose", ["mixed"], ["given"], perm=[0, 2, 1]),
    )
    return graphs.tagger(before=before, tensors=(graphs.constant("kernels", kernels, np.float32),))


def attention() -> onnx.ModelProto:
    after = (
        helper.make_node("Transpose", ["steps"], ["keys"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["steps", "keys"], ["scores"], name="attend"),
        helper.make_node("Softmax", ["scores"], ["shares"], axis=-1),
        helper.make_node("MatMul", ["shares", "steps"], ["output"]),
    )
    return graphs.tagger(after=after)


def normalisation() -> onnx.ModelProto:
    before = (
        helper.make_node("ReduceMean", ["input"], ["mean"], axes=[1], keepdims=1, name="over_time"),
        helper.make_node("Sub", ["input", "mean"], ["given"]),
    )
    return graphs.tagger(before=before)


@pytest.mark.parametrize(
    ("proto", "named"),
    [
        (convolution(3, [1, 1]), "look"),
        (convolution(3, [2, 0]), "look"),
        (attention(), "attend"),
        (normalisation(), "over_time"),
        (graphs.tagger(direction="reverse"), "reverse"),
    ],
    ids=["convolution", "causal-convolution", "attention", "mean-over-time", "reverse"],
)
def test_what_looks_past_a_step_is_served_whole_and_the_card_says_why(
    tmp_path: Path, proto: onnx.ModelProto, named: str
) -> None:
    proof = load(proto, tmp_path).proof
    assert not proof.streaming
    assert not proof.chunked
    assert named in str(proof.reason), f"the reason does not name the node: {proof.reason}"


# State


def test_an_ambiguous_state_pair(tmp_path: Path) -> None:
    refused = refusal(graphs.mixing_cell(("left", "right"), ("one", "two")), tmp_path)
    assert "could be" in refused.reason
    assert "left" in str(refused.node)
    template = starts_from(refused)
    assert {state["input"] for state in template["state"]} == {"left", "right"}
    assert len({state["output"] for state in template["state"]}) == 2


def test_the_model_json_to_start_from_serves_an_ambiguous_state_pair(tmp_path: Path) -> None:
    proto = graphs.mixing_cell(("left", "right"), ("one", "two"))
    template = starts_from(refusal(proto, tmp_path))
    model = load(proto, tmp_path, template)
    assert [(state.input, state.output) for state in model.network.states] == [("left", "one"), ("right", "two")]


def test_names_tell_state_pairs_apart_whatever_their_order(tmp_path: Path) -> None:
    model = load(graphs.mixing_cell(("b", "a"), ("a_out", "b_out")), tmp_path)
    assert {(state.input, state.output) for state in model.network.states} == {("a", "a_out"), ("b", "b_out")}


# Inputs


def test_two_inputs_with_a_value_a_step_are_both_given_by_the_request(tmp_path: Path) -> None:
    before = (helper.make_node("Sub", ["input", "other"], ["given"]),)
    other = graphs.value("other", ["batch", "time", graphs.FEATURES])
    proto = graphs.tagger(before=before, extra=(other,))
    model = load(proto, tmp_path)
    assert [(one.name, one.role) for one in model.network.inputs] == [("input", "sequence"), ("other", "sequence")]
    rows = np.random.default_rng(0).standard_normal((2, 9, graphs.FEATURES)).astype(np.float32)
    found = outputs(run(model, [Sequence(rows[0], "steps", further=(rows[1],))])[0])
    expected = own_answers(proto, {"input": rows[:1], "other": rows[1:]})["output"][0]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_an_extra_scalar_input_asks_for_its_constant(tmp_path: Path) -> None:
    after = (helper.make_node("Mul", ["steps", "gain"], ["output"]),)
    proto = graphs.tagger(after=after, extra=(graphs.value("gain", []),))
    template = starts_from(refusal(proto, tmp_path))
    assert template["input"]["name"] == "input"
    assert set(template["constants"]) == {"gain"}
    model = load(proto, tmp_path, {**template, "constants": {"gain": 2.0}})
    assert model.proof.exact


def test_a_constant_for_an_input_that_is_not_there(tmp_path: Path) -> None:
    refused = refusal(graphs.tagger(), tmp_path, {"constants": {"gian": 1.0}})
    assert "'gian'" in refused.reason
    assert "'input'" in str(refused.remedy)


@pytest.mark.parametrize("given", ["loud", [1, 2, 3], {"a": 1}, None])
def test_a_constant_that_does_not_fit_its_input(tmp_path: Path, given: Any) -> None:
    after = (helper.make_node("Mul", ["steps", "gain"], ["output"]),)
    proto = graphs.tagger(after=after, extra=(graphs.value("gain", [1]),))
    refused = refusal(proto, tmp_path, {"constants": {"gain": given}})
    assert "gain" in str(refused)


# Operators


def test_layout_1(tmp_path: Path) -> None:
    refused = refusal(graphs.tagger(layout=1), tmp_path)
    assert "layout=1" in refused.reason
    assert "lstm_0" in str(refused.node)
    assert "layout=0" in str(refused.remedy)


def test_an_output_that_is_a_list(tmp_path: Path) -> None:
    proto = graphs.tagger(after=(helper.make_node("SequenceConstruct", ["steps"], ["output"]),))
    listed = helper.make_tensor_sequence_value_info("output", onnx.TensorProto.FLOAT, None)
    proto.graph.output[0].CopyFrom(listed)
    refused = refusal(proto, tmp_path)
    assert "'output' is a list" in refused.reason
    assert "torch.stack" in str(refused.remedy)


def test_an_unknown_domain(tmp_path: Path) -> None:
    after = (helper.make_node("Wobble", ["steps"], ["output"], name="odd", domain="com.example"),)
    refused = refusal(graphs.tagger(after=after, domains=("com.example",)), tmp_path)
    assert "com.example" in refused.reason
    assert "odd" in str(refused.node)


def test_an_unknown_operator(tmp_path: Path) -> None:
    after = (helper.make_node("Wobble", ["steps"], ["output"], name="odd"),)
    refused = refusal(graphs.tagger(after=after), tmp_path)
    assert "odd" in str(refused) or "Wobble" in str(refused)


# Files


@pytest.mark.parametrize("kept", [0, 1, 100, -1, -20])
def test_a_truncated_file(tmp_path: Path, kept: int) -> None:
    path = graphs.save(graphs.tagger(), tmp_path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ModelRefused) as caught:
        load_model(path, "model", 1)
    assert "model.onnx" in str(caught.value)
    assert caught.value.remedy


def outside(folder: Path) -> tuple[Path, bytes]:
    """A file beside the model's folder that holds weights which would do."""
    tensor = next(one for one in graphs.tagger().graph.initializer if one.name == "W")
    secret = folder.parent / "secret.bin"
    secret.write_bytes(tensor.raw_data)
    return secret, tensor.raw_data


@pytest.mark.parametrize(
    "way", ["parent", "absolute", "symlink", "symlinked-folder", "hardlink", "missing", "folder", "fifo", "backslash"]
)
def test_external_data_that_leaves_the_folder(tmp_path: Path, way: str) -> None:
    folder = tmp_path / "model" / "1"
    folder.mkdir(parents=True)
    secret, _ = outside(folder)
    location = "data.bin"
    if way == "parent":
        location = "../secret.bin"
    elif way == "backslash":
        location = "..\\secret.bin"
    elif way == "absolute":
        location = str(secret)
    elif way == "symlink":
        (folder / location).symlink_to(secret)
    elif way == "symlinked-folder":
        (folder / "sub").symlink_to(secret.parent)
        location = "sub/secret.bin"
    elif way == "hardlink":
        os.link(secret, folder / location)
    elif way == "folder":
        (folder / location).mkdir()
    elif way == "fifo":
        os.mkfifo(folder / location)
    refused = refusal(graphs.externalise(graphs.tagger(), "W", location), folder)
    assert "'W'" in refused.reason
    assert "folder of the model" in str(refused.remedy)


def test_external_data_in_the_models_own_folder_is_read(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    _, content = outside(tmp_path / "sub")
    (tmp_path / "sub" / "w.bin").write_bytes(content)
    inside = load(graphs.externalise(graphs.tagger(), "W", "sub/w.bin"), tmp_path)
    plain = load(graphs.tagger(), tmp_path / "plain")
    row = np.random.default_rng(0).standard_normal((9, graphs.FEATURES)).astype(np.float32)
    assert run_alone(inside, row, "steps").tobytes() == run_alone(plain, row, "steps").tobytes()


def test_external_data_that_is_too_short(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(b"\0" * 10)
    refused = refusal(graphs.externalise(graphs.tagger(), "W", "w.bin"), tmp_path)
    assert "'W'" in refused.reason


# Specs


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("{", "model.json"),
        ("[]", "model.json"),
        ('{"tasks": "raw"}', "tasks"),
        ('{"task": "dance"}', "task"),
        ('{"outputs": ["nowhere"]}', "nowhere"),
        ('{"state": [{"input": "h", "output": "output"}]}', "'h'"),
        ('{"input": {"size": 9}}', "9"),
        ('{"decoder": {"kind": "labels", "labels": ["a"]}}', "labels"),
    ],
)
def test_a_model_json_that_does_not_fit(tmp_path: Path, text: str, named: str) -> None:
    path = graphs.save(graphs.tagger(), tmp_path)
    (tmp_path / "model.json").write_text(text)
    with pytest.raises(ModelRefused) as caught:
        load_model(path, "model", 1)
    assert named in str(caught.value)


def test_every_other_model_is_served(tmp_path: Path) -> None:
    graphs.save(graphs.tagger(layout=1), tmp_path / "bad" / "1")
    graphs.save(graphs.tagger(), tmp_path / "good" / "1")
    graphs.save(graphs.tagger(), tmp_path / "both" / "1")
    (tmp_path / "both" / "2").mkdir()
    (tmp_path / "both" / "2" / "model.onnx").write_bytes(b"nothing")
    repository = Repository(tmp_path)
    repository.load()
    assert {(model.name, model.version) for model in repository} == {("good", 1), ("both", 1)}
    assert {(refused.name, refused.version) for refused in repository.refusals} == {("bad", 1), ("both", 2)}


def test_an_output_of_text_is_left_out_where_model_json_says_so(tmp_path: Path) -> None:
    proto = graphs.tagger()
    proto.graph.node.append(helper.make_node("Cast", ["output"], ["words"], to=onnx.TensorProto.STRING))
    proto.graph.output.append(graphs.value("words", None, onnx.TensorProto.STRING))
    refused = refusal(proto, tmp_path / "text")
    assert "'words' is text" in refused.reason
    model = load(proto, tmp_path / "numbers", starts_from(refused))
    assert [one.role for one in model.network.answers] == ["steps", "unused"]
