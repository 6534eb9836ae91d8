"""One run: all contenders on one core, in turn in every round, so that a drift of the machine affects all."""

import contextlib
import http.client
import json
import os
import pickle
import platform
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np

from benchmarks.ceilings import Kernel, json_seconds, pinned
from benchmarks.contenders import BARE, EIGHT_BITS, ELMAN, ENDPOINT, Contender, Tuning
from benchmarks.environments import BENCH, ROOT, InstallFailure
from benchmarks.load import Plan, Report, quantile
from benchmarks.models import SHAPES, Shape, write_model
from benchmarks.policies import POLICIES, Flight
from benchmarks.processes import Process, StartFailure, cores, resident_bytes
from benchmarks.workload import Format, Workload, draw, reference
from elman.repository.model_file import load_model

_NUM_REQUESTS = 400
_NUM_CHECKED = 64
_CHECKERS = 16
_TOLERANCE = 1e-4
OPEN_SHARE = 0.6
# A tail that is reported is that of this many requests or more, in all rounds together.
_TAIL = 2000


class WrongAnswer(Exception):
    """A contender's answer is not the model's answer."""


@dataclass(frozen=True)
class Settings:
    """What one run measures."""

    models: tuple[str, ...] = tuple(SHAPES)
    rounds: int = 6
    seconds: float = 1.0
    connections: tuple[int, ...] = (1, 16, 64)
    octet_connections: tuple[int, ...] = (1, 64)
    distributions: tuple[str, ...] = ("uniform", "fixed", "bimodal")
    open_shares: tuple[float, ...] = (0.3, OPEN_SHARE, 0.9)
    tune: bool = True
    promises: bool = True


QUICK = Settings(
    rounds=1, seconds=0.5, connections=(1, 64), octet_connections=(64,), distributions=(), open_shares=(OPEN_SHARE,)
)


@dataclass(frozen=True)
class Cell:
    """One kind of load. `rate` is 0 for a closed loop; `share` is the rate over the best peer's capacity."""

    form: Format = "json"
    distribution: str = "lognormal"
    connections: int = 64
    rate: float = 0.0
    share: float = 0.0

    @property
    def loop(self) -> Literal["open", "closed"]:
        return "open" if self.rate else "closed"


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def generate(plan: Plan) -> Report:
    """Run a plan in a new process."""
    with start_generator(plan) as generator:
        return finish(plan, generator)


def finish(plan: Plan, generator: "subprocess.Popen[bytes]") -> Report:
    """Wait for a running plan, and return its report."""
    out, error = generator.communicate()
    if generator.returncode:
        raise RuntimeError(f"the load generator failed: {error.decode()[-800:]}")
    return plan.report(**json.loads(out))


@contextlib.contextmanager
def start_generator(plan: Plan) -> Iterator["subprocess.Popen[bytes]"]:
    """Start a plan in a new process."""
    with tempfile.NamedTemporaryFile(prefix="plan-") as file:
        file.write(pickle.dumps(plan))
        file.flush()
        command = [sys.executable, "-m", "benchmarks.load", file.name]
        generator = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT)
        try:
            yield generator
        finally:
            if generator.poll() is None:
                generator.kill()
                generator.wait()


def ask(port: int, content: bytes) -> tuple[int, bytes]:
    """Send one request. Returns (status, body)."""
    with socket.create_connection(("127.0.0.1", port), 60) as one:
        one.sendall(content)
        response = http.client.HTTPResponse(one, method="POST")
        response.begin()
        return response.status, response.read()


def check(contender: Contender, process: Process, workload: Workload, form: Format, expected: list[Any]) -> None:
    """Check the answers to ragged sequences, many at once. Raises WrongAnswer."""
    some = Workload(workload.shape, workload.sequences[: len(expected)])
    with ThreadPoolExecutor(_CHECKERS) as pool:
        answers = list(pool.map(lambda one: ask(process.port, one), contender.requests(some, form)))
    for index, ((status, body), right) in enumerate(zip(answers, expected, strict=True)):
        if status != 200:
            raise WrongAnswer(f"{contender.title} answers {status} to {form}: {body[:200]!r}")
        seen = contender.read(form, body)
        if seen.shape != right.shape or not np.allclose(seen, right, rtol=_TOLERANCE, atol=_TOLERANCE):
            length = len(some.sequences[index])
            raise WrongAnswer(
                f"{contender.title} is wrong on a {form} sequence of {length} steps: got {seen}, expected {right}"
            )


@contextlib.contextmanager
def running(
    contender: Contender, shape: Shape, model: Path, tuning: Tuning, core: int, logs: Path
) -> Iterator[Process]:
    """A running server that answers. Raises StartFailure."""
    with contender.process(shape, model, core, tuning, logs) as process:
        process.wait_until_ready()
        form = next(iter(contender.paths))
        first = contender.requests(draw(shape, "fixed", 1), form)[0]
        until = time.monotonic() + 60
        while True:
            with contextlib.suppress(OSError, http.client.HTTPException):
                if ask(process.port, first)[0] == 200:
                    break
            if time.monotonic() > until:
                raise StartFailure(f"{contender.title} does not answer: {process.last_words()}")
            time.sleep(0.2)
        yield process


class Bout:
    """The measurement of one model: all contenders are started, and all but the measured one are stopped."""

    def __init__(self, shape: Shape, settings: Settings, contenders: list[Contender], logs: Path) -> None:
        self.shape = shape
        self.settings = settings
        self.contenders = contenders
        self.logs = logs
        self.server_core, self.load_core = cores()
        self.model = write_model(shape, BENCH / "models" / shape.name)
        self.workloads = {name: draw(shape, name, _NUM_REQUESTS) for name in ("lognormal", *settings.distributions)}
        self.checked = self.workloads["lognormal"].sequences[:_NUM_CHECKED]
        self._processes: dict[str, Process] = {}
        self._pids: dict[str, list[int]] = {}

    def run(self) -> dict[str, Any]:
        """The results of this model."""
        say(f"{self.shape.name}: {self.shape.title}")
        results: dict[str, Any] = {"title": self.shape.title, "tunings": {}, "failures": {}, "contenders": {}}
        results |= self._in_process()
        with contextlib.ExitStack() as stack:
            for contender in list(self.contenders):
                try:
                    tuning = self._tune(contender)
                    process = stack.enter_context(self._running(contender, tuning))
                    for form in contender.paths if contender.role != "floor" else ():
                        expected = reference(contender.file(self.model), self.checked)
                        check(contender, process, self.workloads["lognormal"], form, expected)
                except (StartFailure, WrongAnswer) as failure:
                    say(f"  {contender.title} is left out: {failure}")
                    results["failures"][contender.name] = str(failure)
                    self.contenders.remove(contender)
                    continue
                if contender.role != "floor":
                    results["tunings"][contender.name] = tuning
                results["contenders"][contender.name] = {"title": contender.title, "role": contender.role}
                self._keep(contender, process)
            results["cells"] = self._cells()
            results["memory"] = {name: resident_bytes(pids) for name, pids in self._pids.items()}
        return results

    def _in_process(self) -> dict[str, Any]:
        """The kernel, the ways to batch and JSON, round by round."""
        model = load_model(self.model, self.shape.name, 1)
        kernel, workload = Kernel(model), self.workloads["lognormal"]
        flights = {name: Flight(model, workload, name) for name in POLICIES}
        kernels: list[float] = []
        policies: dict[str, list[float]] = {name: [] for name in POLICIES}
        seconds = self.settings.seconds / 2
        with pinned(self.server_core):
            for _ in range(self.settings.rounds):
                rate, batch = kernel.best(seconds)
                kernels.append(rate)
                for name, flight in flights.items():
                    policies[name].append(flight.steps_per_second(seconds))
            costs = json_seconds(workload, seconds)
        say(f"  kernel {max(kernels):,.0f} useful steps/s; " + _listed(policies))
        return {
            "mean_length": workload.mean_length,
            "kernel": kernels,
            "kernel_batch": batch,
            "policies": policies,
            "json_seconds": costs,
            "calibration": asdict(model.calibration),
        }

    def _running(self, contender: Contender, tuning: Tuning) -> contextlib.AbstractContextManager[Process]:
        return running(contender, self.shape, contender.file(self.model), tuning, self.server_core, self.logs)

    def _tune(self, contender: Contender) -> Tuning:
        """The setting with the most requests per second at 64 connections."""
        if len(contender.tunings) == 1 or not self.settings.tune:
            return contender.tunings[0]
        rates = []
        for tuning in contender.tunings:
            with self._running(contender, tuning) as process:
                plan = self._plan(contender, process, Cell())
                rates.append(_rate(generate(replace(plan, seconds=min(self.settings.seconds, 1.0)))))
        best = contender.tunings[int(np.argmax(rates))]
        say(f"  {contender.title}: tuned to {best} of " + ", ".join(f"{rate:.0f}" for rate in rates))
        return best

    def _keep(self, contender: Contender, process: Process) -> None:
        self._processes[contender.name] = process
        self._pids[contender.name] = process.pids()
        process.pause()

    def _cells(self) -> list[dict[str, Any]]:
        settings = self.settings
        closed = [Cell("json", connections=count) for count in settings.connections]
        closed += [Cell("octet", connections=count) for count in settings.octet_connections]
        closed += [Cell("json", name) for name in settings.distributions]
        measured = self._rounds(closed)
        capacity = self._capacity(measured)
        opened = [Cell("json", rate=share * capacity, share=share) for share in settings.open_shares]
        opened.append(Cell("octet", rate=OPEN_SHARE * capacity, share=OPEN_SHARE))
        return measured + (self._rounds(opened) if capacity else [])

    def _capacity(self, measured: list[dict[str, Any]]) -> float:
        """Requests per second of the best peer, in JSON at the most connections."""
        most = max(self.settings.connections)
        peers = {one.name for one in self.contenders if one.role == "peer"}
        wanted = asdict(Cell("json", connections=most))
        rates = [
            statistics.median(one["num_done"] / one["seconds"] for one in cell["rounds"])
            for cell in measured
            if cell["contender"] in peers and all(cell[key] == value for key, value in wanted.items())
        ]
        return max(rates, default=0.0)

    def _rounds(self, cells: list[Cell]) -> list[dict[str, Any]]:
        measured: list[dict[str, Any]] = []
        for cell in cells:
            entries: dict[str, list[dict[str, Any]]] = {
                one.name: [] for one in self.contenders if self._takes(one, cell)
            }
            for number in range(self.settings.rounds):
                for contender in self.contenders[:: 1 if number % 2 == 0 else -1]:
                    if contender.name in entries:
                        entries[contender.name].append(asdict(self._measure(contender, cell, number)))
            measured += [
                {"contender": name, **asdict(cell), "all": _pooled(rounds), "rounds": rounds}
                for name, rounds in entries.items()
            ]
            latest = measured[-len(entries) :] if entries else []
            say(f"  {_describe(cell)}: " + ", ".join(f"{one['contender']} {_summary(one)}" for one in latest))
        return measured

    def _takes(self, contender: Contender, cell: Cell) -> bool:
        if contender.role == "floor" and (cell.rate or cell.distribution != "lognormal"):
            return False
        return cell.form in contender.paths

    def _measure(self, contender: Contender, cell: Cell, number: int) -> Report:
        process = self._processes[contender.name]
        process.resume()
        try:
            busiest = Cell(connections=max(self.settings.connections))
            least = -(-_TAIL // self.settings.rounds) if cell.rate or cell == busiest else 0
            return generate(replace(self._plan(contender, process, cell), seed=number, least=least, keep=True))
        finally:
            process.pause()

    def _plan(self, contender: Contender, process: Process, cell: Cell) -> Plan:
        workload = self.workloads[cell.distribution]
        return Plan(
            port=process.port,
            requests=contender.requests(workload, cell.form),
            sizes=workload.lengths,
            connections=cell.connections,
            rate=cell.rate,
            seconds=self.settings.seconds,
            pids=self._pids.get(contender.name) or process.pids(),
            core=self.load_core,
        )


def _rate(report: Report) -> float:
    return report.num_done / report.seconds


def _describe(cell: Cell) -> str:
    how = f"open at {cell.rate:.0f}/s" if cell.rate else f"{cell.connections} connections"
    return f"{cell.form}, {cell.distribution}, {how}"


def _pooled(rounds: list[dict[str, Any]]) -> dict[str, float]:
    """The latencies of all rounds together. They are taken out of the rounds, which keep their own quantiles."""
    latencies = sorted(chain.from_iterable(one.pop("latencies") for one in rounds))
    if not latencies:
        return {"answers": 0, "p50": 0.0, "p99": 0.0}
    return {"answers": len(latencies), "p50": quantile(latencies, 0.5), "p99": quantile(latencies, 0.99)}


def _summary(entry: dict[str, Any]) -> str:
    rate = statistics.median(one["num_done"] / one["seconds"] for one in entry["rounds"])
    return f"{rate:.0f}/s (p99 {entry['all']['p99'] * 1e3:.1f} ms)"


def _listed(rates: dict[str, list[float]]) -> str:
    return ", ".join(f"{name} {statistics.median(values):,.0f}" for name, values in rates.items())


def machine() -> dict[str, Any]:
    """The machine and the versions of the libraries."""
    names = (
        "onnxruntime",
        "numpy",
        "fastapi",
        "starlette",
        "uvicorn",
        "uvloop",
        "httptools",
        "msgspec",
        "orjson",
        "pysimdjson",
    )
    facts = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.split(":", 1)[1].strip() for line in facts if "model name" in line), platform.processor())
    return {
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)),
        "load_before": os.getloadavg()[0],
        "python": platform.python_version(),
        "versions": {name: version(name) for name in names},
        "date": time.strftime("%Y-%m-%d"),
    }


def raise_file_limit() -> int:
    """Raise the limit on open files to the highest allowed. Returns the limit."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return most


def run(settings: Settings, peers: list[Contender], save: Callable[[dict[str, Any]], None]) -> None:
    """Measure everything. `save` gets the results, as plain JSON values, after each part."""
    from benchmarks.profile import profile
    from benchmarks.promises import keep_promises

    started = time.monotonic()
    raise_file_limit()
    results: dict[str, Any] = {"machine": machine(), "settings": asdict(settings), "models": {}, "failures": {}}
    able = []
    for peer in peers:
        try:
            if peer.environment is not None:
                peer.environment.make()
            able.append(peer)
        except InstallFailure as failure:
            say(f"{peer.title} is left out: {failure}")
            results["failures"][peer.name] = str(failure)
    logs = BENCH / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    for name in settings.models:
        results["models"][name] = Bout(SHAPES[name], settings, [ELMAN, EIGHT_BITS, *able, BARE, ENDPOINT], logs).run()
        results["machine"]["minutes"] = (time.monotonic() - started) / 60
        save(results)
    if settings.promises:
        results["promises"] = keep_promises(settings, logs)
        save(results)
        say("Where the time of a request goes")
        results["profile"] = profile(list(settings.models), settings.seconds)
    results["machine"]["minutes"] = (time.monotonic() - started) / 60
    save(results)
