"""Decides which sequences advance next, and by how many steps. Pure: no clock, no arrays, no I/O.

Continuous batching: sequences join and leave between chunks of steps. No sequence waits for a batch to fill, and no
short sequence waits for a long one to finish. (After Orca, OSDI 2022, and E-BATCH, TACO 2021, which tunes the number of
steps of a batch. The levels are those of a multi-level feedback queue.)
"""

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field
from math import inf
from operator import attrgetter
from typing import Literal

from elman.engine.lane import Lane
from elman.engine.sequence import Rank, Sequence
from elman.repository.calibration import Calibration

Grouping = Literal["ragged", "equal", "alone"]

# Steps of level 0: a sequence that has done more of them moves to the next level, which lasts twice as long.
_LEVEL_STEPS = 256
# Sequences of one request that start at level 0. The next level takes twice as many, and so on, so that a request with
# thousands of sequences does not block the requests after it.
_LEVEL_PLACES = 64
# The rate of a chunk that is as good as the best one's, as a fraction of it.
_CLOSE = 0.99
# Seconds between two searches of the whole queue for late or cancelled sequences.
_SWEEP_SECONDS = 0.5
# Sequences that are run whole share a batch if the shorter has at least this fraction of the longer one's steps.
_MIN_LENGTH_RATIO = 0.75
# A sequence that has less than this fraction of the first one's steps left is taken into its batch only where a row
# would be empty: it would be padded. A longer one is not padded, and begins early, so that it does not end last.
_SHORTEST = 0.5
# How many queued sequences are looked at for a batch: so many times, each time so many as fill this many batches.
_LOOKS, _LOOK_BATCHES = 3, 2
# The same, when sequences are run whole.
_CANDIDATES_WHOLE = 256
# By which fraction lower-ranked sequences may prolong a run.
_SLOWDOWN = 0.5
# A sequence is short if it ends within this many chunks.
_SHORT_CHUNKS = 4
# The longest run of long sequences, in multiples of its fixed cost (before the first step). The longer limit holds once
# no short sequence has arrived for _QUIET_RUNS runs.
_FIXED_COSTS_BUSY, _FIXED_COSTS_QUIET = 3, 10
_QUIET_RUNS = 200
# The longest run in seconds, by the calibrated cost, once several callers had sequences in one of the last runs. So a
# caller that comes does not wait long for the run under way.
_SHARED_SECONDS = 1e-3
_SHARED_RUNS = 2000

_USED = attrgetter("used")


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


@dataclass(slots=True)
class Batch:
    """One run: `sequences[i]` advances by `counts[i]` steps, at least one.

    `chunk` is the number of steps of the run, padding included.
    """

    sequences: list[Sequence]
    counts: list[int]
    chunk: int = field(init=False)

    def __post_init__(self) -> None:
        self.chunk = max(self.counts)


class Scheduler:
    """Holds the unfinished sequences of one model and chooses which run next.

    Sequences are ordered by priority, then level, then deadline, then arrival. The level grows with the steps done;
    each level lasts twice as long as the one before. So sequences of similar length finish in order of arrival, and not
    all at once at the end. The level comes before the deadline: otherwise a long sequence with a deadline would block
    all short ones. Each batch keeps one row for a lower level, so that long sequences are never starved.

    A batch takes the first sequence, and of the same rank the next ones that are not much shorter: a row that ends
    early is run on as padding. Lower-ranked sequences fill the free rows, as long as they do not prolong the run too
    much.

    A block of rows runs alone, and so takes turns with the others: its level grows with the steps of all its rows.

    Each caller has a lane, in which its sequences keep this order. If several callers have sequences here, the first
    sequence of each batch is one of the caller whose sequences have used the least, and all share its other rows. (This
    is start-time fair queueing, Goyal 1996.) A caller that comes begins with what the one in turn has used: it goes
    before those with much work, and gets nothing for the time when it had none.
    """

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self._dropped: list[Sequence] = []
        self._lanes: dict[bytes, Lane] = {}
        # Those with sequences, in their order, when a batch is chosen.
        self._order: list[Lane] = []
        # What the last lane in turn had used before its run, and what callers without a lane had used, if more.
        self._used = 0.0
        self._left: dict[bytes, float] = {}
        self._runs_since_short = 0
        self._runs_since_shared = _SHARED_RUNS
        self._next_sweep = 0.0

    def __len__(self) -> int:
        length = len(self._dropped)
        # A copy, since the metrics ask on the event loop while the engine's thread adds and closes lanes.
        for lane in list(self._lanes.values()):
            length += lane.num_queued
        return length

    @property
    def num_waiting(self) -> int:
        """Sequences that have not advanced yet."""
        return sum(lane.num_waiting for lane in self._lanes.values())

    @property
    def num_running(self) -> int:
        """Sequences that have advanced and are not done."""
        return sum(lane.num_queued for lane in self._lanes.values()) - self.num_waiting

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence of at least one step."""
        sequence.rank = _rank_of(sequence)
        (self._lanes.get(sequence.party) or self._open(sequence.party)).add(sequence)
        if sequence.remaining <= _SHORT_CHUNKS * self.policy.max_chunk:
            self._runs_since_short = 0

    def add_many(self, sequences: list[Sequence]) -> None:
        """As `add` of each, in a third of the time if they are new and of one request."""
        first = sequences[0]
        new = first.priority, first.deadline, first.party, 0, 0, 1
        if {(s.priority, s.deadline, s.party, s.served, s.cursor, s.rows) for s in sequences} != {new} or first.place:
            for sequence in sequences:
                self.add(sequence)
            return
        lane = self._lanes.get(first.party) or self._open(first.party)
        for at in range(0, len(sequences), _LEVEL_PLACES):
            group = sequences[at : at + _LEVEL_PLACES]
            rank = _rank_of(group[0])
            for sequence in group:
                sequence.rank = rank
            lane.add_all(rank, group)
        if any(len(sequence.inputs) <= _SHORT_CHUNKS * self.policy.max_chunk for sequence in sequences):
            self._runs_since_short = 0

    def _open(self, party: bytes) -> Lane:
        used = max(self._used, self._left.pop(party, 0.0))
        lane = self._lanes[party] = Lane(self._dropped, used)
        return lane

    def schedule(self, now: float) -> Batch | None:
        """Take the next batch; None if there is none. Its sequences come back through `update`."""
        if now >= self._next_sweep:
            self._sweep(now)
        self._runs_since_short += 1
        self._runs_since_shared += 1
        policy = self.policy
        order = self._order = list(self._lanes.values())
        if len(order) > 1:
            self._runs_since_shared = 0
            order = self._order = sorted([lane for lane in order if lane.num_queued], key=_USED)
            self._used = max(self._used, order[0].used) if order else self._used
        if not order or not order[0].num_queued:
            return None
        low = self._pop_low_level(now) if policy.chunked and len(order[0].ranks) > 1 else None
        others = [] if low is None else [low]
        alone = policy.grouping == "alone" or (low is not None and low.rows > 1)
        room = (1 if alone else policy.max_batch) - len(others)
        first = self._choose(now, room, blocks=low is None)
        if not first:
            first, others = others, []
        if not first:
            return None
        limits = self._max_steps(first)
        chunk = self._chunk(first, limits)
        left = len(order) > 1 or order[0].num_queued
        if left and policy.chunked and len(first) < room and first[0].rows == 1:
            others += self._pop_others(now, first, chunk, room - len(first))
        if not others:
            return Batch(first, self._counts(first, limits, chunk))
        # The steps cost at least as much as the run costs before its first step.
        chunk = max(chunk, self._chunk_costing(1, len(first) + len(others)))
        return Batch(first + others, self._counts(first, limits + self._max_steps(others), chunk))

    def update(self, batch: Batch | None) -> list[Sequence]:
        """Take back a batch that ran: unfinished sequences are queued again, the others are returned.

        Sequences that were dropped since the last call are returned too, with their error set.
        """
        done, moved = self._dropped.copy(), False
        self._dropped.clear()
        for sequence, steps in zip(batch.sequences, batch.counts, strict=True) if batch else ():
            if sequence.error is None:
                sequence.cursor += steps
                remaining = sequence.remaining = sequence.remaining - steps
                if remaining:
                    if (sequence.served + sequence.cursor) * sequence.rows >= _LEVEL_STEPS << sequence.rank[1]:
                        sequence.rank = _rank_of(sequence)
                        moved = True
                    continue
            done.append(sequence)
        for lane in self._order:
            lane.put_back(moved)
        if batch is not None and len(self._lanes) > 1:
            self._charge(batch)
        return done

    def _charge(self, batch: Batch) -> None:
        """Add what a run cost to the lanes of its rows, and close those that it left empty."""
        sequences = batch.sequences
        seconds = self.policy.cost.run_seconds(sum([one.rows for one in sequences]), batch.chunk) / len(sequences)
        for sequence in sequences:
            self._lanes[sequence.party].used += seconds
        self._close({sequence.party for sequence in sequences})

    def _close(self, parties: Iterable[bytes]) -> None:
        """Close the lanes of some callers that are empty, but not the last lane."""
        for party in parties:
            lane = self._lanes[party]
            if not lane.num_queued and len(self._lanes) > 1:
                del self._lanes[party]
                self._left[party] = lane.used

    def _pop(
        self, now: float, limit: int, blocks: bool = False, level: tuple[int, int] | None = None
    ) -> list[Sequence]:
        """The first sequences in order, up to `limit`, all of one priority and level. Lanes give equal shares.

        It stops before a block. With `blocks` a block that comes first is returned alone. `level`: as for a lane.
        """
        lanes = self._order
        if len(lanes) == 1:
            return lanes[0].pop(now, limit, blocks, level)
        popped: list[Sequence] = []
        for share in (max(1, limit // len(lanes)), limit):
            for lane in lanes:
                if len(popped) == limit:
                    return popped
                popped += lane.pop(now, min(share, limit - len(popped)), blocks and not popped, level)
                if popped and level is None:
                    level = popped[0].rank[:2]
                    if popped[0].rows > 1:
                        return popped
        return popped

    def _choose(self, now: float, room: int, blocks: bool) -> list[Sequence]:
        """The first sequences of a batch, up to `room`; or a block, if it comes first and `blocks` is True."""
        if not room:
            return []
        if not self.policy.chunked:
            return self._choose_whole(now, room, blocks)
        rank = self._order[0].first_rank()
        if rank is None or rank[2] < inf or self.policy.grouping == "alone":
            return self._pop(now, room, blocks)  # those with deadlines keep their order
        number = _LOOK_BATCHES * room
        seen = self._pop(now, number, blocks)
        if len(seen) <= room:
            return seen
        least = _SHORTEST * seen[0].remaining
        chosen = [one for one in seen if one.remaining >= least]
        for _ in range(1, _LOOKS):
            if len(chosen) >= room or not (more := self._pop(now, number, level=rank[:2])):
                break
            seen += more
            chosen += [one for one in more if one.remaining >= least]
        if len(chosen) < room:
            chosen += [one for one in seen if one.remaining < least]
        return chosen[:room]

    def _choose_whole(self, now: float, room: int, blocks: bool) -> list[Sequence]:
        """As `_choose`, where sequences are run whole: the first one, and those of similar length."""
        seen = self._pop(now, 1, blocks)
        if not seen or seen[0].rows > 1:
            return seen
        chosen = seen[:]
        while len(chosen) < room and len(seen) < _CANDIDATES_WHOLE and (more := self._pop(now, 1)):
            seen += more
            chosen += [one for one in more if self._similar(chosen[0], one)]
        return chosen

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
        """One sequence of a level after the first one, of the lane in turn; these levels take turns."""
        policy = self.policy
        return self._order[0].pop_low_level(now, policy.max_batch == 1 or policy.grouping == "alone")

    def _sweep(self, now: float) -> None:
        """Drop all late or cancelled sequences in the queue."""
        self._next_sweep = now + _SWEEP_SECONDS
        for lane in self._lanes.values():
            lane.sweep(now)
        self._close(list(self._lanes))
        self._left = {party: used for party, used in self._left.items() if used > self._used}

    def _similar(self, first: Sequence, other: Sequence) -> bool:
        if self.policy.grouping == "equal":
            return first.length == other.length
        short, long = sorted((first.length, other.length))
        return short >= _MIN_LENGTH_RATIO * long

    def _max_steps(self, sequences: list[Sequence]) -> list[int]:
        """The number of steps by which one run may advance each sequence."""
        policy = self.policy
        limits = [sequence.remaining for sequence in sequences]
        if policy.chunked and (policy.steps_singly or any([sequence.keep_trace for sequence in sequences])):
            # The state of a step, or its output if the graph gives only the last one, takes a run per step.
            singly = [s.keep_trace or (policy.steps_singly and s.returns == "steps") for s in sequences]
            limits = [1 if single else steps for single, steps in zip(singly, limits, strict=True)]
        return limits

    def _counts(self, first: list[Sequence], limits: list[int], chunk: int) -> list[int]:
        """Steps of each row of a run that begins with `first`. `limits` are the most steps of each."""
        policy = self.policy
        if not policy.chunked:
            return limits
        if policy.grouping == "equal":
            return [min(self._shared_chunk(first), *limits)] * len(limits)
        return [steps if steps < chunk else chunk for steps in limits]

    def _chunk(self, first: list[Sequence], limits: list[int]) -> int:
        """The most steps of a run of `first`. `limits` are the most steps of each.

        Sequences that end in this run wait for its end, so it is no longer than they need. A run of long sequences is
        limited to a few times its fixed cost, because new sequences wait until it ends.
        """
        ends, limit = sorted(limits), self.policy.max_chunk
        num_ending = bisect_right(ends, limit)
        if (first[0].served + first[0].cursor) * first[0].rows >= _LEVEL_STEPS or ends[0] > _SHORT_CHUNKS * limit:
            quiet = self._runs_since_short > _QUIET_RUNS
            limit = self._chunk_costing(_FIXED_COSTS_QUIET if quiet else _FIXED_COSTS_BUSY, len(ends))
        elif num_ending:
            limit = max(ends[num_ending - 1], self._chunk_costing(1, len(ends)))
        if self._runs_since_shared < _SHARED_RUNS:
            limit = min(limit, self._shared_chunk(first))
        return self._best_chunk(ends, limit)

    def _shared_chunk(self, first: list[Sequence]) -> int:
        """The most steps of a run of `first`. It is short where callers share the model."""
        if self._runs_since_shared >= _SHARED_RUNS:
            return self.policy.max_chunk
        cost, rows = self.policy.cost, sum([sequence.rows for sequence in first])
        steps = (_SHARED_SECONDS - cost.before_steps(rows)) / cost.step_seconds(rows)
        return min(self.policy.max_chunk, max(1, int(steps)))

    def _chunk_costing(self, fixed_costs: int, rows: int) -> int:
        """The number of steps that cost `fixed_costs` times as much as a run before its first step; at least one."""
        cost = self.policy.cost
        steps = fixed_costs * cost.before_steps(rows) / cost.step_seconds(rows)
        return min(self.policy.max_chunk, max(1, int(steps)))

    def _best_chunk(self, ends: list[int], limit: int) -> int:
        """The longest chunk with about the most useful steps per second. `ends`: the steps that rows need, ascending.

        Only a length at which a row ends can be best: up to there, each further step is useful for as many rows and
        the fixed cost is shared by more steps. Beyond the best length the rate only falls, as fewer rows are left. As
        long as it falls little, more rows end in this run, so that fewer runs are needed.
        """
        cost, rows = self.policy.cost, len(ends)
        fixed, each = cost.before_steps(rows), cost.step_seconds(rows)
        chunk, best_rate, before = 1, 0.0, 0
        for end in ends:
            if end > limit:
                end = limit
            rate = (before + end * rows) / (fixed + end * each)
            if rate < _CLOSE * best_rate:
                break
            chunk, best_rate = end, max(rate, best_rate)
            if end == limit:
                break
            before += end
            rows -= 1
        return chunk


def _rank_of(sequence: Sequence) -> Rank:
    served = (sequence.served + sequence.cursor) * sequence.rows
    level = max((served // _LEVEL_STEPS).bit_length(), (sequence.place // _LEVEL_PLACES).bit_length())
    return sequence.priority, level, sequence.deadline
