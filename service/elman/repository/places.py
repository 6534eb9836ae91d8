"""Operators whose bits depend on where in a tensor a number stands, made to depend on the number alone.

ONNX Runtime computes them for several numbers at once, and what is left at the end of the tensor one by one, with
another rounding. So the answer to a sequence would depend on its length and on its neighbours.
"""

import numpy as np
from onnx import NodeProto

from elman.repository.building import Build
from elman.repository.graph import Graph, all_graphs

_PLACED = frozenset("Acos Asin Atan Celu Cos Elu Log Mish Selu Sin Softplus".split())
# Numbers that are computed at once, at most: 512 bits of float32.
_TAIL = 16
# Slice takes its bounds as inputs from this set on, and Reshape keeps an extent of 0 from the other one on.
_OPSET = 10
_OPSET_OF_EMPTY = 14


def round_alike(graph: Graph) -> None:
    """Add a tail of ones to what such operators read, and drop what becomes of it: nothing is left over at the end."""
    if graph.opset < _OPSET:
        return
    varying = graph.forward(graph.inputs)
    for one in all_graphs(graph.proto):
        top = one is graph.proto
        for node in [node for node in one.node if node.op_type in _PLACED]:
            if top and node.input[0] not in varying:
                continue
            at = next(i for i, other in enumerate(one.node) if list(other.output) == list(node.output))
            made = _with_tail(graph, node)
            del one.node[at]
            for offset, other in enumerate(made):
                one.node.insert(at + offset, other)
    graph.index()


def _with_tail(graph: Graph, node: NodeProto) -> list[NodeProto]:
    build = Build(graph, f"elman.placed.{node.output[0]}")
    kept = {"allowzero": 1} if graph.opset >= _OPSET_OF_EMPTY else {}
    shape = build.add("Shape", [node.input[0]])
    flat = build.add("Reshape", [node.input[0], build.ints([-1])])
    longer = build.add("Concat", [flat, build.array(np.ones(_TAIL, np.float32))], axis=0)
    computed = build.add(node.op_type, [longer])
    build.nodes[-1].attribute.extend(node.attribute)
    numbers = build.add("Slice", [computed, build.ints([0]), build.ints([-_TAIL])])
    build.add("Reshape", [numbers, shape], into=node.output[0], **kept)
    return build.nodes
