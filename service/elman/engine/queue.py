"""The queue of one model: its scheduler, its runner, and the feedback of its autoregressive sequences."""

import logging
import math
import time
from bisect import bisect_left
from dataclasses import dataclass, field

import numpy as np

from elman.engine.feedback import Feedback, Fewer
from elman.engine.histogram import BOUNDS, Histogram
from elman.engine.pending import log_defect
from elman.engine.runner import Runner
from elman.engine.scheduler import Batch, Policy, Scheduler
from elman.engine.sequence import Sequence
from elman.errors import DeadlineExceeded, Draining, ElmanError, Internal, ModelFailed, ModelSuspended, NotFiniteOutput
from elman.repository.model import Model
from elman.repository.network import Array
from elman.repository.runtime import RunStopped

# Seconds to make the next input of a sequence, or of a block, from its last output, without the run itself.
_FEED_SECONDS = 20e-6
# A run that takes no longer is made on the event loop: handing it to the engine thread would cost more.
_LIGHT_SECONDS = 500e-6
# A run may take this many times its calibrated cost before the time counts that the engine allows.
_SLOWER = 10.0
# So many sequences are queued together.
_MANY = 64
# Seconds for which a model is suspended after a run that took too long.
_SUSPENDED_SECONDS = 60.0
# Static inputs of more bytes take longer than those of the calibrated cost.
_LIGHT_STATIC_BYTES = 64 * 1024

_LOG = logging.getLogger("elman")


@dataclass
class Stats:
    """Counts and seconds of one model's queue since it was opened.

    Attributes:
        num_added: sequences that were submitted. The event loop counts them; the engine counts the rest.
        num_begun: sequences whose first run has begun, or that ended before it.
        queue_seconds: by sequence that ran and is done, from its submission to its first run.
        compute_seconds: by such a sequence, from its first run to its end. Others may have had turns between its runs.
        last_done_at: when a sequence was last done, in seconds since the epoch; 0 before.
        num_answers: answers of the Open Inference Protocol whose rows ran. The event loop counts and times them.
        reading_seconds: of their requests, from the first byte to the submission.
        waiting_seconds: from there to the first run of the first row.
        computing_seconds: from there until all rows are done.
        answering_seconds: to make these answers.
    """

    num_added: int = 0
    num_begun: int = 0
    num_runs: int = 0
    num_rows: int = 0
    num_steps: int = 0
    num_padded_steps: int = 0
    num_sequences: int = 0
    num_failed: int = 0
    last_done_at: float = 0.0
    run_seconds: float = 0.0
    num_answers: int = 0
    reading_seconds: float = 0.0
    waiting_seconds: float = 0.0
    computing_seconds: float = 0.0
    answering_seconds: float = 0.0
    queue_seconds: Histogram = field(default_factory=Histogram)
    compute_seconds: Histogram = field(default_factory=Histogram)

    def count_run(self, batch: Batch, seconds: float) -> None:
        of_each = batch.sequences[0].rows  # more than 1 for a block, which runs alone
        num_steps = sum(batch.counts)
        self.num_runs += 1
        self.num_rows += of_each * len(batch.counts)
        self.num_steps += of_each * num_steps
        self.num_padded_steps += len(batch.counts) * batch.chunk - num_steps
        self.run_seconds += seconds

    def count_done(self, done: list[Sequence]) -> None:
        now = time.monotonic()
        queue, compute = self.queue_seconds, self.compute_seconds
        for sequence in done:
            begun = sequence.begun_at
            if begun:
                # Not by `observe`: a call costs more than what it does.
                waited, computed = begun - sequence.queued_at, now - begun
                queue.counts[bisect_left(BOUNDS, waited)] += 1
                compute.counts[bisect_left(BOUNDS, computed)] += 1
                queue.seconds += waited
                compute.seconds += computed
            else:
                self.num_begun += 1
            if sequence.error is not None and not sequence.cancelled:
                self.num_failed += 1
        self.num_sequences += len(done)
        self.last_done_at = time.time()

    def count_answer(self, arrived: float, first: Sequence, done_at: float, answered_at: float) -> None:
        """Count an answer whose first row is given. Times are on the clock of `time.monotonic`."""
        begun_at = first.begun_at or done_at
        self.num_answers += 1
        self.reading_seconds += first.queued_at - arrived
        self.waiting_seconds += begun_at - first.queued_at
        self.computing_seconds += done_at - begun_at
        self.answering_seconds += answered_at - done_at


class ModelQueue:
    """The scheduler and the runner of one model. Only the engine uses them, from one thread at a time.

    `watch` and `check_open` are called on the event loop meanwhile.
    """

    def __init__(self, model: Model, policy: Policy, stats: Stats | None = None) -> None:
        self.model = model
        self.scheduler = Scheduler(policy)
        self.runner = Runner(model)
        self.stats = stats or Stats()
        self._unfinished: set[Sequence] = set()
        # The run under way, and when it began. Read on the event loop.
        self._running: tuple[Batch, float] | None = None
        # Why it runs nothing, and until when.
        self.suspended: tuple[str, float] | None = None
        cost = model.calibration
        self._sequence_seconds = cost.seconds(0)
        self._step_seconds = cost.seconds(1) - cost.seconds(0)
        # A step that takes a run of its own in a full batch.
        self._single_step_seconds = cost.seconds(1)

    def seconds(self, sequences: list[Sequence]) -> float:
        """The calibrated cost of some sequences."""
        seconds = 0.0
        for sequence in sequences:
            length, rows = len(sequence.inputs), sequence.rows
            seconds += rows * (self._sequence_seconds + length * self._step_seconds)
            singly = length if sequence.keep_trace else sequence.more
            if singly:
                seconds += singly * (rows * self._single_step_seconds + _FEED_SECONDS)
        return seconds

    def is_light(self, sequences: list[Sequence]) -> bool:
        """True if one run of at most half a millisecond finishes these sequences, with no others queued."""
        if self.model.network.open_ended:
            return False
        policy, rows = self.scheduler.policy, len(sequences)
        steps = max([len(sequence.inputs) for sequence in sequences])
        if rows > (policy.max_batch if policy.grouping == "ragged" else 1) or steps > policy.max_chunk:
            return False
        # The calibrated cost is that of one output per row.
        if any([s.returns == "steps" or s.feedback is not None or s.keep_trace for s in sequences]):
            return False
        if self.model.network.statics and sum([a.nbytes for s in sequences for a in s.statics]) > _LIGHT_STATIC_BYTES:
            return False
        return policy.cost.run_seconds(rows, steps) <= _LIGHT_SECONDS

    def add(self, sequences: list[Sequence]) -> None:
        """Queue sequences."""
        self._unfinished.update(sequences)
        if len(sequences) > _MANY:
            self.scheduler.add_many(sequences)
            return
        for sequence in sequences:
            self.scheduler.add(sequence)

    def iterate(self, now: float) -> tuple[list[Sequence], list[Sequence]]:
        """Advance one batch. Returns the sequences that are done, and those that were fed and queued again."""
        if self.suspended is not None and (suspension := self.suspension()) is not None:
            return self.fail(suspension), []
        batch = self.scheduler.schedule(now)
        if batch is not None:
            for sequence in batch.sequences:
                if not sequence.begun_at:
                    sequence.begun_at = now
                    self.stats.num_begun += 1
            self._run(batch)
        done = self.scheduler.update(batch)
        done, fed = self._feed(done)
        self.runner.release(done)
        self._unfinished.difference_update(done)
        self.stats.count_done(done)
        return done, fed

    def _feed(self, ended: list[Sequence]) -> tuple[list[Sequence], list[Sequence]]:
        """Give autoregressive sequences their next inputs, and queue them again."""
        autoregressive: dict[type[Feedback], list[Sequence]] = {}
        done = []
        for sequence in ended:
            if sequence.feedback is None or sequence.error is not None:
                done.append(sequence)
            else:
                autoregressive.setdefault(type(sequence.feedback), []).append(sequence)
        fed: list[Sequence] = []
        for group in autoregressive.values():
            for sequence, inputs in zip(group, self._next_inputs(group), strict=True):
                if inputs is None:
                    done.append(sequence)
                    continue
                if isinstance(inputs, Fewer):
                    inputs, rows = inputs
                    self.runner.keep(sequence, rows)
                if sequence.anew:
                    self.runner.release([sequence])
                sequence.go_on(inputs)
                self.scheduler.add(sequence)
                fed.append(sequence)
        return done, fed

    def _next_inputs(self, group: list[Sequence]) -> list[Array | Fewer | None]:
        """The next inputs of sequences with one class of feedback; None for those that are done or failed."""
        # A block is the only one of its group.
        last = [sequence.last_output for sequence in group if sequence.last_output is not None]
        outputs = np.concatenate(last).reshape(len(group), *last[0].shape)
        next_inputs: list[Array | Fewer | None] = [None] * len(group)
        rows = list(range(len(group)))
        if not outputs.max() < math.inf:  # also where it is NaN
            valid = ~(np.isnan(outputs) | np.isposinf(outputs)).any(axis=tuple(range(1, outputs.ndim)))
            for row in np.flatnonzero(~valid).tolist():
                step = group[row].served + group[row].cursor
                group[row].error = NotFiniteOutput(f"the output after step {step} is not finite")
            rows = np.flatnonzero(valid).tolist()
            outputs = outputs[rows]
        feedbacks = [feedback for row in rows if (feedback := group[row].feedback) is not None]
        if not rows:
            return next_inputs
        try:
            for row, inputs in zip(rows, feedbacks[0].feed(feedbacks, outputs), strict=True):
                if isinstance(inputs, ElmanError):
                    group[row].error = inputs
                else:
                    next_inputs[row] = inputs
        except Exception:  # a defect fails these sequences, not the queue
            log_defect(f"the feedback of {self.model.name} failed", group)
            for row in rows:
                group[row].error = Internal("the engine failed to make the next input from an output")
        return next_inputs

    def fail(self, error: ElmanError | None = None) -> list[Sequence]:
        """Fail all sequences of the queue, and return them. Without an error, after a defect."""
        failed, self._unfinished = list(self._unfinished), set()
        self.scheduler = Scheduler(self.scheduler.policy)
        for sequence in failed:
            sequence.error = sequence.error or error or Internal("the engine failed")
        self.runner.release(failed)
        self.stats.count_done(failed)
        return failed

    def _run(self, batch: Batch) -> None:
        started = time.perf_counter()
        self._running = batch, time.monotonic()
        try:
            self.runner.run(batch)
        except RunStopped:
            for sequence in batch.sequences:
                sequence.error = self._why_stopped(sequence)
        except Exception as error:  # a defect fails its batch, not the engine
            log_defect(f"a run of {self.model.name} failed", batch.sequences)
            for sequence in batch.sequences:
                sequence.error = sequence.error or Internal(f"the engine failed: {type(error).__name__}")
        self._running = None
        self.stats.count_run(batch, time.perf_counter() - started)

    def _why_stopped(self, sequence: Sequence) -> ElmanError:
        if sequence.deadline <= time.monotonic() or sequence.cancelled:
            return DeadlineExceeded("the deadline passed while the model ran")
        if self.suspended is None:  # the engine closes
            return Draining("the server stopped before this request was done", retry_after=1)
        return ModelFailed("the run took too long and was stopped")

    # A run that takes too long

    def longest_run(self, seconds: float) -> float:
        """Seconds that the run under way may take: `seconds`, beyond ten times its calibrated cost."""
        running = self._running
        if running is None:
            return seconds
        batch, _ = running
        rows = sum(sequence.rows for sequence in batch.sequences)
        return seconds + _SLOWER * self.scheduler.policy.cost.run_seconds(rows, batch.chunk)

    def watch(self, now: float, seconds: float) -> None:
        """Stop the run under way if nobody waits for it, or if it takes more than `longest_run(seconds)`.

        A model whose run took too long is suspended for a while, so that other models go on.
        """
        stop = self.runner.stopper()  # before the look at the run: it must not stop the one after it
        running = self._running
        if running is None:
            return
        batch, since = running
        if now - since > self.longest_run(seconds):
            if self.suspended is None:
                reason = f"a run took more than {now - since:.1f} s and was stopped"
                self.suspended = reason, now + _SUSPENDED_SECONDS
                _LOG.error("%s is suspended for %g s: %s", self.model.name, _SUSPENDED_SECONDS, reason)
            stop()
        elif all(sequence.cancelled or sequence.deadline <= now for sequence in batch.sequences):
            stop()

    def suspension(self) -> ModelSuspended | None:
        """Why the model runs nothing at present; None if it does."""
        suspended = self.suspended
        if suspended is None:
            return None
        reason, until = suspended
        left = until - time.monotonic()
        if left <= 0:
            self.suspended = None
            return None
        return ModelSuspended(f"the model is suspended: {reason}", retry_after=math.ceil(left))

    def check_open(self) -> None:
        """Raise ModelSuspended if the model runs nothing at present."""
        suspension = self.suspension()
        if suspension is not None:
            raise suspension
