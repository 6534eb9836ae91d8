"""What a step costs, and what many sessions need by that: measured, fitted, simulated and projected."""

import contextlib
import math
import re
import shutil
import socket
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.environments import BENCH
from benchmarks.live import create, standing, texts, walk
from benchmarks.load import Plan
from benchmarks.measure import generate, machine, raise_file_limit, say
from benchmarks.models import SHAPES, Shape, write_model
from benchmarks.processes import Process, StartFailure, cores, free_port
from benchmarks.queues import Plant, waits
from benchmarks.serving import fetch_json, serving
from benchmarks.session_footprint import file_bytes
from benchmarks.session_load import WalkPlan
from benchmarks.workload import with_lengths

STORES = ("memory", "lmdb", "redis")
_NUM_BODIES = 200
# The projection: live sessions, steps a second, and the share of each core that they may take.
LIVE, RATE, SHARE = 1_000_000, 100_000, 0.6
SHARES = (0.3, 0.5, 0.6, 0.7, 0.8, 0.9)


@dataclass(frozen=True)
class Settings:
    """What one run measures: steps of sessions of each model in each store, and predictions of several lengths."""

    rounds: int = 2
    seconds: float = 1.0
    models: tuple[str, ...] = ("small", "mid", "big")
    lengths: tuple[int, ...] = (1, 16, 64)
    connections: int = 32
    live: int = 1000


QUICK = Settings(rounds=1, seconds=0.4, live=200)


def run(settings: Settings, save: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Measure everything and return the results. `save` gets them after each model."""
    if shutil.which("redis-server") is None:
        raise StartFailure("redis-server is not installed, and the model of costs is about sessions in Redis")
    started = time.monotonic()
    raise_file_limit()
    results: dict[str, Any] = {"machine": machine(), "settings": asdict(settings), "models": {}}
    for name in settings.models:
        results["models"][name] = _of_model(SHAPES[name], settings)
        results["fit"] = fit(results["models"])
        results["projection"] = {one: project(results, one) for one in results["models"]}
        results["machine"]["minutes"] = (time.monotonic() - started) / 60
        save(results)
    return results


def _of_model(shape: Shape, settings: Settings) -> dict[str, Any]:
    found: dict[str, Any] = {"title": shape.title, "stores": {}}
    with tempfile.TemporaryDirectory(prefix="scale-") as name:
        folder = Path(name)
        write_model(shape, folder / "models")
        for store in STORES:
            with _redis(folder) as redis, _server(folder, store, redis) as server:
                card = fetch_json(server.port, "GET", f"/v1/models/{shape.name}")
                found["state"] = card["state"]["bytes"]
                if store == "memory":
                    found["predict"] = _predictions(shape, server, settings)
                found["stores"][store] = _steps(shape, server, redis, settings, folder / "store")
                if store == "redis":
                    found["open"] = _open_loop(shape, server, redis, settings, found["stores"][store])
    say(
        f"  {shape.title}: "
        + ", ".join(f"{store} {1e6 * one['cpu']:.0f} µs a step" for store, one in found["stores"].items())
    )
    return found


@contextlib.contextmanager
def _redis(folder: Path) -> Iterator[Process]:
    """A Redis of default settings but for its disk, beside the load generator."""
    port = free_port()
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    with Process(command, port, cores()[1], folder / "redis.log") as process:
        process.wait_until_ready()
        yield process


def _server(folder: Path, store: str, redis: Process) -> contextlib.AbstractContextManager[Process]:
    url = f"redis://127.0.0.1:{redis.port}?socket_timeout=5&socket_connect_timeout=5"
    log = BENCH / "logs" / f"scale-{store}.log"
    return serving(folder / "models", folder / "store", log, store=url if store == "redis" else store)


def _predictions(shape: Shape, server: Process, settings: Settings) -> dict[int, list[float]]:
    """Processor seconds a request, in each round, by the number of its steps."""
    found: dict[int, list[float]] = {length: [] for length in settings.lengths}
    for turn in range(settings.rounds):
        for length in settings.lengths:
            asked = with_lengths(shape, [length] * _NUM_BODIES).requests("octet")
            plan = Plan(server.port, asked, [length] * len(asked), settings.connections, seconds=settings.seconds)
            report = generate(replace(plan, pids=server.pids(), core=cores()[1], seed=turn))
            found[length].append(report.server_cpu / max(report.num_done, 1))
    return found


def _steps(shape: Shape, server: Process, redis: Process, settings: Settings, store: Path) -> dict[str, Any]:
    """Costs of one step a request of many sessions: processor time, and of the store its calls and bytes."""
    before = _redis_facts(redis.port), file_bytes(store)
    create(server, shape, settings.live)
    plan = _walk(shape, server, settings)
    generate(replace(plan, limit=2 * settings.live, seconds=60.0))  # each session has both its states then
    after = _redis_facts(redis.port), file_bytes(store)
    rounds: list[dict[str, float]] = []
    for turn in range(settings.rounds):
        first = _redis_facts(redis.port)
        report = generate(replace(_walk(shape, server, settings), order=turn))
        last = _redis_facts(redis.port)
        # The steps that are sent before the measured time count for Redis too.
        sent = max(report.num_done, 1) * (settings.seconds + plan.warmup) / settings.seconds
        rounds.append(
            {
                "cpu": report.server_cpu / max(report.num_done, 1),
                "redis_cpu": (last["cpu"] - first["cpu"]) / sent,
                "calls": (last["calls"] - first["calls"]) / sent,
                "rate": report.num_done / report.seconds,
                "p99": report.p99,
            }
        )
    return {
        "redis_bytes": (after[0]["memory"] - before[0]["memory"]) / settings.live,
        "file_bytes": (after[1] - before[1]) / settings.live,
        "rounds": rounds,
        **{name: statistics.median(one[name] for one in rounds) for name in rounds[0]},
    }


def _walk(shape: Shape, server: Process, settings: Settings) -> WalkPlan:
    bodies = with_lengths(shape, [1] * _NUM_BODIES)
    plan = WalkPlan(server.port, texts(bodies, "octet"), bodies.lengths, connections=settings.connections)
    plan = replace(plan, seconds=settings.seconds, pids=server.pids(), core=cores()[1])
    return walk(plan, standing(server.port))


def _redis_facts(port: int) -> dict[str, float]:
    """The memory that Redis uses, in bytes, its processor time, in seconds, and how often a script was called."""
    with socket.create_connection(("127.0.0.1", port), 30.0) as one:
        one.sendall(b"INFO everything\r\n")
        file = one.makefile("rb")
        text = file.read(int(file.readline()[1:])).decode()
    facts = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    calls = re.match(r"calls=(\d+)", facts.get("cmdstat_evalsha", "calls=0"))
    assert calls is not None
    spent = float(facts["used_cpu_user"]) + float(facts["used_cpu_sys"])
    return {"memory": float(facts["used_memory"]), "cpu": spent, "calls": float(calls[1])}


def _open_loop(
    shape: Shape, server: Process, redis: Process, settings: Settings, costs: dict[str, Any]
) -> dict[str, float]:
    """How long steps take that come at a Poisson rate, measured and simulated with the costs of a step."""
    rate = SHARE / costs["cpu"]
    report = generate(replace(_walk(shape, server, settings), rate=rate, seconds=3 * settings.seconds))
    simulated = waits(Plant(1, 1, costs["cpu"], costs["redis_cpu"]), rate)
    return {
        "rate": rate,
        "p50": report.p50,
        "p99": report.p99,
        "simulated_p50": float(np.quantile(simulated, 0.5)),
        "simulated_p99": float(np.quantile(simulated, 0.99)),
    }


def fit(models: dict[str, Any]) -> dict[str, Any]:
    """Costs as lines, by least squares: of a prediction over its steps, of the store over the bytes of a state."""
    lines: dict[str, Any] = {}
    for name, one in models.items():
        points = [(int(length), cpu) for length, rounds in one["predict"].items() for cpu in rounds]
        lines[name] = _line(points)
    stores: dict[str, list[tuple[int, float]]] = {"replica": [], "redis": [], "lmdb": []}
    for one in models.values():
        pairs = {store: [turn["cpu"] for turn in one["stores"][store]["rounds"]] for store in STORES}
        for plain, lmdb, redis in zip(*(pairs[store] for store in STORES), strict=True):
            stores["replica"].append((one["state"], redis - plain))
            stores["lmdb"].append((one["state"], lmdb - plain))
        stores["redis"] += [(one["state"], turn["redis_cpu"]) for turn in one["stores"]["redis"]["rounds"]]
    return {"predict": lines, "stores": {name: _line(points) for name, points in stores.items()}}


def _line(points: list[tuple[int, float]]) -> dict[str, float]:
    """The line through points: what it is at zero, and how much it rises for one."""
    x, y = (np.array(one, float) for one in zip(*points, strict=True))
    if len(set(x)) == 1:
        return {"base": float(y.mean()), "each": 0.0}
    (each, base), *_ = np.polyfit(x, y, 1, full=True)
    return {"base": float(base), "each": float(each)}


def project(results: dict[str, Any], name: str) -> dict[str, Any]:
    """What a million live sessions and a hundred thousand steps a second need, by the measured costs of a step."""
    one = results["models"][name]
    costs = one["stores"]["redis"]
    means = costs["cpu"], costs["redis_cpu"]
    simulated = []
    for share in SHARES:
        plant = Plant(*(math.ceil(RATE * mean / share) for mean in means), *means)
        found = waits(plant, RATE)
        p50, p99 = (float(np.quantile(found, q)) for q in (0.5, 0.99))
        simulated.append({"share": share, **asdict(plant), "p50": p50, "p99": p99})
    return {
        "memory": LIVE * costs["redis_bytes"],
        "calls": RATE * costs["calls"],
        "network": RATE * one["state"],
        "simulated": simulated,
    }
