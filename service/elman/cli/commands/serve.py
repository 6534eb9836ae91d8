"""`elman serve`."""

import contextlib
import math
import signal
import socket
import sys
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer

from elman.cli.exits import CANNOT_START, refuse


def serve(
    models: Annotated[
        Path | None,
        typer.Argument(help="The model repository, <name>/<version>/model.onnx. [default: models/store]"),
    ] = None,
    host: Annotated[str, typer.Option(envvar="ELMAN_HOST", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(envvar="ELMAN_PORT", min=0, max=65535, help="Port to listen on; 0 takes a free one.")
    ] = 8000,
    max_batch: Annotated[int | None, typer.Option(help="Most sequences that one run advances.")] = None,
    max_queue: Annotated[int | None, typer.Option(help="Most unfinished sequences; then 503.")] = None,
    max_body: Annotated[int | None, typer.Option(help="Largest request body, in bytes.")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes that serve the address.")] = None,
    store: Annotated[str | None, typer.Option(help="Where sessions live: lmdb or memory.")] = None,
    store_dir: Annotated[Path | None, typer.Option(help="Folder of the session store.")] = None,
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "info",
    access_log: Annotated[bool, typer.Option(help="Log every request.")] = False,
) -> None:
    """Serve a model repository over HTTP.

    \b
    elman serve my-models
    elman serve my-models --host 0.0.0.0 --port 8000 --workers 4
    elman serve my-models --store-dir /var/lib/elman

    Every setting can also be made in the environment: ELMAN_MODELS, ELMAN_MAX_BATCH, ELMAN_MAX_QUEUE and so on.
    """
    import uvicorn
    from pydantic import ValidationError

    from elman.app import create_app
    from elman.http.process import collect_less, drop_silent_peers, keep_memory
    from elman.http.protocol import HTTPProtocol
    from elman.settings import Settings

    given: dict[str, Any] = {
        "models": models,
        "max_batch": max_batch,
        "max_queue": max_queue,
        "max_body": max_body,
        "workers": workers,
        "store": store,
        "store_dir": store_dir,
    }
    try:
        settings = Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(map(str, first["loc"]))
        raise refuse(f"{name}: {first['msg']}, got {first['input']!r}") from None
    if not settings.models.is_dir():
        raise refuse(f"the model repository {str(settings.models)!r} is not a folder")
    options: dict[str, Any] = {
        "host": host,
        "port": port,
        "http": HTTPProtocol,
        "log_level": log_level,
        "access_log": access_log,
        # An open stream must not keep a stopping server alive.
        "timeout_graceful_shutdown": max(1, math.ceil(settings.drain_timeout)),
        "server_header": False,
        # No answer hangs on the client's address, so there is no header of a proxy to believe or not.
        "proxy_headers": False,
        "ws_max_size": settings.max_body,
    }
    if settings.workers > 1:
        if settings.store == "memory":
            raise refuse("a store in memory cannot be shared by several workers; use --store lmdb")
        from elman.cli.workers import run_workers

        run_workers(settings, **options)
        return
    collect_less()
    keep_memory()
    # uvicorn raises the signal again once it has shut down; stopping when asked to is no failure.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    application = create_app(settings)

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            for listening in self.servers:
                for one in listening.sockets:
                    drop_silent_peers(one, settings.stream_timeout)

        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            application.state.stopping()
            super().handle_exit(sig, frame)

    server = Server(uvicorn.Config(application, **options))
    with contextlib.suppress(KeyboardInterrupt):
        server.run()
    if not server.started:
        raise typer.Exit(CANNOT_START)
