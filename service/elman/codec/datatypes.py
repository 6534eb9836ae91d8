"""The datatypes of the Open Inference Protocol: tensors as bytes, and back.

Numbers are little-endian and row-major. BF16 is the upper half of a float32, and is read as float32. Each element of a
BYTES tensor is a length, little-endian uint32, and as many bytes.
"""

import struct
import sys
from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from elman.errors import InvalidField
from elman.repository.network import Array

BYTES, BF16 = "BYTES", "BF16"

NUMPY_DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    **{f"INT{8 * size}": np.dtype(f"<i{size}") for size in (1, 2, 4, 8)},
    **{f"UINT{8 * size}": np.dtype(f"<u{size}") for size in (1, 2, 4, 8)},
    **{f"FP{8 * size}": np.dtype(f"<f{size}") for size in (2, 4, 8)},
}
"""The numpy dtype of each datatype that numpy has."""

FLOATS = frozenset({"FP16", "FP32", "FP64"})
DATATYPES = (*NUMPY_DTYPES, BF16, BYTES)

MAX_AXES = 8
"""Most axes of a tensor."""

MAX_ELEMENTS = 2**48
"""Most elements of a tensor, where an axis without extent counts as one."""

_NAMES = {dtype: name for name, dtype in NUMPY_DTYPES.items()}
# Copying so few bytes costs less than a view of them.
_FEW_BYTES = 4096
_LENGTH = struct.Struct("<I")


def datatype_of(dtype: np.dtype[Any]) -> str:
    """The datatype of a numpy dtype; BYTES for an array of objects, which are `bytes`."""
    return BYTES if dtype.hasobject else _NAMES[dtype]


def check_datatype(datatype: str, where: str) -> None:
    """Raise InvalidField if there is no such datatype."""
    if datatype not in DATATYPES:
        raise InvalidField(f"there is no datatype {datatype[:20]!r}", where=where, expected=list(DATATYPES))


def check_shape(shape: Sequence[int], where: str) -> None:
    """Raise InvalidField if no tensor has such a shape."""
    size, too_many = 1, len(shape) > MAX_AXES
    for extent in shape[:MAX_AXES]:
        size *= max(extent, 1)
        too_many = too_many or extent < 0
    if too_many or size > MAX_ELEMENTS:
        raise InvalidField(
            "the shape is not that of a tensor", where=where, expected=f"at most {MAX_AXES} extents of 0 or more"
        )


def from_raw(content: bytes | memoryview, datatype: str, shape: tuple[int, ...], where: str) -> Array:
    """A tensor from its bytes, of `shape`. Numbers are not copied, except those of BF16; BYTES become objects.

    Raises InvalidField if the bytes are not those of such a tensor.
    """
    if datatype == BYTES:
        return _strings(memoryview(content), prod(shape), where).reshape(shape)
    dtype = np.dtype("<u2") if datatype == BF16 else NUMPY_DTYPES[datatype]
    size = prod(shape) * dtype.itemsize
    if len(content) != size:
        raise InvalidField(
            f"a tensor {list(shape)} of {datatype} has {size} bytes, and there are {len(content)}",
            where=where,
            expected=f"{size} bytes",
        )
    array = np.frombuffer(content, dtype)
    if datatype == BF16:
        array = (array.astype("<u4") << 16).view("<f4")
    elif datatype == "BOOL" and (array.view(np.uint8) > 1).any():
        raise InvalidField("a byte of a BOOL tensor is neither 0 nor 1", where=where, expected="0 or 1")
    return array.reshape(shape)


def raw(array: Array) -> bytes | memoryview:
    """The bytes of a tensor of numbers or of `bytes` objects. Many numbers that are contiguous are not copied."""
    if array.dtype.hasobject:
        return b"".join([part for one in array.flat for part in (_LENGTH.pack(len(one)), one)])
    if array.nbytes <= _FEW_BYTES and sys.byteorder == "little":
        return array.tobytes()
    little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    return little.reshape(-1).view(np.uint8).data


def _strings(content: memoryview, count: int, where: str) -> Array:
    found: list[bytes] = []
    at = 0
    while at + _LENGTH.size <= len(content) and len(found) < count:
        (length,) = _LENGTH.unpack_from(content, at)
        at += _LENGTH.size + length
        if at <= len(content):
            found.append(bytes(content[at - length : at]))
    if at != len(content) or len(found) != count:
        raise InvalidField(
            f"the bytes are not those of {count} BYTES elements", where=where, expected="uint32 length and bytes, each"
        )
    array = np.empty(count, object)
    array[:] = found
    return array
