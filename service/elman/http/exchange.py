"""One request of a connection, and its response from the driver or from the ASGI application."""

import asyncio
import logging
import re
import time
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

import httptools

from elman.errors import ElmanError, InvalidHTTP
from elman.http.callers import caller_of
from elman.http.endpoint import GONE, REQUEST_ID, Driver, Exchange, Request, Response, Route
from elman.http.logs import of_request
from elman.http.short import cache_short

if TYPE_CHECKING:
    from elman.http.bodies import Body
    from elman.http.protocol import HTTPProtocol

Headers = list[tuple[bytes, bytes]]

_ACCESS = logging.getLogger("uvicorn.access")
# What a request that the application serves takes on the event loop.
_ASGI_SECONDS = 0.5e-3
_SESSION_IN_PATH = re.compile(r"(/v1/sessions/)[^/]+")


@lru_cache(64)
def _start_of(status: int) -> bytes:
    """The status line, and the header fields of every answer up to the id of the request."""
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = ""
    return f"HTTP/1.1 {status} {phrase}\r\nx-content-type-options: nosniff\r\nx-request-id: ".encode()


@cache_short
def parse_target(url: bytes) -> tuple[str, bytes, bytes]:
    """(path, raw path, query) of a request's target. Raises InvalidHTTP."""
    try:
        parsed = httptools.parse_url(url)
        raw = parsed.path or b"/"
        return unquote(raw.decode("ascii")), raw, parsed.query or b""
    except (httptools.HttpParserError, UnicodeDecodeError):
        raise InvalidHTTP("the target of the request is not a URL") from None


def without_session(path: str) -> str:
    """A path without the id of a session, which gives its owner access."""
    return _SESSION_IN_PATH.sub(r"\1...", path)


def address_of(peer: Any) -> tuple[str, int] | None:
    return (str(peer[0]), int(peer[1])) if isinstance(peer, tuple) else None


class Head:
    """The head of a request, and its route.

    Attributes:
        fields: the header fields by name in lower case; if a name is repeated, the last value.
        route: None if the request is served as ASGI.
        error: why the request cannot be served.
    """

    __slots__ = (
        "error", "fields", "headers", "keep_alive", "method", "path", "query", "raw_path", "route", "url", "version",
    )  # fmt: skip

    def __init__(self, method: bytes, version: str, keep_alive: bool, url: bytes, headers: Headers) -> None:
        self.method = method
        self.version = version
        self.keep_alive = keep_alive and version != "1.0"
        self.url = url
        self.headers = headers
        self.fields = dict(headers)
        self.route: Route | None = None
        self.error: ElmanError | None = None
        self.path, self.raw_path, self.query = "", b"", b""

    def at(self, url: bytes, raw_path: bytes, query: bytes) -> "Head":
        """The same head with another target, of ASCII characters without escapes. Its route is not looked up yet."""
        moved = Head.__new__(Head)
        moved.method, moved.version, moved.keep_alive = self.method, self.version, self.keep_alive
        moved.headers, moved.fields = self.headers, self.fields
        moved.url, moved.path, moved.raw_path, moved.query = url, raw_path.decode("ascii"), raw_path, query
        moved.route = moved.error = None
        return moved

    def rewritten(self, without: bytes = b"") -> bytes:
        """Its bytes, less the fields of one name."""
        lines = [b"%b %b HTTP/%b" % (self.method, self.url, self.version.encode())]
        lines += [name + b": " + value for name, value in self.headers if name != without]
        return b"\r\n".join(lines) + b"\r\n\r\n"

    def read_target(self) -> bool:
        """Set the path and the query, or the error."""
        try:
            self.path, self.raw_path, self.query = parse_target(self.url)
        except InvalidHTTP as error:
            self.error, self.keep_alive = error, False
        return self.error is None

    def find_route(self, find: Callable[[str, Mapping[bytes, bytes]], Route | None]) -> None:
        """Set the route, or the error."""
        try:
            if self.method == b"POST":
                self.route = find(self.path, self.fields)
        except ElmanError as error:
            self.error = error


class HTTPExchange(Exchange):
    """One request of a connection that the driver answers.

    Attributes:
        body: a large one is joined before the request begins.
        seconds: of the event loop that its beginning causes, beside what `start` takes.
    """

    __slots__ = ("body", "chunked", "complete", "head", "keep_alive", "protocol", "streaming")

    seconds = 0.0

    def __init__(self, protocol: "HTTPProtocol", head: Head, body: "bytes | Body", arrived: float) -> None:
        super().__init__()
        self.request_id = protocol.http.driver.request_id(head.fields)
        self.protocol, self.party = protocol, protocol.party
        self.head = head
        self.body = body
        self.arrived = arrived
        self.keep_alive = head.keep_alive
        self.streaming = self.chunked = self.complete = False

    def start(self) -> None:
        """Begin on the request."""
        head, driver = self.head, self.protocol.http.driver
        driver.counters.num_accepted += 1
        route = head.route
        if head.error is not None or route is None:
            self.fail(driver, head.error or RuntimeError("a request without a route is served as ASGI"))
            return
        body: Any = self.body  # joined by now
        request = Request(route.parameters, head.fields, head.query, body, route.caller.owner, self.arrived)
        route.driver.start(route.endpoint, request, self)

    def reply(self, response: Response) -> None:
        if self.streaming:
            self._write_piece(bytes(response.content), last=True)
        else:
            self._write_whole(response)
        self._count(response)
        self._finish()

    def fail(self, driver: Driver, error: Exception) -> None:
        if self.streaming:  # the status is sent already: closing the connection is the only way to show the error
            problem = driver.problem(error, self.request_id, self.path)
            self.keep_alive = False
            self._count(problem)
            self._finish()
        else:
            super().fail(driver, error)

    @property
    def path(self) -> str:
        return self.head.url.decode("latin-1")

    def disconnect(self) -> None:
        super().disconnect()
        self._count(GONE)

    def give_up(self) -> None:
        """The client is gone before the request, which is read, could begin."""
        self.protocol.http.driver.counters.num_accepted += 1
        self.disconnect()

    def _count(self, response: Response) -> None:
        route = self.head.route
        path = "none" if route is None else route.path
        counters, seconds = self.protocol.http.driver.counters, time.monotonic() - self.arrived
        counters.request_ended(path, response.status, response.code, response.model, seconds)

    def send(self, piece: bytes, headers: Iterable[tuple[bytes, bytes]]) -> "asyncio.Future[None] | None":
        if not self.streaming:
            self._write_head(200, list(headers))
        self._write_piece(piece, last=False)
        return self.protocol.drained()

    def _write_whole(self, response: Response) -> None:
        protocol, status, content = self.protocol, response.status, response.content
        head = [_start_of(status), self.request_id, b"\r\n", protocol.default_fields()]
        head += b"content-type: ", response.content_type, b"\r\ncontent-length: %d\r\n" % len(content)
        for name, value in response.headers:
            head += name, b": ", value, b"\r\n"
        head.append(b"\r\n" if self.keep_alive and not protocol.stopping else b"connection: close\r\n\r\n")
        if protocol.access_log:
            self._log(status)
        protocol.write(head, content)

    def _write_head(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes = b"") -> None:
        """Write the head of a response. Without a content-length the body is sent in chunks."""
        self.streaming = True
        names = {name for name, _ in headers}
        head = [_start_of(status), self.request_id, b"\r\n", self.protocol.default_fields()]
        for name, value in headers:
            if b"\n" in value or b"\r" in value:
                raise ValueError(f"the header {name!r} holds a line break")
            head += name, b": ", value, b"\r\n"
        if b"content-length" not in names and status >= 200 and status not in (204, 304):
            self.chunked = self.head.version == "1.1"
            self.keep_alive = self.keep_alive and self.chunked
            if self.chunked:
                head.append(b"transfer-encoding: chunked\r\n")
        head.append(b"\r\n" if self.keep_alive and not self.protocol.stopping else b"connection: close\r\n\r\n")
        if self.protocol.access_log:
            self._log(status)
        self.protocol.write(head, body)

    def _write_piece(self, piece: bytes, last: bool) -> None:
        if self.head.method == b"HEAD":
            return
        if self.chunked:
            end = b"\r\n0\r\n\r\n" if last else b"\r\n"
            if piece:
                self.protocol.write([b"%x\r\n" % len(piece), piece, end], b"")
            elif last:
                self.protocol.write([end[2:]], b"")
        elif piece:
            self.protocol.write([], piece)

    def _finish(self) -> None:
        self.complete = True
        self.protocol.finished(self.keep_alive)

    def _key(self) -> dict[str, str]:
        """The name of the caller's key, for the log."""
        route = self.head.route
        return {} if route is None or not route.caller.name else {"key": route.caller.name}

    def _log(self, status: int) -> None:
        # The format has five fields. The id stands beside the client, where other servers log the user.
        client = f"{':'.join(map(str, self.protocol.client or ()))} {self.request_id.decode()}"
        # The id of a session may stand in the query too, and a path may be escaped where it need not be.
        path = self.head.path or unquote(self.head.url.decode("latin-1").partition("?")[0])
        target = quote(without_session(path), safe="/:@!$&'()*+,;=")
        method, version, seconds = self.head.method.decode(), self.head.version, time.monotonic() - self.arrived
        fields = {"method": method, "path": target, "status": status, "seconds": round(seconds, 6), **self._key()}
        extra = of_request(self.request_id, **fields)
        _ACCESS.info('%s - "%s %s HTTP/%s" %d', client, method, target, version, status, extra=extra)


class ASGIExchange(HTTPExchange):
    """One request of a connection that the ASGI application answers."""

    __slots__ = ("_gone", "_read", "_response_start", "_scope", "task")

    seconds = _ASGI_SECONDS

    def __init__(self, protocol: "HTTPProtocol", head: Head, body: "bytes | Body", arrived: float) -> None:
        super().__init__(protocol, head, body, arrived)
        self.task: asyncio.Task[None] | None = None
        self._gone = asyncio.Event()
        self._read = False
        self._response_start: dict[str, Any] | None = None
        self._scope: dict[str, Any] = {}

    def start(self) -> None:
        self.task = asyncio.ensure_future(self._serve())
        self.protocol.state.tasks.add(self.task)
        self.task.add_done_callback(self.protocol.state.tasks.discard)

    def disconnect(self) -> None:
        super().disconnect()
        self._gone.set()

    def give_up(self) -> None:
        self.disconnect()

    def _key(self) -> dict[str, str]:
        name = caller_of(self._scope).name
        return {"key": name} if name else {}

    def _count(self, response: Response) -> None:
        """The application counts the requests that it is given."""

    async def _serve(self) -> None:
        protocol, head = self.protocol, self.head
        transport = protocol.transport
        self._scope = scope = {
            "type": "http",
            "asgi": {"version": protocol.config.asgi_version, "spec_version": "2.3"},
            "http_version": head.version,
            "server": address_of(transport.get_extra_info("sockname")),
            "client": protocol.client,
            "scheme": "https" if transport.get_extra_info("sslcontext") else "http",
            "method": head.method.decode("ascii"),
            "root_path": "",
            "path": head.path,
            "raw_path": head.raw_path,
            "query_string": head.query,
            "headers": head.headers,
            "state": protocol.app_state.copy(),
            REQUEST_ID: self.request_id,
        }
        try:
            await protocol.app(scope, self._receive, self._send)
        except Exception as error:
            if not self.complete and not self.disconnected:
                self.fail(protocol.http.driver, error)
            return
        if not self.complete and not self.disconnected:
            self.fail(protocol.http.driver, RuntimeError("the application did not complete its response"))

    async def _receive(self) -> dict[str, Any]:
        if not self._read:
            self._read = True
            return {"type": "http.request", "body": self.body, "more_body": False}
        if not self.complete:
            await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self._response_start = message
        elif not self.complete and not self.disconnected:
            self._send_body(message.get("body", b""), message.get("more_body", False))
            drained = self.protocol.drained()
            if drained is not None:
                await asyncio.shield(drained)

    def _send_body(self, piece: bytes, more: bool) -> None:
        if not self.streaming:
            assert self._response_start is not None, "http.response.start comes first"
            headers = [(bytes(name).lower(), bytes(value)) for name, value in self._response_start.get("headers", ())]
            if not more and not any(name == b"content-length" for name, _ in headers):
                headers.append((b"content-length", b"%d" % len(piece)))
            whole = not more or any(name == b"content-length" for name, _ in headers)
            self._write_head(
                self._response_start["status"], headers, piece if whole and self.head.method != b"HEAD" else b""
            )
            if not whole:
                self._write_piece(piece, last=False)
        else:
            self._write_piece(piece, last=not more)
        if not more:
            self._finish()
            self._gone.set()
