"""The server process behind `elman serve` and `elman demo`."""

import asyncio
import contextlib
import logging
import math
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any

import typer
import uvicorn
from fastapi import FastAPI
from pydantic import ValidationError

from elman.app import create_app, new_tracing
from elman.cli.exits import CANNOT_START, refuse
from elman.cli.extras import need
from elman.cli.jobs.listening import listening_sockets, reload_certificate, tls_options
from elman.http.keys import KeysFile, KeysRefused
from elman.http.logs import JSON_LOGS
from elman.http.process import collect_less, drop_silent_peers, keep_memory, within_descriptors
from elman.http.protocol import HEAD_SECONDS, HTTPProtocol
from elman.http.sites import is_loopback
from elman.http.websocket import MOST_MESSAGE, WebSocketProtocol
from elman.settings import Settings, check_names

FORCE_SECONDS = 5.0
"""How long after its drain timeout a stopping server ends in any case."""

# Seconds that a closing connection waits for the other side to end TLS.
_TLS_SECONDS = 2.0

_LOG = logging.getLogger("elman")
_UVICORN_LOG = logging.getLogger("uvicorn.error")


def settings_from(given: dict[str, Any]) -> Settings:
    """Settings from the options that were given and the environment. Exits, naming the setting, if one is wrong."""
    try:
        check_names(os.environ)
        return Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(map(str, first["loc"]))
        got = "" if name.endswith(("_keys", "_password")) else f", got {first['input']!r}"
        raise refuse(f"{name}: {first['msg']}{got}") from None
    except ValueError as error:
        raise refuse(str(error)) from None


def _settings_for(hosts: set[str], settings: Settings) -> Settings:
    """The settings of a server that listens on `hosts`. Exits if others could call it and nobody said that they may."""
    public = sorted(host for host in hosts if not is_loopback(host))
    if not public:
        return settings.model_copy(update={"allowed_hosts": settings.allowed_hosts or ("localhost",)})
    if not settings.has_keys and not settings.allow_anyone:
        raise refuse(
            f"whoever reaches {public[0] or 'this machine'} could use, load and unload every model: give "
            "ELMAN_API_KEYS or ELMAN_API_KEYS_FILE, or --allow-anyone (ELMAN_ALLOW_ANYONE=true) if that is wanted, or "
            "leave --host out to listen on 127.0.0.1"
        )
    return settings


def _keys_of(settings: Settings) -> KeysFile | None:
    """The file of keys. Exits if it cannot be used."""
    try:
        return None if settings.api_keys_file is None else KeysFile(settings.api_keys_file)
    except KeysRefused as refused:
        raise refuse(str(refused)) from None


def run_server(
    settings: Settings,
    host: str,
    port: int,
    log_level: str = "info",
    access_log: bool = False,
    on_start: Callable[[str], None] = lambda address: None,
    admin_host: str | None = None,
) -> None:
    """Serve until told to stop. Exits with 3 if the server cannot start.

    Args:
        admin_host: address of the admin port, if there is one; None for `host`.
        on_start: called with the address, such as `http://127.0.0.1:8000`, once the server listens. It is not
            called with several workers.
    """
    admin_host = host if admin_host is None else admin_host
    settings = _settings_for({host, *([] if settings.admin_port is None else [admin_host])}, settings)
    settings = settings.model_copy(update={"grpc_host": host})
    keys = _keys_of(settings)
    options: dict[str, Any] = {
        "host": host,
        "port": port,
        "http": HTTPProtocol,
        "log_level": log_level,
        "access_log": access_log,
        # An open stream must not keep a stopping server alive.
        "timeout_graceful_shutdown": max(1, math.ceil(settings.drain_timeout)),
        "server_header": False,
        # No answer depends on the address of the client, so the headers of a proxy are not read.
        "proxy_headers": False,
        "ws": WebSocketProtocol,
        "ws_max_size": MOST_MESSAGE,
        # A few bytes of a compressed frame may stand for a megabyte.
        "ws_per_message_deflate": False,
        **tls_options(settings),
    }
    if settings.log_format == "json":
        options["log_config"] = JSON_LOGS
    if settings.tracing:
        try:
            new_tracing()
        except ValueError as error:
            raise refuse(str(error), CANNOT_START) from None
    if settings.grpc_port is not None:
        need("grpc")
    if settings.workers > 1:
        if settings.store == "memory":
            raise refuse("several workers cannot share a store in memory; use --store lmdb")
        from elman.cli.jobs.workers import run_workers

        sockets, settings = listening_sockets(settings, options, admin_host)
        run_workers(settings, keys, sockets, options)
        return
    collect_less()
    keep_memory()
    settings = within_descriptors(settings)
    own = None  # uvicorn binds the port once the models are loaded
    if settings.admin_port is not None or settings.ssl_certfile is not None:
        own, settings = listening_sockets(settings, options, admin_host)
    run_to_the_end(GracefulServer(create_app(settings, keys), settings, options, on_start), own)


def run_to_the_end(server: "GracefulServer", sockets: list[socket.socket] | None = None) -> None:
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
        super().__init__(uvicorn.Config(application, **options))
        self._options = options
        self._application = application
        self._silence = settings.stream_timeout
        self._grpc = settings.grpc_port is not None
        self._json_logs = settings.log_format == "json"
        self._last_moment = settings.drain_timeout + FORCE_SECONDS
        self._on_start = on_start
        self._ending = False

    async def listen(self, sockets: list[socket.socket] | None) -> None:
        """Load the models and take connections: from sockets that are bound already, or from one of uvicorn's own."""
        await super().startup(None if sockets is None else [])
        loop = asyncio.get_running_loop()
        tls: dict[str, Any] = {}
        if self.config.ssl is not None:
            tls = {"ssl": self.config.ssl, "ssl_handshake_timeout": HEAD_SECONDS, "ssl_shutdown_timeout": _TLS_SECONDS}
        for one in sockets or ():
            server = await loop.create_server(self._connection, sock=one, backlog=self.config.backlog, **tls)
            self.servers.append(server)

    def _connection(self) -> HTTPProtocol:
        return HTTPProtocol(self.config, self.server_state, self.lifespan.state)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await self.listen(sockets)
        context = self.config.ssl
        if context is not None:
            reload = partial(reload_certificate, context, self._options)
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, reload)
        listening = [one for server in self.servers for one in server.sockets]
        for one in listening:
            drop_silent_peers(one, self._silence)
        for refusal in self._application.state.server.refusals:
            if self._json_logs:
                _LOG.warning("%s is refused: %s", refusal.name, refusal.reason)
            else:
                typer.secho(f"elman: {refusal.name} is refused: {refusal.reason}", fg="yellow", err=True)
        if self._grpc:
            _UVICORN_LOG.info("gRPC running on %s, port %d", self.config.host, self._application.state.grpc_port)
        if listening:
            host = f"[{self.config.host}]" if ":" in self.config.host else self.config.host
            scheme = "http" if context is None else "https"
            self._on_start(f"{scheme}://{host}:{listening[0].getsockname()[1]}")

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._application.state.stopping()
        if not self._ending:
            self._ending = True
            last = threading.Timer(self._last_moment, _end_by_force)
            last.daemon = True
            last.start()
        super().handle_exit(sig, frame)


def _end_by_force() -> None:
    """End the process without waiting for its threads. Whoever waited for an answer has been told."""
    _LOG.warning("a thread does not end, so the process ends without it")
    logging.shutdown()
    os._exit(0)
