"""Writes what sequences have to save, beside the engine: the engine never waits for a store."""

import logging
import math
import threading
import time
from collections.abc import Callable

from elman.engine.pending import log_defect
from elman.engine.sequence import Sequence
from elman.errors import Internal, StoreUnavailable

Commit = Callable[[list[Sequence]], None]
"""Writes the `save` of each sequence to the store, in one transaction. Sets `error` where a write fails."""

# Most sequences of one transaction, and the fewest for which one of their own beside another is worth its while.
_MAX_GROUP, _MIN_SHARE = 1024, 12

_LOG = logging.getLogger("elman")


class Saver:
    """Threads that write all that came since the last write (group commit), in the order in which it came.

    Where there are several, those that are idle share what has come. While the store has one part, the answers of
    another leave, and their clients go on.

    A sequence that cannot be begun on in time is not written, and gets StoreUnavailable. Of one that is being written
    nobody knows yet how it ends: the engine answers its request once it is overdue, and a retry finds out.

    Args:
        commit: called on the threads.
        acknowledge: called on the threads with the sequences that are written or have an `error`.
        timeout: seconds until a sequence is overdue.
        num_threads: as many writes as the store can take at once.

    Attributes:
        held: what is not acknowledged yet, the oldest first, with the time when it came.
    """

    def __init__(
        self, commit: Commit, acknowledge: Callable[[list[Sequence]], None], timeout: float, num_threads: int = 1
    ) -> None:
        self._commit = commit
        self._acknowledge = acknowledge
        self._timeout = timeout
        self._changed = threading.Condition()
        self.held: dict[Sequence, float] = {}
        # Those of them that no thread has begun on.
        self._waiting: list[Sequence] = []
        self._num_idle = 0
        self._closing = False
        self._num_late = 0
        self._threads = [
            threading.Thread(target=self._work, name="elman-saver", daemon=True) for _ in range(num_threads)
        ]
        for thread in self._threads:
            thread.start()

    def put(self, sequences: list[Sequence]) -> None:
        """Have sequences written, unless it is closed. Called from any thread."""
        now = time.monotonic()
        with self._changed:
            if self._closing:
                return  # their requests have been answered, so nobody would know of it
            self.held.update(dict.fromkeys(sequences, now))
            self._waiting += sequences
            self._changed.notify()

    def overdue(self, now: float) -> list[Sequence]:
        """The sequences that have waited for longer than the timeout."""
        if not self.held:
            return []
        with self._changed:
            late = [sequence for sequence, since in self.held.items() if now - since > self._timeout]
        if late and not self._num_late:
            _LOG.error("the session store takes no steps for %g s", self._timeout)
        self._num_late = max(self._num_late, len(late))
        return late

    def close(self, timeout: float) -> list[Sequence]:
        """Stop once all is written, or after `timeout` seconds. Returns what is not acknowledged then."""
        until = time.monotonic() + timeout
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        with self._changed:
            return list(self.held)

    def _work(self) -> None:
        while group := self._next_group():
            now = time.monotonic()
            live = [sequence for sequence in group if not self._is_late(sequence, self.held[sequence], now)]
            if live:
                save(self._commit, live)
                if self._num_late:
                    _LOG.warning("the session store takes steps again; %d or more waited too long", self._num_late)
                    self._num_late = 0
            # Under one lock, so that `close` finds each written sequence either held or acknowledged.
            with self._changed:
                self._acknowledge(group)
                for sequence in group:
                    del self.held[sequence]

    def _next_group(self) -> list[Sequence]:
        """Wait for sequences, and take the share of this thread. Empty once closing, when there are no more."""
        with self._changed:
            self._num_idle += 1
            self._changed.wait_for(lambda: self._waiting or self._closing)
            num_waiting = len(self._waiting)
            num_parts = max(1, min(self._num_idle, num_waiting // _MIN_SHARE))
            number = min(math.ceil(num_waiting / num_parts), _MAX_GROUP)
            group, self._waiting = self._waiting[:number], self._waiting[number:]
            self._num_idle -= 1
            if self._waiting:
                self._changed.notify()
            return group

    def _is_late(self, sequence: Sequence, since: float, now: float) -> bool:
        """True if nobody waits for a sequence any more. It gets an error and is not written."""
        if not (sequence.cancelled or sequence.deadline <= now or now - since > self._timeout):
            return False
        sequence.error = StoreUnavailable("the session store did not take the step in time", retry_after=1)
        return True


def save(commit: Commit, sequences: list[Sequence]) -> None:
    """Commit sequences. A defect fails these sequences, and not the thread."""
    try:
        commit(sequences)
    except Exception:
        log_defect("saving failed", sequences)
        for sequence in sequences:
            sequence.error = sequence.error or Internal("the step was not saved")
