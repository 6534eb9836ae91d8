"""The queued sequences of one caller for one model, in their order."""

import heapq
from collections.abc import Iterable
from itertools import islice
from operator import itemgetter

from elman.engine.sequence import Rank, Sequence
from elman.errors import DeadlineExceeded

# If a run has only one row or is that of a block, every eighth run goes to a lower level.
_LOW_LEVEL_TURN = 8

_RANK = itemgetter(0)


class Lane:
    """Sequences by rank: priority, level, deadline.

    What is taken from it for a batch comes back with `put_back`. Most of that was only considered.

    Args:
        dropped: where late and cancelled sequences are put, with their error.
        used: where the count of `used` begins.

    Attributes:
        num_queued: how many sequences there are.
        ranks: a heap of their ranks, of which some may be left over.
        used: the seconds of runs that the caller has had, by the calibrated cost. The lane with the least goes first.
    """

    __slots__ = ("_dropped", "_num_blocks", "_queues", "_taken", "_turns", "num_queued", "ranks", "used")

    def __init__(self, dropped: list[Sequence], used: float = 0.0) -> None:
        self.used = used
        self._dropped = dropped
        self._queues: dict[Rank, list[Sequence]] = {}
        self.ranks: list[Rank] = []
        self.num_queued = 0
        self._num_blocks = 0
        self._turns = 0
        # What was taken since the last `put_back`, in order: sequences of one rank each time.
        self._taken: list[tuple[Rank, list[Sequence]]] = []

    @property
    def num_waiting(self) -> int:
        """Sequences that have not advanced yet."""
        return sum(1 for queue in self._queues.values() for s in queue if not (s.cursor or s.served))

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence behind those of its rank."""
        (self._queues.get(sequence.rank) or self._queue_of(sequence.rank)).append(sequence)
        self.num_queued += 1
        if sequence.rows > 1:
            self._num_blocks += 1

    def add_all(self, rank: Rank, sequences: list[Sequence]) -> None:
        """As `add` of each. All have that rank, and none is a block."""
        (self._queues.get(rank) or self._queue_of(rank)).extend(sequences)
        self.num_queued += len(sequences)

    def put_back(self, moved: bool) -> None:
        """Queue what was taken and is not done, in its order, before what has the same rank.

        moved: whether some of it may have another rank now.
        """
        groups = self._taken
        if len(groups) > 1:  # one of a lower level may have been taken before those of the first
            first = min(groups, key=_RANK)[0][:2]
            groups.sort(key=lambda group: group[0][:2] > first)
        for rank, taken in reversed(groups):
            left = [sequence for sequence in taken if sequence.remaining and sequence.error is None]
            if not left:
                continue
            self.num_queued += len(left)
            self._num_blocks += left[0].rows > 1
            for one in {sequence.rank for sequence in left} if moved else (rank,):
                some = [sequence for sequence in left if sequence.rank == one] if moved else left
                self._queue_of(one)[:0] = some
        groups.clear()

    def _queue_of(self, rank: Rank) -> list[Sequence]:
        queue = self._queues.get(rank)
        if queue is None:
            queue = self._queues[rank] = []
            heapq.heappush(self.ranks, rank)
        return queue

    def first_rank(self) -> Rank | None:
        """The rank of the first sequence; None if there is none."""
        while self.ranks and not self._queues[self.ranks[0]]:
            del self._queues[heapq.heappop(self.ranks)]
        return self.ranks[0] if self.ranks else None

    def pop(self, now: float, limit: int, blocks: bool = False, level: tuple[int, int] | None = None) -> list[Sequence]:
        """Take the first sequences in order, up to `limit`, all of one priority and level.

        It stops before a block. With `blocks` a block that comes first is returned alone.

        Args:
            level: the priority and level that they must have; None for those of the first sequence.
        """
        popped: list[Sequence] = []
        while len(popped) < limit and (rank := self.first_rank()) is not None:
            if level is not None and rank[:2] != level:
                break
            queue = self._queues[rank]
            number, is_block = min(limit - len(popped), len(queue)), False
            if self._num_blocks:
                number = next((at for at, one in enumerate(islice(queue, number)) if one.rows > 1), number)
                is_block = not number
            if is_block:
                if popped or not blocks:
                    break
                number = 1
                self._num_blocks -= 1
            taken = self._take(rank, number, now)
            if taken:
                popped += taken
                level = rank[:2]
                if is_block:
                    break
        return popped

    def _take(self, rank: Rank, number: int, now: float) -> list[Sequence]:
        """Take the first sequences of a rank, and drop those that are late or cancelled."""
        queue = self._queues[rank]
        taken = queue[:number]
        del queue[:number]
        self.num_queued -= number
        if rank[2] <= now or any([sequence.cancelled for sequence in taken]):
            taken = self._live(taken, now)
        if taken:
            self._taken.append((rank, taken))
        return taken

    def _live(self, sequences: Iterable[Sequence], now: float) -> list[Sequence]:
        """Those that are not late or cancelled. The others are dropped."""
        live = []
        # The event loop may cancel one meanwhile, so each is looked at once.
        for sequence in sequences:
            if sequence.cancelled or sequence.deadline <= now:
                self._drop(sequence)
            else:
                live.append(sequence)
        return live

    def pop_low_level(self, now: float, alone: bool) -> Sequence | None:
        """Take one sequence of a level after the first one; these levels take turns.

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
        rank = min(rank for rank in later if rank[1] == level)
        queue = self._queues[rank]
        if (alone or max(queue[0].rows, self._queues[first][0].rows) > 1) and self._turns % _LOW_LEVEL_TURN:
            return None
        while queue:
            self._num_blocks -= queue[0].rows > 1
            if taken := self._take(rank, 1, now):
                return taken[0]
        return None

    def sweep(self, now: float) -> None:
        """Drop all late and cancelled sequences."""
        for rank, queue in self._queues.items():
            if rank[2] <= now or any([sequence.cancelled for sequence in queue]):
                self._queues[rank] = self._live(queue, now)
        self.num_queued = sum(map(len, self._queues.values()))
        self._num_blocks = sum(one.rows > 1 for queue in self._queues.values() for one in queue)

    def _drop(self, sequence: Sequence) -> None:
        done, length = sequence.served + sequence.cursor, sequence.served + sequence.length
        # More inputs may come from a feedback.
        of = "" if sequence.more else f" of {length}"
        sequence.error = DeadlineExceeded(f"the deadline passed with {done}{of} steps done")
        self._dropped.append(sequence)
