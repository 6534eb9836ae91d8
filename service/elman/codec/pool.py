"""Decodes large bodies and encodes large answers in worker processes.

Decoding holds the interpreter's lock, so a body of 50 MB would block every other request for a second. A worker does
one call at a time, and the time to write the call and read its answer is limited. If a worker dies or takes too long,
its call fails and the worker is replaced. The call is never repeated in the server.
"""

import asyncio
import gc
import os
import pickle
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any, TypeVar

from elman.child import Child, ChildDied, answer_calls
from elman.codec.limits import count
from elman.engine.work import Steps, wait
from elman.errors import DeadlineExceeded, ElmanError, Internal, Overloaded

T = TypeVar("T")

LARGE = 512 * 1024
"""Bodies of more bytes are decoded in the pool, as that takes milliseconds."""

MANY = 50_000
"""JSON answers with more numbers are encoded in the pool, as that takes milliseconds."""

SHORT = 32 * 1024
"""Bodies of at most this many bytes never are."""

# More lists, objects and quotation marks also make a body that is not short take milliseconds.
_MANY_PIECES = 10_000

# Time limit of a call, with writing and reading: several times what the largest body takes.
_SECONDS = 60.0
_MAX_WORKERS = 4
_MAX_BYTES = 256 * 2**20


def is_heavy(body: bytes) -> bool:
    """True if a JSON body is to be decoded in the pool."""
    size = len(body)
    return size > LARGE or (size > SHORT and count(body, b'[{"') > _MANY_PIECES)


class CodecPool:
    """A few worker processes. Each starts at its first call.

    Args:
        size: how many.
        seconds: how long a call may take.
        max_bytes: of the bodies that wait for a worker or are with one.
    """

    def __init__(self, size: int | None = None, seconds: float = _SECONDS, max_bytes: int = _MAX_BYTES) -> None:
        size = size or min(_MAX_WORKERS, os.cpu_count() or 1)
        self._seconds = seconds
        self._max_bytes = max_bytes
        self._num_bytes = 0
        self._children = [Child("elman.codec.pool") for _ in range(size)]
        self._idle: SimpleQueue[Child] = SimpleQueue()
        for child in self._children:
            self._idle.put(child)
        self.open()

    def open(self) -> None:
        """Take calls, also after `close`."""
        self._threads = ThreadPoolExecutor(len(self._children), "elman-codec")

    def call(self, function: Callable[..., T], *arguments: Any) -> "asyncio.Future[T]":
        """The result of a call in a worker. Raises each ElmanError that the function raises.

        Raises Internal if the worker dies, DeadlineExceeded if it takes too long, and Overloaded at once if too many
        bytes wait. A call that is the only one is always taken.
        """
        num_bytes = sum(len(one) for one in arguments if isinstance(one, bytes))
        if num_bytes and 0 < self._num_bytes > self._max_bytes - num_bytes:
            raise Overloaded(f"bodies of {self._num_bytes} bytes wait to be decoded", retry_after=1)
        self._num_bytes += num_bytes
        called = asyncio.get_running_loop().run_in_executor(self._threads, self._call, function, arguments)
        called.add_done_callback(lambda _: self._release(num_bytes))
        return called

    def _release(self, num_bytes: int) -> None:
        self._num_bytes -= num_bytes

    def offload(self, heavy: bool, function: Callable[..., T], *arguments: Any) -> Steps[T]:
        """In a script: the result of a call, made in a worker if it is `heavy`. Raises like `call`."""
        return (yield from wait(self.call(function, *arguments))) if heavy else function(*arguments)

    def close(self) -> None:
        """Stop the workers. Their current calls fail."""
        for child in self._children:
            child.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _call(self, function: Callable[..., T], arguments: tuple[Any, ...]) -> T:
        child = self._idle.get()
        try:
            answer = pickle.loads(child.call(pickle.dumps((function, arguments), protocol=5), self._seconds))
        except ChildDied as death:
            raise Internal(f"the process that decodes this request or encodes its answer died: {death}") from None
        except TimeoutError:
            raise DeadlineExceeded(
                f"decoding this request or encoding its answer took more than {self._seconds:g} s"
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
    # Decoding makes no cycles, and looking for some among millions of lists would take most of the time.
    gc.disable()
    answer_calls(int(sys.argv[1]), _answer)
