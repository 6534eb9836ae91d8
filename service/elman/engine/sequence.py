"""A sequence on its way through the engine."""

from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf
from typing import Literal

from elman.engine.feedback import Feedback
from elman.errors import ElmanError
from elman.repository.network import Array

# The slot of the runner's state that new sequences read.
INITIAL_SLOT = 0

Return = Literal["final", "steps"]

Rank = tuple[int, int, float]
"""The scheduler's order: priority, level of service, deadline; the least goes first."""


@dataclass(slots=True, eq=False)
class Sequence:
    """Inputs, how far they have been read, and what is wanted of them.

    Attributes:
        inputs: `(length, features)`, or `(length,)` token ids. Where there is a feedback, what it gave last.
        further: those of the sequence inputs beside the data, in the order of `Network.further`, as long as `inputs`.
        statics: the value of each input with one a sequence, in the order of `Network.statics`.
        heads: whether the outputs beside the primary one are wanted.
        returns: `final` for o_n alone, `steps` for o_1..o_n.
        state: packed state to start from; None for the initial state.
        keep_state: whether the state after the last step is wanted.
        keep_trace: whether the state after every step is wanted; it is then advanced one step a run.
        feedback: what makes the next inputs from the last output; None where the inputs are all there is. The
            outputs of such a sequence go to it and are not kept.
        more: steps that the feedback may add, at most; for admission.
        listener: called on the event loop after each feeding.
        save: what is to be written to a store before the answer goes out; of no concern to the engine.
        request: the `PendingRequest` that it belongs to, until it is done. The engine sets it.
        place: how many sequences of its request stand before it.
        priority: lower goes first.
        deadline: on the engine's clock, in seconds; past it the sequence is given up.
        cursor: steps of `inputs` done.
        remaining: steps still to do, as far as is known.
        served: steps done of inputs before these.
        rank: where it stands in the scheduler's order.
        slot: the row of the runner's state that is this sequence's while it runs.
        outputs: blocks of output rows `(steps, output_size)` so far.
        head_outputs: blocks of rows of each head, in the order of `Network.heads`; of a head that answers for the whole
            sequence, one row.
        last_output: `(output_size,)`, for the feedback.
        final_state: packed, once done.
        trace: packed states so far.
        error: why there is no answer.
        cancelled: nobody waits for it any more; it is given up before its next run.
    """

    inputs: Array
    returns: Return = "final"
    state: bytes | None = None
    keep_state: bool = False
    keep_trace: bool = False
    feedback: Feedback | None = None
    more: int = 0
    listener: Callable[[], None] | None = None
    save: object = None
    request: object = None
    place: int = 0
    priority: int = 0
    deadline: float = inf
    cursor: int = 0
    remaining: int = field(init=False)
    served: int = 0
    rank: Rank = (0, 0, inf)
    slot: int = INITIAL_SLOT
    outputs: list[Array] = field(default_factory=list)
    last_output: Array | None = None
    final_state: bytes | None = None
    trace: list[bytes] = field(default_factory=list)
    error: ElmanError | None = None
    cancelled: bool = False
    further: tuple[Array, ...] = ()
    statics: tuple[Array, ...] = ()
    heads: bool = False
    head_outputs: list[list[Array]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.remaining = len(self.inputs)

    @property
    def length(self) -> int:
        """Steps in all."""
        return len(self.inputs)

    def go_on(self, inputs: Array) -> None:
        """Read `inputs` next, from the state that the last ones left."""
        self.served += self.cursor
        self.cursor = 0
        self.inputs = inputs
        self.remaining = len(inputs)
