"""Writes what sequences have to save, beside the engine: the engine never waits for a store."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable

from elman.engine.pending import log_defect
from elman.engine.sequence import Sequence
from elman.errors import Internal, StoreUnavailable

Commit = Callable[[list[Sequence]], None]
"""Writes the `save` of each sequence to the store, in one transaction. Sets `error` where a write fails."""

# Most sequences of one transaction.
_MAX_GROUP = 1024

_LOG = logging.getLogger("elman")


class Saver:
    """A thread that writes all that came since its last write (group commit), in the order in which it came.

    A sequence that cannot be begun on in time is not written, and gets StoreUnavailable. Of one that is being written
    nobody knows yet how it ends: the engine answers its request once it is overdue, and a retry finds out.

    Args:
        acknowledge: called on the thread with the sequences that are written or have an `error`.
        timeout: seconds until a sequence is overdue.
    """

    def __init__(self, commit: Commit, acknowledge: Callable[[list[Sequence]], None], timeout: float) -> None:
        self._commit = commit
        self._acknowledge = acknowledge
        self._timeout = timeout
        self._changed = threading.Condition()
        # What is not acknowledged yet, the oldest first, with the time when it came. Only the saver changes it.
        self.held: deque[tuple[float, Sequence]] = deque()
        self._closing = False
        self._num_late = 0
        self._thread = threading.Thread(target=self._work, name="elman-saver", daemon=True)
        self._thread.start()

    def put(self, sequences: list[Sequence]) -> None:
        """Have sequences written. Called from any thread."""
        now = time.monotonic()
        with self._changed:
            self.held.extend([(now, sequence) for sequence in sequences])
            self._changed.notify()

    def overdue(self, now: float) -> list[Sequence]:
        """The sequences that have waited for longer than the timeout."""
        if not self.held:
            return []
        with self._changed:
            late = [sequence for since, sequence in self.held if now - since > self._timeout]
        if late and not self._num_late:
            _LOG.error("the session store takes no steps for %g s", self._timeout)
        self._num_late = max(self._num_late, len(late))
        return late

    def close(self, timeout: float) -> None:
        """Stop once all is written, or after `timeout` seconds."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(timeout)

    def _work(self) -> None:
        while group := self._next_group():
            now = time.monotonic()
            live = [sequence for since, sequence in group if not self._is_late(sequence, since, now)]
            if live:
                save(self._commit, live)
                if self._num_late:
                    _LOG.warning("the session store takes steps again; %d or more waited too long", self._num_late)
                    self._num_late = 0
            with self._changed:
                for _ in group:
                    self.held.popleft()
            self._acknowledge([sequence for _, sequence in group])

    def _next_group(self) -> list[tuple[float, Sequence]]:
        """Wait for sequences. Empty once closing, when there are no more."""
        with self._changed:
            self._changed.wait_for(lambda: self.held or self._closing)
            return [self.held[index] for index in range(min(len(self.held), _MAX_GROUP))]

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
