"""`create_app(settings)`: composes the application."""

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, get_args

from fastapi import FastAPI, Response
from fastapi import Request as HTTPRequest
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Match
from starlette.routing import Route as ASGIRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from elman import __version__
from elman.api.docs import docs_router
from elman.api.forecast import Forecast
from elman.api.generate import Generate
from elman.api.influence import Influence
from elman.api.metrics import Metrics
from elman.api.models import models_router
from elman.api.openapi import document, problem_responses
from elman.api.ops import ops_router
from elman.api.playground import playground_router
from elman.api.predict import Predict
from elman.api.server import Server
from elman.api.sessions import sessions_router
from elman.api.steps import SessionSteps, Stepper
from elman.api.stream import Streams, stream_router
from elman.api.timeseries import TimeSeries, timeseries_router
from elman.api.v2.http import InferHTTP
from elman.api.v2.infer import Infer
from elman.api.v2.repository import repository_router
from elman.api.v2.routes import not_offered, open_router
from elman.api.workers import meeting_folder
from elman.codec.faults import echoed, unknown_field
from elman.engine.queue import Stats
from elman.errors import (
    ElmanError,
    Internal,
    InvalidField,
    InvalidJSON,
    MethodNotAllowed,
    TooLarge,
    Unauthorized,
    UnknownRoute,
    message_of,
)
from elman.http.asgi import (
    ASGIEndpoint,
    ClientGone,
    Ended,
    counted,
    party_of,
    read_body,
    refuse_socket,
    refuse_upgrade,
    replayed,
    respond,
    with_fields,
)
from elman.http.bodies import Bodies
from elman.http.callers import CALLER, Callers
from elman.http.connections import Connections
from elman.http.endpoint import (
    CODE,
    JSON,
    REQUEST_ID,
    Driver,
    Endpoint,
    Route,
    encode_problem,
    is_open,
    log_failure,
    problem_type,
)
from elman.http.exchange import HTTPExchange
from elman.http.keys import KeysFile
from elman.http.limits import SharedBuckets
from elman.http.process import switch_soon
from elman.http.roles import OPEN_TO_ALL, RouteTable, served_at
from elman.http.short import cache_short
from elman.http.sites import Sites
from elman.http.spans import SampledStats
from elman.settings import Settings, check_names

if TYPE_CHECKING:
    from elman.api.grpc.server import GRPCServer
    from elman.http.tracing import Tracing

_LOG = logging.getLogger("elman")

# The default content type of `curl -d`. No route takes a form, so such a body is read as JSON.
_AS_FORM = (b"content-type", b"application/x-www-form-urlencoded")
_AS_JSON = (b"content-type", JSON)
# Methods whose bodies are read before routing, with the same limits on size and time as for endpoints.
_WITH_BODY = frozenset({"POST", "PUT", "PATCH", "DELETE"})
# FastAPI decodes bodies on the event loop, and small values take thirty times their bytes. So a body of more bytes may
# hold few values, as one with a state token does. The characters are those that separate values or escape others.
_MAX_PARSED_BYTES = 256 * 1024
_MAX_PARSED_VALUES = 1024
_BETWEEN_VALUES = b"[{,\\"
# Header fields that pages of other origins may send and read. Starlette adds those that every page may.
_SENT_FIELDS = ("Authorization", "Content-Type", "Elman-State", "Traceparent", "Tracestate", "X-Request-ID")
_READ_FIELDS = (
    "Elman-Model",
    "Elman-Shape",
    "Elman-State",
    "Elman-Step",
    "Elman-Version",
    "Retry-After",
    "X-Request-ID",
)


class Elman(FastAPI):
    """The application. Requests for endpoints bypass FastAPI's routing and middleware.

    These cost several times as much as an endpoint itself. If a user adds middleware, requests pass through it and
    reach the same endpoints by the router.
    """

    callers: Callers
    driver: Driver
    bodies: Bodies
    connections: Connections
    sites: Sites
    cors: ASGIApp | None
    endpoints: dict[str, ASGIEndpoint]
    exchange: type[HTTPExchange] = HTTPExchange
    ended: Ended | None = None
    table: RouteTable
    admin_port: int | None

    def find(self, path: str, headers: Mapping[bytes, bytes]) -> Route | None:
        """The route of a POST; None if it is to be served as ASGI. Raises the errors of `Sites` and `Callers`."""
        name, parameters = endpoint_of(path)
        if name is None or self.user_middleware or (self.cors is not None and b"origin" in headers):
            return None
        self.sites.check(b"POST", path, headers)
        served = self.endpoints[name]
        caller = self.callers.admit(headers, served.needs)
        driver = self.driver if caller.meter is None else self.driver.within(caller.meter)
        return Route(served.endpoint, parameters, served.path, caller, driver)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await super().__call__(scope, receive, send)
            return
        if REQUEST_ID not in scope:
            scope[REQUEST_ID] = self.driver.request_id(dict(scope["headers"]))
            send = with_fields(scope[REQUEST_ID], send)
        application = self.cors or self._serve
        if scope["type"] == "http":
            await counted(application, self.driver.counters, self.ended, scope, receive, send)
        else:
            await application(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind, headers, given = scope["type"], dict(scope["headers"]), scope.get("method", "GET")
        # A HEAD is served as a GET. Whatever sends the answer leaves out the body.
        method = "GET" if given == "HEAD" else given
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        try:
            self.sites.check(method.encode(), path, headers, upgrade=kind == "websocket")
            name, parameters = endpoint_of(path) if method == "POST" else (None, {})
            self._admit(scope, method, path, headers, counted_later=name is not None)
            if kind == "http":
                if name is not None and not self.user_middleware:
                    scope["path_params"] = parameters
                    await self.endpoints[name](scope, receive, send)
                    return
                scope["headers"] = [_AS_JSON if header == _AS_FORM else header for header in scope["headers"]]
                if is_open(path):
                    # Its clients send any type, or none, with their JSON.
                    others = [header for header in scope["headers"] if header[0] != b"content-type"]
                    scope["headers"] = [*others, _AS_JSON]
                if method in _WITH_BODY:
                    body = await read_body(self.bodies, headers, receive, path, party_of(scope))
                    if name is None:
                        _check_parsed(path, body)
                    receive = replayed(body, receive)
        except ClientGone:
            return
        except ElmanError as error:
            scope[CODE] = error.code
            problem = self.driver.problem(error, path=path)
            if kind == "http":
                await respond(send, problem)
            elif isinstance(error, Unauthorized):
                await refuse_socket(receive, send)
            else:
                await refuse_upgrade(scope, receive, send, problem)
            return
        scope["method"] = method
        try:
            await super().__call__(scope, receive, send)
        finally:
            scope["method"] = given

    def _admit(
        self, scope: Scope, method: str, path: str, headers: Mapping[bytes, bytes], *, counted_later: bool
    ) -> None:
        """Check the port, the key, its role and its limit. Raises UnknownRoute and the errors of `Callers`."""
        if self.callers.open and self.admin_port is None:
            return
        need = self.table.need(method, path)
        if self.admin_port is not None and not served_at(need, admin_port=self.is_admin(scope["server"])):
            raise UnknownRoute(f"{echoed(path)} is not served at this port", expected="see docs/operating.md")
        if need in OPEN_TO_ALL:
            return
        caller = scope[CALLER] = self.callers.admit(headers, need)
        if caller.meter is not None and not counted_later:
            caller.meter.take_request()

    def party(self, headers: Mapping[bytes, bytes], address: bytes) -> bytes:
        """Whose share of the server a request takes: the owner of its key, or without a valid one its address."""
        return self.callers.owner(headers) or address

    def is_admin(self, address: Any) -> bool:
        """Whether an address of the server, host and port, is that of its admin port."""
        return self.admin_port is not None and isinstance(address, list | tuple) and address[1] == self.admin_port


def _check_parsed(path: str, body: bytes) -> None:
    """Raise TooLarge if FastAPI would decode a large body of many values. Requests for sessions it does not decode."""
    if len(body) <= _MAX_PARSED_BYTES or path.endswith("/sessions"):
        return
    if sum(map(body.count, _BETWEEN_VALUES)) > _MAX_PARSED_VALUES:
        raise TooLarge("the body has too many values", expected=f"at most {_MAX_PARSED_BYTES} bytes on this route")


_TIME_SERIES = "/v1/timeseries/forecast"
_STEPS = "/v1/sessions/{id}/steps"
_INFER = "/v2/models/{name}/infer"
_VERBS = frozenset({"predict", "generate", "forecast", "influence"})


@cache_short
def endpoint_of(path: str) -> tuple[str | None, dict[str, str]]:
    """The name of the endpoint at a path, and the parameters of the path; None for any other path."""
    parts = path.split("/")
    if parts[:3] == ["", "v1", "models"] and parts[-1] in _VERBS:
        if len(parts) == 5:
            return parts[4], {"name": parts[3]}
        if len(parts) == 7 and parts[4] == "versions":
            return parts[6], {"name": parts[3], "version": parts[5]}
    elif parts[:3] == ["", "v2", "models"] and parts[-1] == "infer":
        if len(parts) == 5:
            return "infer", {"name": parts[3]}
        if len(parts) == 7 and parts[4] == "versions":
            return "infer", {"name": parts[3], "version": parts[5]}
    elif parts[:3] == ["", "v1", "sessions"] and parts[-1] == "steps" and len(parts) == 5:
        return "steps", {"id": parts[3]}
    elif path == _TIME_SERIES:
        return "time_series", {}
    return None, {}


def create_app(settings: Settings | None = None, keys: KeysFile | None = None) -> FastAPI:
    """Create the application, to run under an ASGI server or to mount in another application.

    Its lifespan loads the models and starts the engine. Raises ValueError if `settings` is None and the environment
    does not give valid ones, if the file of keys cannot be used, and as `new_tracing` does.

    Args:
        keys: the file of keys, if it was read already.
    """
    if settings is None:
        check_names(os.environ)
        settings = Settings()
    if keys is None and settings.api_keys_file is not None:
        keys = KeysFile(settings.api_keys_file)
    callers = Callers(settings.api_keys, settings.admin_api_keys, keys, shared_buckets(settings))
    tracing = new_tracing() if settings.tracing else None
    server = Server(settings, Stats if tracing is None else SampledStats)
    metrics = Metrics(server, callers)
    driver = Driver(server.engine, metrics) if tracing is None else tracing.driver(server.engine, metrics)
    bodies = Bodies(settings.max_body, settings.body_timeout)
    connections = Connections(settings.max_connections, settings.max_address_connections)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        streams.open()
        if tracing is not None:
            tracing.open()
        await server.start()
        if rpc is not None:
            app.state.grpc_port = await rpc.start()
        running = asyncio.get_running_loop()

        def stopping(at_once: bool = False) -> None:
            """Called by signal handlers: not ready at once, so that clients that are cut off get the reason."""
            server.stopping(at_once)
            running.call_soon_threadsafe(streams.end)
            if rpc is not None:
                running.call_soon_threadsafe(rpc.end, at_once)

        app.state.stopping = stopping
        sweeping = (bodies.sweep(), connections.sweep(), server.sessions.sweep(), metrics.watch_loop(), callers.watch())
        sweeps = [asyncio.create_task(sweep) for sweep in sweeping]
        try:
            async with metrics.workers.joined():
                yield
        finally:
            for sweep in sweeps:
                sweep.cancel()
            await streams.close()
            if rpc is not None:
                await rpc.stop()
            await server.stop()
            if tracing is not None:
                await tracing.close()

    app = Elman(
        title="Elman",
        version=__version__,
        description="An inference server for recurrent networks.",
        lifespan=lifespan,
        responses=problem_responses(),
        docs_url=None,
        redoc_url=None,
    )
    app.state.server = server
    app.state.stopping = lambda at_once=False: None
    app.callers, app.driver, app.bodies, app.connections = callers, driver, bodies, connections
    connections.turns.is_busy, server.engine.on_delivery = server.engine.is_busy, connections.turns.resume
    connections.turns.on_several = switch_soon
    app.admin_port = settings.admin_port
    callers.on_change = connections.forget_heads
    server.sessions.max_sessions_of = lambda owner: callers.max_sessions.get(owner)
    if tracing is not None:
        app.exchange, app.ended = tracing.exchange, tracing.served
    app.sites = Sites(settings.allowed_hosts, settings.cors_origins)
    app.cors = _cors(app, settings.cors_origins) if settings.cors_origins else None
    stepper = Stepper(server)
    streams = Streams(server, driver, callers, metrics, stepper)
    metrics.num_streams = lambda: len(streams)
    forecast, infer = Forecast(server), Infer(server)
    rpc = None if settings.grpc_port is None else new_grpc(server, metrics, driver, callers, infer, bodies)
    endpoints: dict[str, Endpoint] = {
        "predict": Predict(server),
        "generate": Generate(server, metrics),
        "forecast": forecast,
        "time_series": TimeSeries(forecast),
        "influence": Influence(server),
        "steps": SessionSteps(server, stepper),
        "infer": InferHTTP(server, infer, bodies),
    }
    paths = {
        "steps": _STEPS,
        "time_series": _TIME_SERIES,
        "infer": _INFER,
        **{verb: f"/v1/models/{{name}}/{verb}" for verb in _VERBS},
    }
    app.endpoints = {name: ASGIEndpoint(one, paths[name], driver, bodies) for name, one in endpoints.items()}
    for verb in sorted(_VERBS):
        for path in (paths[verb], f"/v1/models/{{name}}/versions/{{version}}/{verb}"):
            app.router.routes.append(ASGIRoute(path, app.endpoints[verb], methods=["POST"]))
    app.router.routes.append(ASGIRoute(_STEPS, app.endpoints["steps"], methods=["POST"]))
    app.router.routes.append(ASGIRoute(_TIME_SERIES, app.endpoints["time_series"], methods=["POST"]))
    for path in (_INFER, "/v2/models/{name}/versions/{version}/infer"):
        app.router.routes.append(ASGIRoute(path, app.endpoints["infer"], methods=["POST"]))
    routers = (
        timeseries_router(server),
        models_router(server),
        sessions_router(server, driver),
        stream_router(streams),
        open_router(server, metrics),
        repository_router(server),
        ops_router(server, metrics, streams),
        playground_router(),
        docs_router(lambda: app.openapi()),
    )
    app.table = RouteTable(chain(app.router.routes, *(one.routes for one in routers)))
    for router in routers:
        app.include_router(router)
    _handle_errors(app, metrics)
    app.openapi = document(app, app.table, settings)  # type: ignore[method-assign]
    return app


def shared_buckets(settings: Settings) -> SharedBuckets | None:
    """Where the workers count together what keys with limits do; None for a single one, and if there can be no file."""
    if settings.workers == 1 or settings.api_keys_file is None:
        return None
    try:
        return SharedBuckets(meeting_folder(settings.store_dir, os.getppid()) / "limits")
    except OSError as error:
        _LOG.warning("each worker counts the limits of keys for itself: %s", error.strerror or error)
        return None


def new_tracing() -> "Tracing":
    """What samples requests and makes their spans.

    Raises ValueError if the extra is missing, or if the environment wants spans to be sent in another way.
    """
    try:
        from elman.http.tracing import Tracing
    except ModuleNotFoundError:
        raise ValueError("ELMAN_TRACING needs OpenTelemetry: pip install 'elman[otel]'") from None
    return Tracing()


def new_grpc(*parts: Any) -> "GRPCServer":
    """The gRPC server of an application, from what its constructor takes. Raises ValueError if the extra is missing."""
    # The children of a server are new programs. What gRPC does for copies of a process would only log that it cannot.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")
    try:
        from elman.api.grpc.server import GRPCServer
    except ModuleNotFoundError:
        raise ValueError("ELMAN_GRPC_PORT needs gRPC: pip install 'elman[grpc]'") from None
    return GRPCServer(*parts)


def _cors(app: Elman, origins: Sequence[str]) -> ASGIApp:
    """The application with answers that pages of some other origins may read. Their preflights need no key."""
    methods = ("GET", "POST", "PUT", "DELETE")
    return CORSMiddleware(app._serve, origins, methods, _SENT_FIELDS, expose_headers=_READ_FIELDS)


def _body_fields(request: HTTPRequest) -> tuple[str, ...]:
    """The fields of the body that a route of FastAPI takes."""
    body = request.scope["route"].body_field.field_info.annotation
    return tuple(name for kind in (body, *get_args(body)) for name in getattr(kind, "model_fields", ()))


def _methods(parent: Any, scope: Scope) -> set[str]:
    """The methods of all routes at the path of a request. Starlette names those of the first one."""
    found: set[str] = set()
    for route in parent.routes:
        if hasattr(route, "original_router"):
            found |= _methods(route.original_router, scope)
        elif isinstance(route, ASGIRoute) and route.matches(scope)[0] is not Match.NONE:
            found |= route.methods or set()
    return found | {"HEAD"} if "GET" in found else found


def _handle_errors(app: FastAPI, metrics: Metrics) -> None:
    """Give all errors the same body, also those of the framework."""

    def answer(request: HTTPRequest, error: ElmanError) -> Response:
        metrics.request_failed(error)
        request.scope[CODE] = error.code
        kind = problem_type(request.url.path.removeprefix(request.scope.get("root_path", "")))
        return Response(encode_problem(error), error.status, dict(error.headers), media_type=kind.decode())

    @app.exception_handler(ElmanError)
    async def on_elman_error(request: HTTPRequest, error: ElmanError) -> Response:
        return answer(request, error)

    @app.exception_handler(RequestValidationError)
    async def on_validation_error(request: HTTPRequest, error: RequestValidationError) -> Response:
        errors = error.errors()
        # A misspelt field is missing too. Its error says more.
        first = next((one for one in errors if one["type"] == "extra_forbidden"), errors[0])
        if first["type"] == "json_invalid":
            return answer(request, InvalidJSON(f"the body is not valid JSON: error at byte {first['loc'][-1]}"))
        where = echoed(".".join(str(part) for part in first["loc"][1:])) or None
        if first["type"] == "extra_forbidden":
            return answer(request, unknown_field(str(first["loc"][-1]), None, _body_fields(request)))
        return answer(request, InvalidField(message_of(first), where=where))

    @app.exception_handler(HTTPException)
    async def on_http_error(request: HTTPRequest, error: HTTPException) -> Response:
        if error.status_code == 405:
            allow = ", ".join(sorted(_methods(app, request.scope)))
            return answer(request, MethodNotAllowed(f"this path does not allow {request.method}", allow=allow))
        if error.status_code == 400:
            return answer(request, InvalidJSON("the body cannot be read as JSON"))
        path = request.url.path
        why = not_offered(path) or f"there is no route {echoed(path)}"
        return answer(request, UnknownRoute(why, expected="see /docs"))

    @app.exception_handler(Exception)
    async def on_defect(request: HTTPRequest, error: Exception) -> Response:
        log_failure(error, request.scope[REQUEST_ID])
        return answer(request, Internal("the server failed on this request"))
