"""The LSTM with projections (H. Sak, A. Senior and F. Beaufays, 2014) as an ONNX Scan, because ONNX has no operator.

torch's exporter can write a node of an unknown operator, but not a node with a graph inside. So the trace has a
placeholder node, PROJECTED, which `expand_projected` replaces by the Scan.
"""

from typing import Any

from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper

DOMAIN = "elman.export"
PROJECTED = f"{DOMAIN}::ProjectedLSTM"
"""h (batch, projected), c (batch, hidden), gates (time, batch, 4 * hidden), R (projected, 4 * hidden),
P (hidden, projected) -> h, c, y (time, batch, projected).

The gates are in the order i f g o and lack the recurrent part. With `backwards` = 1 it runs from the last step to the
first."""


def expand_projected(model: ModelProto) -> None:
    """Replace every PROJECTED node by a Scan."""
    nodes = list(model.graph.node)
    if not any(node.domain == DOMAIN for node in nodes):
        return
    del model.graph.node[:]
    model.graph.node.extend(_scan(node) if node.domain == DOMAIN else node for node in nodes)
    kept = [opset for opset in model.opset_import if opset.domain != DOMAIN]
    del model.opset_import[:]
    model.opset_import.extend(kept)


def _scan(node: NodeProto) -> NodeProto:
    h, c, gates, r, p = node.input
    backwards = next((attribute.i for attribute in node.attribute if attribute.name == "backwards"), 0)
    return helper.make_node(
        "Scan",
        [h, c, gates],
        list(node.output),
        name=node.name,
        body=_step(node.output[2], r, p),
        num_scan_inputs=1,
        scan_input_directions=[backwards],
        scan_output_directions=[backwards],
    )


def _step(prefix: str, r: str, p: str) -> GraphProto:
    """One step: h, c, gates -> h, c, y. It reads the weights r and p from the graph around it."""

    def local(name: str) -> str:
        return f"{prefix}.{name}"

    def node(operator: str, inputs: list[str], outputs: list[str], **attributes: Any) -> NodeProto:
        return helper.make_node(operator, inputs, outputs, **attributes)

    h, c, x, i, f, g, o = (local(name) for name in ("h", "c", "x", "i", "f", "g", "o"))
    nodes = [
        node("MatMul", [h, r], [local("recurrent")]),
        node("Add", [local("recurrent"), x], [local("gates")]),
        node("Split", [local("gates")], [i, f, g, o], axis=1, num_outputs=4),
        *(node("Sigmoid", [gate], [f"{gate}_open"]) for gate in (i, f, o)),
        node("Tanh", [g], [local("candidate")]),
        node("Mul", [f"{f}_open", c], [local("kept")]),
        node("Mul", [f"{i}_open", local("candidate")], [local("added")]),
        node("Add", [local("kept"), local("added")], [local("c_next")]),
        node("Tanh", [local("c_next")], [local("squashed")]),
        node("Mul", [f"{o}_open", local("squashed")], [local("full")]),
        node("MatMul", [local("full"), p], [local("h_next")]),
        node("Identity", [local("h_next")], [local("y")]),
    ]
    inputs, outputs = (
        [helper.make_tensor_value_info(local(name), TensorProto.FLOAT, None) for name in names]
        for names in (("h", "c", "x"), ("h_next", "c_next", "y"))
    )
    return helper.make_graph(nodes, local("step"), inputs, outputs)
