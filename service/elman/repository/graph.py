"""An editable view of an ONNX graph: who makes a tensor, who reads it, and what it depends on."""

from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, helper, numpy_helper

from elman.repository.network import Array

# Operators that only move or rename what they are given: a state seen through them is still that state.
MOVES = frozenset("Identity Reshape Squeeze Unsqueeze Transpose Concat Slice Split Gather Cast Flatten Expand".split())
RECURRENT = frozenset({"LSTM", "GRU", "RNN"})
QUANTISED = frozenset({"DynamicQuantizeLSTM"})
CELL_BODY = "elman.cell."
"""How the body of a Scan is called that is one step of a recurrent layer, before the layer's operator."""
_RANDOM = frozenset("Bernoulli Multinomial RandomNormal RandomNormalLike RandomUniform RandomUniformLike".split())


def attribute(node: NodeProto, name: str, default: Any = None) -> Any:
    """The value of a node's attribute, strings decoded."""
    for item in node.attribute:
        if item.name == name:
            value = helper.get_attribute_value(item)
            return value.decode() if isinstance(value, bytes) else value
    return default


def subgraphs(node: NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs that a control-flow node holds."""
    for item in node.attribute:
        if item.type == onnx.AttributeProto.GRAPH:
            yield item.g
        elif item.type == onnx.AttributeProto.GRAPHS:
            yield from item.graphs


def all_graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """A graph and every graph inside it."""
    yield graph
    for node in graph.node:
        for inner in subgraphs(node):
            yield from all_graphs(inner)


def all_nodes(graph: onnx.GraphProto) -> Iterator[NodeProto]:
    """Every node of a graph and of the graphs inside it."""
    for one in all_graphs(graph):
        yield from one.node


def nodes_inside(node: NodeProto) -> Iterator[NodeProto]:
    """Every node of the graphs that a control-flow node holds."""
    for inner in subgraphs(node):
        yield from all_nodes(inner)


def reads(node: NodeProto) -> list[str]:
    """The tensors that a node reads, those that its inner graphs take from outside included."""
    names = [name for name in node.input if name]
    for inner in subgraphs(node):
        made = {value.name for value in inner.input} | {value.name for value in inner.initializer}
        for child in inner.node:
            names += [name for name in reads(child) if name not in made]
            made.update(child.output)
        names += [value.name for value in inner.output if value.name not in made]
    return names


class Graph:
    """A view over one ModelProto, which it edits in place.

    What it looks up is kept until `index` is called.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.proto = model.graph

    def index(self) -> None:
        """Look again, after the graph was edited."""
        for name in ("initializers", "inputs", "outputs", "producer", "consumers"):
            self.__dict__.pop(name, None)

    @cached_property
    def initializers(self) -> dict[str, onnx.TensorProto]:
        """By name."""
        return {value.name: value for value in self.proto.initializer}

    @cached_property
    def inputs(self) -> dict[str, onnx.ValueInfoProto]:
        """By name, without those that are initialisers."""
        return {value.name: value for value in self.proto.input if value.name not in self.initializers}

    @cached_property
    def outputs(self) -> dict[str, onnx.ValueInfoProto]:
        """By name."""
        return {value.name: value for value in self.proto.output}

    @cached_property
    def producer(self) -> dict[str, NodeProto]:
        """The node that makes each tensor."""
        return {name: node for node in self.proto.node for name in node.output if name}

    @cached_property
    def consumers(self) -> dict[str, list[NodeProto]]:
        """The nodes that read each tensor."""
        found: dict[str, list[NodeProto]] = {}
        for node in self.proto.node:
            for name in dict.fromkeys(reads(node)):
                found.setdefault(name, []).append(node)
        return found

    # Looking

    @property
    def opset(self) -> int:
        """The version of the standard operators."""
        return next((entry.version for entry in self.model.opset_import if entry.domain in ("", "ai.onnx")), 1)

    def recurrent(self) -> list[NodeProto]:
        """The LSTM, GRU and RNN nodes of the top level, in order."""
        return [node for node in self.proto.node if node.op_type in RECURRENT and not node.domain]

    def backward(self, names: Iterable[str], through: Callable[[NodeProto], bool] = lambda node: True) -> set[str]:
        """`names` and every tensor that they are made from, not looking past nodes that `through` refuses."""
        seen: set[str] = set()
        todo = [name for name in names if name]
        while todo:
            name = todo.pop()
            if name in seen:
                continue
            seen.add(name)
            node = self.producer.get(name)
            if node is not None and through(node):
                todo += reads(node)
        return seen

    def made_of(self, name: str) -> set[str]:
        """A tensor and every tensor whose values, and not only whose size, it is made from."""
        return self.backward([name], lambda node: node.op_type not in ("Shape", "Size"))

    def forward(self, names: Iterable[str], through: Callable[[NodeProto], bool] = lambda node: True) -> set[str]:
        """`names` and every tensor made from them, not looking past nodes that `through` refuses."""
        seen: set[str] = set()
        todo = [name for name in names if name]
        while todo:
            name = todo.pop()
            if name in seen:
                continue
            seen.add(name)
            for node in self.consumers.get(name, []):
                if through(node):
                    todo += [output for output in node.output if output]
        return seen

    def constant(self, name: str) -> Array | None:
        """The value of an initialiser or a Constant node; None for anything else."""
        if name in self.initializers:
            return numpy_helper.to_array(self.initializers[name])
        node = self.producer.get(name)
        if node is None or node.op_type != "Constant":
            return None
        for key, convert in (
            ("value", numpy_helper.to_array),
            ("value_int", np.asarray),
            ("value_ints", np.asarray),
            ("value_float", np.float32),
            ("value_floats", lambda value: np.asarray(value, np.float32)),
        ):
            value = attribute(node, key)
            if value is not None:
                return np.asarray(convert(value))
        return None

    def dims(self, name: str) -> list[int | str | None]:
        """Declared dimensions of a graph input or output: a number, a name, or None where it says nothing."""
        value = self.inputs.get(name) or self.outputs.get(name)
        if value is None:
            return []
        shape = value.type.tensor_type.shape
        return [d.dim_value if d.HasField("dim_value") else (d.dim_param or None) for d in shape.dim]

    def dtype(self, name: str) -> np.dtype[Any]:
        """The declared element type of a graph input or output."""
        value = self.inputs.get(name) or self.outputs[name]
        return np.dtype(helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type))

    # Editing

    def add_input(self, name: str, dtype: np.dtype[Any], shape: list[int | str]) -> None:
        kind = helper.np_dtype_to_tensor_dtype(dtype)
        self.proto.input.append(helper.make_tensor_value_info(name, kind, shape))

    def add_output(self, name: str, dtype: np.dtype[Any]) -> None:
        """Make a tensor an output, with no declared shape. Look again (`index`) once all are added."""
        value = self.proto.output.add()
        value.name = name
        value.type.tensor_type.elem_type = helper.np_dtype_to_tensor_dtype(dtype)

    def add_initializer(self, name: str, value: Array) -> str:
        self.proto.initializer.append(numpy_helper.from_array(value, name))
        return name

    def axis_node(self, operator: str, source: str, into: str, axis: int) -> NodeProto:
        """A Squeeze or an Unsqueeze of one axis, as it is written in the graph's operator set."""
        if self.opset < 13:
            return helper.make_node(operator, [source], [into], axes=[axis])
        axes = self.add_initializer(f"{into}.axes", np.array([axis], np.int64))
        return helper.make_node(operator, [source, axes], [into])

    def insert_after(self, name: str | None, nodes: list[NodeProto]) -> None:
        """Put `nodes` right after the node that makes `name`; first of all where it is an input."""
        at = 0
        if name is not None and name in self.producer:
            at = next(i for i, node in enumerate(self.proto.node) if name in node.output) + 1
        for offset, node in enumerate(nodes):
            self.proto.node.insert(at + offset, node)
        self.index()

    def set_input_dims(self, name: str, dims: list[int | str]) -> None:
        """Declare the shape of a graph input anew."""
        shape = self.inputs[name].type.tensor_type.shape
        del shape.dim[:]
        for dim in dims:
            entry = shape.dim.add()
            if isinstance(dim, int):
                entry.dim_value = dim
            else:
                entry.dim_param = dim

    def set_outputs(self, names: list[str], dtypes: dict[str, np.dtype[Any]]) -> None:
        """Make `names` the graph's outputs, with no declared shape, and drop all that they do not need."""
        del self.proto.output[:]
        for name in names:
            self.add_output(name, dtypes[name])
        del self.proto.value_info[:]
        self.index()
        needed = self.backward(names)
        nodes = [node for node in self.proto.node if any(name in needed for name in node.output)]
        del self.proto.node[:]
        self.proto.node.extend(nodes)
        self.index()
        read = {name for node in nodes for name in reads(node)} | set(names)
        for group in (self.proto.initializer, self.proto.input, self.proto.sparse_initializer):
            kept = [value for value in group if _name(value) in read]
            del group[:]
            group.extend(kept)
        self.index()


def draws_at_random(graph: Graph, node: NodeProto) -> bool:
    """Whether a node gives other numbers each time, for the same input."""
    if node.op_type == "Dropout" and len(node.input) > 2:
        training = graph.constant(node.input[2])
        return training is not None and bool(training)
    return node.op_type in _RANDOM


def _name(value: Any) -> str:
    return str(value.values.name if hasattr(value, "values") else value.name)
