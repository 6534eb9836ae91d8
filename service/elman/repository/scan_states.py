"""What a Scan over the steps carries: made state of the network, and held where a row has ended."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from onnx import NodeProto, TensorProto, helper

from elman.errors import ModelRefused
from elman.repository.graph import MOVES, Graph, attribute
from elman.repository.graph_axes import TIME, Axis, is_steps, kinds_of
from elman.repository.graph_loops import runs_backwards, scan_inputs
from elman.repository.graph_rewrite import GraphRewrite
from elman.repository.graph_trace import node_label
from elman.repository.network import LENGTHS, Array, StateTensor

_REAL = "elman.real"
# What ONNX Runtime's Where takes, and a session holds.
_KINDS = ("float32", "int32", "int64")


def timed_scans(rewrite: GraphRewrite) -> list[NodeProto]:
    """The Scans of the top level that go over steps."""
    scans = (node for node in rewrite.graph.proto.node if node.op_type == "Scan")
    return [node for node in scans if TIME in kinds_of(_clock(rewrite, node))]


def _clock(rewrite: GraphRewrite, node: NodeProto) -> Axis:
    over = scan_inputs(node)[1][0]
    return rewrite.trace[over].axes[(attribute(node, "scan_input_axes") or [0])[0]]


def _carried(node: NodeProto) -> list[tuple[str, str]]:
    """The first and the last value of each state of a Scan."""
    return list(zip(scan_inputs(node)[0], node.output, strict=False))


def _batch_axis(rewrite: GraphRewrite, final: str) -> int | None:
    """The axis of a state that counts rows, and nothing else does; with one row a run, the first of extent 1."""
    axes = rewrite.trace[final].axes
    rows = [at for at, axis in enumerate(axes) if (kinds_of(axis) if rewrite.max_rows is None else not axis)]
    if TIME in kinds_of(*axes) or not rows or (rewrite.max_rows is None and len(rows) > 1):
        return None
    return rows[0] if len(axes[rows[0]]) < 2 else None


def expose_scan_states(rewrite: GraphRewrite) -> None:
    """Turn what the Scans over the steps start from, and what they end with, into inputs and outputs of the graph."""
    graph = rewrite.graph
    inputs = {state.input for state in rewrite.states}
    for node in timed_scans(rewrite):
        for position, (first, final) in enumerate(_carried(node)):
            if graph.made_of(first) & inputs:
                continue
            axis = _batch_axis(rewrite, final)
            initial = None if axis is None else _initial_value(rewrite, first, axis)
            if axis is None or initial is None:
                why = "depends on the input, or is of a type that no session holds"
                why = "has no axis that counts the rows and nothing else" if axis is None else why
                rewrite.look_ahead = rewrite.look_ahead or f"the state {first!r} of {node_label(node)} {why}"
                continue
            name = f"carried{len(rewrite.states)}"
            state = StateTensor.beginning(name, f"elman.{name}", final, axis, initial)
            node.input[position] = state.input
            shape: list[int | str] = ["batch" if at == axis else extent for at, extent in enumerate(initial.shape)]
            graph.add_input(state.input, initial.dtype, shape)
            rewrite.states.append(state)
    graph.index()


def _initial_value(rewrite: GraphRewrite, first: str, axis: int) -> Array | None:
    """What the state of one row is before its first step; None where it depends on what is read, or how much of it."""
    traced, constant = rewrite.trace[first], rewrite.graph.constant(first)
    seen = [values[first] for values in rewrite.values if first in values] if constant is None else [constant]
    if traced.reads or traced.sized or not seen or seen[0].dtype.name not in _KINDS:
        return None
    row = seen[0].take([0], axis)
    same = all(np.array_equal(value, np.broadcast_to(row, value.shape)) for value in seen)
    return np.array(row) if same else None


def steps_of_finals(node: NodeProto) -> dict[str, str]:
    """The final states of a Scan whose value after each step it gives too, (time, ...), by the name of the former."""
    body, states = attribute(node, "body"), scan_inputs(node)[0]
    producer = {name: one for one in body.node for name in one.output}

    def root(name: str) -> str:
        one = producer.get(name)
        if one is not None and one.op_type == "Identity":
            return root(one.input[0])
        held = one is not None and one.op_type == "Where" and _REAL in one.input[0]
        return root(one.input[1]) if one is not None and held else name

    if runs_backwards(node) or any(attribute(node, "scan_output_axes") or []):
        return {}
    made = {root(value.name): name for value, name in zip(body.output, node.output, strict=False)}
    ends = zip(body.output[: len(states)], node.output, strict=False)
    stacked = set(node.output[len(states) :])
    found = {name: made[root(value.name)] for value, name in ends}
    return {name: steps for name, steps in found.items() if steps and steps in stacked}


def declare_ranks(rewrite: GraphRewrite) -> None:
    """Say how many axes each result of the body of a Scan has: ONNX Runtime must know it, and may not find it."""
    for node in rewrite.graph.proto.node:
        states = len(scan_inputs(node)[0]) if node.op_type == "Scan" else 0
        for at, name in enumerate(node.output if node.op_type == "Scan" else ()):
            value, seen = attribute(node, "body").output[at], rewrite.values[0].get(name)
            if seen is not None and not value.type.tensor_type.HasField("shape"):
                kind, free = helper.np_dtype_to_tensor_dtype(seen.dtype), [None] * (seen.ndim - (at >= states))
                value.CopyFrom(helper.make_tensor_value_info(value.name, kind, free))


def find_limits(rewrite: GraphRewrite) -> None:
    """Note of each state how large its numbers may be, where a Scan rounds them on a fixed scale.

    Raises ModelRefused for an initial state that is larger.
    """
    for at, state in enumerate(rewrite.states):
        limit = min(_limits(rewrite.graph, state.input), default=None)
        largest = float(np.abs(state.initial).max(initial=0.0))
        if limit is not None and largest > limit:
            raise ModelRefused(
                f"the initial state has {largest:.4g}, and the graph rounds it to 8 bits within {limit:.4g} of zero",
                node=f"state {state.input!r}",
                remedy="Export the model again with this initial state, or without quantise.",
            )
        rewrite.states[at] = replace(state, limit=limit)


def _limits(graph: Graph, name: str) -> Iterator[float]:
    """The largest magnitudes that the Scans take whole which begin at what is a move of a tensor."""
    moved = {name}
    for node in graph.proto.node:
        if node.op_type in MOVES and not moved.isdisjoint(node.input):
            moved.update(node.output)
        if node.op_type != "Scan":
            continue
        body = attribute(node, "body")
        inner = {value.name for value, start in zip(body.input, scan_inputs(node)[0], strict=False) if start in moved}
        for one in body.node:
            if one.op_type == "QuantizeLinear" and one.input[0] in inner and len(one.input) > 2:
                scale, zero = (graph.constant(given) for given in one.input[1:3])
                if scale is not None and zero is not None and scale.size == zero.size == 1:
                    kind = np.iinfo(zero.dtype)
                    # Half a step past the last is rounded to it.
                    steps = min(kind.max - zero.item(), zero.item() - kind.min) + 0.5
                    yield steps * float(scale.item())


def hold_ended_rows(rewrite: GraphRewrite) -> bool:
    """Let each Scan over the steps leave the state of a row as it is past the row's length.

    The graph must have the input `elman.lengths`. Returns False, with nothing changed, where one of them goes over
    other steps than those of the data, or carries what is no state of each row.
    """
    nodes = timed_scans(rewrite)
    if not all(_carries_rows(rewrite, node) for node in nodes):
        return False
    shapes = [[_real_shape(rewrite, final) for _, final in _carried(node)] for node in nodes]
    if wanted := {shape for one in shapes for shape in one}:
        _tell_real_steps(rewrite, wanted)
    for at, (node, one) in enumerate(zip(nodes, shapes, strict=True)):
        _hold(node, one, f"{_REAL}.{at}")
    rewrite.graph.index()
    return True


def _real_shape(rewrite: GraphRewrite, final: str) -> tuple[int, ...]:
    """How `elman.real` is broadcast to a state: (time, 1, batch, 1) has the batch where the state has it."""
    axis = _batch_axis(rewrite, final)
    return 0, *(-1 if at == axis else 1 for at in range(len(rewrite.trace[final].axes)))


def _carries_rows(rewrite: GraphRewrite, node: NodeProto) -> bool:
    steps = _clock(rewrite, node)
    if not is_steps(steps) or steps[0].extents != tuple(length for _, length in rewrite.probes):
        return False
    finals = [final for _, final in _carried(node)]
    kinds = {values[final].dtype.name for values in rewrite.values for final in finals}
    return all(_batch_axis(rewrite, final) is not None for final in finals) and kinds <= set(_KINDS)


def _real(shape: tuple[int, ...]) -> str:
    return f"{_REAL}.as{'.'.join(map(str, shape))}"


def _tell_real_steps(rewrite: GraphRewrite, shapes: set[tuple[int, ...]]) -> None:
    """Make `elman.real`, (time, batch): whether a step is one of the row, or padding; and the same in some shapes."""
    graph = rewrite.graph
    axis = 0 if rewrite.layout == "time_first" else 1
    zero = graph.add_initializer(f"{_REAL}.zero", np.array(0, np.int64))
    one = graph.add_initializer(f"{_REAL}.one", np.array(1, np.int64))
    at = graph.add_initializer(f"{_REAL}.axis", np.array(axis, np.int64))
    column = graph.add_initializer(f"{_REAL}.column", np.array([-1, 1], np.int64))
    nodes = [
        helper.make_node("Shape", [rewrite.roles.data], [f"{_REAL}.shape"]),
        helper.make_node("Gather", [f"{_REAL}.shape", at], [f"{_REAL}.count"]),
        helper.make_node("Range", [zero, f"{_REAL}.count", one], [f"{_REAL}.range"]),
        helper.make_node("Reshape", [f"{_REAL}.range", column], [f"{_REAL}.steps"]),
        helper.make_node("Cast", [LENGTHS], [f"{_REAL}.lengths"], to=TensorProto.INT64),
        helper.make_node("Less", [f"{_REAL}.steps", f"{_REAL}.lengths"], [_REAL]),
    ]
    for shape in sorted(shapes):
        target = graph.add_initializer(f"{_real(shape)}.shape", np.array(shape, np.int64))
        nodes.append(helper.make_node("Reshape", [_REAL, target], [_real(shape)]))
    graph.insert_after(None, nodes)


def _hold(node: NodeProto, shapes: list[tuple[int, ...]], prefix: str) -> None:
    """Give a Scan `elman.real` to go over, in the shape of each state, and its body a choice of new state and old."""
    body, over = attribute(node, "body"), list(dict.fromkeys(shapes))
    for shape in over:
        body.input.append(helper.make_tensor_value_info(f"{prefix}{_real(shape)}", TensorProto.BOOL, None))
    for at, shape in enumerate(shapes):
        choice = [f"{prefix}{_real(shape)}", body.output[at].name, body.input[at].name]
        body.node.append(helper.make_node("Where", choice, [f"{prefix}.{at}"]))
        body.output[at].name = f"{prefix}.{at}"
    node.input.extend(map(_real, over))
    counts = {"num_scan_inputs": attribute(node, "num_scan_inputs") + len(over)}
    for name, own in (("scan_input_axes", 0), ("scan_input_directions", int(runs_backwards(node)))):
        if attribute(node, name) is not None:
            counts[name] = [*attribute(node, name), *[own] * len(over)]
    kept = [item for item in node.attribute if item.name not in counts]
    del node.attribute[:]
    node.attribute.extend([*kept, *(helper.make_attribute(name, value) for name, value in counts.items())])
