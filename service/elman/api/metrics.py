"""`/metrics`: what the server counts, in Prometheus' text format.

What every request moves are plain integers, which collectors read when the metrics are asked for. Counters of the
library, which take a microsecond or more each, are for what is rarer.
"""

import asyncio
import os
import platform
import time
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, ProcessCollector, generate_latest
from prometheus_client import Histogram as LibraryHistogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from elman import __version__
from elman.api.server import ServedModel, Server
from elman.api.workers import Workers, meeting_folder, merged, plain
from elman.engine.histogram import BOUNDS, Histogram
from elman.engine.queue import Stats
from elman.errors import DeadlineExceeded, ElmanError
from elman.http.callers import Callers
from elman.repository.runtime import RUNTIME_VERSION

_LABELS = ("model", "version")
# How often the delay of the event loop is measured.
_LAG_SECONDS = 0.5

_STATS: tuple[tuple[str, str, Callable[[Stats], float]], ...] = (
    ("elman_runs", "Runs of the network", lambda stats: stats.num_runs),
    ("elman_run_rows", "Rows of all runs; divided by runs, the mean batch", lambda stats: stats.num_rows),
    ("elman_steps", "Useful steps done", lambda stats: stats.num_steps),
    ("elman_padded_steps", "Steps spent on padding", lambda stats: stats.num_padded_steps),
    ("elman_sequences", "Sequences done, failed ones included", lambda stats: stats.num_sequences),
    ("elman_failed_sequences", "Sequences that ended in an error", lambda stats: stats.num_failed),
    ("elman_run_seconds", "Time spent in runs", lambda stats: stats.run_seconds),
    ("elman_infer_answers", "Answers of /v2 infer", lambda stats: stats.num_answers),
    ("elman_infer_reading_seconds", "Time until their rows were submitted", lambda stats: stats.reading_seconds),
    ("elman_infer_waiting_seconds", "From there to their first run", lambda stats: stats.waiting_seconds),
    ("elman_infer_computing_seconds", "From there until their rows were done", lambda stats: stats.computing_seconds),
    ("elman_infer_answering_seconds", "Time spent making them", lambda stats: stats.answering_seconds),
)

_TIMES: tuple[tuple[str, str, Callable[[Stats], Histogram]], ...] = (
    ("elman_queue_seconds", "From the submission of a sequence to its first run", lambda stats: stats.queue_seconds),
    ("elman_compute_seconds", "From the first run of a sequence to its end", lambda stats: stats.compute_seconds),
)

_GAUGES: tuple[tuple[str, str, Callable[[ServedModel], float]], ...] = (
    ("elman_queued_sequences", "Sequences not done yet", lambda one: len(one.queue.scheduler)),
    (
        "elman_last_sequence_timestamp_seconds",
        "When a sequence was last done, since the epoch; 0 before",
        lambda one: one.queue.stats.last_done_at,
    ),
    (
        "elman_waiting_sequences",
        "Sequences whose first run has not begun",
        lambda one: one.queue.stats.num_added - one.queue.stats.num_begun,
    ),
    (
        "elman_running_sequences",
        "Sequences whose first run has begun, and that are not done",
        lambda one: one.queue.stats.num_begun - one.queue.stats.num_sequences,
    ),
    ("elman_max_batch", "Most rows of one run", lambda one: one.queue.scheduler.policy.max_batch),
    ("elman_state_bytes", "Memory of running state", lambda one: one.queue.runner.nbytes),
)


class Metrics:
    """The counters of one application, in their own registry."""

    def __init__(self, server: Server, callers: Callers) -> None:
        self.registry = CollectorRegistry()
        settings = server.settings
        folder = meeting_folder(settings.store_dir, os.getppid())
        self.workers = Workers(folder, settings.workers)
        self.workers.offer("metrics", lambda: plain(self.registry.collect()))
        self.num_streams: Callable[[], int] = lambda: 0
        self.num_accepted = 0
        self.ended: defaultdict[tuple[str, int, str, tuple[str, int] | None], Histogram] = defaultdict(Histogram)
        self._errors = Counter("elman_errors", "Requests refused or failed", ("code",), registry=self.registry)
        text = "From a request to the first token of its streamed answer"
        self._first_token = self._histogram("elman_first_token_seconds", text, _LABELS)
        text = "Between two events of one streamed answer"
        self._token_gap = self._histogram("elman_token_gap_seconds", text, _LABELS)
        self._loop_lag = self._histogram("elman_loop_lag_seconds", "How late the event loop wakes a task", ())
        self.registry.register(_RequestCollector(self))
        self.registry.register(_QueueCollector(server))
        self.registry.register(_ServerCollector(server, self))
        self.registry.register(_KeyCollector(callers))
        ProcessCollector(registry=self.registry)

    def _histogram(self, name: str, text: str, labels: tuple[str, ...]) -> LibraryHistogram:
        return LibraryHistogram(name, text, labels, buckets=BOUNDS, registry=self.registry)

    def request_ended(self, route: str, status: int, code: str, model: tuple[str, int] | None, seconds: float) -> None:
        """Count the end of a request, as `elman.http.endpoint.Counters` says."""
        histogram = self.ended[route, status, code, model]
        histogram.counts[bisect_left(BOUNDS, seconds)] += 1  # not by `observe`: a call costs more than what it does
        histogram.seconds += seconds

    def request_failed(self, error: ElmanError) -> None:
        """Count one request that ended in an error."""
        self._errors.labels(error.code).inc()

    def token_sent(self, model: tuple[str, int], seconds: float, *, first: bool) -> None:
        """Count an event of a streamed answer: seconds since the request, or since the event before."""
        histogram = self._first_token if first else self._token_gap
        histogram.labels(*map(str, model)).observe(seconds)

    async def families(self) -> list[Metric]:
        """The metrics of all workers; of several, each with the number of its worker as a label."""
        if self.workers.alone:
            return list(self.registry.collect())
        return merged(await self.workers.ask("metrics"))

    async def text(self) -> bytes:
        """The metrics of all workers, in the text exposition format."""
        return generate_latest(_Collected(await self.families()))

    async def watch_loop(self) -> None:
        """Measure how late the event loop is, until cancelled."""
        while True:
            due = time.monotonic() + _LAG_SECONDS
            await asyncio.sleep(_LAG_SECONDS)
            self._loop_lag.observe(max(0.0, time.monotonic() - due))


def outcome_of(status: int, code: str) -> str:
    """How a request ended: `answered`, `refused`, `expired` or `cancelled`."""
    if not status:
        return "cancelled"
    if code == DeadlineExceeded.code:
        return "expired"
    return "refused" if code or status >= 400 else "answered"


class _Collected(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


class _RequestCollector(Collector):
    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        ended = list(self._metrics.ended.items())
        num_ended = sum(sum(times.counts) for _, times in ended)
        # Read after those that have ended, so that it is never less.
        num_accepted = self._metrics.num_accepted
        text = "Requests accepted: read, or refused while they were read"
        yield CounterMetricFamily("elman_accepted_requests", text, num_accepted)
        text = "Requests accepted and not ended, this one included"
        yield GaugeMetricFamily("elman_active_requests", text, num_accepted - num_ended)
        numbers: defaultdict[tuple[str, str, str], int] = defaultdict(int)
        responses: defaultdict[tuple[str, str], Histogram] = defaultdict(Histogram)
        answers: defaultdict[tuple[str, str], Histogram] = defaultdict(Histogram)
        for (route, status, code, model), times in ended:
            numbers[route, outcome_of(status, code), code] += sum(times.counts)
            if status:
                responses[route, f"{status // 100}xx"].add(times)
            if model is not None:
                answers[model[0], str(model[1])].add(times)
        requests = CounterMetricFamily("elman_requests", "Requests ended", labels=("route", "outcome", "reason"))
        for labels, number in numbers.items():
            requests.add_metric(labels, number)
        yield requests
        text = "From the first byte of a request to the end of its response"
        yield _histogram("elman_response_seconds", text, ("route", "status"), responses)
        yield _histogram("elman_request_seconds", "From a request to its answer", _LABELS, answers)


class _QueueCollector(Collector):
    """What the engine counts for each model."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def collect(self) -> Iterator[Metric]:
        served = list(self._server)
        for name, text, read in _STATS:
            family = CounterMetricFamily(name, text, labels=_LABELS)
            _fill(family, served, lambda one, read=read: read(one.queue.stats))  # type: ignore[misc]
            yield family
        for name, text, gauge in _GAUGES:
            yield _fill(GaugeMetricFamily(name, text, labels=_LABELS), served, gauge)
        for name, text, times_of in _TIMES:
            yield _histogram(name, text, _LABELS, {_names(one): times_of(one.queue.stats) for one in served})
        yield GaugeMetricFamily(
            "elman_pending_sequences", "Sequences not answered yet", self._server.engine.num_pending
        )
        text = "Work not answered yet, by the calibrated costs"
        yield GaugeMetricFamily("elman_pending_seconds", text, self._server.engine.pending_seconds)


class _ServerCollector(Collector):
    """Models, sessions, streams, and versions."""

    def __init__(self, server: Server, metrics: Metrics) -> None:
        self._server = server
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        server, served = self._server, list(self._server)
        yield GaugeMetricFamily("elman_models", "Model versions served", len(served))
        yield GaugeMetricFamily("elman_refused_models", "Model files refused", len(server.refusals))
        load = GaugeMetricFamily("elman_model_load_seconds", "Time that the file took to load", labels=_LABELS)
        yield _fill(load, served, lambda one: server.repository.load_seconds[one.key])
        yield GaugeMetricFamily("elman_sessions", "Sessions in the store", len(server.sessions))
        yield GaugeMetricFamily("elman_streams", "WebSocket streams open", self._metrics.num_streams())
        yield GaugeMetricFamily("elman_tasks", "Tasks of the event loop", len(asyncio.all_tasks()))
        times = server.store_times
        seconds = {(call,): one for call, one in list(times.seconds.items())}
        yield _histogram("elman_store_seconds", "Calls of the session store", ("call",), seconds)
        failed = CounterMetricFamily("elman_store_failures", "Calls of the store that failed", labels=("call",))
        for call, number in list(times.num_failed.items()):
            failed.add_metric([call], number)
        yield failed
        build = GaugeMetricFamily("elman_build_info", "What runs here", labels=("version", "onnxruntime", "python"))
        build.add_metric([__version__, RUNTIME_VERSION, platform.python_version()], 1)
        yield build


class _KeyCollector(Collector):
    """API keys: how many, whether their file can be used, and what their limits refused."""

    def __init__(self, callers: Callers) -> None:
        self._callers = callers

    def collect(self) -> Iterator[Metric]:
        callers = self._callers
        yield GaugeMetricFamily("elman_keys", "API keys in force", len(callers))
        stale = callers.file is not None and callers.file.failure is not None
        yield GaugeMetricFamily("elman_keys_stale", "1 if the keys file as it is now cannot be used", stale)
        text = "Requests refused by a limit of their key"
        refused = CounterMetricFamily("elman_limited_requests", text, labels=("key", "limit"))
        for name, meter in callers.meters.items():
            for limit, number in meter.refused.items():
                refused.add_metric((name, limit), number)
        yield refused


def _names(served: ServedModel) -> tuple[str, str]:
    return served.model.name, str(served.model.version)


def _histogram(name: str, text: str, labels: tuple[str, ...], times: Mapping[Any, Histogram]) -> HistogramMetricFamily:
    """A family of histograms, by the values of their labels."""
    family = HistogramMetricFamily(name, text, labels=labels)
    for values, histogram in times.items():
        family.add_metric(values, histogram.cumulative(), histogram.seconds)
    return family


def _fill(family: Any, served: Iterable[ServedModel], read: Callable[[ServedModel], float]) -> Any:
    for one in served:
        family.add_metric(_names(one), read(one))
    return family
