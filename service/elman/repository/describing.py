"""The inputs and outputs of a graph as its author made them, with the role of each."""

from elman.errors import ModelRefused
from elman.repository.controls import ADDED
from elman.repository.graph import Graph
from elman.repository.graph_io import GraphInput, Roles
from elman.repository.graph_rewrite import GraphRewrite, axes_of
from elman.repository.network import InputTensor, OutputTensor
from elman.repository.spec import InputRole
from elman.repository.tokens import find_vocabulary_size


def describe_inputs(author: Graph, rewrite: GraphRewrite) -> tuple[InputTensor, ...]:
    """Every input that the author's graph reads, the data first."""
    roles, graph = rewrite.roles, rewrite.graph
    batch = 1 if rewrite.layout == "time_first" else 0
    steps = [batch] if rewrite.layout == "step" else [0, 1]
    data = graph.dims(roles.data)
    found = [_input(author, roles.data, "sequence", _without(data, steps), roles.found[roles.data], batch)]
    found += [_other(author, graph, other) for other in roles.others]
    for state in roles.states:
        shape = _without(graph.dims(state.input), [state.batch_axis])
        found.append(_input(author, state.input, "state", shape, roles.found[state.input], state.batch_axis))
    for name in roles.idle:
        found.append(_input(author, name, "state", _without(author.dims(name), [1]), "it starts a recurrent node", 1))
    _check_nameable(found)
    return tuple(found)


def _check_nameable(inputs: list[InputTensor]) -> None:
    """Raise ModelRefused for a name that the decoder of requests cannot take as that of a field."""
    named = [one.name for one in inputs if one.role in ("sequence", "static")]
    if len(named) == 1:
        return  # the data alone has no name in a request
    for name in named:
        if any(letter in '"\\' or letter < " " for letter in name):
            raise ModelRefused(
                f"a request cannot name the input {name!r}: it has a quotation mark, a backslash or a control "
                "character",
                node=f"input {name!r}",
                remedy="Give it another name in the file. torch: input_names of torch.onnx.export.",
            )


def _other(author: Graph, graph: Graph, other: GraphInput) -> InputTensor:
    axes = [other.batch_axis] + ([] if other.time_axis is None else [other.time_axis])
    shape = () if other.role in ("lengths", "mask") else _without(graph.dims(other.name), axes)
    return _input(author, other.name, other.role, shape, other.found, other.batch_axis, other.valid)


def _input(
    graph: Graph,
    name: str,
    role: InputRole,
    shape: tuple[int | None, ...],
    found: str,
    batch: int,
    valid: int | None = None,
) -> InputTensor:
    dtype = graph.dtype(name)
    vocabulary = find_vocabulary_size(graph, name) if role in ("sequence", "static") else None
    return InputTensor(name, role, shape, dtype, found, batch, valid, vocabulary)


def _without(dims: list[int | str | None], axes: list[int]) -> tuple[int | None, ...]:
    return tuple(dim if isinstance(dim, int) else None for axis, dim in enumerate(dims) if axis not in axes)


def describe_outputs(
    author: Graph, rewrite: GraphRewrite, roles: Roles, tensors: tuple[str, ...]
) -> tuple[OutputTensor, ...]:
    """Every output of the author's graph, the primary one first; `tensors` are what answer in the rewritten graph."""
    found = []
    for name, tensor in zip(roles.outputs, tensors, strict=True):
        batch, time = axes_of(rewrite, name)
        own = tuple(a if a == b else None for a, b in zip(*(shapes[name] for shapes in rewrite.shapes), strict=True))
        rows = 1 if time == 0 else 0
        gone = (rows if batch is None and own[rows : rows + 1] == (1,) else batch, time)
        shape = tuple(extent for axis, extent in enumerate(own) if axis not in gone)
        step = rewrite.layout == "step" or time is not None
        found.append(
            OutputTensor(
                name,
                "steps" if step else "final",
                shape,
                author.dtype(name),
                _how_found(rewrite, time),
                tensor,
                batch,
                time,
                name in rewrite.own_clocks,
            )
        )
    for name in (name for name in roles.states_out if not name.startswith(ADDED)):
        found.append(OutputTensor(name, "state", _row(rewrite, name), author.dtype(name), "it holds the state"))
    for name in roles.unused:
        why = roles.found.get(name, "it depends on no input, or model.json leaves it out")
        found.append(OutputTensor(name, "unused", _row(rewrite, name), author.dtype(name), why))
    return tuple(found)


def _how_found(rewrite: GraphRewrite, time: int | None) -> str:
    if rewrite.layout == "step":
        return "each run is a step"
    return "it has no axis of time" if time is None else "it has the axis of time"


def _row(rewrite: GraphRewrite, name: str) -> tuple[int | None, ...]:
    batch, _ = axes_of(rewrite, name) if name in rewrite.trace else (None, None)
    shapes = [shapes[name] for shapes in rewrite.shapes if name in shapes]
    own = tuple(a if a == b else None for a, b in zip(*shapes, strict=True)) if len(shapes) == 2 else ()
    return tuple(extent for axis, extent in enumerate(own) if axis != batch)
