"""One of several server processes, as its supervisor starts it."""

import asyncio
import multiprocessing
import os
import signal
import socket
import threading
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

from elman.api.server import Server
from elman.app import create_app
from elman.cli.jobs.graceful import GracefulServer, run_to_the_end
from elman.cli.jobs.workers import BEAT_SECONDS
from elman.http.accepting import CountedConnections, Counts, SharedListener
from elman.http.keys import KeysFile
from elman.http.process import collect_less, keep_memory, within_descriptors
from elman.settings import Settings


def serve_as_worker(
    settings: Settings,
    keys: KeysFile | None,
    sockets: list[socket.socket],
    options: dict[str, Any],
    beats: Connection,
    counts: Counts,
    place: int,
    report: bool,
) -> None:
    """Serve until told to stop, or until the supervisor is gone.

    Args:
        report: whether this worker says for all what is served.
    """
    collect_less()
    keep_memory()
    settings = within_descriptors(settings)
    threading.Thread(target=_end_with_parent, name="elman-parent", daemon=True).start()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # for the supervisor, but sent to all by a terminal that closes
    run_to_the_end(WorkerServer(create_app(settings, keys), settings, options, beats, counts, place, report), sockets)


class WorkerServer(GracefulServer):
    """A server that shares its sockets with others, and tells its supervisor that it goes on."""

    def __init__(
        self,
        application: Any,
        settings: Settings,
        options: dict[str, Any],
        beats: Connection,
        counts: Counts,
        place: int,
        report: bool,
    ) -> None:
        super().__init__(application, settings, options)
        self._report = report
        self._beats = beats
        self._connections = self.server_state.connections = CountedConnections(counts, place)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        assert sockets, "those of the supervisor"
        await self.listen(sockets)
        if self._report:
            self.report_start(sockets[0])
        if self.started:
            self._beat(asyncio.get_running_loop(), self._application.state.server)

    async def serve_socket(self, one: socket.socket, tls: dict[str, Any]) -> Any:
        listener = SharedListener(one, self._connection, self._connections, tls)
        listener.start(self.config.backlog)
        return listener

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for listener in self.servers:
            listener.close()
        # So that they too are told to end.
        await self._connections.all_begun()
        await super().shutdown(sockets)

    def _beat(self, loop: asyncio.AbstractEventLoop, server: Server) -> None:
        # If the engine is stuck there is no beat, so that the worker is replaced.
        if server.engine.stuck() is None:
            try:
                self._beats.send_bytes(b".")
            except OSError:
                return  # the supervisor is gone
        loop.call_later(BEAT_SECONDS, partial(self._beat, loop, server))


def _end_with_parent() -> None:
    """End as on SIGTERM when the supervisor is gone, however it ended."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "started by the supervisor"
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
