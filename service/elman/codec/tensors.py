"""Inputs by name: the static inputs of a sequence, and the sequence inputs beside the data."""

from collections.abc import Iterable
from typing import Any

import msgspec
import numpy as np

from elman.codec.arrays import check_length
from elman.codec.faults import brief
from elman.codec.finite import finite, first_place
from elman.codec.limits import Limits
from elman.errors import InvalidField, RaggedFeatures, UnknownToken, WrongFeatures
from elman.repository.network import Array, InputTensor


def object_type(name: str, fields: Iterable[tuple[str, Any]]) -> Any:
    """A class for a JSON object that has each of the fields, and no others. Their names may be any text."""
    named = [(f"field_{index}", field, kind) for index, (field, kind) in enumerate(fields)]
    return msgspec.defstruct(
        name,
        [(attribute, kind) for attribute, _, kind in named],
        rename={attribute: field for attribute, field, _ in named},
        forbid_unknown_fields=True,
    )


def json_type(tensor: InputTensor) -> Any:
    """The type of an input in JSON: numbers in lists, nested as deeply as its shape.

    The last list may be left out if it has one number: for a shape of (1,), `0.5` stands for `[0.5]`.
    """
    kind: Any = {"b": bool, "i": int, "u": int}.get(tensor.dtype.kind, float)
    for axis, extent in enumerate(reversed(shape_of(tensor))):
        kind = list[kind] | kind if axis == 0 and extent == 1 else list[kind]
    return kind


def shape_of(tensor: InputTensor) -> tuple[int | None, ...]:
    """The shape of an input for one sequence. None stands for an extent that may differ from request to request."""
    return (None, *tensor.shape) if tensor.role == "sequence" else tensor.shape


def tensor_array(value: Any, tensor: InputTensor, where: str, limits: Limits) -> Array:
    """A decoded input as an array of `shape_of(tensor)`, in its dtype.

    Raises EmptySequence, TooLong, RaggedFeatures, WrongFeatures, NotFinite, UnknownToken, InvalidField.
    """
    shape = shape_of(tensor)
    _check_nested(value, shape, where, limits)
    wide = {"f": np.float64, "b": np.bool_}.get(tensor.dtype.kind, np.int64)
    array = typed(_packed(value, wide, where), tensor, where)
    return array.reshape(*array.shape, 1) if array.ndim < len(shape) else array


def typed(array: Array, tensor: InputTensor, where: str) -> Array:
    """An array of numbers of some dtype in that of an input. Raises NotFinite, UnknownToken."""
    if tensor.dtype.kind == "f":
        return finite(array if array.dtype.kind == "f" else array.astype(np.float64), tensor.dtype, where)
    return array if tensor.dtype.kind == "b" else _integers(array, tensor, where)


def _packed(value: Any, dtype: Any, where: str) -> Array:
    try:
        return np.array(value, dtype)
    except OverflowError:
        raise InvalidField("a number is out of range", where=where, expected="64-bit integers") from None
    except ValueError:  # lists of different lengths, where the model leaves the length open
        raise RaggedFeatures("the rows have different lengths", where=where, expected="rows of one length") from None


def _integers(array: Array, tensor: InputTensor, where: str) -> Array:
    limits = np.iinfo(tensor.dtype)
    low, high = (0, tensor.vocabulary_size - 1) if tensor.vocabulary_size else (int(limits.min), int(limits.max))
    outside = (array < low) | (array > high)
    if outside.any():
        first = int(array[outside][0])
        raise UnknownToken(
            f"{brief(first)} is outside the range", where=where + first_place(outside), expected=f"{low} to {high}"
        )
    return array.astype(tensor.dtype, copy=False)


def _check_nested(value: Any, shape: tuple[int | None, ...], where: str, limits: Limits) -> None:
    """Raise if nested lists have not the shape. A number may stand for a list of one."""
    if not shape or not isinstance(value, list):
        return
    extent, *inner = shape
    if extent is None:
        check_length(len(value), where, limits)
    elif len(value) != extent:
        raise WrongFeatures(f"there are {len(value)} values, the model takes {extent}", where=where, expected=extent)
    if len(inner) == 1 and inner[0] is not None:
        widths = {len(row) if isinstance(row, list) else 1 for row in value}
        if widths == {inner[0]}:
            return
    if inner:
        for index, row in enumerate(value):
            _check_nested(row, tuple(inner), f"{where}[{index}]", limits)
