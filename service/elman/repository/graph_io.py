"""The role of each input and output of a graph: by the spec where it says, otherwise by names and structure."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from elman.errors import ModelRefused, SpecRefused
from elman.repository.graph import QUANTISED, RECURRENT, Graph, draws_at_random, nodes_inside
from elman.repository.graph_trace import node_label
from elman.repository.naming import names_batch, names_lengths, names_mask, names_state
from elman.repository.pairing import (
    SEQUENCE_LENS,
    batch_axis,
    is_move,
    namesake,
    pair_states,
    port,
    starts_only,
    state_ports,
)
from elman.repository.spec import InputRole, ModelSpec, PortSpec, StateSpec


@dataclass(frozen=True)
class GraphInput:
    """An input beside the data and the state.

    `batch_axis` and `time_axis` are those that it is declared with, the latter None where it has none; `valid` is what
    a mask says of a real step, None where that is still to be found out. `found` says how its role was found; `tied`
    is whether its time is the data's by name, so that no run has to show it.
    """

    name: str
    role: InputRole
    found: str
    batch_axis: int = 0
    time_axis: int | None = None
    valid: int | None = None
    tied: bool = True


@dataclass(frozen=True)
class Roles:
    """What each input and output of a graph is for. `outputs[0]` is the primary one.

    `found` says how the roles of the data input and of the states were found. `idle` are inputs that start a recurrent
    node whose state the server carries for itself, `states_out` the outputs that hold a state, paired or not, and
    `unused` those that depend on no input, or are switched off.
    """

    data: str
    states: tuple[StateSpec, ...]
    others: tuple[GraphInput, ...]
    outputs: tuple[str, ...]
    found: dict[str, str]
    idle: tuple[str, ...] = ()
    states_out: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()

    @property
    def lengths(self) -> str | None:
        """The author's own input for the number of steps of each row."""
        return next((other.name for other in self.others if other.role == "lengths"), None)


def find_roles(graph: Graph, spec: ModelSpec) -> Roles:
    """Decide every role. Raises ModelRefused where nothing decides, with the model.json to start from."""
    _check_names(graph, spec)
    said = {name: one.role for name, one in spec.inputs.items() if one.role is not None}
    lengths = {name for name in graph.inputs if said.get(name, _as_lengths(graph, name)) == "lengths"}
    known = {name for name, role in said.items() if role != "state"} | lengths
    weights = _weights(graph)
    reached = {spec.input.name} if spec.input.name else _read_as_sequence(graph, known)
    # A cache may be joined with the data before the first recurrent node.
    reached = {name for name in reached if not namesake(graph, name)} or reached
    states = _states(graph, spec, reached | weights, known)
    taken = {state.input for state in states}
    rest = [name for name in graph.inputs if name not in taken and graph.consumers.get(name)]
    # Without the name of a state it may be what an encoder gives, so each request gives it.
    idle = [name for name in rest if name not in known and names_state(name) and starts_only(graph, name)]
    rest = [name for name in rest if name not in idle]
    unsaid = [n for n in rest if said.get(n, "sequence") == "sequence" and n not in lengths | weights]
    data = spec.input.name or _data_input(graph, unsaid, reached)
    _check_constants(graph, data, [n for n in rest if n not in {data, *lengths} and _is_constant(graph, n, data, said)])
    _check_single_step(graph, data, [name for name in rest if name not in said and name != data])
    found = {data: "model.json" if spec.input.name else _how(graph, data, rest)}
    given = {state.input for state in spec.state or ()} | set(said)
    found |= {state.input: "model.json" if state.input in given else "structure and name" for state in states}
    return _with_outputs(graph, spec, Roles(data, states, (), (), found, tuple(idle)))


def _check_single_step(graph: Graph, data: str, names: list[str]) -> None:
    """Refuse a file of one step that returns a block of the very shape that it takes: a state, or a static input.

    Raises ModelRefused, with the model.json that makes it a state.
    """
    if not _is_one_step(graph.dims(data)):
        return
    for name in names:
        dims = graph.dims(name)
        outputs = [one for one in graph.outputs if graph.dims(one)[1:] == dims[1:] and name in graph.backward([one])]
        if len(dims) > 2 and len(outputs) == 1 and all(isinstance(dim, int) for dim in dims[1:]):
            raise ModelRefused(
                f"the input {name!r} has the shape of the output {outputs[0]!r}, which may replace it in each step",
                node=f"input {name!r}",
                remedy="Say in model.json if it is a state; else give it the role static under inputs.",
                template={"state": [{"input": name, "output": outputs[0], "batch_axis": batch_axis(graph, name)}]},
            )


def _is_one_step(dims: Sequence[int | str | None]) -> bool:
    free = sum(not isinstance(dim, int) for dim in dims)
    return free < 2 and all(dim == 1 or not isinstance(dim, int) for dim in dims[:-1])


def _how(graph: Graph, data: str, rest: list[str]) -> str:
    if len(rest) == 1:
        return "the only one that is left"
    return "a recurrent node goes over it" if graph.recurrent() else "the first that is left"


def _check_names(graph: Graph, spec: ModelSpec) -> None:
    for what, names, known in (
        ("input.name", [spec.input.name], graph.inputs),
        ("inputs", list(spec.inputs), {**graph.inputs, **spec.values}),
        ("inputs.output", [one.output for one in spec.inputs.values()], graph.outputs),
        ("state.input", [state.input for state in spec.state or ()], graph.inputs),
        ("state.output", [state.output for state in spec.state or ()], graph.outputs),
        ("outputs", list(spec.outputs or ()), graph.outputs),
    ):
        for name in names:
            if name is not None and name not in known:
                raise SpecRefused(
                    f"the spec's {what} names {name!r}, which the graph does not have",
                    remedy=f"The graph has {', '.join(map(repr, known)) or 'none'}.",
                )


def _states(graph: Graph, spec: ModelSpec, data: set[str], known: set[str]) -> tuple[StateSpec, ...]:
    if spec.state is not None:
        return spec.state
    told = tuple(
        StateSpec(
            input=name,
            output=one.output,
            batch_axis=batch_axis(graph, name) if one.batch_axis is None else one.batch_axis,
            initial=one.initial,
        )
        for name, one in spec.inputs.items()
        if one.output is not None
    )
    return told + pair_states(graph, data, known, told)


def _weights(graph: Graph) -> set[str]:
    """Graph inputs that recurrent nodes take as weights: constants that the file does not hold."""
    ports = [port(node, position) for node in graph.recurrent() for position in (1, 2, 3, 7)]
    return {name for name in graph.backward(ports, is_move) if name in graph.inputs}


def _as_lengths(graph: Graph, name: str) -> InputRole | None:
    """Whether an input counts the steps of each row: a recurrent node stops by it, or what picks or turns steps."""
    if graph.dtype(name).kind not in "iu" or len(graph.dims(name)) != 1:
        return None
    moved = graph.forward([name], is_move)
    stops = any(port(node, SEQUENCE_LENS) in moved for node in graph.recurrent())
    turns = any(node.op_type == "ReverseSequence" and node.input[1] in moved for node in graph.proto.node)
    lowered = {
        out
        for name in moved
        for node in graph.consumers.get(name, [])
        if node.op_type in ("Sub", "Add") and _is_one(graph, node.input, name, -1 if node.op_type == "Add" else 1)
        for out in node.output
    }
    indexing = graph.forward(lowered, is_move)
    picks = any(
        node.op_type in ("Gather", "GatherElements", "GatherND") and node.input[1] in indexing
        for one in indexing
        for node in graph.consumers.get(one, [])
    )
    return "lengths" if stops or turns or picks or names_lengths(name) else None


def _is_one(graph: Graph, inputs: Sequence[str], name: str, one: int) -> bool:
    other = next((other for other in inputs if other != name), "")
    value = graph.constant(other)
    return value is not None and value.size == 1 and int(value.reshape(-1)[0]) == one


def _read_as_sequence(graph: Graph, known: set[str]) -> set[str]:
    """Inputs that the first recurrent node goes over; where there is none, the first that is no state by its name."""
    nodes = [node for node in graph.proto.node if node.op_type in RECURRENT | QUANTISED]
    if nodes:
        return {name for name in graph.backward([nodes[0].input[0]]) if name in graph.inputs} - known - _weights(graph)
    pairs = {pair.input for pair in pair_states(graph, set(), known, (), strict=False)}
    return set([name for name in graph.inputs if name not in pairs | known][:1])


def _data_input(graph: Graph, rest: list[str], reached: set[str]) -> str:
    """The primary input: of those that a recurrent node goes over the first, as the file lists them."""
    candidates = [name for name in rest if graph.dims(name) and not _is_fixed(graph, name)] or rest
    chosen = next((name for name in candidates if name in reached and not names_mask(name)), None)
    chosen = chosen or next(iter(candidates), None)
    if chosen is None:
        raise ModelRefused(
            "the graph has no input left that could be its data",
            remedy="Name it in model.json, and say there what each other input is.",
            template={"input": {"name": next(iter(graph.inputs), "")}},
        )
    return chosen


def _is_fixed(graph: Graph, name: str) -> bool:
    """Whether an input declares no axis that could count rows."""
    dims = graph.dims(name)
    return all(isinstance(dim, int) for dim in dims) and dims[:1] != [1] and dims[1:2] != [1]


def read_others(graph: Graph, spec: ModelSpec, roles: Roles, batch: int, time: int | None) -> Roles:
    """The roles of the inputs beside data and state, where the data has its rows and steps on these axes."""
    taken = {roles.data, *roles.idle, *(state.input for state in roles.states)}
    names = [name for name in graph.inputs if name not in taken and graph.consumers.get(name)]
    return replace(roles, others=tuple(_other(graph, spec, name, roles.data, batch, time) for name in names))


def _other(graph: Graph, spec: ModelSpec, name: str, data: str, batch: int, time: int | None) -> GraphInput:
    told, dims, own = spec.inputs.get(name, PortSpec()), graph.dims(name), graph.dims(data)
    rows = next((axis for axis, dim in enumerate(dims) if _same(dim, own[batch]) or names_batch(dim)), None)
    steps = None if time is None else _steps_axis(dims, own, batch, time, rows)
    role, found = told.role, "model.json"
    if role is None and _as_lengths(graph, name):
        role, found = "lengths", "a recurrent node stops by it, or it is named so"
    elif role is None and steps is not None:
        role, found = ("mask" if len(dims) == 2 and names_mask(name) else "sequence"), "it has the axis of time"
    elif role is None and time is None and not _is_fixed_row(dims, rows or 0):
        role, found = "static", "it has an axis of a length of its own"
    elif role is None:
        role, found = ("sequence" if time is None else "static"), "it has no axis of time"
    if rows is None:
        rows = 1 if steps == 0 else 0
        extent = dims[rows] if rows < len(dims) else None
        if told.batch_axis is None and isinstance(extent, int) and extent not in (1, own[batch]):
            raise ModelRefused(
                f"the input {name!r} has no axis for the rows: it has the axes {dims}, and the data {own}",
                node=f"input {name!r}",
                remedy="Say its batch_axis under inputs in model.json, or export it with one.",
            )
    if role in ("sequence", "mask") and time is not None and len(dims) < 2:
        raise SpecRefused(
            f"model.json says that the input {name!r} is {role!r}, but it has no axis of time",
            node=f"input {name!r}",
            remedy="Leave its role out, or say that it is static.",
        )
    if role in ("sequence", "mask") and time is not None and steps is None:
        steps = 1 - rows if rows < 2 else 0
    assert role is not None
    return GraphInput(
        name,
        role,
        found,
        rows if told.batch_axis is None else told.batch_axis,
        (steps if told.time_axis is None else told.time_axis) if role in ("sequence", "mask") else None,
        told.valid,
        told.role is not None or steps is None or isinstance(own[time or 0], int) or _same(dims[steps], own[time or 0]),
    )


def _is_fixed_row(dims: list[int | str | None], batch: int) -> bool:
    """Whether only the batch axis is free."""
    return all(isinstance(dim, int) for axis, dim in enumerate(dims) if axis != batch)


def _same(dim: int | str | None, other: int | str | None) -> bool:
    return isinstance(dim, str) and dim == other


def _steps_axis(
    dims: list[int | str | None], data: list[int | str | None], batch: int, time: int, rows: int | None
) -> int | None:
    """The axis that is named as the data's time is; in its place, where that is as free or as fixed as there.

    An input whose other axes can count no rows has rows in that place.
    """
    if len(dims) < 2:
        return None  # its one axis is that of the rows
    own = data[time]
    named = [axis for axis, dim in enumerate(dims) if _same(dim, own)]
    if named or len(dims) <= time or rows == time:
        return next(iter(named), None)
    others = [dim for axis, dim in enumerate(dims) if axis != time]
    if rows is None and all(isinstance(dim, int) and dim not in (1, data[batch]) for dim in others):
        return None
    dim = dims[time]
    return time if dim == own or not (isinstance(dim, int) or isinstance(own, int)) else None


def _is_constant(graph: Graph, name: str, data: str, said: dict[str, InputRole]) -> bool:
    """Whether an input is the same for everybody: it has no axis that could count rows."""
    if name in said:
        return said[name] == "constant"
    free = any(not isinstance(dim, int) for dim in graph.dims(data))
    fixed = all(isinstance(dim, int) for dim in graph.dims(name))
    return name in _weights(graph) or not graph.dims(name) or (fixed and (free or _is_fixed(graph, name)))


def _check_constants(graph: Graph, data: str, missing: list[str]) -> None:
    """Raise ModelRefused for inputs that are the same for everybody and have no value, with a place for each."""
    if missing:
        shapes = ", ".join(f"{name!r} ({graph.dtype(name).name} {graph.dims(name)})" for name in missing)
        raise ModelRefused(
            f"the graph takes {shapes}, which would be the same for every sequence, and no value is given",
            node=f"input {missing[0]!r}",
            remedy=f"Put the value of each in the place of null under constants in model.json; {data!r} is the data. "
            "Where each sequence has its own, give the input the role static under inputs instead.",
            template={"input": {"name": data}, "constants": dict.fromkeys(missing)},
        )


def _with_outputs(graph: Graph, spec: ModelSpec, roles: Roles) -> Roles:
    """Tell outputs that answer from those that hold a state and those that depend on no input."""
    varying = graph.forward(graph.inputs)
    drawn = _drawn(graph)
    states = {state.output for state in roles.states}
    finals = [final for node in graph.recurrent() for _, final in state_ports(node)]
    per_step = [node.output[0] for node in graph.recurrent() if node.output]
    moved = graph.forward(finals, is_move) - graph.forward(per_step, is_move)
    rest = [name for name in graph.outputs if name not in states and name in varying]
    kept = [name for name in rest if name not in moved] or rest
    kept = [name for name in kept if name not in drawn] or kept
    off = {name for name, one in spec.answers.items() if one.role == "unused"}
    order = list(spec.outputs or ()) if isinstance(spec.outputs, tuple) else [n for n in spec.answers if n not in off]
    if isinstance(spec.outputs, tuple):
        outputs = order
    else:
        outputs = [*order, *(name for name in kept if name not in order and name not in off)]
    if not outputs:
        raise ModelRefused("the graph has no output beside its state", remedy="Export the per-step output too.")
    _check_drawn(drawn, [*outputs, *states])
    _check_numbers(graph, outputs)
    held = tuple(name for name in graph.outputs if name not in outputs and (name in states or name in moved))
    unused = tuple(name for name in graph.outputs if name not in outputs and name not in held)
    found = roles.found | {name: f"{drawn[name]} draws it at random" for name in unused if name in drawn}
    return replace(roles, outputs=tuple(outputs), states_out=held, unused=unused, found=found)


def _check_numbers(graph: Graph, outputs: list[str]) -> None:
    """Raise ModelRefused for an answer that is text."""
    for name in outputs:
        if graph.dtype(name).kind in "OSU":
            raise ModelRefused(
                f"the output {name!r} is text, and answers are numbers",
                node=f"output {name!r}",
                remedy="Give it the role unused in model.json, and the other outputs answer.",
                template={"outputs": {name: {"role": "unused"}}},
            )


def _drawn(graph: Graph) -> dict[str, str]:
    """The tensors that depend on a node which draws at random, each with one such node."""
    return {
        name: node_label(node)
        for node in graph.proto.node
        if any(draws_at_random(graph, inner) for inner in (node, *nodes_inside(node)))
        for name in graph.forward(node.output)
    }


def _check_drawn(drawn: dict[str, str], kept: list[str]) -> None:
    """Raise ModelRefused for an answer or a state that is another one each time."""
    name = next((name for name in kept if name in drawn), None)
    if name is not None:
        raise ModelRefused(
            f"the output {name!r} is drawn at random, so that no answer is the right one",
            node=drawn[name],
            remedy="Export what it is drawn from instead, such as a mean or scores. A dropout layer draws in a file "
            "that was exported in training mode.",
        )
