"""What a graph is made of: its cells, its direction, its vocabulary, and what combines its steps."""

import numpy as np
from onnx import NodeProto

from elman.repository.graph import QUANTISED, RECURRENT, Graph, all_nodes, attribute
from elman.repository.graph_io import node_label
from elman.repository.graph_rewrite import GraphRewrite, axes_of, path_of

# Operators that combine steps: over a window of a spatial axis, along an axis that they are given, or always.
_WINDOWED = frozenset("Conv ConvTranspose ConvInteger QLinearConv MaxPool AveragePool LpPool".split())


_ACROSS = frozenset(
    "ReduceMean ReduceSum ReduceMax ReduceMin ReduceProd ReduceL1 ReduceL2 Softmax LogSoftmax CumSum TopK".split()
)


_WHOLE = frozenset(
    "Attention MultiHeadAttention GlobalAveragePool GlobalMaxPool ReverseSequence DynamicQuantizeLinear".split()
)


def find_look_ahead(graph: Graph) -> str | None:
    for node in all_nodes(graph.proto):
        known = node.op_type in RECURRENT | QUANTISED
        direction = attribute(node, "direction", "forward") if known else "forward"
        if direction != "forward":
            return f"{node_label(node)} is {direction}: it reads the sequence from its end"
    return None


def find_mixing(rewrite: GraphRewrite) -> str | None:
    """The first node that seems to combine different steps, for the proof to name where chunks do not add up."""
    varying = rewrite.graph.forward(rewrite.graph.inputs)
    for node in path_of(rewrite):
        inputs = [name for name in node.input if name in varying]
        times = [time for name in inputs if (time := axes_of(rewrite, name)[1]) is not None]
        if not times:
            continue
        windowed = node.op_type in _WINDOWED and times[0] >= 2
        across = node.op_type in _ACROSS and times[0] in _reduced_axes(rewrite, node)
        product = node.op_type in ("MatMul", "Einsum", "Gemm") and len(inputs) > 1
        if windowed or across or product or node.op_type in _WHOLE:
            return node_label(node)
    return None


def _reduced_axes(rewrite: GraphRewrite, node: NodeProto) -> list[int]:
    """The axes that a node works along, from its attribute or its second input; all of them where it says none."""
    rank = len(rewrite.shapes[0].get(node.input[0], ()))
    axes = attribute(node, "axes", attribute(node, "axis"))
    if axes is None and len(node.input) > 1:
        value = rewrite.graph.constant(node.input[1])
        axes = None if value is None else value.reshape(-1).tolist()
    if axes is None:
        axes = [-1] if node.op_type in ("Softmax", "LogSoftmax") else list(range(rank))
    return [axis % max(rank, 1) for axis in ([axes] if isinstance(axes, int) else axes)]


def find_cell(rewrite: GraphRewrite) -> tuple[str, int, int]:
    nodes = [node for node in all_nodes(rewrite.graph.proto) if node.op_type in RECURRENT]
    quantised = [node for node in all_nodes(rewrite.graph.proto) if node.op_type in QUANTISED]
    nodes = nodes or quantised
    if not nodes:
        sizes = [dim for state in rewrite.roles.states for dim in rewrite.graph.dims(state.input)[-1:]]
        return "custom", max(len(rewrite.roles.states), 1), next((d for d in sizes if isinstance(d, int)), 0)
    names = {"DynamicQuantizeLSTM": "lstm"}
    kinds = list(dict.fromkeys(names.get(node.op_type, node.op_type.lower()) for node in nodes))
    return "+".join(kinds), len(nodes), int(attribute(nodes[-1], "hidden_size", 0))


def find_features(rewrite: GraphRewrite) -> int | None:
    if not np.issubdtype(rewrite.graph.dtype(rewrite.roles.data), np.floating):
        return None
    return int(rewrite.spec.input.size or rewrite.graph.dims(rewrite.roles.data)[-1] or 1)


def find_vocabulary_size(graph: Graph, data: str) -> int | None:
    """The number of rows of the embedding that the tokens index, where one is found."""
    followed = graph.forward([data], lambda node: node.op_type in ("Cast", "Transpose", "Identity"))
    sizes = []
    for name in followed:
        for node in graph.consumers.get(name, []):
            if node.op_type == "Gather" and node.input[1] == name and attribute(node, "axis", 0) == 0:
                table = graph.constant(node.input[0])
                if table is not None and table.ndim == 2:
                    sizes.append(table.shape[0])
    return min(sizes) if sizes else None
