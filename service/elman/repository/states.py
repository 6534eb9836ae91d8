"""State and lengths: the inputs and outputs that a graph is given where it has none."""

from collections.abc import Mapping

import numpy as np
from onnx import NodeProto, helper, numpy_helper

from elman.errors import ModelRefused, SpecRefused
from elman.repository.graph import RECURRENT, Graph, all_nodes, attribute
from elman.repository.graph_axes import BATCH, is_steps, kinds_of
from elman.repository.graph_rewrite import GraphRewrite
from elman.repository.graph_trace import node_label
from elman.repository.network import LENGTHS, Array, StateTensor
from elman.repository.pairing import INITIAL_C, INITIAL_H, SEQUENCE_LENS, directions, port, state_ports
from elman.repository.probe_feeds import state_axis, state_dims
from elman.repository.scan_states import expose_scan_states, hold_ended_rows, timed_scans
from elman.repository.spec import StateSpec


def collect_states(rewrite: GraphRewrite, learned: Mapping[str, Array]) -> None:
    for state in rewrite.roles.states:
        _check_shape(rewrite, state)
        shape = state_dims(rewrite, state.input, state.batch_axis, 1)
        dtype = rewrite.graph.dtype(state.input)
        initial = np.zeros(shape, dtype)
        if state.input in learned:
            initial = np.asarray(learned[state.input], dtype)
            if list(initial.shape) != shape:
                raise SpecRefused(
                    f"the initial state {state.initial!r} has shape {list(initial.shape)}, not {shape}",
                    node=f"state {state.input!r}",
                    remedy="Name a tensor of that shape under initial in model.json, or leave it out: a state starts "
                    "at zero.",
                )
        rewrite.states.append(StateTensor.beginning(state.input, state.input, state.output, state.batch_axis, initial))


def begin_with_zeros(rewrite: GraphRewrite) -> None:
    """Make zeros of the inputs that start recurrent nodes and whose state the server does not carry."""
    graph, data = rewrite.graph, rewrite.roles.data
    rows = graph.add_initializer("elman.zeros.at", np.array([1 if rewrite.layout == "time_first" else 0], np.int64))
    nodes = [
        helper.make_node("Shape", [data], ["elman.zeros.sizes"]),
        helper.make_node("Gather", ["elman.zeros.sizes", rows], ["elman.zeros.rows"]),
    ]
    for name in rewrite.roles.idle:
        axis = state_axis(rewrite, name)
        sizes = np.split(np.array(state_dims(rewrite, name, axis, 0), np.int64), [axis, axis + 1])
        before, after = (graph.add_initializer(f"{name}.{at}", part) for at, part in zip("ba", sizes[::2], strict=True))
        zero = numpy_helper.from_array(np.zeros(1, graph.dtype(name)))
        nodes += [
            helper.make_node("Concat", [before, "elman.zeros.rows", after], [f"{name}.sizes"], axis=0),
            helper.make_node("ConstantOfShape", [f"{name}.sizes"], [name], value=zero),
        ]
    kept = [value for value in graph.proto.input if value.name not in rewrite.roles.idle]
    del graph.proto.input[:]
    graph.proto.input.extend(kept)
    graph.insert_after(None, nodes)


def _check_shape(rewrite: GraphRewrite, state: StateSpec) -> None:
    """Raise ModelRefused if what is to replace a state has another shape."""
    shapes = rewrite.shapes[0]
    before, after = shapes.get(state.input), shapes.get(state.output)
    if before is not None and after is not None and before != after:
        raise ModelRefused(
            f"the output {state.output!r} has the shape {list(after)} in a run in which the state {state.input!r} has "
            f"{list(before)}",
            node=f"state {state.input!r}",
            remedy="Name the output that replaces it.",
        )


def expose_states(rewrite: GraphRewrite) -> None:
    """Turn the initial and final state of all that recurs without state inputs into inputs and outputs."""
    carried = {state.input for state in rewrite.states}
    for index, node in enumerate(rewrite.graph.recurrent()):
        if not _goes_over(rewrite, node):
            rewrite.look_ahead = rewrite.look_ahead or _no_state(rewrite, node)
            continue
        for kind, (initial, _) in zip("hc", state_ports(node), strict=False):
            position = INITIAL_H if kind == "h" else INITIAL_C
            if rewrite.graph.made_of(initial) & carried:
                continue
            value = _initial_value(rewrite, node, initial)
            if value is None:
                rewrite.look_ahead = rewrite.look_ahead or (
                    f"the initial state of {node_label(node)} is computed from the input"
                )
                continue
            name = f"{kind}{index}" if len(rewrite.graph.recurrent()) > 1 else kind
            tensor = StateTensor.beginning(name, f"elman.{name}", _final_output(node, kind, name), 1, value)
            _set_port(node, position, tensor.input)
            shape: list[int | str] = [value.shape[0], "batch", value.shape[2]]
            rewrite.graph.add_input(tensor.input, value.dtype, shape)
            rewrite.states.append(tensor)
    rewrite.graph.index()
    expose_scan_states(rewrite)


def _goes_over(rewrite: GraphRewrite, node: NodeProto) -> bool:
    """Whether a recurrent node goes over the steps of the data, with a state for each of its rows; or over one step."""
    steps, rows, _ = rewrite.trace[node.input[0]].axes
    alone = not rows or (len(rows) == 1 and rows[0].kind == BATCH)
    return alone and (is_steps(steps) or (rewrite.layout == "step" and not steps))


def _no_state(rewrite: GraphRewrite, node: NodeProto) -> str | None:
    steps = rewrite.trace[node.input[0]].axes[0]
    if "time" not in kinds_of(steps):
        return None  # it goes over something within a step, and begins anew at each
    return f"{node_label(node)} keeps more than one state a sequence"


def _initial_value(rewrite: GraphRewrite, node: NodeProto, initial: str) -> Array | None:
    """What a node starts from, as (directions, 1, hidden); None where it depends on the data."""
    if not initial:
        weights = rewrite.graph.constant(node.input[2])
        dtype = np.dtype(np.float32) if weights is None else weights.dtype
        return np.zeros((directions(node), 1, attribute(node, "hidden_size")), dtype)
    if rewrite.trace[initial].sized:
        return None
    constant = rewrite.graph.constant(initial)
    seen = [constant] if constant is not None else [values[initial] for values in rewrite.values if initial in values]
    if not seen or any(value.ndim != 3 for value in seen):
        return None
    first = seen[0][:, :1]
    same = all(np.array_equal(value, np.broadcast_to(first, value.shape)) for value in seen)
    return np.array(first) if same else None


def _final_output(node: NodeProto, kind: str, name: str) -> str:
    position = 1 if kind == "h" else 2
    while len(node.output) <= position:
        node.output.append("")
    if not node.output[position]:
        node.output[position] = f"elman.{name}.next"
    return str(node.output[position])


def _set_port(node: NodeProto, position: int, name: str) -> None:
    while len(node.input) <= position:
        node.input.append("")
    node.input[position] = name


def add_lengths(rewrite: GraphRewrite) -> bool:
    """Give all that recurs the lengths of the rows. False where time passes through anything else."""
    graph = rewrite.graph
    nodes = [node for node in all_nodes(graph.proto) if node.op_type in RECURRENT]
    if rewrite.layout == "step" or rewrite.max_rows == 1 or rewrite.window is not None:
        return False
    if not nodes and not timed_scans(rewrite):
        return False
    if len(nodes) != len(graph.recurrent()) or not all(_reads_steps(rewrite, node) for node in nodes):
        return False
    given = [port(node, SEQUENCE_LENS) for node in nodes]
    foreign = [name for name in given if name and rewrite.roles.lengths not in graph.backward([name])]
    if foreign or any(node.op_type == "Loop" for node in graph.proto.node) or not hold_ended_rows(rewrite):
        return False
    for node in nodes:
        _set_port(node, SEQUENCE_LENS, LENGTHS)
    graph.add_input(LENGTHS, np.dtype(np.int32), ["batch"])
    graph.index()
    return True


def _reads_steps(rewrite: GraphRewrite, node: NodeProto) -> bool:
    """Whether a recurrent node goes over the very steps of the data, in the batch's own rows."""
    steps, rows, _ = rewrite.trace[node.input[0]].axes
    return (
        is_steps(steps)
        and steps[0].extents == tuple(length for _, length in rewrite.probes)
        and len(rows) == 1
        and rows[0].kind == BATCH
    )


def alias_lengths(graph: Graph, name: str) -> None:
    """Make the author's own input for lengths the numbers that the server gives, whoever reads it."""
    if LENGTHS not in graph.inputs:
        graph.add_input(LENGTHS, np.dtype(np.int32), ["batch"])
        graph.index()
    kind = graph.inputs[name].type.tensor_type.elem_type
    kept = [value for value in graph.proto.input if value.name != name]
    del graph.proto.input[:]
    graph.proto.input.extend(kept)
    graph.insert_after(None, [helper.make_node("Cast", [LENGTHS], [name], to=kind)])
