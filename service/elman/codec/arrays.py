"""Decoded numbers, tokens and text to checked arrays, as a model takes them."""

import struct
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np

from elman.codec.faults import brief
from elman.codec.finite import finite, first_place
from elman.codec.input_format import InputFormat
from elman.codec.limits import Limits
from elman.codec.rows import as_read
from elman.errors import (
    EmptySequence,
    RaggedFeatures,
    TooLong,
    UnknownToken,
    WrongFeatures,
)
from elman.repository.network import Array

_FLOAT32 = np.dtype(np.float32)
# Most names of features that a message lists.
_MOST_LISTED = 8


def check_length(length: int, where: str, limits: Limits) -> None:
    """Raise EmptySequence or TooLong."""
    if not length:
        raise EmptySequence("a sequence needs at least one step", where=where)
    if length > limits.max_steps:
        raise TooLong(f"the sequence has {length} steps", where=where, expected=f"at most {limits.max_steps} steps")


def features_array(rows: Sequence[Sequence[float]], format: InputFormat, where: str, limits: Limits) -> Array:
    """Rows of numbers to `(length, features)`, as `as_read` gives them.

    Raises EmptySequence, TooLong, RaggedFeatures, WrongFeatures, NotFinite.
    """
    features = format.features
    assert features is not None, "a model of tokens has no features"
    check_length(len(rows), where, limits)
    if features == 1:
        rows = [[value] if value is None or isinstance(value, float | int) else value for value in rows]
    _check_widths(rows, format, where)
    flat, shape = list(chain.from_iterable(rows)), (len(rows), features)
    if format.prepares:
        # A missing value, None, becomes NaN.
        return as_read(np.array(flat, np.float64).reshape(shape), format, where)
    return _pack(flat, shape, format.numpy_dtype, where)


def numbers_array(data: Array, format: InputFormat, where: str, limits: Limits) -> Array:
    """Like `features_array` or `signal_array`, from float64 `(rows, features)` or `(samples,)`.

    Raises EmptySequence, TooLong, and NotFinite for numbers beyond the network's dtype.
    """
    if format.frames:
        check_samples(len(data), format, where, limits)
        return finite(data, _FLOAT32, where)
    check_length(len(data), where, limits)
    return as_read(data, format, where)


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


def check_tokens(ids: Array, format: InputFormat, where: str) -> Array:
    """An array of token ids in the network's dtype. Raises UnknownToken."""
    size = format.vocabulary_size
    high = (size if size is not None else int(np.iinfo(format.numpy_dtype).max)) - 1
    outside = (ids < 0) | (ids > high)
    if outside.any():
        token = int(ids[outside][0])
        place = where + first_place(outside)
        raise UnknownToken(f"token {brief(token)} is outside the vocabulary", where=place, expected=f"0 to {high}")
    return ids.astype(format.numpy_dtype, copy=False)


def _check_widths(rows: Sequence[Sequence[float]], format: InputFormat, where: str) -> None:
    widths, features = set(map(len, rows)), format.features
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
        f"steps have {len(rows[0])} features, the model takes {features}{_listed(format.names)}",
        where=f"{where}[0]",
        expected=features,
    )


def _listed(names: Sequence[str] | None) -> str:
    """The names of the features for a message, if the model has some and they are few."""
    return ": " + ", ".join(names) if names and len(names) <= _MOST_LISTED else ""
