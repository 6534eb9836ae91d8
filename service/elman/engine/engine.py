"""The engine thread: schedule, run, update, hand back.

One thread runs the batches of every model in turn. Parallelism is over rows and over processes. While the thread has
nothing to do, a run that takes less than half a millisecond is made on the event loop instead.
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
"""Writes what sequences are to save, in the engine's iteration, and sets the error of those that it cannot."""

Listener = Callable[[], None]

# How much nicer than the event loop the engine's thread is to others (Linux keeps that for each thread).
_NICER = 10
# Requests that are passed on without looking for more.
_TOGETHER = 64
# The most requests that are run on the event loop.
_FEW = 8

_LOG = logging.getLogger("elman")

_Arrival = tuple[ModelQueue, list[Sequence]]


class Engine:
    """Runs the sequences of every open queue.

    Args:
        max_queue: most sequences that may be unfinished at once; beyond it `submit` raises Overloaded.
        max_queue_seconds: most work that may be unfinished at once, by the calibrated cost of each sequence.
        commit: called once an iteration with the sequences that are done and have something to save.
        light_saves: whether it takes so little time that it may be called on the event loop.
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
        # What the engine thread is to take in; None to close.
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
        """What is submitted and not answered, in seconds of work by the calibrated costs."""
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
        """As `begin`, for a task that waits: what is returned has a future of the sequences."""
        assert self._loop is not None, "the engine was not started"
        pending = AwaitedRequest(queue, sequences, self._loop.create_future())
        self.begin(pending)
        return pending

    def begin(self, pending: PendingRequest) -> None:
        """Queue the sequences of one request, each of at least one step. Called on the event loop.

        Its `finish` is called once, on a later turn of the loop.

        Raises Overloaded where the queue has no room for all of them, and Draining once the engine stops.
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
        for place, sequence in enumerate(sequences):
            sequence.place = place
            sequence.request = pending
        # The engine is woken once the event loop has turned round: what arrived together then runs together, and the
        # two threads change places once a turn and not once a request.
        if not self._arrived:
            self._loop.call_soon(self._pass_on)
        self._arrived.append((queue, sequences))

    def _pass_on(self) -> None:
        if self._num_seen < len(self._arrived) < _TOGETHER and self._loop is not None:
            # The last turn brought more, and the next may too: the engine would only compete with it for the core.
            self._num_seen = len(self._arrived)
            self._loop.call_soon(self._pass_on)
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
        """Whether the engine thread has nothing to do and what arrived is sooner done than handed over.

        What is pending is counted until it is delivered here, which is the last that the engine thread does with it.
        """
        if len(arrived) > _FEW:
            return False
        queue = arrived[0][0]
        sequences = [one for other, some in arrived for one in some if other is queue]
        if len(sequences) != self._num_pending:  # for other queues, or under way
            return False
        return queue.is_light(sequences) and (self._light_saves or not any([one.save is not None for one in sequences]))

    def _run_here(self, arrived: list[_Arrival]) -> None:
        """Run what arrived on the event loop, while the engine thread waits for work."""
        queue = arrived[0][0]
        for _, sequences in arrived:
            queue.add(sequences)
        done, listeners = self._iterate(queue)
        self._deliver(done, listeners)
        if len(queue.scheduler):
            self._inbox.put([(queue, [])])

    def _check_room(self, more: int, seconds: float) -> None:
        if self._num_pending + more > self.max_queue:
            raise Overloaded(
                f"{self._num_pending} sequences are queued and {more} more would pass {self.max_queue}",
                retry_after=max(1, math.ceil(self._pending_seconds / 2)),
            )
        excess = self._pending_seconds + seconds - self.max_queue_seconds
        # What alone is more than the queue takes is let in when there is nothing else.
        if excess > 0 and self._num_pending:
            raise Overloaded(
                f"{self._pending_seconds:.1f} seconds of work are queued and {seconds:.1f} more would pass "
                f"{self.max_queue_seconds:g}",
                retry_after=max(1, math.ceil(min(excess, self._pending_seconds))),
            )

    async def drain(self, timeout: float) -> None:
        """Take no new work, and wait up to `timeout` seconds for what is queued."""
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
        error = Draining("the server stopped before this was done", retry_after=1)
        requests, self._requests = self._requests, set()
        for pending in requests:
            pending.finish(error)

    # The engine thread

    def _work(self) -> None:
        _yield_to_the_event_loop()
        queues: deque[ModelQueue] = deque()  # those with work, in turn
        while self._take_in(queues):
            queue = queues.popleft()
            done, listeners = self._iterate(queue)
            if len(queue.scheduler):
                queues.append(queue)
            if done or listeners:
                self._hand_back(done, listeners)

    def _iterate(self, queue: ModelQueue) -> tuple[list[Sequence], list[Listener]]:
        """One iteration of a queue: the sequences that are done, and who is to be told of those that were fed on."""
        try:
            done, fed = queue.iterate(time.monotonic())
        except Exception:  # a defect must fail its queue and not the engine
            _LOG.exception("the engine failed on %s", queue.model.name)
            done, fed = queue.fail(), []
        self._save([sequence for sequence in done if sequence.save is not None and sequence.error is None])
        return done, [sequence.listener for sequence in fed if sequence.listener is not None]

    def _save(self, sequences: list[Sequence]) -> None:
        if not sequences or self._commit is None:
            return
        try:
            self._commit(sequences)
        except Exception:  # a defect must fail what it was to save and not the engine
            _LOG.exception("saving failed")
            for sequence in sequences:
                sequence.error = sequence.error or Internal("the step was not saved")

    def _take_in(self, queues: deque[ModelQueue]) -> bool:
        """Move what arrived into the queues, waiting where there is nothing to do. False once closing."""
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
            pass  # the loop closed under a request that nobody waits for any more

    # The event loop

    def _deliver(self, done: list[Sequence], listeners: list[Listener]) -> None:
        for listener in listeners:
            listener()
        self._num_pending -= len(done)
        for sequence in done:
            # Not kept on the sequence: the two would hold each other, and with them all that they read and gave.
            pending, sequence.request = sequence.request, None
            assert isinstance(pending, PendingRequest), "what is done was submitted"
            pending.num_pending -= 1
            if pending.num_pending or pending not in self._requests:  # or closed meanwhile
                continue
            self._requests.remove(pending)
            self._pending_seconds -= pending.seconds
            pending.finish(None)
        if not self._num_pending:
            self._pending_seconds = 0.0  # and with it whatever rounding left
            if self._idle is not None:
                self._idle.set()


def _yield_to_the_event_loop() -> None:
    """Where both want one core, the event loop goes first: it is soon done, and what it hands over runs together."""
    with contextlib.suppress(OSError, AttributeError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), os.getpriority(os.PRIO_PROCESS, 0) + _NICER)
