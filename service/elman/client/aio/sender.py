"""Sends calls for the asynchronous client: retries, time limits, and requests side by side."""

import asyncio
import contextlib
import ssl
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Generic, TypeVar

import httpx

from elman.client.aio.connection import Connection
from elman.client.base import SenderBase
from elman.client.calls import Call, CallFactory
from elman.client.config import Batching, Retries, Timeout
from elman.client.deadline import Deadline
from elman.client.errors import ElmanError
from elman.client.retrying import pause_before, pool_timeout, translated, turn_timeout
from elman.client.wire import read_error

T = TypeVar("T")
V = TypeVar("V")


# Most calls of one event loop at a time.
_MAX_CALLS = 32


class _PerLoop(Generic[V]):
    """A value for each event loop, since connections and locks belong to one."""

    def __init__(self, make: Callable[[], V]) -> None:
        self._make = make
        self._values: dict[asyncio.AbstractEventLoop, V] = {}

    def get(self) -> V:
        """That of the running loop. Those of loops that have ended are dropped."""
        loop = asyncio.get_running_loop()
        if loop not in self._values:
            self._values = {one: value for one, value in self._values.items() if not one.is_closed()}
            self._values[loop] = self._make()
        return self._values[loop]


class AsyncTurns:
    """Lets calls run one at a time, in the order in which they were made."""

    def __init__(self) -> None:
        self._locks = _PerLoop(asyncio.Lock)

    @contextlib.asynccontextmanager
    async def turn(self, deadline: Deadline) -> AsyncIterator[None]:
        """Wait for the calls before this one. Raises TimedOut."""
        lock = self._locks.get()
        try:
            async with asyncio.timeout(deadline.remaining):
                await lock.acquire()
        except TimeoutError:
            raise turn_timeout(deadline) from None
        try:
            yield
        finally:
            lock.release()


class _Gate:
    """Lets so many calls pass at a time, in the order in which they came."""

    def __init__(self, places: int) -> None:
        self._free = places
        self._waiting: deque[asyncio.Future[bool]] = deque()

    async def enter(self, deadline: Deadline) -> None:
        """Wait for a place. Raises PoolTimeout."""
        if self._free:
            self._free -= 1
            return
        loop = asyncio.get_running_loop()
        turn = loop.create_future()
        self._waiting.append(turn)
        # No task is cancelled at the deadline: of thousands of calls that would take seconds.
        alarm = loop.call_later(deadline.remaining, _resolve, turn, False)
        try:
            passed = await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.result():
                self.leave()
            raise
        finally:
            alarm.cancel()
        if not passed:
            raise pool_timeout(deadline)

    def leave(self) -> None:
        """Give the place to the next that waits."""
        while self._waiting:
            if _resolve(self._waiting.popleft(), True):
                return
        self._free += 1


def _resolve(turn: asyncio.Future[bool], passed: bool) -> bool:
    """Resolve a future, and return True, unless it is done."""
    if turn.done():
        return False
    turn.set_result(passed)
    return True


class _Pool:
    """The connections of one event loop. A call has one for itself, the one that was used last if any is free.

    Args:
        make: makes a connection, or gives the transport that sends all requests.
    """

    def __init__(self, make: Callable[[], httpx.AsyncBaseTransport]) -> None:
        self._make = make
        self._gate = _Gate(_MAX_CALLS)
        self._free: list[httpx.AsyncBaseTransport] = []
        self._all: set[httpx.AsyncBaseTransport] = set()

    @contextlib.asynccontextmanager
    async def place(self, deadline: Deadline) -> AsyncIterator[httpx.AsyncBaseTransport]:
        """A connection, once a call may be sent. Raises PoolTimeout."""
        await self._gate.enter(deadline)
        try:
            async with self.connection() as one:
                yield one
        finally:
            self._gate.leave()

    @contextlib.asynccontextmanager
    async def connection(self) -> AsyncIterator[httpx.AsyncBaseTransport]:
        """A connection at once. Streams of tokens do not wait for each other."""
        one = self._free.pop() if self._free else self._make()
        self._all.add(one)
        try:
            yield one
        finally:
            if len(self._free) < _MAX_CALLS:
                self._free.append(one)
            elif one not in self._free:  # what is left of many streams
                self._all.discard(one)
                await one.aclose()

    async def close(self) -> None:
        """Close all connections. Others are opened if there are further calls."""
        for one in self._all:
            await one.aclose()


class AsyncSender(SenderBase):
    """Sends calls over connections, those of each event loop for itself."""

    def __init__(
        self,
        url: str | None,
        api_key: str | None,
        timeout: Timeout | float,
        retries: Retries,
        batching: Batching,
        verify: ssl.SSLContext | None,
        transport: httpx.AsyncBaseTransport | None,
    ) -> None:
        super().__init__(url, api_key, timeout, retries, batching, verify, transport)
        make = partial(Connection, self.tls, self.proxy) if transport is None else lambda: transport
        self._pools = _PerLoop(partial(_Pool, make))

    async def close(self) -> None:
        """Close the connections of the running event loop."""
        await self._pools.get().close()

    async def retry(
        self, call: Call[Any], attempt: Callable[[Deadline], Awaitable[T]], deadline: Deadline | None = None
    ) -> T:
        """Attempt a call until it succeeds, may not be repeated, or its deadline has passed. Raises ElmanError."""
        deadline = deadline or self.deadline(call.timeout)
        num_attempts = 0
        while True:
            try:
                return await attempt(deadline)
            except ElmanError as error:
                num_attempts += 1
                pause = pause_before(call, error, num_attempts, self.retries, deadline)
                if pause is None:
                    raise
            await asyncio.sleep(pause)

    async def send(self, call: Call[T], deadline: Deadline | None = None) -> T:
        """Send a call and read its response. Raises ElmanError."""
        return await self.retry(call, partial(self._attempt, call), deadline)

    async def _attempt(self, call: Call[T], deadline: Deadline) -> T:
        async with self._pools.get().place(deadline) as connection:
            made = call.made()
            with translated(deadline, self.target):
                async with asyncio.timeout(deadline.remaining):
                    response = await connection.handle_async_request(self.request(made, deadline))
                    async with contextlib.aclosing(response):
                        await response.aread()
        return made.read(response)

    async def send_all(
        self, factories: Sequence[CallFactory[list[T]]], deadline: Deadline, report: Callable[[int], None]
    ) -> list[T]:
        """Make and send calls side by side, and return their values in order. The first error cancels the others."""
        places = asyncio.Semaphore(self.batching.concurrency)

        async def send(factory: CallFactory[list[T]]) -> list[T]:
            async with places:
                call = await asyncio.to_thread(self.make, factory, deadline)
                values = await self.send(call, deadline)
            report(len(values))
            return values

        tasks = [asyncio.create_task(send(factory)) for factory in factories]
        try:
            return [value for values in await asyncio.gather(*tasks) for value in values]
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def lines(self, call: Call[None]) -> AsyncGenerator[str, None]:
        """The lines of a response as they arrive. Raises TimedOut at the deadline of the call."""
        deadline = self.deadline(call.timeout)
        async with self._pools.get().connection() as connection:
            response = await self.retry(call, partial(self._open, connection, call), deadline)
            async with contextlib.aclosing(response):
                lines = response.aiter_lines()
                while True:
                    with translated(deadline, self.target):
                        async with asyncio.timeout(deadline.remaining):
                            line = await anext(lines, None)
                    if line is None:
                        return
                    yield line

    async def _open(self, connection: httpx.AsyncBaseTransport, call: Call[None], deadline: Deadline) -> httpx.Response:
        with translated(deadline, self.target):
            async with asyncio.timeout(deadline.remaining):
                response = await connection.handle_async_request(self.request(call, deadline))
                if not response.is_success:
                    await response.aread()
                    raise read_error(response)
                return response
