"""The engine thread: schedule, run, update, hand back.

One thread runs the batches of all models in turn. Parallelism comes from the rows of a batch and from several server
processes. If the thread is idle, a run of less than half a millisecond is made on the event loop instead.
"""

import asyncio
import contextlib
import logging
import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue

from elman.engine.pending import AwaitedRequest, PendingRequest
from elman.engine.queue import ModelQueue
from elman.engine.sequence import Sequence
from elman.errors import Draining, Internal, Overloaded

Commit = Callable[[list[Sequence]], None]
"""Writes the `save` of each sequence to the store. Called within an iteration. Sets `error` where a write fails."""

Listener = Callable[[], None]

# Added to the niceness of the engine thread, so that the event loop has priority (Linux has a niceness per thread).
_NICENESS = 10
# With this many requests arrived, they are handed to the engine without another turn of the event loop.
_ENOUGH_ARRIVED = 64
# Most requests that are run together on the event loop.
_MAX_LIGHT_REQUESTS = 8

_LOG = logging.getLogger("elman")

_Arrival = tuple[ModelQueue, list[Sequence]]


class Engine:
    """Runs the sequences of every open queue.

    Args:
        max_queue: most unfinished sequences; beyond it `submit` raises Overloaded.
        max_queue_seconds: most unfinished work in seconds, by the calibrated cost of each sequence.
        commit: called once per iteration with the sequences that are done and have something to save.
        light_saves: True if `commit` is fast enough to be called on the event loop.
    """

    def __init__(
        self,
        max_queue: int,
        max_queue_seconds: float = float("inf"),
        commit: Commit | None = None,
        light_saves: bool = False,
    ) -> None:
        self.max_queue = max_queue
        self._commit = commit
        self._light_saves = light_saves
        self.max_queue_seconds = max_queue_seconds
        self._pending_seconds = 0.0
        self._arrived: list[_Arrival] = []
        self._num_seen = 0
        # New sequences for the engine thread; None stops it.
        self._inbox: SimpleQueue[list[_Arrival] | None] = SimpleQueue()
        self._requests: set[PendingRequest] = set()
        self._num_pending = 0
        self._draining = False
        self._idle: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    @property
    def num_pending(self) -> int:
        """Sequences submitted and not answered."""
        return self._num_pending

    @property
    def pending_seconds(self) -> float:
        """The work that is submitted and not answered, in seconds by the calibrated costs."""
        return self._pending_seconds

    @property
    def alive(self) -> bool:
        """Whether the engine thread runs."""
        return self._thread is not None and self._thread.is_alive()

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start the engine thread; answers are delivered on `loop`."""
        self._loop = loop
        self._draining = False
        self._thread = threading.Thread(target=self._work, name="elman-engine", daemon=True)
        self._thread.start()

    def submit(self, queue: ModelQueue, sequences: list[Sequence]) -> AwaitedRequest:
        """Like `begin`, for a task: the request that is returned has a future to await."""
        assert self._loop is not None, "the engine was not started"
        pending = AwaitedRequest(queue, sequences, self._loop.create_future())
        self.begin(pending)
        return pending

    def begin(self, pending: PendingRequest) -> None:
        """Queue the sequences of one request, each of at least one step. Called on the event loop.

        `pending.finish` is called once, on a later turn of the loop.

        Raises Overloaded if the queue has no room for all of them, and Draining once the engine stops.
        """
        if self._draining:
            raise Draining("the server is stopping and takes no new work", retry_after=1)
        assert self._loop is not None, "the engine was not started"
        queue, sequences = pending.queue, pending.sequences
        pending.num_pending = len(sequences)
        pending.seconds = seconds = queue.seconds(sequences)
        self._check_room(len(sequences), seconds)
        self._num_pending += len(sequences)
        self._pending_seconds += seconds
        self._requests.add(pending)
        place = 0
        for sequence in sequences:
            sequence.place = place
            sequence.request = pending
            place += sequence.rows
        # The engine thread is woken on the next turn of the event loop. Requests that arrive in one turn then share a
        # batch, and the threads switch once per turn and not once per request.
        if not self._arrived:
            self._loop.call_soon(self._dispatch)
        self._arrived.append((queue, sequences))

    def _dispatch(self) -> None:
        if self._num_seen < len(self._arrived) < _ENOUGH_ARRIVED and self._loop is not None:
            # The last turn brought more requests, so wait for another one. The engine thread would only take the
            # core away from the event loop.
            self._num_seen = len(self._arrived)
            self._loop.call_soon(self._dispatch)
            return
        self._num_seen = 0
        arrived, self._arrived = self._arrived, []
        if not arrived:  # closed meanwhile
            return
        if self._is_light(arrived):
            self._run_here(arrived)
        else:
            self._inbox.put(arrived)

    def _is_light(self, arrived: list[_Arrival]) -> bool:
        """True if the engine thread is idle and the run is shorter than handing it to that thread.

        The thread is idle if nothing but `arrived` is pending: a sequence counts as pending until it is delivered.
        """
        if len(arrived) > _MAX_LIGHT_REQUESTS:
            return False
        queue = arrived[0][0]
        sequences = [sequence for other, added in arrived for sequence in added if other is queue]
        if len(sequences) != self._num_pending:  # others are for another queue, or with the engine thread
            return False
        saves = any([sequence.save is not None for sequence in sequences])
        return queue.is_light(sequences) and (self._light_saves or not saves)

    def _run_here(self, arrived: list[_Arrival]) -> None:
        """Run on the event loop, while the engine thread waits for work."""
        queue = arrived[0][0]
        for _, sequences in arrived:
            queue.add(sequences)
        done, listeners = self._iterate(queue)
        self._deliver(done, listeners)
        if len(queue.scheduler):
            self._inbox.put([(queue, [])])

    def _check_room(self, num_sequences: int, seconds: float) -> None:
        if self._num_pending + num_sequences > self.max_queue:
            raise Overloaded(
                f"{self._num_pending} sequences are queued; {num_sequences} more would exceed the limit of "
                f"{self.max_queue}",
                retry_after=max(1, math.ceil(self._pending_seconds / 2)),
            )
        excess = self._pending_seconds + seconds - self.max_queue_seconds
        # A request that exceeds the limit alone is accepted when the queue is empty.
        if excess > 0 and self._num_pending:
            raise Overloaded(
                f"{self._pending_seconds:.1f} seconds of work are queued; {seconds:.1f} more would exceed the limit "
                f"of {self.max_queue_seconds:g}",
                retry_after=max(1, math.ceil(min(excess, self._pending_seconds))),
            )

    async def drain(self, timeout: float) -> None:
        """Refuse new work, and wait up to `timeout` seconds for the queued sequences."""
        self._draining = True
        self._idle = asyncio.Event()
        if self._num_pending:
            try:
                await asyncio.wait_for(self._idle.wait(), timeout)
            except TimeoutError:
                pass

    def close(self) -> None:
        """Stop the engine thread after its current iteration."""
        self._inbox.put(None)
        if self._thread is not None:
            self._thread.join()
        self._arrived = []
        error = Draining("the server stopped before this request was done", retry_after=1)
        requests, self._requests = self._requests, set()
        for pending in requests:
            pending.finish(error)

    # The engine thread

    def _work(self) -> None:
        _lower_priority()
        queues: deque[ModelQueue] = deque()  # the queues with work, next one first
        while self._take_in(queues):
            queue = queues.popleft()
            done, listeners = self._iterate(queue)
            if len(queue.scheduler):
                queues.append(queue)
            if done or listeners:
                self._hand_back(done, listeners)

    def _iterate(self, queue: ModelQueue) -> tuple[list[Sequence], list[Listener]]:
        """One iteration of a queue: the sequences that are done, and the listeners of those that were fed."""
        try:
            done, fed = queue.iterate(time.monotonic())
        except Exception:  # a defect fails its queue, not the engine
            _LOG.exception("the engine failed on %s", queue.model.name)
            done, fed = queue.fail(), []
        self._save([sequence for sequence in done if sequence.save is not None and sequence.error is None])
        return done, [sequence.listener for sequence in fed if sequence.listener is not None]

    def _save(self, sequences: list[Sequence]) -> None:
        if not sequences or self._commit is None:
            return
        try:
            self._commit(sequences)
        except Exception:  # a defect fails these sequences, not the engine
            _LOG.exception("saving failed")
            for sequence in sequences:
                sequence.error = sequence.error or Internal("the step was not saved")

    def _take_in(self, queues: deque[ModelQueue]) -> bool:
        """Move new sequences from the inbox into the queues. Waits if no queue has work. False once closing."""
        inbox = self._inbox
        while not queues or not inbox.empty():
            arrived = inbox.get()
            if arrived is None:
                return False
            for queue, sequences in arrived:
                queue.add(sequences)
                if queue not in queues:
                    queues.append(queue)
        return True

    def _hand_back(self, done: list[Sequence], listeners: list[Listener]) -> None:
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(self._deliver, done, listeners)
        except RuntimeError:
            pass  # the event loop is closed, so nobody waits for these

    # The event loop

    def _deliver(self, done: list[Sequence], listeners: list[Listener]) -> None:
        for listener in listeners:
            listener()
        self._num_pending -= len(done)
        for sequence in done:
            # Cut the reference cycle between request and sequence, which would keep their arrays alive.
            pending, sequence.request = sequence.request, None
            assert isinstance(pending, PendingRequest), "begin() sets the request"
            pending.num_pending -= 1
            if pending.num_pending or pending not in self._requests:  # not in it: closed meanwhile
                continue
            self._requests.remove(pending)
            self._pending_seconds -= pending.seconds
            pending.finish(None)
        if not self._num_pending:
            self._pending_seconds = 0.0  # removes rounding errors
            if self._idle is not None:
                self._idle.set()


def _lower_priority() -> None:
    """Give the event loop priority over this thread. Its turns are short, and what it collects shares a batch."""
    with contextlib.suppress(OSError, AttributeError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), os.getpriority(os.PRIO_PROCESS, 0) + _NICENESS)
