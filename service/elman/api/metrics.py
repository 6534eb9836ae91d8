"""`/metrics`: the counters of the server, in Prometheus' text format."""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

from prometheus_client import CollectorRegistry, Counter, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from elman.api.server import ServedModel, Server
from elman.engine.queue import Stats
from elman.errors import ElmanError

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_LABELS = ("model", "version")

_STATS: tuple[tuple[str, str, Callable[[Stats], float]], ...] = (
    ("elman_runs", "Runs of the network", lambda stats: stats.num_runs),
    ("elman_run_rows", "Rows of all runs; divided by runs, the mean batch", lambda stats: stats.num_rows),
    ("elman_steps", "Useful steps done", lambda stats: stats.num_steps),
    ("elman_padded_steps", "Steps spent on padding", lambda stats: stats.num_padded_steps),
    ("elman_sequences", "Sequences done, failed ones included", lambda stats: stats.num_sequences),
    ("elman_failed_sequences", "Sequences that ended in an error", lambda stats: stats.num_failed),
    ("elman_run_seconds", "Time spent in runs", lambda stats: stats.run_seconds),
)


@dataclass
class _Requests:
    """Answered requests of one model: a count per histogram bucket, and the sum of their seconds."""

    buckets: list[int] = field(default_factory=lambda: [0] * (len(_SECONDS) + 1))
    seconds: float = 0.0


class Metrics:
    """The counters of one application, in their own registry."""

    def __init__(self, server: Server) -> None:
        self.registry = CollectorRegistry()
        self.requests: defaultdict[tuple[str, int], _Requests] = defaultdict(_Requests)
        self._errors = Counter("elman_errors", "Requests refused or failed", ("code",), registry=self.registry)
        self.registry.register(_RequestCollector(self))
        self.registry.register(_QueueCollector(server))
        ProcessCollector(registry=self.registry)

    def request_done(self, model: tuple[str, int], seconds: float) -> None:
        """Count one answered request of a model, by its name and version."""
        requests = self.requests[model]
        requests.buckets[bisect_left(_SECONDS, seconds)] += 1
        requests.seconds += seconds

    def request_failed(self, error: ElmanError) -> None:
        """Count one request that ended in an error."""
        self._errors.labels(error.code).inc()

    def text(self) -> bytes:
        """All metrics, in the text exposition format."""
        return generate_latest(self.registry)


class _RequestCollector(Collector):
    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        text = "From a whole request to its answer"
        family = HistogramMetricFamily("elman_request_seconds", text, labels=_LABELS)
        for (name, version), requests in list(self._metrics.requests.items()):
            bounds = [*map(str, _SECONDS), "+Inf"]
            buckets = list(zip(bounds, accumulate(requests.buckets), strict=True))
            family.add_metric([name, str(version)], buckets, requests.seconds)
        yield family


class _QueueCollector(Collector):
    """Reads the engine's plain counters only when /metrics is asked for, so that counting costs the engine nothing."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def collect(self) -> Iterator[Metric]:
        served = list(self._server)
        for name, text, read in _STATS:
            family = CounterMetricFamily(name, text, labels=_LABELS)
            _fill(family, served, lambda one, read=read: read(one.queue.stats))  # type: ignore[misc]
            yield family
        queued = GaugeMetricFamily("elman_queued_sequences", "Sequences not done yet", labels=_LABELS)
        _fill(queued, served, lambda one: len(one.queue.scheduler))
        yield queued
        state = GaugeMetricFamily("elman_state_bytes", "Memory of running state", labels=_LABELS)
        _fill(state, served, lambda one: one.queue.runner.nbytes)
        yield state
        yield GaugeMetricFamily(
            "elman_pending_sequences", "Sequences not answered yet", self._server.engine.num_pending
        )
        text = "Work not answered yet, by the calibrated costs"
        yield GaugeMetricFamily("elman_pending_seconds", text, self._server.engine.pending_seconds)
        yield GaugeMetricFamily("elman_sessions", "Sessions in the store", len(self._server.sessions))
        yield GaugeMetricFamily("elman_models", "Model versions served", len(served))
        yield GaugeMetricFamily("elman_refused_models", "Model files refused", len(self._server.refusals))


def _fill(family: Any, served: Iterable[ServedModel], read: Callable[[ServedModel], float]) -> None:
    for one in served:
        family.add_metric([one.model.name, str(one.model.version)], read(one))
