"""The queued sequences of one caller for one model, in their order."""

import heapq
from collections import deque

from elman.engine.sequence import Rank, Sequence
from elman.errors import DeadlineExceeded

# If a run has only one row or is that of a block, every eighth run goes to a lower level.
_LOW_LEVEL_TURN = 8


class Lane:
    """Sequences by rank: priority, level, deadline.

    Args:
        dropped: where late and cancelled sequences are put, with their error.
        used: where the count of `used` begins.

    Attributes:
        num_queued: how many sequences there are.
        ranks: a heap of their ranks, of which some may be left over.
        used: the seconds of runs that the caller has had, by the calibrated cost. The lane with the least goes first.
    """

    __slots__ = ("_dropped", "_queues", "_turns", "num_queued", "ranks", "used")

    def __init__(self, dropped: list[Sequence], used: float = 0.0) -> None:
        self.used = used
        self._dropped = dropped
        self._queues: dict[Rank, deque[Sequence]] = {}
        self.ranks: list[Rank] = []
        self.num_queued = 0
        self._turns = 0

    @property
    def num_waiting(self) -> int:
        """Sequences that have not advanced yet."""
        return sum(1 for queue in self._queues.values() for s in queue if not (s.cursor or s.served))

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence behind those of its rank."""
        queue = self._queues.get(sequence.rank) or self._queue_of(sequence.rank)
        queue.append(sequence)
        self.num_queued += 1

    def add_all(self, rank: Rank, sequences: list[Sequence]) -> None:
        """As `add` of each. All have that rank."""
        (self._queues.get(rank) or self._queue_of(rank)).extend(sequences)
        self.num_queued += len(sequences)

    def put_back(self, sequence: Sequence) -> None:
        """Queue a sequence before those of its rank."""
        self._queue_of(sequence.rank).appendleft(sequence)
        self.num_queued += 1

    def _queue_of(self, rank: Rank) -> deque[Sequence]:
        queue = self._queues.get(rank)
        if queue is None:
            queue = self._queues[rank] = deque()
            heapq.heappush(self.ranks, rank)
        return queue

    def first_rank(self) -> Rank | None:
        """The rank of the first sequence; None if there is none."""
        while self.ranks and not self._queues[self.ranks[0]]:
            del self._queues[heapq.heappop(self.ranks)]
        return self.ranks[0] if self.ranks else None

    def pop(self, now: float, limit: int, blocks: bool = False, level: tuple[int, int] | None = None) -> list[Sequence]:
        """The first sequences in order, up to `limit`, all of one priority and level.

        It stops before a block. With `blocks` a block that comes first is returned alone.

        Args:
            level: the priority and level that they must have; None for those of the first sequence.
        """
        popped: list[Sequence] = []
        while len(popped) < limit and (rank := self.first_rank()) is not None:
            if level is not None and rank[:2] != level:
                break
            queue = self._queues[rank]
            while queue and len(popped) < limit:
                is_block = queue[0].rows > 1
                if is_block and (popped or not blocks):
                    return popped
                sequence = queue.popleft()
                self.num_queued -= 1
                if sequence.cancelled or sequence.deadline <= now:
                    self._drop(sequence)
                    continue
                popped.append(sequence)
                if is_block:
                    return popped
                level = rank[:2]
        return popped

    def pop_low_level(self, now: float, alone: bool) -> Sequence | None:
        """One sequence of a level after the first one; these levels take turns.

        alone: whether it would be the only row of its run, as a block is in any case. Every eighth call gives one then.
        """
        first = self.first_rank()
        if first is None:
            return None
        later = [r for r, queue in self._queues.items() if r[0] == first[0] and r[1] > first[1] and queue]
        if not later:
            return None
        self._turns += 1
        levels = sorted({rank[1] for rank in later})
        level = levels[self._turns // _LOW_LEVEL_TURN % len(levels)]
        queue = self._queues[min(rank for rank in later if rank[1] == level)]
        if (alone or max(queue[0].rows, self._queues[first][0].rows) > 1) and self._turns % _LOW_LEVEL_TURN:
            return None
        while queue:
            sequence = queue.popleft()
            self.num_queued -= 1
            if not sequence.cancelled and sequence.deadline > now:
                return sequence
            self._drop(sequence)
        return None

    def sweep(self, now: float) -> None:
        """Drop all late and cancelled sequences."""
        for rank, queue in self._queues.items():
            dropped = [sequence for sequence in queue if sequence.cancelled or sequence.deadline <= now]
            if dropped:
                self._queues[rank] = deque(s for s in queue if not (s.cancelled or s.deadline <= now))
                self.num_queued -= len(dropped)
                for sequence in dropped:
                    self._drop(sequence)

    def _drop(self, sequence: Sequence) -> None:
        done, length = sequence.served + sequence.cursor, sequence.served + sequence.length
        # More inputs may come from a feedback.
        of = "" if sequence.more else f" of {length}"
        sequence.error = DeadlineExceeded(f"the deadline passed with {done}{of} steps done")
        self._dropped.append(sequence)
