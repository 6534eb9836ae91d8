"""Connections are spread evenly over the processes that share a socket, and none waits for one that does not come."""

import asyncio
import ctypes
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest

from elman.http.accepting import NOT_ACCEPTING, CountedConnections, SharedListener

NUM_CONNECTIONS = 64


class Connection(asyncio.Protocol):
    def __init__(self, connections: CountedConnections) -> None:
        self.connections = connections

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.connections.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        self.connections.discard(self)


@asynccontextmanager
async def sharing(num_listening: int, others: tuple[int, ...] = ()) -> AsyncIterator[tuple[int, list[Any], Any]]:
    """A port, the connections of each listener, and the counts. `others` are counts of processes that do not come."""
    counts = (ctypes.c_int * (num_listening + len(others)))(*[NOT_ACCEPTING] * num_listening, *others)
    owners = [CountedConnections(counts, place) for place in range(num_listening)]
    with socket.create_server(("127.0.0.1", 0)) as first:
        listeners = []
        for owner in owners:
            listeners.append(SharedListener(first.dup(), partial(Connection, owner), owner, {}))
            listeners[-1].start(100)
        try:
            yield first.getsockname()[1], owners, counts
        finally:
            for listener in listeners:
                listener.close()
                await listener.wait_closed()
                listener.sockets[0].close()


async def connected(port: int, number: int) -> list[asyncio.StreamWriter]:
    pairs = await asyncio.gather(*(asyncio.open_connection("127.0.0.1", port) for _ in range(number)))
    return [writer for _, writer in pairs]


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(50):
        while not true():
            await asyncio.sleep(0.001)


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(test())  # type: ignore[arg-type]


@pytest.mark.parametrize("num_listening", [2, 3])
def test_connections_that_come_at_once_are_spread_evenly(num_listening: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("elman.http.accepting._POLITE_SECONDS", 60.0)  # however slow the machine is

    async def test() -> None:
        async with sharing(num_listening) as (port, owners, counts):
            writers = await connected(port, NUM_CONNECTIONS)
            await until(lambda: sum(map(len, owners)) == NUM_CONNECTIONS)
            assert max(map(len, owners)) - min(map(len, owners)) <= 1
            await until(lambda: list(counts) == list(map(len, owners)))
            # The places of those that are closed go to those that come next.
            for connection in list(owners[0]):
                connection.transport.close()
            await until(lambda: not owners[0])
            writers += await connected(port, 10)
            await until(lambda: len(owners[0]) == 10)
            for writer in writers:
                writer.close()

    run(test)


@pytest.mark.parametrize(("others", "patient"), [((0, 1), True), ((NOT_ACCEPTING,), False)])
def test_a_process_that_does_not_come_keeps_nobody_waiting_for_long(
    others: tuple[int, ...], patient: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        waits: list[float] = []
        pause = SharedListener._pause
        monkeypatch.setattr(SharedListener, "_pause", lambda *given: (waits.append(given[1]), pause(*given)))
        async with sharing(1, others) as (port, (mine,), _):
            writers = await connected(port, 20)
            await until(lambda: len(mine) == 20)
            assert bool(waits) is patient and max(waits, default=0.0) < 0.1
            for writer in writers:
                writer.close()

    run(test)


def test_one_that_stops_is_waited_for_no_more_and_takes_nothing() -> None:
    async def test() -> None:
        async with sharing(2) as (port, owners, counts):
            writers = await connected(port, 2)
            await until(lambda: list(counts) == [1, 1])
            owners[0].stop()
            for connection in list(owners[0]):
                connection.transport.close()
            await until(lambda: not owners[0])
            assert list(counts) == [NOT_ACCEPTING, 1] and owners[1].fewest
            for writer in writers:
                writer.close()

    run(test)
