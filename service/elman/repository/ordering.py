"""The nodes of a graph in the order in which they run."""

from graphlib import CycleError, TopologicalSorter

import onnx

from elman.repository.graph import all_graphs, reads


def sort_nodes(model: onnx.ModelProto) -> None:
    """Put each node behind those that make what it reads, in each graph.

    ONNX asks for that order, and ONNX Runtime does without: its own converter to float16 adds its casts at the end. A
    graph that reads its own results is left as it is, since ONNX Runtime does not open it.
    """
    for graph in all_graphs(model.graph):
        nodes = list(graph.node)
        maker = {name: at for at, node in enumerate(nodes) for name in node.output if name}
        before = [{maker[name] for name in reads(node) if name in maker} for node in nodes]
        if all(made < at for at, those in enumerate(before) for made in those):
            continue
        try:
            order = list(TopologicalSorter(dict(enumerate(before))).static_order())
        except CycleError:
            continue
        sorted_nodes = [nodes[at] for at in order]
        del graph.node[:]
        graph.node.extend(sorted_nodes)
