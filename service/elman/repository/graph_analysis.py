"""What a graph is made of: its cells, its features, and what on the way to its answers combines rows or steps."""

from dataclasses import dataclass, replace

import numpy as np
from onnx import NodeProto

from elman.repository.controls import ADDED
from elman.repository.graph import CELL_BODY, QUANTISED, RECURRENT, all_nodes, attribute
from elman.repository.graph_loops import runs_backwards
from elman.repository.graph_rewrite import GraphRewrite
from elman.repository.scan_states import timed_scans


@dataclass(frozen=True)
class Marks:
    """The first node on the way to an answer or a state that combines steps, combines rows, or looks ahead."""

    mixes: str | None
    strangers: str | None
    ahead: str | None


def find_marks(rewrite: GraphRewrite) -> Marks:
    """What the answers and the states of a graph pass on their way from the inputs."""
    names = [*rewrite.roles.outputs, *(state.output for state in rewrite.roles.states)]
    traced = [rewrite.trace[name] for name in names]
    if rewrite.layout == "step":
        # There is one step a run, and nothing to combine it with.
        traced = [replace(one, mixes=None) for one in traced]
    columns = zip(*((one.mixes, one.strangers, one.ahead) for one in traced), strict=True)
    return Marks(*(next((m for m in marks if m), None) for marks in columns))


def find_cell(rewrite: GraphRewrite) -> tuple[str, int, int]:
    """The kinds of the recurrent layers, how many there are, and the hidden size of the last."""
    layers = [layer for node in all_nodes(rewrite.graph.proto) if (layer := _layer(rewrite, node)) is not None]
    if not layers:
        controls = {state.input for state in rewrite.roles.states if state.output.startswith(ADDED)}
        sizes = [state.row_shape[-1] for state in rewrite.states if state.row_shape and state.input not in controls]
        count = len(timed_scans(rewrite)) or max(len(rewrite.roles.states) - len(controls), 1)
        return "custom", count, next(iter(sizes), 0)
    return "+".join(dict.fromkeys(kind for kind, _ in layers)), len(layers), layers[-1][1]


def _layer(rewrite: GraphRewrite, node: NodeProto) -> tuple[str, int] | None:
    """The kind and the hidden size of the layer that a node is; None for any other node.

    A layer of two directions may be two Scans, of which the one from the last step to the first is not counted.
    """
    if node.op_type in RECURRENT | QUANTISED:
        return node.op_type.removeprefix("DynamicQuantize").lower(), int(attribute(node, "hidden_size", 0))
    name = attribute(node, "body").name if node.op_type == "Scan" else ""
    if not name.startswith(CELL_BODY) or runs_backwards(node):
        return None
    return name.removeprefix(CELL_BODY).lower(), rewrite.shapes[0][node.output[0]][-1]


def find_features(rewrite: GraphRewrite) -> int | None:
    if not np.issubdtype(rewrite.graph.dtype(rewrite.roles.data), np.floating):
        return None
    return int(rewrite.spec.input.size or rewrite.graph.dims(rewrite.roles.data)[-1] or 1)
