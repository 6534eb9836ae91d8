"""Feedback of an autoregressive sequence: makes its next input from its last output."""

from typing import Protocol

from elman.repository.network import Array


class Feedback(Protocol):
    """Makes the next inputs of one sequence. Called by the engine, for many rows at a time."""

    def feed(self, feedbacks: "list[Feedback]", outputs: Array) -> list[Array | None]:
        """The next inputs of several rows.

        Args:
            feedbacks: one per row, all of one class; the first is `self`.
            outputs: the last output of each, `(rows, output_size)`.

        Returns:
            for each row the steps to read next, `(1, features)` or `(1,)` as the network takes them; None if the row
            is done.
        """
