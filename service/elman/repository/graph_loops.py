"""What a Scan does with rows and steps: its body is a graph of its own, that is traced for one step."""

from dataclasses import replace

import numpy as np
import onnx
from onnx import GraphProto, NodeProto, helper, numpy_helper

from elman.repository.graph import Graph, attribute, reads
from elman.repository.graph_axes import BATCH, TIME, Axis, Kind, Scrambled, Traced, extents_of, is_steps, kinds_of
from elman.repository.graph_trace import Tracer, node_label
from elman.repository.network import Array
from elman.repository.runtime import GraphSession, RuntimeFailure

# A mark on a state may need so many rounds to reach every other state.
_ROUNDS = 4


def scan(tracer: Tracer, node: NodeProto) -> list[Traced]:
    """Scan: states in front, then tensors that it goes over; their last values, then what it made of each step."""
    states, over = scan_inputs(node)
    axes = _axes(tracer, node, "scan_input_axes", over)
    clocks = {tracer.at(name).axes[axis] for name, axis in zip(over, axes, strict=True)}
    if _recurs(tracer.graph, node):
        for name, axis in zip(over, axes, strict=True):
            tracer.goes_over(node, name, tracer.at(name).axes[axis])
    if len(clocks) != 1 or len(_directions(node)) != 1:
        raise Scrambled
    (clock,) = clocks
    if states and kinds_of(clock) and not is_steps(clock):
        raise Scrambled
    slices = [_without(tracer.at(name), axis) for name, axis in zip(over, axes, strict=True)]
    starts = [replace(tracer.at(name), edge=False, carried=frozenset()) for name in states]
    body = _Body(tracer, attribute(node, "body"))
    values = [[value.take(0, axis) for value in tracer.every(name)] for name, axis in zip(over, axes, strict=True)]
    ends, made = body.settle(starts, [tracer.every(name) for name in states], slices, values)
    return _results(tracer, node, clock, states, ends, made)


def scan_inputs(node: NodeProto) -> tuple[list[str], list[str]]:
    """The tensors that the states of a Scan start from, and those that it goes over."""
    count = len(node.input) - int(attribute(node, "num_scan_inputs"))
    return list(node.input[:count]), list(node.input[count:])


def runs_backwards(node: NodeProto) -> bool:
    """Whether a Scan goes over all that it reads from the last step to the first, and gives its steps in that order."""
    return _directions(node) == {1}


def _directions(node: NodeProto) -> set[int]:
    """The directions in which a Scan reads and gives steps: 0 is from the first to the last."""
    counts = {"input": int(attribute(node, "num_scan_inputs")), "output": len(node.output) - len(scan_inputs(node)[0])}
    given = (attribute(node, f"scan_{end}_directions") or [0] * count for end, count in counts.items())
    return {direction for one in given for direction in one}


def _recurs(graph: Graph, node: NodeProto) -> bool:
    """Whether what a Scan gives depends on a state that is made from what it was and from what is gone over.

    A Scan may do the same to each step, and carry nothing or a count.
    """
    body, count = attribute(node, "body"), len(scan_inputs(node)[0])
    inputs, ends = [value.name for value in body.input], [value.name for value in body.output]
    inner, ends_of = Graph(onnx.ModelProto(graph=body)), dict(zip(inputs[:count], ends, strict=False))
    made = {end: inner.backward([end]) & set(inputs) for end in ends}
    for _ in ends_of:
        made = {end: found.union(*(made[ends_of[n]] for n in found if n in ends_of)) for end, found in made.items()}
    used = {
        end for end, name in zip(ends, node.output, strict=False) if name in graph.consumers or name in graph.outputs
    }
    reached = set[str]().union(*(made[end] for end in used))
    data = set(inputs[count:])
    return any(name in reached and name in made[end] and made[end] & data for name, end in ends_of.items())


def _axes(tracer: Tracer, node: NodeProto, name: str, tensors: list[str]) -> list[int]:
    given = attribute(node, name) or [0] * len(tensors)
    return [axis % len(tracer.at(tensor).axes) for axis, tensor in zip(given, tensors, strict=True)]


def _without(traced: Traced, axis: int) -> Traced:
    return replace(traced, axes=(*traced.axes[:axis], *traced.axes[axis + 1 :]), carried=frozenset())


def _results(
    tracer: Tracer, node: NodeProto, clock: Axis, states: list[str], ends: list[Traced], made: list[Traced]
) -> list[Traced]:
    label, timed = node_label(node), is_steps(clock)
    starts = [tracer.at(name) for name in states]
    sized = frozenset[Kind]().union(*(start.sized for start in starts))
    computed = any(start.reads and not start.carried for start in starts)
    mixes = label if timed and (computed or TIME in sized or (tracer.nested and states)) else None
    ahead = f"{label} is reverse: it reads the sequence from its end" if timed and runs_backwards(node) else None
    marks = [
        replace(
            one,
            mixes=one.mixes or mixes or (label if TIME in one.kinds and timed else None),
            ahead=one.ahead or ahead,
            strangers=one.strangers or (label if BATCH in sized or kinds_of(clock) & one.kinds == {BATCH} else None),
        )
        for one in (*ends, *made)
    ]
    finals = [replace(one, edge=one.edge or timed) for one in marks[: len(ends)]]
    stacked = []
    places = attribute(node, "scan_output_axes") or [0] * len(made)
    for one, place in zip(marks[len(ends) :], places, strict=True):
        at = place % (len(one.axes) + 1)
        edge = one.mixes or (label if one.edge and timed else None)
        stacked.append(replace(one, axes=(*one.axes[:at], clock, *one.axes[at:]), mixes=edge))
    return [*finals, *stacked]


class _Body:
    """The graph inside a Scan, as one that can be run and traced by itself."""

    def __init__(self, tracer: Tracer, body: GraphProto) -> None:
        self.outer = tracer
        self.proto = GraphProto()
        self.proto.CopyFrom(body)
        inner = {value.name for value in (*body.input, *body.initializer)}
        made = {name for node in body.node for name in node.output}
        outside = {name for node in body.node for name in reads(node)} - inner - made
        self.captured = sorted(name for name in outside if tracer.graph.constant(name) is None)
        for name in sorted(outside - set(self.captured)):
            value = tracer.graph.constant(name)
            if value is not None:
                self.proto.initializer.append(numpy_helper.from_array(value, name))

    def settle(
        self, starts: list[Traced], first: list[list[Array]], slices: list[Traced], values: list[list[Array]]
    ) -> tuple[list[Traced], list[Traced]]:
        """What is known of the states and of what is made, once one step more adds nothing to it."""
        names = [value.name for value in self.proto.input]
        given = dict(zip(names, [*first, *values], strict=True))
        given |= {name: self.outer.every(name) for name in self.captured}
        seen, graph = self._run(given)
        shapes = [{name: np.shape(value) for name, value in values.items()} for values in seen]
        outputs = [value.name for value in self.proto.output]
        states = starts
        for _ in range(_ROUNDS):
            known = dict(zip(names, [*states, *slices], strict=True))
            known |= {name: self.outer.at(name) for name in self.captured}
            inner = self.outer.inside(graph, known, shapes, seen)
            found = [inner.at(name) for name in outputs]
            after = [_merged(one, other) for one, other in zip(states, found, strict=False)]
            if after == states:
                return after, found[len(states) :]
            states = after
        raise Scrambled

    def _run(self, given: dict[str, list[Array]]) -> tuple[list[dict[str, Array]], Graph]:
        model = onnx.ModelProto()
        model.CopyFrom(self.outer.graph.model)
        model.graph.CopyFrom(self.proto)
        del model.graph.input[:]
        for name, arrays in given.items():
            kind = helper.np_dtype_to_tensor_dtype(arrays[0].dtype)
            model.graph.input.append(helper.make_tensor_value_info(name, kind, None))
        graph = Graph(model)
        watched = onnx.ModelProto()
        watched.CopyFrom(model)
        del watched.graph.output[:], watched.graph.value_info[:]
        for name in dict.fromkeys(n for node in model.graph.node for n in node.output if n):
            watched.graph.output.append(onnx.ValueInfoProto(name=name))
        seen = []
        try:
            session = GraphSession(watched.SerializeToString())
            for probe in range(len(self.outer.shapes)):
                feeds = {name: arrays[probe] for name, arrays in given.items() if name in session.input_names}
                found = session.run(session.output_names, feeds)
                values = dict(zip(session.output_names, found, strict=True)) | feeds
                seen.append({name: value for name, value in values.items() if isinstance(value, np.ndarray)})
        except RuntimeFailure:
            raise Scrambled from None
        return seen, graph


def _merged(start: Traced, after: Traced) -> Traced:
    """A state of which both are known: what it was before a step and what after."""
    axes = tuple(a if a == b or not b else b if not a else () for a, b in zip(start.axes, after.axes, strict=True))
    if any(extents_of(a, 2) != extents_of(b, 2) for a, b in zip(start.axes, after.axes, strict=True)):
        raise Scrambled
    if any(a != b and a and b for a, b in zip(start.axes, after.axes, strict=True)):
        raise Scrambled
    return replace(
        start,
        axes=axes,
        reads=start.reads or after.reads,
        mixes=start.mixes or after.mixes,
        strangers=start.strangers or after.strangers,
        ahead=start.ahead or after.ahead,
        edge=start.edge or after.edge,
        sized=start.sized | after.sized,
    )
