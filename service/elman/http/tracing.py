"""Spans of sampled requests, sent to an OpenTelemetry collector. It needs the extra `otel`.

Spans are made once their request has ended, from the times that the server records. Nothing is kept of a request that
is not sampled. Where spans go and which requests are sampled, the SDK reads from its own environment variables:
`OTEL_EXPORTER_OTLP_ENDPOINT`, `OTEL_TRACES_SAMPLER` and so on.
"""

import asyncio
import os
import re
import threading
import time
from collections.abc import Iterator, Mapping
from math import inf
from typing import NamedTuple
from uuid import uuid4

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import Decision, ParentBased
from opentelemetry.trace import SpanKind, Status, StatusCode, get_current_span, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.types import Scope

from elman import __version__
from elman.engine.engine import Engine
from elman.engine.work import Run, Work
from elman.http.callers import caller_of
from elman.http.endpoint import CODE, MODEL, REQUEST_ID, Counters, Driver, Response
from elman.http.exchange import HTTPExchange, without_session
from elman.http.spans import Message, Sampled, WorkTimes, has_failed, own_attributes

# The `traceparent` of a caller whose own span is not sampled: version, trace, span, flags.
# A broken one is none: it has the version ff, zeros, or in version 00 a further field.
_NOT_SAMPLED = re.compile(
    rb"(?!ff|00.{53}-)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f][02468ace](-.*)?"
)
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"})
# The only way in which spans are sent, by the variables that may name another.
_ONLY = {
    "OTEL_TRACES_EXPORTER": "otlp",
    "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
    "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",
}
_TAKE = Decision.RECORD_AND_SAMPLE
# Seconds that a stopping server waits until the last spans are sent.
_CLOSE_SECONDS = 2.0


class Served(NamedTuple):
    """How a request was served. `route` is its path with names of parameters, or `none`; `key` the name of its key."""

    method: str
    route: str
    path: str
    scheme: str
    version: str
    status: int
    code: str
    model: tuple[str, int] | None
    key: str = ""

    @property
    def name(self) -> str:
        """The name of its span. It holds nothing that a client may choose."""
        method = self.method if self.method in _METHODS else "HTTP"
        return method if self.route == "none" else f"{method} {self.route}"

    def attributes(self) -> dict[str, str | int]:
        """Those of its span, by the names of OpenTelemetry's conventions for HTTP, and some of our own."""
        known = self.method in _METHODS
        found: dict[str, str | int | None] = {
            "http.request.method": self.method if known else "_OTHER",
            "http.request.method_original": None if known else self.method,
            "http.route": None if self.route == "none" else self.route,
            "http.response.status_code": self.status or None,
            "url.path": without_session(self.path),
            "url.scheme": self.scheme,
            "network.protocol.version": self.version,
        }
        given = {name: value for name, value in found.items() if value is not None}
        return given | own_attributes(self.status, self.code, self.model, self.key)

    @property
    def failed(self) -> bool:
        """Whether the request failed by the server, or its client was gone."""
        return has_failed(self.status)


class _TraceIds(RandomIdGenerator):
    """Gives the trace id for which it was decided that the request is sampled."""

    chosen = 0

    def generate_trace_id(self) -> int:
        return self.chosen


class Tracing:
    """Decides which requests are sampled, and makes their spans. Used on the event loop."""

    def __init__(self) -> None:
        """Raises ValueError if the environment wants spans to be sent in another way."""
        for variable, only in _ONLY.items():
            if os.environ.get(variable, only) != only:
                raise ValueError(f"{variable} is {os.environ[variable]!r}, but spans can only be sent as {only!r}")
        self._provider: TracerProvider | None = None
        self._ids = _TraceIds()
        self._random = RandomIdGenerator()
        self._extract = TraceContextTextMapPropagator().extract

    def open(self, exporter: SpanExporter | None = None) -> None:
        """Begin to sample. May follow `close`. Without an exporter, spans go where the environment says."""
        # The application closes it, so nothing is left to do at the end of the process.
        provider = TracerProvider(resource=_resource(), id_generator=self._ids, shutdown_on_exit=False)
        provider.add_span_processor(BatchSpanProcessor(exporter or OTLPSpanExporter()))
        self._by_parent = isinstance(provider.sampler, ParentBased)
        self._tracer = provider.get_tracer("elman", __version__)
        self._provider = provider

    def driver(self, engine: Engine, counters: Counters) -> Driver:
        """A driver that samples requests."""
        return TracedDriver(engine, counters, self)

    @property
    def exchange(self) -> type[HTTPExchange]:
        """What the requests of a connection are."""
        return TracedExchange

    async def close(self) -> None:
        """Send the last spans. Gives up after two seconds."""
        provider, self._provider = self._provider, None
        if provider is not None:
            # Not a thread of the event loop's pool: the loop would wait for one that hangs.
            closing = threading.Thread(target=provider.shutdown, name="elman-tracing", daemon=True)
            closing.start()
            await asyncio.to_thread(closing.join, _CLOSE_SECONDS)

    def sample(self, request_id: bytes, headers: Mapping[bytes, bytes]) -> bytes:
        """The id of a request: as `Sampled` if the sampler takes the request."""
        provider, parent = self._provider, headers.get(b"traceparent")
        if provider is None or (parent is not None and self._by_parent and _NOT_SAMPLED.fullmatch(parent)):
            return request_id
        context = Context()
        if parent is not None:
            state = headers.get(b"tracestate", b"")
            context = self._extract({"traceparent": parent.decode("latin-1"), "tracestate": state.decode("latin-1")})
        trace = get_current_span(context).get_span_context().trace_id or self._random.generate_trace_id()
        if provider.sampler.should_sample(context, trace, "", SpanKind.SERVER).decision is not _TAKE:
            return request_id
        sampled = Sampled(request_id)
        sampled.trace, sampled.context, sampled.works, sampled.ended = trace, context, {}, self.ended
        return sampled

    def ended(self, request_id: bytes, served: Served | Message, arrived: float) -> None:
        """Make the spans of a request, if it is sampled: its own, and below it those of its works."""
        if self._provider is None or not isinstance(request_id, Sampled):
            return
        now, since_epoch = time.monotonic(), time.time_ns() - time.monotonic_ns()

        def at(seconds: float) -> int:
            return since_epoch + int(1e9 * seconds)

        self._ids.chosen = request_id.trace
        attributes = served.attributes() | {"elman.request_id": request_id.decode()}
        span = self._tracer.start_span(
            served.name, request_id.context, SpanKind.SERVER, attributes, start_time=at(arrived)
        )
        if served.failed:
            span.set_status(Status(StatusCode.ERROR))
        below = set_span_in_context(span, Context())
        for work in list(request_id.works.values()):
            for name, begun, ended, sizes in _parts(work, now):
                self._tracer.start_span(name, below, attributes=sizes, start_time=at(begun)).end(at(ended))
        span.end(at(now))

    def served(self, scope: Scope, route: str, status: int, arrived: float) -> None:
        """Make the spans of a request that was served as ASGI, if it is sampled."""
        summary = Served(
            scope["method"],
            route,
            scope["path"],
            scope["scheme"],
            scope["http_version"],
            status,
            scope.get(CODE, ""),
            scope.get(MODEL),
            caller_of(scope).name,
        )
        self.ended(scope[REQUEST_ID], summary, arrived)


def _resource() -> Resource:
    """What the environment says of this service. The SDK's own name for one without a name helps nobody."""
    resource = Resource.create({"service.instance.id": str(uuid4()), "service.version": __version__})
    if str(resource.attributes["service.name"]).startswith("unknown_service"):
        resource = resource.merge(Resource({"service.name": "elman"}))
    return resource


def _parts(work: WorkTimes, now: float) -> Iterator[tuple[str, float, float, dict[str, int]]]:
    """The spans of one work: name, begin, end, attributes. A work that nobody waited for may have no end."""
    ended = work.ended or now
    yield "queue", work.queued, min(work.begun, ended), {}
    if work.begun < inf:
        sizes = {"sequences": work.num_sequences, "steps": work.num_steps, "batch_size": work.num_rows}
        yield "run", work.begun, ended, {f"elman.{name}": size for name, size in sizes.items()}
    if work.saved:
        yield "store commit", ended, work.saved, {}


class TracedDriver(Driver):
    """The driver of a server that samples requests."""

    def __init__(self, engine: Engine, counters: Counters, tracing: Tracing) -> None:
        super().__init__(engine, counters)
        self.tracing = tracing

    def request_id(self, headers: Mapping[bytes, bytes]) -> bytes:
        return self.tracing.sample(super().request_id(headers), headers)

    def resume(self, work: Work, error: Exception | None) -> None:
        request_id = work.exchange.request_id
        if isinstance(request_id, Sampled) and isinstance(work, Run):
            for sequence in work.sequences:
                if sequence.save is not None and (times := request_id.work_of(sequence)) is not None:
                    times.saved = time.monotonic()
        super().resume(work, error)


class TracedExchange(HTTPExchange):
    """A request of a connection that may be sampled."""

    __slots__ = ()

    def _count(self, response: Response) -> None:
        super()._count(response)
        driver, head = self.protocol.http.driver, self.head
        if isinstance(driver, TracedDriver) and isinstance(self.request_id, Sampled):
            route = "none" if head.route is None else head.route.path
            scheme = "https" if self.protocol.transport.get_extra_info("sslcontext") else "http"
            served = Served(
                head.method.decode("latin-1"),
                route,
                head.path,
                scheme,
                head.version,
                response.status,
                response.code,
                response.model,
                "" if head.route is None else head.route.caller.name,
            )
            driver.tracing.ended(self.request_id, served, self.arrived)
