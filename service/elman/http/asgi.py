"""The ASGI adapter: brings requests from any ASGI server to the driver."""

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from elman.errors import BodyTimeout, ElmanError, Internal
from elman.http.bodies import Bodies, Body
from elman.http.callers import ANYONE, caller_of
from elman.http.connections import network_of
from elman.http.endpoint import (
    CODE,
    GONE,
    MODEL,
    PATH,
    REQUEST_ID,
    Counters,
    Driver,
    Endpoint,
    Exchange,
    Request,
    Response,
)

# After this many seconds, watch whether the client disconnects, to cancel its work.
_WATCH_AFTER = 0.25


class ClientGone(Exception):
    """The client closed the connection."""


def party_of(scope: Scope) -> bytes:
    """Whose share of the server a request takes: the owner of its key, or without keys its address."""
    owner = caller_of(scope).owner
    return network_of(scope.get("client")).encode() if owner == ANYONE else owner


async def read_body(
    bodies: Bodies, headers: dict[bytes, bytes], receive: Receive, path: str, party: bytes = b""
) -> bytes:
    """The whole body of a request. Raises TooLarge, BodyTimeout, Overloaded and ClientGone."""
    bodies.check_declared(headers, path.encode())
    task = asyncio.current_task()
    assert task is not None, "bodies are read in a task"
    stalled: list[BodyTimeout] = []

    def stop(error: BodyTimeout) -> None:
        stalled.append(error)
        task.cancel()

    body = Body(bodies, party, stop)
    try:
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            body.add(message.get("body", b""))
            more = message.get("more_body", False)
    except asyncio.CancelledError:
        if not stalled:
            raise
        task.uncancel()
        raise stalled[0] from None
    finally:
        body.release()
    return body.join()


class ASGIExchange(Exchange):
    """A request from an ASGI server. A task of that server waits for the response."""

    def __init__(self, receive: Receive, send: Send, scope: Scope) -> None:
        super().__init__()
        self.request_id, self.party = scope[REQUEST_ID], party_of(scope)
        self._scope = scope
        self._receive = receive
        self._send = send
        self._done = asyncio.Event()
        self._response: Response | None = None
        self._streaming = False
        self._failure: Exception | None = None

    @property
    def path(self) -> str:
        path: str = self._scope["path"]
        return path.removeprefix(self._scope.get("root_path", ""))

    def reply(self, response: Response) -> None:
        self._response, self._scope[CODE], self._scope[MODEL] = response, response.code, response.model
        self._done.set()

    def send(self, piece: bytes, headers: Iterable[tuple[bytes, bytes]]) -> "asyncio.Future[None]":
        return asyncio.ensure_future(self._send_piece(piece, headers))

    def disconnect(self) -> None:
        super().disconnect()
        self._done.set()

    async def wait(self) -> None:
        """Wait for the response and send it. Raises ClientGone if the client is gone before."""
        watch: asyncio.Task[None] | None = None

        def start_watching() -> None:
            nonlocal watch
            watch = asyncio.ensure_future(self._watch())

        timer = asyncio.get_running_loop().call_later(_WATCH_AFTER, start_watching)
        try:
            await self._done.wait()
        except asyncio.CancelledError:
            self.disconnect()
            raise
        finally:
            timer.cancel()
            if watch is not None:
                watch.cancel()
        if self._response is None:
            raise ClientGone
        if self._streaming:
            await self._send({"type": "http.response.body", "body": bytes(self._response.content), "more_body": False})
        else:
            await respond(self._send, self._response)

    async def _send_piece(self, piece: bytes, headers: Iterable[tuple[bytes, bytes]]) -> None:
        if not self._streaming:
            self._streaming = True
            await self._send({"type": "http.response.start", "status": 200, "headers": list(headers)})
        await self._send({"type": "http.response.body", "body": piece, "more_body": True})

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.disconnect()


class ASGIEndpoint:
    """An endpoint as an ASGI application. `path` is that of its route, with names of parameters."""

    def __init__(self, endpoint: Endpoint, path: str, driver: Driver, bodies: Bodies) -> None:
        self.endpoint = endpoint
        self.needs = endpoint.needs
        self.path = path
        self._driver = driver
        self._bodies = bodies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        arrived = time.monotonic()
        headers = dict(scope["headers"])
        scope[PATH] = self.path
        exchange = ASGIExchange(receive, send, scope)
        try:
            body = await read_body(self._bodies, headers, receive, exchange.path, exchange.party)
            caller = caller_of(scope)
            request = Request(scope["path_params"], headers, scope["query_string"], body, caller.owner, arrived)
            self._driver.within(caller.meter).start(self.endpoint, request, exchange)
            await exchange.wait()
        except ClientGone:
            pass
        except ElmanError as error:
            scope[CODE] = error.code
            await respond(send, self._driver.problem(error, path=exchange.path))


Ended = Callable[[Scope, str, int, float], None]
"""Called with the scope of a request that was served, its route, its status, and when it arrived."""


async def counted(
    app: ASGIApp, counters: Counters, ended: Ended | None, scope: Scope, receive: Receive, send: Send
) -> None:
    """Serve a request, and count it. Its route is known once it is served."""
    arrived, status, complete = time.monotonic(), 0, False

    async def watched(message: Any) -> None:
        nonlocal status, complete
        status = message.get("status", status)
        await send(message)
        complete = message["type"] == "http.response.body" and not message.get("more_body", False)

    counters.num_accepted += 1
    try:
        await app(scope, receive, watched)
    except Exception:
        status, complete, scope[CODE] = 500, True, Internal.code
        raise
    finally:
        if not complete:
            status, scope[CODE] = 0, GONE.code
        path: str = scope.get(PATH, getattr(scope.get("route"), "path", "none"))
        counters.request_ended(path, status, scope.get(CODE, ""), scope.get(MODEL), time.monotonic() - arrived)
        if ended is not None:
            ended(scope, path, status, arrived)


async def respond(send: Send, response: Response) -> None:
    """Send a whole response."""
    content = bytes(response.content)
    fields = [(b"content-type", response.content_type), (b"content-length", b"%d" % len(content)), *response.headers]
    await send({"type": "http.response.start", "status": response.status, "headers": fields})
    await send({"type": "http.response.body", "body": content})


def replayed(body: bytes, receive: Receive) -> Receive:
    """A `receive` that first gives `body`, which was read already."""
    unread = True

    async def replay() -> Any:
        nonlocal unread
        if not unread:
            return await receive()
        unread = False
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


def with_fields(request_id: bytes, send: Send) -> Send:
    """A `send` that adds the header fields that every answer has."""
    fields = [(b"x-content-type-options", b"nosniff"), (b"x-request-id", request_id)]

    async def send_more(message: Any) -> None:
        if message["type"] in ("http.response.start", "websocket.accept", "websocket.http.response.start"):
            message = {**message, "headers": [*message.get("headers", ()), *fields]}
        await send(message)

    return send_more


async def refuse_upgrade(scope: Scope, receive: Receive, send: Send, response: Response) -> None:
    """Refuse the handshake of a WebSocket, with a response if the server can send one, else with 403."""
    await receive()
    if "websocket.http.response" not in scope.get("extensions", {}):
        await send({"type": "websocket.close"})
        return
    fields = [(b"content-type", response.content_type), *response.headers]
    await send({"type": "websocket.http.response.start", "status": response.status, "headers": fields})
    await send({"type": "websocket.http.response.body", "body": response.content})


async def refuse_socket(receive: Receive, send: Send) -> None:
    """Refuse a WebSocket without a valid key. It is accepted first, so that the client gets the reason."""
    await receive()
    await send({"type": "websocket.accept"})
    await send({"type": "websocket.close", "code": 1008, "reason": "unauthorized: an API key is needed"})
