"""Limits on a request beyond the bounds of its single fields."""

from dataclasses import dataclass

from elman.errors import InvalidField

# Most labels that one answer may list.
MAX_LISTED = 2_000_000


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
