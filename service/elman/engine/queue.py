"""One model's queue: its scheduler, its runner, and what feeds its sequences on."""

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

# Seconds to make the next input of one row from its last output, beside its run.
_FEED_SECONDS = 20e-6
# A run that is predicted to take no longer is not worth handing to another thread and back.
_LIGHT_SECONDS = 500e-6

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
