"""Sends calls for the asynchronous client: retries, time limits, and requests side by side."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import httpx
from tenacity import AsyncRetrying

from elman.client.base import SenderBase
from elman.client.calls import Call, CallFactory
from elman.client.config import Batching, Retries, Timeout
from elman.client.deadline import KEEPALIVE, Deadline
from elman.client.retrying import policy, translated
from elman.client.wire import read_error

T = TypeVar("T")


class AsyncSender(SenderBase):
    """Sends calls over a pool of connections."""

    def __init__(
        self,
        url: str,
        api_key: str | None,
        timeout: Timeout | float,
        retries: Retries,
        batching: Batching,
        verify: ssl.SSLContext | None,
        transport: httpx.AsyncBaseTransport | None,
    ) -> None:
        super().__init__(url, api_key, timeout, retries, batching, verify)
        self._http = httpx.AsyncClient(
            headers=self.headers,
            transport=transport,
            verify=self.tls,
            limits=httpx.Limits(max_connections=100, max_keepalive_connections=20, keepalive_expiry=KEEPALIVE),
            trust_env=False,
        )

    async def close(self) -> None:
        await self._http.aclose()

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
        with translated(deadline, self.url):
            async with asyncio.timeout(deadline.remaining):
                response = await self._http.send(self.request(self._http, call, deadline))
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
        with translated(deadline, self.url):
            async with asyncio.timeout(deadline.remaining):
                response = await self._http.send(self.request(self._http, call, deadline), stream=True)
                if not response.is_success:
                    await response.aread()
                    raise read_error(response)
                return response
