"""What recurrent nodes do with rows and steps."""

from dataclasses import replace

from onnx import NodeProto

from elman.repository.graph import attribute
from elman.repository.graph_axes import (
    BATCH,
    TIME,
    Kind,
    Traced,
    is_steps,
    kinds_of,
    plain_axis,
)
from elman.repository.graph_trace import Tracer, node_label


def recurrent(tracer: Tracer, node: NodeProto) -> list[Traced]:
    """LSTM, GRU and RNN go over (time, batch, features) and take (directions, batch, hidden) to begin with."""
    given, label = [*node.input, *[""] * 8], node_label(node)
    steps, rows, features = tracer.at(given[0]).axes
    count = len(tracer.shapes)
    hidden = plain_axis((int(attribute(node, "hidden_size")),) * count)
    bidirectional = attribute(node, "direction", "forward") == "bidirectional"
    directions = plain_axis((2 if bidirectional else 1,) * count)
    over = kinds_of(steps)
    tracer.goes_over(node, given[0], steps)
    weights = [name for name in given[1:4] + given[7:] if name]
    starts = [tracer.at(name) for name in given[5:7] if name]
    lengths = [] if not given[4] or tracer.at(given[4]).carried == {"lengths"} else [given[4]]
    combines = set(kinds_of(features, *(axis for name in weights for axis in tracer.at(name).axes)))
    combines |= {kind for kind in over if kind == BATCH or lengths or not is_steps(steps)}
    for start in starts:
        combines |= start.kinds if start.axes[1] not in ((), rows) else start.kinds - {BATCH}
        if TIME in over and ((start.reads and not start.carried) or TIME in start.sized):
            combines.add(TIME)
        combines |= start.sized - {TIME}
    made = tracer.combined(node, [given[0], *weights, *lengths], (), combines)
    made = replace(
        made,
        reads=made.reads or any(start.reads for start in starts),
        mixes=made.mixes or _first_of(starts, "mixes"),
        strangers=made.strangers or _first_of(starts, "strangers"),
        ahead=made.ahead or _first_of(starts, "ahead") or _backwards(node, over),
    )
    final = replace(made, axes=(directions, rows, hidden), edge=made.edge or TIME in over)
    if made.edge and TIME in kinds_of(steps, rows):
        made = replace(made, mixes=made.mixes or label)
    return [replace(made, axes=(steps, directions, rows, hidden)), final, final]


def _first_of(parts: list[Traced], field: str) -> str | None:
    return next((getattr(part, field) for part in parts if getattr(part, field)), None)


def _backwards(node: NodeProto, over: frozenset[Kind]) -> str | None:
    direction = attribute(node, "direction", "forward")
    if direction == "forward" or TIME not in over:
        return None
    return f"{node_label(node)} is {direction}: it reads the sequence from its end"


def quantised_recurrent(tracer: Tracer, node: NodeProto) -> list[Traced]:
    """Its input is rounded on a scale that is taken over the whole block."""
    made = recurrent(tracer, node)
    return [
        replace(one, mixes=one.mixes or node_label(node), strangers=one.strangers or node_label(node)) for one in made
    ]
