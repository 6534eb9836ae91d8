"""Decides which sequences advance next, and by how many steps. Pure: no clock, no arrays, no I/O.

Continuous batching: sequences join and leave between chunks of steps. No sequence waits for a batch to fill, and no
short sequence waits for a long one to finish. (After Orca, OSDI 2022, and E-BATCH, TACO 2021, which tunes the number of
steps of a batch. The levels are those of a multi-level feedback queue.)
"""

import heapq
from collections import deque
from dataclasses import dataclass, field
from math import inf
from operator import attrgetter
from typing import Literal

from elman.engine.sequence import Rank, Sequence
from elman.errors import DeadlineExceeded
from elman.repository.calibration import Calibration

Grouping = Literal["ragged", "equal", "alone"]

# Steps of level 0: a sequence that has done more of them moves to the next level, which lasts twice as long.
_LEVEL_STEPS = 256
# Sequences of one request that start at level 0. The next level takes twice as many, and so on, so that a request with
# thousands of sequences does not block the requests after it.
_LEVEL_PLACES = 64
# If a run has only one row or is that of a block, every eighth run goes to a lower level.
_LOW_LEVEL_TURN = 8
# Seconds between two searches of the whole queue for late or cancelled sequences.
_SWEEP_SECONDS = 0.5
# Sequences that are run whole share a batch if the shorter has at least this fraction of the longer one's steps.
_MIN_LENGTH_RATIO = 0.75
# How many queued sequences are considered for a batch: in multiples of its rows, and when sequences are run whole.
_CANDIDATE_BATCHES = 4
_CANDIDATES_WHOLE = 256
# By which fraction lower-ranked sequences may prolong a run.
_SLOWDOWN = 0.5
# A sequence is short if it ends within this many chunks.
_SHORT_CHUNKS = 4
# The longest run of long sequences, in multiples of its fixed cost (before the first step). The longer limit holds once
# no short sequence has arrived for _QUIET_RUNS runs.
_FIXED_COSTS_BUSY, _FIXED_COSTS_QUIET = 3, 10
_QUIET_RUNS = 200

_TRACED = attrgetter("keep_trace")


@dataclass(frozen=True)
class Policy:
    """How sequences of one model may be run together.

    Attributes:
        max_batch: most rows of a run.
        max_block: most rows of a block, which has runs of its own.
        max_chunk: most steps of a run, if the model is chunked.
        chunked: True if a sequence may be run in several chunks.
        steps_singly: True if a sequence that returns `steps` must advance one step per run.
        grouping: `ragged`: lengths may differ; `equal`: all rows advance by the same number of steps; `alone`: one row.
        cost: the calibrated cost of a run.
    """

    max_batch: int = 16
    max_block: int = 16
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
    """Holds the unfinished sequences of one model and chooses which run next.

    Sequences are ordered by priority, then level, then deadline, then arrival. The level grows with the steps done;
    each level lasts twice as long as the one before. So sequences of similar length finish in order of arrival, and not
    all at once at the end. The level comes before the deadline: otherwise a long sequence with a deadline would block
    all short ones. Each batch keeps one row for a lower level, so that long sequences are never starved.

    A batch takes the first sequence, and those of the same rank whose remaining steps are closest to its own: if rows
    end together, none is run on as padding. Lower-ranked sequences fill the free rows, as long as they do not prolong
    the run too much.

    A block of rows runs alone, and so takes turns with the others: its level grows with the steps of all its rows.
    """

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self._queues: dict[Rank, deque[Sequence]] = {}
        self._ranks: list[Rank] = []  # a heap of the keys of _queues
        # The sequences that were popped for the current batch, in order. Not all of them are in the batch.
        self._taken: list[Sequence] = []
        self._dropped: list[Sequence] = []
        self._num_queued = 0
        self._turns = 0
        self._runs_since_short = 0
        self._next_sweep = 0.0

    def __len__(self) -> int:
        return self._num_queued + len(self._dropped)

    @property
    def num_waiting(self) -> int:
        """Sequences that have not advanced yet."""
        return sum(1 for queue in self._queues.values() for s in queue if not (s.cursor or s.served))

    @property
    def num_running(self) -> int:
        """Sequences that have advanced and are not done."""
        return self._num_queued - self.num_waiting

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence of at least one step."""
        sequence.rank = _rank_of(sequence)
        self._queue_of(sequence.rank).append(sequence)
        self._num_queued += 1
        if len(sequence.inputs) <= _SHORT_CHUNKS * self.policy.max_chunk:
            self._runs_since_short = 0

    def schedule(self, now: float) -> Batch | None:
        """Take the next batch; None if there is none. Its sequences come back through `update`."""
        self._sweep(now)
        self._runs_since_short += 1
        policy = self.policy
        low = self._pop_low_level(now)
        others = [] if low is None else [low]
        alone = policy.grouping == "alone" or (low is not None and low.rows > 1)
        room = (1 if alone else policy.max_batch) - len(others)
        candidates = self._pop_candidates(now, room, blocks=low is None)
        first = self._choose(candidates, room)
        self._taken = candidates + others
        if not first:
            first, others = others, []
        if not first:
            return None
        chunk = self._chunk(first)
        if policy.chunked and len(first) == len(candidates) and first[0].rows == 1:
            more = self._pop_others(now, first, chunk, room - len(first))
            self._taken += more
            others += more
        return Batch(first + others, self._counts(first, others, chunk))

    def update(self, batch: Batch | None) -> list[Sequence]:
        """Take back a batch that ran: unfinished sequences are queued again, the others are returned.

        Sequences that were dropped since the last call are returned too, with their error set.
        """
        done, self._dropped = self._dropped, []
        for sequence, steps in zip(batch.sequences, batch.counts, strict=True) if batch else ():
            if sequence.error is None:
                sequence.cursor += steps
                sequence.remaining -= steps
                if sequence.remaining:
                    if (sequence.served + sequence.cursor) * sequence.rows >= _LEVEL_STEPS << sequence.rank[1]:
                        sequence.rank = _rank_of(sequence)
                    continue
            done.append(sequence)
        self._put_back()
        return done

    def _queue_of(self, rank: Rank) -> deque[Sequence]:
        queue = self._queues.get(rank)
        if queue is None:
            queue = self._queues[rank] = deque()
            heapq.heappush(self._ranks, rank)
        return queue

    def _put_back(self) -> None:
        """Queue the taken sequences that are not done, in their order, at the front of their rank."""
        rank: Rank | None = None
        for sequence in reversed(self._taken):
            if sequence.error is None and sequence.remaining:
                if sequence.rank != rank:
                    rank = sequence.rank
                    queue = self._queue_of(rank)
                queue.appendleft(sequence)
                self._num_queued += 1
        self._taken = []

    def _pop(self, now: float, limit: int, blocks: bool = False) -> list[Sequence]:
        """The first sequences in order, up to `limit`, all of one priority and level.

        It stops before a block. With `blocks` a block that comes first is returned alone.
        """
        popped: list[Sequence] = []
        level: tuple[int, int] | None = None
        while len(popped) < limit and (rank := self._first_rank()) is not None:
            if popped and rank[:2] != level:
                break
            level, queue = rank[:2], self._queues[rank]
            while queue and len(popped) < limit:
                is_block = queue[0].rows > 1
                if is_block and (popped or not blocks):
                    return popped
                sequence = queue.popleft()
                self._num_queued -= 1
                if sequence.cancelled or sequence.deadline <= now:
                    self._drop(sequence)
                    continue
                popped.append(sequence)
                if is_block:
                    return popped
        return popped

    def _pop_candidates(self, now: float, room: int, blocks: bool) -> list[Sequence]:
        """The sequences that a batch is chosen from, in order; or a block, if it comes first and `blocks` is True."""
        policy = self.policy
        if not room:
            return []
        if policy.chunked:
            rank = self._first_rank()
            # Sequences with deadlines keep their order, so only those without are chosen from.
            free = rank is not None and rank[2] == inf and policy.grouping != "alone"
            return self._pop(now, _CANDIDATE_BATCHES * room if free else room, blocks)
        candidates = self._pop(now, 1, blocks)
        if candidates and candidates[0].rows > 1:
            return candidates
        num_similar = len(candidates)
        while candidates and num_similar < room and len(candidates) < _CANDIDATES_WHOLE and (more := self._pop(now, 1)):
            candidates += more
            num_similar += self._similar(candidates[0], more[0])
        return candidates

    def _choose(self, candidates: list[Sequence], room: int) -> list[Sequence]:
        """The first candidate, and those that are closest to it in length, up to `room` rows."""
        if not self.policy.chunked:
            return [candidate for candidate in candidates if self._similar(candidates[0], candidate)]
        if len(candidates) <= room:
            return candidates
        length = candidates[0].remaining
        distances = [abs(candidate.remaining - length) for candidate in candidates]
        return [candidates[index] for index in sorted(range(len(candidates)), key=distances.__getitem__)[:room]]

    def _pop_others(self, now: float, first: list[Sequence], chunk: int, room: int) -> list[Sequence]:
        """Lower-ranked sequences, as many as do not prolong the run of `first` too much."""
        if self.policy.grouping == "ragged":
            cost = self.policy.cost
            seconds = cost.run_seconds(len(first), chunk)
            room = min(room, int(_SLOWDOWN * seconds / (cost.row + chunk * cost.row_step)))
        others: list[Sequence] = []
        while len(others) < room and (more := self._pop(now, room - len(others))):
            others += more
        return others

    def _pop_low_level(self, now: float) -> Sequence | None:
        """One sequence of a level after the first one; these levels take turns."""
        if len(self._ranks) < 2 or not self.policy.chunked:
            return None
        first = self._first_rank()
        if first is None:
            return None
        later = [r for r, queue in self._queues.items() if r[0] == first[0] and r[1] > first[1] and queue]
        if not later:
            return None
        self._turns += 1
        levels = sorted({rank[1] for rank in later})
        level = levels[self._turns // _LOW_LEVEL_TURN % len(levels)]
        queue = self._queues[min(rank for rank in later if rank[1] == level)]
        alone = self.policy.max_batch == 1 or self.policy.grouping == "alone"
        if (alone or max(queue[0].rows, self._queues[first][0].rows) > 1) and self._turns % _LOW_LEVEL_TURN:
            return None
        while queue:
            sequence = queue.popleft()
            self._num_queued -= 1
            if not sequence.cancelled and sequence.deadline > now:
                return sequence
            self._drop(sequence)
        return None

    def _first_rank(self) -> Rank | None:
        while self._ranks and not self._queues[self._ranks[0]]:
            del self._queues[heapq.heappop(self._ranks)]
        return self._ranks[0] if self._ranks else None

    def _sweep(self, now: float) -> None:
        """Drop all late or cancelled sequences in the queue, every half second."""
        if now < self._next_sweep:
            return
        self._next_sweep = now + _SWEEP_SECONDS
        for rank, queue in self._queues.items():
            dropped = [sequence for sequence in queue if sequence.cancelled or sequence.deadline <= now]
            if not dropped:
                continue
            self._queues[rank] = deque(s for s in queue if not (s.cancelled or s.deadline <= now))
            self._num_queued -= len(dropped)
            for sequence in dropped:
                self._drop(sequence)

    def _drop(self, sequence: Sequence) -> None:
        done, length = sequence.served + sequence.cursor, sequence.served + sequence.length
        # More inputs may come from a feedback.
        of = "" if sequence.more else f" of {length}"
        sequence.error = DeadlineExceeded(f"the deadline passed with {done}{of} steps done")
        self._dropped.append(sequence)

    def _similar(self, first: Sequence, other: Sequence) -> bool:
        if self.policy.grouping == "equal":
            return first.length == other.length
        short, long = sorted((first.length, other.length))
        return short >= _MIN_LENGTH_RATIO * long

    def _max_steps(self, sequences: list[Sequence]) -> list[int]:
        """The number of steps by which one run may advance each sequence."""
        policy = self.policy
        limits = [sequence.remaining for sequence in sequences]
        if policy.chunked and (policy.steps_singly or any(map(_TRACED, sequences))):
            # The state of a step, or its output if the graph gives only the last one, takes a run per step.
            singly = [s.keep_trace or (policy.steps_singly and s.returns == "steps") for s in sequences]
            limits = [1 if single else steps for single, steps in zip(singly, limits, strict=True)]
        return limits

    def _counts(self, first: list[Sequence], others: list[Sequence], chunk: int) -> list[int]:
        """Steps of each row, in a run that advances `first` by up to `chunk` steps."""
        policy, limits = self.policy, self._max_steps(first + others)
        if not policy.chunked:
            return limits
        if policy.grouping == "equal":
            return [min(policy.max_chunk, *limits)] * len(limits)
        if others:
            # The steps cost at least as much as the run costs before its first step.
            chunk = max(chunk, self._chunk_costing(1, len(limits)))
        return [steps if steps < chunk else chunk for steps in limits]

    def _chunk(self, first: list[Sequence]) -> int:
        """The most steps of a run of `first`.

        Sequences that end in this run wait for its end, so it is no longer than they need. A run of long sequences is
        limited to a few times its fixed cost, because new sequences wait until it ends.
        """
        ends, limit = sorted(self._max_steps(first)), self.policy.max_chunk
        last_end = max([steps for steps in ends if steps <= limit], default=0)
        if (first[0].served + first[0].cursor) * first[0].rows >= _LEVEL_STEPS or ends[0] > _SHORT_CHUNKS * limit:
            quiet = self._runs_since_short > _QUIET_RUNS
            limit = self._chunk_costing(_FIXED_COSTS_QUIET if quiet else _FIXED_COSTS_BUSY, len(ends))
        elif last_end:
            limit = max(last_end, self._chunk_costing(1, len(ends)))
        return self._best_chunk(ends, limit)

    def _chunk_costing(self, fixed_costs: int, rows: int) -> int:
        """The number of steps that cost `fixed_costs` times as much as a run before its first step; at least one."""
        cost = self.policy.cost
        steps = fixed_costs * cost.before_steps(rows) / cost.step_seconds(rows)
        return min(self.policy.max_chunk, max(1, int(steps)))

    def _best_chunk(self, ends: list[int], limit: int) -> int:
        """The chunk with the most useful steps per second. `ends` are the steps that the rows need, ascending.

        Only a length at which a row ends can be best: up to there, each further step is useful for as many rows and
        the fixed cost is shared by more steps. Beyond the best length the rate only falls, as fewer rows are left.
        """
        cost, rows = self.policy.cost, len(ends)
        fixed, each = cost.before_steps(rows), cost.step_seconds(rows)
        best, best_rate, before = 1, 0.0, 0
        for index, end in enumerate(ends):
            end = min(end, limit)
            rate = (before + end * (rows - index)) / (fixed + end * each)
            if rate < best_rate:
                break
            best, best_rate = end, rate
            if end == limit:
                break
            before += end
        return best


def _rank_of(sequence: Sequence) -> Rank:
    served = (sequence.served + sequence.cursor) * sequence.rows
    level = max((served // _LEVEL_STEPS).bit_length(), (sequence.place // _LEVEL_PLACES).bit_length())
    return sequence.priority, level, sequence.deadline
