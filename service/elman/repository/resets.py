"""States that a control sets anew: what reaches a recurrent node is the state itself in every run but the first.

A graph that is told the start of a sequence resets its state by it: `Where(START, 0, h)`, or `h * (1 - START)`. In all
runs but the first START is 0, and such a node hands on what is carried as it is.
"""

from onnx import NodeProto

from elman.repository.controls import starts
from elman.repository.graph_axes import Scrambled
from elman.repository.graph_trace import Tracer

NOTHING = frozenset[str]()


def kept_through(tracer: Tracer, node: NodeProto) -> frozenset[str]:
    """The states that a node hands on as they are if START is 0, as in the probes; none if that is not sure."""
    names = list(node.input)
    if node.op_type not in ("Where", "Mul") or not (known := starts(tracer.graph)):
        return NOTHING
    if node.op_type == "Mul":
        ways = [(names[0], names[1], 1, names[1]), (names[1], names[0], 1, names[0])]
    else:
        condition, yes, no = names
        ways = [(yes, condition, True, no), (no, condition, False, yes)]
    for state, decides, value, other in ways:
        if _is_always(tracer, known, decides, value) and _is_fixed(tracer, known, other):
            return tracer.at(state).carried
    return NOTHING


def _is_fixed(tracer: Tracer, known: set[str], name: str) -> bool:
    """Whether a tensor depends on no input but the start of a sequence."""
    return not (tracer.graph.backward([name]) & set(tracer.graph.inputs)) - known


def _is_always(tracer: Tracer, known: set[str], name: str, value: object) -> bool:
    """Whether a tensor that depends on START alone is the same number throughout if START is 0."""
    if not _is_fixed(tracer, known, name):
        return False
    try:
        return all(bool((seen == value).all()) for seen in tracer.every(name))
    except Scrambled:  # its values were not kept
        return False
