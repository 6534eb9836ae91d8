"""What holds for the whole sequence alone: a state or a length that reaches the answer, and steps of its own."""

from pathlib import Path
from typing import Any

import graphs
import numpy as np
import onnx
import pytest
from conftest import run_alone
from onnx import TensorProto, helper
from test_carried import carries_on
from test_refusals import load, refusal
from test_roles import holds, roles, rows
from truth import Truth

FEATURES, HIDDEN = graphs.FEATURES, graphs.HIDDEN
STATE = [1, "batch", HIDDEN]
LONG = (60, 4, 130, 9)


def answering(
    *nodes: Any, outputs: tuple[str, ...] = ("output",), finals: Any = ("hn",), extra: Any = (), states: Any = ()
) -> onnx.ModelProto:
    """(batch, time, features) through a GRU to "steps" and "hn"; `nodes` make the outputs of these."""
    tensors = [
        *graphs.weights("GRU"),
        *(graphs.constant(f"at{at}", [at]) for at in (-1, 0, 1, 2, 30)),
        *(graphs.constant(f"number{at}", at, np.float32) for at in (0.9, 1, 2, 5)),
        graphs.constant("fifty", 50),
        graphs.constant("end", 2**31 - 1),
        graphs.constant("last", -1),
    ]
    made = [
        helper.make_node("Transpose", ["input"], ["moved"], perm=[1, 0, 2]),
        graphs.recurrent("GRU", states=states, finals=finals),
        helper.make_node("Squeeze", ["y4", "at1"], ["y3"]),
        helper.make_node("Transpose", ["y3"], ["steps"], perm=[1, 0, 2]),
        *(helper.make_node(one[0], one[1], one[2], **(one[3] if len(one) > 3 else {})) for one in nodes),
    ]
    inputs = [graphs.value("input", ["batch", "time", FEATURES]), *extra]
    return graphs.model(made, inputs, [graphs.value(name, None) for name in outputs], tensors)


def is_whole(model: Any, node: str) -> None:
    """Such a file has no sessions, and the card names the node."""
    proof = model.proof
    assert (proof.chunked, proof.streaming, model.network.ragged) == (False, False, False), proof
    assert node in str(proof.reason)


def test_a_length_that_decides_past_every_probe(tmp_path: Path) -> None:
    proto = answering(
        ("Greater", ["lengths", "fifty"], ["long"], {"name": "is_long"}),
        ("Where", ["long", "number2", "number1"], ["factor"]),
        ("Unsqueeze", ["factor", "at1"], ["wide"]),
        ("Squeeze", ["hn", "at0"], ["h"]),
        ("Mul", ["h", "wide"], ["output"]),
        extra=[graphs.value("lengths", ["batch"], TensorProto.INT64)],
    )
    model = load(proto, tmp_path)
    assert roles(model)["lengths"] == "lengths"
    is_whole(model, "is_long")
    data = rows(*LONG)
    holds(model, proto, data, lengths=[np.array(len(row)) for row in data])


def test_a_state_that_reaches_the_answer_by_another_way(tmp_path: Path) -> None:
    proto = answering(
        ("Abs", ["h0"], ["size"], {"name": "size_of_state"}),
        ("Greater", ["size", "number0.9"], ["large"]),
        ("Where", ["large", "number5", "hn"], ["chosen"]),
        ("Squeeze", ["chosen", "at0"], ["output"]),
        outputs=("output",),
        states=("h0",),
        extra=[graphs.value("h0", STATE)],
    )
    proto.graph.output.append(graphs.value("hn", STATE))
    model = load(proto, tmp_path)
    assert roles(model)["h0"] == "state"
    is_whole(model, "size_of_state")


def test_a_state_that_is_moved_on_its_way_is_still_a_state(tmp_path: Path) -> None:
    """(batch, 1, hidden) of the author."""
    proto = answering(
        ("Transpose", ["hn"], ["turned_hn"], {"perm": [1, 0, 2]}),
        ("Tanh", ["steps"], ["output"]),
        states=("h",),
        extra=[graphs.value("h0", ["batch", 1, HIDDEN])],
    )
    proto.graph.node.insert(0, helper.make_node("Transpose", ["h0"], ["h"], perm=[1, 0, 2]))
    proto.graph.output.append(graphs.value("turned_hn", ["batch", 1, HIDDEN]))
    model = load(proto, tmp_path)
    assert (model.proof.exact, model.proof.streaming, model.proof.batched) == (True, True, "ragged"), model.proof
    carries_on(model, rows(9, 4, 40))


def test_an_output_whose_steps_end_at_a_number(tmp_path: Path) -> None:
    """Once the sequence is longer than that it has fewer steps, and no probe is so long."""
    proto = answering(
        ("Shape", ["input"], ["sizes"]),
        ("Slice", ["sizes", "at0", "at1"], ["rows"]),
        ("Slice", ["sizes", "at1", "at2"], ["all"]),
        ("Min", ["all", "at30"], ["few"]),
        ("Concat", ["rows", "few", "at1"], ["shape"], {"axis": 0}),
        ("Expand", ["wide", "shape"], ["repeated"], {"name": "repeat"}),
        ("Identity", ["steps"], ["output"]),
        outputs=("output", "repeated"),
        extra=[graphs.value("level", ["batch", 1])],
    )
    proto.graph.node.insert(0, helper.make_node("Unsqueeze", ["level", "at2"], ["wide"]))
    model = load(proto, tmp_path)
    assert [one.own_clock for one in model.network.answering] == [False, True]
    is_whole(model, "repeat")
    data = rows(*LONG)
    holds(model, proto, data, level=[row[0, :1] for row in data])


def test_the_places_of_a_pooling_count_through_the_batch(tmp_path: Path) -> None:
    proto = answering(
        ("MaxPool", ["steps"], ["most", "places"], {"kernel_shape": [2], "strides": [2], "name": "pool"}),
        outputs=("most", "places"),
    )
    proto.graph.output[1].type.tensor_type.elem_type = TensorProto.INT64
    model = load(proto, tmp_path)
    assert model.proof.batched == "alone"
    is_whole(model, "pool")
    holds(model, proto, rows(9, 9, 4))


def test_an_answer_that_the_optimisation_of_onnx_runtime_changes_is_refused(tmp_path: Path) -> None:
    """It makes a Slice of a Gather by a Range that counts down to 0, and the Slice is empty."""
    proto = answering(
        ("Shape", ["input"], ["sizes"]),
        ("Gather", ["sizes", "at1"], ["all"]),
        ("Squeeze", ["all"], ["count"]),
        ("Add", ["count", "last"], ["first"]),
        ("Range", ["first", "last", "last"], ["backwards"]),
        ("Gather", ["steps", "backwards"], ["turned"], {"axis": 1}),
        ("ReduceSum", ["turned", "at1"], ["output"]),
    )
    refused = refusal(proto, tmp_path)
    assert refused.reason.startswith("ONNX Runtime ")
    assert "when it optimises the graph" in refused.reason


@pytest.mark.parametrize("way", ["bidirectional", "pooled"])
def test_a_first_state_that_is_not_carried_is_zeros(tmp_path: Path, way: str) -> None:
    proto = answering(
        ("ReduceMean", ["steps"], ["output"], {"axes": [1], "keepdims": 0}),
        states=("h0",),
        finals=(),
        extra=[graphs.value("h0", STATE)],
    )
    if way == "bidirectional":
        proto = graphs.tagger("GRU", states=("h0",), direction="reverse")
    model = load(proto, tmp_path)
    assert roles(model)["h0"] == "state"
    assert not model.proof.streaming
    truth = Truth(proto)
    for row in rows(9, 4, 17):
        (expected,) = truth.answers({"input": row[None], "h0": np.zeros((1, 1, HIDDEN), np.float32)}).values()
        found = run_alone(model, row, "final")
        np.testing.assert_allclose(found[-1], expected.reshape(-1, HIDDEN)[-1], atol=1e-6)
