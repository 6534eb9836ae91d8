"""The load generator: keep-alive HTTP/1.1 over bare asyncio protocols, in a process of its own.

It reads a pickled `Plan` from a file and prints a `Report` as JSON. Requests are bytes made beforehand, and it reads
only the status and the length of an answer. So it needs a fraction of a server's processor time.
"""

import asyncio
import gc
import json
import os
import pickle
import random
import re
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import ClassVar

from benchmarks.processes import cpu_seconds

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding: *chunked", re.IGNORECASE)
# The event loop's timers are accurate to a millisecond only. Arrivals closer than this are waited for without sleeping.
_SPIN = 0.0015
# Most connections of an open loop. Further arrivals queue in the generator, and this wait is part of their latency.
_MAX_CONNECTIONS = 1024
# Seconds to wait at the end for outstanding answers.
_GRACE = 20.0
# The measured time is at most this many times as long as was asked for, while fewer requests than `least` are answered.
_LONGER = 10


@dataclass
class Report:
    """The results of the measured time. Latencies are in seconds, from the moment a request was due.

    `num_done` and `num_steps` count requests answered with 200, `num_lost` requests that were never answered.
    `latencies` has them all, if the plan says so.
    """

    num_done: int = 0
    num_steps: int = 0
    num_lost: int = 0
    statuses: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    server_cpu: float = 0.0
    generator_cpu: float = 0.0
    p50: float = 0.0
    p90: float = 0.0
    p99: float = 0.0
    mean: float = 0.0
    latencies: list[float] = field(default_factory=list)


@dataclass
class Plan:
    """What to send, and for how long.

    Attributes:
        requests: whole HTTP requests.
        sizes: the number of steps of each request.
        connections: of a closed loop, in which each sends the next request as soon as it is answered.
        rate: of an open loop, arrivals per second; 0 for a closed loop.
        seconds: the measured time, after `warmup` seconds.
        least: requests to be answered in the measured time, which becomes up to ten times as long for them.
        keep: whether the report has every latency.
        limit: most requests; 0 for no limit.
        pids: the server's processes. Their processor time is read at the start and the end of the measured time.
        core: the core to run on.
    """

    port: int
    requests: list[bytes]
    sizes: list[int]
    connections: int = 1
    rate: float = 0.0
    seconds: float = 1.0
    warmup: float = 0.3
    least: int = 0
    keep: bool = False
    limit: int = 0
    pids: list[int] = field(default_factory=list)
    core: int | None = None
    seed: int = 0

    report: ClassVar[type[Report]] = Report

    def generator(self) -> "Generator":
        """The generator that runs this plan."""
        return Generator(self)


def request(path: str, body: bytes, content_type: str, accept: str | None = None, headers: Iterable[str] = ()) -> bytes:
    """One whole request."""
    head = [f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Type: {content_type}", *headers]
    head += [f"Accept: {accept}"] if accept else []
    head += [f"Content-Length: {len(body)}"]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


class Connection(asyncio.Protocol):
    """One connection, with at most one request outstanding."""

    def __init__(self, answered: "Callable[[Connection, int], None]", lost: "Callable[[Connection], None]") -> None:
        self.answered = answered
        self.lost = lost
        self.index = -1  # of the request that is outstanding
        self.due = 0.0
        self._buffer = b""
        self._missing = 0  # bytes of the body still to come
        self._status = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]

    def send(self, index: int, content: bytes, due: float) -> None:
        self.index, self.due = index, due
        self.transport.write(content)

    def data_received(self, data: bytes) -> None:
        if self._missing:
            self._missing -= len(data)
            if self._missing <= 0:
                self._finish()
            return
        if self._buffer:
            data = self._buffer + data
        end = data.find(b"\r\n\r\n")
        if end < 0:
            self._buffer = data
            return
        self._status = int(data[9:12])
        found = _LENGTH.search(data, 0, end + 2)
        if found is None and _CHUNKED.search(data, 0, end + 2):
            self._buffer = data
            if data.endswith(b"\r\n0\r\n\r\n"):
                self._finish()
            return
        self._buffer = b""
        self._missing = end + 4 + (int(found.group(1)) if found else 0) - len(data)
        if self._missing <= 0:
            self._finish()

    def _finish(self) -> None:
        self._buffer, self._missing = b"", 0
        self.answered(self, self._status)

    def connection_lost(self, error: Exception | None) -> None:
        self.lost(self)


class Generator:
    """Runs one plan."""

    connection: ClassVar[type[Connection]] = Connection

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.report = plan.report()
        self._latencies: list[float] = []
        self._next = random.Random(plan.seed).randrange(len(plan.requests))
        self._sent = 0
        self._outstanding = 0
        self._idle: list[Connection] = []
        self._connections: list[Connection] = []
        self._waiting: deque[float] = deque()
        self._started = self._opened = 0.0
        self._measuring = self._stopping = False
        self._done = asyncio.Event()

    async def run(self) -> Report:
        plan, loop = self.plan, asyncio.get_running_loop()
        for _ in range(plan.connections):
            self._idle.append(await self._connect())
        gc.disable()
        if plan.limit:
            self._open()
        else:
            loop.call_later(plan.warmup, self._open)
        if plan.rate:
            arrivals = loop.create_task(self._arrive())
        else:
            while self._idle and self._may_send():
                self._send(self._idle.pop(), time.perf_counter())
        if not plan.limit:
            await asyncio.sleep(plan.warmup + plan.seconds)
            last = self._opened + _LONGER * plan.seconds
            while len(self._latencies) < plan.least and time.perf_counter() < last:
                await asyncio.sleep(plan.seconds / 10)
            self._close()
        try:
            await asyncio.wait_for(self._done.wait(), _GRACE + (plan.seconds if plan.limit else 0.0))
        except TimeoutError:
            self.report.num_lost += self._outstanding
        if plan.limit:
            self._close()
        if plan.rate:
            arrivals.cancel()
        gc.enable()
        await self._hang_up()
        return self._summary()

    async def _hang_up(self) -> None:
        for connection in self._connections:
            connection.lost = _as_agreed
            connection.transport.close()
        await asyncio.sleep(0)  # the connections close in the next turn of the loop

    async def _connect(self) -> Connection:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(
            lambda: self.connection(self._answered, self._lost), "127.0.0.1", self.plan.port
        )
        self._connections.append(connection)
        return connection

    def _open(self) -> None:
        """Begin the measured time."""
        self._opened = time.perf_counter()
        self._measuring = True
        self.report.server_cpu = -cpu_seconds(self.plan.pids)
        self.report.generator_cpu = -time.process_time()

    def _close(self) -> None:
        """End the measured time."""
        self.report.seconds = time.perf_counter() - self._opened
        self.report.server_cpu += cpu_seconds(self.plan.pids)
        self.report.generator_cpu += time.process_time()
        self._stopping, self._measuring = True, False
        if not self._outstanding:
            self._done.set()

    def _may_send(self) -> bool:
        return not self._stopping and (not self.plan.limit or self._sent < self.plan.limit)

    def _send(self, connection: Connection, due: float) -> None:
        index = self._next
        self._next = (index + 1) % len(self.plan.requests)
        self._sent += 1
        self._outstanding += 1
        connection.send(index, self.content(connection, index), due)

    def content(self, connection: Connection, index: int) -> bytes:
        """The whole request of number `index`, for that connection."""
        return self.plan.requests[index]

    def _answered(self, connection: Connection, status: int) -> None:
        now = time.perf_counter()
        self._outstanding -= 1
        # In an open loop a request counts if it was due in the measured time, however late its answer is.
        if self._measuring or (self.plan.rate and self._opened and self._opened <= connection.due):
            report = self.report
            report.statuses[str(status)] = report.statuses.get(str(status), 0) + 1
            self._latencies.append(now - connection.due)
            if self._measuring and status == 200:
                report.num_done += 1
                report.num_steps += self.plan.sizes[connection.index]
        connection.index = -1
        if self._waiting:
            self._send(connection, self._waiting.popleft())
        elif self.plan.rate or not self._may_send():
            self._idle.append(connection)
        else:
            self._send(connection, now)
        if not self._outstanding and not self._waiting and not self._may_send():
            self._done.set()

    def _lost(self, connection: Connection) -> None:
        if connection.index < 0:
            if connection in self._idle:
                self._idle.remove(connection)
            return
        self._outstanding -= 1
        self.report.num_lost += 1
        if not self._outstanding and not self._may_send():
            self._done.set()

    async def _arrive(self) -> None:
        """Poisson arrivals."""
        draw = random.Random(self.plan.seed + 1)
        due = time.perf_counter()
        num_connections = len(self._idle)
        while not self._stopping:
            due += draw.expovariate(self.plan.rate)
            while (wait := due - time.perf_counter()) > 0 and not self._stopping:
                await asyncio.sleep(wait - _SPIN if wait > 2 * _SPIN else 0)
            if self._idle:
                self._send(self._idle.pop(), due)
            elif num_connections < _MAX_CONNECTIONS:
                num_connections += 1
                self._send(await self._connect(), due)
            else:
                self._waiting.append(due)

    def _summary(self) -> Report:
        report, latencies = self.report, sorted(self._latencies)
        if latencies:
            report.p50, report.p90, report.p99 = (quantile(latencies, q) for q in (0.5, 0.9, 0.99))
            report.mean = sum(latencies) / len(latencies)
        if self.plan.keep:
            report.latencies = [round(one, 7) for one in latencies]
        return report


def _as_agreed(connection: Connection) -> None:
    """A connection that is closed here is not lost."""


def quantile(ordered: list[float], share: float) -> float:
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]


def main(plan_file: str) -> None:
    plan: Plan = pickle.loads(Path(plan_file).read_bytes())
    if plan.core is not None:
        os.sched_setaffinity(0, {plan.core})
    try:
        import uvloop as loops
    except ImportError:
        loops = asyncio  # type: ignore[misc]

    async def run() -> Report:
        return await plan.generator().run()

    report = json.dumps(asdict(loops.run(run())))
    # Unbuffered, as PYTHONUNBUFFERED makes it, sys.stdout loses the rest of what a pipe does not take at once.
    with open(sys.stdout.fileno(), "w", closefd=False) as out:
        out.write(report)


if __name__ == "__main__":
    # As a module of the package, so that the pickled plan finds its class.
    from benchmarks import load

    load.main(sys.argv[1])
