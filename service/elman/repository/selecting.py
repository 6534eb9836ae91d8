"""Decoding only the steps that are asked for: a selection in front of everything after the last recurrent node."""

from dataclasses import replace

import numpy as np
from onnx import NodeProto, TensorProto, helper

from elman.repository.graph import RECURRENT, Graph, attribute, reads, subgraphs
from elman.repository.graph_rewrite import GraphRewrite, axes_of, path_of, recurrent_inside
from elman.repository.network import LENGTHS, SELECT, Outputs
from elman.repository.scan_states import steps_of_finals

_LAST = "elman.last"
# The operators GatherND and Range are there from this set on.
_OPSET = 11


def find_outputs(rewrite: GraphRewrite, select: bool) -> Outputs:
    """Arrange that only the steps that are asked for are decoded, as far as the graph allows it for every output."""
    if rewrite.layout == "step":
        return "dense"
    timed = [axes_of(rewrite, name)[1] is not None for name in rewrite.roles.outputs]
    select = select and rewrite.max_rows is None and rewrite.window is None
    # Steps that are selected stand beside each other as rows do.
    traced = [rewrite.trace[name] for name in rewrite.roles.outputs]
    select = select and not any(one.mixes or one.strangers for one in traced)
    if select and all(timed) and _select_at_cut(rewrite):
        return "selected"
    if select and not any(timed) and _select_before_head(rewrite):
        return "selected"
    return "dense" if timed[0] else "last"


def _select_at_cut(rewrite: GraphRewrite) -> bool:
    """Cut at the first tensor after the last recurrent node that everything later depends on alone."""
    graph = rewrite.graph
    path = path_of(rewrite)
    last = max((i for i, node in enumerate(path) if recurrent_inside(node)), default=-1)
    varying = graph.forward(graph.inputs)
    for index in range(last, len(path)):
        made = {name for node in path[: index + 1] for name in node.output} | set(graph.inputs)
        read = {name for node in path[index + 1 :] for name in reads(node)} | set(rewrite.roles.outputs)
        live = made & read & varying
        if index < 0 or len(live) != 1:
            continue
        name = live.pop()
        axes = axes_of(rewrite, name)
        if axes in ((0, 1), (1, 0)) and not _feeds_state(rewrite, name):
            _add_select(graph)
            chosen = f"{name}.chosen"
            graph.insert_after(name, _gather_steps(rewrite, name, chosen, time_first=axes == (1, 0)))
            return _clone_head(rewrite, {name: chosen}, path[index + 1 :])
    return False


def _feeds_state(rewrite: GraphRewrite, name: str) -> bool:
    later = rewrite.graph.forward([name]) - {name}
    return any(state.output in later for state in rewrite.states)


def _clone_head(rewrite: GraphRewrite, chosen: dict[str, str], path: list[NodeProto]) -> bool:
    """Repeat the nodes of `path` that depend on a key of `chosen`, on its value instead, and answer with theirs.

    What the nodes made before stays for whoever else reads it, such as a state output. False, and nothing changed,
    where a node reads from inside a graph of its own.
    """
    graph = rewrite.graph
    names = dict(chosen)
    clones = []
    for node in path:
        if not any(name in names for name in reads(node)):
            continue
        if not any(name in names for name in node.input) or any(True for _ in subgraphs(node)):
            return False
        clone = NodeProto()
        clone.CopyFrom(node)
        clone.name = f"{node.name}.selected" if node.name else ""
        clone.input[:] = [names.get(name, name) for name in node.input]
        names |= {name: f"{name}.selected" for name in node.output if name}
        clone.output[:] = [names.get(name, "") for name in node.output]
        clones.append((node.output[0], clone))
    for after, clone in clones:
        graph.insert_after(after, [clone])
    dtypes = {output: graph.dtype(output) for output in rewrite.roles.outputs}
    rewrite.roles = replace(rewrite.roles, outputs=tuple(names.get(output, output) for output in rewrite.roles.outputs))
    for before, after in zip(dtypes, rewrite.roles.outputs, strict=True):
        if after != before:
            graph.add_output(after, dtypes[before])
    graph.index()
    return True


def _add_select(graph: Graph) -> None:
    if SELECT not in graph.inputs:
        graph.add_input(SELECT, np.dtype(np.int64), ["selected", 2])
        graph.index()


def _gather_steps(
    rewrite: GraphRewrite, name: str, into: str, *, time_first: bool, keep: bool = True, which: str = SELECT
) -> list[NodeProto]:
    """(batch, time, ...) -> (selected, 1, ...), or (time, batch, ...) -> (1, selected, ...); (selected, ...) unless
    `keep`. `which` are the pairs of row and step."""
    graph, select, flat = rewrite.graph, which, f"{into}.flat" if keep else into
    nodes = []
    if time_first:
        swap = graph.add_initializer(f"{into}.swap", np.array([1, 0], np.int64))
        select = f"{into}.select"
        nodes.append(helper.make_node("Gather", [which, swap], [select], axis=1))
    nodes.append(helper.make_node("GatherND", [name, select], [flat]))
    if keep:
        nodes.append(graph.axis_node("Unsqueeze", flat, into, 0 if time_first else 1))
    return nodes


def _select_before_head(rewrite: GraphRewrite) -> bool:
    """For a head after the last step only: feed it any step, by standing in for what picks the last one.

    What picks it is the final h of a recurrent node, the final state of a Scan that gives that of each step too, or a
    Gather or Slice of the last step of a per-step tensor.
    """
    graph = rewrite.graph
    path = path_of(rewrite)
    stands = [(node, name) for node in path if (name := _picks_last(rewrite, node)) is not None]
    picked = {name for _, name in stands}
    reached = graph.backward(rewrite.roles.outputs, lambda node: not picked & set(node.output))
    varying = graph.forward(graph.inputs)
    loose = [
        node
        for node in path
        if set(node.output) & reached & varying
        and not set(node.output) & picked
        and any(
            name in graph.inputs or _recurrent_output(graph, name)
            for name in reads(node)
            if name in varying and name not in picked
        )
    ]
    if not stands or loose:
        return False
    _add_select(graph)
    for node, name in stands:
        _stand_in(rewrite, node, name)
    return _clone_head(rewrite, {name: f"{name}.chosen" for name in picked}, path)


def _recurrent_output(graph: Graph, name: str) -> bool:
    node = graph.producer.get(name)
    return node is not None and recurrent_inside(node)


def _picks_last(rewrite: GraphRewrite, node: NodeProto) -> str | None:
    """The tensor by which `node` gives the last step of a per-step tensor, if it does that."""
    if node.op_type in RECURRENT:
        final = list(node.output)[1:2]
        used = bool(final and final[0] and rewrite.graph.consumers.get(final[0]))
        needed = used and final[0] in rewrite.graph.backward(rewrite.roles.outputs)
        return final[0] if needed and _look_ahead_free(node) else None
    if node.op_type == "Scan":
        read = rewrite.graph.backward(rewrite.roles.outputs) & rewrite.graph.consumers.keys()
        finals = [final for final in steps_of_finals(node) if final in read]
        return finals[0] if len(finals) == 1 else None
    if node.op_type not in ("Gather", "Slice") or node.input[0] not in rewrite.trace:
        return None
    batch, time = axes_of(rewrite, node.input[0])
    if (batch, time) not in ((0, 1), (1, 0)):
        return None
    if node.op_type == "Gather":
        index = rewrite.graph.constant(node.input[1])
        last = index is not None and index.size == 1 and int(index.reshape(())) == -1
        return node.output[0] if last and attribute(node, "axis", 0) == time else None
    return node.output[0] if _slices_last(rewrite, node, time) else None


def _look_ahead_free(node: NodeProto) -> bool:
    return bool(attribute(node, "direction", "forward") == "forward")


def _slices_last(rewrite: GraphRewrite, node: NodeProto, time: int | None) -> bool:
    arrays = [rewrite.graph.constant(name) for name in list(node.input)[1:4]]
    if any(array is None or array.size != 1 for array in arrays) or len(arrays) < 3:
        return False
    start, _, axis = (int(array.reshape(())) for array in arrays if array is not None)
    return axis == time and start == -1


def pick_real_steps(rewrite: GraphRewrite) -> None:
    """Let what picks the last step of a block pick the last step of each row.

    The graph must have the input `elman.lengths`.
    """
    graph = rewrite.graph
    ends = RECURRENT | {"Scan"}  # what they end with is the last step of each row already
    picks = [node for node in graph.proto.node if node.op_type not in ends and _picks_last(rewrite, node)]
    if not picks or graph.opset < _OPSET:
        return
    for node in picks:
        nodes = _pick(rewrite, node, node.output[0], _LAST)
        at = list(graph.proto.node).index(node)
        graph.proto.node.remove(node)
        for offset, made in enumerate(nodes):
            graph.proto.node.insert(at + offset, made)
    zero, one = (graph.add_initializer(f"{_LAST}.{at}", np.array(at, np.int64)) for at in (0, 1))
    column = graph.add_initializer(f"{_LAST}.column", np.array([-1, 1], np.int64))
    picking = [
        helper.make_node("Cast", [LENGTHS], [f"{_LAST}.lengths"], to=TensorProto.INT64),
        helper.make_node("Sub", [f"{_LAST}.lengths", one], [f"{_LAST}.step"]),
        helper.make_node("Size", [LENGTHS], [f"{_LAST}.count"]),
        helper.make_node("Range", [zero, f"{_LAST}.count", one], [f"{_LAST}.row"]),
        helper.make_node("Reshape", [f"{_LAST}.row", column], [f"{_LAST}.rows"]),
        helper.make_node("Reshape", [f"{_LAST}.step", column], [f"{_LAST}.steps"]),
        helper.make_node("Concat", [f"{_LAST}.rows", f"{_LAST}.steps"], [_LAST], axis=1),
    ]
    graph.insert_after(None, picking)


def _pick(rewrite: GraphRewrite, node: NodeProto, into: str, which: str) -> list[NodeProto]:
    """The nodes that give other steps of what `node` gives the last step of, in its shape."""
    source, graph = node.input[0], rewrite.graph
    index = graph.constant(node.input[1])
    keep = node.op_type == "Slice" or index is None or index.ndim > 0
    return _gather_steps(rewrite, source, into, time_first=axes_of(rewrite, source) == (1, 0), keep=keep, which=which)


def _stand_in(rewrite: GraphRewrite, node: NodeProto, name: str) -> None:
    """Make the selected steps of what `name` is the last step of, in its shape, as `name`.chosen."""
    graph, chosen = rewrite.graph, f"{name}.chosen"
    if node.op_type in RECURRENT:
        # Y is (time, 1, batch, hidden); its row at a step is what the final h would be there.
        if not node.output[0]:
            node.output[0] = f"{name}.steps"
        flat = f"{chosen}.steps"
        nodes = [graph.axis_node("Squeeze", node.output[0], flat, 1)]
        nodes += _gather_steps(rewrite, flat, chosen, time_first=True)
    elif node.op_type == "Scan":
        nodes = _gather_steps(rewrite, steps_of_finals(node)[name], chosen, time_first=True, keep=False)
    else:
        nodes = _pick(rewrite, node, chosen, SELECT)
    graph.insert_after(name, nodes)
