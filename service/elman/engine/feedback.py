"""Feedback of an autoregressive sequence: makes its next input from its last output."""

from typing import NamedTuple, Protocol

from elman.errors import ElmanError
from elman.repository.network import Array


class Fewer(NamedTuple):
    """The next inputs of a block of which some rows are done.

    Attributes:
        inputs: of the rows that go on. If that is one, they are those of a sequence of one row.
        rows: which rows go on.
    """

    inputs: Array
    rows: list[int]


Fed = Array | Fewer | ElmanError | None
"""The next inputs of a sequence; None if it is done; or why it cannot go on."""


class Feedback(Protocol):
    """Makes the next inputs of one sequence, or of a block. Called by the engine, for many rows at a time."""

    def feed(self, feedbacks: "list[Feedback]", outputs: Array) -> list[Fed]:
        """The next inputs of several sequences.

        Args:
            feedbacks: one per sequence, all of one class; the first is `self`.
            outputs: the last output of each, `(sequences, output_size)`. For a block, which is fed alone, it is
                `(1, rows, output_size)`.

        Returns:
            for each the steps to read next, `(steps, features)` or `(steps,)` as the network takes them, or as `Fed`
            says. Those of a block are `(steps, rows, features)` or `(steps, rows)`.
        """
