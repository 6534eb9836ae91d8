"""The checker of histories finds what must not be, and nothing where all is well."""

from collections.abc import Callable

import numpy as np
import pytest

from tests.faults.history.checker import NOWHERE, Attempt, History, Operation, Outcome, losses, mistakes
from tests.reference import Array

DONE, REFUSED, UNKNOWN = Outcome.DONE, Outcome.REFUSED, Outcome.UNKNOWN
DATA = np.arange(240, dtype=np.float32).reshape(20, 12)


def running_sum(sequence: Array) -> Array:
    """A network that is quick to compute, and whose outputs depend on all that came before."""
    return np.cumsum(sequence, axis=0, dtype=np.float32)


def done(at: int, number: int, when: float, before: int | None = None, replayed: bool = False) -> Attempt:
    """A right answer, to steps that follow the first `before` of DATA: all before `at` if it is not given."""
    own = DATA[at : at + number]
    outputs = running_sum(np.concatenate([DATA[: at if before is None else before], own]))[-number:]
    return Attempt(when, when + 0.5, DONE, at + number, replayed, outputs)


def asked(at: int, number: int, *attempts: Attempt) -> Operation:
    return Operation(at, DATA[at : at + number], list(attempts))


def unknown(when: float) -> Attempt:
    return Attempt(when, when + 0.5, UNKNOWN)


def refused(when: float, stands: int | None = None) -> Attempt:
    return Attempt(when, when + 0.5, REFUSED, stands)


def sound() -> History:
    """All that faults may do to a session, and no more."""
    operations = [
        asked(0, 3, done(0, 3, 1)),
        asked(3, 2, unknown(2), refused(3), done(3, 2, 4, replayed=True), done(3, 2, 5, replayed=True)),
        asked(5, 1, unknown(6), unknown(7), done(5, 1, 8)),
        asked(5, 2, refused(9, stands=6)),
        # Another client goes on before the answer to this one is known.
        asked(6, 2, unknown(10), refused(13, stands=11)),
        asked(8, 3, done(8, 3, 11)),
    ]
    return History("sound", operations, [refused(9, stands=6), refused(14, stands=11)])


def test_a_sound_history_has_no_mistake_and_no_loss() -> None:
    assert mistakes(sound(), running_sum) == [] and list(losses(sound())) == []


def first_is_replayed(history: History) -> None:
    history.operations[0].attempts[0] = done(0, 3, 1, replayed=True)


def refused_alone_is_replayed(history: History) -> None:
    history.operations[1].attempts[0] = refused(2)


def step_number_is_wrong(history: History) -> None:
    right = done(5, 1, 8)
    history.operations[2].attempts[2] = Attempt(8, 8.5, DONE, 7, False, right.outputs)


def steps_before_happened_twice(history: History) -> None:
    own = np.concatenate([DATA[:5], DATA[3:5], DATA[5:6]])
    history.operations[2].attempts[2] = Attempt(8, 8.5, DONE, 6, False, running_sum(own)[-1:])


def refused_steps_happened(history: History) -> None:
    history.operations[4].attempts[0] = refused(10)


def unknown_steps_did_not_happen(history: History) -> None:
    history.operations[5].attempts[0] = done(8, 3, 11, before=6)


def repeated_answer_differs(history: History) -> None:
    history.operations[1].attempts[3] = done(3, 2, 5, before=2, replayed=True)


@pytest.mark.parametrize(
    "harm",
    [
        first_is_replayed,
        refused_alone_is_replayed,
        step_number_is_wrong,
        steps_before_happened_twice,
        refused_steps_happened,
        unknown_steps_did_not_happen,
        repeated_answer_differs,
    ],
)
def test_an_answer_that_cannot_be_is_found(harm: Callable[[History], None]) -> None:
    history = sound()
    harm(history)
    assert mistakes(history, running_sum)


@pytest.mark.parametrize(
    ("later", "after"),
    [
        # The acknowledged steps from 5 on have gone: a step is refused, done in their place, or done again.
        (asked(6, 1, refused(9, stands=5)), 5),
        (Operation(5, DATA[10:12], [Attempt(9, 9.5, DONE, 7, False)]), 5),
        (asked(5, 1, done(5, 1, 9)), 5),
        (asked(6, 1, refused(9, stands=NOWHERE)), NOWHERE),
    ],
)
def test_a_session_that_goes_back_has_lost_what_was_acknowledged(later: Operation, after: int) -> None:
    history = History("lossy", [*sound().operations[:3], later])
    (loss,) = losses(history)
    assert (loss.before, loss.after, loss.acknowledged) == (6, after, (8.5,) if after == 5 else (1.5, 4.5, 5.5, 8.5))


def test_of_two_steps_that_were_done_at_one_place_one_is_lost() -> None:
    history = History("twice", [asked(0, 2, done(0, 2, 1)), asked(0, 3, done(0, 3, 1.2))])
    assert mistakes(history, running_sum) == []
    assert [(one.before, one.after) for one in losses(history)] == [(2, 0)]
