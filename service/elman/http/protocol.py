"""HTTP/1.1 on one connection: a protocol class for uvicorn's server.

uvicorn handles the sockets, the signals, the lifespan and the workers. This class parses with httptools and reads each
request whole. A request for one of our endpoints goes straight to the driver, which costs a third of an ASGI scope,
task and messages. Every other request is served as ASGI. Head and body of a response are one write.

Of uvicorn it uses only what every protocol class must: the arguments of the constructor, `shutdown`, and the
`ServerState` (connections, tasks, total_requests, default_headers).
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import httptools
from uvicorn.config import Config
from uvicorn.server import ServerState

from elman.errors import ElmanError, HeadTooLarge, InvalidHTTP, Overloaded
from elman.http.bodies import Body
from elman.http.callers import ANYONE
from elman.http.connections import network_of, served_by
from elman.http.endpoint import MAX_JOINED_BYTES, Pieces, Route
from elman.http.exchange import ASGIExchange, Head, HTTPExchange, address_of
from elman.http.repeated import RepeatedHead
from elman.http.sites import HEALTH
from elman.http.websocket import WebSocketProtocol, refusal_of

# The largest head, in bytes, and the most header fields.
MOST_HEAD = 32 * 1024
MOST_FIELDS = 100
# Seconds that a head may take, and seconds that the rest of a refused request is read.
HEAD_SECONDS = 10.0
_LINGER_SECONDS = 5.0
# Seconds that a stopping server waits for a request on a connection that has none. A client that has just connected
# sends one at once, and would otherwise lose it.
_LAST_SECONDS = 0.5
# Seconds in which a connection beyond the limit must have asked for the health.
_EXTRA_SECONDS = 2.0

_NEVER = float("inf")
# A connection remembers its last head, because the next request often repeats it. After this many different heads it
# stops.
_MAX_HEADS = 16
# Reading a piece of a body takes so many seconds a byte.
_READ_SECONDS = 0.5e-9
# Most requests of a connection that may wait for the response to the one before.
_MAX_WAITING = 64


def check_framing(head: Head) -> None:
    """Refuse what llhttp takes, and another server may read in another way. Raises InvalidHTTP and HeadTooLarge."""
    fields = head.fields
    if head.version not in ("1.1", "1.0"):
        raise InvalidHTTP(f"the request is of HTTP/{head.version}", expected="HTTP/1.1")
    if len(head.url) + sum(map(len, fields)) + sum(map(len, fields.values())) > MOST_HEAD:
        raise HeadTooLarge(f"the head of the request is larger than {MOST_HEAD} bytes")
    if len(fields) != len(head.headers) and [name for name, _ in head.headers].count(b"host") > 1:
        raise InvalidHTTP("the request has more than one Host", where="header Host")
    if b"host" not in fields and head.version != "1.0":
        raise InvalidHTTP("the request has no Host", where="header Host")
    if b"transfer-encoding" in fields:
        encodings = [value.strip().lower() for name, value in head.headers if name == b"transfer-encoding"]
        if encodings != [b"chunked"]:
            raise InvalidHTTP("the body has an encoding other than chunked", where="header Transfer-Encoding")


_NO_HEAD = Head(b"", "1.1", False, b"", [])


class HTTPProtocol(asyncio.Protocol):
    """One connection. `deadline` is when the sweep closes it, on the clock of `time.monotonic`."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        if not config.loaded:
            config.load()
        self.config = config
        self.state = server_state
        self.app_state = app_state
        self.app: Any = config.loaded_app
        self.access_log = config.access_log
        self.http = served_by(self.app)
        self._exchange = self.http.exchange
        self._find: Callable[[str, Mapping[bytes, bytes]], Route | None] = self.http.find
        self._bodies = self.http.bodies
        self._connections = self.http.connections
        self._turns = self.http.connections.turns
        # Whose turns its requests take, once that is known, and the current request while it waits for one.
        self._taking: bytes | None = None
        self._held: HTTPExchange | None = None
        self._idle_seconds = config.timeout_keep_alive
        self.parser: Any = httptools.HttpRequestParser(self)
        # Complete requests that wait for the response to the one before.
        self._waiting: deque[HTTPExchange] = deque()
        self._current: HTTPExchange | None = None
        self._body: Body | None = None
        self._pieces: list[bytes] = []
        self._head_size = 0
        self._last_head: Head | None = None
        self._head = _NO_HEAD
        self.url, self.headers, self.arrived = b"", _NO_HEAD.headers, 0.0
        self._in_head = self._in_body = False
        self._around_body = 0
        self._refused = self._head_again = False
        self.stopping = False
        self._drained: asyncio.Future[None] | None = None
        self._repeated: RepeatedHead | None = None
        self._num_heads = 0
        self._default_fields: list[tuple[bytes, bytes]] | None = None
        self._written_fields = b""
        self.deadline = time.monotonic() + HEAD_SECONDS

    # The transport

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport
        peer = transport.get_extra_info("peername")
        self.client: tuple[str, int] | None = address_of(peer)
        self.party = network_of(peer).encode()
        self._admitted = self._connections.admit(transport, peer)
        if self.http.is_admin(transport.get_extra_info("sockname")):
            self._find = _as_asgi
        self.state.connections.add(self)  # type: ignore[arg-type]
        self._connections.add(self, extra=not self._admitted)
        if not self._admitted:
            self.deadline = time.monotonic() + _EXTRA_SECONDS

    def connection_lost(self, error: Exception | None) -> None:
        self.state.connections.discard(self)
        self._connections.discard(self)
        self._connections.release(self.transport)
        if self._body is not None:
            self._body.release()
            self._body = None
        self._take_turns_as(None)
        if self._held is not None:
            self._held.give_up()
        elif self._current is not None:
            self._current.disconnect()
        for exchange in (self._held, *self._waiting):
            if exchange is not None and isinstance(exchange.body, Body):
                exchange.body.release()
        self._current = self._held = None
        self._waiting.clear()
        self.resume_writing()
        self.parser = None  # breaks a reference cycle

    def data_received(self, data: bytes) -> None:
        if self._refused:  # the rest of the request is read and forgotten
            return
        idle = self._current is None and not self._in_head and not self._in_body
        if idle and self._repeated is not None and self._take_repeated(data, self._repeated):
            return
        if self._in_head or idle:
            self._head_size += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._upgrade(data[upgrade.args[0] :])
            return
        except httptools.HttpParserError as error:
            self._refuse(_refusal(error))
            return
        if self._in_head and self._head_size > MOST_HEAD:
            self._refuse(HeadTooLarge(f"the head of the request is larger than {MOST_HEAD} bytes"))
        elif self._in_body and not self._refused:
            self._meter_body(len(data))
        elif idle and self._last_head is not None and self._num_heads < _MAX_HEADS:
            self._remember(data, self._last_head)
        self._last_head = None

    def _remember(self, data: bytes, head: Head) -> None:
        """Keep a head for requests that repeat it."""
        self._num_heads += 1
        self._repeated = RepeatedHead.of(data, head, self._taking) or self._repeated

    def _take_repeated(self, data: bytes, last: RepeatedHead) -> bool:
        """Take a whole request whose head repeats the last one. False for any other data, which is to be parsed."""
        found = last.read(data, self._find, self._bodies.limit)
        if found is None:
            return False
        self._head_size, self.deadline = 0, _NEVER
        if last.party != self._taking:
            self._take_turns_as(last.party)
        self._take(self._exchange(self, *found, time.monotonic()))
        return True

    def pause_writing(self) -> None:
        self._drained = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        drained, self._drained = self._drained, None
        if drained is not None and not drained.done():
            drained.set_result(None)
            if self._current is None and not self.transport.is_closing():
                self._next()

    def shutdown(self) -> None:
        """The server stops: close once the requests that have begun are answered, also one whose body is on its way."""
        self.stopping = True
        asyncio.get_running_loop().call_later(_LAST_SECONDS, self._close_idle)

    def _close_when_done(self) -> None:
        """Close once the requests that have begun are answered."""
        self.stopping = True
        self._close_idle()

    def _close_idle(self) -> None:
        """Close, unless a request has begun, or the connection is closed or handed to another protocol."""
        if self.parser is not None and self._current is None and not self._waiting and not self._in_body:
            self.transport.close()

    def expire(self) -> None:
        """The deadline has passed, or a newer connection needs the place."""
        self.transport.close()

    def forget_heads(self) -> None:
        """Look up the key of the next request anew, although its head is as before."""
        self._repeated = None

    # The parser

    def on_message_begin(self) -> None:
        now = time.monotonic()
        self.arrived = now
        self.url = b""
        self.headers = []
        self._in_head = True
        if self._current is None and self._admitted:
            self.deadline = now + HEAD_SECONDS

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))
        if len(self.headers) > MOST_FIELDS:
            raise HeadTooLarge(f"the request has more than {MOST_FIELDS} header fields")

    def on_headers_complete(self) -> None:
        self._in_head, self._in_body, self._head_size = False, True, 0
        self.deadline = _NEVER
        parser = self.parser
        keep_alive = parser.should_keep_alive()
        head = self._head = Head(parser.get_method(), parser.get_http_version(), keep_alive, self.url, self.headers)
        self.headers = []  # of fields after the body, which nobody reads
        check_framing(head)
        self._bodies.check_declared(head.fields, head.url)
        if not self._admitted:
            if head.method not in (b"GET", b"HEAD") or head.url.partition(b"?")[0].decode("latin-1") not in HEALTH:
                raise self._connections.refusal()
            head.keep_alive = False
        if head.fields.get(b"expect", b"").lower() == b"100-continue" and self._current is None:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, piece: bytes) -> None:
        # Counted once for each read: a read of 256 kB may hold 40,000 chunks.
        self._pieces.append(piece)

    def on_message_complete(self) -> None:
        self._in_body = False
        pieces = self._pieces
        content: Any = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        if pieces:
            self._pieces = []
        if self._body is not None:
            content, self._body = self._body.ended_by(content), None
        head = self._last_head = self._head
        if self.parser.should_upgrade() and head.method != b"CONNECT":
            return
        if head.read_target():
            head.find_route(self._find)
        served = self._exchange if head.route is not None or head.error is not None else ASGIExchange
        # An idle connection keeps no head: the next request may come late or never.
        self._head, self.url = _NO_HEAD, b""
        caller = None if head.route is None else head.route.caller
        if caller is None:
            party = self.http.party(head.fields, self.party)
        else:
            party = self.party if caller.owner == ANYONE else caller.owner
        self._take_turns_as(party)
        self._take(served(self, head, content, self.arrived))

    def _meter_body(self, size: int) -> None:
        """Apply the limits to a body that takes several reads. The last one had `size` bytes."""
        pieces, self._pieces = self._pieces, []
        if self._body is None:
            party = self.http.party(self._head.fields, self.party)
            self._take_turns_as(party)
            self._body = Body(self._bodies, party, self._refuse)
            self._around_body = 0
        elif not pieces:
            # Fields after the last chunk, which the parser keeps, or what may stand beside the length of a chunk.
            self._around_body += size
            if self._around_body > MOST_HEAD:
                self._refuse(HeadTooLarge(f"more than {MOST_HEAD} bytes between or after the chunks of the body"))
            return
        self._around_body = 0
        try:
            self._body.add(b"".join(pieces))
        except ElmanError as error:
            self._refuse(error)
        else:
            if self._turns.several:
                self.transport.pause_reading()
                self._turns.take(self._body.party, self._read_on, size * _READ_SECONDS)

    def _read_on(self) -> None:
        """Read the next piece of a body."""
        if not self._waiting and not self.transport.is_closing():
            self.transport.resume_reading()

    def _refuse(self, error: ElmanError) -> None:
        """Answer with an error without reading the rest of the request, then close. Earlier requests come first."""
        if self._refused:
            return
        self._refused, self._in_head, self._in_body = True, False, False
        self._pieces = []
        if self._body is not None:
            self._body.release()
            self._body = None
        head = Head(b"POST", "1.1", False, self.url, [])
        head.error = error
        self._take(self._exchange(self, head, b"", self.arrived))

    def _take(self, exchange: HTTPExchange) -> None:
        if self._current is None and self._drained is None:
            self._current = exchange
            if self._turns.several or exchange.body.__class__ is Body:
                self._hold(exchange)
            else:
                exchange.start()
        else:
            if len(self._waiting) >= _MAX_WAITING and not self._refused:
                raise Overloaded(f"more than {_MAX_WAITING} requests wait on this connection", retry_after=1)
            self._waiting.append(exchange)
            self.transport.pause_reading()

    def _next(self) -> None:
        """Begin the next request."""
        if self._waiting and self._drained is None:
            self._current = self._waiting.popleft()
            if not self._waiting:
                self.transport.resume_reading()
            self._hold(self._current)

    def _hold(self, exchange: HTTPExchange) -> None:
        """Begin on the current request once its body is joined, and it is its caller's turn."""
        self._held = exchange
        if isinstance(exchange.body, Body):
            self._bodies.join(exchange.body, partial(self._joined, exchange))
        elif self._turns.several:
            self._turns.take(self._taking or self.party, partial(self._start, exchange), exchange.seconds)
        else:
            self._start(exchange)

    def _joined(self, exchange: HTTPExchange, body: bytes | None) -> None:
        exchange.body = body or b""
        if body is None:
            self.transport.close()
        elif self._held is exchange:  # else the client is gone
            self._hold(exchange)

    def _start(self, exchange: HTTPExchange) -> None:
        if self._held is exchange:
            self._held = None
            exchange.start()

    def _take_turns_as(self, party: bytes | None) -> None:
        """Count the connection as one of a party, or of none."""
        if self._taking is not None and party != self._taking:
            self._turns.leave(self._taking)
        if party is not None and party != self._taking:
            self._turns.join(party)
        self._taking = party

    def finished(self, keep_alive: bool) -> None:
        """The response of the current request is complete."""
        self._current = None
        self.state.total_requests += 1
        if self.stopping or not (keep_alive or (self._refused and not self._waiting)):
            self.transport.close()
        elif self._waiting:
            self._next()
        elif self._refused:
            self._linger()
        elif not self._in_body:
            self.deadline = time.monotonic() + (HEAD_SECONDS if self._in_head else self._idle_seconds)

    def _linger(self) -> None:
        """Close after a while. Closing at once, with unread data, could make the client lose the response."""
        if self.transport.is_closing():
            return
        self.deadline = time.monotonic() + (_LINGER_SECONDS if self._admitted else _EXTRA_SECONDS)
        with contextlib.suppress(OSError, NotImplementedError):
            self.transport.write_eof()

    def default_fields(self) -> bytes:
        """The header fields of every answer, as they are written. uvicorn makes a new list of them each second."""
        fields = self.state.default_headers
        if fields is not self._default_fields:
            self._default_fields = fields
            self._written_fields = b"".join([b"%b: %b\r\n" % field for field in fields])
        return self._written_fields

    def write(self, head: list[bytes], body: bytes | Pieces) -> None:
        """Write a head and a body in one call."""
        if self.transport.is_closing():
            return
        if len(body) <= MAX_JOINED_BYTES:
            head.append(body)  # type: ignore[arg-type]  # pieces are never as small
            self.transport.write(b"".join(head))
        else:
            pieces = body.buffers if isinstance(body, Pieces) else (body,)
            self.transport.writelines((b"".join(head), *pieces))

    def drained(self) -> "asyncio.Future[None] | None":
        """A future to wait for before more is written, or None if there is no need to wait."""
        return self._drained

    def _upgrade(self, rest: bytes) -> None:
        """Hand the connection to the WebSocket protocol. To any other it is not handed, and stays HTTP/1.1.

        rest: what came after the head.
        """
        head, self._last_head = self._head, None
        if head is _NO_HEAD or self._head_again:  # a CONNECT, which is answered already; or several upgrades at once
            self._close_when_done()
        elif head.fields.get(b"upgrade", b"").lower() != b"websocket":
            # The parser has passed over the body. A new one reads the request as if it did not ask for the upgrade.
            self.parser, self._head_again = httptools.HttpRequestParser(self), True
            self.data_received(head.rewritten(b"upgrade") + rest)
            self._head_again = False
        elif self.config.ws_protocol_class is None or self._current is not None or self._waiting:
            self._close_when_done()
        elif (error := refusal_of(head.rewritten())) is not None:
            self._refuse(error)
        else:
            self._open_websocket(head)

    def _open_websocket(self, head: Head) -> None:
        self.state.connections.discard(self)
        self._connections.discard(self)
        self._take_turns_as(None)
        protocol = WebSocketProtocol(self.config, self.state, self.app_state, self.http.party(head.fields, self.party))
        protocol.connection_made(self.transport)
        protocol.data_received(head.rewritten())
        self.transport.set_protocol(protocol)
        self.parser = None


def _refusal(error: httptools.HttpParserError) -> ElmanError:
    """The error behind a parser's error, which wraps what the callbacks raise."""
    cause = error.__context__ or error.__cause__
    if isinstance(cause, ElmanError):
        return cause.with_traceback(None)  # which refers to the connection, and so to what it has received
    return InvalidHTTP("the request is not valid HTTP/1.1")


def _as_asgi(path: str, headers: Mapping[bytes, bytes]) -> None:
    """The route of a request at the admin port: the application serves it, and says what is served there."""
