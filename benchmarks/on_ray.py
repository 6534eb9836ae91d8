"""What Ray Serve costs: the same model served by `elman serve`, and by one replica on Ray, on the same cores."""

import contextlib
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.environments import BENCH, ROOT, Environment
from benchmarks.load import Plan
from benchmarks.measure import generate, machine, raise_file_limit, say
from benchmarks.models import SHAPES, write_model
from benchmarks.processes import Process, free_port, resident_bytes
from benchmarks.serving import elman, wait_until_ready
from benchmarks.workload import Format, Workload, draw

_LOCK = f"--constraint={ROOT / 'constraints.txt'}"
# Installed for what it needs: the package itself is that of this clone.
RAY = Environment("on-ray", (f"{ROOT}[ray]", _LOCK), serves=False)
WAYS = ("direct", "ray")
FORMS: tuple[Format, ...] = ("json", "octet")
_NUM_REQUESTS = 400
# Ray starts six processes of its own.
_START_SECONDS = 180.0


@dataclass(frozen=True)
class Settings:
    """What one run measures."""

    rounds: int = 3
    seconds: float = 2.0
    models: tuple[str, ...] = ("small", "mid", "big")
    connections: int = 64


QUICK = Settings(rounds=1, seconds=1.0, models=("small",))


def run(settings: Settings, save: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Measure everything and return the results. `save` gets them after each round."""
    RAY.make()
    raise_file_limit()
    started = time.monotonic()
    results: dict[str, Any] = {"machine": machine(), "settings": asdict(settings), "models": {}}
    with tempfile.TemporaryDirectory(prefix="on-ray-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        for one in settings.models:
            write_model(SHAPES[one], folder / "models")
        servers = {way: stack.enter_context(_server(way, folder)) for way in WAYS}
        for server in servers.values():
            wait_until_ready(server, _START_SECONDS)
        results["pss"] = {way: resident_bytes(server.pids()) for way, server in servers.items()}
        for model in settings.models:
            workload = draw(SHAPES[model], "lognormal", _NUM_REQUESTS)
            found: dict[str, dict[str, list[Any]]] = {form: {way: [] for way in WAYS} for form in FORMS}
            results["models"][model] = {"title": SHAPES[model].title, "forms": found}
            for turn in range(settings.rounds):
                for form in FORMS:
                    for way in WAYS[:: 1 if turn % 2 == 0 else -1]:
                        found[form][way].append(_measure(servers[way], workload, form, settings, turn))
                results["machine"]["minutes"] = (time.monotonic() - started) / 60
                save(results)
            rates = [found["json"][way][0]["num_done"] / found["json"][way][0]["seconds"] for way in WAYS]
            say(f"  {SHAPES[model].title}: JSON {rates[0]:,.0f} directly, {rates[1]:,.0f} on Ray")
    return results


def _server(way: str, folder: Path) -> Process:
    """A server on all cores, not started yet."""
    if way == "direct":
        server = elman(folder / "models", folder / way, BENCH / "logs" / "on-ray-direct.log")
        server.core = None
        return server
    port, script = free_port(), ROOT / "benchmarks" / "peers" / "elman_ray.py"
    command = [str(RAY.python), str(script), str(port), str(folder / "models"), str(folder / way)]
    return Process(command, port, None, BENCH / "logs" / "on-ray.log", {"PYTHONPATH": str(ROOT / "service")})


def _measure(server: Process, workload: Workload, form: Format, settings: Settings, turn: int) -> dict[str, Any]:
    # The other one is idle, and is not stopped: Ray takes a process that does not answer for dead.
    plan = Plan(server.port, workload.requests(form), workload.lengths, settings.connections, seconds=settings.seconds)
    return asdict(generate(replace(plan, pids=server.pids(), seed=turn)))
