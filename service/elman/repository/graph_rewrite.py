"""A graph half-way to its normal form, and what is known of it so far."""

from dataclasses import dataclass, field

from onnx import NodeProto

from elman.repository.graph import QUANTISED, RECURRENT, Graph
from elman.repository.graph_io import Roles
from elman.repository.network import Array, Layout, StateTensor
from elman.repository.spec import ModelSpec


@dataclass
class GraphRewrite:
    """What the steps of the rewriting find and change.

    `shapes` and `values` are those of every tensor that depends on an input, at each of the probes; `states` is what
    will be carried; `max_rows` and `look_ahead` as in Network.
    """

    graph: Graph
    spec: ModelSpec
    roles: Roles
    layout: Layout = "batch_first"
    max_rows: int | None = None
    look_ahead: str | None = None
    shapes: list[dict[str, tuple[int, ...]]] = field(default_factory=list)
    values: list[dict[str, Array]] = field(default_factory=list)
    states: list[StateTensor] = field(default_factory=list)


# Two runs at different extents tell which axis of a tensor is the batch and which is time.
# Primes, so that a frozen extent does not divide a product of them by chance.
PROBES = ((3, 7), (2, 11))


def axes_of(rewrite: GraphRewrite, name: str) -> tuple[int | None, int | None]:
    """(batch axis, time axis) of a tensor, by how its shape followed the probes."""
    one, two = (shapes.get(name, ()) for shapes in rewrite.shapes)
    if len(one) != len(two):
        return None, None
    batch = time = None
    for axis, extents in enumerate(zip(one, two, strict=True)):
        if rewrite.max_rows is None and extents == (PROBES[0][0], PROBES[1][0]) and batch is None:
            batch = axis
        elif extents == (PROBES[0][1], PROBES[1][1]) and time is None:
            time = axis
    if rewrite.max_rows == 1 and time in (0, 1):
        batch = 1 - time
    return batch, time


def path_of(rewrite: GraphRewrite) -> list[NodeProto]:
    """The nodes, in order, that the per-step outputs hang on and that depend on an input."""
    graph = rewrite.graph
    varying = graph.forward(graph.inputs)
    needed = graph.backward(rewrite.roles.outputs)
    return [
        node for node in graph.proto.node if any(name in needed and name in varying for name in node.output if name)
    ]


def recurrent_inside(node: NodeProto) -> bool:
    return node.op_type in RECURRENT | QUANTISED | {"If", "Loop", "Scan"}
