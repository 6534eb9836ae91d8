"""What a Scan over the steps carries: made state of the network, and held where a row has ended."""

import numpy as np
from onnx import NodeProto, TensorProto, helper

from elman.repository.graph import attribute
from elman.repository.graph_axes import TIME, Axis, is_steps, kinds_of
from elman.repository.graph_loops import scan_inputs
from elman.repository.graph_rewrite import PROBES, GraphRewrite
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
            if graph.backward([first]) & inputs:
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


def hold_ended_rows(rewrite: GraphRewrite) -> bool:
    """Let each Scan over the steps leave the state of a row as it is past the row's length.

    The graph must have the input `elman.lengths`. Returns False, with nothing changed, where one of them goes over
    other steps than those of the data, or carries what is no state of each row.
    """
    nodes = timed_scans(rewrite)
    if not all(_carries_rows(rewrite, node) for node in nodes):
        return False
    if nodes:
        _tell_real_steps(rewrite)
    for at, node in enumerate(nodes):
        _hold(rewrite, node, f"{_REAL}.{at}")
    rewrite.graph.index()
    return True


def _carries_rows(rewrite: GraphRewrite, node: NodeProto) -> bool:
    steps = _clock(rewrite, node)
    if not is_steps(steps) or steps[0].extents != tuple(length for _, length in PROBES):
        return False
    finals = [final for _, final in _carried(node)]
    kinds = {values[final].dtype.name for values in rewrite.values for final in finals}
    return all(_batch_axis(rewrite, final) is not None for final in finals) and kinds <= set(_KINDS)


def _tell_real_steps(rewrite: GraphRewrite) -> None:
    """Make `elman.real`, (time, batch): whether a step is one of the row, or padding."""
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
    graph.insert_after(None, nodes)


def _hold(rewrite: GraphRewrite, node: NodeProto, prefix: str) -> None:
    """Give a Scan `elman.real` to go over, and its body a choice between the new state and the old."""
    body, finals = attribute(node, "body"), [final for _, final in _carried(node)]
    body.input.append(helper.make_tensor_value_info(prefix, TensorProto.BOOL, None))
    for at, final in enumerate(finals):
        rank, axis = len(rewrite.trace[final].axes), _batch_axis(rewrite, final)
        shape = np.array([-1 if one == axis else 1 for one in range(rank)], np.int64)
        value = helper.make_node("Constant", [], [f"{prefix}.{at}.shape"], value_ints=shape.tolist())
        new = body.output[at].name
        body.node.extend(
            [
                value,
                helper.make_node("Reshape", [prefix, value.output[0]], [f"{prefix}.{at}.rows"]),
                helper.make_node("Where", [f"{prefix}.{at}.rows", new, body.input[at].name], [f"{prefix}.{at}"]),
            ]
        )
        body.output[at].name = f"{prefix}.{at}"
    node.input.append(_REAL)
    counts = {"num_scan_inputs": attribute(node, "num_scan_inputs") + 1}
    for name in ("scan_input_axes", "scan_input_directions"):
        if attribute(node, name) is not None:
            counts[name] = [*attribute(node, name), 0]
    kept = [item for item in node.attribute if item.name not in counts]
    del node.attribute[:]
    node.attribute.extend([*kept, *(helper.make_attribute(name, value) for name, value in counts.items())])
