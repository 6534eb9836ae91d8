"""What must be true of the history of a session, whatever has failed meanwhile."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum, auto
from itertools import pairwise

import numpy as np

from tests.reference import Array

Reference = Callable[[Array], Array]
"""All outputs of a sequence that begins at step 0."""
NOWHERE = -1
"""Where a session stands that is not there."""


class Outcome(Enum):
    """What an answer says of a step."""

    DONE = auto()
    # It did not happen, and where the session stands instead may be known.
    REFUSED = auto()
    # Nobody knows whether it happened.
    UNKNOWN = auto()


@dataclass(frozen=True)
class Attempt:
    """A request and its answer.

    Attributes:
        began, ended: on the clock of `time.monotonic`.
        stands: the step at which the session stood, NOWHERE if it was gone; None if the answer does not say.
        outputs: of the steps; None where there are none.
    """

    began: float
    ended: float
    outcome: Outcome
    stands: int | None = None
    replayed: bool = False
    outputs: Array | None = None


@dataclass
class Operation:
    """Steps that a client wants done once: the same request, sent until an answer says what became of it."""

    at: int
    data: Array
    attempts: list[Attempt] = field(default_factory=list)

    @property
    def end(self) -> int:
        return self.at + len(self.data)

    @property
    def answer(self) -> Attempt | None:
        """The first answer that has the outputs."""
        return next((one for one in self.attempts if one.outcome is Outcome.DONE), None)

    @property
    def may_have_happened(self) -> bool:
        return any(one.outcome is not Outcome.REFUSED for one in self.attempts)


@dataclass
class History:
    """All that was asked of one session, by any client at any server. `reads` only ask where it stands."""

    id: str
    operations: list[Operation] = field(default_factory=list)
    reads: list[Attempt] = field(default_factory=list)


@dataclass(frozen=True)
class Loss:
    """A session stood at a later step than it does now. `acknowledged` are the times of the answers that said so."""

    id: str
    before: int
    after: int
    seen_at: float
    acknowledged: tuple[float, ...]

    def __str__(self) -> str:
        return f"session {self.id[:12]} stood at step {self.before}, and later at {self.after}"


def mistakes(history: History, reference: Reference) -> list[str]:
    """What must never be: answers that no order of the requests explains. Empty if all is well."""
    found = [*_wrong_answers(history), *_wrong_outputs(history, reference)]
    return [f"session {history.id[:12]}: {one}" for one in found]


def _wrong_answers(history: History) -> Iterator[str]:
    for one in history.operations:
        sent_before = False
        for attempt in one.attempts:
            if attempt.outcome is Outcome.DONE:
                if attempt.stands != one.end:
                    yield f"{len(one.data)} steps at {one.at} led to step {attempt.stands}"
                if attempt.replayed and not sent_before:
                    yield f"the steps at {one.at} are said to be repeated, and never happened before"
            sent_before |= attempt.outcome is not Outcome.REFUSED


def _wrong_outputs(history: History, reference: Reference) -> Iterator[str]:
    """Answers that differ from the reference, after whichever operations may have led to their step."""
    # By step, the sequences that may have led to it. Where one was lost, there are several.
    ways: dict[int, list[Array]] = {0: [np.empty((0, 12), np.float32)]}
    for one in sorted(history.operations, key=lambda one: one.at):
        if not one.may_have_happened:
            continue
        sequences = [np.concatenate([way, one.data]) for way in ways.get(one.at, [])]
        answers = {attempt.outputs.tobytes() for attempt in one.attempts if attempt.outputs is not None}
        if answers:
            # It may have been done after several of them: it is done again if the first one is lost.
            possible = [reference(way)[one.at :].tobytes() for way in sequences]
            if not answers <= set(possible):
                yield f"the outputs of the steps at {one.at} are wrong, or follow steps that did not happen"
            sequences = [way for way, outputs in zip(sequences, possible, strict=True) if outputs in answers]
        ways.setdefault(one.end, []).extend(sequences)


def losses(history: History) -> Iterator[Loss]:
    """Where the session went back to an earlier step, as a later answer shows, or another step took its place."""
    # What each answer shows: where the session stood when it was given, and where afterwards.
    shown = [(one, one.stands, one.stands) for one in history.reads if one.stands is not None]
    for operation in history.operations:
        for one in operation.attempts:
            if one.stands is not None:
                is_new = one.outcome is Outcome.DONE and not one.replayed
                shown.append((one, operation.at if is_new else one.stands, one.stands))
    shown.sort(key=lambda one: one[0].ended)
    standing: list[tuple[float, int]] = []
    for attempt, before, after in shown:
        gone = [(when, step) for when, step in standing if when < attempt.began and step > before]
        if gone:
            most = max(step for _, step in gone)
            yield Loss(history.id, most, before, attempt.ended, tuple(when for when, _ in gone))
            standing = [one for one in standing if one not in gone]
        standing.append((attempt.ended, after))
    yield from _overtaken(history)


def _overtaken(history: History) -> Iterator[Loss]:
    """Acknowledged steps whose place others have taken that were under way at the same time."""
    done = sorted(
        ((one, one.answer) for one in history.operations if one.answer is not None), key=lambda pair: pair[0].at
    )
    for (one, answer), (other, its_answer) in pairwise(done):
        overlap = answer.began < its_answer.ended and its_answer.began < answer.ended
        if other.at < one.end and overlap:
            yield Loss(history.id, one.end, other.at, max(answer.ended, its_answer.ended), (answer.ended,))
