"""The largest magnitude that a tensor of a graph can take, where the graph shows one."""

from collections.abc import Iterable, Mapping

import numpy as np
from onnx import NodeProto, numpy_helper

from elman.repository.graph import MOVES, RECURRENT, Graph, attribute
from elman.repository.spec import StateSpec

_WITHIN_ONE = frozenset("Tanh Sigmoid HardSigmoid Softmax Softsign Erf Sin Cos".split())


class Bounds:
    """Bounds of the tensors of a graph.

    Args:
        graph: of the standard operators.
        inputs: the bounds of its inputs, by name; others have none.
    """

    def __init__(self, graph: Graph, inputs: Mapping[str, float]) -> None:
        self._graph = graph
        self._known: dict[str, float | None] = dict(inputs)

    def of(self, name: str) -> float | None:
        """The largest magnitude of a tensor; None where the graph shows none."""
        if name not in self._known:
            value, node = self._graph.constant(name), self._graph.producer.get(name)
            if value is not None:
                self._known[name] = _largest(value)
            else:
                self._known[name] = None if node is None or node.domain else self._made(node, name)
        return self._known[name]

    def of_hidden(self, node: NodeProto) -> float | None:
        """The largest magnitude of h in a recurrent node, at its start and after each step."""
        start = list(node.input)[5:6]
        if "Relu" in attribute(node, "activations", [b""])[0].decode():
            return None
        return self._most([*start, ""] if start and start[0] else [""])

    def _made(self, node: NodeProto, name: str) -> float | None:
        inputs = list(node.input)
        if node.op_type in RECURRENT:
            return None if [*node.output].index(name) == 2 else self.of_hidden(node)  # c of an LSTM has no bound
        if node.op_type in _WITHIN_ONE:
            return 1.0
        if node.op_type == "ConstantOfShape":
            value = attribute(node, "value")
            return 0.0 if value is None else _largest(numpy_helper.to_array(value))
        if node.op_type == "Mul":
            one, other = map(self.of, inputs)
            return None if one is None or other is None else one * other
        if node.op_type == "Where":
            return self._most(inputs[1:])
        if node.op_type == "Clip":
            return self._most(inputs[1:3]) if len(inputs) > 2 and all(inputs) else None
        if node.op_type == "Concat":
            return self._most(inputs)
        return self.of(inputs[0]) if node.op_type in MOVES else None

    def _most(self, names: Iterable[str]) -> float | None:
        """The largest bound of some tensors; that of a tensor without a name is 1."""
        found = [self.of(name) if name else 1.0 for name in names]
        return None if None in found else max(one for one in found if one is not None)


def bounds_of(graph: Graph, states: Iterable[StateSpec]) -> Bounds:
    """The bounds of a graph whose states begin as the spec says, and are replaced by its own outputs."""
    assumed = {}
    for state in states:
        initial = graph.constant(state.initial) if state.initial else None
        assumed[state.input] = max(1.0, 0.0 if initial is None else _largest(initial)), state.output
    while True:
        bounds = Bounds(graph, {name: most for name, (most, _) in assumed.items()})
        kept = {}
        for name, (most, output) in assumed.items():
            after = bounds.of(output)
            if after is not None and after <= most:
                kept[name] = most, output
        if kept == assumed:
            return bounds
        assumed = kept


def _largest(value: np.ndarray) -> float:
    return float(np.abs(value).max(initial=0.0))
