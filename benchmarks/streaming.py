"""Load by clients that read server-sent events: time to the first token, and gaps between tokens."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from benchmarks.load import Connection, Generator, Plan, Report, quantile

_TOKEN = b'"token":'
_FAILED = b"event: error"
# The last chunk, after the line that ends the one before.
_END = b"\n0\r\n\r\n"


@dataclass
class StreamReport(Report):
    """Seconds to the first token, of streams that began in the measured time, and gaps between tokens of a stream.

    Tokens that arrive together count as one arrival. Latencies are those of whole streams.
    """

    num_tokens: int = 0
    first_p50: float = 0.0
    first_p99: float = 0.0
    gap_p50: float = 0.0
    gap_p99: float = 0.0
    gap_most: float = 0.0


class StreamPlan(Plan):
    """Requests whose answers are events, one per token."""

    report: ClassVar[type[Report]] = StreamReport

    def generator(self) -> Generator:
        return Streams(self)


class StreamConnection(Connection):
    """Reads the events of one answer at a time."""

    heard: "Callable[[StreamConnection, int], None]"
    """Told of tokens."""
    last = 0.0
    """When the last token came; 0 before the first."""
    _status = 0
    _failed = False
    _rest = _tail = b""

    def send(self, index: int, content: bytes, due: float) -> None:
        self.last, self._status, self._failed, self._rest, self._tail = 0.0, 0, False, b"", b""
        super().send(index, content, due)

    def data_received(self, data: bytes) -> None:
        self._status = self._status or int(data[9:12])
        if self._status != 200:
            super().data_received(data)  # an error is a plain answer
            return
        data = self._rest + data
        end = data.rfind(b"\n") + 1
        lines, self._rest = data[:end], data[end:]
        num_tokens = lines.count(_TOKEN)
        if num_tokens:
            self.heard(self, num_tokens)
        self._tail = (self._tail + lines)[-len(_END) :]
        if _FAILED in lines:
            self._failed = True
        if self._tail == _END:
            self.answered(self, 500 if self._failed else 200)


class Streams(Generator):
    """Runs a plan of streams."""

    report: StreamReport
    connection = StreamConnection

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self._firsts: list[float] = []
        self._gaps: list[float] = []

    async def _connect(self) -> Connection:
        connection = await super()._connect()
        assert isinstance(connection, StreamConnection)
        connection.heard = self._heard
        return connection

    def _heard(self, connection: StreamConnection, num_tokens: int) -> None:
        now = time.perf_counter()
        before, connection.last = connection.last, now
        if not self._measuring:
            return
        self.report.num_tokens += num_tokens
        if before:
            self._gaps.append(now - before)
        elif connection.due >= self._opened:
            self._firsts.append(now - connection.due)

    def _summary(self) -> Report:
        report, firsts, gaps = self.report, sorted(self._firsts), sorted(self._gaps)
        if firsts:
            report.first_p50, report.first_p99 = quantile(firsts, 0.5), quantile(firsts, 0.99)
        if gaps:
            report.gap_p50, report.gap_p99, report.gap_most = quantile(gaps, 0.5), quantile(gaps, 0.99), gaps[-1]
        return super()._summary()
