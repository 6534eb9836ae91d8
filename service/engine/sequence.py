"""A sequence on its way through the engine."""

from dataclasses import dataclass, field
from math import inf
from typing import Literal

from service.errors import ElmanError
from service.repository.network import Array

# The slot of the runner's state that new sequences read.
INITIAL_SLOT = 0

Return = Literal["final", "steps"]


@dataclass(slots=True, eq=False)
class Sequence:
    """Inputs, how far they have been read, and what is wanted of them.

    Attributes:
        inputs: `(length, features)`, or `(length,)` token ids.
        returns: `final` for o_n alone, `steps` for o_1..o_n.
        states: state to start from, one array for each of the network's, without the batch axis; None for the
            initial state.
        keep_state: whether the state after the last step is wanted.
        priority: lower goes first.
        deadline: on the engine's clock, in seconds; past it the sequence is given up.
        cursor: steps done.
        slot: the row of the runner's state that is this sequence's while it runs.
        outputs: blocks of output rows `(steps, output_size)` so far.
        final_states: as `states`, once done.
        error: why there is no answer.
        cancelled: nobody waits for it any more; it is given up before its next run.
    """

    inputs: Array
    returns: Return = "final"
    states: list[Array] | None = None
    keep_state: bool = False
    priority: int = 0
    deadline: float = inf
    cursor: int = 0
    slot: int = INITIAL_SLOT
    outputs: list[Array] = field(default_factory=list)
    final_states: list[Array] | None = None
    error: ElmanError | None = None
    cancelled: bool = False

    @property
    def length(self) -> int:
        """Steps in all."""
        return len(self.inputs)

    @property
    def remaining(self) -> int:
        """Steps still to do."""
        return len(self.inputs) - self.cursor
