"""The engine: schedule, run, update, save, hand back.

One thread runs the batches of the models that are run in chunks, in turn, and another those of the models that are run
whole, whose runs may be long. Parallelism comes from the rows of a batch and from several server processes. If nothing
else is pending, a run of less than half a millisecond is made on the event loop instead. What sequences save is written
by a thread of its own. The event loop watches these threads.
"""

import asyncio
import contextlib
import functools
import math
import time
from collections import Counter
from collections.abc import Callable

from elman.engine.pending import AwaitedRequest, PendingRequest, log_defect
from elman.engine.queue import ModelQueue
from elman.engine.saver import Commit, Saver, save
from elman.engine.sequence import Sequence
from elman.engine.shares import Shares
from elman.engine.thread import Arrival, EngineThread, Listener
from elman.errors import Draining, ElmanError, OutcomeUnknown, Overloaded, StoreUnavailable

# With this many requests arrived, they are handed to the engine without another turn of the event loop.
_ENOUGH_ARRIVED = 64
# Most requests that are run together on the event loop.
_MAX_LIGHT_REQUESTS = 8
# Sequences of one party that are enough for its next runs.
_ENOUGH_OF_ONE = 16
# With several parties, most requests that are answered in one iteration of the event loop.
_MOST_DELIVERED = 8
# Seconds between two looks at the threads.
_WATCH_SECONDS = 0.2
# Seconds that a closing engine waits for its threads. One that is stuck ends with the process.
_JOIN_SECONDS = 1.0


class Engine:
    """Runs the sequences of every open queue.

    Args:
        max_queue: most unfinished sequences; beyond it `submit` raises Overloaded. As many may wait for the store.
        max_queue_seconds: most unfinished work in seconds, by the calibrated cost of each sequence.
        commit: called with the sequences that are done and have something to save.
        num_savers: threads that call `commit`, each with a part of what is to be saved. If it never waits, none: it is
            then called by the thread that ran the sequences.
        save_timeout: seconds that a request waits for `commit` before it gets StoreUnavailable.
        run_timeout: seconds that a run may take beyond ten times its calibrated cost. A longer one is stopped.

    Attributes:
        on_delivery: called on the event loop after sequences were done, if there are several parties.
    """

    def __init__(
        self,
        max_queue: int,
        max_queue_seconds: float = float("inf"),
        commit: Commit | None = None,
        num_savers: int = 1,
        save_timeout: float = 10.0,
        run_timeout: float = 10.0,
    ) -> None:
        self.max_queue = max_queue
        self.max_queue_seconds = max_queue_seconds
        self._commit = commit
        self._num_savers = num_savers
        self._save_timeout = save_timeout
        self._run_timeout = run_timeout
        self.on_delivery: Callable[[], None] = lambda: None
        self._saver: Saver | None = None
        self._threads: list[EngineThread] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._reset()

    def _reset(self) -> None:
        self._pending_seconds = 0.0
        self._num_pending = 0
        self._shares = Shares(self.max_queue, self.max_queue_seconds)
        self._arrived: list[Arrival] = []
        self._num_seen = 0
        self._requests: set[PendingRequest] = set()
        self._draining = self._closed = False
        self._idle: asyncio.Event | None = None

    @property
    def num_pending(self) -> int:
        """Sequences submitted and not answered."""
        return self._num_pending

    @property
    def pending_seconds(self) -> float:
        """The work that is submitted and not answered, in seconds by the calibrated costs."""
        return self._pending_seconds

    def is_busy(self, party: bytes) -> bool:
        """Whether a party has sequences for a few runs here, so that more of them need not come at once."""
        return self._shares.held(party) >= _ENOUGH_OF_ONE

    @property
    def alive(self) -> bool:
        """Whether the engine's threads run."""
        return bool(self._threads) and all(thread.alive for thread in self._threads)

    def stuck(self) -> str | None:
        """Why the engine does not go on: a run that should have ended long ago. None if it does."""
        now = time.monotonic()
        for thread in self._threads:
            running = thread.running
            if running is not None:
                queue, since = running
                # A run is stopped after the first timeout. Not every operator heeds that.
                if now - since > queue.longest_run(2 * self._run_timeout):
                    return f"a run of {queue.model.name} has taken {now - since:.0f} s and does not end"
        return None

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start the engine's threads; answers are delivered on `loop`."""
        self._reset()
        self._loop = loop
        if self._commit is not None and self._num_savers:
            pass_on = functools.partial(self._pass_on, listeners=[])
            self._saver = Saver(self._commit, pass_on, self._save_timeout, self._num_savers)
        self._threads = [EngineThread(name, self._iterate, self._hand_back) for name in _THREADS]
        self._watching = loop.call_later(_WATCH_SECONDS, self._watch)

    def submit(self, queue: ModelQueue, sequences: list[Sequence]) -> AwaitedRequest:
        """Like `begin`, for a task: the request that is returned has a future to await."""
        assert self._loop is not None, "the engine was not started"
        pending = AwaitedRequest(queue, sequences, self._loop.create_future())
        self.begin(pending)
        return pending

    def begin(self, pending: PendingRequest) -> None:
        """Queue the sequences of one request, each of at least one step. Called on the event loop.

        `pending.finish` is called once, on a later turn of the loop.

        Raises Overloaded if the queue has no room for all of them, ModelSuspended, StoreUnavailable if too many wait
        for the store, and Draining once the engine stops.
        """
        assert self._loop is not None, "the engine was not started"
        queue, sequences = pending.queue, pending.sequences
        if queue.suspended is not None:
            queue.check_open()
        pending.num_pending = num_sequences = len(sequences)
        pending.seconds = seconds = queue.seconds(sequences)
        party = pending.party
        if self._closed or not sequences[0].served:  # what goes on was admitted when it began
            self.check_room(party, num_sequences, seconds)
        saver = self._saver
        if (
            saver is not None
            and len(saver.held) + num_sequences > self.max_queue
            and any([one.save is not None for one in sequences])
        ):
            raise StoreUnavailable("the session store does not keep up with the steps", retry_after=1)
        self._num_pending += num_sequences
        self._pending_seconds += seconds
        first = self._shares.add(party, num_sequences, seconds)
        self._requests.add(pending)
        queue.stats.num_added += num_sequences
        now, place = time.monotonic(), 0
        for sequence in sequences:
            sequence.queued_at = now
            sequence.party = party
            sequence.place = place
            sequence.request = pending
            place += sequence.rows
        # The engine thread is woken on the next turn of the event loop. Requests that arrive in one turn then share a
        # batch, and the threads switch once per turn and not once per request.
        if first and (thread := self._thread_of(queue)).running is not None:
            # The thread takes them in after its run, so this does not wake it. Of several callers, one that has nothing
            # else here does not wait until the event loop has done what others have for it.
            thread.put([(queue, sequences, first)])
            return
        if not self._arrived:
            self._loop.call_soon(self._dispatch)
        self._arrived.append((queue, sequences, first))

    def _dispatch(self) -> None:
        if self._num_seen < len(self._arrived) < _ENOUGH_ARRIVED and self._loop and not self._shares.several:
            # The last turn brought more requests, so wait for another one. The engine thread would only take the
            # core away from the event loop. With several parties there may always be more of one.
            self._num_seen = len(self._arrived)
            self._loop.call_soon(self._dispatch)
            return
        self._num_seen = 0
        arrived, self._arrived = self._arrived, []
        if not arrived:  # closed meanwhile
            return
        if self._is_light(arrived):
            self._run_here(arrived)
            return
        for chunked, thread in zip(_CHUNKED, self._threads, strict=True):
            mine = [one for one in arrived if one[0].scheduler.policy.chunked == chunked]
            if mine:
                thread.put(mine)

    def _is_light(self, arrived: list[Arrival]) -> bool:
        """True if the engine's threads are idle and the run is shorter than handing it to one of them.

        They are idle if nothing but `arrived` is pending: a sequence counts as pending until it is delivered.
        """
        if len(arrived) > _MAX_LIGHT_REQUESTS:
            return False
        queue = arrived[0][0]
        sequences = [sequence for other, added, _ in arrived for sequence in added if other is queue]
        # Others are for another queue, with a thread of the engine, or with the saver.
        return len(sequences) == self._num_pending and queue.is_light(sequences)

    def _run_here(self, arrived: list[Arrival]) -> None:
        """Run on the event loop, while the engine's threads wait for work."""
        queue = arrived[0][0]
        for _, sequences, _ in arrived:
            queue.add(sequences)
        done, listeners = self._iterate(queue)
        done, saving = self._divide(done)
        self._deliver(done, listeners)
        if saving:
            self._save(saving)
        if len(queue.scheduler):
            self._thread_of(queue).put([(queue, [], False)])

    def _thread_of(self, queue: ModelQueue) -> EngineThread:
        return self._threads[_CHUNKED.index(queue.scheduler.policy.chunked)]

    def check_room(self, party: bytes, num_sequences: int = 1, seconds: float = 0.0) -> None:
        """Raise Overloaded if there is no room for more sequences of a caller, and Draining once the engine stops.

        Without its numbers a request is refused, before its body is decoded, only if it would be refused afterwards.

        party: whose share of the room they take, as in `PendingRequest`.
        """
        if self._draining:
            raise Draining("the server is stopping and takes no new work", retry_after=1)
        if (
            self._num_pending + num_sequences > self.max_queue
            or self._pending_seconds + seconds > self.max_queue_seconds
            or self._shares.several
        ):
            self._check_crowded(party, num_sequences, seconds)

    def _check_crowded(self, party: bytes, num_sequences: int, seconds: float) -> None:
        """As `check_room`, where a limit may be exceeded, or room is shared."""
        num_queued, shares = self._num_pending, self._shares
        if self._saver is not None:  # what waits for the store takes no room from what is to be run
            num_queued -= len(self._saver.held)
        num_free, free = self.max_queue - num_queued, self.max_queue_seconds - self._pending_seconds
        # A request that exceeds the limit alone is accepted when the queue is empty.
        late = seconds > free and self._num_pending > 0
        greedy = shares.several and shares.exceeds(party, num_sequences, seconds, num_free, free)
        if not (late or greedy or num_sequences > num_free):
            return
        extra = shares.extra(party, num_sequences, seconds)
        if num_sequences > num_free + extra * self.max_queue:
            raise self._overloaded(
                f"{num_queued} sequences are queued; {num_sequences} more would exceed the limit of {self.max_queue}"
            )
        if seconds > free + extra * self.max_queue_seconds and late:
            raise self._overloaded(
                f"{self._pending_seconds:.1f} seconds of work are queued; {seconds:.1f} more would exceed the limit "
                f"of {self.max_queue_seconds:g}",
                min(seconds - free, self._pending_seconds),
            )
        if greedy and not extra:
            raise self._overloaded(
                f"{shares.held(party)} of your sequences are queued; with {num_sequences} more, too little room would "
                "be left for other callers"
            )

    def _overloaded(self, detail: str, seconds: float | None = None) -> Overloaded:
        """The error of a request to be sent again after some seconds; by default after half of the queued work."""
        seconds = self._pending_seconds / 2 if seconds is None else seconds
        return Overloaded(detail, retry_after=max(1, math.ceil(seconds)))

    async def drain(self, timeout: float) -> None:
        """Refuse new work, and wait up to `timeout` seconds for the queued sequences."""
        self._draining = True
        self._idle = asyncio.Event()
        if self._num_pending:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await self._idle.wait()

    def close(self) -> None:
        """Stop the threads. The engine's end after their current iteration, the saver after all is written.

        A thread that does not end in a second is left: it ends with the process. What is not done then is answered on
        the next turn of the event loop.
        """
        self._watching.cancel()
        self._draining = self._closed = True
        for thread in self._threads:
            thread.close()
        for running in [thread.running for thread in self._threads]:
            if running is not None:
                running[0].runner.stopper()()
        for thread in self._threads:
            thread.join(_JOIN_SECONDS)
        unsaved = [] if self._saver is None else self._saver.close(_JOIN_SECONDS)
        self._arrived = []
        assert self._loop is not None, "the engine was not started"
        # What the threads have done is on its way, and is delivered before.
        self._loop.call_soon(self._give_up, unsaved)

    def _give_up(self, unsaved: list[Sequence]) -> None:
        """Answer all requests that are left. Those that the saver had when it was closed may still be written."""
        self._answer_unsaved(unsaved)
        for pending in list(self._requests):
            self._finish(pending, Draining("the server stopped before this request was done", retry_after=1))

    # The engine's threads

    def _iterate(self, queue: ModelQueue) -> tuple[list[Sequence], list[Listener]]:
        """One iteration of a queue: the sequences that are done, and the listeners of those that were fed."""
        try:
            done, fed = queue.iterate(time.monotonic())
        except Exception:  # a defect fails its queue, not the engine
            done, fed = queue.fail(), []
            log_defect(f"the engine failed on {queue.model.name}", done)
        return done, [sequence.listener for sequence in fed if sequence.listener is not None] if fed else []

    def _divide(self, done: list[Sequence]) -> tuple[list[Sequence], list[Sequence]]:
        """The sequences that can be delivered now, and those that the saver takes first."""
        saving = []
        for sequence in done:
            if sequence.save is not None and sequence.error is None:
                saving.append(sequence)
        if not saving or self._commit is None:
            return done, []
        if self._saver is None:
            save(self._commit, saving)
            return done, []
        return [sequence for sequence in done if sequence.save is None or sequence.error is not None], saving

    def _save(self, sequences: list[Sequence]) -> None:
        assert self._saver is not None, "only a saver leaves some to be saved"
        self._saver.put(sequences)

    def _hand_back(self, done: list[Sequence], listeners: list[Listener]) -> None:
        done, saving = self._divide(done)
        self._pass_on(done, listeners)
        if saving:
            self._save(saving)

    def _pass_on(self, done: list[Sequence], listeners: list[Listener]) -> None:
        """Deliver on the event loop."""
        assert self._loop is not None
        if done or listeners:
            try:
                self._loop.call_soon_threadsafe(self._deliver, done, listeners)
            except RuntimeError:
                pass  # the event loop is closed, so nobody waits for these

    # The event loop

    def _deliver(self, done: list[Sequence], listeners: list[Listener]) -> None:
        for listener in listeners:
            listener()
        if len(done) > _MOST_DELIVERED and self._shares.several:
            done = self._first_delivered(done)
        self._num_pending -= len(done)
        for sequence in done:
            # Cut the reference cycle between request and sequence, which would keep their arrays alive.
            pending, sequence.request = sequence.request, None
            assert isinstance(pending, PendingRequest), "begin() sets the request"
            pending.num_pending -= 1
            if not pending.num_pending:
                self._finish(pending, None)
        if self._shares.several:
            self.on_delivery()
        if not self._num_pending:
            self._pending_seconds = 0.0  # removes rounding errors
            if self._idle is not None:
                self._idle.set()

    def _first_delivered(self, done: list[Sequence]) -> list[Sequence]:
        """The sequences of a few requests, first of parties that have few. The rest comes in the next iteration."""
        assert self._loop is not None
        num_of = Counter([sequence.party for sequence in done])
        done.sort(key=lambda sequence: num_of[sequence.party])
        requests = set()
        for index, sequence in enumerate(done):
            requests.add(sequence.request)
            if len(requests) > _MOST_DELIVERED:
                self._loop.call_soon(self._deliver, done[index:], [])
                return done[:index]
        return done

    def _finish(self, pending: PendingRequest, error: ElmanError | None) -> None:
        """Finish a request, unless it was finished before its sequences were done."""
        if pending in self._requests:
            self._requests.remove(pending)
            self._pending_seconds -= pending.seconds
            self._shares.remove(pending.party, len(pending.sequences), pending.seconds)
            pending.finish(error)

    def _watch(self) -> None:
        """Stop runs that nobody waits for or that take too long, and answer what waits too long for the store."""
        assert self._loop is not None
        self._watching = self._loop.call_later(_WATCH_SECONDS, self._watch)
        now = time.monotonic()
        for thread in self._threads:
            running = thread.running
            if running is not None:
                running[0].watch(now, self._run_timeout)
        if self._saver is not None:
            self._answer_unsaved(self._saver.overdue(now))

    def _answer_unsaved(self, sequences: list[Sequence]) -> None:
        """Answer requests of which the saver still holds something."""
        for sequence in sequences:
            pending = sequence.request
            if isinstance(pending, PendingRequest):
                detail = "the session store has not taken the step, and may still; with the same at, it happens once"
                self._finish(pending, OutcomeUnknown(detail))


# The threads: of the queues that are run in chunks, and of those that are run whole.
_THREADS = ("elman-engine", "elman-engine-whole")
_CHUNKED = (True, False)
