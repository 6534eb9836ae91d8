"""The queue of one model: its scheduler, its runner, and the feedback of its autoregressive sequences."""

import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from elman.engine.feedback import Feedback
from elman.engine.runner import Runner
from elman.engine.scheduler import Batch, Policy, Scheduler
from elman.engine.sequence import Sequence
from elman.errors import Internal, NotFiniteOutput
from elman.repository.model import Model
from elman.repository.network import Array

# Seconds to make the next input of a sequence, or of a block, from its last output, without the run itself.
_FEED_SECONDS = 20e-6
# A run that takes no longer is made on the event loop: handing it to the engine thread would cost more.
_LIGHT_SECONDS = 500e-6
# Static inputs of more bytes take longer than those of the calibrated cost.
_LIGHT_STATIC_BYTES = 64 * 1024

_LOG = logging.getLogger("elman")


@dataclass
class Stats:
    """Counts and seconds of one model's queue since it was opened."""

    num_runs: int = 0
    num_rows: int = 0
    num_steps: int = 0
    num_padded_steps: int = 0
    num_sequences: int = 0
    num_failed: int = 0
    run_seconds: float = 0.0

    def count_run(self, batch: Batch, seconds: float) -> None:
        of_each = batch.sequences[0].rows  # more than 1 for a block, which runs alone
        num_steps = sum(batch.counts)
        self.num_runs += 1
        self.num_rows += of_each * len(batch.counts)
        self.num_steps += of_each * num_steps
        self.num_padded_steps += len(batch.counts) * batch.chunk - num_steps
        self.run_seconds += seconds

    def count_done(self, done: Iterable[Sequence]) -> None:
        for sequence in done:
            self.num_sequences += 1
            self.num_failed += sequence.error is not None and not sequence.cancelled


class ModelQueue:
    """The scheduler and the runner of one model. Only the engine uses them, from one thread at a time."""

    def __init__(self, model: Model, policy: Policy) -> None:
        self.model = model
        self.scheduler = Scheduler(policy)
        self.runner = Runner(model)
        self.stats = Stats()
        self._unfinished: set[Sequence] = set()
        cost = model.calibration
        self._sequence_seconds = cost.seconds(0)
        self._step_seconds = cost.seconds(1) - cost.seconds(0)
        # A step that takes a run of its own in a full batch.
        self._single_step_seconds = cost.seconds(1)

    def seconds(self, sequences: list[Sequence]) -> float:
        """The calibrated cost of some sequences."""
        rows = steps = single_steps = feeds = 0
        for sequence in sequences:
            length = len(sequence.inputs)
            singly = length if sequence.keep_trace else sequence.more
            rows += sequence.rows
            steps += length * sequence.rows
            single_steps += singly * sequence.rows
            feeds += singly
        by_step = steps * self._step_seconds + single_steps * self._single_step_seconds + feeds * _FEED_SECONDS
        return by_step + rows * self._sequence_seconds

    def is_light(self, sequences: list[Sequence]) -> bool:
        """True if one run of at most half a millisecond finishes these sequences, with no others queued."""
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
        for sequence in sequences:
            self.scheduler.add(sequence)

    def iterate(self, now: float) -> tuple[list[Sequence], list[Sequence]]:
        """Advance one batch. Returns the sequences that are done, and those that were fed and queued again."""
        batch = self.scheduler.schedule(now)
        if batch is not None:
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
                if sequence.anew:
                    self.runner.release([sequence])
                sequence.go_on(inputs)
                self.scheduler.add(sequence)
                fed.append(sequence)
        return done, fed

    def _next_inputs(self, group: list[Sequence]) -> list[Array | None]:
        """The next inputs of sequences with one class of feedback; None for those that are done or failed."""
        # A block is the only one of its group.
        outputs = np.stack([sequence.last_output for sequence in group if sequence.last_output is not None])
        valid = ~(np.isnan(outputs) | np.isposinf(outputs)).any(axis=tuple(range(1, outputs.ndim)))
        next_inputs: list[Array | None] = [None] * len(group)
        for row in np.flatnonzero(~valid).tolist():
            step = group[row].served + group[row].cursor
            group[row].error = NotFiniteOutput(f"the output after step {step} is not finite")
        rows = np.flatnonzero(valid).tolist()
        feedbacks = [feedback for row in rows if (feedback := group[row].feedback) is not None]
        if not rows:
            return next_inputs
        try:
            for row, inputs in zip(rows, feedbacks[0].feed(feedbacks, outputs[rows]), strict=True):
                next_inputs[row] = inputs
        except Exception:  # a defect fails these sequences, not the queue
            _LOG.exception("the feedback of %s failed", self.model.name)
            for row in rows:
                group[row].error = Internal("the engine failed to make the next input from an output")
        return next_inputs

    def fail(self) -> list[Sequence]:
        """After a defect: fail all sequences of the queue, and return them."""
        failed, self._unfinished = list(self._unfinished), set()
        self.scheduler = Scheduler(self.scheduler.policy)
        for sequence in failed:
            sequence.error = sequence.error or Internal("the engine failed")
        self.runner.release(failed)
        return failed

    def _run(self, batch: Batch) -> None:
        started = time.perf_counter()
        try:
            self.runner.run(batch)
        except Exception as error:  # a defect fails its batch, not the engine
            _LOG.exception("a run of %s failed", self.model.name)
            for sequence in batch.sequences:
                sequence.error = sequence.error or Internal(f"the engine failed: {type(error).__name__}")
        self.stats.count_run(batch, time.perf_counter() - started)
