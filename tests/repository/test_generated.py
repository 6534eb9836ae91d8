"""Random graphs around a recurrent cell: every answer is ONNX Runtime's own on that sequence alone, or a refusal."""

import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import graphs
import numpy as np
import onnx
import pytest
from conftest import queue_of, run_in
from hypothesis import HealthCheck, given, settings
from random_graphs import FEATURES, LAYERS, Build, Made, cell, graphs_of_many_kinds
from truth import Array, Given, Truth, served

from elman.engine.sequence import Return
from elman.errors import ModelRefused
from elman.repository.model import Model
from elman.repository.model_file import load_model

EXAMPLES = int(os.environ.get("ELMAN_GRAPH_EXAMPLES", "50"))
LENGTHS = (9, 1, 9, 40, 9, 4, 17, 130)
PIECES = (1, 5, 1, 60, 1000)


def loaded(proto: onnx.ModelProto) -> Model | None:
    with TemporaryDirectory() as folder:
        try:
            return load_model(graphs.save(proto, Path(folder)), "generated", 1)
        except ModelRefused as refused:
            assert "the server itself fails" not in refused.reason, refused
            assert "the file is broken" not in refused.reason, refused
            return None


def free_axes(made: Made) -> None:
    """Free the first axes of every input: ONNX Runtime minds what is declared, also where the graph takes any."""
    for value in made.proto.graph.input:
        dims = value.type.tensor_type.shape.dim
        axes = range(3) if value.name in ("input", "other") else [1] if value.name == "h0" else range(2)
        for axis in axes:
            if axis < len(dims) and not (value.name in ("input", "other") and made.order[axis] == 2):
                dims[axis].dim_param = f"{value.name}_{axis}"


def own(made: Made, truth: Truth, network: Any, one: Given) -> dict[str, Array] | None:
    """ONNX Runtime's answers to one sequence alone; None where it fails on it."""
    feeds = {network.input: one.data[None].transpose(made.order)}
    feeds |= {name: value[None].transpose(made.order) for name, value in one.further.items()}
    feeds |= {name: value[None] for name, value in one.statics.items()}
    for port in network.inputs:
        if port.role == "lengths":
            feeds[port.name] = np.array([len(one.data)])
        elif port.role == "mask":
            feeds[port.name] = np.full((1, len(one.data)), bool(port.valid))
        elif port.role == "state":
            feeds[port.name] = np.zeros((port.shape[0] or 1, 1, port.shape[1] or 1), np.float32)
    try:
        answers = truth.answers(feeds)
    except Exception:  # onnxruntime raises classes of its own, with no common base
        return None
    found = {}
    for port in network.answering:
        whole = answers[port.name]
        if port.role == "steps":
            whole = whole.transpose(np.argsort(made.turned[port.name])[: whole.ndim])[0]
        found[port.name] = whole.reshape(len(whole) if port.role == "steps" else 1, -1)
    return found


def drawn(network: Any) -> list[Given]:
    """Sequences of many lengths, one of zeros and two that end in zeros."""
    rng = np.random.default_rng(5)

    def draw(shape: tuple[int | None, ...], dtype: Any = np.float32, ids: int | None = None) -> Array:
        sizes = [extent or 4 for extent in shape]
        if np.dtype(dtype).kind in "iub":
            return rng.integers(0, ids or 2, sizes).astype(dtype)
        return rng.standard_normal(sizes).astype(dtype)

    asked = [
        Given(
            draw((length, network.features)),
            {one.name: draw((length, *one.shape)) for one in network.further},
            {one.name: draw(one.shape, one.dtype, one.vocabulary_size) for one in network.statics},
        )
        for length in ([network.window] * 3 if network.window else LENGTHS)
    ]
    asked[1].data[:] = 0
    for at in {3 % len(asked), len(asked) - 1}:
        asked[at].data[len(asked[at].data) // 2 :] = 0
    return asked


def check(what: str, network: Any, right: dict[str, Array] | None, answer: dict[str, Array] | None, all: bool) -> None:
    if right is None:
        assert answer is None, f"{what}: it answers what ONNX Runtime fails on"
        return
    assert answer is not None, f"{what}: it fails"
    for port in network.answering:
        steps = port.role == "steps"
        whole, found = right[port.name], answer[port.name]
        if not (all and steps):
            whole, found = whole[-1:], found[-1:]
        assert len(found) == len(whole), f"{what}: {port.name} has {len(found)} rows"
        np.testing.assert_allclose(found, whole, atol=2e-5, rtol=1e-4, err_msg=f"{what}: {port.name}")


def in_pieces(model: Model, one: Given, returns: Return) -> dict[str, Array]:
    """The answers of a session that is given a few steps at a time."""
    queue, state, at, found = queue_of(model), None, 0, list[dict[str, Array]]()
    for length in PIECES:
        if at >= len(one.data):
            break
        further = {name: value[at : at + length] for name, value in one.further.items()}
        sequence = Given(one.data[at : at + length], further, one.statics).sequence(model, returns)
        sequence.state, sequence.keep_state = state, True
        run_in(queue, [sequence])
        state, at = sequence.final_state, at + length
        blocks = [sequence.outputs, *sequence.head_outputs]
        found.append({p.name: np.concatenate(rows) for p, rows in zip(model.network.answering, blocks, strict=True)})
    return {port.name: np.concatenate([one[port.name] for one in found]) for port in model.network.answering}


def check_bits(what: str, model: Model, asked: list[Given], cut: list[dict[str, Array] | None]) -> None:
    """What is called exact has the bits that each sequence has alone and whole."""
    for one, answer in zip(asked, cut, strict=True):
        (whole,) = served(model, [one], "final", max_chunk=1000)
        assert (whole is None) == (answer is None), f"{what}: {len(one.data)} steps"
        for name in whole or {}:
            ends = [values[name][-1:].tobytes() for values in (whole, answer) if values is not None]
            assert len(set(ends)) == 1, f"{what}: {name} is not exact for {len(one.data)} steps"


@pytest.mark.slow
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(graphs_of_many_kinds())
def test_every_answer_is_that_of_the_sequence_alone_or_the_file_is_refused(made: Made) -> None:
    model = loaded(made.proto)
    if made.streams:
        assert model is not None and model.proof.streaming and model.network.ragged, made.what
    if made.opposed:
        assert model is None, f"{made.what}: the names of its axes are wrong"
    if model is None:
        return
    network = model.network
    if network.window is None:
        free_axes(made)
    truth, asked = Truth(made.proto), drawn(network)
    rights = [own(made, truth, network, one) for one in asked]
    ways: list[tuple[Return, dict[str, int]]] = [
        ("final", {"max_chunk": 4}),
        ("steps", {"max_chunk": 4}),
        ("steps", {}),
    ]
    for returns, policy in ways:
        if returns == "steps" and network.outputs == "last":
            continue
        answers = served(model, asked, returns, **policy)
        for one, right, answer in zip(asked, rights, answers, strict=True):
            check(f"{made.what}, {len(one.data)} steps", network, right, answer, returns == "steps")
        if returns == "final" and model.proof.exact:
            check_bits(made.what, model, asked, answers)
    if model.proof.streaming:
        returns = "final" if network.outputs == "last" else "steps"
        for one, right in zip(asked, rights, strict=True):
            answer = in_pieces(model, one, returns)
            check(f"{made.what}, {len(one.data)} steps in pieces", network, right, answer, returns == "steps")


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_the_plain_ones_are_served(kind: str) -> None:
    build = Build()
    build.outputs.append(build.add("Identity", cell(build, kind, "input", "forward")))
    inputs = [graphs.value("input", ["batch", "time", FEATURES])]
    proto = graphs.model(build.nodes, inputs, [graphs.value(build.outputs[0], None)], build.tensors)
    model = loaded(proto)
    assert model is not None
    assert model.proof.exact


def test_the_features_are_not_read_as_steps_where_the_declared_steps_fail() -> None:
    """The lengths count the steps of the data, and a strided convolution leaves fewer of them."""
    build = Build()
    build.extra.append(graphs.value("lengths", ["batch"], onnx.TensorProto.INT64))
    y = cell(build, "LSTM", LAYERS["strided-convolution"](build, "input", FEATURES), "forward")
    at = build.add("Unsqueeze", build.add("Sub", "lengths", build.const(1)), build.const([1]))
    build.outputs.append(build.add("GatherND", y, at, batch_dims=1))
    inputs = [graphs.value("input", ["batch", 9, FEATURES]), *build.extra]
    proto = graphs.model(build.nodes, inputs, [graphs.value(build.outputs[0], None)], build.tensors)
    assert loaded(proto) is None
