"""The connection of a blocking stream."""

import contextlib
import socket
from collections.abc import Iterator
from typing import Any

from elman.client.calls import Call
from elman.client.deadline import Deadline
from elman.client.streams import StreamProtocol, websocket_translated, websockets
from elman.client.sync.sender import RENEWED, Sender


class WebSocket:
    """A connection that is opened when it is needed, and dropped after any failure."""

    def __init__(self, sender: Sender, protocol: StreamProtocol) -> None:
        self._sender = sender
        self._protocol = protocol
        self.renew()
        RENEWED.add(self)

    def renew(self) -> None:
        self._connection: Any = None
        self._open = contextlib.ExitStack()

    def connect(self, deadline: Deadline) -> None:
        """Open the connection unless it is open already."""
        if self._connection is not None:
            return
        with self._dropping(deadline):
            url, options = self._protocol.url(self._sender.url), self._sender.websocket_options(deadline)
            self._connection = self._open.enter_context(websockets("sync.client").connect(url, **options))
            self._protocol.read_opening(self._connection.recv(timeout=deadline.remaining))

    def exchange(self, message: str, call: Call[None], deadline: Deadline) -> str | bytes:
        """Send a message and wait for the next one of the server."""
        with self._dropping(deadline):
            self._connection.send(message)
            received: str | bytes = self._connection.recv(timeout=self._sender.silence(call, deadline))
        return received

    def close(self) -> None:
        self._connection = None
        self._open.close()

    @contextlib.contextmanager
    def _dropping(self, deadline: Deadline) -> Iterator[None]:
        """Drop the connection at any failure, so that a late message is never taken for the next result."""
        try:
            with websocket_translated(deadline, self._sender.target):
                yield
        except BaseException:
            # Without the shutdown, `close` would wait for the server's close frame.
            if self._connection is not None:
                with contextlib.suppress(OSError):
                    self._connection.socket.shutdown(socket.SHUT_RDWR)
            self.close()
            raise
