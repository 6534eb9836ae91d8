"""What the declared axes of the data say against a spec, and against the network."""

from collections.abc import Iterator

from elman.errors import ModelRefused, SpecRefused
from elman.repository.graph import Graph
from elman.repository.graph_io import Roles
from elman.repository.naming import names_time
from elman.repository.pairing import port
from elman.repository.spec import ModelSpec

# The numbers of axes that the inputs of a role may have.
_RANKS = {"lengths": (1,), "mask": (1, 2), "static": range(1, 9), "sequence": range(1, 9)}
_FITTING = {
    "lengths": "lengths are one number for each row, (batch).",
    "mask": "a mask has one number for each step, (batch, time).",
    "static": "one that has no axis for the rows is a constant.",
    "sequence": "one that has no axis for the rows is a constant.",
}


def check_size(graph: Graph, spec: ModelSpec, name: str) -> None:
    """Raise ModelRefused for a size of the spec that no axis of the data has."""
    dims, size = graph.dims(name), spec.input.size
    if graph.dtype(name).kind == "f" and len(dims) > 1 and size is not None:
        if isinstance(dims[-1], int) and dims[-1] != size and size not in dims:
            raise SpecRefused(
                f"the spec's input size is {size}, the graph's is {dims[-1]}",
                node=f"input {name!r}",
                remedy=f"Leave size out of model.json, or make it {dims[-1]}.",
            )


def check_ports(graph: Graph, spec: ModelSpec) -> None:
    """Raise ModelRefused for an axis of the spec that its input does not have, or a role that its axes do not fit."""
    for name, field, axis in _said_axes(spec):
        if _rank(graph, name) is not None and axis >= len(graph.dims(name)):
            raise SpecRefused(
                f"the spec's {field} is {axis}, and {name!r} has the axes {graph.dims(name)}, counted from 0",
                node=f"input {name!r}",
                remedy=f"Leave it out of model.json, or make it less than {len(graph.dims(name))}.",
            )
    for name, one in spec.inputs.items():
        rank = _rank(graph, name)
        numbers = one.role != "lengths" or (name in graph.inputs and graph.dtype(name).kind in "iuf")
        if rank is not None and one.role in _RANKS and not (numbers and rank in _RANKS[one.role]):
            raise SpecRefused(
                f"model.json says that the input {name!r} is {one.role!r}, but it is {graph.dtype(name).name} of the "
                f"axes {graph.dims(name)}",
                node=f"input {name!r}",
                remedy=f"Leave its role out, or give it another one: {_FITTING[one.role]}",
            )


def _said_axes(spec: ModelSpec) -> Iterator[tuple[str, str, int]]:
    """The axes that a spec names of inputs whose names it says: the input, the field and the axis."""
    ports = {name: (f"inputs.{name}", one) for name, one in spec.inputs.items()}
    named = {spec.input.name: ("input", spec.input)} if spec.input.name else {}
    for name, (field, one) in [*ports.items(), *named.items()]:
        for key in ("batch_axis", "time_axis"):
            if (axis := getattr(one, key)) is not None:
                yield name, f"{field}.{key}", axis
    for index, state in enumerate(spec.state or ()):
        yield state.input, f"state.{index}.batch_axis", state.batch_axis


def _rank(graph: Graph, name: str) -> int | None:
    """The number of axes of an input; None if it is not there or declares none."""
    value = graph.inputs.get(name)
    declared = value is not None and value.type.tensor_type.HasField("shape")
    return len(graph.dims(name)) if declared else None


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
