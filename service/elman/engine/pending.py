"""The sequences of one request, on their way through the engine."""

import asyncio
import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING

from elman.engine.sequence import Sequence
from elman.errors import ElmanError

if TYPE_CHECKING:
    from elman.engine.queue import ModelQueue

# Most request ids in one line of the log.
_MOST_IDS = 32

_LOG = logging.getLogger("elman")


class PendingRequest:
    """The sequences of one request.

    Attributes:
        queue: the queue of the model that runs them.
        sequences: each of at least one step.
        num_pending: how many of them are not done. The engine counts.
        seconds: their calibrated cost. The engine sets it.
        party: whose share of the engine they take: a caller with an API key, or without keys an address.
    """

    __slots__ = ("num_pending", "party", "queue", "seconds", "sequences")

    def __init__(self, queue: "ModelQueue", sequences: list[Sequence]) -> None:
        self.queue = queue
        self.sequences = sequences
        self.num_pending = 0
        self.seconds = 0.0
        self.party = b""

    @property
    def request_id(self) -> bytes:
        """The id of the HTTP request, for the log; empty if there is none."""
        return b""

    def finish(self, error: ElmanError | None) -> None:
        """Called once on the event loop. With `error` None all sequences are done. Must not raise."""
        raise NotImplementedError

    def cancel(self) -> None:
        """Cancel the sequences: they do not run again."""
        for sequence in self.sequences:
            sequence.cancelled = True


class AwaitedRequest(PendingRequest):
    """A request with a future that a task awaits."""

    __slots__ = ("future",)

    def __init__(self, queue: "ModelQueue", sequences: list[Sequence], future: asyncio.Future[list[Sequence]]) -> None:
        super().__init__(queue, sequences)
        self.future = future

    def finish(self, error: ElmanError | None) -> None:
        if self.future.done():
            return
        if error is None:
            self.future.set_result(self.sequences)
        else:
            self.future.set_exception(error)


def log_defect(what: str, sequences: Iterable[Sequence]) -> None:
    """Log the exception under way, with the ids of the requests whose sequences failed."""
    requests = (one.request for one in sequences)
    found = dict.fromkeys(one.request_id.decode() for one in requests if isinstance(one, PendingRequest))
    ids = [one for one in found if one][:_MOST_IDS]
    _LOG.exception("%s; requests: %s", what, ", ".join(ids) or "none", extra={"fields": {"request_ids": ids}})
