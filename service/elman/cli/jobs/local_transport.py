"""An httpx transport that calls the server's application in this process, without a socket."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

from elman.app import create_app
from elman.cli.jobs.given_settings import settings_from
from elman.settings import Settings

# The limits of a server protect its other callers. Here there are none.
_NO_LIMIT_SECONDS = 1e9
_LARGEST_BODY = 1 << 40


def settings_for(models: Path) -> Settings:
    """Settings for an application with a single caller. They replace those of the environment."""
    settings = settings_from(
        {
            "models": models,
            "poll": 0,
            "workers": 1,
            "api_keys": (),
            "admin_api_keys": (),
            "store": "memory",
            "max_queue_seconds": _NO_LIMIT_SECONDS,
            "max_body": _LARGEST_BODY,
            "body_timeout": _NO_LIMIT_SECONDS,
            "drain_timeout": 0.1,
        }
    )
    return settings.model_copy(update={"api_keys_file": None, "admin_port": None})


class LocalTransport(httpx.AsyncBaseTransport):
    """Calls the application, and runs its lifespan while the transport is open. Responses are streamed."""

    def __init__(self, settings: Settings) -> None:
        self.app = create_app(settings)
        self._lifespan: Any = None

    async def __aenter__(self) -> "LocalTransport":
        assert self._lifespan is None, "it is open already: a second lifespan would end the first"
        self._lifespan = self.app.router.lifespan_context(self.app)
        await self._lifespan.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        at: TracebackType | None = None,
    ) -> None:
        lifespan, self._lifespan = self._lifespan, None
        if lifespan is not None:
            await lifespan.__aexit__(None, None, None)

    async def refusal(self) -> str:
        """Why the only model of the repository is refused."""
        async with httpx.AsyncClient(transport=_Borrowed(self), base_url="http://elman") as client:
            refused = (await client.get("/v1/models")).json()["refused"]
        return (
            " ".join(filter(None, (refused[0]["reason"] + ".", refused[0]["remedy"]))) if refused else "no reason given"
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        exchange = _LocalExchange(await request.aread())
        exchange.task = asyncio.create_task(self._call(request, exchange))
        try:
            start = await exchange.next()
        except BaseException:
            await exchange.aclose()
            raise
        return httpx.Response(start["status"], headers=start["headers"], stream=exchange, request=request)

    async def _call(self, request: httpx.Request, exchange: "_LocalExchange") -> None:
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": request.method,
            "scheme": "http",
            "path": request.url.path,
            "raw_path": request.url.raw_path.split(b"?")[0],
            "query_string": request.url.query,
            "root_path": "",
            "headers": [(name.lower(), value) for name, value in request.headers.raw],
            "client": ("127.0.0.1", 0),
            "server": ("elman", 80),
            "state": {},
        }
        try:
            await self.app(scope, exchange.receive, exchange.send)
        except Exception as error:
            exchange.fail(error)
        else:
            exchange.fail(httpx.RemoteProtocolError("the application sent no response"))


class _LocalExchange(httpx.AsyncByteStream):
    """One request and its response."""

    def __init__(self, body: bytes) -> None:
        self.task: asyncio.Task[None] | None = None
        self._body: bytes | None = body
        self._gone = asyncio.Event()
        self._sent: asyncio.Queue[dict[str, Any] | Exception] = asyncio.Queue()

    async def receive(self) -> dict[str, Any]:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        self._sent.put_nowait(message)

    def fail(self, error: Exception) -> None:
        self._sent.put_nowait(error)

    async def next(self) -> dict[str, Any]:
        message = await self._sent.get()
        if isinstance(message, Exception):
            raise message
        return message

    async def __aiter__(self) -> AsyncIterator[bytes]:
        more = True
        while more:
            message = await self.next()
            more = message.get("more_body", False)
            yield message.get("body", b"")

    async def aclose(self) -> None:
        self._gone.set()
        if self.task is not None and not self.task.done():
            # Usually the application only has to return. Let it, so that it is not cancelled.
            await asyncio.sleep(0)
            self.task.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await self.task


class _Borrowed(httpx.AsyncBaseTransport):
    """The same application for a second client, which does not close it."""

    def __init__(self, owner: LocalTransport) -> None:
        self.owner = owner

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return await self.owner.handle_async_request(request)
