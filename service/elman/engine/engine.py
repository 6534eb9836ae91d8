"""The engine thread: schedule, run, update, hand back.

One thread runs every model's batches in turn; parallelism is over rows, and over processes. While it has nothing to do,
what is done in next to no time is run on the event loop in its place.
"""

import asyncio
import contextlib
import logging
import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from queue import SimpleQueue

import numpy as np

from elman.engine.feedback import Feedback
from elman.engine.runner import Runner
from elman.engine.scheduler import Batch, Policy, Scheduler
from elman.engine.sequence import Sequence
from elman.errors import Draining, ElmanError, Internal, NotFiniteOutput, Overloaded
from elman.repository.model import Model
from elman.repository.network import Array

Commit = Callable[[list[Sequence]], None]
"""Writes what sequences are to save, in the engine's iteration, and sets the error of those that it cannot."""

Listener = Callable[[], None]

Finish = Callable[[ElmanError | None], None]
"""Called on the event loop when the sequences of a request are done, or with the error that kept them from it."""

# How much nicer than the event loop the engine's thread is to others (Linux keeps that for each thread).
_NICER = 10

# What feeding one row takes, beside its run.
_FEED_SECONDS = 20e-6

# Requests that are passed on without looking for more.
_TOGETHER = 64

# A run that is predicted to take no longer, of so few requests, is not worth handing to another thread and back.
_LIGHT_SECONDS = 500e-6
_FEW = 8

_LOG = logging.getLogger("elman")


@dataclass
class Stats:
    """What one model's queue has done since it was opened. Counts and seconds."""

    num_runs: int = 0
    num_rows: int = 0
    num_steps: int = 0
    num_padded_steps: int = 0
    num_sequences: int = 0
    num_failed: int = 0
    run_seconds: float = 0.0

    def count_run(self, batch: Batch, seconds: float) -> None:
        useful = sum(batch.counts)
        self.num_runs += 1
        self.num_rows += len(batch.counts)
        self.num_steps += useful
        self.num_padded_steps += len(batch.counts) * batch.chunk - useful
        self.run_seconds += seconds

    def count_done(self, done: Iterable[Sequence]) -> None:
        for sequence in done:
            self.num_sequences += 1
            self.num_failed += sequence.error is not None and not sequence.cancelled


@dataclass(eq=False, slots=True)
class PendingRequest:
    """The sequences of one request, and what is called after the last of them."""

    sequences: list[Sequence]
    finish: Finish
    num_pending: int = field(init=False)
    seconds: float = field(init=False)

    def cancel(self) -> None:
        """Give up what has not run yet; nobody is told."""
        for sequence in self.sequences:
            sequence.cancelled = True


@dataclass(eq=False, slots=True)
class AwaitedRequest(PendingRequest):
    """A ticket whose sequences a task waits for."""

    future: asyncio.Future[list[Sequence]]


class ModelQueue:
    """One model's scheduler and runner. Once it is open only the engine touches them, one thread at a time."""

    def __init__(self, model: Model, policy: Policy) -> None:
        self.model = model
        self.scheduler = Scheduler(policy)
        self.runner = Runner(model)
        self.stats = Stats()
        self._live: set[Sequence] = set()
        cost = model.calibration
        self._sequence_seconds = cost.seconds(0)
        self._step_seconds = cost.seconds(1) - cost.seconds(0)
        # A step that is a run of its own, in a full batch, and what it is fed with.
        self._single_seconds = cost.seconds(1) + _FEED_SECONDS

    def seconds(self, sequences: list[Sequence]) -> float:
        """What some sequences cost, by the calibration of the model."""
        steps = singly = 0
        for one in sequences:
            length = len(one.inputs)
            steps += length
            singly += length if one.keep_trace else one.more
        return steps * self._step_seconds + singly * self._single_seconds + len(sequences) * self._sequence_seconds

    def is_light(self, sequences: list[Sequence]) -> bool:
        """Whether some sequences, where there are no others, are done by one run that takes next to no time."""
        policy, rows = self.scheduler.policy, len(sequences)
        steps = max([len(one.inputs) for one in sequences])
        if rows > (policy.max_batch if policy.grouping == "ragged" else 1) or steps > policy.max_chunk:
            return False
        # Calibration counts one output of each row.
        if any([one.returns == "steps" or one.feedback is not None or one.keep_trace for one in sequences]):
            return False
        return policy.cost.run_seconds(rows, steps) <= _LIGHT_SECONDS

    def add(self, sequences: list[Sequence]) -> None:
        """Queue sequences."""
        self._live.update(sequences)
        for sequence in sequences:
            self.scheduler.add(sequence)

    def iterate(self, now: float) -> tuple[list[Sequence], list[Sequence]]:
        """One iteration: advance one batch, and return the sequences that are done and those that were fed on."""
        batch = self.scheduler.schedule(now)
        if batch is not None:
            self._run(batch)
        done = self.scheduler.update(batch)
        done, fed = self._feed(done)
        self.runner.release(done)
        self._live.difference_update(done)
        self.stats.count_done(done)
        return done, fed

    def _feed(self, ended: list[Sequence]) -> tuple[list[Sequence], list[Sequence]]:
        """Give those that feed on themselves their next inputs, and queue them again."""
        hungry: dict[type[Feedback], list[Sequence]] = {}
        done = []
        for sequence in ended:
            if sequence.feedback is None or sequence.error is not None:
                done.append(sequence)
            else:
                hungry.setdefault(type(sequence.feedback), []).append(sequence)
        fed: list[Sequence] = []
        for group in hungry.values():
            for sequence, inputs in zip(group, self._next_inputs(group), strict=True):
                if inputs is None:
                    done.append(sequence)
                    continue
                sequence.go_on(inputs)
                self.scheduler.add(sequence)
                fed.append(sequence)
        return done, fed

    def _next_inputs(self, group: list[Sequence]) -> list[Array | None]:
        """What each of some sequences of one kind reads next; None for those that are done, their error set or not."""
        outputs = np.stack([one.last_output for one in group if one.last_output is not None])
        sane = ~(np.isnan(outputs) | np.isposinf(outputs)).any(axis=1)
        found: list[Array | None] = [None] * len(group)
        for sequence in (one for one, fine in zip(group, sane, strict=True) if not fine):
            sequence.error = NotFiniteOutput(f"the output after step {sequence.served + sequence.cursor} is not finite")
        rows = np.flatnonzero(sane).tolist()
        feedbacks = [feedback for row in rows if (feedback := group[row].feedback) is not None]
        if not rows:
            return found
        try:
            for row, inputs in zip(rows, feedbacks[0].feed(feedbacks, outputs[rows]), strict=True):
                found[row] = inputs
        except Exception:  # a defect must fail those it feeds and not the queue
            _LOG.exception("feeding %s on failed", self.model.name)
            for row in rows:
                group[row].error = Internal("the engine failed to go on from an output")
        return found

    def fail(self) -> list[Sequence]:
        """After a defect: every sequence of the queue, failed."""
        failed, self._live = list(self._live), set()
        self.scheduler = Scheduler(self.scheduler.policy)
        for sequence in failed:
            sequence.error = sequence.error or Internal("the engine failed")
        self.runner.release(failed)
        return failed

    def _run(self, batch: Batch) -> None:
        started = time.perf_counter()
        try:
            self.runner.run(batch)
        except Exception as error:  # a defect must fail its batch and not the engine
            _LOG.exception("a run of %s failed", self.model.name)
            for sequence in batch.sequences:
                sequence.error = sequence.error or Internal(f"the engine failed: {type(error).__name__}")
        self.stats.count_run(batch, time.perf_counter() - started)


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
        self._tickets: set[PendingRequest] = set()
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
        """As `begin`, for a task that waits: the ticket has a future of the sequences."""
        assert self._loop is not None, "the engine was not started"
        future: asyncio.Future[list[Sequence]] = self._loop.create_future()
        ticket = AwaitedRequest(sequences, partial(_set, future, sequences), future)
        self._admit(queue, ticket)
        return ticket

    def begin(self, queue: ModelQueue, sequences: list[Sequence], finish: Finish) -> PendingRequest:
        """Queue the sequences of one request, each of at least one step. Called on the event loop.

        Args:
            finish: called once, on a later turn of the loop; it is not to raise.

        Raises Overloaded where the queue has no room for all of them, and Draining once the engine stops.
        """
        ticket = PendingRequest(sequences, finish)
        self._admit(queue, ticket)
        return ticket

    def _admit(self, queue: ModelQueue, ticket: PendingRequest) -> None:
        if self._draining:
            raise Draining("the server is stopping and takes no new work", retry_after=1)
        assert self._loop is not None, "the engine was not started"
        sequences = ticket.sequences
        ticket.num_pending = len(sequences)
        ticket.seconds = seconds = queue.seconds(sequences)
        self._check_room(len(sequences), seconds)
        self._num_pending += len(sequences)
        self._pending_seconds += seconds
        self._tickets.add(ticket)
        for place, sequence in enumerate(sequences):
            sequence.place = place
            sequence.ticket = ticket
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
        tickets, self._tickets = self._tickets, set()
        for ticket in tickets:
            ticket.finish(error)

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
            ticket, sequence.ticket = sequence.ticket, None
            assert isinstance(ticket, PendingRequest), "what is done was submitted"
            ticket.num_pending -= 1
            if ticket.num_pending or ticket not in self._tickets:  # or closed meanwhile
                continue
            self._tickets.remove(ticket)
            self._pending_seconds -= ticket.seconds
            ticket.finish(None)
        if not self._num_pending:
            self._pending_seconds = 0.0  # and with it whatever rounding left
            if self._idle is not None:
                self._idle.set()


def _set(future: asyncio.Future[list[Sequence]], sequences: list[Sequence], error: ElmanError | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(sequences)
    else:
        future.set_exception(error)


def _yield_to_the_event_loop() -> None:
    """Where both want one core, the event loop goes first: it is soon done, and what it hands over runs together."""
    with contextlib.suppress(OSError, AttributeError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), os.getpriority(os.PRIO_PROCESS, 0) + _NICER)


def first_error(sequences: list[Sequence]) -> tuple[int, ElmanError] | None:
    """The first sequence that has no answer, and why."""
    return next(((i, s.error) for i, s in enumerate(sequences) if s.error is not None), None)
