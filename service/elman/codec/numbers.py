"""Reads JSON bodies of plain numbers into arrays, without a Python object per number."""

from typing import Any

import numpy as np

try:
    import simdjson
except ModuleNotFoundError:  # where it has no wheel
    simdjson = None  # type: ignore[assignment]

from elman.repository.network import Array

# A parser keeps many times the memory of the largest body that it has parsed. Larger bodies get a parser of their own.
_MAX_SHARED_BYTES = 512 * 1024
# It raises an error if another thread is using it. The body is then decoded in the general way.
_PARSER: Any = simdjson.Parser() if simdjson else None
_LIST = b"["
# In so short a body bytes.count takes less time than NumPy, which counts many characters faster.
_SHORT_BYTES = 4096
# Looking a field up takes time by the number of all fields, so all of many would take its square. No request has more.
_MAX_FIELDS = 64
# The byte order mark. simdjson accepts it, the general decoder does not.
_MARK = b"\xef\xbb\xbf"


class NotPlain(Exception):
    """The body must be decoded in the general way, which also reports its errors."""


def read_numbers(content: bytes, width: int) -> tuple[dict[str, Any], list[Array], bool]:
    """The sequences of a plain body, and its other fields.

    A body is plain if it is well formed, each sequence is a list of rows of `width` numbers, and all other fields are
    scalars. With `width` 1 a row may also be a number. With `width` 0 it must be one.

    Returns:
        the other fields, not checked; the sequences, each float64 `(rows, width)` (`(rows,)` for `width` 0), all
        finite; and whether the field was `sequences` and not `sequence`.

    Raises:
        NotPlain: for any other body, and for every body if the package simdjson is not installed.
    """
    if simdjson is None or content.startswith(_MARK):
        raise NotPlain
    parser = _PARSER if len(content) <= _MAX_SHARED_BYTES else simdjson.Parser()
    try:
        return _read(parser.parse(content), content, width)
    except (ArithmeticError, AttributeError, LookupError, MemoryError, RuntimeError, TypeError, ValueError):
        raise NotPlain from None


def read_list(content: bytes) -> Array:
    """A JSON list of numbers, float64 `(numbers,)`. Raises NotPlain for any other text, as `read_numbers`."""
    if simdjson is None or content.count(b"[") != 1:
        raise NotPlain
    parser = _PARSER if len(content) <= _MAX_SHARED_BYTES else simdjson.Parser()
    try:
        numbers: Any = parser.parse(content)
        return np.frombuffer(numbers.as_buffer(of_type="d"))
    except (ArithmeticError, AttributeError, LookupError, MemoryError, RuntimeError, TypeError, ValueError):
        raise NotPlain from None


def _read(document: Any, content: bytes, width: int) -> tuple[dict[str, Any], list[Array], bool]:
    names = list(document.keys())
    if len(names) > _MAX_FIELDS:
        raise NotPlain
    fields = {name: document[name] for name in names}
    single, many = fields.pop("sequence", None), fields.pop("sequences", None)
    if len(fields) + 1 != len(names):  # both, neither, or a name twice
        raise NotPlain
    sequences = [single] if many is None else list(many)
    num_lists = 0 if many is None else 1
    arrays = []
    for sequence in sequences:
        nested = isinstance(sequence[0], simdjson.Array)
        if nested and (not width or set(map(len, sequence)) != {width}):
            raise NotPlain
        num_lists += 1 + (len(sequence) if nested else 0)
        numbers = np.frombuffer(sequence.as_buffer(of_type="d"))
        arrays.append(numbers.reshape(len(sequence), width) if width else numbers)
    # More brackets mean a list in another field, or a nested list that as_buffer flattened.
    if not arrays or _count_lists(content) != num_lists:
        raise NotPlain
    return fields, arrays, many is not None


def _count_lists(content: bytes) -> int:
    if len(content) <= _SHORT_BYTES:
        return content.count(_LIST)
    return int(np.count_nonzero(np.frombuffer(content, np.uint8) == ord(_LIST)))
