"""Several server processes on one address. Each has its own engine, and all share the sessions of one store."""

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
from elman.http.process import collect_less, drop_silent_peers, keep_memory, within_descriptors
from elman.settings import Settings

# A worker that answers no health check for this long is replaced. It is longer than any request blocks the interpreter.
_SILENCE_SECONDS = 60


def run_workers(settings: Settings, **options: Any) -> None:
    """Serve with `settings.workers` processes until told to stop. A worker that dies is replaced.

    The workers get their settings through the environment.

    Args:
        options: of `uvicorn.Config`.
    """
    if not settings.state_keys:
        # All workers must seal state tokens with the same key.
        settings = settings.model_copy(update={"state_keys": (own_key(settings),)})
    os.environ.update(settings.environment())
    config = uvicorn.Config(
        "elman.cli.jobs.workers:application",
        factory=True,
        workers=settings.workers,
        timeout_worker_healthcheck=_SILENCE_SECONDS,
        **options,
    )
    listening = config.bind_socket()
    drop_silent_peers(listening, settings.stream_timeout)
    Multiprocess(config, sockets=[listening]).run()


def application() -> FastAPI:
    """The application of one worker, with the settings of the environment."""
    collect_less()
    keep_memory()
    app = create_app(within_descriptors(Settings()))
    inner = app.router.lifespan_context

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[Any]:
        _tell_when_stopping(app)
        async with inner(app) as state:
            yield state

    app.router.lifespan_context = lifespan
    return app


def _tell_when_stopping(app: FastAPI) -> None:
    """Have SIGTERM mark the application as not ready, before uvicorn begins to stop."""
    before = signal.getsignal(signal.SIGTERM)

    def stop(number: int, frame: FrameType | None) -> None:
        app.state.stopping()
        if callable(before):
            before(number, frame)

    signal.signal(signal.SIGTERM, stop)
