"""Weights in 8 bits in ONNX Runtime's own form, whose bits depend on what is run beside a sequence."""

import copy
import logging
import tempfile
from pathlib import Path

import onnx

from elman.repository.spec import QUANTISED_KEY


def dynamically_quantised(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with the weights of its LSTM and MatMul nodes in 8 bits. Its metadata is kept, and says so."""
    # Imported here because it takes a second, and few exports need it.
    from onnxruntime.quantization import QuantType, quantize_dynamic

    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)  # It recommends a preparation that only convolutions need.
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            quantize_dynamic(
                copy.deepcopy(model),
                path,
                weight_type=QuantType.QInt8,
                # With the full range, the sum of two products overflows 16 bits on processors without VNNI.
                reduce_range=True,
                op_types_to_quantize=["LSTM", "MatMul"],
            )
            rounded = onnx.load(path)
    finally:
        logging.disable(disabled)
    carried = {entry.key: entry.value for entry in model.metadata_props}
    onnx.helper.set_model_props(rounded, {**carried, QUANTISED_KEY: "int8 weights, dynamic; not exact"})
    return rounded
