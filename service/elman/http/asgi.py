"""The hot path's HTTP: bodies read and answers sent straight over ASGI, or without it where a request came whole."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import orjson
from starlette.types import Receive, Scope, Send

from elman.errors import ElmanError, Internal, Overloaded, RequestError, TooLarge

PROBLEM = b"application/problem+json"
JSON = b"application/json"
BINARY = b"application/octet-stream"

# Bodies of the largest size that may be on their way at once, all clients together, in bytes.
_MOST_BODIES = 4
# Time-outs between two pieces that a whole body may take.
_MOST_TIMEOUTS = 20

Endpoint = Callable[[Scope, Receive, Send], Awaitable[None]]

_LOG = logging.getLogger("elman")


@dataclass(slots=True)
class Request:
    """A request whose body is all there.

    Attributes:
        parameters: of its path.
        headers: by name in lower case; of several of one name, the last.
        query: as it came.
        owner: whose it is, as `Callers` found.
    """

    parameters: Mapping[str, str]
    headers: Mapping[bytes, bytes]
    query: bytes
    body: bytes
    owner: bytes


@dataclass(slots=True)
class Answer:
    """A whole response. Values of `headers` hold no line break."""

    content: bytes
    content_type: bytes = JSON
    headers: Iterable[tuple[bytes, bytes]] = ()
    status: int = 200


class Caller(Protocol):
    """Who waits for the answer to one request. Used on the event loop."""

    disconnected: bool

    def reply(self, answer: Answer) -> None:
        """Send the answer, once. Does not raise."""


Settle = Callable[[Callable[[], Answer]], None]
"""Takes what composes the answer, and sends that or what went wrong; nothing to a client that is gone."""

GiveUp = Callable[[], None]
"""Stops what was begun, for a client that is gone."""


class Direct(Protocol):
    """An endpoint that can also do without a task."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None: ...

    def begin(self, request: Request, settle: Settle) -> GiveUp | None:
        """Begin on a request that is settled on a later turn of the loop; None where that takes a task.

        Raises ElmanError.
        """


class ClientGone(Exception):
    """The client closed the connection before its request was whole."""


class BodyTimeout(RequestError):
    status = 408
    code = "body_timeout"
    title = "The body did not arrive in time"


class BodyReader:
    """Reads request bodies, up to a size, and gives up those that stall.

    One sweep a second looks after all of them, which costs a request far less than a timer of its own.
    """

    def __init__(self, limit: int, timeout: float) -> None:
        self.limit = limit
        self.timeout = timeout
        self._num_held = 0
        self._waiting: dict[asyncio.Task[Any], float] = {}
        self._overdue: set[asyncio.Task[Any]] = set()
        self._stalled: set[asyncio.Task[Any]] = set()

    async def read(self, headers: Mapping[bytes, bytes], receive: Receive) -> bytes:
        """The whole body. Raises TooLarge, BodyTimeout and ClientGone."""
        declared = headers.get(b"content-length", b"")
        if declared.isdigit() and int(declared) > self.limit:
            raise _too_large(self.limit)
        message = await self._next(receive)
        body: bytes = message.get("body", b"")
        if len(body) > self.limit:  # before more of it is waited for, which may never come
            raise _too_large(self.limit)
        return await self._rest(body, receive) if message.get("more_body", False) else body

    async def _rest(self, first: bytes, receive: Receive) -> bytes:
        pieces, size, more = [first], len(first), True
        until = time.monotonic() + _MOST_TIMEOUTS * self.timeout
        self._num_held += size
        try:
            while more:
                message = await self._next(receive)
                pieces.append(message.get("body", b""))
                size += len(pieces[-1])
                self._num_held += len(pieces[-1])
                if size > self.limit:
                    raise _too_large(self.limit)
                if self._num_held > _MOST_BODIES * self.limit:
                    raise Overloaded(f"unfinished bodies hold {self._num_held} bytes", retry_after=1)
                if time.monotonic() > until:
                    raise BodyTimeout(f"the body was not whole after {_MOST_TIMEOUTS * self.timeout:g} seconds")
                more = message.get("more_body", False)
        finally:
            self._num_held -= size
        return b"".join(pieces)

    async def _next(self, receive: Receive) -> Any:
        task = asyncio.current_task()
        assert task is not None, "bodies are read in a task"
        self._waiting[task] = time.monotonic() + self.timeout
        try:
            message = await receive()
        except asyncio.CancelledError:
            if task not in self._stalled:
                raise
            self._stalled.discard(task)
            task.uncancel()
            raise BodyTimeout(f"nothing of the body came for {self.timeout:g} seconds") from None
        finally:
            del self._waiting[task]
            self._overdue.discard(task)
        if message["type"] == "http.disconnect":
            raise ClientGone
        return message

    async def sweep(self) -> None:
        """Give up the bodies that stalled, until cancelled.

        Only those overdue for two sweeps in a row: after a stall of the loop itself, what has arrived is read first.
        """
        while True:
            await asyncio.sleep(min(1.0, self.timeout / 4))
            now = time.monotonic()
            overdue = {task for task, deadline in self._waiting.items() if now > deadline} - self._stalled
            for task in overdue & self._overdue:
                self._stalled.add(task)
                task.cancel()
            self._overdue = overdue


def _too_large(limit: int) -> TooLarge:
    return TooLarge(f"the body is larger than {limit} bytes", expected=f"at most {limit} bytes")


async def respond(
    send: Send,
    body: bytes,
    content_type: bytes = JSON,
    status: int = 200,
    headers: Iterable[tuple[bytes, bytes]] = (),
) -> None:
    """Send a whole response."""
    fields = [(b"content-type", content_type), (b"content-length", b"%d" % len(body)), *headers]
    await send({"type": "http.response.start", "status": status, "headers": fields})
    await send({"type": "http.response.body", "body": body})


async def respond_with(send: Send, answer: Answer) -> None:
    """Send an answer."""
    await respond(send, answer.content, answer.content_type, answer.status, answer.headers)


def problem(error: ElmanError) -> Answer:
    """An error as `application/problem+json`."""
    headers = [(name.encode(), value.encode()) for name, value in error.headers.items()]
    return Answer(orjson.dumps(error.problem()), PROBLEM, headers, error.status)


async def respond_problem(send: Send, error: ElmanError) -> None:
    """Send an error as `application/problem+json`."""
    await respond_with(send, problem(error))


def replayed(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives a body that was read already, and then what comes after it."""
    unread = True

    async def replay() -> Any:
        nonlocal unread
        if not unread:
            return await receive()
        unread = False
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


async def refuse_socket(receive: Receive, send: Send) -> None:
    """Turn a WebSocket away that came without a key that is known: accepted, so that the client learns why."""
    await receive()
    await send({"type": "websocket.accept"})
    await send({"type": "websocket.close", "code": 1008, "reason": "unauthorized: an API key is needed"})


class Hot:
    """An endpoint served as bare ASGI, with every error turned into a problem."""

    def __init__(self, endpoint: Endpoint, report: Callable[[ElmanError], None]) -> None:
        self.endpoint = endpoint
        self.report = report

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self.endpoint(scope, receive, send)
        except ClientGone:
            pass
        except Exception as error:
            await respond_with(send, self.answer_to(error))

    def answer_to(self, error: Exception) -> Answer:
        """What is said of an error, which is counted."""
        if not isinstance(error, ElmanError):
            _LOG.error("a request failed", exc_info=error)
            error = Internal("the server failed on this request")
        self.report(error)
        return problem(error)


class HotDirect(Hot):
    """The same of an endpoint that can also do without a task."""

    def __init__(self, endpoint: Direct, report: Callable[[ElmanError], None]) -> None:
        super().__init__(endpoint, report)
        self._begin = endpoint.begin

    def begin(self, request: Request, caller: Caller) -> GiveUp | None:
        """Begin on a request, to reply now or later; None, with nothing begun, where it is to be served as ASGI."""
        try:
            return self._begin(request, partial(self._settle, caller))
        except Exception as error:
            caller.reply(self.answer_to(error))
            return _nothing

    def _settle(self, caller: Caller, compose: Callable[[], Answer]) -> None:
        if caller.disconnected:
            return
        try:
            answer = compose()
        except Exception as error:
            answer = self.answer_to(error)
        caller.reply(answer)


def _nothing() -> None:
    """What there is to give up of a request that was answered at once."""
