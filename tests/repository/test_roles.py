"""Every input and output has a role, and what combines rows or steps is found in the graph: right, or refused."""

from pathlib import Path
from typing import Any

import graphs
import numpy as np
import onnx
import pytest
from onnx import NodeProto, TensorProto, helper
from test_refusals import load, refusal
from truth import Array, Given, Truth, served

from elman.repository.model import Model

FEATURES, HIDDEN = graphs.FEATURES, graphs.HIDDEN


def roles(model: Model) -> dict[str, str]:
    return {one.name: one.role for one in (*model.network.inputs, *model.network.answers)}


def rows(*lengths: int, seed: int = 0, width: int = FEATURES) -> list[Array]:
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((length, width)).astype(np.float32) for length in lengths]


def holds(model: Model, proto: onnx.ModelProto, data: list[Array], **feeds: Any) -> None:
    """Every output of every sequence, among the others, is ONNX Runtime's own on that sequence alone.

    `feeds` are the further inputs of the file: values for each sequence, without the batch, or a function of its data.
    """
    truth, network = Truth(proto), model.network
    given, expected = [], []
    for at, row in enumerate(data):
        own = {name: np.asarray(of(row) if callable(of) else of[at]) for name, of in feeds.items()}
        further = {one.name: own[one.name] for one in network.further}
        given.append(Given(row, further, {one.name: own[one.name] for one in network.statics}))
        expected.append(truth.answers({network.input: row[None], **{n: value[None] for n, value in own.items()}}))
    for returns in ("final", "steps"):
        for answer, right in zip(served(model, given, returns, max_chunk=4), expected, strict=True):
            assert answer is not None
            for one in network.answering:
                found, whole = answer[one.name], right[one.name][0]
                if one.role == "steps" and returns == "final":
                    whole = whole[-1:]
                if one.role == "final" and network.outputs == "last" and returns == "steps":
                    continue
                last = found[-1:] if one.role == "final" else found
                np.testing.assert_allclose(last, whole.reshape(last.shape), atol=1e-5)


# The axis of the batch is not taken for that of time


def scan(steps: int | str, batch: int | str = "batch", axis: int = 1) -> onnx.ModelProto:
    """(batch, time, features) through a cell in a Scan, which is what is left of a scripted one."""
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["xw"]),
            helper.make_node("MatMul", ["h", "r"], ["hr"]),
            helper.make_node("Add", ["xw", "hr"], ["sum"]),
            helper.make_node("Tanh", ["sum"], ["next"]),
            helper.make_node("Identity", ["next"], ["y"]),
        ],
        "cell",
        [graphs.value("h", None), graphs.value("x", None)],
        [graphs.value("next", None), graphs.value("y", None)],
    )
    rng = np.random.default_rng(0)
    tensors = [
        graphs.constant("w", rng.standard_normal((FEATURES, HIDDEN)), np.float32),
        graphs.constant("r", rng.standard_normal((HIDDEN, HIDDEN)) * 0.5, np.float32),
        graphs.constant("zero", 0),
        graphs.constant("width", [HIDDEN]),
    ]
    nodes = [
        helper.make_node("Shape", ["input"], ["sizes"]),
        helper.make_node("Gather", ["sizes", "zero"], ["rows"]),
        helper.make_node("Reshape", ["rows", "one"], ["rows1"]),
        helper.make_node("Concat", ["rows1", "width"], ["shape"], axis=0),
        helper.make_node("ConstantOfShape", ["shape"], ["h0"]),
        helper.make_node(
            "Scan", ["h0", "input"], ["hn", "output"], body=body, num_scan_inputs=1, name="recur",
            scan_input_axes=[axis], scan_output_axes=[axis],
        ),
    ]  # fmt: skip
    tensors.append(graphs.constant("one", [1]))
    inputs = [graphs.value("input", [batch, steps, FEATURES])]
    return graphs.model(nodes, inputs, [graphs.value("output", None)], tensors)


def test_a_free_batch_beside_a_fixed_time_is_not_taken_for_time(tmp_path: Path) -> None:
    proto = scan(6)
    model = load(proto, tmp_path)
    holds(model, proto, rows(6, 6, 6))
    declared = scan(6, "unk_1")
    holds(load(declared, tmp_path / "unnamed"), declared, rows(6, 6))


# State is paired by name and structure, never by shape alone


def test_a_mask_as_wide_as_an_output_is_an_input_of_each_step(tmp_path: Path) -> None:
    after = (helper.make_node("Mul", ["steps", "action_mask"], ["output"]),)
    before = (helper.make_node("Identity", ["input"], ["given"]),)
    mask = graphs.value("action_mask", ["batch", "time", HIDDEN])
    proto = graphs.tagger(before=before, after=after, extra=(mask,), states=("h0", "c0"), finals=("hn", "cn"))
    found = roles(load(proto, tmp_path))
    assert found == {
        "input": "sequence", "action_mask": "sequence", "h0": "state", "c0": "state",
        "output": "steps", "hn": "state", "cn": "state",
    }  # fmt: skip


def stepping(other: str, output: str) -> onnx.ModelProto:
    """A step (batch, features) with a state `h_in`, and a second input that is as wide as the output."""
    rng = np.random.default_rng(0)
    tensors = [
        graphs.constant("w", rng.standard_normal((FEATURES, HIDDEN)), np.float32),
        graphs.constant("r", rng.standard_normal((HIDDEN, HIDDEN)) * 0.5, np.float32),
    ]
    nodes = [
        helper.make_node("MatMul", ["input", "w"], ["xw"]),
        helper.make_node("MatMul", ["h_in", "r"], ["hr"]),
        helper.make_node("Add", ["xw", "hr"], ["sum"]),
        helper.make_node("Tanh", ["sum"], ["h_out"]),
        helper.make_node("Mul", ["h_out", other], [output]),
    ]
    wide = ["batch", HIDDEN]
    inputs = [graphs.value("input", ["batch", FEATURES]), graphs.value(other, wide), graphs.value("h_in", wide)]
    return graphs.model(nodes, inputs, [graphs.value(output, wide), graphs.value("h_out", wide)], tensors)


@pytest.mark.parametrize(("other", "output"), [("action_mask", "probs"), ("prev_action", "action"), ("prior", "score")])
def test_an_input_that_only_has_the_shape_of_an_output_is_no_state(tmp_path: Path, other: str, output: str) -> None:
    found = roles(load(stepping(other, output), tmp_path))
    assert (found[other], found["h_in"], found[output], found["h_out"]) == ("sequence", "state", "steps", "state")


# What a refusal suggests


def masked(valid: int | None, upstream: bool = False) -> onnx.ModelProto:
    """A mean over the steps that a mask (batch, time) does not leave out; `upstream` it is read by the cell too."""
    keep = [] if valid else [helper.make_node("Not", ["mask"], ["kept"])]
    keep += [helper.make_node("Cast", ["mask" if valid else "kept"], ["numbers"], to=TensorProto.FLOAT)]
    before = [*keep, helper.make_node("Unsqueeze", ["numbers", "last"], ["weights"])]
    before.append(helper.make_node("Mul" if upstream else "Identity", ["input", "weights"][: 1 + upstream], ["given"]))
    after = (
        helper.make_node("Mul", ["steps", "weights"], ["weighed"]),
        helper.make_node("ReduceSum", ["weighed", "one"], ["sum"], keepdims=0, name="pool"),
        helper.make_node("ReduceSum", ["weights", "one"], ["count"], keepdims=0),
        helper.make_node("Div", ["sum", "count"], ["output"]),
    )
    mask = graphs.value("mask", ["batch", "time"], TensorProto.BOOL)
    return graphs.tagger(before=tuple(before), after=after, extra=(mask,), tensors=(graphs.constant("last", [-1]),))


@pytest.mark.parametrize("valid", [0, 1])
def test_a_mask_is_filled_by_the_server_with_its_own_polarity(tmp_path: Path, valid: int) -> None:
    proto = masked(valid)
    model = load(proto, tmp_path)
    assert [(one.name, one.valid) for one in model.network.masks] == [("mask", valid)]
    holds(model, proto, rows(5, 9, 5, 17), mask=lambda row: np.full(len(row), bool(valid)))


def test_a_mask_that_may_be_a_feature_is_refused_with_a_model_json_that_serves(tmp_path: Path) -> None:
    proto = masked(1, upstream=True)
    refused = refusal(proto, tmp_path)
    assert refused.template == {"inputs": {"mask": {"role": "mask", "valid": 1}}}
    model = load(proto, tmp_path, refused.template)
    holds(model, proto, rows(5, 9), mask=lambda row: np.ones(len(row), bool))
    given = load(proto, tmp_path, {"inputs": {"mask": {"role": "sequence"}}})
    pattern = [np.arange(5) % 2 == 0, np.arange(9) % 3 == 0]
    holds(given, proto, rows(5, 9), mask=pattern)


def test_no_value_is_suggested_for_what_each_sequence_has_its_own_of(tmp_path: Path) -> None:
    after = (helper.make_node("Mul", ["steps", "gain"], ["output"]),)
    for dims in ([1], []):
        refused = refusal(graphs.tagger(after=after, extra=(graphs.value("gain", dims),)), tmp_path)
        assert refused.template is not None
        assert refused.template["constants"] == {"gain": None}
    scale = graphs.value("gain", ["batch", 1, HIDDEN])
    proto = graphs.tagger(after=after, extra=(scale,))
    model = load(proto, tmp_path)
    assert roles(model)["gain"] == "static"
    holds(model, proto, rows(3, 8, 5), gain=[np.full((1, HIDDEN), value, np.float32) for value in (1, 2, 3)])


# What mixes time


def last_of_found_length() -> onnx.ModelProto:
    """The step before the first padding, which the graph finds by itself: rows that are not all zeros."""
    after = (
        helper.make_node("ReduceMax", ["magnitude"], ["largest"], axes=[2], keepdims=0),
        helper.make_node("Sign", ["largest"], ["real"]),
        helper.make_node("ReduceSum", ["real", "one"], ["count"], keepdims=1, name="count_steps"),
        helper.make_node("Sub", ["count", "unit"], ["at"]),
        helper.make_node("Cast", ["at"], ["index"], to=TensorProto.INT64),
        helper.make_node("GatherND", ["steps", "index"], ["output"], batch_dims=1),
    )
    before = (helper.make_node("Identity", ["input"], ["given"]), helper.make_node("Abs", ["input"], ["magnitude"]))
    unit = graphs.constant("unit", 1, np.float32)
    return graphs.tagger(before=before, after=after, tensors=(unit,))


def node(operator: str, *inputs: str, name: str = "mixer", **attributes: Any) -> tuple[NodeProto, ...]:
    return (helper.make_node(operator, [*inputs], ["given"], name=name, **attributes),)


def table(values: Any, dtype: Any = np.int64) -> TensorProto:
    return graphs.constant("table", values, dtype)


@pytest.mark.parametrize(
    ("before", "tensors", "named"),
    [
        (node("CumSum", "input", "table"), (table(1),), "mixer"),
        (node("Softmax", "input", axis=1), (), "mixer"),
        (node("Pad", "input", "table"), (table([0, 1, 0, 0, 0, 0]),), "mixer"),
        (
            node("Slice", "input", "table", "end", "axis"),
            (table([-100]), graphs.constant("end", [2**31 - 1]), graphs.constant("axis", [1])),
            "mixer",
        ),
        (
            node("Slice", "input", "table", "end", "axis"),
            (table([0]), graphs.constant("end", [40]), graphs.constant("axis", [1])),
            "mixer",
        ),
        (
            (
                helper.make_node("Shape", ["input"], ["sizes"], start=1, end=2),
                helper.make_node("Cast", ["sizes"], ["length"], to=TensorProto.FLOAT),
                *node("Div", "input", "length"),
            ),
            (),
            "mixer",
        ),
        (
            (
                helper.make_node("ReduceMax", ["input"], ["most"], axes=[1], keepdims=1, name="mixer"),
                helper.make_node("Sub", ["input", "most"], ["given"]),
            ),
            (),
            "mixer",
        ),
    ],
    ids=["running-sum", "softmax", "padding", "last-hundred", "first-forty", "length", "maximum"],
)
def test_what_combines_steps_is_named_and_run_whole(
    tmp_path: Path, before: tuple[NodeProto, ...], tensors: tuple[TensorProto, ...], named: str
) -> None:
    proto = graphs.tagger(before=before, tensors=tensors)
    model = load(proto, tmp_path)
    assert (model.proof.chunked, model.proof.streaming) == (False, False)
    assert named in str(model.proof.reason)
    holds(model, proto, rows(150, 3, 99, 101, 150, 3))


def test_padding_that_the_graph_finds_is_its_own(tmp_path: Path) -> None:
    proto = last_of_found_length()
    model = load(proto, tmp_path)
    assert not model.proof.chunked
    assert "count_steps" in str(model.proof.reason)
    data = rows(100, 100, 7)
    data[0][50:] = 0
    data[2][3:] = 0
    holds(model, proto, data)


def test_what_combines_the_rows_of_a_batch_runs_alone(tmp_path: Path) -> None:
    before = (
        helper.make_node("ReduceMean", ["input"], ["mean"], axes=[0], keepdims=1, name="over_rows"),
        helper.make_node("Sub", ["input", "mean"], ["half"]),
        helper.make_node("Add", ["half", "input"], ["given"]),
    )
    proto = graphs.tagger(before=before)
    model = load(proto, tmp_path)
    assert model.proof.batched == "alone"
    assert "over_rows" in str(model.proof.reason)
    holds(model, proto, rows(5, 9, 5))


# Outputs


def test_further_outputs_are_heads(tmp_path: Path) -> None:
    after = (
        helper.make_node("Identity", ["steps"], ["output"]),
        helper.make_node("ReduceSum", ["steps", "last"], ["value"], keepdims=1),
        helper.make_node("Gather", ["steps", "minus"], ["intent"], axis=1),
    )
    tensors = (
        graphs.constant("last", [2]),
        graphs.constant("minus", -1),
        graphs.constant("version", [3.0], np.float32),
    )
    proto = graphs.tagger(after=(*after, helper.make_node("Identity", ["version"], ["number"])), tensors=tensors)
    proto.graph.output.extend([graphs.value(name, None) for name in ("value", "intent", "number")])
    model = load(proto, tmp_path)
    assert {name: role for name, role in roles(model).items() if name != "input"} == {
        "output": "steps", "value": "steps", "intent": "final", "number": "unused",
    }  # fmt: skip
    holds(model, proto, rows(5, 1, 30, 12))
    chosen = load(proto, tmp_path, {"outputs": ["value"]})
    assert chosen.network.output_names == ("value",)
    left = load(proto, tmp_path, {"outputs": {"intent": {"role": "unused"}}})
    assert left.network.output_names == ("output", "value")


# Axes


@pytest.mark.parametrize("dims", [["batch", FEATURES, "time"], [None, FEATURES, None]], ids=["named", "unnamed"])
def test_features_may_come_before_time(tmp_path: Path, dims: list[Any]) -> None:
    before = (helper.make_node("Transpose", ["input"], ["given"], perm=[0, 2, 1]),)
    proto = graphs.tagger(before=before)
    proto.graph.input[0].CopyFrom(graphs.value("input", dims))
    model = load(proto, tmp_path)
    assert model.proof.batched == "ragged"
    (row,) = rows(9)
    (answer,) = served(model, [Given(row)], "steps")
    assert answer is not None
    expected = Truth(proto).answers({"input": row.T[None].copy()})["output"][0]
    np.testing.assert_allclose(answer["output"], expected, atol=1e-6)


def test_a_sequence_of_single_numbers(tmp_path: Path) -> None:
    wide = graphs.constant("wide", np.ones((1, FEATURES)), np.float32)
    before = (
        helper.make_node("Unsqueeze", ["input", "end"], ["column"]),
        helper.make_node("MatMul", ["column", "wide"], ["given"]),
    )
    proto = graphs.tagger(before=before, tensors=(wide, graphs.constant("end", [2])))
    for dims in (["batch", "time"], ["batch", 12]):
        proto.graph.input[0].CopyFrom(graphs.value("input", dims))
        model = load(proto, tmp_path)
        assert model.network.features == 1
        (row,) = rows(12, width=1)
        (answer,) = served(model, [Given(row)], "steps")
        assert answer is not None
        np.testing.assert_allclose(answer["output"], Truth(proto).answers({"input": row.T})["output"][0], atol=1e-6)


# Other floats


@pytest.mark.parametrize("kind", [TensorProto.DOUBLE, TensorProto.BFLOAT16, TensorProto.FLOAT16])
def test_floats_of_other_sizes_are_served_as_float32(tmp_path: Path, kind: int) -> None:
    plain = graphs.tagger()
    other = onnx.ModelProto()
    other.CopyFrom(plain)
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    rounded = graphs.tagger()
    for one, same in zip(other.graph.initializer, rounded.graph.initializer, strict=True):
        if one.data_type == TensorProto.FLOAT:
            value = onnx.numpy_helper.to_array(one).astype(dtype)
            one.CopyFrom(onnx.numpy_helper.from_array(value, one.name))
            same.CopyFrom(onnx.numpy_helper.from_array(value.astype(np.float32), one.name))
    for value in (*other.graph.input, *other.graph.output):
        value.type.tensor_type.elem_type = kind
    model = load(other, tmp_path)
    assert model.network.input_dtype == np.float32
    holds(model, rounded, rows(5, 1, 30))


def unrolled(steps: int, *, carries: bool) -> onnx.ModelProto:
    """A cell of MatMul and Tanh, (1, steps, features) to (1, steps, hidden), as torch unrolls nn.RNN."""
    rng = np.random.default_rng(0)
    tensors = [
        graphs.constant("w", rng.standard_normal((FEATURES, HIDDEN)), np.float32),
        graphs.constant("r", rng.standard_normal((HIDDEN, HIDDEN)) * 0.3, np.float32),
        graphs.constant("h_first", np.zeros((1, HIDDEN)), np.float32),
        graphs.constant("one", [1]),
    ]
    nodes, h, outputs = [], "h_in" if carries else "h_first", []
    for t in range(steps):
        tensors.append(graphs.constant(f"t{t}", t))
        nodes += [
            helper.make_node("Gather", ["input", f"t{t}"], [f"x{t}"], axis=1),
            helper.make_node("MatMul", [f"x{t}", "w"], [f"xw{t}"]),
            helper.make_node("MatMul", [h, "r"], [f"hr{t}"]),
            helper.make_node("Add", [f"xw{t}", f"hr{t}"], [f"s{t}"]),
            helper.make_node("Tanh", [f"s{t}"], [f"h{t}"]),
            helper.make_node("Unsqueeze", [f"h{t}", "one"], [f"u{t}"]),
        ]
        h, outputs = f"h{t}", [*outputs, f"u{t}"]
    nodes.append(helper.make_node("Concat", outputs, ["output"], axis=1))
    inputs = [graphs.value("input", [1, steps, FEATURES])]
    results = [graphs.value("output", [1, steps, HIDDEN])]
    if carries:
        nodes.append(helper.make_node("Identity", [h], ["h_out"]))
        inputs.append(graphs.value("h_in", [1, HIDDEN]))
        results.append(graphs.value("h_out", [1, HIDDEN]))
    return graphs.model(nodes, inputs, results, tensors)


def test_a_file_of_one_step_and_a_state_is_stepped(tmp_path: Path) -> None:
    proto = unrolled(1, carries=True)
    model = load(proto, tmp_path)
    assert model.network.layout == "step" and model.proof.streaming
    (row,) = rows(6)
    h, expected = np.zeros((1, HIDDEN), np.float32), []
    for step in row:
        answers = Truth(proto).answers({"input": step[None, None], "h_in": h})
        h = answers["h_out"]
        expected.append(answers["output"][0, 0])
    (found,) = served(model, [Given(row)], "steps")
    assert found is not None
    np.testing.assert_array_equal(found["output"], expected)


def test_a_file_that_is_fixed_in_every_axis_is_a_window_of_the_order_that_it_has(tmp_path: Path) -> None:
    proto = unrolled(5, carries=False)
    model = load(proto, tmp_path)
    assert (model.network.window, model.network.features) == (5, FEATURES)
    holds(model, proto, rows(5))


def drawing(*outputs: str) -> onnx.ModelProto:
    """A policy's head: the mean of each step, and a sample around it."""
    proto = graphs.tagger(
        after=(
            helper.make_node("RandomNormalLike", ["steps"], ["noise"], name="sampler"),
            helper.make_node("Add", ["steps", "noise"], ["sampled"]),
            helper.make_node("Identity", ["steps"], ["mean"]),
        )
    )
    del proto.graph.output[:]
    proto.graph.output.extend(graphs.value(name, None) for name in outputs)
    return proto


def test_an_output_that_is_drawn_at_random_is_left_out(tmp_path: Path) -> None:
    proto = drawing("sampled", "mean")
    model = load(proto, tmp_path)
    assert roles(model) == {"input": "sequence", "mean": "steps", "sampled": "unused"}
    assert "'sampler' draws it" in next(one.found for one in model.network.answers if one.name == "sampled")
    assert model.proof.batched == "ragged"
    holds(model, proto, rows(5, 1, 30))


@pytest.mark.parametrize("spec", [None, {"outputs": ["sampled"]}])
def test_an_answer_that_is_drawn_at_random_is_refused(spec: dict[str, Any] | None, tmp_path: Path) -> None:
    refused = refusal(drawing("sampled", *(["mean"] if spec else [])), tmp_path, spec)
    assert "drawn at random" in refused.reason
    assert "sampler" in str(refused.node)


def test_a_file_exported_in_training_mode_is_refused(tmp_path: Path) -> None:
    dropout = helper.make_node("Dropout", ["steps", "ratio", "training"], ["output"], name="drop")
    tensors = graphs.constant("ratio", 0.5, np.float32), graphs.constant("training", True, np.bool_)
    assert "training mode" in str(refusal(graphs.tagger(after=(dropout,), tensors=tensors), tmp_path).remedy)
