"""What is recorded of a sampled request until it has ended: its place in a trace, and the times of its works."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from copy import copy
from dataclasses import dataclass
from math import inf
from typing import Any, NamedTuple

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
        num_sequences: those that are done.
        num_steps: those that have run, of all rows.
        num_rows: most rows of a run that they were in.
    """

    queued: float
    begun: float = inf
    ended: float = 0.0
    saved: float = 0.0
    num_sequences: int = 0
    num_steps: int = 0
    num_rows: int = 0


class Message(NamedTuple):
    """How a message that is no HTTP request was answered: a call over gRPC, or a frame of a WebSocket.

    Attributes:
        name: of its span.
        protocol: the attributes that its protocol gives the span.
        status: that of the answer by HTTP; 0 if the client was gone.
        code: of the error that it was answered with; empty if it was none.
        model: name and version of the model that answered.
        key: the name of the caller's key.
    """

    name: str
    protocol: Mapping[str, str | int]
    status: int
    code: str
    model: tuple[str, int] | None
    key: str

    def attributes(self) -> dict[str, str | int]:
        """Those of its span."""
        return {**self.protocol, **own_attributes(self.status, self.code, self.model, self.key)}

    @property
    def failed(self) -> bool:
        """Whether it failed by the server, or its client was gone."""
        return has_failed(self.status)


def has_failed(status: int) -> bool:
    """Whether a request with this status failed by the server, or its client was gone."""
    return status >= 500 or not status


def own_attributes(status: int, code: str, model: tuple[str, int] | None, key: str) -> dict[str, str | int]:
    """What spans of every protocol say of a request."""
    name, version = model or (None, None)
    found: dict[str, str | int | None] = {
        "error.type": code if has_failed(status) else None,
        "elman.code": code or None,
        "elman.key": key or None,
        "elman.model": name,
        "elman.model_version": version,
    }
    return {name: value for name, value in found.items() if value is not None}


class Sampled(bytes):
    """The id of a request that is sampled. It goes wherever the id of a request goes.

    Attributes:
        trace: the trace id of 16 bytes, as a number.
        context: the `opentelemetry.context.Context` with the caller's span, if it has one.
        works: by the time when they were submitted.
        ended: makes the spans of a message with this id, from when it arrived.
    """

    trace: int
    context: Any
    works: dict[float, WorkTimes]
    ended: "Callable[[Sampled, Message, float], None]"

    def work_of(self, sequence: Sequence) -> WorkTimes | None:
        """The work that a sequence belongs to; None if the request has too many."""
        work = self.works.get(sequence.queued_at)
        if work is None and len(self.works) < _MAX_WORKS:
            work = self.works[sequence.queued_at] = WorkTimes(sequence.queued_at)
        return work


def renewed(request_id: bytes) -> bytes:
    """The id of one more message of a stream: that of the stream, with works of its own if it is sampled."""
    if not isinstance(request_id, Sampled):
        return request_id
    another = copy(request_id)
    another.works = {}
    return another


class SampledStats(Stats):
    """Counts as `Stats` does, and records the works of sampled requests. The engine calls it."""

    def count_run(self, batch: Batch, seconds: float) -> None:
        super().count_run(batch, seconds)
        num_rows = sum(sequence.rows for sequence in batch.sequences)
        for row, sequence, work in _works(batch.sequences):
            work.begun = min(work.begun, sequence.begun_at)
            work.num_rows = max(work.num_rows, num_rows)
            work.num_steps += batch.counts[row] * sequence.rows

    def count_done(self, done: list[Sequence]) -> None:
        now = time.monotonic()
        super().count_done(done)
        for _, _, work in _works(done):
            work.ended = now
            work.num_sequences += 1


def _works(sequences: Iterable[Sequence]) -> Iterator[tuple[int, Sequence, WorkTimes]]:
    """The sequences whose request is sampled, with their places and their works."""
    for place, sequence in enumerate(sequences):
        request = sequence.request
        request_id = request.request_id if isinstance(request, PendingRequest) else None
        if isinstance(request_id, Sampled) and (work := request_id.work_of(sequence)) is not None:
            yield place, sequence, work
