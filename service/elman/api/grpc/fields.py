"""Bounds on a `ModelInferRequest` before it is parsed: two bytes of it may become a message of a hundred."""

from collections.abc import Collection, Iterator

from elman.errors import InvalidField, TooLarge

# Most fields of a message and of the messages in it, parameters included, but for the lists of elements.
_MOST_FIELDS = 1000
# The numbers of its fields that are messages with fields of their own: inputs and outputs.
_NESTED = (5, 6)
_LENGTHS = {1: 8, 5: 4}  # bytes of a number of fixed size, by its kind on the wire


def check_fields(content: bytes) -> None:
    """Raise TooLarge if a message has too many fields, and InvalidField if it is none."""
    if len(content) <= 2 * _MOST_FIELDS:
        return
    count = 0
    try:
        for _ in _fields(content, 0, len(content), _NESTED):
            count += 1
            if count > _MOST_FIELDS:
                raise TooLarge(f"the message has more than {_MOST_FIELDS} fields", expected="few inputs and parameters")
    except IndexError:
        raise InvalidField("the message is cut short", expected="a message ModelInferRequest") from None


def _fields(content: bytes, at: int, end: int, nested: Collection[int]) -> Iterator[int]:
    """The number of each field between two places, and of the fields of those that are `nested`."""
    while at < end:
        tag, at = _varint(content, at)
        number, kind = tag >> 3, tag & 7
        yield number
        if kind == 0:
            _, at = _varint(content, at)
        elif kind == 2:
            length, at = _varint(content, at)
            if number in nested:
                yield from _fields(content, at, min(at + length, end), ())
            at += length
        elif kind in _LENGTHS:
            at += _LENGTHS[kind]
        else:
            raise InvalidField("the message has a group", expected="a message ModelInferRequest")


def _varint(content: bytes, at: int) -> tuple[int, int]:
    """A number of seven bits a byte, and the place after it. Raises IndexError if it is cut short."""
    value = shift = 0
    while (byte := content[at]) > 127:
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if shift > 63:
            raise InvalidField("the message has a number of more than 64 bits", expected="a message ModelInferRequest")
    return value | byte << shift, at + 1
