"""Limits on a request beyond the bounds of its single fields."""

from collections.abc import Iterable
from dataclasses import dataclass

from elman.errors import InvalidField, TooLong
from elman.repository.network import Array

# Most labels that one answer may list.
MAX_LISTED = 2_000_000
# Most numbers in the static inputs of one request, counted anew for each sequence that they go along with. A run holds
# them once for each of its rows, and so does an answer with state tokens.
MAX_STATIC_NUMBERS = 20_000_000


@dataclass(frozen=True)
class Limits:
    """Most steps of a sequence, and most sequences of a request, from the server's settings."""

    max_steps: int
    max_sequences: int


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
