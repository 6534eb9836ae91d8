"""From a graph to a file: the spec and the initial states go into it, and it is written whole or not at all."""

import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from torch import Tensor

from elman.repository.spec import METADATA_KEY, ModelSpec


def embed(model: onnx.ModelProto, spec: ModelSpec, initial_state: Sequence[Tensor]) -> None:
    """Put the spec into the model's metadata, and learned initial states beside its weights."""
    for state, tensor in zip(spec.state or (), initial_state, strict=bool(initial_state)):
        array = tensor.detach().cpu().numpy().astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, state.initial))
    onnx.helper.set_model_props(model, {METADATA_KEY: json.dumps(spec.dump(), ensure_ascii=False)})
    onnx.checker.check_model(model)


def write(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, making its folder where there is none. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".model-", delete=False) as file:
        file.write(content)
    os.chmod(file.name, 0o644)  # NamedTemporaryFile makes it private.
    os.replace(file.name, path)
