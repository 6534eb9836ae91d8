"""Specialising a graph to the constants that its spec supplies: an `If` that they decide is replaced by its branch."""

from collections.abc import Callable, Sequence

import numpy as np
import onnx
from onnx import GraphProto, NodeProto

from elman.errors import SpecRefused
from elman.repository.graph import Graph, all_graphs, attribute
from elman.repository.network import Array
from elman.repository.runtime import GraphSession, RuntimeFailure
from elman.repository.spec import ModelSpec


def bind_constants(model: onnx.ModelProto, spec: ModelSpec) -> None:
    """Turn the inputs that the spec gives a value into initialisers. Raises ModelRefused for one that is not there."""
    graph = Graph(model)
    for name, value in spec.values.items():
        if name not in graph.inputs:
            raise SpecRefused(
                f"the spec gives a constant for {name!r}, which is not an input of the graph",
                remedy=f"The inputs are {', '.join(map(repr, graph.inputs))}.",
            )
        graph.add_initializer(name, _constant(graph, name, value))
        kept = [item for item in model.graph.input if item.name != name]
        del model.graph.input[:]
        model.graph.input.extend(kept)
        graph.index()


def _constant(graph: Graph, name: str, value: object) -> Array:
    dims = graph.dims(name)
    array: Array | None
    try:
        array = np.asarray(value, graph.dtype(name))
        if all(isinstance(dim, int) for dim in dims):
            array = array.reshape([dim for dim in dims if isinstance(dim, int)])
        elif not _fits(array, dims):
            array = None
    except (TypeError, ValueError, OverflowError):
        array = None
    if array is None or (array.dtype.kind == "f" and not np.isfinite(array).all()):
        raise SpecRefused(
            f"the constant for {name!r} is no {graph.dtype(name).name} of shape {dims}",
            node=f"input {name!r}",
            remedy="Give a finite number, or a list of them in that shape, under constants in model.json.",
        )
    return array


def _fits(array: Array, dims: Sequence[int | str | None]) -> bool:
    """Whether an array has the extents that are declared."""
    pairs = zip(array.shape, dims, strict=False)
    return array.ndim == len(dims) and all(dim == extent or not isinstance(dim, int) for extent, dim in pairs)


def inline_decided_branches(model: onnx.ModelProto) -> None:
    """Replace each `If` of the top level whose condition depends on no input by the branch that it takes."""
    graph = Graph(model)
    while inline_branches(graph, lambda name: _evaluate(graph, name)):
        pass


def inline_branches(graph: Graph, value_of: Callable[[str], Array | None]) -> bool:
    """Replace each `If` of the top level whose condition has a known value by its branch. False where there is none."""
    decided = [
        (node, value)
        for node in graph.proto.node
        if node.op_type == "If" and (value := value_of(node.input[0])) is not None
    ]
    for node, value in decided:
        branch = attribute(node, "then_branch" if bool(value.reshape(-1)[0]) else "else_branch")
        _inline(graph.proto, node, branch, f"elman.branch.{node.output[0]}.")
    graph.index()
    return bool(decided)


def _evaluate(graph: Graph, name: str) -> Array | None:
    """The value of a tensor that depends on no input."""
    constant = graph.constant(name)
    if constant is not None or name in graph.forward(graph.inputs):
        return constant
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    Graph(model).set_outputs([name], {name: np.dtype(np.bool_)})
    try:
        (value,) = GraphSession(model.SerializeToString()).run([name], {})
    except RuntimeFailure:
        return None
    return value


def _inline(outer: GraphProto, node: NodeProto, branch: GraphProto, prefix: str) -> None:
    """Put the nodes of `branch` where `node` is, renamed so that they meet no other name."""
    made = {name for graph in all_graphs(branch) for inner in graph.node for name in inner.output if name}
    made |= {value.name for graph in all_graphs(branch) for value in graph.initializer}
    names = {name: prefix + name for name in made}
    outputs = [value.name for value in branch.output]
    # Where a branch gives an outer tensor straight back, an Identity carries it.
    carried = [(source, name) for source, name in zip(outputs, node.output, strict=True) if name]
    at = next(i for i, one in enumerate(outer.node) if one is node or list(one.output) == list(node.output))
    rename(branch, names)
    nodes = list(branch.node)
    nodes += [onnx.helper.make_node("Identity", [names.get(source, source)], [name]) for source, name in carried]
    outer.initializer.extend(branch.initializer)
    del outer.node[at]
    for offset, one in enumerate(nodes):
        outer.node.insert(at + offset, one)


def rename(graph: GraphProto, names: dict[str, str]) -> None:
    """Give tensors of a graph, and of the graphs inside it, other names."""
    for one in all_graphs(graph):
        for node in one.node:
            node.input[:] = [names.get(name, name) for name in node.input]
            node.output[:] = [names.get(name, name) for name in node.output]
        for value in [*one.initializer, *one.output]:
            value.name = names.get(value.name, value.name)
