"""A Loop that goes over the steps of a tensor, written as the Scan that it is.

Exporters write a cell in a loop as the ONNX operator Loop: its body counts, and picks the step of a tensor by the
count. A Scan says the same without a count, so that its states are those that depend on the data. A Loop becomes a Scan
only where the graph shows all of this:

- it runs as often as the tensors that it goes over have steps, and nothing else stops it;
- the count serves to pick a step of those tensors and to stop, and for nothing else;
- what it carries is a state, a count, a tensor that it never changes, or a list to which each step adds one tensor.
"""

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import NodeProto, ValueInfoProto, helper, numpy_helper

from elman.repository.extents import Extents
from elman.repository.graph import attribute
from elman.repository.graph_rewrite import GraphRewrite
from elman.repository.loop_body import LoopBody, NoScan


def write_as_scan(rewrite: GraphRewrite, node: NodeProto) -> None:
    """Replace a Loop of the top level by a Scan. Raises NoScan, and leaves it, where it is not shown to be one."""
    try:
        nodes, replaced = _Loop(rewrite, node).as_scan()
    except (KeyError, IndexError, ValueError, TypeError, AttributeError):
        raise NoScan from None
    graph = rewrite.graph.proto
    at = list(graph.node).index(node)
    for old in (node, *replaced):
        graph.node.remove(old)
    for offset, one in enumerate(nodes):
        graph.node.insert(at + offset, one)
    rewrite.graph.index()


@dataclass(frozen=True)
class _Pick:
    """What picks the step of an outer tensor: it `keeps` the axis, with extent 1, or drops it."""

    source: str
    axis: int
    keeps: bool


@dataclass(frozen=True)
class _Made:
    """What a step adds to a result of the loop: the tensor in the body, and the axis on which the result stacks it."""

    tensor: str
    result: str
    axis: int = 0


class _Loop:
    """A Loop of the top level of a graph."""

    def __init__(self, rewrite: GraphRewrite, node: NodeProto) -> None:
        self.rewrite, self.graph, self.node = rewrite, rewrite.graph, node
        time = (rewrite.roles.data, 0 if rewrite.layout == "time_first" else 1)
        self.extents = Extents(rewrite.graph, rewrite.shapes[0], {time: rewrite.window} if rewrite.window else {})
        self.body = LoopBody(rewrite.graph, node, self.extents)
        self.prefix = f"elman.scan.{next(name for name in node.output if name)}"
        found = {one.output[0]: self._pick(one) for one in self.body.graph.proto.node if len(one.input) > 1}
        self.picks = {name: pick for name, pick in found.items() if pick is not None}

    def as_scan(self) -> tuple[list[NodeProto], list[NodeProto]]:
        """The nodes that do the same, and those, beside the Loop, that they replace. Raises NoScan."""
        made, replaced = self._find_made()
        states, needed = self._find_states(made)
        picked = {name: pick for name, pick in self.picks.items() if name in needed}
        over = list(dict.fromkeys((pick.source, pick.axis) for pick in picked.values()))
        self.body.check_trips(over)
        slices = {key: f"{self.prefix}.step{at}" for at, key in enumerate(over)}
        return [self._scan(states, made, slices, needed), *self._handed_on()], replaced

    def _pick(self, node: NodeProto) -> _Pick | None:
        """What a node of the body picks of an outer tensor by the count; None where it does not."""
        body, (name, index) = self.body, node.input[:2]
        source = body.source(name) if body.count(index) == 0 else None
        if source is None:
            return None
        if node.op_type == "Gather" and body.count_rank(index) in (0, 1):
            return _Pick(source, self._axis(source, attribute(node, "axis", 0)), body.count_rank(index) == 1)
        split = self.graph.producer.get(source)
        if node.op_type == "SequenceAt" and split is not None and split.op_type == "SplitToSequence":
            if len(split.input) == 1:
                axis = self._axis(split.input[0], attribute(split, "axis", 0))
                return _Pick(split.input[0], axis, bool(attribute(split, "keepdims", 1)))
        if node.op_type == "Slice" and len(node.input) > 3 and body.count(node.input[2]) == 1:
            along, step = ([*map(body.bound, node.input[3:]), 1])[:2]
            if isinstance(along, int) and step == 1:
                return _Pick(source, self._axis(source, along), True)
        return None

    def _axis(self, name: str, axis: int) -> int:
        return int(axis) % self.extents.rank(name)

    # What is carried

    def _find_made(self) -> tuple[list[_Made], list[NodeProto]]:
        """What is stacked over the steps, as a result or as a list, and the nodes that stacked the lists."""
        carried = len(self.body.inputs) - 1
        stacked = zip(self.body.ends[1 + carried :], self.body.results[carried:], strict=True)
        made = [_Made(tensor, result) for tensor, result in stacked if self._is_used(result)]
        joins = []
        for name, end, result in self.body.carried():
            added = self._adds(name, end)
            if added is None:
                continue
            for join in self.graph.consumers.get(result, []):
                made.append(self._joined(join, added))
                joins.append(join)
        return made, joins

    def _adds(self, name: str, end: str) -> str | None:
        """The tensor that each step adds to the end of a list that is empty at first; None where it is no such list."""
        node = self.body.graph.producer.get(self.body.root(end))
        first = self.graph.producer.get(self.body.starts[self.body.inputs.index(name)])
        if node is None or first is None or (node.op_type, first.op_type) != ("SequenceInsert", "SequenceEmpty"):
            return None
        at_end = len(node.input) < 3 or self.body.count(node.input[2]) == 0
        return str(node.input[1]) if at_end and self.body.root(node.input[0]) == name else None

    def _joined(self, join: NodeProto, added: str) -> _Made:
        if join.op_type != "ConcatFromSequence":
            raise NoScan
        axis = int(attribute(join, "axis"))
        if attribute(join, "new_axis", 0):
            return _Made(added, join.output[0], axis)
        # Each has extent 1 on the axis on which they are joined, and is the same without.
        wide = self.body.graph.producer[self.body.root(added)]
        axes = attribute(wide, "axes") or self.body.constant(wide.input[1])
        if wide.op_type != "Unsqueeze" or axes is None or [int(one) for one in np.ravel(axes)] != [axis]:
            raise NoScan
        return _Made(wide.input[0], join.output[0], axis)

    def _find_states(self, made: list[_Made]) -> tuple[list[int], set[str]]:
        """The positions of what is carried that the results depend on, and all that they are made from in the body."""
        lists = {name for name, end, _ in self.body.carried() if self._adds(name, end) is not None}
        states = [
            at
            for at, (name, _, result) in enumerate(self.body.carried())
            if self._is_used(result) and name not in self.body.same and name not in lists
        ]
        for _ in self.body.inputs:
            needed = self._needed([*(one.tensor for one in made), *(self.body.ends[1 + at] for at in states)])
            more = [at for at, (name, _, _) in enumerate(self.body.carried()) if name in needed and at not in states]
            states = sorted([*states, *more])
        counted = {*self.body.counts, *lists, self.body.inputs[0]}
        if needed & counted or any(self.body.inputs[1 + at] in counted for at in states):
            raise NoScan
        return states, needed

    def _needed(self, names: list[str]) -> set[str]:
        """Tensors of the body that others are made from, not looking past what is picked."""
        return self.body.graph.backward(names, lambda node: node.output[0] not in self.picks) & self.body.inner

    def _is_used(self, result: str) -> bool:
        return bool(result) and (result in self.graph.consumers or result in self.graph.outputs)

    # Building

    def _scan(
        self, states: list[int], made: list[_Made], slices: dict[tuple[str, int], str], needed: set[str]
    ) -> NodeProto:
        nodes: list[NodeProto] = []
        for node in self.body.graph.proto.node:
            if needed.isdisjoint(node.output):
                continue
            pick = self.picks.get(node.output[0])
            nodes += [node] if pick is None else self._sliced(node, pick, slices[pick.source, pick.axis])
        ends = [(f"{self.prefix}.next{at}", self.body.ends[1 + at]) for at in states]
        ends += [(f"{self.prefix}.made{at}", one.tensor) for at, one in enumerate(made)]
        nodes += [helper.make_node("Identity", [tensor], [name]) for name, tensor in ends]
        inputs = [_untyped(self.body.declared[self.body.inputs[1 + at]]) for at in states]
        inputs += [helper.make_tensor_value_info(name, self._kind(key[0]), None) for key, name in slices.items()]
        tensors = [value for value in self.body.graph.proto.initializer if value.name in needed]
        outputs = [onnx.ValueInfoProto(name=name) for name, _ in ends]
        body = helper.make_graph(nodes, self.body.graph.proto.name or "body", inputs, outputs, tensors)
        return helper.make_node(
            "Scan",
            [*(self.body.starts[1 + at] for at in states), *(source for source, _ in slices)],
            [*(self.body.results[at] or f"{self.prefix}.final{at}" for at in states), *(one.result for one in made)],
            name=self.node.name,
            body=body,
            num_scan_inputs=len(slices),
            scan_input_axes=[axis for _, axis in slices],
            scan_output_axes=[one.axis for one in made],
        )

    def _sliced(self, node: NodeProto, pick: _Pick, name: str) -> list[NodeProto]:
        if not pick.keeps:
            return [helper.make_node("Identity", [name], [node.output[0]])]
        if self.graph.opset < 13:
            return [helper.make_node("Unsqueeze", [name], [node.output[0]], axes=[pick.axis])]
        axes = f"{node.output[0]}.axis"
        constant = helper.make_node("Constant", [], [axes], value=numpy_helper.from_array(np.array([pick.axis]), axes))
        return [constant, helper.make_node("Unsqueeze", [name, axes], [node.output[0]])]

    def _kind(self, name: str) -> int:
        constant = self.graph.constant(name)
        return helper.np_dtype_to_tensor_dtype((self.rewrite.values[0][name] if constant is None else constant).dtype)

    def _handed_on(self) -> list[NodeProto]:
        """What is the same at last as at first, for those that read it after the loop."""
        used = ((self.body.same.get(name), result) for name, _, result in self.body.carried() if self._is_used(result))
        return [helper.make_node("Identity", [start], [result]) for start, result in used if start]


def _untyped(value: ValueInfoProto) -> ValueInfoProto:
    """A tensor as it is declared, of whatever shape."""
    return helper.make_tensor_value_info(value.name, value.type.tensor_type.elem_type, None)
