"""What one request may ask for, beyond the bounds of its fields."""

from dataclasses import dataclass

from elman.errors import InvalidField

# Labels that one answer may list in all.
MAX_LISTED = 2_000_000


@dataclass(frozen=True)
class Limits:
    """The most steps of a sequence and the most sequences of a request, by the server's settings."""

    max_steps: int
    max_sequences: int


def check_listed(rows: int, top: int) -> None:
    """Raise InvalidField where an answer would list more labels than it may."""
    if rows * top > MAX_LISTED:
        raise InvalidField(
            f"{rows} outputs with {top} labels each are too many to list",
            where="top",
            expected=f"at most {max(1, MAX_LISTED // rows)}, or decode false",
        )
