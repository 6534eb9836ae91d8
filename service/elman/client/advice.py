"""What is wrong with an input, in words: where, what was given, and what to pass instead."""

import re
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from itertools import islice
from typing import Any

import numpy as np

from elman.client.errors import ElmanError, RequestError

_MAX_NAMES = 20

# By the kind of the type, as NumPy has it.
_INSTEAD = {
    "M": "make features of times, such as the hour of the day",
    "m": "make numbers of spans of time, such as x / np.timedelta64(1, 's')",
    "c": "pass the real and the imaginary parts as two features",
    "S": "text is str, which decode() gives",
    "V": "convert them with astype(float)",
}
_TEXT = "pass texts as a list, and numbers that are written as text as astype(float) gives them"


def no_numbers(dtype: np.dtype[Any], where: str) -> TypeError:
    """The error for values of a type that is none of numbers."""
    instead = _INSTEAD.get(dtype.kind, _TEXT)
    return TypeError(f"{where} holds no numbers, but values of the type {dtype}; {instead}")


def ragged(x: Iterable[Any], where: str) -> RequestError:
    """The error for steps that do not all have as many features as the first."""
    lengths = [_length(step) for step in x]
    step = next((step for step, length in enumerate(lengths) if length != lengths[0]), None)
    detail = "the steps do not all have the same number of features"
    if step is not None:
        detail, where = f"{detail}: the first {lengths[0]}, this {lengths[step]}", f"{where}[{step}]"
    return RequestError(detail, code="ragged_features", where=where)


def _length(step: Any) -> str:
    try:
        return f"has {len(step)}"
    except TypeError:
        return "is no list"


def no_columns(wanted: Sequence[str], columns: Sequence[str], where: str) -> ValueError:
    """The error for a data frame that lacks a column, or names one twice."""
    missing = [name for name in wanted if name not in columns]
    reason = "names a column twice"
    if missing:
        near = get_close_matches(missing[0], columns, 1)
        reason = f"has no column {missing[0]!r}" + (f", but {near[0]!r}" if near else "")
    return ValueError(f"{where} {reason}; it has {few(columns)}, the model reads {few(wanted)}")


def few(names: Sequence[str]) -> str:
    """The first of many names."""
    more = f" and {len(names) - _MAX_NAMES:,} more" if len(names) > _MAX_NAMES else ""
    return f"{list(islice(names, _MAX_NAMES))}{more}"


def explained(error: ElmanError, sequences: Sequence[Any], many: bool) -> ElmanError:
    """The error of a sequence that the model does not read, with what was given.

    Args:
        sequences: those of the request.
        many: whether they are of a list, also where the request has only one.
    """
    found = re.match(r"(?:sequences|series_list)\[(\d+)\]|(?:sequence|series)\b", error.where or "")
    if found and sequences and error.code in ("invalid_field", "wrong_features"):
        x, whole = sequences[int(found[1] or 0)], found[0] == error.where
        if whole or not isinstance(x, Mapping):
            error.detail += f": {_given_as(x, many or bool(found[1]), error.expected)}"
    return error


def _given_as(x: Any, many: bool, expected: str | None) -> str:
    """What a sequence was given as that the server refuses, and what to pass instead.

    Args:
        x: the sequence, as it was read.
        many: whether it is one of a list.
        expected: what the server expected, such as `array`.
    """
    if isinstance(x, str):
        return "it was given as text"
    if isinstance(x, Mapping):
        return "it was given as a mapping, which is for models with several sequence inputs; pass an array alone"
    array = np.asanyarray(x)
    given = f"it was given as {array.dtype} {array.shape}"
    if expected == "array":
        instead = "a list of arrays is many sequences, so pass the steps of one as np.stack(x)"
        return f"{given}; {instead if many else 'pass (time, features)'}"
    return given if array.ndim < 2 else f"{given}, and read as (time, features); several are a list of arrays"
