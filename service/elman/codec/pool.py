"""Decodes large bodies and encodes large answers in worker processes.

Decoding holds the interpreter's lock, so a body of 50 MB would block every other request for a second. A worker does
one call at a time, and the time to write the call and read its answer is limited. If a worker dies or takes too long,
its call fails and the worker is replaced. The call is never repeated in the server.
"""

import asyncio
import contextlib
import gc
import os
import pickle
import struct
import sys
import time
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import accumulate, pairwise
from queue import LifoQueue
from typing import Any, NamedTuple, TypeVar

from elman.child import Child, ChildDied, answer_calls
from elman.codec.budget import Budget
from elman.codec.limits import count
from elman.engine.work import Driver, Steps, Wait
from elman.errors import DeadlineExceeded, Draining, ElmanError, Internal, Overloaded

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
# Added to the niceness of a worker. It gets a tenth of a core that the event loop and the engine need, and all of one
# that they do not. A worker holds no lock that they could wait for.
_NICENESS = 10
# How long callers are remembered.
_REMEMBERED_SECONDS = 60.0
# Larger buffers are sent as they are: a copy of many megabytes would hold the interpreter's lock.
_MAX_COPIED = 64 * 1024


def is_heavy(body: bytes) -> bool:
    """True if a JSON body is to be decoded in the pool."""
    size = len(body)
    return size > LARGE or (size > SHORT and count(body, b'[{"') > _MANY_PIECES)


class _Job(NamedTuple):
    """A call that waits for a worker. `size` is that of its bodies."""

    party: bytes
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    size: int
    future: "asyncio.Future[Any]"


class PoolCall(Wait):
    """A call in a worker, to wait for. It takes the turn of the request's caller."""

    __slots__ = ("_call",)

    def __init__(
        self, call: "Callable[[bytes], asyncio.Future[Any]]", then: Callable[[Any], Any] | None = None
    ) -> None:
        super().__init__(_NEVER_BEGUN, then)
        self._call = call

    def begin(self, driver: Driver) -> bool:
        self.future = self._call(self.exchange.party)
        return super().begin(driver)


_NEVER_BEGUN: Any = None


class CodecPool:
    """A few worker processes. Each starts at its first call.

    Callers take turns. For a minute after calls of several, none gets all workers, so that one that comes does not wait
    for the long call of another. None may fill the memory for what waits. Used on the event loop.

    Args:
        size: number of workers.
        seconds: time limit of a call.
        largest: bytes of the largest body.
    """

    def __init__(self, size: int | None = None, seconds: float = _SECONDS, largest: int = 64 * 2**20) -> None:
        size = size or min(_MAX_WORKERS, os.cpu_count() or 1)
        self._seconds = seconds
        self._children = [Child("elman.codec.pool") for _ in range(size)]
        # The worker that was used last is taken first: it has started.
        self._idle: LifoQueue[Child] = LifoQueue()
        for child in self._children:
            self._idle.put(child)
        self._budget = Budget(largest)
        # The calls that wait, by caller, the one that is next first.
        self._waiting: dict[bytes, deque[_Job]] = {}
        self._running: Counter[bytes] = Counter()
        self._last, self._several_until = b"", 0.0
        self.open()

    def open(self) -> None:
        """Take calls, also after `close`."""
        self._closed = False
        self._threads = ThreadPoolExecutor(len(self._children), "elman-codec")

    def call(self, function: Callable[..., T], *arguments: Any, party: bytes = b"") -> "asyncio.Future[T]":
        """The result of a call in a worker. Raises each ElmanError that the function raises.

        Raises Internal if the worker dies, DeadlineExceeded if it takes too long, and at once Overloaded if the
        caller's share of the memory for bodies is full. A body that is the only one is always taken. Once the pool is
        closed, and for calls that are under way then, it raises Draining.
        """
        if self._closed:
            raise _stopped()
        size = sum([len(one) for one in arguments if isinstance(one, bytes)])
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        try:
            self._budget.add(party, size)
        except Overloaded:
            if self._budget.num_held > size:
                self._budget.remove(party, size)
                raise
        if party != self._last:
            self._several_until = time.monotonic() + _REMEMBERED_SECONDS if self._last else 0.0
            self._last = party
        self._waiting.setdefault(party, deque()).append(_Job(party, function, arguments, size, future))
        self._start_next()
        return future

    def work(self, then: Callable[[Any], Any] | None, function: Callable[..., Any], *arguments: Any) -> PoolCall:
        """A call as a work of its request. `then` makes the response or the next work from its result."""
        return PoolCall(lambda party: self.call(function, *arguments, party=party), then)

    def offload(self, heavy: bool, function: Callable[..., T], *arguments: Any) -> Steps[T]:
        """In a script: the result of a call, made in a worker if it is `heavy`. Raises like `call`."""
        if not heavy:
            return function(*arguments)
        work = self.work(None, function, *arguments)
        yield work
        future: Any = work.future
        return future.result()  # type: ignore[no-any-return]

    def close(self) -> None:
        """Stop the workers. Their current calls fail, and those that wait."""
        self._closed = True
        waiting, self._waiting = [job for jobs in self._waiting.values() for job in jobs], {}
        for job in waiting:
            self._budget.remove(job.party, job.size)
            if not job.future.done():
                job.future.set_exception(_stopped())
                job.future.exception()  # asyncio logs it if nobody asks
        for child in self._children:
            child.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _start_next(self) -> None:
        """Start calls as long as a worker is free."""
        num_free = len(self._children) - self._running.total()
        while num_free and (party := self._next_party()) is not None:
            jobs = self._waiting.pop(party)
            job = jobs.popleft()
            if jobs:
                self._waiting[party] = jobs  # behind the others
            if job.future.cancelled():
                self._budget.remove(party, job.size)
                continue
            call = asyncio.get_running_loop().run_in_executor(self._threads, self._call, job.function, job.arguments)
            num_free -= 1
            self._running[party] += 1
            call.add_done_callback(partial(self._ended, job))

    def _next_party(self) -> bytes | None:
        """The caller whose call is next: of those with the fewest calls under way, the one that waits longest."""
        party = min(self._waiting, key=self._running.__getitem__, default=None)
        if party is None:
            return None
        most = max(1, len(self._children) - (time.monotonic() < self._several_until))
        return party if self._running[party] < most else None

    def _ended(self, job: _Job, call: "asyncio.Future[Any]") -> None:
        self._running[job.party] -= 1
        if not self._running[job.party]:
            del self._running[job.party]
        self._budget.remove(job.party, job.size)
        if not job.future.done():
            error = _stopped() if call.cancelled() else call.exception()
            if error is None:
                job.future.set_result(call.result())
            else:
                job.future.set_exception(error)
                job.future.exception()  # asyncio logs it if nobody asks, as when the client is gone
        if not self._closed:
            self._start_next()

    def _call(self, function: Callable[..., T], arguments: tuple[Any, ...]) -> T:
        child = self._idle.get()
        lent = tuple([pickle.PickleBuffer(one) if isinstance(one, bytes) else one for one in arguments])
        first, *more = _packed((function, lent))
        try:
            answer = _unpacked(child.call(first, self._seconds, more))
        except ChildDied as death:
            if self._closed:
                raise _stopped() from None
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


def _stopped() -> Draining:
    return Draining("the server stopped before this request was done", retry_after=1)


def _packed(value: Any) -> list[memoryview]:
    """A value as a message: the number of its pieces, their sizes, its pickle, and its large buffers, not copied."""
    buffers: list[memoryview] = []

    def is_small(buffer: pickle.PickleBuffer) -> bool:
        raw = buffer.raw()
        if len(raw) > _MAX_COPIED:
            buffers.append(raw)
        return len(raw) <= _MAX_COPIED

    content = pickle.dumps(value, protocol=5, buffer_callback=is_small)
    sizes = [len(content), *map(len, buffers)]
    head = struct.pack(f"!{1 + len(sizes)}Q", len(sizes), *sizes)
    return [memoryview(head + content), *buffers]


def _unpacked(message: bytes | memoryview) -> Any:
    """The value of a message. Its arrays have their memory in the message."""
    view = memoryview(message)
    (number,) = struct.unpack_from("!Q", view)
    ends = accumulate(struct.unpack_from(f"!{number}Q", view, 8), initial=8 + 8 * number)
    content, *buffers = [view[start:end] for start, end in pairwise(ends)]
    return pickle.loads(content, buffers=buffers)


def _answer(call: bytes) -> list[memoryview]:
    function, arguments = _unpacked(call)
    try:
        return _packed(function(*[bytes(one) if isinstance(one, memoryview) else one for one in arguments]))
    except ElmanError as error:
        return _packed(error)


if __name__ == "__main__":
    # Decoding makes no cycles, and looking for some among millions of lists would take most of the time.
    gc.disable()
    with contextlib.suppress(OSError, AttributeError):
        os.nice(_NICENESS)
    answer_calls(int(sys.argv[1]), _answer)
