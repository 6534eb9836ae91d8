"""Where a sequence starts, what is paired over a step, and files that are made for one row or for few steps."""

from pathlib import Path

import graphs
import numpy as np
import onnx
import pytest
from onnx import helper
from test_refusals import load, refusal
from test_roles import holds, roles, rows

FEATURES, HIDDEN = graphs.FEATURES, graphs.HIDDEN


def test_what_starts_a_cell_and_is_not_named_as_a_state_is_given_with_each_request(tmp_path: Path) -> None:
    """Such as what an encoder makes of a picture: from zeros the answers would be others."""
    before = (
        helper.make_node("Identity", ["input"], ["given"]),
        helper.make_node("Unsqueeze", ["picture", "zero"], ["start"]),
    )
    picture = graphs.value("picture", ["batch", HIDDEN])
    proto = graphs.tagger(
        "GRU", states=("start",), before=before, extra=(picture,), tensors=(graphs.constant("zero", [0]),)
    )
    del proto.graph.input[1]  # the graph makes it
    model = load(proto, tmp_path)
    assert roles(model)["picture"] == "static"
    holds(model, proto, rows(5, 9, 1), picture=[row[0] for row in rows(1, 1, 1, seed=2, width=HIDDEN)])


def test_what_starts_a_cell_and_is_named_as_a_state_starts_from_zeros(tmp_path: Path) -> None:
    assert roles(load(graphs.tagger("GRU", states=("h0",)), tmp_path))["h0"] == "state"


def test_a_file_whose_rows_follow_each_other_as_steps_is_run_one_row_at_a_time(tmp_path: Path) -> None:
    """A Reshape to one row, as torch writes `x.view(1, -1, features)`."""
    before = (helper.make_node("Reshape", ["input", "one_row"], ["given"]),)
    proto = graphs.tagger(before=before, tensors=(graphs.constant("one_row", [1, -1, FEATURES]),))
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    model = load(proto, tmp_path)
    assert model.network.max_rows == 1
    holds(model, proto, rows(5, 9, 1))


def test_a_file_of_one_sequence_without_an_axis_of_rows_is_refused_if_it_has_two_inputs(tmp_path: Path) -> None:
    before = (
        helper.make_node("Add", ["input", "offset"], ["moved_on"]),
        helper.make_node("Unsqueeze", ["moved_on", "zero"], ["given"]),
    )
    after = (helper.make_node("Squeeze", ["steps", "zero"], ["output"]),)
    extra = (graphs.value("offset", ["time", graphs.FEATURES]),)
    proto = graphs.tagger(before=before, after=after, tensors=(graphs.constant("zero", [0]),), extra=extra)
    del proto.graph.input[0].type.tensor_type.shape.dim[0]
    assert "a step has 3 features: there is no axis of rows" in refusal(proto, tmp_path).reason


def test_an_output_may_have_fewer_steps_than_the_data_and_none(tmp_path: Path) -> None:
    """The first steps of a context are left out, so that a short sequence has no answer."""
    numbers = {"start": [3], "end": [2**31 - 1], "axis": [1]}
    after = (helper.make_node("Slice", ["steps", *numbers], ["output"]),)
    proto = graphs.tagger(after=after, tensors=tuple(graphs.constant(name, of) for name, of in numbers.items()))
    model = load(proto, tmp_path)
    assert model.network.own_clock and not model.proof.streaming
    holds(model, proto, rows(5, 9, 40))


@pytest.mark.parametrize("after", ["ctxn", "ctx_out"])
def test_states_of_one_shape_are_paired_by_their_names(tmp_path: Path, after: str) -> None:
    proto = graphs.mixing_cell(("h", "ctx"), ("hn", after))
    pairs = {state.input: state.output for state in load(proto, tmp_path).network.states}
    assert pairs == {"h": "hn", "ctx": after}


def attending() -> onnx.ModelProto:
    """A step of a decoder that gives its attention to each step of its memory, whose number is free."""
    nodes = [
        helper.make_node("Unsqueeze", ["h", "last"], ["column"]),
        helper.make_node("MatMul", ["memory", "column"], ["scores"]),
        helper.make_node("Squeeze", ["scores", "last"], ["energies"]),
        helper.make_node("Softmax", ["energies"], ["attention"], axis=1),
        helper.make_node("Mul", ["scores", "memory"], ["weighed"]),
        helper.make_node("ReduceSum", ["weighed", "one"], ["context"], keepdims=0),
        helper.make_node("MatMul", ["input", "w"], ["given"]),
        helper.make_node("Sum", ["given", "context", "h"], ["sum"]),
        helper.make_node("Tanh", ["sum"], ["h_next"]),
        helper.make_node("Mul", ["h_next", "h_next"], ["output"]),
    ]
    wide = ["batch", HIDDEN]
    inputs = [("input", ["batch", FEATURES]), ("memory", ["batch", "memory_len", HIDDEN]), ("h", wide)]
    outputs = [("output", wide), ("h_next", wide), ("attention", ["batch", "memory_len"])]
    weight = graphs.constant("w", np.random.default_rng(0).standard_normal((FEATURES, HIDDEN)), np.float32)
    tensors = [weight, graphs.constant("last", [-1]), graphs.constant("one", [1])]
    values = [[graphs.value(name, dims) for name, dims in of] for of in (inputs, outputs)]
    return graphs.model(nodes, *values, tensors)


def test_a_weight_for_each_step_of_a_memory_is_no_state_and_can_be_left_out(tmp_path: Path) -> None:
    refused = refusal(attending(), tmp_path / "as it is")
    assert "'attention' is as long as the input 'memory'" in refused.reason
    assert refused.template == {"outputs": {"attention": {"role": "unused"}}}
    found = roles(load(attending(), tmp_path, refused.template))
    assert (found["h"], found["h_next"], found["memory"], found["attention"]) == ("state", "state", "static", "unused")
