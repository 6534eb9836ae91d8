"""Measures a model file: its kernel, the engine around it, and a server around that."""

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import orjson
import typer
from rich.console import Console

from elman.api.server import policy_of
from elman.cli.exits import CANNOT_START, FAILED, refuse
from elman.cli.jobs.given_settings import settings_from
from elman.cli.jobs.load_generator import closed_loop, whole_request
from elman.cli.jobs.model_files import load_file, put_in_repository
from elman.cli.jobs.printing import print_table
from elman.engine.queue import ModelQueue
from elman.engine.sequence import Sequence
from elman.errors import ModelRefused
from elman.repository.executor import Executor
from elman.repository.model import Model
from elman.repository.network import Array
from elman.settings import Settings

_COUNT = 512
_SIGMA = 0.8
_MAX_LENGTH = 9  # times the mean
_ROWS = (1, 4, 8, 16, 32, 64)
_STEPS = (8, 16, 32, 64)
_START_TIMEOUT = 120.0
_PACKAGES = Path(__file__).resolve().parents[3]
_RUNNING = re.compile(r"running on http://127\.0\.0\.1:(\d+)")


@dataclass(frozen=True)
class Measurement:
    """One line of the table. Rates are per second, latencies in seconds; None if not measured."""

    what: str
    sequences: float | None
    steps: float
    p50: float | None = None
    p99: float | None = None
    failed: int = 0
    note: str = ""


def run_benchmark(
    file: Path, seconds: float, connections: list[int], mean_length: int, seed: int, as_json: bool
) -> None:
    """Measure a model and print the table. Exits as `elman bench` does."""
    settings = settings_from({})
    try:
        _, model = load_file(file)
    except ModelRefused as refused:
        raise refuse(f"{file} is refused: {refused}", FAILED) from None
    sequences = draw(model, mean_length, seed)
    with _status(as_json) as say:
        say("the kernel")
        lines = [kernel(model, seconds)]
        say("the engine")
        lines.append(engine(model, sequences, seconds, settings))
        with serving(file) as port:
            for count in connections:
                say(f"{count} connections")
                lines.append(over_http(model, port, sequences, count, seconds))
    if as_json:
        typer.echo(json.dumps(report(model, lines, sequences, seconds)))
    else:
        print_lines(model, lines, sequences)
    if any(line.failed for line in lines):
        raise typer.Exit(FAILED)


def draw(model: Model, mean_length: int, seed: int) -> list[Array]:
    """Random sequences of lognormal lengths: `(length, features)` numbers, or `(length,)` tokens."""
    rng = np.random.default_rng(seed)
    drawn = rng.lognormal(np.log(mean_length) - _SIGMA**2 / 2, _SIGMA, _COUNT)
    lengths = np.clip(np.rint(drawn), 1, _MAX_LENGTH * mean_length).astype(int)
    network = model.network
    if network.features is None:
        size = model.spec.input.vocabulary_size or 2
        return [rng.integers(0, size, length).astype(network.input_dtype) for length in lengths]
    return [rng.standard_normal((length, network.features)).astype(network.input_dtype) for length in lengths]


def kernel(model: Model, seconds: float) -> Measurement:
    """The highest rate of steps of any full batch. Each size of batch is tried once, the good ones again and again.

    Like the engine it is measured in processor time, so that other programs on the machine do not count.
    """
    network, proof = model.network, model.proof
    executor = Executor(network, proof.min_rows)
    most = 1 if proof.batched == "alone" else network.max_rows or _ROWS[-1]
    shapes = [
        (rows, steps) for rows in _ROWS if rows <= most for steps in ((1,) if network.layout == "step" else _STEPS)
    ]
    inputs = {shape: _inputs(model, executor, *shape) for shape in shapes}
    rates: dict[tuple[int, int], float] = {}
    until = time.perf_counter() + seconds
    while not rates or time.perf_counter() < until:
        for shape in shapes:
            if len(rates) == len(shapes) and rates[shape] < 0.7 * max(rates.values()):
                continue
            started = time.thread_time()
            executor.run(*inputs[shape])
            rate = shape[0] * shape[1] / max(time.thread_time() - started, 1e-9)
            rates[shape] = max(rate, rates.get(shape, 0.0))
    rows, steps = max(rates, key=rates.__getitem__)
    return Measurement("kernel", None, rates[rows, steps], note=f"{rows} rows of {steps} steps")


def _inputs(model: Model, executor: Executor, rows: int, steps: int) -> tuple[Array, Array, list[Array], Array]:
    network = model.network
    shape = (rows, steps) if network.features is None else (rows, steps, network.features)
    data = np.zeros(shape, network.input_dtype)
    if network.features is not None:
        data = np.random.default_rng(rows).standard_normal(shape).astype(network.input_dtype)
    return data, np.full(rows, steps, np.int32), executor.initial_states(rows), np.zeros((1, 2), np.int64)


def engine(model: Model, sequences: list[Array], seconds: float, settings: Settings) -> Measurement:
    """The engine's rate. A full queue of sequences is run until it is empty, again and again, for final outputs."""
    queue = ModelQueue(model, policy_of(model, settings))
    done = steps = 0
    until, started = time.perf_counter() + seconds, time.thread_time()
    while not done or time.perf_counter() < until:
        queue.add([Sequence(inputs) for inputs in sequences])
        while len(queue.scheduler):
            queue.iterate(time.monotonic())
        done += len(sequences)
        steps += sum(map(len, sequences))
    spent = time.thread_time() - started
    return Measurement("engine", done / spent, steps / spent)


def over_http(model: Model, port: int, sequences: list[Array], connections: int, seconds: float) -> Measurement:
    """The server's rate. A request holds one sequence in JSON, and its answer the decoded final output."""
    path = f"/v1/models/{model.name}/predict"
    bodies = [orjson.dumps({"sequence": _as_sent(model, one)}, option=orjson.OPT_SERIALIZE_NUMPY) for one in sequences]
    requests = [whole_request(path, body) for body in bodies]
    load = asyncio.run(closed_loop(port, requests, list(map(len, sequences)), connections, seconds))
    return Measurement(
        f"HTTP, {connections} at once",
        len(load.latencies) / load.seconds,
        load.steps / load.seconds,
        load.quantile(0.5),
        load.quantile(0.99),
        load.failed,
    )


def _as_sent(model: Model, sequence: Array) -> Array:
    """A sequence as a client sends it. Frames are sent as the signal that they are cut from."""
    spec = model.spec.input
    if not model.frames or spec.size is None:
        return sequence
    samples = (len(sequence) - 1) * (spec.stride or spec.size) + spec.size - spec.left_pad
    return np.resize(sequence.reshape(-1), max(1, samples)).astype(np.float32)


@contextlib.contextmanager
def serving(file: Path) -> Iterator[int]:
    """Run a server for one model. Yields its port."""
    with tempfile.TemporaryDirectory(prefix="elman-") as folder:
        put_in_repository(file, Path(folder) / "models")
        log = Path(folder) / "log"
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("ELMAN_")}
        with log.open("wb") as stream:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "elman", "serve", str(Path(folder) / "models"), "--port", "0"],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                cwd=folder,
                env={**inherited, "ELMAN_STORE": "memory", "PYTHONPATH": _import_path()},
            )
        try:
            yield _port(process, log)
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _import_path() -> str:
    """PYTHONPATH with which a child process finds this package, even if it is not installed."""
    return os.pathsep.join(filter(None, [str(_PACKAGES), os.environ.get("PYTHONPATH", "")]))


def _port(process: subprocess.Popen[bytes], log: Path) -> int:
    until = time.monotonic() + _START_TIMEOUT
    while time.monotonic() < until and process.poll() is None:
        found = _RUNNING.search(log.read_text(errors="replace"))
        with contextlib.suppress(httpx.TransportError):
            if found and httpx.get(f"http://127.0.0.1:{found.group(1)}/readyz").status_code == 200:
                return int(found.group(1))
        time.sleep(0.05)
    last = log.read_text(errors="replace").strip().splitlines()[-1:]
    raise refuse(f"the server did not start: {' '.join(last) or 'it printed nothing'}", CANNOT_START)


@contextlib.contextmanager
def _status(quiet: bool) -> Iterator[Any]:
    console = Console(stderr=True)
    if quiet or not sys.stderr.isatty():
        yield lambda what: None
        return
    with console.status("") as status:
        yield lambda what: status.update(f"measuring {what}")


def report(model: Model, lines: list[Measurement], sequences: list[Array], seconds: float) -> dict[str, Any]:
    """The measurements, for programs."""
    return {
        "model": model.name,
        "version": model.version,
        "mean_length": round(float(np.mean([len(one) for one in sequences])), 2),
        "seconds": seconds,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "lines": [
            {
                "what": line.what,
                "sequences_per_second": line.sequences,
                "steps_per_second": line.steps,
                "share_of_kernel": line.steps / lines[0].steps,
                "p50_seconds": line.p50,
                "p99_seconds": line.p99,
                "failed": line.failed,
            }
            for line in lines
        ],
    }


def print_lines(model: Model, lines: list[Measurement], sequences: list[Array]) -> None:
    """Print the measurements, for people."""
    mean = float(np.mean([len(one) for one in sequences]))
    header = ("", "sequences/s", "steps/s", "share", "p50 ms", "p99 ms", "note")
    rows = [
        (
            line.what,
            "" if line.sequences is None else f"{line.sequences:,.0f}",
            f"{line.steps:,.0f}",
            f"{100 * line.steps / lines[0].steps:.0f} %",
            "" if line.p50 is None else f"{1e3 * line.p50:.2f}",
            "" if line.p99 is None else f"{1e3 * line.p99:.2f}",
            f"{line.failed} failed" if line.failed else "",
        )
        for line in lines
    ]
    console = Console(highlight=False)
    console.print(f"[bold]{model.name}[/] version {model.version}, mean length {mean:.1f} steps")
    print_table(header, rows, right=header[1:6])
    best = f"kernel and engine: per second of one core; the best batch of the kernel is {lines[0].note}"
    console.print(best, soft_wrap=True)
