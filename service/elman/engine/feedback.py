"""What feeds a sequence on: its next input, made from its last output."""

from typing import Protocol

from elman.repository.network import Array


class Feedback(Protocol):
    """Makes the next step of one sequence. Called on the engine's thread, many rows at a time."""

    def feed(self, feedbacks: "list[Feedback]", outputs: Array) -> list[Array | None]:
        """The next inputs of several rows.

        Args:
            feedbacks: those of the rows, all of the class of this one, which is the first.
            outputs: the last output of each, `(rows, output_size)`.

        Returns:
            for each the steps to read next, `(1, features)` or `(1,)` as the network takes them, or None where the
            row is done.
        """
