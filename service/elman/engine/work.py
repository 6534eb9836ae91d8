"""Work that a request waits for: sequences that run, or a future. Scripts wait for several, one after the other."""

import asyncio
from collections.abc import Callable, Generator
from math import inf
from typing import Any, Protocol, TypeVar

from elman.engine.engine import Engine
from elman.engine.pending import PendingRequest
from elman.engine.queue import ModelQueue
from elman.engine.sequence import Sequence
from elman.errors import ElmanError

T = TypeVar("T")


class Driver(Protocol):
    """What brings requests through their work."""

    engine: Engine

    def resume(self, work: "Work", error: Exception | None) -> None:
        """Go on after a work is done, or has failed."""

    def watch_deadline(self, exchange: Any, deadline: float) -> None:
        """Answer an exchange shortly after its deadline, whatever the engine does."""


class Work:
    """What a request waits for. `resume` gives the response, or the next work, once there is nothing to wait for."""

    __slots__ = ()

    exchange: Any
    steps: "Generator[Work, None, Any] | None"

    def begin(self, driver: "Driver") -> bool:
        """Begin. False where there is nothing to wait for. Raises ElmanError."""
        raise NotImplementedError

    def cancel(self) -> None:
        """Nobody waits for it any more."""

    def respond(self) -> Any:
        """The response, or the next work. Raises ElmanError."""
        raise NotImplementedError

    def resume(self, error: Exception | None = None) -> Any:
        """The response, or the next work. Raises what went wrong."""
        if self.steps is not None:
            return _advance(self.steps, error)
        if error is not None:
            raise error
        return self.respond()

    def close(self) -> None:
        """Let go of what it holds, since nobody waits any more."""
        if self.steps is not None:
            self.steps.close()


class Run(PendingRequest, Work):
    """Sequences to run.

    Attributes:
        deadline: when the event loop answers in any case, on the clock of `time.monotonic`.
        where: where its sequences stand in the request, for errors.
    """

    __slots__ = ("deadline", "driver", "exchange", "steps", "where")

    def __init__(
        self, queue: ModelQueue, sequences: list[Sequence], deadline: float = inf, where: str = "sequence"
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
        driver.engine.begin(self)
        if self.deadline < inf:
            driver.watch_deadline(self.exchange, self.deadline)
        return True

    def finish(self, error: ElmanError | None) -> None:
        assert self.driver is not None, "begun"
        self.driver.resume(self, error)

    def place(self, index: int) -> str:
        """Where a sequence stands in the request, for errors."""
        return self.where

    def check(self) -> None:
        """Raise the first error of any sequence, at its place in the request."""
        for index, sequence in enumerate(self.sequences):
            error = sequence.error
            if error is not None:
                error.where = error.where or self.place(index)
                raise error


class Wait(Work):
    """A future to wait for, and what is made of its result where this is no part of a script."""

    __slots__ = ("exchange", "future", "steps", "then")

    def __init__(self, future: "asyncio.Future[T]", then: Callable[[T], Any] | None = None) -> None:
        self.steps = None
        self.future = future
        self.then = then

    def begin(self, driver: "Driver") -> bool:
        if self.future.done():
            return False
        self.future.add_done_callback(lambda _: driver.resume(self, None))
        return True

    def cancel(self) -> None:
        self.future.cancel()

    def respond(self) -> Any:
        assert self.then is not None, "what is no part of a script says what follows"
        return self.then(self.future.result())


Steps = Generator[Work, None, T]
"""A generator that waits for each work that it yields. What the work gave is read from the work itself."""


def script(steps: Steps[Any]) -> Any:
    """The first work of a generator, or what the generator returns where it waits for nothing."""
    return _advance(steps, None)


def _advance(steps: Steps[Any], error: Exception | None) -> Any:
    try:
        work = next(steps) if error is None else steps.throw(error)
    except StopIteration as end:
        return end.value
    work.steps = steps  # type: ignore[misc]  # a slot of each kind of work
    return work


def wait(future: "asyncio.Future[T]") -> Steps[T]:
    """In a script: the result of a future, once it is done."""
    yield Wait(future)
    return future.result()


def aside(call: Callable[..., T], *arguments: Any) -> Steps[T]:
    """In a script: the result of a call in a thread, for what waits for a disk or takes milliseconds."""
    future = asyncio.get_running_loop().run_in_executor(None, call, *arguments)
    return (yield from wait(future))


def run(queue: ModelQueue, sequences: list[Sequence], where: str) -> Steps[None]:
    """In a script: run sequences. Raises the first error of any, at `where`."""
    if sequences:
        work = Run(queue, sequences, sequences[0].deadline, where)
        yield work
        work.check()
