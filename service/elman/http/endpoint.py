"""The contract of an endpoint, and the driver that brings a request through it.

An endpoint is two synchronous functions:

    parse(request) -> Work         reads a request and says what has to run
    work.respond() -> Response     makes the answer once it has run

The driver does what lies between: it starts the work, waits for it, keeps deadlines, gives up the work of a client
that is gone, and turns errors into answers. Two adapters bring it requests: `elman.http.protocol` those of our own HTTP
server, `elman.http.asgi` those of any other ASGI server.

Work that has to wait several times is written as a generator (`script`), which yields one work after the other.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import Any, Protocol, TypeVar

import orjson

from elman.engine.engine import Engine
from elman.engine.work import Steps, Work, script
from elman.errors import DeadlineExceeded, ElmanError, Internal

T = TypeVar("T")

PROBLEM = b"application/problem+json"
JSON = b"application/json"
OCTETS = b"application/octet-stream"

# How long after its deadline the event loop answers a request that the engine has not answered itself.
_GRACE = 0.05

_LOG = logging.getLogger("elman")


@dataclass(slots=True)
class Request:
    """A request whose body is all there.

    Attributes:
        parameters: of its path.
        headers: by name in lower case; of several of one name, the last.
        query: as it came.
        body: as it came.
        owner: the caller, as `Callers` identified it.
        arrived: when its first byte was there, on the clock of `time.monotonic`.
    """

    parameters: Mapping[str, str]
    headers: Mapping[bytes, bytes]
    query: bytes
    body: bytes
    owner: bytes
    arrived: float

    def deadline(self, timeout: float | None) -> float:
        """When its answer is of no use any more, on the clock of `time.monotonic`."""
        return inf if timeout is None else self.arrived + timeout


@dataclass(slots=True)
class Response:
    """A whole response, or the last piece of one that was streamed. Values of `headers` hold no line break.

    `model` is the name and version of the model that it is counted for.
    """

    content: bytes
    content_type: bytes = JSON
    headers: Iterable[tuple[bytes, bytes]] = ()
    status: int = 200
    model: tuple[str, int] | None = None


class Exchange:
    """One request and whoever waits for its response. Used on the event loop.

    Attributes:
        work: what it waits for now.
        timer: what answers it after its deadline.
        arrived: as of the request.
        disconnected: whether the client is gone.
        replied: whether it has its response.
    """

    __slots__ = ("arrived", "disconnected", "replied", "timer", "work")

    def __init__(self) -> None:
        self.work: Work | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.arrived = 0.0
        self.disconnected = False
        self.replied = False

    def reply(self, response: Any) -> None:
        """Send the response. Called once. Does not raise."""
        raise NotImplementedError

    def fail(self, driver: "Driver", error: Exception) -> None:
        """Send what went wrong. Called once, in the place of `reply`."""
        self.reply(driver.problem(error))

    def send(self, piece: bytes, headers: Iterable[tuple[bytes, bytes]]) -> "asyncio.Future[None] | None":
        """Send a piece of a streamed response, the head before the first one.

        Returns what to wait for before the next piece; None where the client keeps up.
        """
        raise NotImplementedError

    def disconnect(self) -> None:
        """The client is gone: give up its work."""
        self.disconnected = True
        if self.work is not None:
            self.work.cancel()


class Send(Work):
    """A piece of a streamed response to send."""

    __slots__ = ("exchange", "headers", "piece", "steps")

    def __init__(self, piece: bytes, headers: Iterable[tuple[bytes, bytes]]) -> None:
        self.steps = None
        self.piece = piece
        self.headers = headers

    def begin(self, driver: Any) -> bool:
        waiting = self.exchange.send(self.piece, self.headers)
        if waiting is None:
            return False
        waiting.add_done_callback(lambda _: driver.resume(self, None))
        return True


@dataclass(slots=True)
class Route:
    """Where a request goes: the endpoint, the parameters of its path, and the caller that it comes from."""

    endpoint: "Endpoint"
    parameters: Mapping[str, str]
    owner: bytes


class Endpoint(Protocol):
    """What serves one route."""

    def parse(self, request: Request) -> "Work | Response":
        """What has to run for a request, or the response where nothing has to. Raises ElmanError."""


class Counters(Protocol):
    """What counts requests."""

    def request_done(self, model: tuple[str, int], seconds: float) -> None: ...

    def request_failed(self, error: ElmanError) -> None: ...


class Driver:
    """Brings requests through their endpoints: engine, deadlines, cancellation, counters and errors."""

    def __init__(self, engine: Engine, counters: Counters) -> None:
        self.engine = engine
        self.counters = counters

    def start(self, endpoint: Endpoint, request: Request, exchange: Exchange) -> None:
        """Begin on a request. The exchange gets one response, now or on a later turn of the loop."""
        exchange.arrived = request.arrived
        try:
            outcome = endpoint.parse(request)
        except Exception as error:
            self._fail(exchange, error)
        else:
            self._follow(exchange, outcome)

    async def complete(self, steps: Steps[T]) -> T:
        """What a script returns, for a task. Raises what the script raises."""
        exchange = _Awaited(asyncio.get_running_loop().create_future())
        self._go_on(exchange, partial(script, steps))
        try:
            result: T = await exchange.future
            return result
        except asyncio.CancelledError:
            exchange.disconnect()
            raise

    def resume(self, work: Work, error: Exception | None) -> None:
        """Go on after a work is done, or has failed."""
        exchange = work.exchange
        if exchange.disconnected or exchange.replied:
            work.close()
            return
        self._go_on(exchange, partial(work.resume, error))

    def _go_on(self, exchange: Exchange, step: Callable[[], Any]) -> None:
        try:
            outcome = step()
        except Exception as error:
            self._fail(exchange, error)
        else:
            self._follow(exchange, outcome)

    def _follow(self, exchange: Exchange, outcome: Any) -> None:
        """Begin the next work, one after the other as long as there is nothing to wait for, or send the response."""
        while isinstance(outcome, Work):
            exchange.work, outcome.exchange = outcome, exchange
            failure: Exception | None = None
            try:
                if outcome.begin(self):
                    return
            except Exception as error:
                failure = error
            try:
                outcome = outcome.resume(failure)
            except Exception as error:
                self._fail(exchange, error)
                return
        self._end(exchange)
        if type(outcome) is Response and outcome.model is not None:
            self.counters.request_done(outcome.model, time.monotonic() - exchange.arrived)
        exchange.reply(outcome)

    def _fail(self, exchange: Exchange, error: Exception) -> None:
        self._end(exchange)
        exchange.fail(self, error)

    def _end(self, exchange: Exchange) -> None:
        exchange.work, exchange.replied = None, True
        if exchange.timer is not None:
            exchange.timer.cancel()

    def watch_deadline(self, exchange: Exchange, deadline: float) -> None:
        """Answer an exchange shortly after its deadline, whatever the engine does."""
        if exchange.timer is not None:
            return
        loop = asyncio.get_running_loop()
        exchange.timer = loop.call_later(max(0.0, deadline - time.monotonic()) + _GRACE, self._expire, exchange)

    def _expire(self, exchange: Exchange) -> None:
        if exchange.replied or exchange.disconnected:
            return
        # The engine gives up what is late by itself, once it comes to it.
        where = getattr(exchange.work, "where", None)
        self._fail(exchange, DeadlineExceeded("the deadline passed before the answer was there", where=where))

    def problem(self, error: Exception) -> Response:
        """An error as `application/problem+json`. It is counted."""
        if not isinstance(error, ElmanError):
            _LOG.error("a request failed", exc_info=error)
            error = Internal("the server failed on this request")
        self.counters.request_failed(error)
        headers = [(name.encode(), value.encode()) for name, value in error.headers.items()]
        return Response(orjson.dumps(error.problem()), PROBLEM, headers, error.status)


class _Awaited(Exchange):
    """A script that a task waits for."""

    def __init__(self, future: "asyncio.Future[Any]") -> None:
        super().__init__()
        self.future = future

    def reply(self, response: Any) -> None:
        if not self.future.done():
            self.future.set_result(response)

    def fail(self, driver: Driver, error: Exception) -> None:
        if not self.future.done():
            self.future.set_exception(error)
