"""The models that are measured: ordinary exports with random weights, built with onnx alone."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Array = np.ndarray[Any, Any]

_OPSET = 18
OUTPUTS = 9


@dataclass(frozen=True)
class Shape:
    """A stack of LSTM layers and a Linear layer over every step. With a vocabulary, the input is token ids."""

    name: str
    features: int
    hidden_size: int
    num_layers: int = 1
    outputs: int = OUTPUTS
    vocabulary: int = 0

    @property
    def title(self) -> str:
        layers = f"{self.num_layers}x" if self.num_layers > 1 else ""
        words = f", {self.vocabulary:,} words" if self.vocabulary else ""
        return f"{layers}LSTM I{self.features} H{self.hidden_size}{words}"


SHAPES = {
    shape.name: shape
    for shape in (
        Shape("small", 12, 64),
        Shape("mid", 64, 256),
        Shape("big", 128, 512, num_layers=2),
    )
}
WORDS = Shape("words", 64, 256, outputs=10_000, vocabulary=10_000)


def write_model(shape: Shape, repository: Path) -> Path:
    """Write `<repository>/<name>/1/model.onnx`, as an exporter writes it, and return its path."""
    path = repository / shape.name / "1" / "model.onnx"
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(build(shape), path)
    return path


def build(shape: Shape) -> onnx.ModelProto:
    """The graph: batch first, zero initial state, one output row per step."""
    rng = np.random.default_rng(shape.hidden_size)
    nodes, weights = [], []
    data = "input"
    if shape.vocabulary:
        weights.append(_weight("embedding", rng, shape.vocabulary, shape.features, scale=1.0))
        nodes.append(helper.make_node("Gather", ["embedding", "input"], ["embedded"]))
        data = "embedded"
    nodes.append(helper.make_node("Transpose", [data], ["layer0"], perm=[1, 0, 2]))  # (time, batch, features)
    for layer in range(shape.num_layers):
        made, tensors = _layer(shape, layer, rng)
        nodes += made
        weights += tensors
    nodes += [
        helper.make_node("Transpose", [f"layer{shape.num_layers}"], ["hidden"], perm=[1, 0, 2]),
        helper.make_node("MatMul", ["hidden", "decoder.weight"], ["scores"]),
        helper.make_node("Add", ["scores", "decoder.bias"], ["output"]),
    ]
    weights.append(_weight("decoder.weight", rng, shape.hidden_size, shape.outputs, scale=shape.hidden_size**-0.5))
    weights.append(_weight("decoder.bias", rng, shape.outputs, scale=0.1))
    graph = helper.make_graph(nodes, shape.name, [_input(shape)], [_output(shape)], weights)
    opsets = [helper.make_opsetid("", _OPSET)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    onnx.checker.check_model(model)
    return model


def _layer(shape: Shape, layer: int, rng: np.random.Generator) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    size, hidden = (shape.hidden_size if layer else shape.features), shape.hidden_size
    scale = hidden**-0.5
    names = [f"lstm{layer}.{part}" for part in "WRB"]
    weights = [
        _weight(names[0], rng, 1, 4 * hidden, size, scale=scale),
        _weight(names[1], rng, 1, 4 * hidden, hidden, scale=scale),
        _weight(names[2], rng, 1, 8 * hidden, scale=scale),
    ]
    axis = f"lstm{layer}.axis"
    weights.append(numpy_helper.from_array(np.array([1], np.int64), axis))
    nodes = [
        helper.make_node("LSTM", [f"layer{layer}", *names], [f"lstm{layer}.Y"], hidden_size=hidden),
        helper.make_node("Squeeze", [f"lstm{layer}.Y", axis], [f"layer{layer + 1}"]),
    ]
    return nodes, weights


def _weight(name: str, rng: np.random.Generator, *dims: int, scale: float) -> onnx.TensorProto:
    return numpy_helper.from_array(rng.uniform(-scale, scale, dims).astype(np.float32), name)


def _input(shape: Shape) -> onnx.ValueInfoProto:
    if shape.vocabulary:
        return helper.make_tensor_value_info("input", TensorProto.INT64, ["batch", "time"])
    return helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", "time", shape.features])


def _output(shape: Shape) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info("output", TensorProto.FLOAT, ["batch", "time", shape.outputs])
