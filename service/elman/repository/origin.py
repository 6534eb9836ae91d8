"""Where a file came from, and what to do there about an axis that it froze."""

import onnx

_TORCH = (
    "Export with a dynamic time axis: torch.onnx.export(..., dynamic_shapes=...), or elman.export, which also "
    "does it for nn.RNN."
)
_KERAS = "In Keras, give the time axis no length, keras.Input((None, features)), and export again."
_INSIDE = "The file declares the axis free, so the network itself has a number in its place."
_TORCH_INSIDE = (
    f"{_INSIDE} Reshape with x.shape in the module, not with numbers, and export again. Where a layer of torch's own "
    "has the number, as nn.MultiheadAttention, export with elman.export."
)
_KERAS_INSIDE = (
    f"{_INSIDE} TimeDistributed is converted so: use the layer alone where it works on each step, as Dense does."
)
_OTHER = "Export it again with batch and time declared dynamic."


def how_to_free(model: onnx.ModelProto, *, declared: bool = False) -> str:
    """The remedy for a frozen axis, for the exporter that wrote the file; `declared` if the input declares it free."""
    producer = model.producer_name.lower()
    if "pytorch" in producer:
        return _TORCH_INSIDE if declared else _TORCH
    if "tf2onnx" in producer or "keras" in producer:
        return _KERAS_INSIDE if declared else _KERAS
    if declared:
        return f"{_INSIDE} Take the batch and time of the tensor itself there, and export it again with both dynamic."
    return f"{_OTHER} With torch: {_TORCH[0].lower()}{_TORCH[1:]}"


def origin_of(model: onnx.ModelProto) -> str:
    """The exporter that wrote a file, with its version and operator set, as far as the file says it."""
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), None)
    maker = " ".join(filter(None, [model.producer_name, model.producer_version]))
    return ", ".join(filter(None, [maker or "an unnamed exporter", f"opset {opset}" if opset else ""]))
