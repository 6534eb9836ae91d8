"""Small recurrent graphs built by hand, for what an exporter would not write."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

FEATURES, HIDDEN = 3, 4
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def value(name: str, dims: list[Any] | None, kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, dims)


def constant(name: str, array: Any, dtype: Any = np.int64) -> TensorProto:
    return numpy_helper.from_array(np.asarray(array, dtype), name)


def weights(cell: str, prefix: str = "", features: int = FEATURES) -> list[TensorProto]:
    rng = np.random.default_rng(0)
    gates = GATES[cell] * HIDDEN
    shapes = {"W": (1, gates, features), "R": (1, gates, HIDDEN), "B": (1, 2 * gates)}
    return [constant(prefix + n, rng.standard_normal(s) * 0.5, np.float32) for n, s in shapes.items()]


def recurrent(
    cell: str = "LSTM",
    data: str = "moved",
    states: tuple[str, ...] = (),
    finals: tuple[str, ...] = (),
    prefix: str = "",
    **attributes: Any,
) -> NodeProto:
    inputs = [data, *(prefix + n for n in "WRB"), "", *states]
    outputs = [f"{prefix}y4", *finals]
    return helper.make_node(cell, inputs, outputs, name=f"{prefix}{cell.lower()}_0", hidden_size=HIDDEN, **attributes)


def model(
    nodes: list[NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    tensors: list[TensorProto],
    opset: int = 17,
    domains: tuple[str, ...] = (),
) -> ModelProto:
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    graph = helper.make_graph(nodes, "graph", inputs, outputs, tensors)
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def tagger(
    cell: str = "LSTM",
    *,
    states: tuple[str, ...] = (),
    finals: tuple[str, ...] = (),
    time: Any = "time",
    before: tuple[NodeProto, ...] = (),
    after: tuple[NodeProto, ...] = (),
    tensors: tuple[TensorProto, ...] = (),
    extra: tuple[onnx.ValueInfoProto, ...] = (),
    domains: tuple[str, ...] = (),
    **attributes: Any,
) -> ModelProto:
    """(batch, time, features) "input" to (batch, time, hidden) "output", by one forward layer.

    `before` reads "input" and makes "given"; `after` reads "steps" and makes "output".
    """
    nodes = [
        *(before or (helper.make_node("Identity", ["input"], ["given"]),)),
        helper.make_node("Transpose", ["given"], ["moved"], name="swap", perm=[1, 0, 2]),
        recurrent(cell, states=states, finals=finals, **attributes),
        helper.make_node("Squeeze", ["y4", "one"], ["y3"]),
        helper.make_node("Transpose", ["y3"], ["steps"], perm=[1, 0, 2]),
        *(after or (helper.make_node("Identity", ["steps"], ["output"]),)),
    ]
    inputs = [value("input", ["batch", time, FEATURES])]
    inputs += [value(name, [1, "batch", HIDDEN]) for name in states] + list(extra)
    outputs = [value("output", None)] + [value(name, [1, "batch", HIDDEN]) for name in finals]
    return model(nodes, inputs, outputs, [*weights(cell), constant("one", [1]), *tensors], domains=domains)


def mixing_cell(inputs: tuple[str, str], outputs: tuple[str, str]) -> ModelProto:
    """A step graph (batch, features) whose two states mix, so that nothing but names tells them apart."""
    rng = np.random.default_rng(0)
    square = rng.standard_normal((HIDDEN, HIDDEN)) * 0.3
    tensors = [
        constant("w", rng.standard_normal((FEATURES, HIDDEN)) * 0.3, np.float32),
        constant("r", square, np.float32),
        constant("q", square.T, np.float32),
    ]
    nodes = [
        helper.make_node("MatMul", ["input", "w"], ["xw"]),
        helper.make_node("MatMul", [inputs[0], "r"], ["ar"]),
        helper.make_node("MatMul", [inputs[1], "q"], ["bq"]),
        helper.make_node("Sum", ["xw", "ar", "bq"], ["total"]),
        helper.make_node("Tanh", ["total"], [outputs[0]]),
        helper.make_node("Sigmoid", ["total"], [outputs[1]]),
        helper.make_node("Sub", [outputs[0], outputs[1]], ["difference"]),
        helper.make_node("ReduceSum", ["difference", "last"], ["output"], keepdims=1),
    ]
    state = ["batch", HIDDEN]
    declared = [value("input", ["batch", FEATURES]), *(value(n, state) for n in inputs)]
    results = [value("output", ["batch", 1]), *(value(n, state) for n in outputs)]
    return model(nodes, declared, results, [*tensors, constant("last", [1])])


def letters() -> ModelProto:
    """(batch, time) tokens through an embedding and a GRU with its state to one score a token."""
    tokens = 11
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Gather", ["input", "table"][::-1], ["rows"]),
        helper.make_node("Transpose", ["rows"], ["moved"], perm=[1, 0, 2]),
        recurrent("GRU", states=("h",), finals=("h_out",)),
        helper.make_node("Squeeze", ["y4", "one"], ["y3"]),
        helper.make_node("Transpose", ["y3"], ["steps"], perm=[1, 0, 2]),
        helper.make_node("MatMul", ["steps", "head"], ["output"]),
    ]
    tensors = [
        *weights("GRU"),
        constant("one", [1]),
        constant("table", rng.standard_normal((tokens, FEATURES)), np.float32),
        constant("head", rng.standard_normal((HIDDEN, tokens)), np.float32),
    ]
    state = [1, "batch", HIDDEN]
    inputs = [value("input", ["batch", "time"], TensorProto.INT64), value("h", state)]
    return model(nodes, inputs, [value("output", ["batch", "time", tokens]), value("h_out", state)], tensors)


def branched() -> ModelProto:
    """A GRU in each branch of an If on the constant `rate`."""

    def branch(name: str) -> onnx.GraphProto:
        nodes = [
            recurrent("GRU", prefix=name, states=("h",), finals=(f"{name}h",)),
            helper.make_node("Squeeze", [f"{name}y4", f"{name}one"], [f"{name}y3"]),
        ]
        outputs = [value(f"{name}y3", None), value(f"{name}h", None)]
        return helper.make_graph(nodes, name, [], outputs, [*weights("GRU", name), constant(f"{name}one", [1])])

    nodes = [
        helper.make_node("Transpose", ["input"], ["moved"], perm=[1, 0, 2]),
        helper.make_node("Equal", ["rate", "high"], ["is_high"]),
        helper.make_node(
            "If", ["is_high"], ["y3", "h_out"], name="choose", then_branch=branch("a."), else_branch=branch("b.")
        ),
        helper.make_node("Transpose", ["y3"], ["output"], perm=[1, 0, 2]),
    ]
    state = [1, "batch", HIDDEN]
    inputs = [value("input", ["batch", "time", FEATURES]), value("h", state), value("rate", [], TensorProto.INT64)]
    outputs = [value("output", ["batch", "time", HIDDEN]), value("h_out", state)]
    return model(nodes, inputs, outputs, [constant("high", 16000)])


def save(proto: ModelProto, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


def externalise(proto: ModelProto, name: str, location: str, length: int | None = None) -> ModelProto:
    """The initialiser `name` declared to lie in a file at `location`."""
    copy = ModelProto()
    copy.CopyFrom(proto)
    tensor = next(one for one in copy.graph.initializer if one.name == name)
    size = len(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    given = {"location": location, "offset": "0", "length": str(size if length is None else length)}
    for key, text in given.items():
        tensor.external_data.add(key=key, value=text)
    return copy
