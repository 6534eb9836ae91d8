"""Graphs around a recurrent cell, as hypothesis draws them."""

from dataclasses import dataclass, field
from typing import Any

import cells
import graphs
import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import NodeProto, TensorProto, helper

FEATURES, HIDDEN = graphs.FEATURES, graphs.HIDDEN
TO_THE_END = 2**31 - 1


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

    def number(self, value: float) -> str:
        return self.const(value, np.float32)

    def weight(self, *shape: int) -> str:
        rng = np.random.default_rng(len(self.tensors))
        return self.const(rng.standard_normal(shape) * 0.5, np.float32)

    def cast(self, x: str, kind: int = TensorProto.FLOAT) -> str:
        return self.add("Cast", x, to=kind)

    def turned(self, x: str, *perm: int) -> str:
        return self.add("Transpose", x, perm=perm)


def slices(build: Build, x: str, start: int, end: int, step: int = 1) -> str:
    return build.add("Slice", x, *(build.const([value]) for value in (start, end, 1, step)))


def count(build: Build, x: str) -> str:
    """The number of steps, int64 of shape (1,)."""
    return build.add("Shape", x, start=1, end=2)


def steps_of(build: Build, x: str) -> str:
    """The number of steps, as a float."""
    return build.cast(count(build, x))


def positions(build: Build, x: str, *, backwards: bool = False) -> str:
    """0, 1, ... to the last step, or the other way round, int64 (time,).

    Never by a Range that counts down: ONNX Runtime makes an empty Slice of a Gather by it, and an LSTM that reads one
    damages memory.
    """
    steps = build.add("Squeeze", count(build, x), build.const([0]))
    upwards = build.add("Range", build.const(0), steps, build.const(1))
    return build.add("Sub", build.add("Sub", steps, build.const(1)), upwards) if backwards else upwards


def real(build: Build, x: str) -> str:
    """Which steps are not zeros, bool (batch, time)."""
    most = build.add("ReduceMax", build.add("Abs", x), axes=[2], keepdims=0)
    return build.add("Greater", most, build.number(0))


def times(build: Build, x: str, mask: str) -> str:
    return build.add("Mul", x, build.add("Unsqueeze", build.cast(mask), build.const([2])))


def zeros_so_far(build: Build, x: str) -> str:
    """The number of steps of zeros so far, float (batch, time)."""
    return build.add("CumSum", build.cast(build.add("Not", real(build, x))), build.const(1))


def windowed(build: Build, operator: str, x: str, *more: str, **attributes: Any) -> str:
    """A window that goes over the steps, of each feature or of all."""
    return build.turned(build.add(operator, build.turned(x, 0, 2, 1), *more, **attributes), 0, 2, 1)


def convolved(build: Build, x: str, pads: list[int], width: int, **attributes: Any) -> str:
    return windowed(build, "Conv", x, build.weight(width, width, 3), pads=pads, kernel_shape=[3], **attributes)


def normalised(build: Build, operator: str, x: str, width: int, parameters: int) -> str:
    given = [build.const(np.linspace(0.5, 1.5, width), np.float32) for _ in range(parameters)]
    return windowed(build, operator, x, *given)


def attended(build: Build, x: str, *, causal: bool = False) -> str:
    scores = build.add("MatMul", x, build.turned(x, 0, 2, 1))
    if causal:
        size = build.add("Concat", count(build, x), count(build, x), axis=0)
        low = graphs.constant("", [-1e9], np.float32)
        later = build.add("Trilu", build.add("ConstantOfShape", size, value=low), build.const(1), upper=1)
        scores = build.add("Add", scores, later)
    return build.add("MatMul", build.add("Softmax", scores, axis=-1), x)


def quantised(build: Build, x: str, width: int) -> str:
    """A linear layer in int8, as ONNX Runtime's quantisation writes it."""
    whole = build.add("DynamicQuantizeLinear", x, outputs=3)
    weights = build.const(np.random.default_rng(7).integers(-90, 90, (width, width)), np.int8)
    product = build.cast(build.add("MatMulInteger", whole, weights, f"{whole}_2"))
    return build.add("Mul", product, build.add("Mul", f"{whole}_1", build.number(0.01)))


def chosen(build: Build, x: str) -> str:
    """An If that the values decide."""
    condition = build.add("Greater", build.add("ReduceSum", x, keepdims=0), build.number(0))
    name = f"either{len(build.nodes)}"
    ways = [
        helper.make_graph(
            [helper.make_node(one, [x], [f"{name}.{one}"])], one, [], [graphs.value(f"{name}.{one}", None)]
        )
        for one in ("Tanh", "Neg")
    ]
    build.nodes.append(helper.make_node("If", [condition], [name], then_branch=ways[0], else_branch=ways[1]))
    return name


def table_of_positions(build: Build, x: str, width: int) -> str:
    rows = build.add("Slice", build.weight(1, 300, width), build.const([0]), count(build, x), build.const([1]))
    return build.add("Add", x, rows)


def first_to_last(build: Build, x: str) -> str:
    """The first step in the place of the last, by a computed index."""
    first = slices(build, x, 0, 1)
    at = build.add("ConstantOfShape", build.add("Shape", first), value=graphs.constant("", [-1]))
    return build.add("ScatterElements", x, at, first, axis=1)


# (batch, time, width) to (batch, time, width); the steps may be fewer or more
LAYERS: dict[str, Any] = {
    "nothing": lambda b, x, w: x,
    "linear": lambda b, x, w: b.add("Tanh", b.add("MatMul", x, b.weight(w, w))),
    "flattened": lambda b, x, w: b.add(
        "Reshape", b.add("MatMul", b.add("Reshape", x, b.const([-1, w])), b.weight(w, w)), b.add("Shape", x)
    ),
    "summed-product": lambda b, x, w: b.add("Einsum", x, b.weight(w, w), equation="btw,wv->btv"),
    "summed-over-rows": lambda b, x, w: b.add("Einsum", x, x, equation="btw,ctw->btw"),
    "softmax-features": lambda b, x, w: b.add("Softmax", x, axis=-1),
    "softmax-time": lambda b, x, w: b.add("Softmax", x, axis=1),
    "softmax-rows": lambda b, x, w: b.add("Softmax", x, axis=0),
    "minus-mean": lambda b, x, w: b.add("Sub", x, b.add("ReduceMean", x, axes=[1], keepdims=1)),
    "minus-mean-of-all": lambda b, x, w: b.add("Sub", x, b.add("ReduceMean", x, keepdims=1)),
    "layer-norm": lambda b, x, w: b.add("LayerNormalization", x, b.weight(w), axis=-1),
    "layer-norm-of-time": lambda b, x, w: b.add("LayerNormalization", x, b.number(1), axis=1),
    "batch-norm": lambda b, x, w: normalised(b, "BatchNormalization", x, w, 4),
    "instance-norm": lambda b, x, w: normalised(b, "InstanceNormalization", x, w, 2),
    "unit-length": lambda b, x, w: b.add("LpNormalization", x, axis=-1),
    "running-sum": lambda b, x, w: b.add("CumSum", x, b.const(1)),
    "sum-from-the-end": lambda b, x, w: b.add("CumSum", x, b.const(1), reverse=1),
    "convolution": lambda b, x, w: convolved(b, x, [1, 1], w),
    "causal-convolution": lambda b, x, w: convolved(b, x, [2, 0], w),
    "strided-convolution": lambda b, x, w: convolved(b, x, [1, 1], w, strides=[2]),
    "averages": lambda b, x, w: windowed(b, "AveragePool", x, kernel_shape=[3], pads=[1, 1]),
    "averages-by-three": lambda b, x, w: windowed(b, "AveragePool", x, kernel_shape=[3], strides=[3], ceil_mode=1),
    "pooled-features": lambda b, x, w: b.add("MaxPool", x, kernel_shape=[3], pads=[1, 1]),
    "twice-as-many": lambda b, x, w: windowed(b, "Resize", x, "", b.const([1, 1, 2], np.float32)),
    "shifted": lambda b, x, w: slices(b, b.add("Pad", x, b.const([0, 1, 0, 0, 0, 0])), 0, -1),
    "differences": lambda b, x, w: b.add("Sub", slices(b, x, 1, TO_THE_END), slices(b, x, 0, -1)),
    "last-ten": lambda b, x, w: slices(b, x, -10, TO_THE_END),
    "last-hundred": lambda b, x, w: slices(b, x, -100, TO_THE_END),
    "first-thirty": lambda b, x, w: slices(b, x, 0, 30),
    "every-second": lambda b, x, w: slices(b, x, 0, TO_THE_END, 2),
    "reversed": lambda b, x, w: slices(b, x, -1, -(2**31), -1),
    "reversed-by-index": lambda b, x, w: b.add("Gather", x, positions(b, x, backwards=True), axis=1),
    "per-step-count": lambda b, x, w: b.add("Div", x, steps_of(b, x)),
    "more-than-twenty": lambda b, x, w: b.add(
        "Where", b.add("Greater", count(b, x), b.const(20)), x, b.add("Neg", x)
    ),
    "positions": lambda b, x, w: b.add(
        "Add", x, b.add("Unsqueeze", b.add("Sin", b.cast(positions(b, x))), b.const([1]))
    ),
    "table-of-positions": table_of_positions,
    "attention": lambda b, x, w: attended(b, x),
    "causal-attention": lambda b, x, w: attended(b, x, causal=True),
    "plus-last": lambda b, x, w: b.add("Add", x, slices(b, x, -1, TO_THE_END)),
    "plus-first": lambda b, x, w: b.add("Add", x, slices(b, x, 0, 1)),
    "first-to-last": lambda b, x, w: first_to_last(b, x),
    "rescaled": lambda b, x, w: b.add("Div", x, b.add("ReduceMax", b.add("Abs", x), keepdims=1)),
    "quantised-linear": lambda b, x, w: quantised(b, x, w),
    "one-hot": lambda b, x, w: b.add(
        "Add", x, b.add("OneHot", b.add("ArgMax", x, axis=2, keepdims=0), b.const(w), b.const([0, 1], np.float32))
    ),
    "padding-by-zeros": lambda b, x, w: times(b, x, real(b, x)),
    "numbered-reals": lambda b, x, w: b.add(
        "Add", x, b.add("Unsqueeze", b.add("CumSum", b.cast(real(b, x)), b.const(1)), b.const([2]))
    ),
    "until-a-zero": lambda b, x, w: times(b, x, b.add("Less", zeros_so_far(b, x), b.number(1))),
    "one-way-or-another": lambda b, x, w: chosen(b, x),
    "double": lambda b, x, w: b.cast(b.add("Tanh", b.cast(x, TensorProto.DOUBLE))),
    "swapped-and-back": lambda b, x, w: b.turned(b.turned(x, 2, 0, 1), 1, 2, 0),
}  # fmt: skip

APART = [
    "nothing", "linear", "flattened", "summed-product", "softmax-features", "layer-norm", "batch-norm", "unit-length",
    "pooled-features", "one-hot", "padding-by-zeros", "double", "swapped-and-back",
]  # fmt: skip


def at_largest(build: Build, x: str) -> str:
    """The step at which the first feature is largest."""
    first = build.add("Gather", x, build.const(0), axis=2)
    return build.add("GatherND", x, build.add("ArgMax", first, axis=1), batch_dims=1)


def last_real(build: Build, x: str) -> str:
    """The last step that is not zeros, of one row."""
    places = build.turned(build.add("NonZero", real(build, x)), 1, 0)
    return build.add("GatherND", x, build.add("Gather", places, build.const([-1]), axis=0))


# (batch, time, width) to an answer for each sequence
HEADS: dict[str, Any] = {
    "last-gather": lambda b, x: b.add("Gather", x, b.const(-1), axis=1),
    "last-of-one": lambda b, x: b.add("Gather", x, b.const([-1]), axis=1),
    "last-slice": lambda b, x: b.add("Squeeze", slices(b, x, -1, TO_THE_END), b.const([1])),
    "last-by-count": lambda b, x: b.add("Gather", x, b.add("Sub", count(b, x), b.const(1)), axis=1),
    "last-real": last_real,
    "at-largest": at_largest,
    "first": lambda b, x: b.add("Gather", x, b.const(0), axis=1),
    "last-but-one": lambda b, x: b.add("Gather", x, b.const([-2]), axis=1),
    "mean": lambda b, x: b.add("ReduceMean", x, axes=[1], keepdims=0),
    "length": lambda b, x: b.add("ReduceL2", x, axes=[1], keepdims=0),
    "largest": lambda b, x: b.add("ReduceMax", x, axes=[1], keepdims=0),
    "global-pool": lambda b, x: b.add("GlobalMaxPool", b.turned(x, 0, 2, 1)),
    "steps": lambda b, x: x,
    "tops": lambda b, x: b.add("TopK", x, b.const([1]), outputs=2, axis=1),
    "places": lambda b, x: b.cast(f"{b.add('MaxPool', x, outputs=2, kernel_shape=[2])}_1"),
}

LAST = ["steps", "last-gather", "last-of-one", "last-slice"]


def cell(build: Build, kind: str, x: str, direction: str, lengths: str = "", first: str = "") -> str:
    """(batch, time, features) through a recurrent node; (batch, time, width). Its final state is `final`."""
    prefix = f"cell{len(build.nodes)}."
    build.tensors += graphs.weights(kind, prefix)
    if direction == "bidirectional":
        for tensor in build.tensors[-3:]:
            both = np.concatenate([onnx.numpy_helper.to_array(tensor)] * 2)
            tensor.CopyFrom(onnx.numpy_helper.from_array(both, tensor.name))
    moved = build.turned(x, 1, 0, 2)
    states = (first,) if first else ()
    node = graphs.recurrent(kind, moved, states=states, finals=(f"{prefix}final",), prefix=prefix, direction=direction)
    node.input[4] = lengths
    build.nodes.append(node)
    width = HIDDEN * (2 if direction == "bidirectional" else 1)
    merged = build.turned(f"{prefix}y4", 2, 0, 1, 3)
    return build.add("Reshape", merged, build.const([0, 0, width]))


def int8_cell(build: Build, x: str) -> str:
    """(batch, time, features) through an LSTM that rounds to 8 bits; (batch, time, hidden)."""
    rng = np.random.default_rng(1)
    weights = [build.const(rng.integers(-90, 90, (1, size, 4 * HIDDEN)), np.int8) for size in (FEATURES, HIDDEN)]
    scale, zero = build.const([0.01], np.float32), build.const([0], np.int8)
    given = [build.turned(x, 1, 0, 2), *weights, build.weight(1, 8 * HIDDEN), "", "", "", ""]
    y = build.add("DynamicQuantizeLSTM", *given, *[scale, zero] * 2, domain="com.microsoft", hidden_size=HIDDEN)
    return build.turned(build.add("Squeeze", y, build.const([1])), 1, 0, 2)


def looped(build: Build, x: str, cell: str, form: str, first: str) -> str:
    """(batch, time, features) through a cell in a Loop or a Scan; (batch, time, hidden)."""
    if first == "data":
        nothing = build.add("Mul", build.add("Gather", x, build.const(0), axis=1), build.number(0))
        first = build.add("MatMul", nothing, build.weight(FEATURES, HIDDEN))
    build.tensors += cells.tensors()
    build.nodes += cells.nodes(cell, form, first, x)
    return "output"


# Where the axes of (batch, time, features) are in the author's file
ORDERS = {"btf": (0, 1, 2), "tbf": (1, 0, 2), "bft": (0, 2, 1)}


@dataclass
class Made:
    """A graph, what it is made of, and what is sure of it.

    `order` is that of the axes of its sequences, and `turned` that of its outputs with steps; `streams` is whether it
    is sure to have sessions, `opposed` whether its axes are named otherwise than it takes them.
    """

    proto: onnx.ModelProto
    what: str
    order: tuple[int, ...]
    turned: dict[str, tuple[int, ...]]
    streams: bool
    opposed: bool


SECOND = [
    "static", "id", "actions", "block", "sequence", "lengths", "packed", "lengths decide", "mask", "state",
]  # fmt: skip


@st.composite
def graphs_of_many_kinds(draw: st.DrawFn) -> Made:
    """A graph of some layers around a cell, with an answer or two."""
    build = Build()
    kind = draw(st.sampled_from(["LSTM", "GRU", "RNN", "loop", "loop", "int8"]))
    form, inner = draw(st.sampled_from(sorted(cells.FORMS))), draw(st.sampled_from(sorted(cells.CELLS)))
    first = draw(st.sampled_from(["zeros", "learned", "data"]))
    direction = draw(st.sampled_from(["forward", "forward", "bidirectional", "reverse"]))
    # Half of them keep steps apart, so that what is cut in chunks and batched ragged comes up as often as what is not.
    apart = draw(st.booleans())
    layers, ends = (APART, LAST) if apart else (sorted(LAYERS), sorted(HEADS))
    before, after = draw(st.sampled_from(layers)), draw(st.sampled_from(layers))
    heads = draw(st.lists(st.sampled_from(ends), min_size=1, max_size=2))
    second = draw(st.sampled_from(["none"] * len(SECOND) + SECOND))
    batch, time = draw(st.sampled_from(["batch", "N", None, 1])), draw(st.sampled_from(["time", "seq_len", None, 9]))
    order, out = draw(st.sampled_from(sorted(ORDERS))), draw(st.sampled_from(sorted(ORDERS)))
    opposed = draw(st.integers(0, 9)) == 0 and isinstance(batch, str) and isinstance(time, str) and kind != "loop"
    width = HIDDEN * (2 if direction == "bidirectional" and kind in graphs.GATES else 1)
    if kind != "GRU" and second == "state":
        second = "none"
    rows = time if opposed else batch
    steps = batch if opposed else time
    x = LAYERS[before](build, _input(build, "input", order), FEATURES)
    lengths = state = ""
    if second in ("static", "id"):
        kind_of = TensorProto.INT64 if second == "id" else TensorProto.FLOAT
        build.extra.append(graphs.value(second, [rows] if second == "id" else [rows, FEATURES], kind_of))
        value = build.add("Gather", build.weight(7, FEATURES), second) if second == "id" else second
        x = build.add("Add", x, build.add("Unsqueeze", value, build.const([1])))
    elif second == "sequence":
        sizes = [(rows, steps, FEATURES)[at] for at in ORDERS[order]]
        build.extra.append(graphs.value("other", sizes))
        x = build.add("Mul", x, _input(build, "other", order))
    elif second in ("lengths", "packed", "lengths decide"):
        build.extra.append(graphs.value("lengths", [rows], TensorProto.INT64))
        lengths = build.cast("lengths", TensorProto.INT32) if second != "lengths" else ""
    elif second == "state":
        ways = 2 if direction == "bidirectional" else 1
        build.extra.append(graphs.value("h0", [ways, rows, HIDDEN]))
        state = "h0"
    if kind == "loop":
        y = looped(build, x, inner, form, first)
    elif kind == "int8":
        y = int8_cell(build, x)
    else:
        y = cell(build, kind, x, direction, lengths, state)
    final = next((name for name in build.nodes[-3].output[1:2]), "")
    y = LAYERS[after](build, y, width)
    if second == "mask":
        build.extra.append(graphs.value("mask", [rows, steps], TensorProto.BOOL))
        y = times(build, y, "mask")
    elif second == "actions":
        build.extra.append(graphs.value("legal", [rows, width], TensorProto.BOOL))
        y = build.add("Where", build.add("Unsqueeze", "legal", build.const([1])), y, build.number(-100))
    elif second == "block":
        build.extra.append(graphs.value("memory", [rows, "source", width]))
        scores = build.add("MatMul", y, build.turned("memory", 0, 2, 1))
        y = build.add("MatMul", build.add("Softmax", scores, axis=-1), "memory")
    elif second == "lengths":
        at = build.add("Unsqueeze", build.add("Sub", "lengths", build.const(1)), build.const([1]))
        y = build.add("Unsqueeze", build.add("GatherND", y, at, batch_dims=1), build.const([1]))
    elif second == "lengths decide":
        many = build.cast(build.add("Greater", "lengths", build.const(20)))
        y = build.add("Add", y, build.add("Unsqueeze", many, build.const([1, 2])))
    turned = {}
    for head in heads:
        y_of = HEADS[head](build, y)
        if head == "steps":
            y_of = build.turned(y_of, *ORDERS[out])
        build.outputs.append(build.add("Identity", y_of))
        turned[build.outputs[-1]] = ORDERS[out] if head == "steps" else (0, 1, 2)
    declared = [graphs.value(name, None) for name in build.outputs]
    if second == "state":
        build.nodes.append(helper.make_node("Identity", [final], ["hn"]))
        declared.append(graphs.value("hn", [2 if direction == "bidirectional" else 1, rows, HIDDEN]))
    sizes = [(rows, steps, FEATURES)[at] for at in ORDERS[order]]
    inputs = [graphs.value("input", sizes), *build.extra]
    proto = graphs.model(build.nodes, inputs, declared, build.tensors, domains=("com.microsoft",))
    cell_name = f"{inner} in {form} from {first}" if kind == "loop" else f"{kind} {direction}"
    what = f"{cell_name} before {before} after {after} heads {heads} to {out} {second} of {order} {rows} {steps}"
    begins = first != "data" if kind == "loop" else direction == "forward" and kind != "int8"
    free = isinstance(batch, str) and isinstance(time, str) and not opposed
    streams = apart and begins and free and second not in ("lengths", "lengths decide", "mask")
    return Made(proto, what, ORDERS[order], turned, streams, opposed)


def _input(build: Build, name: str, order: str) -> str:
    """An input of the author's order as (batch, time, features)."""
    return name if order == "btf" else build.turned(name, *ORDERS[order])
