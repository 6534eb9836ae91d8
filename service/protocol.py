"""uvicorn's HTTP protocol, with the head and the body of an answer given to the kernel in one call.

uvicorn writes the two one after the other, and each write is a system call that sends a packet and wakes the peer:
for a small answer the second costs about as much as all of its parsing.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.auto import AutoHTTPProtocol

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
        if self._head:
            head, self._head = self._head, b""
            if len(data) <= _COPIED:
                self.transport.write(head + data)
            else:
                self.transport.writelines((head, data))
        elif data.startswith(b"HTTP/") and data.endswith(b"\r\n\r\n") and b"\r\ncontent-length: " in data:
            self._head = data
        else:
            self.transport.write(data)

    def flush(self) -> None:
        """Write a head that nothing follows, as the answer to HEAD is."""
        if self._head:
            head, self._head = self._head, b""
            self.transport.write(head)

    def close(self) -> None:
        self.flush()
        self.transport.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.transport, name)


class HTTPProtocol(AutoHTTPProtocol):  # type: ignore[valid-type,misc]
    """One connection."""

    def connection_made(self, transport: asyncio.Transport) -> None:
        self._holding = HeadHoldingTransport(transport)
        super().connection_made(self._holding)

    def on_response_complete(self) -> None:
        self._holding.flush()
        super().on_response_complete()

    def handle_websocket_upgrade(self, *arguments: Any) -> None:
        self.transport = self._holding.transport
        super().handle_websocket_upgrade(*arguments)
