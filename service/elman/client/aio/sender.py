"""Sends calls for the asynchronous client: retries, time limits, and requests side by side."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Generic, TypeVar

import httpx
from tenacity import AsyncRetrying

from elman.client.base import SenderBase
from elman.client.calls import Call, CallFactory
from elman.client.config import Batching, Retries, Timeout
from elman.client.deadline import KEEPALIVE, Deadline
from elman.client.retrying import policy, pool_timeout, translated, turn_timeout
from elman.client.wire import read_error

T = TypeVar("T")
V = TypeVar("V")


# Most calls of one event loop at a time. Each connection costs httpx time at every call, so that more are slower.
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


class _Pool:
    """The connections of one event loop. Calls wait for one in the order in which they were made.

    If thousands of calls waited in httpx, it would do little else than look through them. Streams of tokens do not
    wait: each has a connection for as long as it is open.
    """

    def __init__(self, **options: Any) -> None:
        self._places = asyncio.Semaphore(_MAX_CALLS)
        self.http = httpx.AsyncClient(
            **options,
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=_MAX_CALLS, keepalive_expiry=KEEPALIVE),
            trust_env=False,
        )

    @contextlib.asynccontextmanager
    async def place(self, deadline: Deadline) -> AsyncIterator[httpx.AsyncClient]:
        """Wait until a call may be sent. Raises PoolTimeout."""
        try:
            async with asyncio.timeout(deadline.remaining):
                await self._places.acquire()
        except TimeoutError:
            raise pool_timeout(deadline) from None
        try:
            yield self.http
        finally:
            self._places.release()


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
        self._pools = _PerLoop(
            partial(_Pool, headers=self.headers, verify=self.tls, transport=transport, proxy=self.proxy)
        )

    async def close(self) -> None:
        """Close the connections of the running event loop."""
        await self._pools.get().http.aclose()

    async def retry(
        self, call: Call[Any], attempt: Callable[[Deadline], Awaitable[T]], deadline: Deadline | None = None
    ) -> T:
        """Attempt a call until it succeeds, may not be repeated, or its deadline has passed. Raises ElmanError."""
        deadline = deadline or self.deadline(call.timeout)
        return await AsyncRetrying(**policy(call, self.retries, deadline))(attempt, deadline)

    async def send(self, call: Call[T], deadline: Deadline | None = None) -> T:
        """Send a call and read its response. Raises ElmanError."""
        return await self.retry(call, partial(self._attempt, call), deadline)

    async def _attempt(self, call: Call[T], deadline: Deadline) -> T:
        async with self._pools.get().place(deadline) as http:
            with translated(deadline, self.url):
                async with asyncio.timeout(deadline.remaining):
                    response = await http.send(self.request(http, call, deadline))
        return call.read(response)

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
        response = await self.retry(call, partial(self._open, call), deadline)
        async with contextlib.aclosing(response):
            lines = response.aiter_lines()
            while True:
                with translated(deadline, self.url):
                    async with asyncio.timeout(deadline.remaining):
                        line = await anext(lines, None)
                if line is None:
                    return
                yield line

    async def _open(self, call: Call[None], deadline: Deadline) -> httpx.Response:
        http = self._pools.get().http
        with translated(deadline, self.url):
            async with asyncio.timeout(deadline.remaining):
                response = await http.send(self.request(http, call, deadline), stream=True)
                if not response.is_success:
                    await response.aread()
                    raise read_error(response)
                return response
