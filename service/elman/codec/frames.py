"""Cuts a signal, sent in pieces of any size, into the overlapping windows that a model of frames takes."""

import numpy as np

from elman.codec.input_format import InputFormat
from elman.errors import EmptySequence
from elman.repository.network import Array


def first_carry(format: InputFormat) -> Array:
    """The samples before a new signal: `left_pad` zeros, float32."""
    return np.zeros(format.left_pad, np.float32)


def cut(signal: Array, carry: Array, format: InputFormat) -> tuple[Array, Array]:
    """Cut the next piece of a signal.

    Args:
        signal: float32 `(samples,)`, the piece.
        carry: the samples left over from the piece before; `first_carry` for the first piece.
        format: of a model of frames: a window has `features` samples and starts every `stride` samples.

    Returns:
        the whole windows `(frames, size)`, possibly none, and the samples left over for the next piece.
    """
    size, stride = format.features, format.stride
    assert size is not None and stride is not None, "the model takes frames"
    samples = np.concatenate([carry, signal])
    if len(samples) < size:
        return np.zeros((0, size), format.numpy_dtype), samples
    windows = np.lib.stride_tricks.sliding_window_view(samples, size)[::stride]
    return np.ascontiguousarray(windows, format.numpy_dtype), samples[len(windows) * stride :].copy()


def check_cut(windows: Array, signal: Array, carry: Array, format: InputFormat, where: str) -> None:
    """Raise EmptySequence if a signal was too short for a single window."""
    if not len(windows):
        raise EmptySequence(
            f"{len(signal)} samples are less than one frame",
            where=where,
            expected=f"at least {(format.features or 0) - len(carry)} samples",
        )
