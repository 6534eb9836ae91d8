"""Large bodies and answers, decoded and encoded in processes of their own.

Decoding holds the interpreter, so a body of 50 MB would hold up every other request for a second. Each worker does one
call at a time, and the time to write a call to it and to read its answer is limited. A worker that dies, or takes too
long, fails its call and is replaced; the call is never repeated in the server.
"""

import asyncio
import os
import pickle
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any, TypeVar

from elman.child import Child, ChildDied, answer_calls
from elman.engine.work import Steps, wait
from elman.errors import DeadlineExceeded, ElmanError, Internal

T = TypeVar("T")

LARGE = 512 * 1024
"""A body of more bytes takes milliseconds to decode, and is decoded in the pool."""

MANY = 50_000
"""An answer of more numbers takes milliseconds to write as JSON, and is written in the pool."""

# Seconds that one call may take, its writing and reading included: several times what the largest body takes.
_SECONDS = 60.0
_MOST_WORKERS = 4


class CodecPool:
    """A few worker processes, each started by the first call that finds no idle one."""

    def __init__(self, size: int | None = None, seconds: float = _SECONDS) -> None:
        size = size or min(_MOST_WORKERS, os.cpu_count() or 1)
        self._seconds = seconds
        self._children = [Child("elman.codec.pool") for _ in range(size)]
        self._idle: SimpleQueue[Child] = SimpleQueue()
        for child in self._children:
            self._idle.put(child)
        self._threads = ThreadPoolExecutor(size, "elman-codec")

    def call(self, function: Callable[..., T], *arguments: Any) -> "asyncio.Future[T]":
        """The result of a call in a worker. Raises what the function raises of ElmanError.

        Raises Internal where the worker dies, and DeadlineExceeded where it takes too long.
        """
        return asyncio.get_running_loop().run_in_executor(self._threads, self._call, function, arguments)

    def offload(self, heavy: bool, function: Callable[..., T], *arguments: Any) -> Steps[T]:
        """In a script: the result of a call, made in a worker where it is heavy. Raises as `call`."""
        return (yield from wait(self.call(function, *arguments))) if heavy else function(*arguments)

    def close(self) -> None:
        """Stop the workers. Calls under way fail."""
        for child in self._children:
            child.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _call(self, function: Callable[..., T], arguments: tuple[Any, ...]) -> T:
        child = self._idle.get()
        try:
            answer = pickle.loads(child.call(pickle.dumps((function, arguments), protocol=5), self._seconds))
        except ChildDied as death:
            raise Internal(f"the process that converts this request, or its answer, died: {death}") from None
        except TimeoutError:
            raise DeadlineExceeded(
                f"reading this request, or writing its answer, took over {self._seconds:g} s"
            ) from None
        finally:
            self._idle.put(child)
        if isinstance(answer, ElmanError):
            raise answer
        result: T = answer
        return result


def _answer(call: bytes) -> bytes:
    function, arguments = pickle.loads(call)
    try:
        return pickle.dumps(function(*arguments), protocol=5)
    except ElmanError as error:
        return pickle.dumps(error, protocol=5)


if __name__ == "__main__":
    answer_calls(int(sys.argv[1]), _answer)
