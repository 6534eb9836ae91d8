"""What a predict request asks for, whatever it was written in."""

from dataclasses import dataclass

from elman.engine.sequence import Return
from elman.errors import InvalidField
from elman.repository.network import Array

MAX_TOP = 1000
# Labels that one answer may list in all.
MAX_LISTED = 2_000_000


@dataclass(slots=True)
class PredictRequest:
    """Decoded and checked: arrays that the engine takes as they are.

    Attributes:
        sequences: `(length, features)` in the network's dtype, `(length,)` token ids, or for a model of frames the
            float32 samples `(samples,)`, which are not cut yet; each.
        places: where each sequence stands in the request, for errors.
        returns: `final` or `steps`.
        decode: whether outputs are decoded into labels, values or tokens.
        top: how many labels are listed with their probability.
        timeout: seconds from now after which the answer is of no use; None for no limit.
        state: the state token to start from, one for all or one each; None for the model's initial state.
        return_state: whether a state token is wanted back.
        hidden: whether the state after every step is wanted.
    """

    sequences: list[Array]
    places: list[str]
    returns: Return = "final"
    decode: bool = True
    top: int = 3
    timeout: float | None = None
    state: str | list[str] | None = None
    return_state: bool = False
    hidden: bool = False

    @property
    def carries_state(self) -> bool:
        """Whether it asks for what only a model with a running state has."""
        return self.state is not None or self.return_state or self.hidden


@dataclass(slots=True)
class StepRequest:
    """The next steps of a session. As `PredictRequest`, of one sequence.

    `at` is the step that the caller believes the session is at.
    """

    sequence: Array
    returns: Return = "final"
    decode: bool = True
    top: int = 3
    timeout: float | None = None
    at: int | None = None


@dataclass(frozen=True)
class Limits:
    """What one request may ask for."""

    max_steps: int
    max_sequences: int


def brief(value: float) -> str:
    """A number as an error may show it, however many digits it came with."""
    if isinstance(value, int):
        return str(value) if abs(value) < 10**30 else "a number of more than 30 digits"
    return f"{value:g}"


def check_options(top: int, timeout: float | None) -> None:
    """Raise InvalidField for an option out of its range."""
    if not 1 <= top <= MAX_TOP:
        raise InvalidField(f"top is {brief(top)}", where="top", expected=f"1 to {MAX_TOP}")
    if timeout is not None and not timeout > 0:
        raise InvalidField(f"timeout is {brief(timeout)}", where="timeout", expected="seconds, more than 0")


def check_listed(rows: int, top: int) -> None:
    """Raise InvalidField where an answer would list more labels than it may."""
    if rows * top > MAX_LISTED:
        raise InvalidField(
            f"{rows} outputs with {top} labels each are too many to list",
            where="top",
            expected=f"at most {max(1, MAX_LISTED // rows)}, or decode false",
        )


def check_at(at: int | None) -> None:
    """Raise InvalidField for a step that no session can be at."""
    if at is not None and not 0 <= at < 2**63:
        raise InvalidField(f"at is {brief(at)}", where="at", expected="the session's step, 0 or more")
