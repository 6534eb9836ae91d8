"""The connection of an asynchronous stream."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from elman.client.aio.sender import AsyncSender
from elman.client.calls import Call
from elman.client.deadline import Deadline
from elman.client.streams import StreamProtocol, websocket_translated, websockets


class AsyncWebSocket:
    """A connection that is opened when it is needed, and dropped after any failure."""

    def __init__(self, sender: AsyncSender, protocol: StreamProtocol) -> None:
        self._sender = sender
        self._protocol = protocol
        self._connection: Any = None

    async def connect(self, deadline: Deadline) -> None:
        """Open the connection unless it is open already."""
        if self._connection is not None:
            return
        async with self._dropping(deadline), asyncio.timeout(deadline.remaining):
            url, options = self._protocol.url(self._sender.url), self._sender.websocket_options(deadline)
            self._connection = await websockets("asyncio.client").connect(url, **options)
            self._protocol.read_opening(await self._connection.recv())

    async def exchange(self, message: str, call: Call[None], deadline: Deadline) -> str | bytes:
        """Send a message and wait for the next one of the server."""
        async with self._dropping(deadline), asyncio.timeout(self._sender.silence(call, deadline)):
            await self._connection.send(message)
            received: str | bytes = await self._connection.recv()
        return received

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    @contextlib.asynccontextmanager
    async def _dropping(self, deadline: Deadline) -> AsyncIterator[None]:
        """Drop the connection at any failure, so that a late message is never taken for the next result."""
        try:
            with websocket_translated(deadline, self._sender.target):
                yield
        except BaseException:
            connection, self._connection = self._connection, None
            if connection is not None:
                connection.transport.abort()
            raise
