"""A sequence in the engine."""

from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf
from typing import Literal, NamedTuple

from elman.engine.feedback import Feedback
from elman.errors import ElmanError
from elman.repository.network import Array

# The slot that new sequences read their state from.
INITIAL_SLOT = 0

Return = Literal["final", "steps"]

Rank = tuple[int, int, float]
"""The scheduler's order: priority, level, deadline. The lowest goes first."""


class Inputs(NamedTuple):
    """What a request gives for one sequence.

    Attributes:
        data: `(length, features)`, `(length,)` token ids, or a signal `(samples,)`.
        further: the other sequence inputs, in the order of `Network.further`; each has the length of `data`.
        statics: the static inputs, in the order of `Network.statics`.
        unknown: characters of a text that were read as the unknown token, each with its count.
        memory: what is kept of the series to read its next rows, as in `elman.codec.rows`; None if nothing is.
    """

    data: Array
    further: tuple[Array, ...] = ()
    statics: tuple[Array, ...] = ()
    unknown: tuple[tuple[str, int], ...] = ()
    memory: Array | None = None


@dataclass(slots=True, eq=False)
class Sequence:
    """The inputs of a sequence, its progress, and its results.

    Attributes:
        inputs: `(length, features)`, or `(length,)` token ids. With a feedback, the inputs that it gave last.
            Those of a block are `(length, rows, features)` or `(length, rows)`.
        further: the other sequence inputs, in the order of `Network.further`; each has the length of `inputs`.
        statics: the static inputs, in the order of `Network.statics`.
        heads: True to get the outputs of the heads too.
        returns: `final` for o_n alone, `steps` for o_1..o_n.
        state: packed state to start from; None for the initial state.
        keep_state: True to get the state after the last step.
        keep_trace: True to get the state after every step; the sequence then advances one step per run.
        feedback: makes the next inputs from the last output; None if the sequence is not autoregressive. Outputs go to
            the feedback and are not kept.
        more: most steps that the feedback adds; for admission.
        rows: more than 1 for a block: that many sequences of one feedback, which advance together in runs of their own.
            All begin with the same `state` and have the same `statics`. There may be fewer as they end.
        anew: True if the inputs that the feedback gives are read from the initial state, not from the state so far.
        listener: called on the event loop each time that the sequence was fed.
        save: what `commit` writes to a store before the answer is sent. The engine does not look into it.
        request: the `PendingRequest` that it belongs to, until it is done. The engine sets it.
        party: whose share of the engine it takes, as in `PendingRequest`. The engine sets it.
        place: the number of rows before it in its request.
        priority: lower goes first.
        deadline: on the clock of `time.monotonic`; later than this the sequence is dropped.
        cursor: steps of `inputs` done.
        remaining: steps of `inputs` still to do.
        served: steps done of earlier inputs, also by the sequences that it goes on from. Above 0 it is never refused.
        queued_at, begun_at: when it was queued and when its first run began, on the clock of `time.monotonic`;
            0 before that. The engine sets them.
        rank: its position in the scheduler's order.
        slot: its slot in the runner's state arrays.
        block: the states of a block so far, one array for each state tensor; None if it is at its start.
        outputs: blocks of output rows so far, `(steps, output_size)`.
        head_outputs: blocks of output rows of each head, in the order of `Network.heads`; one row for a `final` head.
        last_output: `(output_size,)`, for the feedback; `(rows, output_size)` of a block.
        final_state: packed, once done.
        trace: packed states so far; None before the first one.
        error: why there is no answer.
        cancelled: True if nobody waits for it any more; it is dropped before its next run.
        ends: True if nothing follows its last step although its state is kept.
    """

    inputs: Array
    returns: Return = "final"
    state: bytes | None = None
    keep_state: bool = False
    keep_trace: bool = False
    feedback: Feedback | None = None
    more: int = 0
    rows: int = 1
    anew: bool = False
    listener: Callable[[], None] | None = None
    save: object = None
    request: object = None
    party: bytes = b""
    place: int = 0
    priority: int = 0
    deadline: float = inf
    cursor: int = 0
    remaining: int = field(init=False)
    served: int = 0
    queued_at: float = 0.0
    begun_at: float = 0.0
    rank: Rank = (0, 0, inf)
    slot: int = INITIAL_SLOT
    block: list[Array] | None = None
    outputs: list[Array] = field(default_factory=list)
    last_output: Array | None = None
    final_state: bytes | None = None
    trace: list[bytes] | None = None
    error: ElmanError | None = None
    cancelled: bool = False
    further: tuple[Array, ...] = ()
    statics: tuple[Array, ...] = ()
    heads: bool = False
    head_outputs: tuple[list[Array], ...] = ()
    ends: bool = False

    def __post_init__(self) -> None:
        self.remaining = len(self.inputs)

    @property
    def length(self) -> int:
        """Steps of `inputs`."""
        return len(self.inputs)

    def ends_after(self, steps: int) -> bool:
        """Whether the whole sequence, of which this may be a part, ends with the next `steps`."""
        return steps == self.remaining and (self.ends or not self.keep_state)

    def go_on(self, inputs: Array) -> None:
        """Continue with `inputs`, from the state after the last ones."""
        if self.further:  # of rows that are read anew, all but the first come again
            moves = 1 if self.anew else self.cursor
            self.further = tuple(one[moves:] for one in self.further)
        self.served += self.cursor
        self.cursor = 0
        self.inputs = inputs
        self.remaining = len(inputs)
