"""Sends calls for the blocking client: retries, time limits, and requests side by side."""

import contextlib
import os
import ssl
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from typing import Any, Protocol, TypeVar
from weakref import WeakSet

import httpx

from elman.client.base import SenderBase
from elman.client.calls import Call, CallFactory
from elman.client.config import Batching, Retries, Timeout
from elman.client.deadline import Deadline, DeadlineTransport
from elman.client.errors import ElmanError, TimedOut
from elman.client.retrying import pause_before, translated, turn_timeout
from elman.client.wire import read_error

T = TypeVar("T")


class Renewed(Protocol):
    """What begins anew in a forked process: it leaves connections and locks to the process that it was copied from."""

    def renew(self) -> None: ...


# Two processes that read from one connection would get each other's answers.
RENEWED: WeakSet[Renewed] = WeakSet()


def _renew() -> None:
    for one in RENEWED:
        one.renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)


class Turns:
    """Lets calls run one at a time."""

    def __init__(self) -> None:
        self.renew()
        RENEWED.add(self)

    def renew(self) -> None:
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def turn(self, deadline: Deadline) -> Iterator[None]:
        """Wait for the calls before this one. Raises TimedOut."""
        if not self._lock.acquire(timeout=deadline.remaining):
            raise turn_timeout(deadline)
        try:
            yield
        finally:
            self._lock.release()


class Sender(SenderBase):
    """Sends calls over a pool of connections. Safe to share between threads, and to use in a forked process."""

    def __init__(
        self,
        url: str | None,
        api_key: str | None,
        timeout: Timeout | float,
        retries: Retries,
        batching: Batching,
        verify: ssl.SSLContext | None,
        transport: httpx.BaseTransport | None,
    ) -> None:
        super().__init__(url, api_key, timeout, retries, batching, verify, transport)
        self._own_transport = transport
        self.renew()
        RENEWED.add(self)

    def renew(self) -> None:
        self._connections = self._own_transport or DeadlineTransport(self.tls, self.proxy)

    def close(self) -> None:
        self._connections.close()

    def retry(self, call: Call[Any], attempt: Callable[[Deadline], T], deadline: Deadline | None = None) -> T:
        """Attempt a call until it succeeds, may not be repeated, or its deadline has passed. Raises ElmanError."""
        deadline = deadline or self.deadline(call.timeout)
        num_attempts = 0
        while True:
            try:
                return attempt(deadline)
            except ElmanError as error:
                num_attempts += 1
                pause = pause_before(call, error, num_attempts, self.retries, deadline)
                if pause is None:
                    raise
            time.sleep(pause)

    def send(self, call: Call[T], deadline: Deadline | None = None) -> T:
        """Send a call and read its response. Raises ElmanError."""
        return self.retry(call, partial(self._attempt, call), deadline)

    def _attempt(self, call: Call[T], deadline: Deadline) -> T:
        made = call.made()
        with deadline.held(), translated(deadline, self.target):
            with contextlib.closing(self._connections.handle_request(self.request(made, deadline))) as response:
                response.read()
        return made.read(response)

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
                with deadline.held(), translated(deadline, self.target):
                    line = next(lines, None)
                if line is None:
                    return
                yield line

    def _open(self, call: Call[None], deadline: Deadline) -> httpx.Response:
        with deadline.held(), translated(deadline, self.target):
            response = self._connections.handle_request(self.request(call, deadline))
            if not response.is_success:
                response.read()
                raise read_error(response)
            return response
