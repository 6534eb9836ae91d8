"""Where a file came from, and what to do there about an axis that it froze."""

import onnx

_TORCH = (
    "Export with a dynamic time axis: torch.onnx.export(..., dynamic_shapes=...), or elman.export, which also "
    "does it for nn.RNN."
)
_KERAS = "In Keras, give the time axis no length, keras.Input((None, features)), and export again."
_OTHER = "Export it again with batch and time declared dynamic."


def how_to_free(model: onnx.ModelProto) -> str:
    """The remedy for a frozen axis, for the exporter that wrote the file."""
    producer = model.producer_name.lower()
    if "pytorch" in producer:
        return _TORCH
    if "tf2onnx" in producer or "keras" in producer:
        return _KERAS
    return f"{_OTHER} With torch: {_TORCH[0].lower()}{_TORCH[1:]}"


def origin_of(model: onnx.ModelProto) -> str:
    """The exporter that wrote a file, with its version and operator set, as far as the file says it."""
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), None)
    maker = " ".join(filter(None, [model.producer_name, model.producer_version]))
    return ", ".join(filter(None, [maker or "an unnamed exporter", f"opset {opset}" if opset else ""]))
