"""Recurrent layers in 8 bits, in standard operators and in a form whose bits depend on nothing but the sequence.

Each LSTM and GRU node, and each RNN node of tanh, becomes one Scan for each direction. Its products are of integers
(MatMulInteger), which no order of summing rounds; everything else stays float32. What is multiplied is rounded on a
scale that no other row and no other step has a part in: x on that of its own row and step, and h, which never leaves a
range that the graph shows, on one that is fixed in the file.

x and h are uint8 with the zero point 128. Weights are int8 with a scale for each output, and take half of their range:
without VNNI, ONNX Runtime adds two products in 16 bits, and with weights past 64 such a sum is cut off.
"""

import copy
from collections.abc import Callable

import numpy as np
import onnx
from onnx import GraphProto, NodeProto, TensorProto, helper

from elman.exporter.bounds import Bounds, bounds_of
from elman.exporter.errors import ExportRefused
from elman.repository.building import Build
from elman.repository.graph import CELL_BODY, Graph, attribute
from elman.repository.graph_trace import node_label
from elman.repository.network import Array
from elman.repository.pairing import INITIAL_C, INITIAL_H, SEQUENCE_LENS, port
from elman.repository.spec import QUANTISED_KEY, embedded_spec

_MOST_WEIGHT = 63
_STEPS = 127  # of x and h, on either side of zero
_ZERO = 128
_LEAST = 1e-30  # what the largest magnitude of a step of zeros is taken for
_WEIGHTS = (1, 2, 3)  # the inputs W, R and B of a node
_PEEPHOLES = 7
_STARTS = {"LSTM": (INITIAL_H, INITIAL_C), "GRU": (INITIAL_H,), "RNN": (INITIAL_H,)}
_NUM_INPUTS = {"LSTM": 3, "GRU": 3, "RNN": 2}  # of the body of a Scan
_BACKWARDS = {"forward": (0,), "reverse": (1,), "bidirectional": (0, 1)}


def quantised(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a model that `elman.export` wrote, with its recurrent layers in 8 bits. Its metadata says so.

    Layers of another formula than that of torch's LSTM, GRU and RNN of tanh stay as they are.

    Raises ExportRefused where no layer is left, and where nothing keeps the initial h of one in a range.
    """
    rounded = copy.deepcopy(model)
    graph = Graph(rounded)
    properties = {entry.key: entry.value for entry in model.metadata_props}
    spec = embedded_spec(properties)
    states = (spec.state or ()) if spec else ()
    bounds = bounds_of(graph, states)
    layers = [node for node in graph.recurrent() if _has_form(graph, node)]
    if not layers:
        raise ExportRefused("quantise rounds LSTM and GRU layers, and RNN layers of tanh; this module has none")
    nodes: list[NodeProto] = []
    for node in graph.proto.node:
        nodes += _Layer(graph, node, bounds).nodes() if node in layers else [node]
    del graph.proto.node[:]
    graph.proto.node.extend(nodes)
    graph.index()
    weights = {port(node, position) for node in layers for position in _WEIGHTS} - {""}
    unread = weights - graph.consumers.keys() - {state.initial for state in states}
    kept = [value for value in graph.proto.initializer if value.name not in unread]
    del graph.proto.initializer[:]
    graph.proto.initializer.extend(kept)
    onnx.helper.set_model_props(rounded, {**properties, QUANTISED_KEY: "int8 weights"})
    return rounded


def _has_form(graph: Graph, node: NodeProto) -> bool:
    """Whether a node has constant weights and the formula of torch's LSTM, GRU or RNN of tanh."""
    activations = [one.decode() for one in attribute(node, "activations", [])]
    if any(one != "Tanh" for one in activations) or (activations and node.op_type != "RNN"):
        return False
    if node.op_type == "GRU" and not attribute(node, "linear_before_reset", 0):
        return False
    if any(attribute(node, name, 0) for name in ("clip", "input_forget", "layout")):
        return False
    if port(node, SEQUENCE_LENS) or port(node, _PEEPHOLES):
        return False
    return all(graph.constant(port(node, position)) is not None for position in _WEIGHTS if port(node, position))


class _Layer:
    """A recurrent node, and the nodes that take its place."""

    def __init__(self, graph: Graph, node: NodeProto, bounds: Bounds) -> None:
        limit = bounds.of_hidden(node)
        if limit is None:
            raise ExportRefused(
                f"nothing shows how large the initial h of {node_label(node)} may be, and 8 bits need a range: put a "
                "tanh behind what computes it, or export without quantise"
            )
        self.node, self.limit, self.size = node, limit, int(attribute(node, "hidden_size"))
        self.build = Build(graph, f"elman.int8.{next(name for name in node.output if name)}")
        self.zero = self.build.array(np.array(_ZERO, np.uint8))

    def nodes(self) -> list[NodeProto]:
        """The nodes that make the outputs of the node."""
        build = self.build
        x, largest = self._round_steps(self.node.input[0])
        directions = _BACKWARDS[attribute(self.node, "direction", "forward")]
        runs = [self._direction(index, backwards, x, largest) for index, backwards in enumerate(directions)]
        for name, parts in zip(self.node.output, zip(*runs, strict=True), strict=False):
            axis = 1 if name == self.node.output[0] else 0
            if name:
                wide = [build.add("Unsqueeze", [part, build.ints([axis])]) for part in parts]
                build.add("Concat", wide, into=name, axis=axis)
        return build.nodes

    def _round_steps(self, x: str) -> tuple[str, str]:
        """x (time, batch, features) in uint8, and the largest magnitude of each row and step, (time, batch, 1)."""
        build = self.build
        largest = build.add("ReduceMax", [build.add("Abs", [x]), build.ints([-1])])
        largest = build.add("Max", [largest, build.array(np.array(_LEAST, np.float32))])
        share = build.add("Div", [x, largest])
        return build.add("QuantizeLinear", [share, build.array(np.array(1 / _STEPS, np.float32)), self.zero]), largest

    def _direction(self, index: int, backwards: int, x: str, largest: str) -> list[str]:
        """y (time, batch, hidden), and the final states, each (batch, hidden)."""
        build = self.build
        w, r = (build.constant(port(self.node, position))[index] for position in _WEIGHTS[:2])  # (gates * hidden, ...)
        bias = build.constant(port(self.node, _WEIGHTS[2]))[index] if port(self.node, _WEIGHTS[2]) else None
        of_x, of_h = np.zeros((2, len(w)), np.float32) if bias is None else np.split(bias, 2)
        body = Build(build.graph, f"{build.prefix}.step{index}")
        if self.node.op_type == "GRU":  # the reset gate multiplies the last part of the other bias
            of_x = of_x + np.where(np.arange(len(w)) < 2 * self.size, of_h, 0)
        else:
            of_x = of_x + of_h
        gates = build.add("Mul", [_product(build, x, w, self.zero, 1 / _STEPS), largest])
        over = [build.add("Add", [gates, build.array(of_x)])]
        if self.node.op_type == "GRU":
            over = build.add_many("Split", [over[0], build.ints([2 * self.size, self.size])], 2, axis=2)
        starts = [self._start(position, index) for position in _STARTS[self.node.op_type]]
        step = _Step(body, self.size, self.limit, self.zero, r, of_h[-self.size :])
        *finals, y = build.add_many(
            "Scan",
            [*starts, *over],
            len(starts) + 1,
            name=f"{self.node.name}{'.backwards' * backwards}",
            body=step.graph(self.node.op_type),
            num_scan_inputs=len(over),
            scan_input_directions=[backwards] * len(over),
            scan_output_directions=[backwards],
        )
        return [y, *finals]

    def _start(self, position: int, index: int) -> str:
        """A state of one direction before the first step, (batch, hidden)."""
        build = self.build
        if port(self.node, position):
            return build.add("Gather", [port(self.node, position), build.scalar(index)], axis=0)
        rows = build.add("Gather", [build.add("Shape", [self.node.input[0]]), build.ints([1])])
        shape = build.add("Concat", [rows, build.ints([self.size])], axis=0)
        return build.add("Expand", [build.array(np.zeros(1, np.float32)), shape])


class _Step:
    """The body of a Scan, which goes over what x gives to the gates, (batch, gates * hidden).

    The names of the first tensors are those of its inputs: the states, then what it goes over.
    """

    def __init__(self, build: Build, size: int, limit: float, zero: str, r: Array, bias: Array) -> None:
        self.build, self.size, self.limit, self.zero, self.r, self.bias = build, size, limit, zero, r, bias

    def graph(self, operator: str) -> GraphProto:
        """h (and c), gates -> h (and c), y. Constants are read from the graph around it."""
        build = self.build
        steps: dict[str, Callable[..., list[str]]] = {"LSTM": self._lstm, "GRU": self._gru, "RNN": self._rnn}
        inputs = [build.name() for _ in range(_NUM_INPUTS[operator])]
        y, *rest = steps[operator](*inputs)
        outputs = [build.add("Identity", [y]), *rest, y]
        taken, given = (
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names]
            for names in (inputs, outputs)
        )
        return helper.make_graph(build.nodes, CELL_BODY + operator, taken, given)

    def _of_h(self, h: str) -> str:
        """What h gives to the gates."""
        scale = self.limit / _STEPS
        rounded = self.build.add("QuantizeLinear", [h, self.build.array(np.array(scale, np.float32)), self.zero])
        return _product(self.build, rounded, self.r, self.zero, scale)

    def _split(self, name: str, *sizes: int) -> list[str]:
        sizes_of = self.build.ints([one * self.size for one in sizes])
        return self.build.add_many("Split", [name, sizes_of], len(sizes), axis=1)

    def _lstm(self, h: str, c: str, x: str) -> list[str]:
        add = self.build.add
        gates, candidate = self._split(add("Add", [self._of_h(h), x]), 3, 1)
        i, o, f = self._split(add("Sigmoid", [gates]), 1, 1, 1)
        c = add("Add", [add("Mul", [f, c]), add("Mul", [i, add("Tanh", [candidate])])])
        return [add("Mul", [o, add("Tanh", [c])]), c]

    def _gru(self, h: str, x: str, x_candidate: str) -> list[str]:
        add = self.build.add
        of_h, of_candidate = self._split(self._of_h(h), 2, 1)
        z, r = self._split(add("Sigmoid", [add("Add", [of_h, x])]), 1, 1)
        of_candidate = add("Mul", [r, add("Add", [of_candidate, self.build.array(self.bias)])])
        candidate = add("Tanh", [add("Add", [of_candidate, x_candidate])])
        return [add("Add", [candidate, add("Mul", [z, add("Sub", [h, candidate])])])]

    def _rnn(self, h: str, x: str) -> list[str]:
        return [self.build.add("Tanh", [self.build.add("Add", [self._of_h(h), x])])]


def _product(build: Build, rounded: str, weights: Array, zero: str, scale: float) -> str:
    """The product of a tensor in uint8 with weights (outputs, inputs), float32; `scale` is what a step of it is."""
    largest = np.maximum(np.abs(weights).max(axis=1, initial=0.0), _LEAST) / _MOST_WEIGHT  # (outputs,)
    integers = np.rint(weights / largest[:, None]).astype(np.int8)
    product = build.add("MatMulInteger", [rounded, build.array(integers.T), zero])
    return build.add("Mul", [build.add("Cast", [product], to=TensorProto.FLOAT), build.array(largest * scale)])
