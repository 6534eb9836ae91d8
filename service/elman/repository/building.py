"""Nodes in the making, beside a graph that will have them."""

from typing import Any

import numpy as np
from onnx import NodeProto, helper

from elman.repository.graph import Graph
from elman.repository.network import Array


class Build:
    """Nodes under names of their own, in `nodes`. Their constants are put into the graph at once."""

    def __init__(self, graph: Graph, prefix: str) -> None:
        self.graph = graph
        self.prefix = prefix
        self.nodes: list[NodeProto] = []
        self._count = 0

    def name(self) -> str:
        self._count += 1
        return f"{self.prefix}.{self._count}"

    def add(self, operator: str, inputs: list[str], into: str | None = None, **attributes: Any) -> str:
        (name,) = self.add_many(operator, inputs, 1, into, **attributes)
        return name

    def add_many(
        self, operator: str, inputs: list[str], outputs: int, into: str | None = None, **attributes: Any
    ) -> list[str]:
        names = [into] if into else [self.name() for _ in range(outputs)]
        self.nodes.append(helper.make_node(operator, inputs, names, **attributes))
        return names

    def constant(self, name: str) -> Array:
        value = self.graph.constant(name)
        assert value is not None, "looked at before it was replaced"
        return value

    def array(self, value: Array) -> str:
        return self.graph.add_initializer(self.name(), np.asarray(value, order="C"))

    def ints(self, values: list[int]) -> str:
        return self.array(np.array(values, np.int64))

    def scalar(self, value: int) -> str:
        return self.graph.add_initializer(self.name(), np.array(value, np.int64))
