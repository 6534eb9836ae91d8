"""A TCP proxy that delays, cuts or swallows HTTP requests, by a plan."""

import asyncio
import contextlib
import random
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum

_HANG = 30.0


class Fault(StrEnum):
    """What happens to one request, or to one piece of an open stream."""

    PASS = "forwarded, and answered"
    DELAY = "forwarded after a while"
    CUT_BEFORE = "never forwarded, and the connection is cut"
    CUT_REQUEST = "half of it forwarded, and both connections are cut"
    CUT_AFTER = "forwarded; the answer is read, and the connection cut in its place"
    CUT_WITHIN = "forwarded; half of the answer comes, and the connection is cut"
    SWALLOW = "forwarded; no answer ever comes"
    ABANDON = "forwarded, and both connections are cut at once"
    BUSY = "never forwarded; answered with 503 and Retry-After: 1"
    DRIP = "forwarded; the answer comes byte by byte"


Plan = Callable[[int], Fault]
"""What happens to request number n, counted over all connections."""


def seeded(seed: int, faults: list[Fault], share: float) -> Plan:
    """A plan that applies one of `faults` to a `share` of the requests."""
    chance = random.Random(seed)
    drawn = [chance.choice(faults) if chance.random() < share else Fault.PASS for _ in range(100_000)]
    return drawn.__getitem__


@dataclass
class FaultProxy:
    """A running proxy. `done` has what happened to each request, `requests` the first line of each.

    `port` is that of the server. A change of it holds for the connections that are opened afterwards.
    """

    url: str
    port: int
    plan: Plan
    done: list[Fault] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    times: list[float] = field(default_factory=list)

    def next(self, request: str) -> Fault:
        fault = self.plan(len(self.done))
        self.done.append(fault)
        self.requests.append(request)
        self.times.append(time.monotonic())
        return fault


@contextlib.contextmanager
def fault_proxy(port: int, plan: Plan, delay: float = 0.1, tls: ssl.SSLContext | None = None) -> Iterator[FaultProxy]:
    """A proxy in front of the server at `port`, in a thread of its own. With `tls` it terminates TLS."""
    loop = asyncio.new_event_loop()
    started: list[FaultProxy] = []
    ready, tasks = threading.Event(), dict[asyncio.Task[None], asyncio.StreamWriter]()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = loop.create_task(_Connection(started[0], delay, reader, writer).serve())
        tasks[task] = writer
        task.add_done_callback(tasks.pop)

    async def main() -> None:
        listening = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=tls)
        number = listening.sockets[0].getsockname()[1]
        started.append(FaultProxy(f"http{'s' if tls else ''}://127.0.0.1:{number}", port, plan))
        ready.set()
        await stop.wait()
        listening.close()
        for _ in range(3):  # a connection that is just being accepted becomes a task
            await asyncio.sleep(0)
        left = dict(tasks)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        for writer in left.values():  # also of a task that was cancelled before it began
            await _closed(writer)

    stop = asyncio.Event()
    thread = threading.Thread(target=lambda: loop.run_until_complete(main()), daemon=True)
    thread.start()
    assert ready.wait(60)
    try:
        yield started[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(60)
        loop.close()


@dataclass
class _Connection:
    """One connection of a client, and its connection to the server."""

    proxy: FaultProxy
    delay: float
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def serve(self) -> None:
        upstream: list[asyncio.StreamWriter] = []
        try:
            back, out = await asyncio.open_connection("127.0.0.1", self.proxy.port)
            upstream.append(out)
            while await self._request(back, out):
                pass
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            for writer in [self.writer, *upstream]:
                await _closed(writer)

    async def _request(self, back: asyncio.StreamReader, out: asyncio.StreamWriter) -> bool:
        """Whether the connection stays open after one request."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        body = await self.reader.readexactly(_length(head))
        fault = self.proxy.next(head.split(b"\r\n")[0].decode())
        if fault is Fault.CUT_BEFORE:
            return False
        if fault is Fault.BUSY:
            self.writer.write(b"HTTP/1.1 503 Busy\r\nretry-after: 1\r\ncontent-length: 0\r\n\r\n")
            await self.writer.drain()
            return True
        if fault is Fault.DELAY:
            await asyncio.sleep(self.delay)
        request = head + body
        out.write(request[: len(request) // 2] if fault is Fault.CUT_REQUEST else request)
        await out.drain()
        if fault in (Fault.CUT_REQUEST, Fault.ABANDON):
            return False
        answer = await back.readuntil(b"\r\n\r\n")
        if answer.startswith(b"HTTP/1.1 101"):
            self.writer.write(answer)
            await self._pipe(back, out)
            return False
        answer += await back.readexactly(_length(answer))
        return await self._answer(answer, fault)

    async def _answer(self, answer: bytes, fault: Fault) -> bool:
        if fault is Fault.CUT_AFTER:
            return False
        if fault is Fault.SWALLOW:
            await asyncio.sleep(_HANG)
            return False
        if fault is Fault.DRIP:
            for i in range(len(answer)):
                self.writer.write(answer[i : i + 1])
                await self.writer.drain()
                await asyncio.sleep(0.05)
            return True
        self.writer.write(answer[: len(answer) // 2] if fault is Fault.CUT_WITHIN else answer)
        await self.writer.drain()
        return fault is not Fault.CUT_WITHIN

    async def _pipe(self, back: asyncio.StreamReader, out: asyncio.StreamWriter) -> None:
        """An open stream. The plan applies to each piece that the client sends."""
        answering = asyncio.create_task(_copy(back, self.writer))
        try:
            while piece := await self.reader.read(65536):
                fault = self.proxy.next("piece")
                if fault is Fault.CUT_BEFORE:
                    return
                if fault is Fault.DELAY:
                    await asyncio.sleep(self.delay)
                lost = fault in (Fault.CUT_AFTER, Fault.CUT_WITHIN, Fault.SWALLOW)
                if lost:
                    answering.cancel()
                    await asyncio.wait([answering])
                out.write(piece)
                await out.drain()
                if lost:
                    await back.read(65536)
                    await asyncio.sleep(_HANG if fault is Fault.SWALLOW else 0)
                    return
        finally:
            answering.cancel()


async def _closed(writer: asyncio.StreamWriter) -> None:
    """Close a connection at once. When this returns its socket is closed."""
    writer.transport.abort()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while piece := await reader.read(65536):
        writer.write(piece)
        await writer.drain()
    writer.transport.abort()


def _length(head: bytes) -> int:
    """The length of the body after a head, by its Content-Length. Chunked bodies do not occur here."""
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length":
            return int(value)
    return 0
