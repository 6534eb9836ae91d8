"""Which input of a graph is the data, which is state, and which output replaces which state."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import NodeProto

from elman.errors import ModelRefused
from elman.repository.graph import MOVES, Graph, attribute
from elman.repository.spec import ModelSpec, StateSpec

# Positions of the optional inputs of the ONNX operators LSTM, GRU and RNN.
SEQUENCE_LENS, INITIAL_H, INITIAL_C = 4, 5, 6

_STATE_SUFFIX = re.compile(
    r"(?:[_.]?(?:input|output|initial|init|final|next|new|prev|previous|last|in|out|curr|current|t|n|0|1))+$"
)


@dataclass(frozen=True)
class Roles:
    """What each input and output of a graph is for. `outputs[0]` is the primary one."""

    data: str
    lengths: str | None
    states: tuple[StateSpec, ...]
    outputs: tuple[str, ...]


def find_roles(graph: Graph, spec: ModelSpec) -> Roles:
    """Decide every role, by the spec where it says and by the graph's structure where it does not.

    Raises ModelRefused where neither decides, with the model.json to start from.
    """
    _check_names(graph, spec)
    lengths = _lengths_input(graph)
    states = spec.state if spec.state is not None else _pair_states(graph, spec, lengths)
    data = _data_input(graph, spec, lengths, states)
    outputs = spec.outputs or _step_outputs(graph, states)
    return Roles(data, lengths, states, outputs)


def node_label(node: NodeProto) -> str:
    """How a refusal names a node: its operator and its name, or the tensor that it makes."""
    return f"{node.op_type} node {node.name or next((name for name in node.output if name), '?')!r}"


def port(node: NodeProto, position: int) -> str:
    """The tensor on an optional input or output position; empty where none is."""
    return str(node.input[position]) if len(node.input) > position else ""


def directions(node: NodeProto) -> int:
    """How many directions a recurrent node runs in."""
    return 2 if attribute(node, "direction", "forward") == "bidirectional" else 1


def state_ports(node: NodeProto) -> list[tuple[str, str]]:
    """(initial, final) tensors of a recurrent node: h, and c for an LSTM. Empty strings where not connected."""
    finals = list(node.output) + [""] * 3
    pairs = [(port(node, INITIAL_H), finals[1])]
    if node.op_type == "LSTM":
        pairs.append((port(node, INITIAL_C), finals[2]))
    return pairs


def _moves(node: NodeProto) -> bool:
    return node.op_type in MOVES


def _check_names(graph: Graph, spec: ModelSpec) -> None:
    for what, names, known in (
        ("input.name", [spec.input.name], graph.inputs),
        ("state.input", [state.input for state in spec.state or ()], graph.inputs),
        ("state.output", [state.output for state in spec.state or ()], graph.outputs),
        ("outputs", list(spec.outputs or ()), graph.outputs),
    ):
        for name in names:
            if name is not None and name not in known:
                raise ModelRefused(
                    f"the spec's {what} names {name!r}, which the graph does not have",
                    remedy=f"The graph has {', '.join(map(repr, known)) or 'none'}.",
                )


def _lengths_input(graph: Graph) -> str | None:
    """The author's own input for sequence lengths, if the recurrent nodes read one."""
    sources = {
        name
        for node in graph.recurrent()
        for name in graph.backward([port(node, SEQUENCE_LENS)], _moves)
        if name in graph.inputs
    }
    return next(iter(sources)) if len(sources) == 1 else None


def _pair_states(graph: Graph, spec: ModelSpec, lengths: str | None) -> tuple[StateSpec, ...]:
    by_structure = _pair_by_structure(graph)
    taken_inputs = {state.input for state in by_structure}
    taken_outputs = {state.output for state in by_structure}
    data = {spec.input.name} if spec.input.name else _reached_as_data(graph)
    # Where a recurrent node starts from an input whose end the graph does not give, the rewriting exposes its state.
    started = {name for name in graph.inputs if _feeds_state_only(graph, name)}
    rest = [
        name
        for name in graph.inputs
        if name not in taken_inputs | data | started and name != lengths and _is_float(graph.dtype(name))
    ]
    outputs = [name for name in graph.outputs if name not in taken_outputs]
    return by_structure + _pair_by_name(graph, rest, outputs)


def _pair_by_structure(graph: Graph) -> tuple[StateSpec, ...]:
    """Pair a graph input with a graph output when they are the two ends of the same recurrent nodes."""
    starts: dict[str, set[tuple[int, int]]] = {}
    ends: dict[str, set[tuple[int, int]]] = {}
    for index, node in enumerate(graph.recurrent()):
        for kind, (initial, final) in enumerate(state_ports(node)):
            for name in graph.backward([initial], _moves):
                if name in graph.inputs:
                    starts.setdefault(name, set()).add((index, kind))
            for name in graph.forward([final], _moves):
                if name in graph.outputs:
                    ends.setdefault(name, set()).add((index, kind))
    pairs = []
    for name, nodes in starts.items():
        matches = [
            output
            for output, others in ends.items()
            if others == nodes and graph.dims(output) and len(graph.dims(output)) == len(graph.dims(name))
        ]
        if len(matches) == 1:
            pairs.append(StateSpec(input=name, output=matches[0], batch_axis=_batch_axis(graph, name)))
    return tuple(pairs)


def _pair_by_name(graph: Graph, inputs: list[str], outputs: list[str]) -> tuple[StateSpec, ...]:
    """Pair what structure left over, where name and shape leave one choice."""
    pairs = []
    for name in inputs:
        alike = [other for other in outputs if _compatible(graph, name, other)]
        named = [other for other in alike if _stem(other) == _stem(name)]
        matches = named or alike
        if not matches:
            continue
        others = [one for one in inputs if one != name and any(_compatible(graph, one, m) for m in matches)]
        if len(matches) > 1 or (not named and others):
            raise ModelRefused(
                f"the state input {name!r} could be replaced by any of the outputs {', '.join(map(repr, matches))}",
                node=f"input {name!r}",
                remedy="Say which in model.json.",
                template=_state_template(graph, inputs, outputs),
            )
        pairs.append(StateSpec(input=name, output=matches[0], batch_axis=_batch_axis(graph, name)))
    return tuple(pairs)


def _state_template(graph: Graph, inputs: list[str], outputs: list[str]) -> dict[str, Any]:
    """A model.json that pairs each state with an output of its shape, in order: a guess to be put right."""
    states = []
    left = list(outputs)
    for name in inputs:
        match = next((other for other in left if _compatible(graph, name, other)), None)
        if match is not None:
            left.remove(match)
            states.append({"input": name, "output": match, "batch_axis": _batch_axis(graph, name)})
    return {"state": states}


def _reached_as_data(graph: Graph) -> set[str]:
    """Graph inputs that the first recurrent node reads as its sequence, or the sole candidate without one."""
    nodes = graph.recurrent()
    if nodes:
        return {name for name in graph.backward([nodes[0].input[0]]) if name in graph.inputs}
    first = next(iter(graph.inputs), None)
    floats = [name for name in graph.inputs if _is_float(graph.dtype(name))]
    unpaired = [
        name
        for name in floats
        if not any(_stem(out) == _stem(name) or _compatible(graph, name, out) for out in graph.outputs)
    ]
    tokens = [name for name in graph.inputs if not _is_float(graph.dtype(name)) and graph.dims(name)]
    return set(unpaired[:1] or tokens[:1] or ([first] if first else []))


def _data_input(graph: Graph, spec: ModelSpec, lengths: str | None, states: Iterable[StateSpec]) -> str:
    if spec.input.name is not None:
        return spec.input.name
    taken = {state.input for state in states}
    rest = [name for name in graph.inputs if name not in taken and name != lengths and graph.consumers.get(name)]
    reached = _reached_as_data(graph)
    candidates = [name for name in rest if name in reached] or rest
    extra = [name for name in rest if name not in candidates and not _feeds_state_only(graph, name)]
    if len(candidates) == 1 and not extra:
        return str(candidates[0])
    raise ModelRefused(
        f"cannot tell the data input among {', '.join(map(repr, [*candidates, *extra])) or 'no inputs'}",
        remedy="Name it in model.json, and give the value of every other input under constants.",
        template={
            "input": {"name": (candidates or [""])[0]},
            "constants": dict.fromkeys([*candidates[1:], *extra], 0),
        },
    )


def _feeds_state_only(graph: Graph, name: str) -> bool:
    """Whether an input is the initial state of recurrent nodes whose final state the graph does not give."""
    return any(
        name in graph.backward([initial], _moves) for node in graph.recurrent() for initial, _ in state_ports(node)
    )


def _step_outputs(graph: Graph, states: Iterable[StateSpec]) -> tuple[str, ...]:
    taken = {state.output for state in states}
    rest = [name for name in graph.outputs if name not in taken]
    finals = [final for node in graph.recurrent() for _, final in state_ports(node)]
    per_step = [node.output[0] for node in graph.recurrent() if node.output]
    moved = graph.forward(finals, _moves) - graph.forward(per_step, _moves)
    kept = [name for name in rest if name not in moved]
    outputs = tuple(kept or rest)
    if not outputs:
        raise ModelRefused("the graph has no output beside its state", remedy="Export the per-step output too.")
    return outputs


def _batch_axis(graph: Graph, name: str) -> int:
    dims = graph.dims(name)
    free = [axis for axis, dim in enumerate(dims) if not isinstance(dim, int)]
    if len(free) == 1:
        return free[0]
    named = [axis for axis in free if isinstance(dims[axis], str) and re.match(r"(?i)b(atch|s)?", str(dims[axis]))]
    if named:
        return named[0]
    return min(1, len(dims) - 1) if len(dims) > 2 else 0


def _compatible(graph: Graph, one: str, other: str) -> bool:
    a, b = graph.dims(one), graph.dims(other)
    if graph.dtype(one) != graph.dtype(other) or len(a) != len(b) or not a:
        return False
    return all(x == y for x, y in zip(a, b, strict=True) if isinstance(x, int) and isinstance(y, int))


def _stem(name: str) -> str:
    base = re.sub(r"([a-z])N$", r"\1", str(name).split("/")[-1]).lower()
    return str(_STATE_SUFFIX.sub("", base) or base)


def _is_float(dtype: np.dtype[Any]) -> bool:
    return bool(np.issubdtype(dtype, np.floating)) or dtype.name in ("bfloat16",)
