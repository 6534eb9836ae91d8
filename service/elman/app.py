"""`create_app(settings)`: composes everything, once."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from functools import lru_cache
from typing import Literal

from fastapi import FastAPI, Response
from fastapi import Request as HTTPRequest
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from elman import __version__
from elman.api.autoregressive import Loop
from elman.api.forecast import Forecast
from elman.api.generate import Generate
from elman.api.influence import Influence
from elman.api.metrics import Metrics
from elman.api.models import models_router
from elman.api.openapi import document, problem_responses
from elman.api.ops import ops_router
from elman.api.playground import playground_router
from elman.api.predict import Predict, Watcher
from elman.api.repository import repository_router
from elman.api.server import Server
from elman.api.sessions import sessions_router
from elman.api.steps import Stepper, Steps
from elman.api.stream import Streams, stream_router
from elman.errors import ElmanError, Internal, InvalidField, InvalidJSON, MethodNotAllowed, Unauthorized, UnknownRoute
from elman.http.asgi import (
    JSON,
    PROBLEM,
    BodyReader,
    Caller,
    ClientGone,
    GiveUp,
    Hot,
    HotDirect,
    Request,
    refuse_socket,
    replayed,
    respond_problem,
)
from elman.http.callers import OWNER, Callers
from elman.settings import Settings


class Elman(FastAPI):
    """The application, with a way past its routing for the hot routes.

    Routing and the framework's own middleware cost several times what a hot endpoint does. Where the application is
    mounted in another, or has middleware of its user's, hot routes go the ordinary way and are the same endpoints.
    """

    callers: Callers
    report: Callable[[ElmanError], None]
    bodies: BodyReader
    predict: HotDirect
    steps: Hot

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind == "lifespan":
            await super().__call__(scope, receive, send)
            return
        path = scope["path"]
        if not self.callers.open and _is_guarded(path.removeprefix(scope.get("root_path", ""))):
            try:
                scope[OWNER] = self.callers.identify(scope["headers"])
            except Unauthorized as error:
                self.report(error)
                await (refuse_socket(receive, send) if kind == "websocket" else respond_problem(send, error))
                return
        if kind == "http" and scope["method"] == "POST" and not self.user_middleware and not scope.get("root_path"):
            hot, parameters = hot_path(path)
            if hot is not None:
                scope["path_params"] = dict(parameters)
                await (self.predict if hot == "predict" else self.steps)(scope, receive, send)
                return
        if kind == "http":
            scope["headers"] = [_AS_JSON if header == _AS_FORM else header for header in scope["headers"]]
            if scope["method"] in _WITH_BODY:
                try:
                    body = await self.bodies.read(dict(scope["headers"]), receive)
                except ClientGone:
                    return
                except ElmanError as error:
                    self.report(error)
                    await respond_problem(send, error)
                    return
                receive = replayed(body, receive)
        await super().__call__(scope, receive, send)

    def begin(
        self, path: str, query: bytes, headers: list[tuple[bytes, bytes]], body: bytes, caller: Caller
    ) -> GiveUp | None:
        """Begin on a POST whose body is all there, past ASGI and its task, which cost as much as the request.

        Returns:
            what gives it up; None, with nothing begun, where it is to be served as ASGI.
        """
        hot, parameters = hot_path(path)
        if hot != "predict" or self.user_middleware or len(body) > self.bodies.limit:
            return None
        try:
            owner = self.callers.identify(headers)
        except Unauthorized:
            return None
        return self.predict.begin(Request(dict(parameters), dict(headers), query, body, owner), caller)


# What curl -d says of its body where nothing is said of it; no route takes a form.
_AS_FORM = (b"content-type", b"application/x-www-form-urlencoded")
_AS_JSON = (b"content-type", JSON)


# Methods whose bodies are read before routing, within the limits on size and time that hot routes have.
_WITH_BODY = frozenset({"POST", "PUT", "PATCH", "DELETE"})


def _is_guarded(path: str) -> bool:
    """Whether a path is for callers with a key."""
    return path.startswith(("/v1/", "/v2/")) or path in ("/v1", "/v2")


@lru_cache(1024)
def hot_path(path: str) -> tuple[Literal["predict", "steps"] | None, tuple[tuple[str, str], ...]]:
    """Which hot route a path is, and its parameters; None for any other path."""
    parts = path.split("/")
    if parts[:3] == ["", "v1", "models"] and parts[-1] == "predict":
        if len(parts) == 5:
            return "predict", (("name", parts[3]),)
        if len(parts) == 7 and parts[4] == "versions":
            return "predict", (("name", parts[3]), ("version", parts[5]))
    elif parts[:3] == ["", "v1", "sessions"] and parts[-1] == "steps" and len(parts) == 5:
        return "steps", (("id", parts[3]),)
    return None, ()


def create_app(settings: Settings | None = None) -> FastAPI:
    """The application, to run under an ASGI server or to mount in another application.

    The models are loaded and the engine is started in its lifespan.
    """
    settings = settings or Settings()
    server = Server(settings)
    metrics = Metrics(server)
    bodies = BodyReader(settings.max_body, settings.body_timeout)
    watcher = Watcher(lambda: server.ready)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await server.start()
        running = asyncio.get_running_loop()

        def stopping() -> None:
            """Not ready from the first moment of stopping, so that what is cut off is told why. For signal handlers."""
            server.ready = False
            running.call_soon_threadsafe(streams.end)

        app.state.stopping = stopping
        sweeps = [asyncio.create_task(sweep) for sweep in (bodies.sweep(), watcher.sweep(), server.sessions.sweep())]
        try:
            yield
        finally:
            for sweep in sweeps:
                sweep.cancel()
            await streams.close()
            await server.stop()

    app = Elman(
        title="Elman",
        version=__version__,
        description="An inference server for recurrent networks.",
        lifespan=lifespan,
        responses=problem_responses(),
        redoc_url=None,
    )
    app.state.server = server
    app.state.stopping = lambda: None
    app.callers, app.report, app.bodies = Callers(settings.api_keys), metrics.request_failed, bodies
    stepper = Stepper(server, watcher)
    streams = Streams(server, metrics, stepper)
    loop = Loop(server, metrics, bodies, watcher)
    app.predict = HotDirect(Predict(server, metrics, bodies, watcher), metrics.request_failed)
    app.steps = Hot(Steps(server, metrics, bodies, stepper), metrics.request_failed)
    verbs = {
        "predict": app.predict,
        "generate": Hot(Generate(loop), metrics.request_failed),
        "forecast": Hot(Forecast(loop), metrics.request_failed),
        "influence": Hot(Influence(loop), metrics.request_failed),
    }
    for verb, endpoint in verbs.items():
        for path in (f"/v1/models/{{name}}/{verb}", f"/v1/models/{{name}}/versions/{{version}}/{verb}"):
            app.router.routes.append(Route(path, endpoint, methods=["POST"]))
    app.router.routes.append(Route("/v1/sessions/{id}/steps", app.steps, methods=["POST"]))
    app.include_router(models_router(server))
    app.include_router(sessions_router(server))
    app.include_router(stream_router(streams))
    app.include_router(repository_router(server))
    app.include_router(ops_router(server, metrics, streams))
    app.include_router(playground_router())
    _handle_errors(app, metrics)
    app.openapi = document(app)  # type: ignore[method-assign]
    return app


def _handle_errors(app: FastAPI, metrics: Metrics) -> None:
    """Give every error the one body, those of the framework included."""

    def answer(error: ElmanError) -> Response:
        metrics.request_failed(error)
        return JSONResponse(error.problem(), error.status, dict(error.headers), media_type=PROBLEM.decode())

    @app.exception_handler(ElmanError)
    async def on_elman_error(request: HTTPRequest, error: ElmanError) -> Response:
        return answer(error)

    @app.exception_handler(RequestValidationError)
    async def on_validation_error(request: HTTPRequest, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            return answer(InvalidJSON(f"the body is not valid JSON: it goes wrong at byte {first['loc'][-1]}"))
        where = ".".join(str(part) for part in first["loc"][1:]) or None
        return answer(InvalidField(str(first["msg"]), where=where))

    @app.exception_handler(HTTPException)
    async def on_http_error(request: HTTPRequest, error: HTTPException) -> Response:
        if error.status_code == 405:
            allow = (error.headers or {}).get("Allow", "")
            return answer(MethodNotAllowed(f"{request.method} is not for this path", allow=allow))
        if error.status_code == 400:
            return answer(InvalidJSON("the body cannot be read as JSON"))
        return answer(UnknownRoute(f"there is nothing at {request.url.path}", expected="see /docs"))

    @app.exception_handler(Exception)
    async def on_defect(request: HTTPRequest, error: Exception) -> Response:
        return answer(Internal("the server failed on this request"))
