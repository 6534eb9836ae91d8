"""Which sequences advance next, and by how many steps. Pure: no clock, no arrays, no I/O.

Continuous batching: sequences join and leave between chunks of steps, so nothing waits for a batch to fill and
nothing short waits for something long (after Orca, OSDI 2022, and E-BATCH, TACO 2021, which tunes the steps of a
batch; the levels of service are those of a multi-level feedback queue).
"""

import heapq
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from service.engine.sequence import Sequence
from service.errors import DeadlineExceeded
from service.repository.calibration import Calibration

Grouping = Literal["ragged", "equal", "alone"]
_Rank = tuple[int, int, float]

# Steps that a sequence is served before newer ones go first; each further level lasts twice as long.
_LEVEL_STEPS = 256
# Sequences of one request that go with the first; each further level holds twice as many, so that a request of
# thousands is not in the way of one that comes after it.
_LEVEL_PLACES = 64
# Where a run takes one row, every so many runs are for whoever would come last.
_LAST_TURN = 8
# How often all that waits is looked over for what is late or given up.
_SWEEP_SECONDS = 0.5
# Sequences run whole share a batch when none is shorter than this share of the longest.
_ALIKE = 0.75
# How far down the queue a batch of sequences run whole looks for others alike.
_LOOK = 256


@dataclass(frozen=True)
class Policy:
    """How sequences of one model may be run together.

    Attributes:
        max_batch: most rows of a run.
        max_chunk: most steps of a run, for sequences that can be cut.
        chunked: whether a sequence may be cut and carried on.
        steps_singly: whether a sequence whose every output is wanted must advance one step a run.
        grouping: `ragged`: lengths may differ; `equal`: all rows advance by the same number of steps; `alone`.
        cost: the calibrated cost of a run.
    """

    max_batch: int = 16
    max_chunk: int = 64
    chunked: bool = True
    steps_singly: bool = False
    grouping: Grouping = "ragged"
    cost: Calibration = field(default_factory=Calibration)


@dataclass(frozen=True)
class Batch:
    """One run: `sequences[i]` advances by `counts[i]` steps, at least one."""

    sequences: list[Sequence]
    counts: list[int]

    @property
    def chunk(self) -> int:
        """Steps of the run, padding included."""
        return max(self.counts)


class Scheduler:
    """Holds the unfinished sequences of one model and says which run next.

    Order: priority, then least served (by levels that double, so that work of one kind is finished in order of
    arrival and not all at once at the end), then earliest deadline, then arrival. A deadline does not come before
    service, or a long sequence with one would hold up every short one. One row of each run is for whoever would come
    last, so that what is long goes on however much that is short arrives.
    """

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self._queues: dict[_Rank, deque[Sequence]] = {}
        self._ranks: list[_Rank] = []  # a heap of the keys of _queues
        self._given_up: list[Sequence] = []
        self._num_queued = 0
        self._turns = 0
        self._next_sweep = 0.0

    def __len__(self) -> int:
        return self._num_queued + len(self._given_up)

    @property
    def num_waiting(self) -> int:
        """Sequences that no run has touched yet."""
        return sum(1 for queue in self._queues.values() for one in queue if not (one.cursor or one.served))

    @property
    def num_running(self) -> int:
        """Sequences that some run has advanced and that are not done."""
        return self._num_queued - self.num_waiting

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence of at least one step."""
        self._queue_of(sequence).append(sequence)
        self._num_queued += 1

    def schedule(self, now: float) -> Batch | None:
        """Take the next batch; None where nothing is ready. Sequences taken come back through `update`."""
        self._sweep(now)
        taken: list[Sequence] = []
        passed: list[Sequence] = []
        policy = self.policy
        limit = 1 if policy.grouping == "alone" else policy.max_batch
        last = self._pop_last(now)
        if last is not None:
            taken.append(last)
        for sequence in self._pop_live(now) if len(taken) < limit else ():
            fits = policy.chunked or not taken or self._alike(taken[0], sequence)
            (taken if fits else passed).append(sequence)
            if len(taken) == limit or len(passed) == _LOOK:
                break
        self._put_back(passed)
        return Batch(taken, self._counts(taken)) if taken else None

    def update(self, batch: Batch | None) -> list[Sequence]:
        """Take back a batch that ran: what is unfinished queues again, the rest is returned.

        Sequences given up since the last call are returned too, with their error set.
        """
        done, self._given_up = self._given_up, []
        unfinished = []
        for sequence, steps in zip(batch.sequences, batch.counts, strict=True) if batch else ():
            if sequence.error is None:
                sequence.cursor += steps
                if sequence.cursor < len(sequence.inputs):
                    unfinished.append(sequence)
                    continue
            done.append(sequence)
        self._put_back(unfinished)
        return done

    def _queue_of(self, sequence: Sequence) -> deque[Sequence]:
        served = sequence.served + sequence.cursor
        level = max((served // _LEVEL_STEPS).bit_length(), (sequence.place // _LEVEL_PLACES).bit_length())
        rank = sequence.priority, level, sequence.deadline
        queue = self._queues.get(rank)
        if queue is None:
            queue = self._queues[rank] = deque()
            heapq.heappush(self._ranks, rank)
        return queue

    def _put_back(self, sequences: list[Sequence]) -> None:
        """Queue sequences that were taken, in their order, before those of their rank that came later."""
        for sequence in reversed(sequences):
            self._queue_of(sequence).appendleft(sequence)
        self._num_queued += len(sequences)

    def _pop_live(self, now: float) -> Iterator[Sequence]:
        while self._ranks:
            queue = self._queues[self._ranks[0]]
            while queue:
                sequence = queue.popleft()
                self._num_queued -= 1
                if sequence.cancelled or sequence.deadline <= now:
                    self._give_up(sequence)
                else:
                    yield sequence
            del self._queues[heapq.heappop(self._ranks)]

    def _pop_last(self, now: float) -> Sequence | None:
        """One sequence that was served more than those that go first, of each level in turn."""
        if len(self._ranks) < 2 or not self.policy.chunked:
            return None
        first = self._first_rank()
        if first is None:
            return None
        later = [r for r, queue in self._queues.items() if r[0] == first[0] and r[1] > first[1] and queue]
        if not later:
            return None
        self._turns += 1
        if (self.policy.max_batch == 1 or self.policy.grouping == "alone") and self._turns % _LAST_TURN:
            return None
        levels = sorted({rank[1] for rank in later})
        level = levels[self._turns // _LAST_TURN % len(levels)]
        queue = self._queues[min(rank for rank in later if rank[1] == level)]
        while queue:
            sequence = queue.popleft()
            self._num_queued -= 1
            if not sequence.cancelled and sequence.deadline > now:
                return sequence
            self._give_up(sequence)
        return None

    def _first_rank(self) -> _Rank | None:
        while self._ranks and not self._queues[self._ranks[0]]:
            del self._queues[heapq.heappop(self._ranks)]
        return self._ranks[0] if self._ranks else None

    def _sweep(self, now: float) -> None:
        """Give up, once a while, what waits far down the queue and is late or cancelled."""
        if now < self._next_sweep:
            return
        self._next_sweep = now + _SWEEP_SECONDS
        for rank, queue in self._queues.items():
            over = [sequence for sequence in queue if sequence.cancelled or sequence.deadline <= now]
            if not over:
                continue
            self._queues[rank] = deque(one for one in queue if not (one.cancelled or one.deadline <= now))
            self._num_queued -= len(over)
            for sequence in over:
                self._give_up(sequence)

    def _give_up(self, sequence: Sequence) -> None:
        done, length = sequence.served + sequence.cursor, sequence.served + sequence.length
        sequence.error = DeadlineExceeded(f"the deadline passed with {done} of {length} steps done")
        self._given_up.append(sequence)

    def _alike(self, first: Sequence, other: Sequence) -> bool:
        if self.policy.grouping == "equal":
            return first.length == other.length
        short, long = sorted((first.length, other.length))
        return short >= _ALIKE * long

    def _counts(self, sequences: list[Sequence]) -> list[int]:
        remaining = [sequence.remaining for sequence in sequences]
        if not self.policy.chunked:
            return remaining
        if self.policy.grouping == "equal":
            singly = any(map(self._singly, sequences))
            return [1 if singly else min(self.policy.max_chunk, *remaining)] * len(remaining)
        chunk = self._best_chunk(remaining)
        return [
            1 if self._singly(sequence) else min(chunk, steps)
            for sequence, steps in zip(sequences, remaining, strict=True)
        ]

    def _singly(self, sequence: Sequence) -> bool:
        """Whether a sequence must be advanced one step a run, for what is wanted of every step."""
        return sequence.keep_trace or (self.policy.steps_singly and sequence.returns == "steps")

    def _best_chunk(self, remaining: Iterable[int]) -> int:
        """The chunk that does the most useful steps a second.

        Only lengths at which a row ends can be best: in between, a longer chunk adds as many useful steps and
        shares the fixed cost further.
        """
        cost, limit = self.policy.cost, self.policy.max_chunk
        ends = sorted(min(steps, limit) for steps in remaining)
        rows = len(ends)
        fixed, each = cost.run + cost.row * rows, cost.step + cost.row_step * rows
        best, best_rate, before = ends[0], 0.0, 0
        for index, end in enumerate(ends):
            useful = before + end * (rows - index)
            rate = useful / (fixed + end * each)
            if rate >= best_rate:
                best, best_rate = end, rate
            before += end
        return best
