"""The fuzz target of bodies: what every endpoint does with some bytes, up to the engine."""

import asyncio
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import orjson

from elman.app import create_app
from elman.errors import ElmanError
from elman.http.endpoint import Exchange, Request, Response
from elman.settings import Settings
from tests.fuzz.linear import check_linear
from tests.running import STORE

MODELS = (
    "names-gru", "vowels-gru", "vowels-lstm-bidirectional", "names-lstm-generator", "sunspots-gru", "electricity-gru",
)  # fmt: skip
JSON, OCTETS = b"application/json", b"application/octet-stream"
# Turns of the event loop that a request is given. What needs the engine for longer is cancelled.
_TURNS = 30


@dataclass(frozen=True)
class Route:
    """Where a body is sent. For bytes and for `infer`, the body begins with a line that is taken off.

    Attributes:
        line: what the line is: the query string, or the length of the JSON that goes before binary tensors.
    """

    path: str
    headers: dict[bytes, bytes]
    line: bytes = b""


def routes(session: str) -> list[Route]:
    """Every endpoint, with models of each kind."""
    json = {b"content-type": JSON}
    octets = {b"content-type": OCTETS, b"accept": OCTETS}
    of_models = [Route(f"/v1/models/{name}/predict", json) for name in MODELS]
    others = [
        *("names-lstm-generator/generate", "sunspots-gru/forecast", "electricity-gru/forecast"),
        *("vowels-gru/influence", "names-gru/influence"),
    ]
    return [
        *of_models,
        *(Route(f"/v1/models/{one}", json) for one in others),
        Route("/v1/timeseries/forecast", json),
        Route(f"/v1/sessions/{session}/steps", json),
        Route("/v1/models/vowels-gru/predict", octets, b"query"),
        Route("/v1/models/names-gru/predict", octets, b"query"),
        Route(f"/v1/sessions/{session}/steps", octets, b"query"),
        Route("/v2/models/vowels-gru/infer", json),
        Route("/v2/models/names-gru/infer", json | {b"accept-encoding": b"gzip"}),
        Route("/v2/models/vowels-gru/infer", octets, b"inference-header-content-length"),
        Route("/v2/models/names-gru/infer", json, b"content-encoding"),
    ]


class Answered(Exchange):
    """Keeps the response. Raises errors that are not the project's."""

    def __init__(self) -> None:
        super().__init__()
        self.response: Response | None = None

    def reply(self, response: Response) -> None:
        assert self.response is None, "a request is answered once"
        assert 200 <= response.status < 600
        self.response = response

    def fail(self, driver: Any, error: Exception) -> None:
        if not isinstance(error, ElmanError):
            raise error
        assert error.status != 500, error
        problem = orjson.loads(orjson.dumps(error.problem()))
        assert problem["detail"] and len(problem["detail"]) < 4096
        self.reply(Response(b"", status=error.status))

    def send(self, piece: bytes, headers: Iterable[tuple[bytes, bytes]]) -> None:
        pass


class Bodies:
    """The target. Its application runs on an event loop of its own, until `close`."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        for name in MODELS:
            if not (folder / name).exists():
                (folder / name).symlink_to(STORE / name)
        self._loop = asyncio.new_event_loop()
        self._failures: list[dict[str, Any]] = []
        self._loop.set_exception_handler(lambda _, context: self._failures.append(context))
        self.app: Any = create_app(Settings(models=folder, store="memory", poll=0, api_keys=()))
        self._lifespan = self.app.router.lifespan_context(self.app)
        self._loop.run_until_complete(self._lifespan.__aenter__())
        self.routes = routes(self._loop.run_until_complete(self._session()))

    async def _session(self) -> str:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url="http://test") as client:
            made = await client.post("/v1/models/vowels-gru/sessions", json={"ttl": 1e6})
        return str(made.raise_for_status().json()["id"])

    def close(self) -> None:
        self._loop.run_until_complete(self._lifespan.__aexit__(None, None, None))
        self._loop.close()

    def __call__(self, data: bytes) -> None:
        """Send a body to the route that its first byte names."""
        if data:
            with check_linear(len(data)):
                self._loop.run_until_complete(self._send(self.routes[data[0] % len(self.routes)], data[1:]))
            failures, self._failures = self._failures, []
            if failures:
                raise RuntimeError(failures[0]["message"]) from failures[0].get("exception")

    async def _send(self, route: Route, body: bytes) -> None:
        headers, query = dict(route.headers), b""
        if route.line:
            line, _, body = body.partition(b"\n")
            query = line if route.line == b"query" else b""
            headers |= {} if query else {route.line: line}
        driver, exchange = self.app.driver, Answered()
        try:
            found = self.app.find(route.path, headers)
        except ElmanError:
            return
        request = Request(found.parameters, headers, query, body, found.caller.owner, time.monotonic())
        driver.start(found.endpoint, request, exchange)
        for _ in range(_TURNS):
            if exchange.replied:
                return
            await asyncio.sleep(0)
        exchange.disconnect()
