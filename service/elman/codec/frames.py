"""A signal, posted in pieces of any size, cut into the overlapping windows that a model of frames takes."""

import numpy as np

from elman.codec.input_format import InputFormat
from elman.errors import EmptySequence
from elman.repository.network import Array


def first_carry(format: InputFormat) -> Array:
    """What a new signal is preceded by: `left_pad` zeros, float32."""
    return np.zeros(format.left_pad, np.float32)


def cut(signal: Array, carry: Array, format: InputFormat) -> tuple[Array, Array]:
    """Cut the next piece of a signal.

    Args:
        signal: float32 `(samples,)`, the piece.
        carry: what the call before left over; `first_carry` at first.
        format: of frames: `features` samples a window, one every `stride`.

    Returns:
        the whole windows `(frames, size)`, maybe none, and what is left over for the next piece.
    """
    size, stride = format.features, format.stride
    assert size is not None and stride is not None, "only a signal is cut"
    samples = np.concatenate([carry, signal])
    if len(samples) < size:
        return np.zeros((0, size), format.numpy_dtype), samples
    windows = np.lib.stride_tricks.sliding_window_view(samples, size)[::stride]
    return np.ascontiguousarray(windows, format.numpy_dtype), samples[len(windows) * stride :].copy()


def check_cut(windows: Array, signal: Array, carry: Array, format: InputFormat, where: str) -> None:
    """Raise EmptySequence where a signal was too short for a single window."""
    if not len(windows):
        raise EmptySequence(
            f"{len(signal)} samples hold no whole frame",
            where=where,
            expected=f"at least {(format.features or 0) - len(carry)} samples",
        )
