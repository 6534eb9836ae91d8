"""uvicorn's HTTP protocol, with two things done otherwise.

The head and the body of an answer are given to the kernel in one call. uvicorn writes the two one after the other, and
each write is a system call that sends a packet and wakes the peer: for a small answer the second costs about as much
as all of its parsing.

A request that arrived whole is first offered to the application as it is, and answered without a scope, a task and
ASGI's messages, which cost as much as all that Elman does for a small request. What the application does not take so,
and whatever comes in pieces, is served as ASGI.
"""

import asyncio
from functools import lru_cache
from typing import Any
from urllib.parse import unquote

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from elman.http.asgi import Answer

# Bytes up to which a body is copied behind its head; a larger one is written beside it.
_COPIED = 64 * 1024


class HeadHoldingTransport:
    """A transport that keeps the head of an answer of known length until what follows it is written.

    Everything else is the transport's own.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self.transport = transport
        self.is_closing = transport.is_closing
        self._head = b""

    def write(self, data: bytes) -> None:
        if self.is_closing():  # the peer is gone, and what is written now would be an error
            self._head = b""
        elif self._head:
            head, self._head = self._head, b""
            self.write_whole(head, data)
        elif data.startswith(b"HTTP/") and data.endswith(b"\r\n\r\n") and b"\r\ncontent-length: " in data:
            self._head = data
        else:
            self.transport.write(data)

    def write_whole(self, head: bytes, body: bytes) -> None:
        """Write an answer in one call."""
        if len(body) <= _COPIED:
            self.transport.write(head + body)
        else:
            self.transport.writelines((head, body))

    def flush(self) -> None:
        """Write a head that nothing follows, as the answer to HEAD is."""
        head, self._head = self._head, b""
        if head and not self.is_closing():
            self.transport.write(head)

    def close(self) -> None:
        self.flush()
        self.transport.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.transport, name)


@lru_cache(1024)
def _target(url: bytes) -> tuple[str, bytes]:
    """(path, query) of a request's target."""
    parsed = httptools.parse_url(url)
    return unquote(parsed.path.decode("ascii")), parsed.query or b""


class _Ignored:
    """An event that nobody waits for."""

    def set(self) -> None: ...


class _Exchange:
    """A request that is served without a task, in the place of uvicorn's cycle of one that is served as ASGI."""

    message_event = _Ignored()

    __slots__ = ("_protocol", "disconnected", "give_up", "keep_alive", "response_complete")

    def __init__(self, protocol: "HTTPProtocol", keep_alive: bool) -> None:
        self._protocol = protocol
        self.keep_alive = keep_alive
        self.response_complete = False
        self.disconnected = False
        self.give_up: Any = None

    def reply(self, answer: Answer) -> None:
        """Send the answer, once."""
        if self.disconnected or self.response_complete:
            return
        self.response_complete = True
        self.give_up = None
        self._protocol.send_answer(answer, self.keep_alive)


class HTTPProtocol(HttpToolsProtocol):
    """One connection."""

    cycle: Any

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        # Nothing may stand between: not what uvicorn puts around an application, nor what it says of each request.
        self._begin = None if self.access_log or self.root_path else getattr(self.app, "begin", None)
        # The body so far of a request that may come whole.
        self._held: list[bytes] | None = None
        self._exchange: _Exchange | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._holding = HeadHoldingTransport(transport)
        super().connection_made(self._holding)  # type: ignore[arg-type]

    def connection_lost(self, error: Exception | None) -> None:
        exchange = self._exchange
        if exchange is not None and not exchange.response_complete:
            exchange.disconnected = True
            if exchange.give_up is not None:
                exchange.give_up()
        super().connection_lost(error)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._held is not None and not self._holding.is_closing():  # more of it is to come
            self._serve_as_asgi()

    def on_message_begin(self) -> None:
        self.url, self.headers, self.expect_100_continue = b"", [], False

    def on_headers_complete(self) -> None:
        if (
            self._begin is not None
            and (self.cycle is None or self.cycle.response_complete)
            and not self.flow.write_paused
            and self.parser.get_method() == b"POST"
            and self.parser.get_http_version() == "1.1"
            and not self.expect_100_continue
            and not self.parser.should_upgrade()
        ):
            self._held = []
        else:
            self._serve_as_asgi()

    def on_body(self, body: bytes) -> None:
        if self._held is None:
            super().on_body(body)
        else:
            self._held.append(body)

    def on_message_complete(self) -> None:
        if self._held is not None:
            if self._serve():
                return
            self._serve_as_asgi()
        super().on_message_complete()

    def _serve(self) -> bool:
        """Offer the application a whole request. False where it is to be served as ASGI."""
        held = self._held
        assert held is not None and self._begin is not None
        path, query = _target(self.url)
        body = held[0] if len(held) == 1 else b"".join(held)
        exchange = _Exchange(self, self.parser.should_keep_alive())
        before, self.cycle = self.cycle, exchange
        exchange.give_up = self._begin(path, query, self.headers, body, exchange)
        if exchange.give_up is None:
            self.cycle = before
            return False
        self._exchange, self._held = exchange, None
        return True

    def _serve_as_asgi(self) -> None:
        held, self._held = self._held or [], None
        url, headers, expects = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()  # makes a scope, which a request that is not served so does without
        self.url, self.expect_100_continue = url, expects
        self.headers += headers
        super().on_headers_complete()
        for piece in held:
            super().on_body(piece)

    def send_answer(self, answer: Answer, keep_alive: bool) -> None:
        """Write a whole answer, which ends the request that is under way."""
        if self._holding.is_closing():
            return
        content = answer.content
        head = [STATUS_LINE[answer.status]]
        for name, value in self.server_state.default_headers:
            head += name, b": ", value, b"\r\n"
        head += b"content-type: ", answer.content_type, b"\r\ncontent-length: %d\r\n" % len(content)
        for name, value in answer.headers:
            head += name, b": ", value, b"\r\n"
        head.append(b"\r\n" if keep_alive else b"connection: close\r\n\r\n")
        self._holding.write_whole(b"".join(head), content)
        if not keep_alive:
            self._holding.close()
        self.on_response_complete()

    def on_response_complete(self) -> None:
        self._holding.flush()
        super().on_response_complete()

    def handle_websocket_upgrade(self, *arguments: Any) -> None:
        self.transport = self._holding.transport
        super().handle_websocket_upgrade(*arguments)
