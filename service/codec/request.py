"""What a predict request asks for, whatever it was written in."""

from dataclasses import dataclass

from service.engine.sequence import Return
from service.errors import InvalidField
from service.repository.network import Array

MAX_TOP = 1000
# Labels that one answer may list in all.
MAX_LISTED = 2_000_000


@dataclass(slots=True)
class PredictRequest:
    """Decoded and checked: arrays that the engine takes as they are.

    Attributes:
        sequences: `(length, features)` in the network's dtype, or `(length,)` token ids, each.
        places: where each sequence stands in the request, for errors.
        returns: `final` or `steps`.
        decode: whether outputs are decoded into labels, values or tokens.
        top: how many labels are listed with their probability.
        timeout: seconds from now after which the answer is of no use; None for no limit.
    """

    sequences: list[Array]
    places: list[str]
    returns: Return = "final"
    decode: bool = True
    top: int = 3
    timeout: float | None = None


@dataclass(frozen=True)
class Limits:
    """What one request may ask for."""

    max_steps: int
    max_sequences: int


def check_options(top: int, timeout: float | None) -> None:
    """Raise InvalidField for an option out of its range."""
    if not 1 <= top <= MAX_TOP:
        raise InvalidField(f"top is {top}", where="top", expected=f"1 to {MAX_TOP}")
    if timeout is not None and not timeout > 0:
        raise InvalidField(f"timeout is {timeout}", where="timeout", expected="seconds, more than 0")


def check_listed(rows: int, top: int) -> None:
    """Raise InvalidField where an answer would list more labels than it may."""
    if rows * top > MAX_LISTED:
        raise InvalidField(
            f"{rows} outputs with {top} labels each are too many to list",
            where="top",
            expected=f"at most {max(1, MAX_LISTED // rows)}, or decode false",
        )
