"""Random graphs around a recurrent cell: every answer is ONNX Runtime's own on that sequence alone, or a refusal."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cells
import graphs
import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import NodeProto, TensorProto, helper
from truth import Array, Given, Truth, served

from elman.errors import ModelRefused
from elman.repository.model import Model
from elman.repository.model_file import load_model

EXAMPLES = int(os.environ.get("ELMAN_GRAPH_EXAMPLES", "50"))
FEATURES, HIDDEN = graphs.FEATURES, graphs.HIDDEN
LENGTHS = (9, 1, 9, 40, 9, 4, 17)


@dataclass
class Build:
    """A graph in the making. Tensors are (batch, time, ...) unless said otherwise."""

    nodes: list[NodeProto] = field(default_factory=list)
    tensors: list[TensorProto] = field(default_factory=list)
    extra: list[onnx.ValueInfoProto] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)

    def add(self, operator: str, *inputs: str, outputs: int = 1, **attributes: Any) -> str:
        name = f"{operator.lower()}{len(self.nodes)}"
        names = [name, *(f"{name}_{i}" for i in range(1, outputs))]
        self.nodes.append(helper.make_node(operator, [*inputs], names, name=f"n_{name}", **attributes))
        return name

    def const(self, array: Any, dtype: Any = np.int64) -> str:
        name = f"const{len(self.tensors)}"
        self.tensors.append(graphs.constant(name, array, dtype))
        return name

    def weight(self, *shape: int) -> str:
        rng = np.random.default_rng(len(self.tensors))
        return self.const(rng.standard_normal(shape) * 0.5, np.float32)


def slices(build: Build, x: str, start: int, end: int, step: int = 1) -> str:
    return build.add("Slice", x, *(build.const([value]) for value in (start, end, 1, step)))


def steps_of(build: Build, x: str) -> str:
    """The number of steps, as a float."""
    return build.add("Cast", build.add("Shape", x, start=1, end=2), to=TensorProto.FLOAT)


def convolved(build: Build, x: str, pads: list[int], width: int, **attributes: Any) -> str:
    channels = build.add("Transpose", x, perm=[0, 2, 1])
    mixed = build.add("Conv", channels, build.weight(width, width, 3), pads=pads, kernel_shape=[3], **attributes)
    return build.add("Transpose", mixed, perm=[0, 2, 1])


# (batch, time, width) to (batch, time, width); the steps may be fewer
LAYERS: dict[str, Any] = {
    "nothing": lambda b, x, w: x,
    "linear": lambda b, x, w: b.add("Tanh", b.add("MatMul", x, b.weight(w, w))),
    "flattened": lambda b, x, w: b.add(
        "Reshape", b.add("MatMul", b.add("Reshape", x, b.const([-1, w])), b.weight(w, w)), b.add("Shape", x)
    ),
    "softmax-features": lambda b, x, w: b.add("Softmax", x, axis=-1),
    "softmax-time": lambda b, x, w: b.add("Softmax", x, axis=1),
    "softmax-rows": lambda b, x, w: b.add("Softmax", x, axis=0),
    "minus-mean": lambda b, x, w: b.add("Sub", x, b.add("ReduceMean", x, axes=[1], keepdims=1)),
    "minus-mean-of-all": lambda b, x, w: b.add("Sub", x, b.add("ReduceMean", x, keepdims=1)),
    "layer-norm": lambda b, x, w: b.add("LayerNormalization", x, b.weight(w), axis=-1),
    "running-sum": lambda b, x, w: b.add("CumSum", x, b.const(1)),
    "convolution": lambda b, x, w: convolved(b, x, [1, 1], w),
    "causal-convolution": lambda b, x, w: convolved(b, x, [2, 0], w),
    "strided-convolution": lambda b, x, w: convolved(b, x, [1, 1], w, strides=[2]),
    "shifted": lambda b, x, w: slices(b, b.add("Pad", x, b.const([0, 1, 0, 0, 0, 0])), 0, -1),
    "last-ten": lambda b, x, w: slices(b, x, -10, 2**31 - 1),
    "first-thirty": lambda b, x, w: slices(b, x, 0, 30),
    "reversed": lambda b, x, w: slices(b, x, -1, -(2**31), -1),
    "per-step-count": lambda b, x, w: b.add("Div", x, steps_of(b, x)),
    "attention": lambda b, x, w: b.add(
        "MatMul", b.add("Softmax", b.add("MatMul", x, b.add("Transpose", x, perm=[0, 2, 1])), axis=-1), x
    ),
    "plus-last": lambda b, x, w: b.add("Add", x, slices(b, x, -1, 2**31 - 1)),
    "plus-first": lambda b, x, w: b.add("Add", x, slices(b, x, 0, 1)),
    "rescaled": lambda b, x, w: b.add("Div", x, b.add("ReduceMax", b.add("Abs", x), keepdims=1)),
    "swapped-and-back": lambda b, x, w: b.add("Transpose", b.add("Transpose", x, perm=[2, 0, 1]), perm=[1, 2, 0]),
}  # fmt: skip

APART = ["nothing", "linear", "flattened", "softmax-features", "layer-norm", "swapped-and-back"]

# (batch, time, width) to an answer for each sequence
HEADS: dict[str, Any] = {
    "last-gather": lambda b, x: b.add("Gather", x, b.const(-1), axis=1),
    "last-slice": lambda b, x: b.add("Squeeze", slices(b, x, -1, 2**31 - 1), b.const([1])),
    "first": lambda b, x: b.add("Gather", x, b.const(0), axis=1),
    "last-but-one": lambda b, x: b.add("Gather", x, b.const([-2]), axis=1),
    "mean": lambda b, x: b.add("ReduceMean", x, axes=[1], keepdims=0),
    "largest": lambda b, x: b.add("ReduceMax", x, axes=[1], keepdims=0),
    "steps": lambda b, x: x,
    "tops": lambda b, x: b.add("TopK", x, b.const([1]), outputs=2, axis=1),
}


def cell(build: Build, kind: str, x: str, direction: str) -> str:
    """(batch, time, features) through a recurrent node; (batch, time, width)."""
    prefix = f"cell{len(build.nodes)}."
    build.tensors += graphs.weights(kind, prefix)
    if direction == "bidirectional":
        for tensor in build.tensors[-3:]:
            both = np.concatenate([onnx.numpy_helper.to_array(tensor)] * 2)
            tensor.CopyFrom(onnx.numpy_helper.from_array(both, tensor.name))
    moved = build.add("Transpose", x, perm=[1, 0, 2])
    build.nodes.append(graphs.recurrent(kind, moved, finals=(f"{prefix}final",), prefix=prefix, direction=direction))
    width = HIDDEN * (2 if direction == "bidirectional" else 1)
    merged = build.add("Transpose", f"{prefix}y4", perm=[2, 0, 1, 3])
    return build.add("Reshape", merged, build.const([0, 0, width]))


def looped(build: Build, x: str, cell: str, form: str, first: str) -> str:
    """(batch, time, features) through a cell in a Loop or a Scan; (batch, time, hidden)."""
    if first == "data":
        nothing = build.add("Mul", build.add("Gather", x, build.const(0), axis=1), build.const(0, np.float32))
        first = build.add("MatMul", nothing, build.weight(FEATURES, HIDDEN))
    build.tensors += cells.tensors()
    build.nodes += cells.nodes(cell, form, first, x)
    return "output"


@st.composite
def graphs_of_many_kinds(draw: st.DrawFn) -> tuple[onnx.ModelProto, str, bool]:
    """A graph, what it is made of, and whether it is sure to have sessions."""
    build = Build()
    kind = draw(st.sampled_from(["LSTM", "GRU", "RNN", "loop", "loop"]))
    form, inner = draw(st.sampled_from(sorted(cells.FORMS))), draw(st.sampled_from(sorted(cells.CELLS)))
    first = draw(st.sampled_from(["zeros", "learned", "data"]))
    direction = draw(st.sampled_from(["forward", "forward", "bidirectional", "reverse"]))
    # Half of them keep steps apart, so that what is cut in chunks and batched ragged comes up as often as what is not.
    apart = draw(st.booleans())
    layers, ends = (APART, ["steps", "last-gather", "last-slice"]) if apart else (sorted(LAYERS), sorted(HEADS))
    before, after = draw(st.sampled_from(layers)), draw(st.sampled_from(layers))
    heads = draw(st.lists(st.sampled_from(ends), min_size=1, max_size=2))
    second = draw(st.sampled_from(["none", "none", "static", "sequence", "lengths", "mask"]))
    batch = draw(st.sampled_from(["batch", "batch", None, 1]))
    time = draw(st.sampled_from(["time", "time", None, 9]))
    x = LAYERS[before](build, "input", FEATURES)
    if second == "static":
        build.extra.append(graphs.value("static", [batch, FEATURES]))
        x = build.add("Add", x, build.add("Unsqueeze", "static", build.const([1])))
    elif second == "sequence":
        build.extra.append(graphs.value("other", [batch, time, FEATURES]))
        x = build.add("Mul", x, "other")
    y = looped(build, x, inner, form, first) if kind == "loop" else cell(build, kind, x, direction)
    y = LAYERS[after](build, y, HIDDEN * (2 if direction == "bidirectional" and kind != "loop" else 1))
    if second == "mask":
        build.extra.append(graphs.value("mask", [batch, time], TensorProto.BOOL))
        numbers = build.add("Cast", "mask", to=TensorProto.FLOAT)
        y = build.add("Mul", y, build.add("Unsqueeze", numbers, build.const([2])))
    elif second == "lengths":
        build.extra.append(graphs.value("lengths", [batch], TensorProto.INT64))
        at = build.add("Unsqueeze", build.add("Sub", "lengths", build.const(1)), build.const([1]))
        y = build.add("Unsqueeze", build.add("GatherND", y, at, batch_dims=1), build.const([1]))
    for head in heads:
        build.outputs.append(build.add("Identity", HEADS[head](build, y)))
    inputs = [graphs.value("input", [batch, time, FEATURES]), *build.extra]
    proto = graphs.model(build.nodes, inputs, [graphs.value(name, None) for name in build.outputs], build.tensors)
    cell_name = f"{inner} in {form} from {first}" if kind == "loop" else f"{kind} {direction}"
    what = f"{cell_name} before {before} after {after} heads {heads} {second} batch {batch} time {time}"
    begins = first != "data" if kind == "loop" else direction == "forward"
    return proto, what, apart and begins and (batch, time) == ("batch", "time") and second not in ("lengths", "mask")


def loaded(proto: onnx.ModelProto) -> Model | None:
    with TemporaryDirectory() as folder:
        try:
            return load_model(graphs.save(proto, Path(folder)), "generated", 1)
        except ModelRefused as refused:
            assert "the server itself fails" not in refused.reason, refused
            return None


def own(truth: Truth, network: Any, one: Given) -> dict[str, Array] | None:
    """ONNX Runtime's answers to one sequence alone; None where it fails on it."""
    feeds = {network.input: one.data[None]} | {n: v[None] for n, v in (one.further | one.statics).items()}
    for port in network.inputs:
        if port.role == "lengths":
            feeds[port.name] = np.array([len(one.data)])
        elif port.role == "mask":
            feeds[port.name] = np.full((1, len(one.data)), bool(port.valid))
    try:
        return truth.answers(feeds)
    except Exception:  # onnxruntime raises classes of its own, with no common base
        return None


@pytest.mark.slow
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(graphs_of_many_kinds())
def test_every_answer_is_that_of_the_sequence_alone_or_the_file_is_refused(
    made: tuple[onnx.ModelProto, str, bool],
) -> None:
    proto, what, streams = made
    model = loaded(proto)
    if streams:
        assert model is not None and model.proof.streaming and model.network.ragged, what
    if model is None:
        return
    network = model.network
    if network.window is None:
        # Extents that the graph does not need are freed; ONNX Runtime minds what is declared.
        for value in proto.graph.input:
            for axis, dim in enumerate(value.type.tensor_type.shape.dim[:2]):
                dim.dim_param = f"{value.name}_{axis}"
    truth = Truth(proto)
    rng = np.random.default_rng(5)

    def draw(shape: tuple[int | None, ...]) -> Array:
        return rng.standard_normal([extent or 1 for extent in shape]).astype(np.float32)

    asked = [
        Given(
            draw((length, network.features)),
            {one.name: draw((length, *one.shape)) for one in network.further},
            {one.name: draw(one.shape) for one in network.statics},
        )
        for length in ([network.window] * 3 if network.window else LENGTHS)
    ]
    asked[1].data[:] = 0
    asked[3 % len(asked)].data[len(asked[3 % len(asked)].data) // 2 :] = 0
    for returns in ("final", "steps"):
        if returns == "steps" and network.outputs == "last":
            continue
        for one, answer in zip(asked, served(model, asked, returns, max_chunk=4), strict=True):
            right = own(truth, network, one)
            if right is None:
                assert answer is None, f"{what}: it answers what ONNX Runtime fails on"
                continue
            assert answer is not None, f"{what}: it fails on {len(one.data)} steps"
            for port in network.answering:
                whole = right[port.name][0]
                found = answer[port.name]
                if port.role == "steps" and returns == "final":
                    whole = whole[-1:]
                if port.role == "final":
                    found = found[-1:]
                whole = whole.reshape(len(found), -1)
                np.testing.assert_allclose(found, whole, atol=2e-5, rtol=1e-4, err_msg=f"{what}: {port.name}")


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
    build.extra.append(graphs.value("lengths", ["batch"], TensorProto.INT64))
    y = cell(build, "LSTM", LAYERS["strided-convolution"](build, "input", FEATURES), "forward")
    at = build.add("Unsqueeze", build.add("Sub", "lengths", build.const(1)), build.const([1]))
    build.outputs.append(build.add("GatherND", y, at, batch_dims=1))
    inputs = [graphs.value("input", ["batch", 9, FEATURES]), *build.extra]
    proto = graphs.model(build.nodes, inputs, [graphs.value(build.outputs[0], None)], build.tensors)
    assert loaded(proto) is None
