"""Every float as float32: no CPU kernel of a recurrent operator takes another, so weights of it serve as float32."""

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, numpy_helper

from elman.errors import ModelRefused
from elman.repository.graph import all_graphs

# Operators whose attribute names an element type, and that attribute.
_TYPED = {
    "Cast": "to",
    "EyeLike": "dtype",
    "RandomNormal": "dtype",
    "RandomUniform": "dtype",
    "SequenceEmpty": "dtype",
}
_OTHERS = frozenset({TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE})


def make_single(model: onnx.ModelProto) -> None:
    """Make every float16, bfloat16 and float64 tensor of a model float32, its inputs and outputs too.

    Every number of the first two is a float32. Raises ModelRefused where a float64 is too large to be one.
    """
    for graph in all_graphs(model.graph):
        for tensor in graph.initializer:
            _make_single(tensor)
        for node in graph.node:
            _make_attributes_single(node)
        for value in [*graph.input, *graph.output, *graph.value_info]:
            is_list = value.type.HasField("sequence_type")
            of = value.type.sequence_type.elem_type if is_list else value.type
            if of.tensor_type.elem_type in _OTHERS:
                of.tensor_type.elem_type = TensorProto.FLOAT


def _make_attributes_single(node: NodeProto) -> None:
    for item in node.attribute:
        if item.HasField("t"):
            _make_single(item.t)
        if item.name == _TYPED.get(node.op_type) and item.i in _OTHERS:
            item.i = TensorProto.FLOAT


def _make_single(tensor: TensorProto) -> None:
    if tensor.data_type not in _OTHERS:
        return
    value = numpy_helper.to_array(tensor)
    with np.errstate(over="ignore"):
        single = value.astype(np.float32)
    if not np.array_equal(np.isfinite(single), np.isfinite(value.astype(np.float64))):
        raise ModelRefused(
            f"the weights {tensor.name!r} hold numbers that are too large for float32",
            node=f"tensor {tensor.name!r}",
            remedy="Export the module as .float().",
        )
    tensor.CopyFrom(numpy_helper.from_array(single, tensor.name))
