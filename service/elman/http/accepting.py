"""Connections of one listening socket, spread evenly over the processes that share it.

The kernel wakes all of them for a new connection, and the first one gets it. Left to that, one process may take nearly
all connections that come at once, while the others have nothing to do. So the process with the fewest takes a
connection at once, and the others only if it is still there a moment later: that process may be busy, stopped or gone.

The kernel could share connections out itself (SO_REUSEPORT), but by chance, also to a process that hangs, and those
that a process has not accepted yet are lost when it ends.
"""

import asyncio
import contextlib
import ctypes
import errno
import logging
import socket
from collections.abc import Callable
from typing import Any

NOT_ACCEPTING = -1
"""The number of a process that takes no connections."""

# How long the process with the fewest connections is waited for.
_POLITE_SECONDS = 0.02
# How long a process that stops waits for connections that it has just accepted.
_BEGIN_SECONDS = 0.1
# How long nothing is accepted where there are no descriptors left.
_SHORT_OF_FILES_SECONDS = 1.0

_LOG = logging.getLogger("elman")

Counts = ctypes.Array[ctypes.c_int]
"""The number of connections of each process, in memory that they share. Each writes its own only."""


class CountedConnections(set[Any]):
    """The connections of this process, whose number the others see.

    Args:
        counts: those of all processes.
        place: of this process among them.
    """

    def __init__(self, counts: Counts, place: int) -> None:
        super().__init__()
        self._counts = counts
        self._place = place
        self._accepting = True
        self._beginning: set[asyncio.Task[None]] = set()

    def add(self, connection: Any) -> None:
        super().add(connection)
        self.tell()

    def discard(self, connection: Any) -> None:
        super().discard(connection)
        self.tell()

    def begin(self, task: asyncio.Task[None]) -> None:
        """Count a connection that is accepted, and has no protocol until `task` is done."""
        self._beginning.add(task)
        self.tell()
        task.add_done_callback(self._begun)

    def _begun(self, task: asyncio.Task[None]) -> None:
        self._beginning.discard(task)
        self.tell()

    async def all_begun(self) -> None:
        """Wait for connections that have just been accepted, but not for those whose handshake takes time."""
        if self._beginning:
            await asyncio.wait(self._beginning, timeout=_BEGIN_SECONDS)

    def tell(self) -> None:
        """Let the others see the number."""
        if self._accepting:
            self._counts[self._place] = len(self) + len(self._beginning)

    def stop(self) -> None:
        """The others need not wait for this process any more."""
        self._accepting = False
        self._counts[self._place] = NOT_ACCEPTING

    @property
    def fewest(self) -> bool:
        """Whether no other process that takes connections has fewer."""
        mine = self._counts[self._place]
        return not any(NOT_ACCEPTING < other < mine for other in self._counts)


class SharedListener:
    """Accepts connections of a socket beside other processes. It has what uvicorn asks of an asyncio server.

    Args:
        listening: bound already. It is not closed here.
        new_protocol: makes the protocol of a connection.
        connections: those of this process.
        tls: options of `loop.connect_accepted_socket` for TLS.
    """

    def __init__(
        self,
        listening: socket.socket,
        new_protocol: Callable[[], asyncio.BaseProtocol],
        connections: CountedConnections,
        tls: dict[str, Any],
    ) -> None:
        self.sockets = (listening,)
        self._listening = listening
        self._new_protocol = new_protocol
        self._connections = connections
        self._tls = tls
        self._loop = asyncio.get_running_loop()
        self._later: asyncio.TimerHandle | None = None

    def start(self, backlog: int) -> None:
        """Listen, and take connections."""
        self._listening.setblocking(False)
        self._listening.listen(backlog)
        self._connections.tell()
        self._look()

    def close(self) -> None:
        """Take no more connections."""
        self._connections.stop()
        self._loop.remove_reader(self._listening)
        if self._later is not None:
            self._later.cancel()

    async def wait_closed(self) -> None:
        await self._connections.all_begun()

    def _look(self) -> None:
        self._later = None
        self._loop.add_reader(self._listening, self._ready)

    def _ready(self) -> None:
        """There is a connection. Called again and again until somebody has taken it."""
        if self._connections.fewest:
            self._take()
        else:
            self._pause(_POLITE_SECONDS, self._take_late)

    def _pause(self, seconds: float, then: Callable[[], None]) -> None:
        self._loop.remove_reader(self._listening)
        self._later = self._loop.call_later(seconds, then)

    def _take_late(self) -> None:
        self._look()
        self._take()

    def _take(self) -> None:
        try:
            connection, _ = self._listening.accept()
        except (
            BlockingIOError,
            InterruptedError,
            ConnectionAbortedError,
        ):  # another process has it, or nobody wants it
            return
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                raise
            _LOG.error("no connection can be accepted: %s", error.strerror)
            self._pause(_SHORT_OF_FILES_SECONDS, self._look)
            return
        connection.setblocking(False)
        self._connections.begin(self._loop.create_task(self._begin(connection)))

    async def _begin(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError):  # the client is gone, or its handshake failed
            await self._loop.connect_accepted_socket(self._new_protocol, connection, **self._tls)
