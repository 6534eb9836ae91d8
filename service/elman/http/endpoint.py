"""The contract of an endpoint, and the driver that runs requests.

An endpoint is two synchronous functions:

    parse(request) -> Work         reads a request and returns the work to run
    work.respond() -> Response     makes the response once the work is done

Between the two, the driver starts the work, waits for it, keeps deadlines, cancels the work of a client that is gone,
and turns errors into responses. Two adapters bring it requests: `elman.http.protocol` from our own HTTP server,
`elman.http.asgi` from any other ASGI server.

An endpoint that waits several times is written as a generator (`script`), which yields one work after the other.
"""

import asyncio
import logging
import re
import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from itertools import count
from math import inf
from typing import Any, Protocol, TypeVar

from msgspec import Struct

from elman.codec.faults import encode_any
from elman.engine.work import Admission, Steps, Work, script
from elman.errors import ElmanError, Internal
from elman.http.callers import ANYONE, Caller
from elman.http.limits import Meter, MeteredEngine
from elman.http.logs import of_request
from elman.http.roles import Need

T = TypeVar("T")

CODE, MODEL, PATH = "elman.code", "elman.model", "elman.path"
"""The keys of an ASGI scope that hold `code` and `model` of the response, and the path of the route."""

PROBLEM = b"application/problem+json"
JSON = b"application/json"
OCTETS = b"application/octet-stream"

MAX_JOINED_BYTES = 64 * 1024
"""A body of at most this many bytes is joined with its head in one buffer."""

# Seconds after its deadline when the event loop answers a request, if the engine has not.
_GRACE = 0.05

REQUEST_ID = "elman.request_id"
"""The key of an ASGI scope that holds the id of the request."""

# An id of the caller's that is taken over: short, and safe in a header and in a log.
_REQUEST_ID = re.compile(rb"[\x21-\x7e]{1,128}")

_LOG = logging.getLogger("elman")


class Request(Struct):
    """A request with its whole body.

    Attributes:
        parameters: the parameters of its path, such as `name`.
        headers: by name in lower case; if a name is repeated, the last value.
        query: the query string, not decoded.
        body: the body, not decoded.
        owner: the caller, as `Callers` identified it.
        arrived: when its first byte arrived, on the clock of `time.monotonic`.
        party: whose share of the server it takes: its owner, or without keys the address that it comes from.
    """

    parameters: Mapping[str, str]
    headers: Mapping[bytes, bytes]
    query: bytes
    body: bytes
    owner: bytes
    arrived: float
    party: bytes = b""

    def deadline(self, timeout: float | None) -> float:
        """The deadline of its answer, on the clock of `time.monotonic`; infinity without a timeout."""
        return inf if timeout is None else self.arrived + timeout


class Pieces:
    """A large body in several buffers, which are written without being joined."""

    __slots__ = ("_size", "buffers")

    def __init__(self, buffers: Sequence[bytes | memoryview], size: int) -> None:
        self.buffers = buffers
        self._size = size

    @classmethod
    def joined(cls, buffers: Sequence[bytes | memoryview]) -> "bytes | Pieces":
        """A body from buffers, joined if it is small."""
        size = sum(map(len, buffers))
        return b"".join(buffers) if size <= MAX_JOINED_BYTES else cls(buffers, size)

    def __len__(self) -> int:
        return self._size

    def __bytes__(self) -> bytes:
        return b"".join(self.buffers)


class Response(Struct):
    """A whole response, or the last piece of a streamed one. Values of `headers` must not contain line breaks.

    `model` is the name and version of the model in whose metrics it is counted. `code` is that of the error that it
    tells of, if it does.
    """

    content: bytes | Pieces
    content_type: bytes = JSON
    headers: Iterable[tuple[bytes, bytes]] = ()
    status: int = 200
    model: tuple[str, int] | None = None
    code: str = ""


GONE = Response(b"", status=0, code="disconnected")
"""Stands for the response that a client did not wait for."""


class Exchange:
    """One request and its response. Used on the event loop.

    Attributes:
        work: the work that it waits for now.
        timer: answers it after its deadline.
        arrived: as in the request.
        party: as in the request. Before it is known who sent the request, the address.
        disconnected: True once the client is gone.
        replied: True once it has its response.
        request_id: the id of the request, for its response and the log.
    """

    __slots__ = ("arrived", "disconnected", "party", "replied", "request_id", "timer", "work")

    def __init__(self) -> None:
        self.request_id = b""
        self.work: Work | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.arrived = 0.0
        self.party = b""
        self.disconnected = False
        self.replied = False

    def reply(self, response: Any) -> None:
        """Send the response. Called once. Does not raise."""
        raise NotImplementedError

    def fail(self, driver: "Driver", error: Exception) -> None:
        """Send an error. Called once, instead of `reply`."""
        self.reply(driver.problem(error, self.request_id, self.path))

    @property
    def path(self) -> str:
        """The path of the request, as far as it is known."""
        return ""

    def send(self, piece: bytes, headers: Iterable[tuple[bytes, bytes]]) -> "asyncio.Future[None] | None":
        """Send a piece of a streamed response, with the head before the first piece.

        Returns a future to wait for before the next piece, or None if there is no need to wait.
        """
        raise NotImplementedError

    def disconnect(self) -> None:
        """The client is gone: cancel its work."""
        self.disconnected = True
        if self.timer is not None:
            self.timer.cancel()  # it would keep the request until its deadline
        # Work and exchange refer to each other: a cycle, which nothing would collect for long.
        work, self.work = self.work, None
        if work is not None:
            work.cancel()


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


class Route(Struct):
    """The endpoint of a request, the parameters of its path, its path with their names, its caller, and its driver."""

    endpoint: "Endpoint"
    parameters: Mapping[str, str]
    path: str
    caller: Caller
    driver: "Driver"


class Endpoint(Protocol):
    """Serves one route. `needs` is what a caller needs for it."""

    needs: Need

    def parse(self, request: Request) -> "Work | Response":
        """The work to run for a request, or the response if there is none. Raises ElmanError."""


class Counters(Protocol):
    """Counts requests. Each that begins ends once."""

    num_accepted: int
    """Requests begun."""

    def request_ended(self, route: str, status: int, code: str, model: tuple[str, int] | None, seconds: float) -> None:
        """Count the end of a request.

        Args:
            route: its path, with names of parameters.
            status: of its response; 0 if the client was gone before it was complete.
            code: of the error that it was answered with; empty if it was none.
            model: name and version of the model that answered it.
            seconds: from its first byte to the end.
        """

    def request_failed(self, error: ElmanError) -> None: ...


class Driver:
    """Runs requests: parse, engine, deadline, cancellation, response, counters and errors."""

    def __init__(self, engine: Admission, counters: Counters) -> None:
        self.engine = engine
        self.counters = counters
        self._id_prefix, self._id_numbers = secrets.token_hex(4).encode(), count(1)

    def within(self, meter: Meter | None) -> "Driver":
        """This driver for the requests of one caller. With a meter, the limits of its key hold."""
        if meter is None:
            return self
        limited = copy(self)
        limited.engine = MeteredEngine(self.engine, meter)
        return limited

    def request_id(self, headers: Mapping[bytes, bytes]) -> bytes:
        """The caller's `X-Request-ID`, if it is at most 128 printable ASCII characters, else a new one."""
        given = headers.get(b"x-request-id")
        if given is not None and _REQUEST_ID.fullmatch(given):
            return given
        return b"%b-%x" % (self._id_prefix, next(self._id_numbers))

    def start(self, endpoint: Endpoint, request: Request, exchange: Exchange) -> None:
        """Begin on a request. The exchange gets one response, now or on a later turn of the loop."""
        exchange.arrived = request.arrived
        if request.owner != ANYONE:
            exchange.party = request.owner
        request.party = exchange.party
        try:
            # A request for which there is no room costs no decoding.
            self.engine.check_room(exchange.party)
        except Exception as error:
            self._fail(exchange, error)
        else:
            self._advance(exchange, endpoint.parse, request)

    async def complete(self, steps: Steps[T], party: bytes = b"", request_id: bytes = b"") -> T:
        """Run a script of a caller from a task, and return its result. Raises what the script raises."""
        exchange = _Awaited(asyncio.get_running_loop().create_future())
        exchange.party, exchange.request_id = party, request_id
        self._advance(exchange, script, steps)
        try:
            result: T = await exchange.future
            return result
        except asyncio.CancelledError:
            exchange.disconnect()
            raise

    def resume(self, work: Work, error: Exception | None) -> None:
        """Continue a request after its work is done, or has failed with `error`."""
        exchange = work.exchange
        if exchange.disconnected or exchange.replied:
            work.close()
            return
        self._advance(exchange, work.resume, error)

    def _advance(self, exchange: Exchange, step: Callable[[Any], Any], argument: object) -> None:
        """Take a step, and begin works one after the other until one has to be waited for, or the response is there."""
        try:
            outcome = step(argument)
            while isinstance(outcome, Work):
                exchange.work, outcome.exchange = outcome, exchange
                failure: Exception | None = None
                try:
                    if outcome.begin(self):
                        return
                except Exception as error:
                    failure = error
                outcome = outcome.resume(failure)
        except Exception as error:
            self._fail(exchange, error)
            return
        self._end(exchange)
        exchange.reply(outcome)

    def _fail(self, exchange: Exchange, error: Exception) -> None:
        self._end(exchange)
        exchange.fail(self, error)

    def _end(self, exchange: Exchange) -> None:
        exchange.work, exchange.replied = None, True
        if exchange.timer is not None:
            exchange.timer.cancel()

    def watch_deadline(self, exchange: Exchange, deadline: float) -> None:
        """Answer an exchange shortly after its deadline, even if the engine is busy."""
        if exchange.timer is not None:
            return
        loop = asyncio.get_running_loop()
        exchange.timer = loop.call_later(max(0.0, deadline - time.monotonic()) + _GRACE, self._expire, exchange)

    def _expire(self, exchange: Exchange) -> None:
        if exchange.replied or exchange.disconnected:
            return
        # The engine drops late sequences by itself at its next run, so they are not cancelled here.
        assert exchange.work is not None, "a request without an answer waits for some work"
        self._fail(exchange, exchange.work.late())

    def problem(self, error: Exception, request_id: bytes = b"", path: str = "") -> Response:
        """An error as `problem_type(path)`. Counts it, and logs it if it is a defect."""
        known = error if isinstance(error, ElmanError) else Internal("the server failed on this request")
        if known is not error:
            log_failure(error, request_id)
        forget_frames(error)
        self.counters.request_failed(known)
        error = known
        headers = [(name.encode(), value.encode()) for name, value in error.headers.items()]
        return Response(encode_problem(error), problem_type(path), headers, error.status, code=error.code)


def forget_frames(error: BaseException) -> None:
    """Let go of the frames through which an error came.

    They hold the request, and some of them the error itself: a cycle, which nothing would collect for long.
    """
    error.__traceback__ = error.__cause__ = error.__context__ = None


def encode_problem(error: ElmanError) -> bytes:
    """The body of an error, as JSON, whatever a caller's text and numbers in it are."""
    return encode_any(error.problem())


def problem_type(path: str) -> bytes:
    """The media type of errors. Clients of the Open Inference Protocol read no other than plain JSON."""
    return JSON if is_open(path) else PROBLEM


def is_open(path: str) -> bool:
    """Whether a path is one of the Open Inference Protocol."""
    return path.startswith("/v2/") or path.partition("?")[0] == "/v2"


def log_failure(error: Exception, request_id: bytes) -> None:
    """Log a defect of the server that a request met."""
    _LOG.error("request %s failed", request_id.decode(), exc_info=error, extra=of_request(request_id))


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
