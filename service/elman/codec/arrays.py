"""Decoded numbers, tokens and text to checked arrays, as a model takes them."""

import struct
from collections.abc import Sequence
from itertools import chain
from math import inf
from typing import Any

import numpy as np

from elman.codec.faults import brief
from elman.codec.input_format import InputFormat
from elman.codec.limits import Limits
from elman.errors import (
    EmptySequence,
    NotFinite,
    RaggedFeatures,
    TooLong,
    UnknownToken,
    WrongFeatures,
)
from elman.repository.network import Array

_FLOAT32 = np.dtype(np.float32)
# Up to this many numbers BLAS does not start threads.
_SMALL = 10_000
# The largest number of each dtype, limited so that its square is a finite float.
_LARGEST = {np.dtype(kind): min(float(np.finfo(kind).max), 1e154) for kind in (np.float16, np.float32, np.float64)}


def check_length(length: int, where: str, limits: Limits) -> None:
    """Raise EmptySequence or TooLong."""
    if not length:
        raise EmptySequence("a sequence needs at least one step", where=where)
    if length > limits.max_steps:
        raise TooLong(f"the sequence has {length} steps", where=where, expected=f"at most {limits.max_steps} steps")


def features_array(rows: Sequence[Sequence[float]], format: InputFormat, where: str, limits: Limits) -> Array:
    """Rows of numbers to `(length, features)` in the network's dtype.

    Raises EmptySequence, TooLong, RaggedFeatures, WrongFeatures, NotFinite.
    """
    features = format.features
    assert features is not None, "a model of tokens has no features"
    check_length(len(rows), where, limits)
    if features == 1:
        rows = [[value] if isinstance(value, float | int) else value for value in rows]
    _check_widths(rows, features, where)
    flat, shape = list(chain.from_iterable(rows)), (len(rows), features)
    if format.mean is not None:
        return finite(format.scaled(np.array(flat, np.float64).reshape(shape)), format.numpy_dtype, where)
    return _pack(flat, shape, format.numpy_dtype, where)


def numbers_array(data: Array, format: InputFormat, where: str, limits: Limits) -> Array:
    """Like `features_array` or `signal_array`, from float64 `(rows, features)` or `(samples,)`.

    Raises EmptySequence, TooLong, and NotFinite for numbers beyond the network's dtype.
    """
    if format.frames:
        check_samples(len(data), format, where, limits)
        return finite(data, _FLOAT32, where)
    check_length(len(data), where, limits)
    return finite(format.scaled(data), format.numpy_dtype, where)


def signal_array(values: Sequence[float], format: InputFormat, where: str, limits: Limits) -> Array:
    """The samples of a signal, float32 `(samples,)`, not cut yet. Raises TooLong, NotFinite."""
    check_samples(len(values), format, where, limits)
    return _pack(list(values), (len(values),), _FLOAT32, where)


def check_samples(count: int, format: InputFormat, where: str, limits: Limits) -> None:
    """Raise TooLong if a signal has more frames than a sequence may have steps."""
    assert format.stride is not None, "the model takes frames"
    if count > limits.max_steps * format.stride:
        raise TooLong(
            f"the signal has {count} samples", where=where, expected=f"at most {limits.max_steps * format.stride}"
        )


def _pack(flat: list[float], shape: tuple[int, ...], dtype: np.dtype[Any], where: str) -> Array:
    """Numbers from JSON as an array. JSON has no NaN and no infinity, but NotFinite is raised beyond `dtype`."""
    if dtype != _FLOAT32:
        return finite(np.array(flat, np.float64).reshape(shape), dtype, where)
    try:
        # In standard layout ("<") struct refuses numbers beyond float32; in native layout they become infinities.
        return np.frombuffer(struct.pack(f"<{len(flat)}f", *flat), "<f4").reshape(shape)
    except (OverflowError, struct.error):
        return finite(np.array(flat, np.float64).reshape(shape), dtype, where)


def finite(data: Array, dtype: np.dtype[Any], where: str) -> Array:
    """`data` as `dtype`. Raises NotFinite for the first number that is not finite in it."""
    narrowed = dtype.itemsize < data.dtype.itemsize
    if _all_below(data, _LARGEST[dtype] if narrowed else inf):
        return data.astype(dtype, copy=False)
    with np.errstate(over="ignore"):
        data = data.astype(dtype, copy=False)
    if not all_finite(data):
        place = where + first_place(~np.isfinite(data))
        raise NotFinite(f"the number is not finite in {dtype.name}", where=place, expected="a finite number")
    return data


def first_place(wrong: Array) -> str:
    """The place of the first number that is wrong, such as `[17][2]`. `wrong` has a boolean for each number."""
    return "".join(f"[{index}]" for index in np.argwhere(wrong)[0])


def all_finite(data: Array) -> bool:
    """True if no number of a float array is NaN or infinite."""
    return _all_below(data, inf) or bool(np.isfinite(data).all())


def _all_below(data: Array, limit: float) -> bool:
    """True if the Euclidean norm is below `limit`, and so every magnitude. False says nothing. One fast pass."""
    return data.size <= _SMALL and bool(np.vdot(data, data) < limit * limit)


def tokens_array(ids: Sequence[int], format: InputFormat, where: str, limits: Limits) -> Array:
    """Token ids to `(length,)` in the network's dtype. Raises EmptySequence, TooLong, UnknownToken."""
    check_length(len(ids), where, limits)
    size = format.vocabulary_size
    high = (size if size is not None else int(np.iinfo(format.numpy_dtype).max)) - 1
    if min(ids) < 0 or max(ids) > high:
        step = next(i for i, token in enumerate(ids) if not 0 <= token <= high)
        raise UnknownToken(
            f"token {brief(ids[step])} is outside the vocabulary", where=f"{where}[{step}]", expected=f"0 to {high}"
        )
    return np.array(ids, format.numpy_dtype)


def _check_widths(rows: Sequence[Sequence[float]], features: int, where: str) -> None:
    widths = set(map(len, rows))
    if widths == {features}:
        return
    if len(widths) > 1:
        step = next(i for i, row in enumerate(rows) if len(row) != len(rows[0]))
        raise RaggedFeatures(
            f"step {step} has {len(rows[step])} features, step 0 has {len(rows[0])}",
            where=f"{where}[{step}]",
            expected=features,
        )
    raise WrongFeatures(
        f"steps have {len(rows[0])} features, the model takes {features}",
        where=f"{where}[0]",
        expected=features,
    )
