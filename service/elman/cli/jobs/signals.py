"""Running a coroutine until it ends or a signal interrupts it."""

import asyncio
import signal
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

from elman.cli.exits import INTERRUPTED, TERMINATED

T = TypeVar("T")


class Interrupted(Exception):
    """SIGINT or SIGTERM asked the command to end. `code` is its exit code."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.code = TERMINATED if number == signal.SIGTERM else INTERRUPTED


def run_interruptible(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine. A signal cancels it, so that it can clean up. Raises Interrupted."""

    async def guarded() -> T:
        task = asyncio.ensure_future(work)
        caught: list[int] = []

        def catch(number: int) -> None:
            caught.append(number)
            task.cancel()

        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, catch, number)
        try:
            return await task
        except asyncio.CancelledError:
            if caught:
                raise Interrupted(caught[0]) from None
            raise

    return asyncio.run(guarded())


async def unblocked(call: Callable[[], T]) -> T:
    """The result of a call that may block without end, such as opening a pipe. A signal still ends the command."""
    done: Future[T] = Future()

    def run() -> None:
        if not done.set_running_or_notify_cancel():
            return
        try:
            done.set_result(call())
        except BaseException as error:
            done.set_exception(error)

    # No executor: asyncio would wait for its threads at the end.
    threading.Thread(target=run, name="elman-opening", daemon=True).start()
    return await asyncio.wrap_future(done)
