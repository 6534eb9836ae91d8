"""What the bits of an answer must not depend on: the place in a run, the sign of a probe, the rows beside it."""

from pathlib import Path

import graphs
import numpy as np
import pytest
from conftest import queue_of, run_alone
from onnx import ModelProto, helper
from test_refusals import load
from test_roles import holds, rows
from test_whole_only import answering
from truth import Array, Given, Truth, served

from elman.engine.sequence import Sequence
from elman.repository.model import Model

OPERATORS = ["Acos", "Asin", "Atan", "Celu", "Cos", "Elu", "Log", "Mish", "Selu", "Sin", "Softplus"]


def bits(model: Model, data: list[Array], **policy: int) -> list[bytes]:
    """Every output of every step of sequences that run together."""
    found = served(model, [Given(row) for row in data], "steps", **policy)
    return [b"".join(one[name].tobytes() for name in sorted(one or {})) if one else b"" for one in found]


def assert_alike(model: Model, data: list[Array]) -> None:
    """Every sequence has the same bits alone and among the others, whole and in chunks."""
    alone = bits(model, data, max_batch=1)
    for policy in ({"max_batch": 64, "max_chunk": 5}, {"max_batch": 1, "max_chunk": 1}):
        seen = bits(model, data, **policy)
        assert [len(row) for row, one, two in zip(data, alone, seen, strict=True) if one != two] == [], policy


def number_by_number(operator: str) -> ModelProto:
    """A GRU, and beside its steps what an operator makes of each feature of them, brought between 0 and 1."""
    proto = answering(
        ("Sigmoid", ["input"], ["share"]),
        (operator, ["share"], ["output"]),
        ("Identity", ["steps"], ["hidden"]),
        outputs=("output", "hidden"),
    )
    proto.opset_import[0].version = 18 if operator == "Mish" else 17
    return proto


@pytest.mark.parametrize("operator", OPERATORS)
def test_a_number_is_rounded_alike_in_every_place(tmp_path: Path, operator: str) -> None:
    proto = number_by_number(operator)
    model = load(proto, tmp_path)
    assert (model.proof.batched, model.proof.exact, model.proof.streaming) == ("ragged", True, True), model.proof
    data = rows(*range(1, 40))
    holds(model, proto, data[::7])
    assert_alike(model, data)


@pytest.mark.parametrize(
    ("operator", "numbers"), [("Celu", {"alpha": 0.5}), ("Elu", {"alpha": 0.5}), ("Selu", {"alpha": 1.2, "gamma": 0.7})]
)
def test_an_operator_keeps_its_own_numbers(tmp_path: Path, operator: str, numbers: dict[str, float]) -> None:
    """Also where no probe shows them: it is negative for large inputs alone, and there its numbers count."""
    proto = answering(("Add", ["input", "number5"], ["up"]), (operator, ["up"], ["output"], numbers))
    model = load(proto, tmp_path)
    holds(model, proto, [row * 100 for row in rows(1, 5, 17)])


@pytest.mark.parametrize("opset", [13, 17])
def test_an_operator_of_a_cell_rounds_alike_too(tmp_path: Path, opset: int) -> None:
    """Within a Scan that carries a state."""
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["xw"]),
            helper.make_node("Add", ["xw", "h"], ["sum"]),
            helper.make_node("Sin", ["sum"], ["next"]),
            helper.make_node("Identity", ["next"], ["y"]),
        ],
        "cell",
        [graphs.value("h", None), graphs.value("x", None)],
        [graphs.value("next", None), graphs.value("y", None)],
    )
    nodes = [
        helper.make_node("Slice", ["input", "zero", "one", "one"], ["first"]),
        helper.make_node("MatMul", ["first", "nothing"], ["wide"]),
        helper.make_node("Squeeze", ["wide", "one"], ["h0"]),
        helper.make_node(
            "Scan", ["h0", "input"], ["hn", "output"], body=body, num_scan_inputs=1, name="recur",
            scan_input_axes=[1], scan_output_axes=[1],
        ),
    ]  # fmt: skip
    rng = np.random.default_rng(0)
    tensors = [
        graphs.constant("w", rng.standard_normal((graphs.FEATURES, 5)), np.float32),
        graphs.constant("nothing", np.zeros((graphs.FEATURES, 5)), np.float32),
        graphs.constant("zero", [0]),
        graphs.constant("one", [1]),
    ]
    proto = graphs.model(
        nodes,
        [graphs.value("input", ["batch", "time", graphs.FEATURES])],
        [graphs.value("output", None)],
        tensors,
        opset=opset,
    )
    model = load(proto, tmp_path)
    data = rows(*range(1, 30))
    holds(model, proto, data[::7])
    assert_alike(model, data)


def test_what_is_for_positive_numbers_is_proved_with_some(tmp_path: Path) -> None:
    """A logarithm of probes of both signs is no number, which a GRU swallows, whatever is rounded on the way."""
    before = (
        helper.make_node("Log", ["input"], ["logs"]),
        helper.make_node("Transpose", ["logs"], ["channels"], perm=[0, 2, 1]),
        helper.make_node("Conv", ["channels", "kernel"], ["convolved"], name="conv"),
        helper.make_node("Transpose", ["convolved"], ["given"], perm=[0, 2, 1]),
    )
    kernel = graphs.constant("kernel", np.random.default_rng(0).standard_normal((3, 3, 1)), np.float32)
    after = (helper.make_node("Concat", ["given", "steps"], ["output"], axis=2),)
    model = load(graphs.tagger("GRU", before=before, after=after, tensors=(kernel,)), tmp_path)
    assert (model.proof.exact, model.proof.chunked, model.proof.streaming) == (False, False, True), model.proof
    assert 0 < model.proof.tolerance < 1e-5


@pytest.mark.parametrize("pick", ["hn", "last"])
def test_each_step_has_its_own_answer_if_the_graph_combines_rows(tmp_path: Path, pick: str) -> None:
    """As a softmax over the wrong axis does. Steps that are decoded together would be combined as rows are."""
    if pick == "hn":
        picked = ("Squeeze", ["hn", "at0"], ["h"])
    else:
        picked = ("Gather", ["steps", "last"], ["h"], {"axis": 1})
    proto = answering(picked, ("Softmax", ["h"], ["output"], {"axis": 0, "name": "over_rows"}))
    model = load(proto, tmp_path)
    assert model.proof.batched == "alone"
    assert "over_rows" in str(model.proof.reason)
    truth = Truth(proto)
    for row in rows(9, 1, 40):
        found = run_alone(model, row, "steps")
        right = np.concatenate([truth.answers({"input": row[None, : at + 1]})["output"] for at in range(len(row))])
        np.testing.assert_allclose(found[-1:], right[-1:], atol=1e-5)
        if len(found) == len(row):
            np.testing.assert_allclose(found, right, atol=1e-5)


# Graphs that take no short sequences


def test_a_gru_that_is_given_no_step_harms_that_sequence_alone(tmp_path: Path) -> None:
    """The differences of one step are none. ONNX Runtime would end the process."""
    before = (
        helper.make_node("Slice", ["input", "one", "end", "one"], ["later"]),
        helper.make_node("Slice", ["input", "zero", "minus", "one"], ["earlier"]),
        helper.make_node("Sub", ["later", "earlier"], ["given"]),
    )
    tensors = (graphs.constant("zero", [0]), graphs.constant("minus", [-1]), graphs.constant("end", [2**31 - 1]))
    proto = graphs.tagger("GRU", before=before, tensors=tensors)
    model = load(proto, tmp_path)
    holds(model, proto, rows(9, 2, 40))
    queue, sequences = queue_of(model), [Sequence(row, "final") for row in rows(9, 1, 4)]
    for sequence in sequences:
        queue.scheduler.add(sequence)
    while len(queue.scheduler):
        queue.iterate(0.0)
    assert [sequence.error is None for sequence in sequences] == [True, False, True]


@pytest.mark.parametrize("width", [3, 5, 20, 100])
def test_a_convolution_without_padding_takes_what_is_long_enough(tmp_path: Path, width: int) -> None:
    before = (
        helper.make_node("Transpose", ["input"], ["channels"], perm=[0, 2, 1]),
        helper.make_node("Conv", ["channels", "kernel"], ["convolved"], name="conv"),
        helper.make_node("Transpose", ["convolved"], ["given"], perm=[0, 2, 1]),
    )
    kernel = np.random.default_rng(0).standard_normal((graphs.FEATURES, graphs.FEATURES, width)) / width
    tensors = (graphs.constant("kernel", kernel, np.float32), graphs.constant("last", -1))
    after = (helper.make_node("Gather", ["steps", "last"], ["output"], axis=1),)
    proto = graphs.tagger("GRU", before=before, after=after, tensors=tensors)
    model = load(proto, tmp_path)
    assert (model.proof.batched, model.proof.streaming, model.network.window) == ("equal", False, None), model.proof
    assert "conv" in str(model.proof.reason)
    holds(model, proto, rows(width + 4, width, 3 * width, width + 4))
