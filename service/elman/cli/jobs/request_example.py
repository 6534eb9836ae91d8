"""An example of a predict request that a model takes."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from elman.repository.model import Model
from elman.repository.network import InputTensor

_STEPS = 3
# A model whose outputs have a slower clock, such as a strided convolution, may need many steps for one row.
_STEPS_OWN_CLOCK = 32
_OPEN_EXTENT = 2


def request_example(model: Model) -> dict[str, Any]:
    """The body of a predict request for a model: a short sequence, its static inputs, and all heads."""
    network = model.network
    steps = network.window or (_STEPS_OWN_CLOCK if network.own_clock else _STEPS)
    data = _data(model, steps)
    further = {one.name: _values(one, (steps, *one.shape)) for one in network.further}
    body: dict[str, Any] = {"sequence": {network.inputs[0].name: data, **further} if further else data}
    if network.statics:
        body["static"] = {one.name: _values(one, one.shape) for one in network.statics}
    if network.heads:
        body["heads"] = [one.name for one in network.heads]
    return body


def _data(model: Model, steps: int) -> Any:
    spec, network = model.spec.input, model.network
    if spec.kind == "frames":
        size = network.features or 1
        return _floats((size + (steps - 1) * (spec.stride or size),)).tolist()
    if network.features is None:
        return [step % (spec.vocabulary_size or steps) for step in range(steps)]
    return _floats((steps, network.features)).tolist()


def _values(tensor: InputTensor, shape: Sequence[int | None]) -> Any:
    """Values of an input in JSON. A last extent of 1 is left out, as it may be."""
    sizes = [_OPEN_EXTENT if extent is None else extent for extent in shape]
    if sizes and sizes[-1] == 1:
        sizes.pop()
    if tensor.dtype.kind == "f":
        return _floats(sizes).tolist()
    whole = np.arange(np.prod(sizes, dtype=int)).reshape(sizes) % (tensor.vocabulary_size or 2)
    return whole.astype(bool if tensor.dtype.kind == "b" else np.int64).tolist()


def _floats(shape: Sequence[int]) -> Any:
    return np.round(0.1 * (1 + np.arange(np.prod(shape, dtype=int)) % 9), 1).reshape(shape)
