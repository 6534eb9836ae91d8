"""A uvicorn server that stops gracefully, with the models of a folder loaded before it listens."""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI

from elman.cli.exits import CANNOT_START
from elman.cli.jobs.listening import reload_certificate
from elman.cli.jobs.server import FORCE_SECONDS
from elman.cli.jobs.start_report import report_start
from elman.http.process import drop_silent_peers
from elman.http.protocol import HEAD_SECONDS, HTTPProtocol
from elman.http.websocket import MOST_MESSAGE, WebSocketProtocol
from elman.settings import Settings

# Seconds that a closing connection waits for the other side to end TLS.
_TLS_SECONDS = 2.0

_LOG = logging.getLogger("uvicorn.error")


def run_to_the_end(server: "GracefulServer", sockets: list[socket.socket]) -> None:
    """Run a server until it is told to stop. Exits with 3 if it cannot start."""
    # uvicorn raises the signal again after its shutdown. A server that was told to stop exits with 0.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        with contextlib.suppress(KeyboardInterrupt):
            server.run(sockets)
    finally:
        # Python gives its signals back before it ends. A second SIGTERM would then kill it, and change the exit code.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if not server.started:
        sys.exit(CANNOT_START)


class GracefulServer(uvicorn.Server):
    """A uvicorn server that is not ready from the first moment of stopping, and drops peers that do not read.

    It ends a few seconds after its drain timeout in any case: a run or a store that is stuck cannot hold it.
    """

    def __init__(
        self,
        application: FastAPI,
        settings: Settings,
        options: dict[str, Any],
        on_start: Callable[[str], None] = lambda address: None,
    ) -> None:
        config = uvicorn.Config(
            application, http=HTTPProtocol, ws=WebSocketProtocol, ws_max_size=MOST_MESSAGE, **options
        )
        super().__init__(config)
        self._options = options
        self._application = application
        self._settings = settings
        self._on_start = on_start
        self._ending = False

    async def listen(self, sockets: list[socket.socket]) -> None:
        """Load the models and take the connections of sockets that are bound already. Exits with 3 if it cannot."""
        await super().startup([])
        tls: dict[str, Any] = {}
        if self.config.ssl is not None:
            tls = {"ssl": self.config.ssl, "ssl_handshake_timeout": HEAD_SECONDS, "ssl_shutdown_timeout": _TLS_SECONDS}
        try:
            for one in sockets:
                self.servers.append(await self.serve_socket(one, tls))
        except OSError as error:  # another server took the port while the models were loaded
            _LOG.error(error)
            await self.lifespan.shutdown()
            sys.exit(CANNOT_START)

    async def serve_socket(self, one: socket.socket, tls: dict[str, Any]) -> Any:
        """Take the connections of a socket that is bound already. Returns what ends that, as an asyncio server does."""
        loop = asyncio.get_running_loop()
        return await loop.create_server(self._connection, sock=one, backlog=self.config.backlog, **tls)

    def _connection(self) -> HTTPProtocol:
        return HTTPProtocol(self.config, self.server_state, self.lifespan.state)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        assert sockets, "bound before the models are loaded"
        await self.listen(sockets)
        context = self.config.ssl
        if context is not None:
            reload = partial(reload_certificate, context, self._options)
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, reload)
        for one in sockets:
            drop_silent_peers(one, self._settings.stream_timeout)
        if self._settings.grpc_port is not None:
            _LOG.info("gRPC running on %s, port %d", self.config.host, self._application.state.grpc_port)
        self._on_start(self.report_start(sockets[0]))

    def report_start(self, listening: socket.socket) -> str:
        """Log what is served, and at which address. Returns the address."""
        host = f"[{self.config.host}]" if ":" in self.config.host else self.config.host
        address = f"{'https' if self.config.is_ssl else 'http'}://{host}:{listening.getsockname()[1]}"
        report_start(address, self._application.state.server, self._settings)
        return address

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
        if self.force_exit and not self.lifespan.shutdown_event.is_set():
            # After a second SIGINT uvicorn does not wait for connections. It would leave out this too.
            await self.lifespan.shutdown()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._application.state.stopping(at_once=self.should_exit and sig == signal.SIGINT)
        if not self._ending:
            self._ending = True
            last = threading.Timer(self._settings.drain_timeout + FORCE_SECONDS, _end_by_force)
            last.daemon = True
            last.start()
        super().handle_exit(sig, frame)


def _end_by_force() -> None:
    """End the process without waiting for its threads. Whoever waited for an answer has been told."""
    logging.getLogger("elman").warning("a thread does not end, so the process ends without it")
    logging.shutdown()
    os._exit(0)
