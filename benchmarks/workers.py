"""One worker and two, side by side: requests a second, processor time, waiting time and memory."""

import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.environments import BENCH, ROOT
from benchmarks.load import Plan
from benchmarks.measure import generate, machine, raise_file_limit, say
from benchmarks.models import SHAPES, Shape, write_model
from benchmarks.processes import Process, anonymous_bytes, resident_bytes
from benchmarks.serving import elman, wait_until_ready
from benchmarks.workload import draw

_NUM_REQUESTS = 400


@dataclass(frozen=True)
class Settings:
    """What one run measures."""

    rounds: int = 3
    seconds: float = 2.0
    models: tuple[str, ...] = ("small", "mid", "big")
    workers: tuple[int, ...] = (1, 2)
    connections: int = 64


QUICK = Settings(rounds=1, seconds=0.5, models=("small",))


def run(settings: Settings, save: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Measure everything and return the results. `save` gets them after each model."""
    started = time.monotonic()
    raise_file_limit()
    results: dict[str, Any] = {"machine": machine(), "settings": asdict(settings), "models": {}}
    for name in settings.models:
        with tempfile.TemporaryDirectory(prefix="workers-") as folder:
            results["models"][name] = _measure(SHAPES[name], settings, Path(folder))
        results["machine"]["minutes"] = (time.monotonic() - started) / 60
        save(results)
    return results


def _measure(shape: Shape, settings: Settings, folder: Path) -> dict[str, Any]:
    model = write_model(shape, folder / "models")
    workload = draw(shape, "lognormal", _NUM_REQUESTS)
    plan = Plan(
        0, workload.requests("json"), workload.lengths, connections=settings.connections, seconds=settings.seconds
    )
    found: dict[int, dict[str, Any]] = {}
    with contextlib.ExitStack() as stack:
        servers = {number: stack.enter_context(_server(number, folder)) for number in settings.workers}
        for number, server in servers.items():
            found[number] = {"rounds": []}
            server.pause()
        for turn in range(settings.rounds):
            for number in settings.workers[:: 1 if turn % 2 == 0 else -1]:
                server = servers[number]
                server.resume()
                report = generate(replace(plan, port=server.port, pids=server.pids(), seed=turn))
                server.pause()
                found[number]["rounds"].append(asdict(report))
        for number, server in servers.items():
            found[number] |= {"pss": resident_bytes(server.pids()), "anonymous": anonymous_bytes(server.pids())}
    rates = [
        f"{number} workers {statistics.median(one['num_done'] / one['seconds'] for one in each['rounds']):,.0f}/s, "
        f"{each['pss'] / 2**20:,.0f} MiB"
        for number, each in found.items()
    ]
    say(f"  {shape.title}: {'; '.join(rates)}")
    return {"title": shape.title, "file": model.stat().st_size, "workers": found, "copies": copies(model)}


@contextlib.contextmanager
def _server(number: int, folder: Path) -> Iterator[Process]:
    """A server on all cores, ready."""
    log = BENCH / "logs" / f"workers-{number}.log"
    server = elman(folder / "models", folder / f"store-{number}", log, workers=number)
    server.core = None
    with server:
        wait_until_ready(server)
        yield server


def copies(model: Path) -> dict[str, int]:
    """Bytes of two processes with the model in ONNX Runtime: each loads it, or the second one is a fork of the first.

    Both have run it. The bytes are those beyond two processes without a model (PSS).
    """
    return {way: _pss(way, model) - _pss(way, None) for way in ("loaded", "forked")}


def _pss(way: str, model: Path | None) -> int:
    command = [sys.executable, "-m", "benchmarks.workers", way, *([str(model)] if model else [])]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=120)
    return int(json.loads(done.stdout))


def _two_processes(way: str, model: str | None) -> int:
    """The PSS of this process and of a fork of it, in bytes."""
    import os

    import numpy as np
    import onnxruntime as ort

    def load() -> None:
        nonlocal session
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        if model is not None:
            session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    session: Any = None
    if way == "forked":
        load()
    (ready, tell), (wait, done) = os.pipe(), os.pipe()
    child = os.fork()
    if way == "loaded":
        load()
    if session is not None:
        features = session.get_inputs()[0].shape[2]
        session.run(None, {"input": np.zeros((16, 8, features), np.float32)})
    if child == 0:
        os.write(tell, b"1")
        os.close(done)
        os.read(wait, 1)
        os._exit(0)
    os.read(ready, 1)
    found = resident_bytes([os.getpid(), child])
    os.close(done)
    os.waitpid(child, 0)
    return found


if __name__ == "__main__":
    print(_two_processes(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None))
