"""Which output of a graph replaces which of its inputs: its running state.

A pair is found where input and output are the two ends of the same recurrent nodes, or where their names and what the
graph does with them say so together. A shape alone pairs nothing.
"""

from typing import Any

import numpy as np
from onnx import NodeProto

from elman.errors import ModelRefused
from elman.repository.graph import MOVES, Graph, attribute
from elman.repository.naming import names_after, names_batch, names_state, stem
from elman.repository.spec import StateSpec

# Positions of the optional inputs of the ONNX operators LSTM, GRU and RNN.
SEQUENCE_LENS, INITIAL_H, INITIAL_C = 4, 5, 6


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


def is_move(node: NodeProto) -> bool:
    """Whether an operator only moves or renames what it is given."""
    return node.op_type in MOVES


def pair_states(
    graph: Graph, data: set[str], others: set[str], told: tuple[StateSpec, ...], *, strict: bool = True
) -> tuple[StateSpec, ...]:
    """The pairs of state input and output beside those that the spec has `told`.

    `data` are inputs that are read as sequences, `others` inputs that are known to be something else.
    Raises ModelRefused where a state input could be replaced by one output or another, unless that does not matter.
    """
    inputs, outputs = {pair.input for pair in told}, {pair.output for pair in told}
    pairs = tuple(
        pair for pair in _pair_by_structure(graph) if pair.input not in inputs | others and pair.output not in outputs
    )
    taken = inputs | {pair.input for pair in pairs} | data | others
    outputs |= {pair.output for pair in pairs}
    left = [name for name in graph.inputs if name not in taken and _is_float(graph, name)]
    left = [name for name in left if not starts_only(graph, name) or namesake(graph, name)]
    try:
        return pairs + _pair_by_name(graph, left, [name for name in graph.outputs if name not in outputs])
    except ModelRefused:
        if strict:
            raise
        return pairs


def namesake(graph: Graph, name: str) -> str | None:
    """The output that is named as the state input `name` is after a run: `conv_cache_out` of `conv_cache`."""
    if not names_state(name) or not _is_float(graph, name):
        return None
    outputs = [one for one in graph.outputs if _compatible(graph, name, one) and _named_alike(name, one)]
    return outputs[0] if len(outputs) == 1 else None


def starts_only(graph: Graph, name: str) -> bool:
    """Whether an input is the initial state of recurrent nodes whose final state the graph does not give."""
    return any(
        name in graph.backward([initial], is_move) for node in graph.recurrent() for initial, _ in state_ports(node)
    )


def _pair_by_structure(graph: Graph) -> tuple[StateSpec, ...]:
    """Pair a graph input with a graph output when they are the two ends of the same recurrent nodes."""
    starts: dict[str, set[tuple[int, int]]] = {}
    ends: dict[str, set[tuple[int, int]]] = {}
    for index, node in enumerate(graph.recurrent()):
        for kind, (initial, final) in enumerate(state_ports(node)):
            for name in graph.backward([initial], is_move):
                if name in graph.inputs:
                    starts.setdefault(name, set()).add((index, kind))
            for name in graph.forward([final], is_move):
                if name in graph.outputs:
                    ends.setdefault(name, set()).add((index, kind))
    pairs = []
    for name, nodes in starts.items():
        matches = [
            output
            for output, others in ends.items()
            if others == nodes and len(graph.dims(output)) in (0, len(graph.dims(name)))
        ]
        if len(matches) == 1:
            pairs.append(StateSpec(input=name, output=matches[0], batch_axis=batch_axis(graph, name)))
    return tuple(pairs)


def _pair_by_name(graph: Graph, inputs: list[str], outputs: list[str]) -> tuple[StateSpec, ...]:
    """Pair what structure left over, where the names of both and what the output is made from agree."""
    alike = {name: [other for other in outputs if _compatible(graph, name, other)] for name in inputs}
    namesakes = {name: other for name in inputs if (other := namesake(graph, name)) in outputs}
    for name, others in alike.items():
        alike[name] = [one for one in others if one not in namesakes.values() or namesakes.get(name) == one]
    pairs = []
    for name, others in alike.items():
        matches = [other for other in others if _named_alike(name, other)]
        if len(matches) != 1:
            matches = [other for other in others if _named_alike(name, other, loose=True)] if not matches else matches
        if not matches and names_state(name):
            matches = others
        if not matches:
            continue
        rivals = [one for one in inputs if one != name and set(alike[one]) & set(matches)]
        if len(matches) > 1 or (not _named_alike(name, matches[0], loose=True) and rivals):
            raise _ambiguous(graph, name, matches, alike)
        if name in graph.backward(matches):
            pairs.append(StateSpec(input=name, output=matches[0], batch_axis=batch_axis(graph, name)))
    nameless = [name for name in inputs if alike[name] and name not in {pair.input for pair in pairs}]
    if not graph.recurrent() and len(nameless) > 1 and not any(map(names_state, inputs)):
        raise _ambiguous(graph, nameless[0], alike[nameless[0]], alike)
    return tuple(pairs)


def _named_alike(name: str, output: str, *, loose: bool = False) -> bool:
    """Whether two names are of one tensor before and after a run.

    `prev_action` and `action` are not: what is fed back is what was chosen, which need not be the output.
    """
    if stem(name, loose=loose) != stem(output, loose=loose):
        return False
    return names_after(output) or names_state(name)


def _ambiguous(graph: Graph, name: str, matches: list[str], alike: dict[str, list[str]]) -> ModelRefused:
    return ModelRefused(
        f"the state input {name!r} could be replaced by any of the outputs {', '.join(map(repr, matches))}",
        node=f"input {name!r}",
        remedy="Say which in model.json. What is no state is an input of each step.",
        template=_template(graph, alike),
    )


def _template(graph: Graph, alike: dict[str, list[str]]) -> dict[str, Any]:
    """A model.json that pairs each state with an output of its shape, in order: a guess to be put right."""
    states = []
    left = list(dict.fromkeys(other for others in alike.values() for other in others))
    for name, others in alike.items():
        match = next((other for other in left if other in others), None)
        if match is not None:
            left.remove(match)
            states.append({"input": name, "output": match, "batch_axis": batch_axis(graph, name)})
    return {"state": states}


def batch_axis(graph: Graph, name: str) -> int:
    """The axis of a state that counts rows, by its declared shape."""
    dims = graph.dims(name)
    free = [axis for axis, dim in enumerate(dims) if not isinstance(dim, int)]
    if len(free) == 1:
        return free[0]
    named = [axis for axis in free if names_batch(dims[axis])]
    if named:
        return named[0]
    usual = min(1, len(dims) - 1) if len(dims) > 2 else 0
    # Of three axes they are (layers, batch, hidden); of more, one of extent 1 tells.
    ones = [axis for axis, dim in enumerate(dims) if dim == 1]
    return ones[0] if ones and len(dims) > 3 and not free and dims[usual] != 1 else usual


def _compatible(graph: Graph, one: str, other: str) -> bool:
    a, b = graph.dims(one), graph.dims(other)
    if graph.dtype(one) != graph.dtype(other) or len(a) != len(b) or not a:
        return False
    rows = batch_axis(graph, one)
    # A number is not the extent of what an input may have more or fewer of, such as the steps that attention weighs.
    return all(
        x == y or not isinstance(x, int) or (not isinstance(y, int) and (axis == rows or not _in_an_input(graph, y)))
        for axis, (x, y) in enumerate(zip(a, b, strict=True))
    )


def _in_an_input(graph: Graph, dim: str | None) -> bool:
    return any(dim in graph.dims(name) for name in graph.inputs)


def _is_float(graph: Graph, name: str) -> bool:
    return bool(np.issubdtype(graph.dtype(name), np.floating))
