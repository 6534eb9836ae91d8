"""The body of a Loop: what it counts, what stops it, and what of it is the same for every step."""

import numpy as np
import onnx
from onnx import NodeProto

from elman.repository.extents import Extent, Extents, keeps_values
from elman.repository.graph import Graph, attribute
from elman.repository.network import Array
from elman.repository.specialise import rename

# A trip count from here on stands for none.
_ENDLESS = 2**31 - 1


class NoScan(Exception):
    """A Loop is not shown to be a Scan."""


class LoopBody:
    """A copy of a Loop's body, in which all that never changes is read from outside.

    Attributes:
        graph: the body.
        inner: the tensors that are its own.
        inputs: what the condition is within the body, and then what is carried.
        ends: what a step makes: the next condition, then what is carried on, then what is stacked.
        starts: what `inputs` are before the first step; empty for a condition that holds.
        results: what the Loop makes of `ends`, without the condition; empty where that is not read.
        same: of `inputs` those that no step changes, with what they are.
        counts: of the inputs those that each step adds 1 to, and the number of the step, with what they are at first.
    """

    def __init__(self, outer: Graph, node: NodeProto, extents: Extents) -> None:
        self.outer, self.node, self.extents = outer, node, extents
        model = onnx.ModelProto()
        model.graph.CopyFrom(attribute(node, "body"))
        self.declared = {value.name: value for value in model.graph.input}
        self.ends = [value.name for value in model.graph.output]
        self.graph = Graph(model)
        self.inner = {*self.declared, *self.graph.initializers, *self.graph.producer}
        self.inputs = list(self.declared)[1:]
        self.starts = [*node.input[1:], ""]
        self.results = [*node.output, *[""] * (len(self.ends) - 1 - len(node.output))]
        given = list(zip(self.inputs, self.ends, self.starts, strict=False))
        self.same = {name: start for name, end, start in given if self.root(end) == name}
        rename(model.graph, {name: start for name, start in self.same.items() if start})
        self.graph.index()
        firsts = {name: self._counts_from(name, end, start) for name, end, start in given}
        self.counts = {next(iter(self.declared)): 0, **{n: first for n, first in firsts.items() if first is not None}}

    def carried(self) -> list[tuple[str, str, str]]:
        """What is carried, as it is before and after a step and at last."""
        return list(zip(self.inputs[1:], self.ends[1:], self.results, strict=False))

    # Counting

    def _counts_from(self, name: str, end: str, start: str) -> int | None:
        """The number that a carried tensor is at first, where each step adds 1 to it."""
        node, first = self.graph.producer.get(self.root(end)), self.extents.value(start)
        if node is None or node.op_type != "Add" or not isinstance(first, int):
            return None
        added = [self._whole(other) for other in node.input if self.root(other) != name]
        return first if added == [1] else None

    def count(self, name: str) -> int | None:
        """How much more a tensor of the body is than the number of steps before this one; None where it is no count."""
        if name in self.counts:
            return self.counts[name]
        node = self.graph.producer.get(name)
        if node is None:
            return None
        if keeps_values(node):
            return self.count(node.input[0])
        if node.op_type in ("Add", "Sub"):
            one, other = node.input
            if node.op_type == "Add" and self.count(one) is None:
                one, other = other, one
            before, more = self.count(one), self._whole(other)
            return None if before is None or more is None else before + (more if node.op_type == "Add" else -more)
        return None

    def count_rank(self, name: str) -> int | None:
        """The rank of a count; None where it is not known."""
        node = self.graph.producer.get(name)
        if name in self.inputs:
            return self.extents.rank(self.starts[self.inputs.index(name)])
        if node is None:
            return len(self.declared[name].type.tensor_type.shape.dim)
        if node.op_type in ("Squeeze", "Reshape"):
            shape = self.constant(node.input[1]) if node.op_type == "Reshape" else np.zeros(0)
            return None if shape is None else shape.size
        counts = [self.count_rank(one) for one in node.input if self.count(one) is not None]
        numbers = [number.ndim for one in node.input if (number := self.constant(one)) is not None]
        known = [rank for rank in [*counts, *numbers] if rank is not None]
        return sum(known, 1) if node.op_type == "Unsqueeze" else max(known)

    def _whole(self, name: str) -> int | None:
        value = self.constant(name)
        if value is None or value.size != 1 or value.dtype.kind not in "iuf":
            return None
        number = value.reshape(()).item()
        return int(number) if number == int(number) else None

    def constant(self, name: str) -> Array | None:
        graph = self.graph if name in self.inner else self.outer
        return graph.constant(name) if name else None

    def root(self, name: str) -> str:
        """A tensor of the body, or what it is an Identity of."""
        node = self.graph.producer.get(name)
        return self.root(node.input[0]) if node is not None and node.op_type == "Identity" else name

    # Stopping

    def check_trips(self, over: list[tuple[str, int]]) -> None:
        """Raises NoScan unless the loop runs as often as what it goes over has steps."""
        steps = {self.extents.of(*key) for key in over}
        if len(steps) != 1:
            raise NoScan
        (self.steps,) = steps
        most = self.extents.value(self.node.input[0]) if self.node.input[0] else _ENDLESS
        unchanged = self.inputs[0] in self.same
        goes_on = self._begins(self.starts[0]) and (unchanged or self._goes_on(self.ends[0]))
        ends = most == self.steps or (not unchanged and self._ends(self.ends[0]))
        if not (goes_on and ends and (most == self.steps or self._is_endless(most))):
            raise NoScan

    def _is_endless(self, extent: Extent | None) -> bool:
        return isinstance(extent, int) and extent >= _ENDLESS

    def _goes_on(self, name: str) -> bool:
        """Whether a condition of the body holds after each step but the last."""
        node, value = self._condition(name)
        if node is None or value is not None:
            return value is not None and bool(value.all())
        if node.op_type == "And":
            return self._goes_on(node.input[0]) and self._goes_on(node.input[1])
        count, bound = self._comparison(node)
        return count is not None and count <= 1 and (bound == self.steps or self._is_endless(bound))

    def _ends(self, name: str) -> bool:
        """Whether a condition of the body does not hold after the last step."""
        node, _ = self._condition(name)
        if node is not None and node.op_type == "And":
            return self._ends(node.input[0]) or self._ends(node.input[1])
        return node is not None and self._comparison(node) == (1, self.steps)

    def _condition(self, name: str) -> tuple[NodeProto | None, Array | None]:
        """The node that decides a condition of the body, or its value where that is constant."""
        node = self.graph.producer.get(name)
        if node is not None and keeps_values(node):
            return self._condition(node.input[0])
        return node, self.constant(name)

    def _comparison(self, node: NodeProto) -> tuple[int | None, Extent | None]:
        """The count and the bound of a comparison that holds as long as the count is less."""
        if node.op_type not in ("Less", "Greater"):
            return None, None
        less, more = node.input if node.op_type == "Less" else node.input[::-1]
        return self.count(less), self.bound(more)

    def bound(self, name: str) -> Extent | None:
        """The number that a tensor of the body is, or the extent, where it is one for all steps."""
        node = self.graph.producer.get(name)
        if node is not None and keeps_values(node):
            return self.bound(node.input[0])
        if name in self.inner or self.constant(name) is not None:
            return self._whole(name)
        return self.extents.value(name) if self.extents.is_single(name) else None

    def _begins(self, name: str) -> bool:
        """Whether the condition before the first step holds where there is a step."""
        value, node = self.constant(name) if name else np.array(True), self.outer.producer.get(name)
        if node is None or value is not None:
            return value is not None and bool(value.all())
        if node.op_type == "And":
            return self._begins(node.input[0]) and self._begins(node.input[1])
        if keeps_values(node):
            return self._begins(node.input[0])
        less, more = {"Less": node.input, "Greater": node.input[::-1]}.get(node.op_type, ("", ""))
        first, bound = self.extents.value(less), self.extents.value(more)
        return first == 0 and (bound == self.steps or (isinstance(bound, int) and bound > 0))

    def source(self, name: str) -> str | None:
        """The outer tensor that a tensor of the body is, where it is one as a whole."""
        node = self.graph.producer.get(name)
        if node is None:
            return None if name in self.inner else name
        if node.op_type == "Slice" and len(node.input) > 2:
            start, end, *step = (self.bound(one) for at, one in enumerate(node.input[1:]) if at != 2)
            whole = start == 0 and self._is_endless(end) and step in ([], [1])
            return self.source(node.input[0]) if whole else None
        return self.source(node.input[0]) if node.op_type == "Identity" else None
