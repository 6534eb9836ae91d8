"""Work that a request waits for: sequences to run, or a future. A script waits for several, one after the other."""

import asyncio
from collections.abc import Callable, Generator
from math import inf
from typing import Any, Protocol, TypeVar

from elman.engine.pending import PendingRequest
from elman.engine.queue import ModelQueue
from elman.engine.sequence import Sequence
from elman.errors import DeadlineExceeded, ElmanError, OutcomeUnknown

T = TypeVar("T")


class Admission(Protocol):
    """What requests need of the engine. `elman.engine.engine.Engine` implements it."""

    def check_room(self, party: bytes) -> None:
        """Refuse a request of a caller before its body is decoded, if it would be refused afterwards."""

    def begin(self, pending: PendingRequest) -> None:
        """Queue the sequences of a request, or refuse them."""


class Driver(Protocol):
    """Begins the work of requests and resumes them. `elman.http.endpoint.Driver` implements it."""

    engine: Admission

    def resume(self, work: "Work", error: Exception | None) -> None:
        """Continue the request after its work is done, or has failed with `error`."""

    def watch_deadline(self, exchange: Any, deadline: float) -> None:
        """Answer an exchange shortly after its deadline, even if the engine is busy."""


class Work:
    """What a request waits for. Once it is done, `resume` gives the response or the next work."""

    __slots__ = ()

    exchange: Any
    steps: "Generator[Work, None, Any] | None"

    def begin(self, driver: "Driver") -> bool:
        """Begin. False if there is nothing to wait for. Raises ElmanError."""
        raise NotImplementedError

    def cancel(self) -> None:
        """Stop the work: nobody waits for it any more."""

    def respond(self) -> Any:
        """The response, or the next work. Raises ElmanError."""
        raise NotImplementedError

    def resume(self, error: Exception | None = None) -> Any:
        """The response, or the next work. Raises `error` if the work failed with it."""
        if self.steps is not None:
            return _advance(self.steps, error)
        if error is not None:
            raise error
        return self.respond()

    def late(self) -> ElmanError:
        """The error for a request whose deadline passes during this work."""
        return DeadlineExceeded("the deadline passed before the answer was there", where=getattr(self, "where", None))

    def close(self) -> None:
        """Close the script that waits for it: nobody waits for its result any more."""
        if self.steps is not None:
            self.steps.close()


class Run(PendingRequest, Work):
    """Sequences to run.

    Attributes:
        deadline: when the event loop answers in any case, on the clock of `time.monotonic`.
        where: the `where` of its errors, such as `prompt`; or one for each sequence.
    """

    __slots__ = ("deadline", "driver", "exchange", "steps", "where")

    def __init__(
        self, queue: ModelQueue, sequences: list[Sequence], deadline: float = inf, where: str | list[str] = "sequence"
    ) -> None:
        super().__init__(queue, sequences)
        self.driver: Driver | None = None
        self.steps = None
        self.deadline = deadline
        self.where = where

    def begin(self, driver: "Driver") -> bool:
        if not self.sequences:
            return False
        self.driver = driver
        self.party = self.exchange.party
        driver.engine.begin(self)
        if self.deadline < inf:
            driver.watch_deadline(self.exchange, self.deadline)
        return True

    @property
    def request_id(self) -> bytes:
        request_id: bytes = self.exchange.request_id
        return request_id

    def finish(self, error: ElmanError | None) -> None:
        assert self.driver is not None, "begun"
        self.driver.resume(self, error)

    def late(self) -> ElmanError:
        if any(one.save is not None and not one.remaining for one in self.sequences):
            return OutcomeUnknown(
                "the step ran, and the deadline passed before the session store had taken it, which it may still; with "
                "the same at, it happens once"
            )
        return super().late()

    def place(self, index: int) -> str:
        """The `where` of an error of sequence `index`, such as `sequences[3]`."""
        return self.where if isinstance(self.where, str) else self.where[index]

    def check(self) -> None:
        """Raise the first error of any sequence, with its `where`."""
        for index, sequence in enumerate(self.sequences):
            error = sequence.error
            if error is not None:
                error.where = error.where or self.place(index)
                raise error


class Wait(Work):
    """A future to wait for. Outside of a script, `then` makes the response or the next work from its result.

    At `deadline` the event loop answers in any case.
    """

    __slots__ = ("deadline", "exchange", "future", "steps", "then")

    def __init__(
        self, future: "asyncio.Future[T]", then: Callable[[T], Any] | None = None, deadline: float = inf
    ) -> None:
        self.steps = None
        self.future = future
        self.then = then
        self.deadline = deadline

    def begin(self, driver: "Driver") -> bool:
        if self.future.done():
            return False
        self.future.add_done_callback(lambda _: driver.resume(self, None))
        if self.deadline < inf:
            driver.watch_deadline(self.exchange, self.deadline)
        return True

    def cancel(self) -> None:
        self.future.cancel()

    def respond(self) -> Any:
        assert self.then is not None, "only a script may leave out `then`"
        return self.then(self.future.result())


Steps = Generator[Work, None, T]
"""A generator that waits for each work that it yields. Results are read from the work, not from the yield."""


def script(steps: Steps[Any]) -> Any:
    """The first work of a generator, or its return value if it waits for nothing."""
    return _advance(steps, None)


def _advance(steps: Steps[Any], error: Exception | None) -> Any:
    try:
        work = next(steps) if error is None else steps.throw(error)
    except StopIteration as end:
        return end.value
    work.steps = steps  # type: ignore[misc]  # a slot of each kind of work
    return work


def wait(future: "asyncio.Future[T]", deadline: float = inf) -> Steps[T]:
    """In a script: the result of a future, once it is done."""
    yield Wait(future, deadline=deadline)
    return future.result()


def in_thread(call: Callable[..., T], *arguments: Any) -> "asyncio.Future[T]":
    """The result of a call in a thread."""
    return asyncio.get_running_loop().run_in_executor(None, call, *arguments)


def aside(call: Callable[..., T], *arguments: Any) -> Steps[T]:
    """In a script: the result of a call in a thread. For calls that wait for a disk or take milliseconds."""
    return (yield from wait(in_thread(call, *arguments)))


def aside_if(many: bool, call: Callable[..., T], *arguments: Any) -> Steps[T]:
    """In a script: the result of a call, which is made in a thread if it has much to do."""
    return (yield from aside(call, *arguments)) if many else call(*arguments)


def run(queue: ModelQueue, sequences: list[Sequence], where: str | list[str]) -> Steps[None]:
    """In a script: run sequences. Raises the first error of any, with that `where`, or with its own of a list."""
    if sequences:
        work = Run(queue, sequences, sequences[0].deadline, where)
        yield work
        work.check()
