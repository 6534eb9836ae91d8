"""A closed-loop load: each connection sends its next request as soon as the last one is answered."""

import asyncio
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


@dataclass
class LoadResult:
    """What was measured. Latencies are in seconds, ascending. `failed` counts requests without an answer of 200."""

    connections: int
    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    steps: int = 0
    failed: int = 0

    def quantile(self, share: float) -> float:
        """A quantile of the latencies, or 0 if there are none."""
        ordered = self.latencies
        return ordered[min(int(share * len(ordered)), len(ordered) - 1)] if ordered else 0.0


def whole_request(path: str, body: bytes) -> bytes:
    """The bytes of one request."""
    head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
    return head.encode() + b"\r\n\r\n" + body


async def closed_loop(
    port: int, requests: Sequence[bytes], sizes: Sequence[int], connections: int, seconds: float, warmup: float = 0.5
) -> LoadResult:
    """Send `requests` in turn for `seconds`, after a warm-up that is not counted.

    Args:
        sizes: the number of steps in each request.
    """
    load, measuring, stopping, turn = LoadResult(connections), False, False, 0

    def send(connection: _Connection) -> None:
        nonlocal turn
        if not stopping:
            connection.send(requests[turn], turn)
            turn = (turn + 1) % len(requests)

    def answered(connection: _Connection, status: int) -> None:
        if measuring and status == 200:
            load.latencies.append(time.perf_counter() - connection.sent)
            load.steps += sizes[connection.index]
        elif measuring:
            load.failed += 1
        if status:
            send(connection)

    loop = asyncio.get_running_loop()
    opened = []
    for _ in range(connections):
        _, one = await loop.create_connection(lambda: _Connection(answered), "127.0.0.1", port)
        opened.append(one)
    try:
        for one in opened:
            send(one)
        await asyncio.sleep(warmup)
        measuring, started = True, time.perf_counter()
        await asyncio.sleep(seconds)
        load.seconds = time.perf_counter() - started
    finally:
        measuring, stopping = False, True
        for one in opened:
            one.transport.abort()
    load.latencies.sort()
    return load


class _Connection(asyncio.Protocol):
    """One connection with one request in flight. It reads only the status and the length of an answer."""

    transport: asyncio.Transport

    def __init__(self, answered: "Callable[[_Connection, int], None]") -> None:
        self.answered = answered
        self.index = -1
        self.sent = 0.0
        self._head = b""
        self._missing = 0
        self._status = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def send(self, request: bytes, index: int) -> None:
        self.index, self.sent = index, time.perf_counter()
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        if not self._missing:
            self._head += data
            end = self._head.find(b"\r\n\r\n")
            if end < 0:
                return
            found = _LENGTH.search(self._head, 0, end + 2)
            self._status = int(self._head[9:12])
            self._missing = end + 4 + (int(found.group(1)) if found else 0) - len(self._head)
            self._head = b""
        else:
            self._missing -= len(data)
        if self._missing <= 0:
            self._missing = 0
            self.answered(self, self._status)

    def connection_lost(self, error: Exception | None) -> None:
        self.answered(self, 0)
