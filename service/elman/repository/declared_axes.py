"""What the declared axes of the data say against a spec, and against the network."""

from elman.errors import ModelRefused
from elman.repository.graph import Graph
from elman.repository.graph_io import Roles
from elman.repository.naming import names_time
from elman.repository.pairing import port
from elman.repository.spec import ModelSpec


def check_size(graph: Graph, spec: ModelSpec, name: str) -> None:
    """Raise ModelRefused for a size of the spec that no axis of the data has."""
    dims, size = graph.dims(name), spec.input.size
    if graph.dtype(name).kind == "f" and len(dims) > 1 and size is not None:
        if isinstance(dims[-1], int) and dims[-1] != size and size not in dims:
            raise ModelRefused(
                f"the spec's input size is {size}, the graph's is {dims[-1]}",
                node=f"input {name!r}",
                remedy=f"Leave size out of model.json, or make it {dims[-1]}.",
            )


def check_two_axes(graph: Graph, spec: ModelSpec, roles: Roles) -> None:
    """Raise ModelRefused for data of two axes that a recurrent node takes for more than one feature a step."""
    dims, nodes = graph.dims(roles.data), graph.recurrent()
    if (
        len(dims) != 2
        or (isinstance(dims[1], int) and not names_time(dims[0]))
        or graph.dtype(roles.data).kind != "f"
        or spec.input.size
        or not nodes
    ):
        return
    weights = graph.constant(port(nodes[0], 1))
    if weights is not None and weights.shape[-1] > 1:
        raise ModelRefused(
            f"the data input {roles.data!r} has two axes, and a step has {weights.shape[-1]} features: "
            "there is no axis of rows, or none of steps",
            node=f"input {roles.data!r}",
            remedy="Export it as (batch, time, features). If it is one step, (batch, features), say its size in "
            "model.json.",
            template={"input": {"name": roles.data, "size": int(weights.shape[-1])}},
        )
