"""The server process behind `elman serve` and `elman demo`."""

import math
import os
from collections.abc import Callable
from typing import Any

from elman.cli.exits import CANNOT_START, refuse
from elman.cli.extras import need
from elman.cli.jobs.listening import hold_port, listening_sockets, tls_options
from elman.errors import StoreUnavailable
from elman.http.keys import KeysFile, KeysRefused
from elman.http.process import collect_less, keep_memory, within_descriptors
from elman.http.sites import is_loopback
from elman.settings import Settings

FORCE_SECONDS = 5.0
"""How long after its drain timeout a stopping server ends in any case."""


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


def _check_store(settings: Settings) -> None:
    """Exit if the store at a URL must not be used as it is. One that cannot be reached yet is used once it can."""
    from elman.api.server import open_remote
    from elman.sessions.stores.redis.store import RefusedStore

    try:
        open_remote(settings).close()
    except RefusedStore as refused:
        raise refuse(refused.detail, CANNOT_START) from None
    except StoreUnavailable:
        pass  # the server says so itself


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
        "log_level": log_level,
        "use_colors": False if os.environ.get("NO_COLOR") else None,
        "access_log": access_log,
        # An open stream must not keep a stopping server alive.
        "timeout_graceful_shutdown": max(1, math.ceil(settings.drain_timeout)),
        "server_header": False,
        # No answer depends on the address of the client, so the headers of a proxy are not read.
        "proxy_headers": False,
        # A few bytes of a compressed frame may stand for a megabyte.
        "ws_per_message_deflate": False,
        **tls_options(settings),
    }
    if settings.log_format == "json":
        from elman.http.logs import JSON_LOGS

        options["log_config"] = JSON_LOGS
    if settings.tracing:
        from elman.app import new_tracing

        try:
            new_tracing()
        except ValueError as error:
            raise refuse(str(error), CANNOT_START) from None
    if settings.grpc_port is not None:
        need("grpc")
    if settings.is_remote:
        need("redis")
        _check_store(settings)
    if settings.workers > 1 and settings.store == "memory":
        raise refuse("several workers cannot share a store in memory; use --store lmdb")
    # Before the models are loaded, which takes long: a port may be taken.
    sockets, settings = listening_sockets(settings, options, admin_host)
    if settings.workers > 1:
        from elman.cli.jobs.workers import run_workers

        run_workers(settings, keys, sockets, options)
        return
    if settings.grpc_port is not None:
        hold_port(host, settings.grpc_port).close()
    # Not imported by what supervises workers, since each of them imports it for itself.
    from elman.app import create_app
    from elman.cli.jobs.graceful import GracefulServer, run_to_the_end

    collect_less()
    keep_memory()
    settings = within_descriptors(settings)
    run_to_the_end(GracefulServer(create_app(settings, keys), settings, options, on_start), sockets)
