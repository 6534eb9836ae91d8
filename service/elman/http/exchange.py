"""One request of a connection and its response, given by the driver or by the ASGI application."""

import asyncio
import logging
from collections.abc import Iterable
from functools import lru_cache
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import httptools

from elman.errors import ElmanError, InvalidHTTP
from elman.http.endpoint import Driver, Exchange, Response

if TYPE_CHECKING:
    from elman.http.protocol import HTTPProtocol

_ACCESS = logging.getLogger("uvicorn.access")


@lru_cache(64)
def _status_line(status: int) -> bytes:
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = ""
    return f"HTTP/1.1 {status} {phrase}\r\n".encode()


def parse_target(url: bytes) -> tuple[str, bytes, bytes]:
    """(path, raw path, query) of a request's target. Raises InvalidHTTP."""
    return _short_target(url) if len(url) < 256 else _parse_target(url)


@lru_cache(1024)
def _short_target(url: bytes) -> tuple[str, bytes, bytes]:
    return _parse_target(url)


def _parse_target(url: bytes) -> tuple[str, bytes, bytes]:
    """(path, raw path, query) of a request's target. Raises InvalidHTTP."""
    try:
        parsed = httptools.parse_url(url)
        raw = parsed.path or b"/"
        return unquote(raw.decode("ascii")), raw, parsed.query or b""
    except (httptools.HttpParserError, UnicodeDecodeError):
        raise InvalidHTTP("the target of the request is not a URL") from None


def address_of(peer: Any) -> tuple[str, int] | None:
    return (str(peer[0]), int(peer[1])) if isinstance(peer, tuple) else None


class HTTPExchange(Exchange):
    """One request of a connection, and its response."""

    def __init__(self, protocol: "HTTPProtocol", body: bytes) -> None:
        parser = protocol.parser
        self.protocol = protocol
        self.method = parser.get_method()
        self.version = parser.get_http_version()
        self.url = protocol.url
        self.headers = protocol.headers
        self.body = body
        self.arrived = protocol.arrived
        self.keep_alive = self.version != "1.0" and parser.should_keep_alive()
        self.error: ElmanError | None = None
        self.task: asyncio.Task[None] | None = None
        self._chunked = False
        self._streaming = False
        self._complete = False
        self._gone: asyncio.Event | None = None

    def start(self) -> None:
        """Begin on the request."""
        protocol = self.protocol
        try:
            if self.error is not None:
                raise self.error
            path, raw, query = parse_target(self.url)
            if self.method == b"POST" and protocol.http.start(path, query, self.headers, self.body, self, self.arrived):
                return
        except Exception as error:
            self.fail(protocol.http.driver, error)
            return
        self.task = asyncio.ensure_future(self._serve_as_asgi(path, raw, query))
        protocol.state.tasks.add(self.task)
        self.task.add_done_callback(protocol.state.tasks.discard)

    # A response of the driver

    def reply(self, response: Response) -> None:
        if self._streaming:
            self._write_piece(response.content, last=True)
        else:
            self._write_whole(response.status, response.content_type, response.headers, response.content)
        self._finish()

    def fail(self, driver: Driver, error: Exception) -> None:
        if self._streaming:  # the head says that all is well: only the end of the connection can say otherwise
            driver.problem(error)
            self.keep_alive = False
            self._finish()
        else:
            self.reply(driver.problem(error))

    def send(self, piece: bytes, headers: Iterable[tuple[bytes, bytes]]) -> "asyncio.Future[None] | None":
        if not self._streaming:
            self._write_head(200, list(headers))
        self._write_piece(piece, last=False)
        return self.protocol.drained()

    def disconnect(self) -> None:
        super().disconnect()
        if self._gone is not None:
            self._gone.set()

    def _write_whole(
        self, status: int, content_type: bytes, headers: Iterable[tuple[bytes, bytes]], content: bytes
    ) -> None:
        head = [_status_line(status)]
        for name, value in self.protocol.state.default_headers:
            head += name, b": ", value, b"\r\n"
        head += b"content-type: ", content_type, b"\r\ncontent-length: %d\r\n" % len(content)
        for name, value in headers:
            head += name, b": ", value, b"\r\n"
        head.append(b"\r\n" if self._stays() else b"connection: close\r\n\r\n")
        self._log(status)
        self.protocol.write(head, content)

    def _stays(self) -> bool:
        return self.keep_alive and not self.protocol.stopping

    def _write_head(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes = b"") -> None:
        """Write the head of a response whose body follows, in chunks where its length is not told."""
        self._streaming = True
        names = {name for name, _ in headers}
        head = [_status_line(status)]
        for name, value in (*self.protocol.state.default_headers, *headers):
            if b"\n" in value or b"\r" in value:
                raise ValueError(f"the header {name!r} holds a line break")
            head += name, b": ", value, b"\r\n"
        if b"content-length" not in names and status >= 200 and status not in (204, 304):
            self._chunked = self.version == "1.1"
            self.keep_alive = self.keep_alive and self._chunked
            if self._chunked:
                head.append(b"transfer-encoding: chunked\r\n")
        head.append(b"\r\n" if self._stays() else b"connection: close\r\n\r\n")
        self._log(status)
        self.protocol.write(head, body)

    def _write_piece(self, piece: bytes, last: bool) -> None:
        if self.method == b"HEAD":
            return
        if self._chunked:
            end = b"\r\n0\r\n\r\n" if last else b"\r\n"
            if piece:
                self.protocol.write([b"%x\r\n" % len(piece), piece, end], b"")
            elif last:
                self.protocol.write([end[2:]], b"")
        elif piece:
            self.protocol.write([], piece)

    def _finish(self) -> None:
        self._complete = True
        self.protocol.finished(self.keep_alive)

    def _log(self, status: int) -> None:
        if self.protocol.access_log:
            client = ":".join(map(str, self.protocol.client or ()))
            target = self.url.decode("latin-1")
            _ACCESS.info('%s - "%s %s HTTP/%s" %d', client, self.method.decode(), target, self.version, status)

    # A response of an ASGI application

    async def _serve_as_asgi(self, path: str, raw: bytes, query: bytes) -> None:
        protocol = self.protocol
        transport = protocol.transport
        scope = {
            "type": "http",
            "asgi": {"version": protocol.config.asgi_version, "spec_version": "2.3"},
            "http_version": self.version,
            "server": address_of(transport.get_extra_info("sockname")),
            "client": protocol.client,
            "scheme": "https" if transport.get_extra_info("sslcontext") else "http",
            "method": self.method.decode("ascii"),
            "root_path": "",
            "path": path,
            "raw_path": raw,
            "query_string": query,
            "headers": self.headers,
            "state": protocol.app_state.copy(),
        }
        self._gone = asyncio.Event()
        self._start: dict[str, Any] | None = None
        try:
            await protocol.app(scope, self._receive, self._send)
        except Exception as error:
            if not self._complete and not self.disconnected:
                self.fail(protocol.http.driver, error)
            return
        if not self._complete and not self.disconnected:
            self.fail(protocol.http.driver, RuntimeError("the application gave no whole answer"))

    async def _receive(self) -> dict[str, Any]:
        body, self.body = self.body, None  # type: ignore[assignment]
        if body is not None:
            return {"type": "http.request", "body": body, "more_body": False}
        assert self._gone is not None
        if not self._complete:
            await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self._start = message
        elif not self._complete and not self.disconnected:
            self._send_body(message.get("body", b""), message.get("more_body", False))
            drained = self.protocol.drained()
            if drained is not None:
                await asyncio.shield(drained)

    def _send_body(self, piece: bytes, more: bool) -> None:
        if not self._streaming:
            assert self._start is not None, "an answer begins with its head"
            headers = [(bytes(name).lower(), bytes(value)) for name, value in self._start.get("headers", ())]
            if not more and not any(name == b"content-length" for name, _ in headers):
                headers.append((b"content-length", b"%d" % len(piece)))
            whole = not more or any(name == b"content-length" for name, _ in headers)
            self._write_head(self._start["status"], headers, piece if whole and self.method != b"HEAD" else b"")
            if not whole:
                self._write_piece(piece, last=False)
        else:
            self._write_piece(piece, last=not more)
        if not more:
            self._finish()
            if self._gone is not None:
                self._gone.set()
