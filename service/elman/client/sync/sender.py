"""Sends calls for the blocking client: retries, time limits, and requests side by side."""

import contextlib
import ssl
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from typing import Any, TypeVar

import httpx
from tenacity import Retrying

from elman.client.base import SenderBase
from elman.client.calls import Call, CallFactory
from elman.client.config import Batching, Retries, Timeout
from elman.client.deadline import Deadline, DeadlineTransport
from elman.client.errors import TimedOut
from elman.client.retrying import policy, translated
from elman.client.wire import read_error

T = TypeVar("T")


class Sender(SenderBase):
    """Sends calls over a pool of connections. Safe to share between threads."""

    def __init__(
        self,
        url: str,
        api_key: str | None,
        timeout: Timeout | float,
        retries: Retries,
        batching: Batching,
        verify: ssl.SSLContext | None,
        transport: httpx.BaseTransport | None,
    ) -> None:
        super().__init__(url, api_key, timeout, retries, batching, verify)
        self._http = httpx.Client(
            headers=self.headers, transport=transport or DeadlineTransport(self.tls), trust_env=False
        )

    def close(self) -> None:
        self._http.close()

    def retry(self, call: Call[Any], attempt: Callable[[Deadline], T], deadline: Deadline | None = None) -> T:
        """Attempt a call until it succeeds, may not be repeated, or its deadline has passed. Raises ElmanError."""
        deadline = deadline or self.deadline(call.timeout)
        value: T = Retrying(**policy(call, self.retries, deadline))(attempt, deadline)
        return value

    def send(self, call: Call[T], deadline: Deadline | None = None) -> T:
        """Send a call and read its response. Raises ElmanError."""
        return self.retry(call, partial(self._attempt, call), deadline)

    def _attempt(self, call: Call[T], deadline: Deadline) -> T:
        with deadline.held(), translated(deadline, self.url):
            response = self._http.send(self.request(self._http, call, deadline))
        return call.read(response)

    def send_all(
        self, factories: Sequence[CallFactory[list[T]]], deadline: Deadline, report: Callable[[int], None]
    ) -> list[T]:
        """Make and send calls side by side, and return their values in order. The first error cancels the others."""

        def send(factory: CallFactory[list[T]]) -> list[T]:
            return self.send(self.make(factory, deadline), deadline)

        with ThreadPoolExecutor(min(self.batching.concurrency, len(factories) or 1), "elman") as pool:
            futures = [pool.submit(send, factory) for factory in factories]
            try:
                for future in as_completed(futures):
                    report(len(future.result()))
                return [value for future in futures for value in future.result()]
            finally:
                for future in futures:
                    future.cancel()

    def lines(self, call: Call[None]) -> Generator[str, None, None]:
        """The lines of a response as they arrive. Raises TimedOut at the deadline of the call."""
        deadline = self.deadline(call.timeout)
        response = self.retry(call, partial(self._open, call), deadline)
        with contextlib.closing(response):
            lines = response.iter_lines()
            while True:
                if not deadline.remaining:
                    raise TimedOut(f"the generation took longer than {deadline.total:g} s")
                with deadline.held(), translated(deadline, self.url):
                    line = next(lines, None)
                if line is None:
                    return
                yield line

    def _open(self, call: Call[None], deadline: Deadline) -> httpx.Response:
        with deadline.held(), translated(deadline, self.url):
            response = self._http.send(self.request(self._http, call, deadline), stream=True)
            if not response.is_success:
                response.read()
                raise read_error(response)
            return response
