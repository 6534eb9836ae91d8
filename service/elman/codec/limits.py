"""Limits on a request beyond the bounds of its single fields."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from elman.errors import InvalidField, TooLarge, TooLong
from elman.repository.network import Array

# Most labels that one answer may list.
MAX_LISTED = 2_000_000
# Most numbers in the static inputs of one request, counted anew for each sequence that they go along with. A run holds
# them once for each of its rows, and so does an answer with state tokens.
MAX_STATIC_NUMBERS = 20_000_000
# Most lists and objects in a JSON body. Each takes half a microsecond and a hundred bytes, however few it needs in the
# body.
MAX_LISTS = 2_000_000


@dataclass(frozen=True)
class Limits:
    """Most steps of a sequence, and most sequences of a request, from the server's settings."""

    max_steps: int
    max_sequences: int


def count(content: bytes, characters: bytes) -> int:
    """How often some characters are in a text. Takes the same time however often that is."""
    array = np.frombuffer(content, np.uint8)
    return sum(int(np.count_nonzero(array == one)) for one in characters)


def check_lists(content: bytes) -> None:
    """Raise TooLarge, before it is decoded, if a JSON body has more than `MAX_LISTS` lists and objects."""
    if len(content) <= 2 * MAX_LISTS or count(content, b"[{") <= MAX_LISTS:
        return
    found = _count_lists(content)
    if found > MAX_LISTS:
        raise TooLarge(
            f"the body has {found} lists and objects",
            expected=f"at most {MAX_LISTS}; more rows as application/octet-stream",
        )


def _count_lists(content: bytes) -> int:
    """How many lists and objects begin in a JSON body. Brackets within strings do not count."""
    content = content.replace(rb"\\", b"").replace(rb"\"", b"")
    array = np.frombuffer(content, np.uint8)
    within_string = np.logical_xor.accumulate(array == ord('"'))
    return sum(int(np.count_nonzero((array == one) & ~within_string)) for one in b"[{")


def check_listed(rows: int, top: int) -> None:
    """Raise InvalidField if an answer would list too many labels."""
    if rows * top > MAX_LISTED:
        raise InvalidField(
            f"{rows} outputs with {top} labels each are too many to list",
            where="top",
            expected=f"at most {max(1, MAX_LISTED // rows)}, or decode set to false",
        )


def check_statics(of_each: Iterable[tuple[Array, ...]], where: str, times: int = 1) -> None:
    """Raise TooLong if the static inputs of all sequences of a request, each so many times, are too large together."""
    numbers = times * sum([one.size for statics in of_each for one in statics])
    if numbers > MAX_STATIC_NUMBERS:
        raise TooLong(
            f"the static inputs of all sequences have {numbers} numbers together",
            where=where,
            expected=f"at most {MAX_STATIC_NUMBERS} numbers",
        )
