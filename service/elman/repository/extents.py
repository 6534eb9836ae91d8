"""Where the extent of an axis comes from: two that have one origin are equal, whatever the graph is given."""

from collections.abc import Callable, Mapping

from onnx import NodeProto, TensorProto

from elman.repository.graph import RECURRENT, Graph, attribute

Extent = int | tuple[str, int]
"""A number, or the extent of an axis of a tensor."""

_KEEP = frozenset(
    "Abs Cast Ceil Clip Cos Dropout Elu Erf Exp Floor Gelu HardSigmoid HardSwish Identity LayerNormalization LeakyRelu "
    "Log LogSoftmax Neg Not Relu ReverseSequence Round Selu Sigmoid Sign Sin Softmax Softplus Softsign Sqrt Tan "
    "Tanh".split()
)
_BROADCAST = frozenset(
    "Add And Div Equal Greater GreaterOrEqual Less LessOrEqual Max Min Mul Or Pow Sub Sum Where Xor".split()
)
# What a node that is not as expected, or a very long chain of nodes, raises: there the origin is.
_UNEXPECTED = (KeyError, IndexError, TypeError, ValueError, OverflowError, RecursionError)
_SAME_VALUES = frozenset("Identity Cast Squeeze Unsqueeze Reshape Flatten".split())
# Types that hold every count; a float does so up to 16 million.
_NUMBERS = frozenset({TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.INT32, TensorProto.INT64, TensorProto.BOOL})


def keeps_values(node: NodeProto) -> bool:
    """Whether a node gives the counts and conditions that it is given, in whatever shape."""
    return node.op_type in _SAME_VALUES and attribute(node, "to", TensorProto.FLOAT) in _NUMBERS


class Extents:
    """Follows extents through a graph, from its results to its inputs.

    Args:
        graph: the graph.
        shapes: of its tensors in one run. What counts of them is the rank, and the extent of lists of sizes.
        fixed: extents of axes of the inputs that are the same in every run.
    """

    def __init__(
        self, graph: Graph, shapes: Mapping[str, tuple[int, ...]], fixed: Mapping[tuple[str, int], int]
    ) -> None:
        self.graph = graph
        self.shapes = shapes
        self.fixed = fixed
        self._extents: dict[tuple[str, int], Extent] = {}
        self._values: dict[tuple[str, int], Extent | None] = {}

    def of(self, name: str, axis: int) -> Extent:
        """The extent of an axis, as that of the first tensor that is sure to have it too."""
        key = (name, axis)
        if key not in self._extents:
            self._extents[key] = key
            try:
                at = axis % max(self.rank(name), 1)
                before = self._before(self.graph.producer.get(name), name, at)
                self._extents[key] = self.fixed.get((name, at), (name, at)) if before is None else before
            except _UNEXPECTED:
                pass
        return self._extents[key]

    def value(self, name: str, index: int = 0) -> Extent | None:
        """An element of a list of sizes, counted from its start; None where it is no extent."""
        key = (name, index)
        if key not in self._values:
            self._values[key] = None
            try:
                self._values[key] = self._value(name, index)
            except _UNEXPECTED:
                pass
        return self._values[key]

    def is_single(self, name: str) -> bool:
        """Whether a tensor holds one number."""
        return self._shape(name) in ((), (1,))

    def rank(self, name: str) -> int:
        """Raises KeyError where it was not seen."""
        return len(self._shape(name))

    def _shape(self, name: str) -> tuple[int, ...]:
        constant = self.graph.constant(name)
        return self.shapes[name] if constant is None else constant.shape

    def _ints(self, node: NodeProto, name: str, position: int) -> list[int] | None:
        """An attribute that is an input since opset 13; None where it is not given or no constant."""
        given: list[int] | None = attribute(node, name)
        if given is not None or len(node.input) <= position or not node.input[position]:
            return given
        constant = self.graph.constant(node.input[position])
        if constant is None:
            raise ValueError(name)
        return [int(one) for one in constant.reshape(-1)]

    # Axes

    def _before(self, node: NodeProto | None, name: str, axis: int) -> Extent | None:
        """What an axis of a node's result is as long as; None where the node makes an extent of its own."""
        if node is None:
            constant = self.graph.constant(name)
            return None if constant is None else constant.shape[axis]
        if node.op_type in _KEEP and name == node.output[0]:
            return self.of(node.input[0], axis)
        if node.op_type in _BROADCAST:
            return self._broadcast(list(node.input), self.rank(name) - axis)
        if node.op_type in RECURRENT and name == node.output[0]:
            return self.of(node.input[0], {0: 0, 2: 1}[axis])
        rule = Extents._reduced if node.op_type.startswith("Reduce") else _AXES.get(node.op_type)
        return None if rule is None else rule(self, node, name, axis)

    def _broadcast(self, names: list[str], from_end: int) -> Extent | None:
        """The one extent beside 1 that several tensors have on an axis, counted from its end."""
        ranks = {name: self.rank(name) for name in names if name}
        found = {self.of(name, rank - from_end) for name, rank in ranks.items() if rank >= from_end}
        found -= {1} if len(found) > 1 else set()
        return found.pop() if len(found) == 1 else None

    def _transposed(self, node: NodeProto, name: str, axis: int) -> Extent | None:
        rank = self.rank(name)
        return self.of(node.input[0], attribute(node, "perm", list(range(rank))[::-1])[axis])

    def _unsqueezed(self, node: NodeProto, name: str, axis: int) -> Extent | None:
        new = {at % self.rank(name) for at in self._ints(node, "axes", 1) or ()}
        return 1 if axis in new else self.of(node.input[0], axis - sum(at < axis for at in new))

    def _squeezed(self, node: NodeProto, name: str, axis: int) -> Extent | None:
        rank = self.rank(node.input[0])
        gone = {at % rank for at in self._ints(node, "axes", 1) or ()}
        return self.of(node.input[0], [at for at in range(rank) if at not in gone][axis]) if gone else None

    def _gathered(self, node: NodeProto, name: str, axis: int) -> Extent | None:
        data, index = node.input[:2]
        along, more = attribute(node, "axis", 0) % self.rank(data), self.rank(index)
        if axis < along:
            return self.of(data, axis)
        return self.of(index, axis - along) if axis < along + more else self.of(data, axis - more + 1)

    def _reshaped(self, node: NodeProto, name: str, axis: int) -> Extent | None:
        found = self.value(node.input[1], axis)
        if found == 0 and not attribute(node, "allowzero", 0):
            return self.of(node.input[0], axis)
        return None if found == -1 else found

    def _filled(self, node: NodeProto, name: str, axis: int) -> Extent | None:
        return self.value(node.input[0], axis)

    def _multiplied(self, node: NodeProto, name: str, axis: int) -> Extent | None:
        one, other = node.input[:2]
        if min(self.rank(one), self.rank(other)) < 2:
            return None
        from_end = self.rank(name) - axis
        if from_end < 3:
            return self.of(one, -2) if from_end == 2 else self.of(other, -1)
        return self._broadcast([one, other], from_end)

    def _joined(self, node: NodeProto, name: str, axis: int) -> Extent | None:
        return None if axis == attribute(node, "axis") % self.rank(name) else self.of(node.input[0], axis)

    def _reduced(self, node: NodeProto, name: str, axis: int) -> Extent | None:
        rank, kept = self.rank(node.input[0]), attribute(node, "keepdims", 1)
        gone = {at % rank for at in self._ints(node, "axes", 1) or ()}
        if not gone:
            return None
        at = axis if kept else [one for one in range(rank) if one not in gone][axis]
        return 1 if at in gone else self.of(node.input[0], at)

    def _sliced(self, node: NodeProto, name: str, axis: int) -> Extent | None:
        axes = self._ints(node, "axes", 3)
        cut = axes is None or axis in {at % self.rank(name) for at in axes}
        return None if cut else self.of(node.input[0], axis)

    def _scanned(self, node: NodeProto, name: str, axis: int) -> Extent | None:
        """A Scan stacks as many results as the tensors that it goes over have steps."""
        count = int(attribute(node, "num_scan_inputs"))
        states = len(node.input) - count
        at = list(node.output).index(name) - states
        places = attribute(node, "scan_output_axes") or [0] * (len(node.output) - states)
        if at < 0 or axis != places[at] % self.rank(name):
            return None
        return self.of(node.input[states], (attribute(node, "scan_input_axes") or [0])[0])

    # Sizes

    def _value(self, name: str, index: int) -> Extent | None:
        constant = self.graph.constant(name)
        if constant is not None:
            number = constant.reshape(-1)[index]
            return int(number) if constant.dtype.kind in "iuf" and number == int(number) else None
        node = self.graph.producer.get(name)
        if node is None:
            return None
        if keeps_values(node):
            return self.value(node.input[0], index)
        rule = _VALUES.get(node.op_type)
        return None if rule is None else rule(self, node, index)

    def _size(self, node: NodeProto, index: int) -> Extent | None:
        rank = self.rank(node.input[0])
        return self.of(node.input[0], range(rank)[attribute(node, "start", 0) : attribute(node, "end")][index])

    def _picked(self, node: NodeProto, index: int) -> Extent | None:
        places = self.graph.constant(node.input[1])
        if places is None or self.rank(node.input[0]) != 1:
            return None
        (length,) = self._shape(node.input[0])
        return self.value(node.input[0], int(places.reshape(-1)[index]) % length)

    def _cut(self, node: NodeProto, index: int) -> Extent | None:
        if self.rank(node.input[0]) != 1:
            return None
        starts, ends, steps = (self._ints(node, *of) for of in (("starts", 1), ("ends", 2), ("steps", 4)))
        (length,) = self._shape(node.input[0])
        return self.value(
            node.input[0], range(length)[slice((starts or [])[0], (ends or [])[0], (steps or [1])[0])][index]
        )

    def _chained(self, node: NodeProto, index: int) -> Extent | None:
        for name in node.input:
            (length,) = self._shape(name)
            if index < length:
                return self.value(name, index)
            index -= length
        return None

    def _extreme(self, node: NodeProto, index: int) -> Extent | None:
        """The largest or smallest of extents that are all the same."""
        found = {self.value(name) if self.is_single(name) else None for name in node.input}
        return found.pop() if len(found) == 1 else None

    def _single(self, node: NodeProto, index: int) -> Extent | None:
        return self.value(node.input[0]) if self.is_single(node.input[0]) else None

    def _parts(self, node: NodeProto, index: int) -> Extent | None:
        """How many parts a tensor was split into, one for each index of an axis."""
        split = self.graph.producer.get(node.input[0])
        if split is None or split.op_type != "SplitToSequence" or len(split.input) > 1:
            return None
        return self.of(split.input[0], attribute(split, "axis", 0))


_AXES: dict[str, Callable[[Extents, NodeProto, str, int], Extent | None]] = {
    "Concat": Extents._joined,
    "ConstantOfShape": Extents._filled,
    "Gather": Extents._gathered,
    "MatMul": Extents._multiplied,
    "Reshape": Extents._reshaped,
    "Scan": Extents._scanned,
    "Slice": Extents._sliced,
    "Squeeze": Extents._squeezed,
    "Transpose": Extents._transposed,
    "Unsqueeze": Extents._unsqueezed,
}

_VALUES: dict[str, Callable[[Extents, NodeProto, int], Extent | None]] = {
    "Concat": Extents._chained,
    "Gather": Extents._picked,
    "Max": Extents._extreme,
    "Min": Extents._extreme,
    "ReduceMax": Extents._single,
    "ReduceMin": Extents._single,
    "SequenceLength": Extents._parts,
    "Shape": Extents._size,
    "Slice": Extents._cut,
}
