"""The JSON of a request to infer, and the binary tensors after it."""

import contextlib
from collections.abc import Iterator
from functools import lru_cache
from itertools import chain
from math import prod
from typing import Annotated, Any, NamedTuple

import msgspec
import numpy as np
from msgspec import UNSET, Meta, Struct, UnsetType

from elman.codec.datatypes import (
    BF16,
    BYTES,
    DATATYPES,
    FLOATS,
    MAX_AXES,
    MAX_ELEMENTS,
    NUMPY_DTYPES,
    check_datatype,
    check_shape,
    from_raw,
)
from elman.codec.faults import decode_body, invalid_field
from elman.codec.numbers import NotPlain, read_list
from elman.errors import InvalidField, InvalidJSON
from elman.repository.network import Array

# Most inputs, and most outputs.
_MOST_TENSORS = 1000
_OPEN = ord("[")

Parameter = bool | int | float | str
Parameters = dict[str, Parameter]

# What is checked beside decoding, with errors of its own, is in the document only.
_Extent = Annotated[int, Meta(extra_json_schema={"minimum": 0, "maximum": MAX_ELEMENTS})]
_Data = Annotated[
    msgspec.Raw,
    Meta(
        description="The elements: numbers, booleans or strings, in one list or nested as the shape says",
        extra_json_schema={"type": "array", "items": {}},
    ),
]


class InputBody(Struct, forbid_unknown_fields=True):
    """A tensor of a request: its numbers in `data`, or `binary_data_size` bytes of them after the JSON."""

    name: str
    shape: Annotated[tuple[_Extent, ...], Meta(extra_json_schema={"maxItems": MAX_AXES})]
    datatype: Annotated[str, Meta(extra_json_schema={"enum": [one for one in DATATYPES if one != BF16]})]
    parameters: Parameters | None = None
    data: _Data | UnsetType = UNSET


class OutputBody(Struct, forbid_unknown_fields=True):
    """An output that is to be returned."""

    name: str
    parameters: Parameters | None = None


class InferBody(Struct, forbid_unknown_fields=True):
    """A request to infer."""

    inputs: Annotated[list[InputBody], Meta(max_length=_MOST_TENSORS, extra_json_schema={"minItems": 1})]
    outputs: Annotated[list[OutputBody], Meta(max_length=_MOST_TENSORS)] | None = None
    id: str | None = None
    parameters: Parameters | None = None
    model_name: str | None = None
    model_version: str | None = None


_BODY = msgspec.json.Decoder(InferBody)


def read_head(content: bytes) -> InferBody:
    """The JSON of a request.

    Raises RequestError with the `where` of the first error, also if a datatype or a shape is none.
    """
    body: InferBody = decode_body(_BODY, content)
    for index, one in enumerate(body.inputs):
        where = f"inputs[{index}]"
        check_datatype(one.datatype, f"{where}.datatype")
        check_shape(one.shape, f"{where}.shape")
        _refuse_shared(one.parameters, where)
    return body


def decode_infer(content: bytes, binary: bytes) -> tuple[InferBody, list[Array]]:
    """A request, and the array of each of its inputs, as `read_head` and `read_arrays`."""
    body = read_head(content)
    return body, read_arrays(body, memoryview(binary))


def read_arrays(body: InferBody, binary: memoryview) -> list[Array]:
    """The array of each input.

    Args:
        binary: what follows the JSON: the binary tensors, in the order of the inputs.

    Raises RequestError with the `where` of the first error.
    """
    arrays, at = [], 0
    for index, one in enumerate(body.inputs):
        size = None if one.parameters is None else one.parameters.get("binary_data_size")
        if size is None:
            arrays.append(_from_json(one, f"inputs[{index}]"))
            continue
        if one.data is not UNSET:
            where = f"inputs[{index}]"
            raise InvalidField("the input has data and binary_data_size", where=where, expected="one of both")
        if type(size) is not int or not 0 <= size <= len(binary) - at:
            raise InvalidField(
                f"binary_data_size is {str(size)[:20]}, and {len(binary) - at} bytes are left after the JSON",
                where=f"inputs[{index}].parameters.binary_data_size",
                expected="the bytes of the tensor, and the header Inference-Header-Content-Length before them",
            )
        arrays.append(from_raw(binary[at : at + size], one.datatype, one.shape, f"inputs[{index}]"))
        at += size
    if at != len(binary):
        raise InvalidField(
            f"{len(binary) - at} bytes after the JSON belong to no input", where="inputs", expected="binary_data_size"
        )
    return arrays


class Place(NamedTuple):
    """Where the numbers of a binary tensor lie. `start` is in bytes after the JSON."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    start: int


class Places:
    """Where all tensors of a request lie, if each is binary and needs no more than a view of its bytes.

    Attributes:
        size: bytes of all of them.
    """

    __slots__ = ("_all", "size")

    def __init__(self, body: InferBody) -> None:
        self.size, self._all = 0, list[Place]()
        for one in body.inputs:
            dtype, declared = NUMPY_DTYPES.get(one.datatype), (one.parameters or {}).get("binary_data_size")
            size = 0 if dtype is None else prod(one.shape) * dtype.itemsize
            if not size or dtype is None or dtype.kind == "b" or size != declared or one.data is not UNSET:
                self.size = -1  # that of no binary tensors
                return
            self._all.append(Place(one.shape, dtype, self.size))
            self.size += size

    def arrays(self, binary: bytes | memoryview) -> list[Array]:
        """The arrays, as `read_arrays` gives them, of `size` bytes. These are not copied."""
        return [np.ndarray(shape, dtype, binary, start) for shape, dtype, start in self._all]


def _refuse_shared(parameters: Parameters | None, where: str) -> None:
    if parameters and "shared_memory_region" in parameters:
        raise InvalidField(
            "shared memory is not offered", where=f"{where}.parameters.shared_memory_region", expected="data"
        )


def _from_json(one: InputBody, where: str) -> Array:
    """A tensor whose numbers are in the JSON, in one list or in nested ones. Raises InvalidField."""
    place, shape = f"{where}.data", one.shape
    if one.data is UNSET:
        raise InvalidField("the input has neither data nor binary_data_size", where=where, expected=["data"])
    if one.datatype == BF16:
        raise InvalidField("BF16 is taken in binary form only", where=place, expected="binary_data_size")
    flat: Any = None
    if one.datatype in FLOATS:
        with contextlib.suppress(NotPlain):
            flat = read_list(bytes(one.data))
    if flat is None:
        flat = _flat(one.data, one.datatype, shape, place)
    if len(flat) != prod(shape):
        raise InvalidField(
            f"there are {len(flat)} elements, and the shape has {prod(shape)}",
            where=place,
            expected=f"{prod(shape)} elements",
        )
    if one.datatype == BYTES:
        array = np.empty(len(flat), object)
        array[:] = [text.encode() for text in flat]
        return array.reshape(shape)
    dtype = NUMPY_DTYPES[one.datatype]
    if dtype.kind in "iu":
        _check_range(flat, dtype, place)
    with np.errstate(over="ignore"):
        return np.asarray(flat, dtype).reshape(shape)


def _flat(data: msgspec.Raw, datatype: str, shape: tuple[int, ...], place: str) -> list[Any]:
    """The elements of a list, or of nested lists that have the shape."""
    content = memoryview(data)
    nested = len(shape) > 1 and next((byte for byte in content[1:] if byte > 32), 0) == _OPEN
    depth = len(shape) if nested else 1
    items: list[Any] = _elements(content, datatype, depth, place)
    for axis in range(depth - 1):
        if len(items) != prod(shape[: axis + 1]) or not set(map(len, items)) <= {shape[axis + 1]}:
            raise InvalidField("the lists have not the shape of the tensor", where=place, expected=list(shape))
        items = list(chain.from_iterable(items))
    return items


def _elements(content: memoryview, datatype: str, depth: int, place: str) -> list[Any]:
    kind = {"B": str if datatype == BYTES else bool, "F": float}.get(datatype[0], int)
    try:
        return _decoder(kind, depth).decode(content)  # type: ignore[no-any-return]
    except msgspec.ValidationError as error:
        if kind is float and b"null" in bytes(content):
            # A missing value. Whether the model takes any is decided where its numbers are read.
            items = _decoder(kind | None, depth).decode(content)
            return list(_filled(items)) if depth == 1 else items
        text, _, path = str(error).partition(" - at `$")
        raise invalid_field(f"{text} - at `$.{place}{path or '`'}") from None
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        raise InvalidJSON(f"the data of {place} is not valid JSON in UTF-8", where=place) from None


def _filled(items: list[float | None]) -> Iterator[float]:
    return (np.nan if one is None else one for one in items)


@lru_cache(64)
def _decoder(kind: Any, depth: int) -> msgspec.json.Decoder[Any]:
    for _ in range(depth):
        kind = list[kind]
    return msgspec.json.Decoder(kind)


def _check_range(flat: list[int], dtype: np.dtype[Any], place: str) -> None:
    low, high = int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)
    if flat and not low <= min(flat) <= max(flat) <= high:
        index = next(i for i, one in enumerate(flat) if not low <= one <= high)
        raise InvalidField("the number is out of range", where=f"{place}[{index}]", expected=f"{low} to {high}")
