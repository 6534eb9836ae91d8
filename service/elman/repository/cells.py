"""A Scan whose body is the cell of a GRU or an LSTM, written as that node, which runs it several times as fast.

The body is followed as sums: each tensor in front of a sigmoid or a tanh is an affine function of the step and of the
states, with a gate times such a function for the candidate of a GRU. That gives the weights of the node. Then the body
is run and compared with what the node computes. All that it may contain is smooth, so that what is alike at random
points is alike everywhere.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import permutations
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper

from elman.repository.graph import Graph, attribute, reads
from elman.repository.graph_loops import scan_inputs
from elman.repository.graph_rewrite import GraphRewrite
from elman.repository.network import Array
from elman.repository.runtime import GraphSession, RuntimeFailure

_ROWS = 16
# Small numbers, and some that saturate the gates.
_SCALES = (0.3, 3.0)
_OPSET = 7


class NoCell(Exception):
    """The body of a Scan is not shown to be a cell that ONNX has a node for."""


def write_as_cell(rewrite: GraphRewrite, node: NodeProto) -> None:
    """Replace a Scan of the top level by a GRU or LSTM node. Raises NoCell, and leaves it, where it is neither."""
    graph = rewrite.graph
    try:
        nodes = _Scan(rewrite, node).as_cell()
    except (KeyError, IndexError, ValueError, TypeError, RuntimeFailure):
        raise NoCell from None
    at = list(graph.proto.node).index(node)
    graph.proto.node.remove(node)
    for offset, one in enumerate(nodes):
        graph.proto.node.insert(at + offset, one)
    graph.index()


@dataclass(frozen=True, eq=False)
class _Product:
    """`sigmoid([inputs, 1] @ gate) * ([inputs, 1] @ factor) @ mix`; `inputs` are the step and the states."""

    gate: Array
    factor: Array
    mix: Array


@dataclass(frozen=True, eq=False)
class _Sum:
    """`[inputs, 1] @ matrix`, of shape `(rows, columns)`, plus products. `input` is where an input's own rows begin."""

    matrix: Array
    products: tuple[_Product, ...] = ()
    input: int | None = None

    def times(self, weights: Array) -> "_Sum":
        if self.input is None:
            matrix = self.matrix @ weights
        else:  # the product with ones and zeros, which takes long for a wide layer
            matrix = np.zeros((len(self.matrix), weights.shape[1]))
            matrix[self.input : self.input + len(weights)] = weights
        return _Sum(matrix, tuple(replace(one, mix=one.mix @ weights) for one in self.products))

    def plus(self, other: "_Sum") -> "_Sum":
        return _Sum(self.matrix + other.matrix, (*self.products, *other.products))

    def negative(self) -> "_Sum":
        return _Sum(-self.matrix, tuple(replace(one, mix=-one.mix) for one in self.products))

    def take(self, columns: range) -> "_Sum":
        return _Sum(self.matrix[:, columns], tuple(replace(one, mix=one.mix[:, columns]) for one in self.products))

    def beside(self, other: "_Sum") -> "_Sum":
        """The columns of this sum, and then those of another."""
        none, nothing = np.zeros_like(other.matrix[:1]), np.zeros_like(self.matrix[:1])
        mine = (replace(one, mix=np.hstack([one.mix, none.repeat(len(one.mix), 0)])) for one in self.products)
        others = (replace(one, mix=np.hstack([nothing.repeat(len(one.mix), 0), one.mix])) for one in other.products)
        return _Sum(np.hstack([self.matrix, other.matrix]), (*mine, *others))


@dataclass(frozen=True, eq=False)
class _Gate:
    """The sigmoid of `[inputs, 1] @ matrix`."""

    matrix: Array


# A sum, a gate, or None for anything else.
_Followed = _Sum | _Gate | None


@dataclass(frozen=True)
class _Cell:
    """A node and its weights, float64: `[x, h, 1] @ matrix` for each gate in the order of ONNX.

    Of a GRU that resets after the product, `candidate` is the second bias, and otherwise None.
    """

    operator: str
    gates: tuple[Array, ...]
    recurrent_bias: Array | None = None

    def next(self, x: Array, states: list[Array]) -> list[Array]:
        """The states after a step, as ONNX defines the node."""
        h = states[0]
        ones = np.ones((len(x), 1))
        if self.operator == "LSTM":
            i, o, f, g = (np.hstack([x, h, ones]) @ gate for gate in self.gates)
            c = _sigmoid(f) * states[1] + _sigmoid(i) * np.tanh(g)
            return [_sigmoid(o) * np.tanh(c), c]
        z, r = (_sigmoid(np.hstack([x, h, ones]) @ gate) for gate in self.gates[:2])
        width = x.shape[1]
        of_x, of_h, bias = np.split(self.gates[2], [width, width + h.shape[1]])
        if self.recurrent_bias is None:
            n = np.tanh(x @ of_x + (r * h) @ of_h + bias)
        else:
            n = np.tanh(x @ of_x + bias + r * (h @ of_h + self.recurrent_bias))
        return [(1 - z) * n + z * h]

    def weights(self, width: int) -> tuple[Array, Array, Array]:
        """W, R and B of the node, float32."""
        w, r, b = np.split(np.hstack(self.gates), [width, -1])
        second = np.zeros_like(b)
        if self.recurrent_bias is not None:
            second[:, -len(self.recurrent_bias) :] = self.recurrent_bias
        return w.T[None].astype(np.float32), r.T[None].astype(np.float32), np.hstack([b, second]).astype(np.float32)


def _sigmoid(x: Array) -> Array:
    return np.asarray(0.5 + 0.5 * np.tanh(0.5 * x))


def _blocks(gate: Array, hidden_size: int) -> list[Array]:
    count, rest = divmod(gate.shape[1], hidden_size)
    if rest:
        raise NoCell
    return np.split(gate, count, axis=1)


class _Scan:
    """A Scan of the top level of a graph."""

    def __init__(self, rewrite: GraphRewrite, node: NodeProto) -> None:
        self.graph, self.node = rewrite.graph, node
        self.starts, over = scan_inputs(node)
        directions = [*attribute(node, "scan_input_directions", []), *attribute(node, "scan_output_directions", [])]
        if len(over) != 1 or any(directions) or rewrite.graph.opset < _OPSET:
            raise NoCell
        (self.over,) = over
        shape = rewrite.shapes[0][self.over]
        self.axis = (attribute(node, "scan_input_axes") or [0])[0] % len(shape)
        self.body = _Body(rewrite.graph, attribute(node, "body"), len(self.starts))
        finals = list(zip(self.starts, node.output, strict=False))
        held = all(shapes[start] == shapes[final] for shapes in rewrite.shapes for start, final in finals if final)
        sizes = {rewrite.shapes[0][start][1:] for start in self.starts}
        if len(shape) != 3 or not held or len(sizes) != 1:
            raise NoCell
        self.width = (shape[: self.axis] + shape[self.axis + 1 :])[1]
        ((self.hidden_size,),) = sizes

    def as_cell(self) -> list[NodeProto]:
        """The nodes that do the same. Raises NoCell."""
        found, order = self.body.cell(self.width, self.hidden_size)
        made = [self.body.root(name) for name in self.body.outputs[len(self.starts) :]]
        if any(name != self.body.root(self.body.outputs[order[0]]) for name in made):
            raise NoCell  # it gives more of each step than the node does
        return list(self._nodes(found, order))

    def _nodes(self, cell: _Cell, order: tuple[int, ...]) -> Iterator[NodeProto]:
        prefix = f"elman.cell.{next(name for name in self.node.output if name)}"
        names = [f"{prefix}.{one}" for one in ("W", "R", "B")]
        for name, value in zip(names, cell.weights(self.width), strict=True):
            self.graph.add_initializer(name, value)
        x = f"{prefix}.x"
        yield helper.make_node(
            "Transpose", [self.over], [x], perm=[self.axis, *(at for at in range(3) if at != self.axis)]
        )
        initial = []
        for at in order:
            initial.append(f"{prefix}.initial{at}")
            yield self.graph.axis_node("Unsqueeze", self.starts[at], initial[-1], 0)
        y, finals = f"{prefix}.y", [f"{prefix}.final{at}" for at in order]
        options: dict[str, Any] = {"hidden_size": self.hidden_size}
        if cell.operator == "GRU":
            options["linear_before_reset"] = int(cell.recurrent_bias is not None)
        inputs = [x, *names, "", *initial]
        yield helper.make_node(cell.operator, inputs, [y, *finals], name=self.node.name, **options)
        for at, final in zip(order, finals, strict=True):
            if self.node.output[at]:
                yield self.graph.axis_node("Squeeze", final, self.node.output[at], 0)
        stacked = self.node.output[len(self.starts) :]
        axes = attribute(self.node, "scan_output_axes") or [0] * len(stacked)
        for name, axis in zip(stacked, axes, strict=False):
            if name:
                perm = [1, 2]
                perm.insert(axis % 3, 0)
                yield self.graph.axis_node("Squeeze", y, f"{name}.steps", 1)
                yield helper.make_node("Transpose", [f"{name}.steps"], [name], perm=perm)


class _Body:
    """The body of a Scan, run by itself and followed."""

    def __init__(self, outer: Graph, body: onnx.GraphProto, num_states: int) -> None:
        model = onnx.ModelProto(ir_version=outer.model.ir_version, opset_import=outer.model.opset_import, graph=body)
        self.inputs = [value.name for value in body.input]
        self.outputs = [value.name for value in body.output]
        self.num_states = num_states
        own = Graph(model)
        inside = {*self.inputs, *own.initializers, *own.producer}
        for name in {name for node in body.node for name in reads(node)} - inside:
            value = outer.constant(name)
            if value is None:
                raise NoCell  # it reads what may be another for each request
            own.add_initializer(name, value)
        del model.graph.input[:], model.graph.output[:], model.graph.value_info[:]
        for name in self.inputs:
            model.graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for node in body.node for name in node.output if name)
        own.index()
        self.graph = own
        self.session = GraphSession(model.SerializeToString())
        self.gates: list[Array] = []
        self.candidates: list[_Followed] = []

    def root(self, name: str) -> str:
        """A tensor, or what it is an Identity of."""
        node = self.graph.producer.get(name)
        return self.root(node.input[0]) if node is not None and node.op_type == "Identity" else name

    def cell(self, width: int, hidden_size: int) -> tuple[_Cell, tuple[int, ...]]:
        """The cell, and which of the body's states its states are. Raises NoCell."""
        points = [self._run(width, hidden_size, scale) for scale in _SCALES]
        self._follow(width, hidden_size, points[0])
        for cell, order in self._proposed(width, hidden_size):
            if all(self._is_alike(cell, order, values) for values in points):
                return cell, order
        raise NoCell

    def _run(self, width: int, hidden_size: int, scale: float) -> dict[str, Array]:
        random = np.random.default_rng(0)
        feeds = {
            name: (scale * random.standard_normal((_ROWS, size))).astype(np.float32)
            for name, size in zip(self.inputs, [hidden_size] * self.num_states + [width], strict=True)
        }
        found = self.session.run(self.session.output_names, feeds)
        return dict(zip(self.session.output_names, found, strict=True)) | feeds

    def _is_alike(self, cell: _Cell, order: tuple[int, ...], values: dict[str, Array]) -> bool:
        *states, x = (values[name].astype(np.float64) for name in self.inputs)
        after = cell.next(x, [states[at] for at in order])
        made = [values[self.outputs[at]] for at in order]
        return all(np.allclose(one, other, rtol=1e-5, atol=1e-5) for one, other in zip(made, after, strict=True))

    # Which cell

    def _proposed(self, width: int, hidden_size: int) -> Iterator[tuple[_Cell, tuple[int, ...]]]:
        """The cells that it may be."""
        blocks = [block for gate in self.gates for block in _blocks(gate, hidden_size)]
        sums = [one for one in self.candidates if isinstance(one, _Sum) and one.matrix.shape[1] == hidden_size]
        if len(sums) != 1:
            return
        (candidate,) = sums
        if self.num_states == 1 and len(blocks) == 2 and len(candidate.products) == 1:
            yield from self._grus(blocks, candidate, width, hidden_size)
        if self.num_states == 2 and len(blocks) == 3 and not candidate.products:
            for order in ((0, 1), (1, 0)):
                first = width + order[1] * hidden_size
                of_c = range(first, first + hidden_size)
                if any(one[of_c].any() for one in (*blocks, candidate.matrix)):
                    continue  # c reaches a gate
                gates = [np.delete(one, of_c, axis=0) for one in (*blocks, candidate.matrix)]
                for i, o, f in permutations(gates[:3]):
                    yield _Cell("LSTM", (i, o, f, gates[3])), order

    def _grus(
        self, blocks: list[Array], candidate: _Sum, width: int, hidden_size: int
    ) -> Iterator[tuple[_Cell, tuple[int, ...]]]:
        (product,) = candidate.products
        own = slice(width, width + hidden_size)
        state = np.zeros_like(product.factor)
        state[own] = np.eye(hidden_size)
        updates = [block for block in blocks if not np.array_equal(block, product.gate)]
        if len(updates) != 1 or candidate.matrix[own].any():
            return
        after = np.array_equal(product.mix, np.eye(hidden_size)) and not product.factor[:width].any()
        if not after and not np.array_equal(product.factor, state):
            return
        gate = candidate.matrix.copy()
        gate[own] = product.factor[own] if after else product.mix
        bias = product.factor[-1] if after else None
        for update in (updates[0], -updates[0]):  # z, or 1 - z
            yield _Cell("GRU", (update, product.gate, gate), bias), (0,)

    # Following

    def _follow(self, width: int, hidden_size: int, values: dict[str, Array]) -> None:
        """Find what the gates and the candidates are sums of. Raises NoCell at an operator that may not be smooth."""
        self.size, first = width + self.num_states * hidden_size + 1, width
        self.values, self.followed = values, dict[str, _Followed]()
        rows = np.eye(self.size)
        for name in self.inputs[:-1]:
            self.followed[name] = _Sum(rows[:, first : first + hidden_size], input=first)
            first += hidden_size
        self.followed[self.inputs[-1]] = _Sum(rows[:, :width], input=0)
        depends = self.graph.forward(self.inputs)
        for node in self.graph.proto.node:
            if not depends.isdisjoint(node.output):
                for name, found in zip(node.output, self._outputs(node), strict=False):
                    self.followed[name] = found

    def _outputs(self, node: NodeProto) -> list[_Followed]:
        rule = getattr(self, f"_follow_{node.op_type.lower()}", None)
        if rule is None or node.domain:
            raise NoCell
        found = rule(node)
        return found if isinstance(found, list) else [found]

    def _sum(self, name: str, columns: int = 1) -> _Sum | None:
        """A tensor as a sum; also a constant, of so many columns."""
        if name in self.followed:
            found = self.followed[name]
            return found if isinstance(found, _Sum) else None
        matrix = np.zeros((self.size, columns))
        matrix[-1] = np.reshape(self._weights(name), (1, -1))
        return _Sum(matrix)

    def _weights(self, name: str) -> Array:
        """A constant. Raises NoCell for what is none."""
        value = self.values[name] if name in self.values else self.graph.constant(name)
        if name in self.followed or value is None:
            raise NoCell
        return value.astype(np.float64)

    def _columns(self, name: str) -> int:
        found = self.followed.get(name)
        return 1 if found is None else found.matrix.shape[1]

    def _follow_identity(self, node: NodeProto) -> _Followed:
        return self.followed[node.input[0]]

    def _follow_matmul(self, node: NodeProto) -> _Followed:
        found = self._sum(node.input[0])
        return None if found is None else found.times(self._weights(node.input[1]))

    def _follow_gemm(self, node: NodeProto) -> _Followed:
        name, by, *bias = node.input
        found, weights = self._sum(name), self._weights(by)
        scales = [attribute(node, "alpha", 1.0), attribute(node, "beta", 1.0)]
        if found is None or attribute(node, "transA", 0) or scales != [1.0, 1.0]:
            return None
        found = found.times(weights.T if attribute(node, "transB", 0) else weights)
        added = self._sum(bias[0], found.matrix.shape[1]) if bias else None
        return found if not bias else None if added is None else found.plus(added)

    def _follow_add(self, node: NodeProto) -> _Followed:
        one, other = self._pair(node)
        return None if one is None or other is None else one.plus(other)

    def _follow_sub(self, node: NodeProto) -> _Followed:
        one, other = self._pair(node)
        return None if one is None or other is None else one.plus(other.negative())

    def _follow_neg(self, node: NodeProto) -> _Followed:
        found = self._sum(node.input[0])
        return None if found is None else found.negative()

    def _pair(self, node: NodeProto) -> tuple[_Sum | None, _Sum | None]:
        columns = max(map(self._columns, node.input))
        return self._sum(node.input[0], columns), self._sum(node.input[1], columns)

    def _follow_mul(self, node: NodeProto) -> _Followed:
        one, other = (self.followed.get(name) for name in node.input)
        if isinstance(other, _Gate):
            one, other = other, one
        if isinstance(one, _Gate) and isinstance(other, _Sum) and not other.products:
            columns = one.matrix.shape[1]
            product = _Product(one.matrix, other.matrix, np.eye(columns))
            return _Sum(np.zeros((self.size, columns)), (product,))
        return None

    def _follow_sigmoid(self, node: NodeProto) -> _Followed:
        found = self._sum(node.input[0])
        if found is None or found.products:
            raise NoCell
        self.gates.append(found.matrix)
        return _Gate(found.matrix)

    def _follow_tanh(self, node: NodeProto) -> _Followed:
        self.candidates.append(self.followed[node.input[0]])
        return None

    def _follow_split(self, node: NodeProto) -> list[_Followed]:
        widths = [self.values[name].shape[-1] for name in node.output]
        self._check_last_axis(attribute(node, "axis", 0))
        ends = np.cumsum(widths)
        return [self._taken(node.input[0], range(end - width, end)) for width, end in zip(widths, ends, strict=True)]

    def _follow_slice(self, node: NodeProto) -> _Followed:
        columns = range(self._columns(node.input[0]))
        given = [attribute(node, name) for name in ("starts", "ends", "axes")]
        if len(node.input) > 1:
            given = [self._weights(name).astype(np.int64).tolist() for name in node.input[1:]]
        starts, ends, axes, steps = [*given, *[None] * 4][:4]
        for start, end, axis, step in zip(starts, ends, axes or [0, 1], steps or [1, 1], strict=False):
            if axis in (1, -1):
                columns = columns[start:end:step]
            elif (start, step) != (0, 1) or end < 2**31 - 1:
                raise NoCell
        return self._taken(node.input[0], columns)

    def _follow_concat(self, node: NodeProto) -> _Followed:
        self._check_last_axis(attribute(node, "axis"))
        first, *others = (self._sum(name, self.values[name].shape[-1]) for name in node.input)
        for other in others:
            first = None if first is None or other is None else first.beside(other)
        return first

    def _check_last_axis(self, axis: int) -> None:
        if axis not in (1, -1):
            raise NoCell

    def _taken(self, name: str, columns: range) -> _Followed:
        """Some columns of a tensor."""
        found = self.followed[name]
        if isinstance(found, _Gate):
            return _Gate(found.matrix[:, columns])
        return None if found is None else found.take(columns)
