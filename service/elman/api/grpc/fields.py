"""Bounds on a message before it is parsed: two bytes of it may become a message of a hundred, or an object."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from elman.errors import InvalidField, TooLarge, TooLong

MOST_LISTED = 2**20
"""Most elements in the lists of a message. They are read one by one, which takes thirty times as long as bytes."""

# Most fields of a message and of the messages in it, parameters included, but for the lists of elements.
_MOST_FIELDS = 1000
# Most bytes of a message beside its tensors.
_MOST_BESIDE = 128 * 1024
# The numbers of fields that are messages with fields of their own, from the outermost to the innermost: inputs and
# outputs, and the lists of elements of an input.
_INPUTS, _OUTPUTS, _LISTS = (5,), (6,), (5, 5)
_RAW = (7,)
# Bytes of an element of a list of floats, by the number of the list, and the number of the list of bytes.
_FLOATS, _BYTES = {6: 4, 7: 8}, 8
_LENGTHS = {1: 8, 5: 4}  # bytes of a number of fixed size, by its kind on the wire
_EXPECTED = "a message ModelInferRequest"

_Path = tuple[int, ...]


def small(content: bytes) -> bytes | None:
    """A message without tensors, or None if it is larger than such messages are."""
    return content if len(content) <= _MOST_BESIDE else None


def read_small(kind: Any, content: bytes | None) -> Any:
    """A message without tensors from what `small` returned. Raises TooLarge and InvalidField."""
    if content is None:
        raise TooLarge("the message is too large", expected=f"at most {_MOST_BESIDE} bytes for this method")
    return parsed(kind, content)


def check_fields(content: bytes) -> int:
    """Return how many bytes of a `ModelInferRequest` are lists of elements, which are not looked at.

    Raises TooLarge if it has too many fields, or too much beside its tensors. Raises InvalidField if it is no message.
    """
    if len(content) <= 2 * _MOST_FIELDS:
        return 0
    count = beside = listed = 0
    for path, start, end in _whole(content, (_INPUTS, _OUTPUTS)):
        count += 1
        if path == _LISTS:
            listed += end - start
        elif path not in (_RAW, _INPUTS, _OUTPUTS):
            beside += end - start
        if count > _MOST_FIELDS:
            raise TooLarge(f"the message has more than {_MOST_FIELDS} fields", expected="few inputs and parameters")
        if beside > _MOST_BESIDE:
            raise TooLarge(
                f"the message has more than {_MOST_BESIDE} bytes beside its tensors",
                expected="short names, shapes and parameters",
            )
    return listed


def check_elements(content: bytes) -> None:
    """Raise TooLong if the lists of a `ModelInferRequest` have too many elements. Takes a second for the most texts."""
    count = 0
    for path, start, end in _whole(content, (_INPUTS, _LISTS)):
        if path[:2] == _LISTS and len(path) == 3:
            count += _elements(content, path[2], start, end)
        if count > MOST_LISTED:
            raise TooLong(
                f"contents has more than {MOST_LISTED} elements",
                where="inputs",
                expected=f"at most {MOST_LISTED} elements, more as raw_input_contents",
            )


def _elements(content: bytes, number: int, start: int, end: int) -> int:
    """How many elements a field of a list holds: one text, or numbers side by side."""
    if number == _BYTES:
        return 1
    if number in _FLOATS:
        return (end - start) // _FLOATS[number]
    return int(np.count_nonzero(np.frombuffer(content, np.uint8, end - start, start) < 128))


def _whole(content: bytes, nested: tuple[_Path, ...]) -> Iterator[tuple[_Path, int, int]]:
    """The fields of a message. Raises InvalidField if it is none."""
    try:
        yield from _fields(content, 0, len(content), nested, ())
    except IndexError:
        raise InvalidField("the message is cut short", expected=_EXPECTED) from None


def _fields(
    content: bytes, at: int, end: int, nested: tuple[_Path, ...], within: _Path
) -> Iterator[tuple[_Path, int, int]]:
    """The path of each field between two places, and where its value begins and ends; those of `nested` ones follow."""
    while at < end:
        tag, at = _varint(content, at)
        kind, start = tag & 7, at
        if kind == 0:
            _, at = _varint(content, at)
        elif kind == 2:
            length, start = _varint(content, at)
            at = start + length
        elif kind in _LENGTHS:
            at += _LENGTHS[kind]
        else:
            raise InvalidField("the message has a group", expected=_EXPECTED)
        if at > end:
            raise IndexError
        path = (*within, tag >> 3)
        yield path, start, at
        if kind == 2 and path in nested:
            yield from _fields(content, start, at, nested, path)


def _varint(content: bytes, at: int) -> tuple[int, int]:
    """A number of seven bits a byte, and the place after it. Raises IndexError if it is cut short."""
    value = shift = 0
    while (byte := content[at]) > 127:
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if shift > 63:
            raise InvalidField("the message has a number of more than 64 bits", expected=_EXPECTED)
    return value | byte << shift, at + 1


def parsed(kind: Any, content: bytes) -> Any:
    """A message from its bytes. Raises InvalidField."""
    try:
        return kind.FromString(content)
    except Exception:  # protobuf's own errors differ by its implementation
        raise InvalidField(f"the message is no {kind.DESCRIPTOR.name}", expected=kind.DESCRIPTOR.full_name) from None
