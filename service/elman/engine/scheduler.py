"""Which sequences advance next, and by how many steps. Pure: no clock, no arrays, no I/O.

Continuous batching: sequences join and leave between chunks of steps, so nothing waits for a batch to fill and
nothing short waits for something long (after Orca, OSDI 2022, and E-BATCH, TACO 2021, which tunes the steps of a
batch; the levels of service are those of a multi-level feedback queue).
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
# How far down the queue a batch looks for sequences that go well together: in batches, and where they are run whole.
_LOOK = 4
_LOOK_WHOLE = 256
# How much longer a run may take for others than the sequences that it is made for.
_SLOWDOWN = 0.5
# Chunks within which a sequence ends soon.
_SOON = 4
# How long a run may be where nothing ends soon, over what it costs before its first step: where what does end soon
# comes all the time, and where none of it has come for so many runs.
_FIXED_SHARES_BUSY, _FIXED_SHARES_QUIET = 3, 10
_QUIET_RUNS = 200

_TRACED = attrgetter("keep_trace")


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

    Of those that stand alike in that order, a batch is the first and those nearest to it in what they have left to do,
    since what ends together leaves no row to run empty. Whoever comes after them in that order goes along as far as
    there is room and the first are not held up much.
    """

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self._queues: dict[Rank, deque[Sequence]] = {}
        self._ranks: list[Rank] = []  # a heap of the keys of _queues
        # What the batch that runs was taken from, in order.
        self._taken: list[Sequence] = []
        self._given_up: list[Sequence] = []
        self._num_queued = 0
        self._turns = 0
        self._runs_since_short = 0
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
        sequence.rank = _rank_of(sequence)
        self._queue_of(sequence.rank).append(sequence)
        self._num_queued += 1
        if len(sequence.inputs) <= _SOON * self.policy.max_chunk:
            self._runs_since_short = 0

    def schedule(self, now: float) -> Batch | None:
        """Take the next batch; None where nothing is ready. Sequences taken come back through `update`."""
        self._sweep(now)
        self._runs_since_short += 1
        policy = self.policy
        last = self._pop_last(now)
        others = [] if last is None else [last]
        room = (1 if policy.grouping == "alone" else policy.max_batch) - len(others)
        seen = self._look(now, room)
        first = self._choose(seen, room)
        self._taken = seen + others
        if not first:
            first, others = others, []
        if not first:
            return None
        chunk = self._chunk(first)
        if policy.chunked and len(first) == len(seen):
            more = self._pop_others(now, first, chunk, room - len(first))
            self._taken += more
            others += more
        return Batch(first + others, self._counts(first, others, chunk))

    def update(self, batch: Batch | None) -> list[Sequence]:
        """Take back a batch that ran: what is unfinished queues again, the rest is returned.

        Sequences given up since the last call are returned too, with their error set.
        """
        done, self._given_up = self._given_up, []
        for sequence, steps in zip(batch.sequences, batch.counts, strict=True) if batch else ():
            if sequence.error is None:
                sequence.cursor += steps
                sequence.remaining -= steps
                if sequence.remaining:
                    if sequence.served + sequence.cursor >= _LEVEL_STEPS << sequence.rank[1]:
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
        """Queue what was taken and is not done, in its order, before those of its rank that came later."""
        rank: Rank | None = None
        for sequence in reversed(self._taken):
            if sequence.error is None and sequence.remaining:
                if sequence.rank != rank:
                    rank = sequence.rank
                    queue = self._queue_of(rank)
                queue.appendleft(sequence)
                self._num_queued += 1
        self._taken = []

    def _pop(self, now: float, most: int) -> list[Sequence]:
        """Up to `most` of those that go first: of one priority and level."""
        popped: list[Sequence] = []
        level: tuple[int, int] | None = None
        while len(popped) < most and (rank := self._first_rank()) is not None:
            if popped and rank[:2] != level:
                break
            level, queue = rank[:2], self._queues[rank]
            while queue and len(popped) < most:
                sequence = queue.popleft()
                self._num_queued -= 1
                if sequence.cancelled or sequence.deadline <= now:
                    self._give_up(sequence)
                else:
                    popped.append(sequence)
        return popped

    def _look(self, now: float, room: int) -> list[Sequence]:
        """Those that a batch may be chosen from, in order."""
        policy = self.policy
        if not room:
            return []
        if policy.chunked:
            rank = self._first_rank()
            free = rank is not None and rank[2] == inf and policy.grouping != "alone"
            return self._pop(now, _LOOK * room if free else room)
        seen = self._pop(now, 1)
        alike = len(seen)
        while seen and alike < room and len(seen) < _LOOK_WHOLE and (more := self._pop(now, 1)):
            seen += more
            alike += self._alike(seen[0], more[0])
        return seen

    def _choose(self, seen: list[Sequence], room: int) -> list[Sequence]:
        """The first of some sequences, and as many as there is room for of those that go well with it."""
        if not self.policy.chunked:
            return [one for one in seen if self._alike(seen[0], one)]
        if len(seen) <= room:
            return seen
        # What ends together leaves no row to run empty.
        length = seen[0].remaining
        apart = [abs(one.remaining - length) for one in seen]
        return [seen[index] for index in sorted(range(len(seen)), key=apart.__getitem__)[:room]]

    def _pop_others(self, now: float, first: list[Sequence], chunk: int, room: int) -> list[Sequence]:
        """Those that come after the first, as far as they do not hold these up too much."""
        if self.policy.grouping == "ragged":
            cost = self.policy.cost
            alone = cost.run_seconds(len(first), chunk)
            room = min(room, int(_SLOWDOWN * alone / (cost.row + chunk * cost.row_step)))
        others: list[Sequence] = []
        while len(others) < room and (more := self._pop(now, room - len(others))):
            others += more
        return others

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

    def _first_rank(self) -> Rank | None:
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

    def _left(self, sequences: list[Sequence]) -> list[int]:
        """How far one run may advance each of some sequences."""
        policy = self.policy
        left = [one.remaining for one in sequences]
        if policy.chunked and (policy.steps_singly or any(map(_TRACED, sequences))):
            # What is wanted of every step is had from a run a step.
            singly = [one.keep_trace or (policy.steps_singly and one.returns == "steps") for one in sequences]
            left = [1 if single else steps for single, steps in zip(singly, left, strict=True)]
        return left

    def _counts(self, first: list[Sequence], others: list[Sequence], chunk: int) -> list[int]:
        """Steps of each row of a run that takes the first as far as `chunk`."""
        policy, left = self.policy, self._left(first + others)
        if not policy.chunked:
            return left
        if policy.grouping == "equal":
            return [min(policy.max_chunk, *left)] * len(left)
        if others:
            # On for as long as the run costs before its first step, which nobody is spared.
            chunk = max(chunk, self._chunk_of(1, len(left)))
        return [steps if steps < chunk else chunk for steps in left]

    def _chunk(self, first: list[Sequence]) -> int:
        """The most steps of a run that is made for some sequences.

        No more than those that can end in it need, as whoever ends waits for its end. Of what is long, or has been
        served for long, no more than take a few times what the run costs before its first step, as whoever comes next
        waits as long.
        """
        ends, limit = sorted(self._left(first)), self.policy.max_chunk
        pace = max([steps for steps in ends if steps <= limit], default=0)
        if first[0].served + first[0].cursor >= _LEVEL_STEPS or ends[0] > _SOON * limit:
            quiet = self._runs_since_short > _QUIET_RUNS
            limit = self._chunk_of(_FIXED_SHARES_QUIET if quiet else _FIXED_SHARES_BUSY, len(ends))
        elif pace:
            limit = max(pace, self._chunk_of(1, len(ends)))
        return self._best_chunk(ends, limit)

    def _chunk_of(self, shares: int, rows: int) -> int:
        """Steps that take as long as some times what a run costs before its first; at least one."""
        cost = self.policy.cost
        steps = shares * cost.before_steps(rows) / cost.step_seconds(rows)
        return min(self.policy.max_chunk, max(1, int(steps)))

    def _best_chunk(self, ends: list[int], limit: int) -> int:
        """The chunk that does the most useful steps a second, of rows that end after some steps, ascending.

        Only lengths at which a row ends can be best: in between, a longer chunk adds as many useful steps and
        shares the fixed cost further. Past the best one the rate only falls, since ever fewer rows are left.
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
    served = sequence.served + sequence.cursor
    level = max((served // _LEVEL_STEPS).bit_length(), (sequence.place // _LEVEL_PLACES).bit_length())
    return sequence.priority, level, sequence.deadline
