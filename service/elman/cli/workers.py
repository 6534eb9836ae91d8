"""Several processes behind one address: each with an engine of its own, all with the sessions of one store."""

import contextlib
import os
import signal
from collections.abc import AsyncIterator
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.supervisors import Multiprocess

from elman.api.server import own_key
from elman.app import create_app
from elman.http.process import collect_less, drop_silent_peers, keep_memory
from elman.settings import Settings

# How long a worker may be silent before it is taken for hung: as long as a request may hold the interpreter, and more.
_SILENCE_SECONDS = 60


def run_workers(settings: Settings, **options: Any) -> None:
    """Serve with `settings.workers` processes until told to stop; one that dies is replaced.

    options: of `uvicorn.Config`. Settings reach the workers through the environment.
    """
    if not settings.state_keys:
        # One for all of them, wherever it comes from.
        settings = settings.model_copy(update={"state_keys": (own_key(settings),)})
    os.environ.update(settings.environment())
    config = uvicorn.Config(
        "elman.cli.workers:application",
        factory=True,
        workers=settings.workers,
        timeout_worker_healthcheck=_SILENCE_SECONDS,
        **options,
    )
    listening = config.bind_socket()
    drop_silent_peers(listening, settings.stream_timeout)
    Multiprocess(config, sockets=[listening]).run()


def application() -> FastAPI:
    """One worker's application, with the settings of the environment."""
    collect_less()
    keep_memory()
    app = create_app(Settings())
    inner = app.router.lifespan_context

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[Any]:
        _tell_when_stopping(app)
        async with inner(app) as state:
            yield state

    app.router.lifespan_context = lifespan
    return app


def _tell_when_stopping(app: FastAPI) -> None:
    before = signal.getsignal(signal.SIGTERM)

    def stop(number: int, frame: FrameType | None) -> None:
        app.state.stopping()
        if callable(before):
            before(number, frame)

    signal.signal(signal.SIGTERM, stop)
