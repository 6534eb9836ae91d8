"""The plain RNN operator, replaced by a Scan over one matrix product a step.

ONNX Runtime's RNN packs no weights, so it is slow, and takes another path for a single row, whose last bits then
differ. A Scan around MatMul, Add and the activation is faster and rounds the same whatever the batch.
"""

import numpy as np
from onnx import GraphProto, NodeProto, TensorProto, helper

from elman.repository.building import Build
from elman.repository.graph import Graph, attribute
from elman.repository.network import LENGTHS, Array
from elman.repository.pairing import INITIAL_H, directions, port

_ACTIVATIONS = {"tanh": "Tanh", "relu": "Relu"}


def replace_rnns(graph: Graph) -> None:
    """Replace every RNN node of the top level whose weights are constant and whose activation is tanh or relu.

    The graph must have the input `elman.lengths`. Steps past a row's length come out as something finite in place of
    zeros; nothing reads them.
    """
    for node in [node for node in graph.recurrent() if node.op_type == "RNN"]:
        weights = [graph.constant(port(node, position)) for position in (1, 2, 3) if port(node, position)]
        if not any(weight is None for weight in weights) and _activations(node) is not None:
            _replace(graph, node)


def _activations(node: NodeProto) -> list[str] | None:
    """The activation of each direction as an operator; None where it is another, or the state is clipped."""
    names = [str(name.decode() if isinstance(name, bytes) else name) for name in attribute(node, "activations", [])]
    operators = [_ACTIVATIONS.get(name.lower()) for name in names or ["Tanh"] * directions(node)]
    if attribute(node, "clip") is not None or None in operators:
        return None
    return [operator for operator in operators if operator is not None]


def _replace(graph: Graph, node: NodeProto) -> None:
    prefix = f"elman.scan.{next(name for name in node.output if name)}"
    outputs = [*node.output, "", ""]
    build = Build(graph, prefix)
    lengths = build.add("Cast", [LENGTHS], to=TensorProto.INT64)
    last = _last_steps(build, lengths)
    reverse = {"forward": [False], "reverse": [True], "bidirectional": [False, True]}
    steps, finals = [], []
    for index, backwards in enumerate(reverse[attribute(node, "direction", "forward")]):
        y, final = _direction(build, node, index, backwards, lengths, last)
        steps.append(build.add("Unsqueeze", [y, build.ints([1])]))
        finals.append(build.add("Unsqueeze", [final, build.ints([0])]))
    if outputs[0]:
        build.add("Concat", steps, into=outputs[0], axis=1)
    if outputs[1]:
        build.add("Concat", finals, into=outputs[1], axis=0)
    at = next(i for i, one in enumerate(graph.proto.node) if list(one.output) == list(node.output))
    del graph.proto.node[at]
    for offset, one in enumerate(build.nodes):
        graph.proto.node.insert(at + offset, one)
    graph.index()


def _direction(build: Build, node: NodeProto, index: int, backwards: bool, lengths: str, last: str) -> tuple[str, str]:
    """One direction: outputs of each step (time, batch, hidden), and the final h (batch, hidden)."""
    w, r = (build.constant(port(node, position))[index] for position in (1, 2))
    bias = build.constant(port(node, 3))[index] if port(node, 3) else np.zeros(2 * len(w), w.dtype)
    x = node.input[0]
    if backwards:
        x = build.add("ReverseSequence", [x, lengths], batch_axis=1, time_axis=0)
    projected = build.add("MatMul", [x, build.array(w.T)])
    inputs = build.add("Add", [projected, build.array(bias[: len(w)] + bias[len(w) :])])
    first = _initial(build, node, index, w)
    body = _step(build, (_activations(node) or [])[index], build.array(r.T), w.dtype)
    _, y = build.add_many("Scan", [first, inputs], 2, body=body, num_scan_inputs=1)
    final = build.add("GatherND", [y, last])
    if backwards:
        y = build.add("ReverseSequence", [y, lengths], batch_axis=1, time_axis=0)
    return y, final


def _initial(build: Build, node: NodeProto, index: int, w: Array) -> str:
    """The initial h of one direction, (batch, hidden)."""
    if port(node, INITIAL_H):
        return build.add("Gather", [port(node, INITIAL_H), build.scalar(index)], axis=0)
    batch = build.add("Shape", [LENGTHS])
    shape = build.add("Concat", [batch, build.ints([len(w)])], axis=0)
    return build.add("Expand", [build.array(np.zeros(1, w.dtype)), shape])


def _last_steps(build: Build, lengths: str) -> str:
    """(batch, 2) indices of each row's last step in a (time, batch, ...) tensor."""
    steps = build.add("Sub", [lengths, build.ints([1])])
    size = build.add("Gather", [build.add("Shape", [lengths]), build.scalar(0)])
    rows = build.add("Range", [build.scalar(0), size, build.scalar(1)])
    columns = [build.add("Unsqueeze", [name, build.ints([1])]) for name in (steps, rows)]
    return build.add("Concat", columns, axis=1)


def _step(build: Build, activation: str, recurrent: str, dtype: np.dtype[np.generic]) -> GraphProto:
    """h, x -> activation(h R + x), twice: to carry on and to keep."""
    kind = helper.np_dtype_to_tensor_dtype(dtype)
    names = [build.name() for _ in range(6)]
    h, x, moved, summed, after, kept = names
    nodes = [
        helper.make_node("MatMul", [h, recurrent], [moved]),
        helper.make_node("Add", [moved, x], [summed]),
        helper.make_node(activation, [summed], [after]),
        helper.make_node("Identity", [after], [kept]),
    ]
    inputs = [helper.make_tensor_value_info(name, kind, None) for name in (h, x)]
    outputs = [helper.make_tensor_value_info(name, kind, None) for name in (after, kept)]
    return helper.make_graph(nodes, f"{build.prefix}.step", inputs, outputs)
