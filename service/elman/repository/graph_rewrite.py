"""A graph half-way to its normal form, and what is known of it so far."""

from dataclasses import dataclass, field

from onnx import NodeProto

from elman.repository.graph import QUANTISED, RECURRENT, Graph
from elman.repository.graph_axes import BATCH, Kind, Traced, is_steps
from elman.repository.graph_io import Roles
from elman.repository.network import Array, Layout, StateTensor
from elman.repository.runtime import GraphSession
from elman.repository.spec import ModelSpec

Probes = tuple[tuple[int, int], ...]

# Rows and steps. Two runs at different extents tell which axis of a tensor is the batch and which is time.
# Primes, so that a frozen extent does not divide a product of them by chance.
PROBES: Probes = ((3, 7), (2, 11))
# For graphs that do not run on so few steps, as a convolution without padding does not.
LONGER_PROBES: tuple[Probes, ...] = (((3, 61), (2, 89)), ((3, 509), (2, 1021)))


@dataclass
class GraphRewrite:
    """What the steps of the rewriting find and change.

    `shapes` are those of every tensor at each of the probes, and `values` those of the tensors that depend on an input;
    `trace` is what is known of the axes of each, and `scanned` what recurrent nodes go over; `states` is what will be
    carried; `own_clocks` are outputs with other steps than the data; `session` runs the graph with every tensor an
    output. `probes` are the rows and steps of the runs. `window`, `max_rows` and `look_ahead` are as in Network.
    """

    graph: Graph
    spec: ModelSpec
    roles: Roles
    layout: Layout = "batch_first"
    window: int | None = None
    max_rows: int | None = None
    probes: Probes = PROBES
    look_ahead: str | None = None
    shapes: list[dict[str, tuple[int, ...]]] = field(default_factory=list)
    values: list[dict[str, Array]] = field(default_factory=list)
    trace: dict[str, Traced] = field(default_factory=dict)
    scanned: dict[Kind, str] = field(default_factory=dict)
    states: list[StateTensor] = field(default_factory=list)
    own_clocks: set[str] = field(default_factory=set)
    session: GraphSession | None = None

    @property
    def watching(self) -> GraphSession:
        """The graph as it is, with every tensor an output. It is there once the probes have run."""
        assert self.session is not None
        return self.session

    def extents(self) -> list[tuple[int, int]]:
        """Rows and steps of each probe."""
        return [(self.max_rows or batch, self.window or length) for batch, length in self.probes]


def axes_of(rewrite: GraphRewrite, name: str) -> tuple[int | None, int | None]:
    """(batch axis, time axis) of a tensor; None for one that it does not have, or not for itself alone."""
    batch = time = None
    for at, axis in enumerate(rewrite.trace[name].axes):
        if len(axis) == 1 and axis[0].kind == BATCH:
            batch = at
        elif is_steps(axis):
            time = at
    return batch, time


def path_of(rewrite: GraphRewrite) -> list[NodeProto]:
    """The nodes, in order, that the per-step outputs depend on and that depend on an input."""
    graph = rewrite.graph
    varying = graph.forward(graph.inputs)
    needed = graph.backward(rewrite.roles.outputs)
    return [
        node for node in graph.proto.node if any(name in needed and name in varying for name in node.output if name)
    ]


def recurrent_inside(node: NodeProto) -> bool:
    """Whether a node carries state of its own, or may."""
    return node.op_type in RECURRENT | QUANTISED | {"If", "Loop", "Scan"}
