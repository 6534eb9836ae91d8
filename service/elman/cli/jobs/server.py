"""The server process behind `elman serve` and `elman demo`."""

import contextlib
import logging
import math
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

import typer
import uvicorn
from fastapi import FastAPI
from pydantic import ValidationError

from elman.app import create_app, new_tracing
from elman.cli.exits import CANNOT_START, refuse
from elman.cli.extras import need
from elman.http.logs import JSON_LOGS
from elman.http.process import collect_less, drop_silent_peers, keep_memory, within_descriptors
from elman.http.protocol import HTTPProtocol
from elman.http.sites import is_loopback
from elman.http.websocket import MOST_MESSAGE, WebSocketProtocol
from elman.settings import Settings, check_names

FORCE_SECONDS = 5.0
"""How long after its drain timeout a stopping server ends in any case."""

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
        got = "" if name.endswith("_keys") else f", got {first['input']!r}"
        raise refuse(f"{name}: {first['msg']}{got}") from None
    except ValueError as error:
        raise refuse(str(error)) from None


def _settings_for(host: str, settings: Settings) -> Settings:
    """The settings of a server that listens on `host`. Exits if others could call it and nobody said that they may."""
    if is_loopback(host):
        return settings.model_copy(update={"allowed_hosts": settings.allowed_hosts or ("localhost",)})
    if not settings.has_keys and not settings.allow_anyone:
        raise refuse(
            f"whoever reaches {host or 'this machine'} could use, load and unload every model: give ELMAN_API_KEYS, or "
            "--allow-anyone (ELMAN_ALLOW_ANYONE=true) if that is wanted, or leave --host out to listen on 127.0.0.1"
        )
    return settings


def run_server(
    settings: Settings,
    host: str,
    port: int,
    log_level: str = "info",
    access_log: bool = False,
    on_start: Callable[[str], None] = lambda address: None,
) -> None:
    """Serve until told to stop. Exits with 3 if the server cannot start.

    Args:
        on_start: called with the address, such as `http://127.0.0.1:8000`, once the server listens. It is not
            called with several workers.
    """
    settings = _settings_for(host, settings).model_copy(update={"grpc_host": host})
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

        run_workers(settings, **options)
        return
    collect_less()
    keep_memory()
    settings = within_descriptors(settings)
    run_to_the_end(GracefulServer(create_app(settings), settings, options, on_start))


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
        self._application = application
        self._silence = settings.stream_timeout
        self._grpc = settings.grpc_port is not None
        self._json_logs = settings.log_format == "json"
        self._last_moment = settings.drain_timeout + FORCE_SECONDS
        self._on_start = on_start
        self._ending = False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
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
            self._on_start(f"http://{host}:{listening[0].getsockname()[1]}")

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
