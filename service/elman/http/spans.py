"""What is recorded of a sampled request until it has ended: its place in a trace, and the times of its works."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import inf
from typing import Any

from elman.engine.pending import PendingRequest
from elman.engine.queue import Stats
from elman.engine.scheduler import Batch
from elman.engine.sequence import Sequence

# Most works of one request that are recorded. A beam search has one for each token.
_MAX_WORKS = 16


@dataclass(slots=True)
class WorkTimes:
    """What the engine did for one work of a request. Times are on the clock of `time.monotonic`.

    Attributes:
        queued: when its sequences were submitted.
        begun: when the first of them began to run; infinity before that.
        ended: when the last of them was done; 0 before that.
        saved: when the store had what they wrote; 0 if they wrote nothing.
        num_sequences, num_steps: those that are done.
        num_rows: most rows of a run that they were in.
    """

    queued: float
    begun: float = inf
    ended: float = 0.0
    saved: float = 0.0
    num_sequences: int = 0
    num_steps: int = 0
    num_rows: int = 0


class Sampled(bytes):
    """The id of a request that is sampled. It goes wherever the id of a request goes.

    Attributes:
        trace: the trace id of 16 bytes, as a number.
        context: the `opentelemetry.context.Context` with the caller's span, if it has one.
        works: by the time when they were submitted.
    """

    trace: int
    context: Any
    works: dict[float, WorkTimes]

    def work_of(self, sequence: Sequence) -> WorkTimes | None:
        """The work that a sequence belongs to; None if the request has too many."""
        work = self.works.get(sequence.queued_at)
        if work is None and len(self.works) < _MAX_WORKS:
            work = self.works[sequence.queued_at] = WorkTimes(sequence.queued_at)
        return work


class SampledStats(Stats):
    """Counts as `Stats` does, and records the works of sampled requests. The engine calls it."""

    def count_run(self, batch: Batch, seconds: float) -> None:
        super().count_run(batch, seconds)
        num_rows = sum(sequence.rows for sequence in batch.sequences)
        for sequence, work in _works(batch.sequences):
            work.begun = min(work.begun, sequence.begun_at)
            work.num_rows = max(work.num_rows, num_rows)

    def count_done(self, done: list[Sequence]) -> None:
        now = time.monotonic()
        super().count_done(done)
        for sequence, work in _works(done):
            work.ended = now
            work.num_sequences += 1
            work.num_steps += (sequence.served + sequence.cursor) * sequence.rows


def _works(sequences: Iterable[Sequence]) -> Iterator[tuple[Sequence, WorkTimes]]:
    """The sequences whose request is sampled, with their works."""
    for sequence in sequences:
        request = sequence.request
        request_id = request.request_id if isinstance(request, PendingRequest) else None
        if isinstance(request_id, Sampled) and (work := request_id.work_of(sequence)) is not None:
            yield sequence, work
