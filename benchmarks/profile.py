"""Where the processor time of an Elman request goes: each part alone, in microseconds per request.

The HTTP part is measured with a real server that answers a constant. The other parts are measured with the application
in this process, which always has 64 whole requests to work on.
"""

import asyncio
import cProfile
import pstats
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.ceilings import pinned
from benchmarks.contenders import BARE, ELMAN
from benchmarks.environments import BENCH, ROOT
from benchmarks.load import Plan
from benchmarks.measure import generate, running
from benchmarks.models import SHAPES, Shape, write_model
from benchmarks.policies import IN_FLIGHT, Flight
from benchmarks.processes import cores
from benchmarks.workload import CONTENT_TYPES, Format, Workload, draw
from elman.api.server import ServedModel, Server
from elman.app import create_app
from elman.codec.answer import encode_answer, encode_octets, outputs_of, rows_from
from elman.codec.octets import decode_octets
from elman.codec.requests import PredictRequest
from elman.engine.queue import ModelQueue
from elman.engine.sequence import Inputs, Sequence
from elman.http.endpoint import Exchange, Request, Response
from elman.repository.model_file import load_model
from elman.settings import Settings

PARTS = ("HTTP", "decoding", "scheduling", "gather and scatter", "kernel", "encoding", "routing and hand-over")
_FORMS: tuple[Format, ...] = ("json", "octet")
_TOP = 14


def profile(names: list[str], seconds: float) -> dict[str, Any]:
    """Microseconds per request by model, format and part, and the functions that take most."""
    found: dict[str, Any] = {}
    logs = BENCH / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    for name in names:
        shape = SHAPES[name]
        model = write_model(shape, BENCH / "models" / name)
        workload = draw(shape, "lognormal", 400)
        http = {form: _http(shape, model, workload, form, seconds, logs) for form in _FORMS}
        with pinned(cores()[0]):
            functions = _engine(model, workload, seconds)
            application = asyncio.run(_application(model, workload, seconds))
        found[name] = {"title": shape.title, "functions": functions + application.pop("functions")}
        for form in _FORMS:
            one = application[form]
            whole = one.pop("whole")
            parts = {"HTTP": http[form], **one, "routing and hand-over": max(whole - sum(one.values()), 0.0)}
            found[name][form] = {part: parts[part] for part in PARTS}
    return found


def _http(shape: Shape, model: Path, workload: Workload, form: Format, seconds: float, logs: Path) -> float:
    """Microseconds per request of a constant answer, with Elman's HTTP protocol and these bodies."""
    with running(BARE, shape, model, {"protocol": 1}, cores()[0], logs) as process:
        plan = Plan(process.port, BARE.requests(workload, form), workload.lengths, connections=IN_FLIGHT)
        report = generate(replace(plan, seconds=seconds, pids=process.pids(), core=cores()[1]))
    return 1e6 * report.server_cpu / max(report.num_done, 1)


class _Watch:
    """Sums up the processor seconds of watched calls."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def over(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """The same call, watched."""

        def timed(*arguments: Any) -> Any:
            started = time.thread_time()
            try:
                return call(*arguments)
            finally:
                self.seconds += time.thread_time() - started

        return timed


class _QueueWatches:
    """Processor time of a queue: scheduling, kernel, and whole iterations."""

    def __init__(self, queue: ModelQueue) -> None:
        # Sequences are added between iterations; the rest of scheduling happens within them.
        self.queueing, self.scheduling, self.kernel, self.iterating = _Watch(), _Watch(), _Watch(), _Watch()
        scheduler: Any = queue.scheduler
        session: Any = queue.runner._executor.session
        scheduler.add = self.queueing.over(scheduler.add)
        for name in ("schedule", "update"):
            setattr(scheduler, name, self.scheduling.over(getattr(scheduler, name)))
        session.run = self.kernel.over(session.run)
        queue.iterate = self.iterating.over(queue.iterate)  # type: ignore[method-assign]

    def reset(self) -> None:
        for watch in (self.queueing, self.scheduling, self.kernel, self.iterating):
            watch.seconds = 0.0

    def parts(self, count: int) -> dict[str, float]:
        """Microseconds per request."""
        each = 1e6 / count
        own = self.iterating.seconds - self.kernel.seconds - self.scheduling.seconds
        return {
            "scheduling": each * (self.queueing.seconds + self.scheduling.seconds),
            "gather and scatter": each * max(own, 0.0),
            "kernel": each * self.kernel.seconds,
        }


def _engine(path: Path, workload: Workload, seconds: float) -> list[list[Any]]:
    """The functions of the engine that take most."""
    flight = Flight(load_model(path, workload.shape.name, 1), workload, "continuous")
    flight.steps_per_second(seconds / 4)
    profiler = cProfile.Profile(time.thread_time)
    before = flight.num_drawn
    with profiler:
        flight.steps_per_second(seconds)
    return _functions(profiler, flight.num_drawn - before)


async def _application(path: Path, workload: Workload, seconds: float) -> dict[str, Any]:
    """The whole application without HTTP, and its codec alone, in microseconds per request."""
    app = create_app(Settings(models=path.parents[2]))
    found: dict[str, Any] = {}
    async with app.router.lifespan_context(app):
        server: Server = app.state.server
        served = server.served(workload.shape.name)
        watches = _QueueWatches(served.queue)
        for form in _FORMS:
            asked = _ClosedLoop(app, workload, form)
            await asked.run(seconds / 4)
            watches.reset()
            whole = {"whole": await asked.run(seconds)}
            found[form] = whole | watches.parts(asked.count) | await _codec(server, served, workload, form)
        profiler = cProfile.Profile(time.thread_time)
        asked = _ClosedLoop(app, workload, "json")
        with profiler:
            await asked.run(seconds)
        found["functions"] = _functions(profiler, asked.count)
    return found


class _ClosedLoop:
    """A closed loop of 64 clients of an application in this process. Requests skip HTTP and go to the driver."""

    def __init__(self, app: Any, workload: Workload, form: Format) -> None:
        self.app = app
        self.bodies = workload.bodies(form)
        kind = CONTENT_TYPES[form].encode()
        self.headers = [(b"host", b"localhost"), (b"content-type", kind), (b"accept", kind)]
        self.path = ELMAN.paths[form].format(name=workload.shape.name)
        self.count = 0
        self._until = 0.0
        self._running = 0
        self._done = asyncio.Event()

    async def run(self, seconds: float) -> float:
        """Microseconds of processor time per request."""
        self.count, self._running = 0, IN_FLIGHT
        self._done.clear()
        self._until, started = time.perf_counter() + seconds, time.process_time()
        for _ in range(IN_FLIGHT):
            self._ask()
        await self._done.wait()
        return 1e6 * (time.process_time() - started) / self.count

    def _ask(self) -> None:
        body = self.bodies[self.count % len(self.bodies)]
        self.count += 1
        headers = {**dict(self.headers), b"content-length": str(len(body)).encode()}
        route = self.app.find(self.path, headers)
        request = Request(route.parameters, headers, b"", body, route.caller.owner, time.monotonic())
        self.app.driver.start(route.endpoint, request, _Client(self))

    def answered(self, answer: Response) -> None:
        """A client has its answer, and sends the next request."""
        if answer.status != 200:
            raise RuntimeError(f"the application answers {answer.status}: {answer.content!r}")
        if time.perf_counter() < self._until:
            asyncio.get_running_loop().call_soon(self._ask)
            return
        self._running -= 1
        if not self._running:
            self._done.set()


class _Client(Exchange):
    """Waits for one answer."""

    def __init__(self, asked: _ClosedLoop) -> None:
        super().__init__()
        self._asked = asked

    def reply(self, response: Response) -> None:
        self._asked.answered(response)


async def _codec(server: Server, served: ServedModel, workload: Workload, form: Format) -> dict[str, float]:
    """Decoding a body and encoding its answer."""
    bodies = workload.bodies(form)

    def decode(body: bytes) -> tuple[PredictRequest[Any, Any], list[Inputs]]:
        if form == "json":
            return served.decoder.predict(body)
        return PredictRequest(sequence=None), [decode_octets(body, served.format, server.limits)]

    started = time.process_time()
    requests = [decode(body) for body in bodies]
    decoding = time.process_time() - started
    answered = []
    for _, inputs in requests:
        sequences = [Sequence(one.data) for one in inputs]
        answered.append(await server.engine.submit(served.queue, sequences).future)
    started = time.process_time()
    for (request, _), sequences in zip(requests, answered, strict=True):
        if form == "json":
            encode_answer(served.outputs, request, [rows_from(one, served.model.network) for one in sequences])
        else:
            encode_octets(outputs_of(sequences[0]), "final")
    encoding = time.process_time() - started
    return {"decoding": 1e6 * decoding / len(bodies), "encoding": 1e6 * encoding / len(bodies)}


def _functions(profiler: cProfile.Profile, count: int) -> list[list[Any]]:
    """[position, own microseconds per request, calls per request], largest first."""
    stats: Any = pstats.Stats(profiler)
    rows = []
    for (path, line, name), (_, calls, own, _, _) in stats.stats.items():
        place = path.removeprefix(f"{ROOT}/")
        where = f"{place}:{line} {name}" if line else name
        rows.append([where.split("site-packages/")[-1], 1e6 * own / count, calls / count])
    return sorted(rows, key=lambda row: -row[1])[:_TOP]
