"""Calls of a session store, each in a thread, and none waited for without end."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from elman.engine.work import Steps, wait
from elman.errors import OutcomeUnknown, StoreUnavailable

T = TypeVar("T")

# Writers wait for each other in the store, so more threads would bring nothing. Readers wait for no writer.
_NUM_WRITERS, _NUM_READERS = 1, 4
# Most calls that wait at once, beside the steps that the engine has saved.
_MAX_CALLS = 2_000

_CLOSED = "the session store is closed"

_LOG = logging.getLogger("elman")


class StoreCalls:
    """Makes the calls of a store.

    Args:
        timeout: seconds that the caller waits. A call that was not begun by then is not made.
    """

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._writers = ThreadPoolExecutor(_NUM_WRITERS, "elman-store-write")
        self._readers = ThreadPoolExecutor(_NUM_READERS, "elman-store-read")
        # The calls that are waited for, each with the function that gives it up.
        self._calls: dict[Future[Any], Callable[[], object]] = {}

    def read(self, call: Callable[..., T], *arguments: object) -> Steps[T]:
        """In a script: the result of a call that only reads. Raises StoreUnavailable."""
        return (yield from wait(self.begin(self._readers, call, *arguments)))

    def write(self, call: Callable[..., T], *arguments: object) -> Steps[T]:
        """In a script: the result of a call that writes. Raises StoreUnavailable, or OutcomeUnknown if it was begun."""
        return (yield from wait(self.begin(self._writers, call, *arguments)))

    def write_aside(self, call: Callable[..., T], *arguments: object) -> "asyncio.Future[T]":
        """As `write`, for a task."""
        return self.begin(self._writers, call, *arguments)

    def begin(self, threads: ThreadPoolExecutor, call: Callable[..., T], *arguments: object) -> "asyncio.Future[T]":
        if len(self._calls) >= _MAX_CALLS:
            raise StoreUnavailable(f"{len(self._calls)} calls wait for the session store", retry_after=1)
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()
        try:
            making = threads.submit(call, *arguments)
        except RuntimeError:  # its threads have been shut down
            raise StoreUnavailable(_CLOSED) from None

        def give_up(detail: str) -> None:
            unbegun = making.cancel() or threads is self._readers
            if not answer.done():
                answer.set_exception(StoreUnavailable(detail, retry_after=1) if unbegun else OutcomeUnknown(detail))

        timer = loop.call_later(self._timeout, give_up, f"the session store does not answer within {self._timeout:g} s")
        self._calls[making] = partial(loop.call_soon_threadsafe, give_up, _CLOSED)

        def done(made: "Future[T]") -> None:
            timer.cancel()
            del self._calls[made]
            if answer.done():
                return
            error = StoreUnavailable(_CLOSED) if made.cancelled() else made.exception()
            if error is None:
                answer.set_result(made.result())
            else:
                answer.set_exception(error)

        def pass_on(made: "Future[T]") -> None:
            try:
                loop.call_soon_threadsafe(done, made)
            except RuntimeError:
                pass  # the event loop is closed, so nobody waits

        making.add_done_callback(pass_on)
        return answer

    def close(self) -> None:
        """Make no more calls: those that wait fail. Those under way are left to end."""
        for threads in (self._writers, self._readers):
            threads.shutdown(wait=False, cancel_futures=True)

    def give_up(self) -> None:
        """Wait no longer for calls that are under way. Called from any thread."""
        for give_up in list(self._calls.values()):
            with contextlib.suppress(RuntimeError):  # the event loop is closed, so nobody waits
                give_up()


class Trouble:
    """Logs once that the store fails, and once that it works again, with the number of failures between."""

    def __init__(self) -> None:
        self.num_failures = 0
        self._since = 0.0

    def failed(self, failure: StoreUnavailable, num_calls: int = 1) -> None:
        """Count calls that failed. Called from any thread; a count may be a little off."""
        if not self.num_failures:
            self._since = time.monotonic()
            _LOG.error("the session store does not work, and sessions are refused: %s", failure.detail)
        self.num_failures += num_calls

    def worked(self) -> None:
        """A call has succeeded."""
        if self.num_failures:
            failed, self.num_failures = self.num_failures, 0
            seconds = time.monotonic() - self._since
            _LOG.warning("the session store works again, after %d failed calls in %.0f s", failed, seconds)
