"""A thread of the engine: it runs the queues that have work, in turn."""

import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue

from elman.engine.queue import ModelQueue
from elman.engine.sequence import Sequence

Arrival = tuple[ModelQueue, list[Sequence], bool]
"""New sequences of a queue, and whether the queue is to be next, since their caller has no others."""

Listener = Callable[[], None]
Iterate = Callable[[ModelQueue], tuple[list[Sequence], list[Listener]]]

# Added to the niceness of the thread, so that the event loop has priority (Linux has a niceness per thread). It is
# little: the thread holds the interpreter's lock at times, and whatever else needs the core then holds the loop too.
# With 3 it has half the event loop's share of a core. With 10 it would have a tenth, as the codec's workers have, and
# the event loop would wait for the lock while they run.
_NICENESS = 3


class EngineThread:
    """Runs one iteration of a queue after another.

    Args:
        iterate: advances one batch of a queue.
        hand_back: called after each iteration that ended or fed sequences, when the thread has done with its queue.
    """

    def __init__(
        self, name: str, iterate: Iterate, hand_back: Callable[[list[Sequence], list[Listener]], None]
    ) -> None:
        self._iterate = iterate
        self._hand_back = hand_back
        # New sequences; None stops the thread.
        self._inbox: SimpleQueue[list[Arrival] | None] = SimpleQueue()
        self._closing = False
        self._running: tuple[ModelQueue, float] | None = None
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def running(self) -> tuple[ModelQueue, float] | None:
        """The queue of the iteration under way, and when it began on the clock of `time.monotonic`."""
        return self._running

    def put(self, arrived: list[Arrival]) -> None:
        """Give new sequences to the thread, or a queue with no new ones that has work left."""
        self._inbox.put(arrived)

    def close(self) -> None:
        """Have the thread stop after its current iteration."""
        self._closing = True
        self._inbox.put(None)

    def join(self, timeout: float) -> None:
        self._thread.join(timeout)

    def _work(self) -> None:
        _lower_priority()
        queues: deque[ModelQueue] = deque()  # the queues with work, next one first
        while self._take_in(queues):
            queue = queues.popleft()
            self._running = queue, time.monotonic()
            done, listeners = self._iterate(queue)
            self._running = None
            if len(queue.scheduler):
                queues.append(queue)
            # Last: once the event loop has these, it may run the queue itself.
            if done or listeners:
                self._hand_back(done, listeners)

    def _take_in(self, queues: deque[ModelQueue]) -> bool:
        """Move new sequences from the inbox into the queues. Waits if no queue has work. False once closing."""
        inbox = self._inbox
        while not self._closing and (not queues or not inbox.empty()):
            for queue, sequences, first in inbox.get() or ():
                queue.add(sequences)
                if first and queue in queues:
                    queues.remove(queue)
                if first:
                    queues.appendleft(queue)
                elif queue not in queues:
                    queues.append(queue)
        return not self._closing


def _lower_priority() -> None:
    """Give the event loop priority over this thread. Its turns are short, and what it collects shares a batch."""
    with contextlib.suppress(OSError, AttributeError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), os.getpriority(os.PRIO_PROCESS, 0) + _NICENESS)
