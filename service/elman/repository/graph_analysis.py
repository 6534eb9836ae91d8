"""What a graph is made of: its cells, its features, and what on the way to its answers combines rows or steps."""

from dataclasses import dataclass, replace

import numpy as np

from elman.repository.controls import ADDED
from elman.repository.graph import QUANTISED, RECURRENT, all_nodes, attribute
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
    nodes = [node for node in all_nodes(rewrite.graph.proto) if node.op_type in RECURRENT]
    quantised = [node for node in all_nodes(rewrite.graph.proto) if node.op_type in QUANTISED]
    nodes = nodes or quantised
    if not nodes:
        controls = {state.input for state in rewrite.roles.states if state.output.startswith(ADDED)}
        sizes = [state.row_shape[-1] for state in rewrite.states if state.row_shape and state.input not in controls]
        layers = len(timed_scans(rewrite)) or max(len(rewrite.roles.states) - len(controls), 1)
        return "custom", layers, next(iter(sizes), 0)
    names = {"DynamicQuantizeLSTM": "lstm"}
    kinds = list(dict.fromkeys(names.get(node.op_type, node.op_type.lower()) for node in nodes))
    return "+".join(kinds), len(nodes), int(attribute(nodes[-1], "hidden_size", 0))


def find_features(rewrite: GraphRewrite) -> int | None:
    if not np.issubdtype(rewrite.graph.dtype(rewrite.roles.data), np.floating):
        return None
    return int(rewrite.spec.input.size or rewrite.graph.dims(rewrite.roles.data)[-1] or 1)
