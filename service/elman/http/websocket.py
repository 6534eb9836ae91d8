"""A WebSocket connection: uvicorn's protocol, with the limits on memory that bodies have.

What a client has sent and the application has not answered yet counts towards the budget of all bodies. It is parsed
in small slices, up to the end of a message, so that many tiny frames do not become many objects at once.
"""

import asyncio
import logging
from collections import deque
from functools import partial
from typing import Any

from uvicorn.config import Config
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState
from websockets.frames import CloseCode, Frame
from websockets.server import ServerProtocol

from elman.errors import BodyTimeout, ElmanError, InvalidHTTP
from elman.http.bodies import Held
from elman.http.connections import network_of, served_by

MOST_MESSAGE = 2**20
"""Largest message, and so the largest frame, in bytes."""

_MAX_FRAGMENTS = 1024
# Most pings and pongs of a client in a second. A read of 256 kB may hold 40,000, which hold the event loop.
_MAX_CONTROLS = 100
_SLICE_BYTES = 4096
# Seconds of the event loop that a frame takes once it is parsed, beside its run: it is decoded and its answer is sent.
_FRAME_SECONDS = 150e-6

# uvicorn logs the target of each handshake as information. It may hold the id of a session.
_LOG = logging.getLogger("elman.websocket")
_LOG.setLevel(logging.WARNING)


def refusal_of(head: bytes) -> ElmanError | None:
    """Why a head is no handshake of a WebSocket; None if it is one.

    The parser is stricter than that of HTTP, and gives up without an answer.
    """
    connection = ServerProtocol()
    connection.receive_data(head)
    error = connection.handshake_exc
    if error is None:
        return None
    return InvalidHTTP(f"this is no handshake of a WebSocket: {error.__cause__ or error}")


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """One WebSocket. Its frames take the turns of `party`."""

    def __init__(self, config: Config, server_state: ServerState, app_state: dict[str, Any], party: bytes) -> None:
        super().__init__(config, server_state, app_state)
        served = served_by(self.app)
        self.logger = _LOG
        # At the level debug it would log header fields, an API key among them, and frames.
        self.conn.logger, self.conn.debug = _LOG, False
        self._bodies = served.bodies
        self._admission = served.connections
        self._taking = party
        self._unread = bytearray()
        self._waiting = False  # for the turn to parse what was not
        # Sizes of the messages that the application has taken or will take, the one that it works on first.
        self._sizes: deque[int] = deque()
        self._working = False
        self._controls_since, self._num_controls = 0.0, 0
        self._held: Held | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._party = network_of(transport.get_extra_info("peername")).encode()
        self._admission.turns.join(self._taking)
        super().connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._admission.release(self.transport)
        self._admission.turns.leave(self._taking)
        super().connection_lost(exc)
        self._unread.clear()
        self._sizes.clear()
        self.frames = []
        self._release()
        # The parser is a generator that refers to its connection: a cycle, which nothing would collect for long.
        self.conn.parser.close()

    def shutdown(self) -> None:
        """The server stops, and the application has not closed the stream yet."""
        if self.conn.eof_sent:  # it was refused, and the client has not read that
            self.transport.close()
            return
        if self.close_sent or not self.handshake_complete or self.conn.close_sent is not None:
            super().shutdown()
            return
        self.stop_keepalive()
        self.queue.put_nowait({"type": "websocket.disconnect", "code": CloseCode.GOING_AWAY})
        self.conn.send_close(CloseCode.GOING_AWAY, "the server is stopping")
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.transport.close()

    def data_received(self, data: bytes) -> None:
        self._unread += data
        self._read_on(arrived=True)

    def pause_writing(self) -> None:
        """Read no more either: answers to pings would pile up if the client does not read them."""
        super().pause_writing()
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        super().resume_writing()
        if not self.read_paused and not self.transport.is_closing():
            self.transport.resume_reading()

    async def receive(self) -> Any:
        """The next message. The one before is done then."""
        if self._working and self._sizes:
            self._sizes.popleft()
            self._count()
        if not self.queue.empty():  # a frame may be answered without any wait, and thousands may follow it
            await asyncio.sleep(0)
        message: Any = await self.queue.get()
        self._working = message["type"] == "websocket.receive"
        if self.read_paused and self.queue.empty() and not self.disconnected:
            self.read_paused = False
            self._read_on()
            if not self.read_paused and self.writable.is_set() and not self.transport.is_closing():
                self.transport.resume_reading()
        return message

    def handle_ping(self) -> None:
        if self._takes_control():
            super().handle_ping()

    def handle_pong(self, event: Frame) -> None:
        if self._takes_control():
            super().handle_pong(event)

    def _takes_control(self) -> bool:
        """Count a ping or a pong. Closes if there are too many, and False from then on."""
        now = self.loop.time()
        if now - self._controls_since > 1.0:
            self._controls_since, self._num_controls = now, 0
        self._num_controls += 1
        if self._num_controls == _MAX_CONTROLS + 1:
            self._fail(CloseCode.POLICY_VIOLATION, f"more than {_MAX_CONTROLS} pings or pongs in a second")
        return self._num_controls <= _MAX_CONTROLS

    def handle_cont(self, event: Frame) -> None:
        if len(self.frames) < _MAX_FRAGMENTS:
            super().handle_cont(event)
        else:
            self._fail(CloseCode.MESSAGE_TOO_BIG, f"a message has more than {_MAX_FRAGMENTS} fragments")

    def send_receive_event_to_app(self) -> None:
        data, self.frames = b"".join(self.frames), []
        if self.close_sent:
            return
        message: Any = {"type": "websocket.receive", "bytes": data}
        if self.curr_msg_data_type == "text":
            try:
                message = {"type": "websocket.receive", "text": data.decode()}
            except UnicodeDecodeError:
                self._fail(CloseCode.INVALID_DATA, "a text frame is not valid UTF-8")
                return
        self._sizes.append(len(data))
        self.queue.put_nowait(message)
        self._release()  # the next message has its own time limit
        self.read_paused = True
        self.transport.pause_reading()

    def _read_on(self, arrived: bool = False) -> None:
        """Parse the next message. Where there are several callers, when it is the turn of this one.

        arrived: whether the client has just sent some of it.
        """
        turns = self._admission.turns
        if not turns.several:
            self._parse(arrived)
        elif self._unread and not self._waiting:
            self._waiting = True
            turns.take(self._taking, partial(self._parse, arrived), _FRAME_SECONDS)
        if self._waiting and len(self._unread) > _SLICE_BYTES:  # a little needs no room before its turn
            self._count(arrived)

    def _parse(self, arrived: bool) -> None:
        self._waiting = False
        self._feed()
        if arrived:
            self._count(arrived)

    def _feed(self) -> None:
        """Parse what has arrived, up to the end of a message."""
        while self._unread and not self.read_paused and not self.transport.is_closing():
            piece = bytes(self._unread[:_SLICE_BYTES])
            del self._unread[:_SLICE_BYTES]
            super().data_received(piece)

    def _count(self, arrived: bool = False) -> None:
        """Count the bytes that are held. Close if there are too many in all.

        arrived: whether the client has just sent some of them.
        """
        if self.transport.is_closing():
            self._release()
            return
        partial = len(self._unread) + len(self.conn.reader.buffer) + sum(map(len, self.frames))
        size = partial + sum(self._sizes)
        if not size:
            self._release()
            return
        if self._held is None:
            self._held = Held(self._bodies, self._party, self._stall)
        try:
            self._held.resize(size, arrived=arrived)
        except ElmanError as error:
            self._fail(CloseCode.TRY_AGAIN_LATER, error.detail)

    def _release(self) -> None:
        held, self._held = self._held, None
        if held is not None:
            held.release()

    def _stall(self, error: BodyTimeout) -> None:
        """The rest of a message does not arrive. While nothing is read, the client is not to blame."""
        if not self.read_paused and self.writable.is_set():
            self._fail(CloseCode.POLICY_VIOLATION, "a message did not arrive in time")

    def _fail(self, code: CloseCode, reason: str) -> None:
        """Close with a reason."""
        self.conn.fail(code, reason)
        if self.conn.close_sent is None:  # the handshake is not complete
            self.transport.close()
        else:
            self.handle_parser_exception()
