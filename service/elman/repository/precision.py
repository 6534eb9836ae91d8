"""Half precision, widened: no CPU kernel of a recurrent operator takes float16, so weights of it serve as float32."""

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, numpy_helper

from elman.repository.graph import all_graphs

# Operators whose attribute names an element type, and that attribute.
_TYPED = {"Cast": "to", "RandomNormal": "dtype", "RandomUniform": "dtype", "EyeLike": "dtype"}


def widen_halves(model: onnx.ModelProto) -> None:
    """Make every float16 tensor of a model float32, its inputs and outputs too. Every float16 is a float32."""
    for graph in all_graphs(model.graph):
        for tensor in graph.initializer:
            _widen(tensor)
        for node in graph.node:
            _widen_attributes(node)
        for value in [*graph.input, *graph.output, *graph.value_info]:
            if value.type.tensor_type.elem_type == TensorProto.FLOAT16:
                value.type.tensor_type.elem_type = TensorProto.FLOAT


def _widen_attributes(node: NodeProto) -> None:
    for item in node.attribute:
        if item.HasField("t"):
            _widen(item.t)
        if item.name == _TYPED.get(node.op_type) and item.i == TensorProto.FLOAT16:
            item.i = TensorProto.FLOAT


def _widen(tensor: TensorProto) -> None:
    if tensor.data_type == TensorProto.FLOAT16:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
