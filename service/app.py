"""`create_app(settings)`: composes everything, once."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from functools import lru_cache

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from service import __version__
from service.api.asgi import PROBLEM, BodyReader, Hot
from service.api.metrics import Metrics
from service.api.models import models_router
from service.api.openapi import document, problem_responses
from service.api.ops import ops_router
from service.api.playground import playground_router
from service.api.predict import Predict, Watcher
from service.api.repository import repository_router
from service.errors import ElmanError, Internal, InvalidField, MethodNotAllowed, UnknownRoute
from service.server import Server
from service.settings import Settings


class Elman(FastAPI):
    """The application, with a way past its routing for the hot routes.

    Routing and the framework's own middleware cost several times what a hot endpoint does. Where the application is
    mounted in another, or has middleware of its user's, hot routes go the ordinary way and are the same endpoints.
    """

    predict: Hot

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST" and not self.user_middleware:
            name, version = predict_path(scope["path"])
            if name is not None and not scope.get("root_path"):
                scope["path_params"] = {"name": name} if version is None else {"name": name, "version": version}
                await self.predict(scope, receive, send)
                return
        await super().__call__(scope, receive, send)


@lru_cache(1024)
def predict_path(path: str) -> tuple[str | None, str | None]:
    """(name, version) of a predict route's path; (None, None) for any other path."""
    parts = path.split("/")
    if parts[:3] != ["", "v1", "models"] or parts[-1] != "predict":
        return None, None
    if len(parts) == 5:
        return parts[3], None
    return (parts[3], parts[5]) if len(parts) == 7 and parts[4] == "versions" else (None, None)


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
        sweeps = [asyncio.create_task(sweep) for sweep in (bodies.sweep(), watcher.sweep())]
        try:
            yield
        finally:
            for sweep in sweeps:
                sweep.cancel()
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
    app.predict = predict = Hot(Predict(server, metrics, bodies, watcher), metrics.request_failed)
    for path in ("/v1/models/{name}/predict", "/v1/models/{name}/versions/{version}/predict"):
        app.router.routes.append(Route(path, predict, methods=["POST"]))
    app.include_router(models_router(server))
    app.include_router(repository_router(server))
    app.include_router(ops_router(server, metrics))
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
    async def on_elman_error(request: Request, error: ElmanError) -> Response:
        return answer(error)

    @app.exception_handler(RequestValidationError)
    async def on_validation_error(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:]) or None
        return answer(InvalidField(str(first["msg"]), where=where))

    @app.exception_handler(HTTPException)
    async def on_http_error(request: Request, error: HTTPException) -> Response:
        if error.status_code == 405:
            allow = (error.headers or {}).get("Allow", "")
            return answer(MethodNotAllowed(f"{request.method} is not for this path", allow=allow))
        return answer(UnknownRoute(f"there is nothing at {request.url.path}", expected="see /docs"))

    @app.exception_handler(Exception)
    async def on_defect(request: Request, error: Exception) -> Response:
        return answer(Internal("the server failed on this request"))
