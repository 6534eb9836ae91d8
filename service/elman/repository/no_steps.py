"""GRU nodes that may be given no step at all, as by the differences of a single one.

ONNX Runtime ends the whole process there. A node in front makes an error of it, which harms that sequence alone.
"""

from elman.repository.building import Build
from elman.repository.extents import Extents
from elman.repository.graph_rewrite import GraphRewrite

# Slice takes its bounds as inputs from this set on.
_OPSET = 10


def refuse_no_steps(rewrite: GraphRewrite) -> None:
    """Let the graph fail where a GRU node would go over nothing, if its steps are not those of the data."""
    graph, layout = rewrite.graph, rewrite.layout
    extents = Extents(graph, rewrite.shapes[0], {})
    own = extents.of(rewrite.roles.data, 0 if layout == "time_first" else 1)
    if layout == "step" or rewrite.window is not None or graph.opset < _OPSET:
        return
    for node in [node for node in graph.recurrent() if node.op_type == "GRU"]:
        steps = extents.of(node.input[0], 0)
        if steps == own or (isinstance(steps, int) and steps > 0):
            continue
        at = list(graph.proto.node).index(node)
        build = Build(graph, f"elman.some.{node.input[0]}.{at}")
        zero = build.ints([0])
        first = build.add("Gather", [node.input[0], zero], axis=0)  # fails without a step
        nothing = build.add("Slice", [first, zero, zero, zero])
        graph.proto.node[at].input[0] = build.add("Concat", [node.input[0], nothing], axis=0)
        for offset, one in enumerate(build.nodes):
            graph.proto.node.insert(at + offset, one)
    graph.index()
