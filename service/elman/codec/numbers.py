"""JSON bodies of plain numbers, read into arrays without a Python object for each number."""

from typing import Any

import numpy as np
import simdjson

from elman.repository.network import Array

# A parser keeps memory of many times the largest body that it read, so what reads a larger one is not kept.
_KEPT = 512 * 1024
# One that another thread is using refuses, and the body is read in the general way.
_PARSER = simdjson.Parser()
_LIST = ord("[")
# The byte order mark, which simdjson passes over.
_MARK = b"\xef\xbb\xbf"


class NotPlain(Exception):
    """A body that is to be read in the general way, which also says what is wrong with it."""


def read_numbers(content: bytes, width: int) -> tuple[dict[str, Any], list[Array], bool]:
    """The sequences of a plain body, and its other fields.

    A body is plain where it is well formed, each of its sequences is a list of rows of `width` numbers, and all its
    other fields are scalars. A row of one number may be the number itself; where `width` is 0 it must.

    Returns:
        the other fields, not checked; the sequences, float64 `(rows, width)` each, or `(rows,)` where that is 0, all
        finite; whether they were `sequences` and not `sequence`.

    Raises:
        NotPlain: for any other body.
    """
    if content.startswith(_MARK):
        raise NotPlain
    parser = _PARSER if len(content) <= _KEPT else simdjson.Parser()
    try:
        return _read(parser.parse(content), content, width)
    except (ArithmeticError, AttributeError, LookupError, MemoryError, RuntimeError, TypeError, ValueError):
        raise NotPlain from None


def _read(document: Any, content: bytes, width: int) -> tuple[dict[str, Any], list[Array], bool]:
    names = list(document.keys())
    fields = {name: document[name] for name in names}
    one, many = fields.pop("sequence", None), fields.pop("sequences", None)
    if len(fields) + 1 != len(names):  # both, neither, or a name twice
        raise NotPlain
    sequences = [one] if many is None else list(many)
    num_lists = 0 if many is None else 1
    arrays = []
    for sequence in sequences:
        nested = isinstance(sequence[0], simdjson.Array)
        if nested and (not width or set(map(len, sequence)) != {width}):
            raise NotPlain
        num_lists += 1 + (len(sequence) if nested else 0)
        numbers = np.frombuffer(sequence.as_buffer(of_type="d"))
        arrays.append(numbers.reshape(len(sequence), width) if width else numbers)
    # A list elsewhere, or one in a row that was flattened. NumPy counts in a third of the time that bytes do.
    if not arrays or np.count_nonzero(np.frombuffer(content, np.uint8) == _LIST) != num_lists:
        raise NotPlain
    return fields, arrays, many is not None
