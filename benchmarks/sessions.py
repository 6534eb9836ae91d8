"""The cost of keeping state: steps with sessions and tokens, bytes per session, and a hundred thousand sessions."""

import contextlib
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from benchmarks.environments import BENCH
from benchmarks.live import create, standing, texts, walk
from benchmarks.load import Plan, Report
from benchmarks.measure import WrongAnswer, generate, machine, raise_file_limit, say
from benchmarks.models import SHAPES, Shape, write_model
from benchmarks.processes import Process, cores, free_port
from benchmarks.serving import fetch, fetch_json, serving
from benchmarks.session_footprint import disk, held, many
from benchmarks.session_load import WalkPlan
from benchmarks.workload import CONTENT_TYPES, Format, Workload, reference, with_lengths

Name = Literal["lmdb", "cold", "redis", "memory", "tokens", "predict"]

_SERVERS: dict[str, dict[str, object]] = {
    "lmdb": {"store": "lmdb"},
    "cold": {"store": "lmdb", "hot_session_bytes": 0},
    "redis": {},
    "memory": {"store": "memory"},
    "plain": {"store": "memory"},
}
_SERVED_BY: dict[Name, str] = {
    "lmdb": "lmdb",
    "cold": "cold",
    "redis": "redis",
    "memory": "memory",
    "tokens": "plain",
    "predict": "plain",
}
_REDIS = "redis-server"
_NUM_BODIES = 200
_NUM_CHECKED = 5
_CHECKED_LENGTH = 20
_TOLERANCE = 1e-5


@dataclass(frozen=True)
class Settings:
    """What one run measures. `live` lists numbers of live sessions."""

    model: str = "small"
    rounds: int = 3
    seconds: float = 1.0
    connections: int = 32
    live: tuple[int, ...] = (1, 100, 10_000)
    json_live: int = 100
    held: tuple[str, ...] = ("small", "mid", "big")
    held_sessions: int = 4_000
    many: int = 100_000


QUICK = Settings(rounds=1, seconds=0.3, live=(1, 100, 1_000), held=("small",), held_sessions=1_000, many=3_000)


@dataclass(frozen=True)
class Cell:
    """One way to keep state, under one load."""

    way: Name
    form: Format
    live: int


def run(settings: Settings, save: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Measure everything and return the results. `save` gets them after each part."""
    started = time.monotonic()
    raise_file_limit()
    shape = SHAPES[settings.model]
    results: dict[str, Any] = {"machine": machine(), "settings": asdict(settings), "model": shape.title}
    logs = BENCH / "logs"
    with tempfile.TemporaryDirectory(prefix="sessions-") as folder:
        parts: list[tuple[str, Callable[[], Any]]] = [
            ("disk", lambda: disk(Path(folder))),
            ("cells", lambda: Steps(shape, settings, Path(folder), logs).run()),
            (
                "held",
                lambda: [held(SHAPES[name], settings.held_sessions, Path(folder), logs) for name in settings.held],
            ),
            ("many", lambda: many(shape, settings.many, settings.rounds, Path(folder), logs)),
        ]
        for name, part in parts:
            results[name] = part()
            say(f"  {name}: done after {time.monotonic() - started:.0f} s")
            results["machine"]["minutes"] = (time.monotonic() - started) / 60
            save(results)
    return results


class Steps:
    """Steps per second of every way to keep state. All servers are up, and all but the measured one are stopped."""

    def __init__(self, shape: Shape, settings: Settings, folder: Path, logs: Path) -> None:
        self.shape = shape
        self.settings = settings
        self.folder = folder
        self.logs = logs
        self.model = write_model(shape, folder / "models" / shape.name)
        self.bodies = with_lengths(shape, [1] * _NUM_BODIES)
        self.checked = with_lengths(shape, [_CHECKED_LENGTH] * _NUM_CHECKED, seed=5)
        self._processes: dict[str, Process] = {}
        self._token = ""
        self._redis: Process | None = None

    def run(self) -> list[dict[str, Any]]:
        with contextlib.ExitStack() as stack:
            for name, server in _SERVERS.items():
                if name == "redis":
                    if shutil.which(_REDIS) is None:
                        say(f"  {_REDIS} is not installed: sessions in Redis are left out")
                        continue
                    server = {"store": self._start_redis(stack)}
                log = self.logs / f"sessions-{name}.log"
                store = self.folder / name
                process = stack.enter_context(serving(self.model.parents[2], store, log, **server))
                self._processes[name] = process
                self._check(name)
                if name == "plain":
                    self._token = first_token(process.port, self.shape, self.bodies)
                process.pause()
            return [one for cells in self._loads() for one in self._rounds(cells)]

    def _start_redis(self, stack: contextlib.ExitStack) -> str:
        """Start a Redis of default settings but for its disk, beside the load generator. Returns its URL."""
        port = free_port()
        command = [_REDIS, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(self.folder)]
        self._redis = stack.enter_context(Process(command, port, cores()[1], self.logs / "sessions-redis-server.log"))
        self._redis.wait_until_ready()
        return f"redis://127.0.0.1:{port}?socket_timeout=5&socket_connect_timeout=5"

    def _loads(self) -> Iterator[list[Cell]]:
        """Groups of cells that are compared with each other."""
        for live in self.settings.live:
            last = live == self.settings.live[-1]
            ways = [way for way, server in _SERVED_BY.items() if server in self._processes]
            yield [Cell(way, "octet", live) for way in ways if way != "cold" or last]
            if live == self.settings.json_live:
                yield [Cell(way, "json", live) for way in ways if way != "cold"]

    def _rounds(self, cells: list[Cell]) -> list[dict[str, Any]]:
        found: dict[Cell, list[dict[str, Any]]] = {cell: [] for cell in cells}
        for turn in range(self.settings.rounds):
            for cell in cells[:: 1 if turn % 2 == 0 else -1]:
                process = self._processes[_SERVED_BY[cell.way]]
                process.resume()
                try:
                    found[cell].append(asdict(self._measure(cell, process, turn)))
                finally:
                    process.pause()
        first = cells[0]
        rates = [f"{cell.way} {statistics.median(map(rate, rounds)):,.0f}" for cell, rounds in found.items()]
        say(f"  {first.live:,} live, {first.form}: " + ", ".join(rates) + " steps/s")
        return [{**asdict(cell), "rounds": rounds} for cell, rounds in found.items()]

    def _measure(self, cell: Cell, process: Process, turn: int) -> Report:
        settings = self.settings
        load: dict[str, Any] = {
            "connections": min(cell.live, settings.connections),
            "seconds": settings.seconds,
            # What Redis takes is a cost of a step too.
            "pids": process.pids() + (self._redis.pids() if cell.way == "redis" and self._redis else []),
            "core": cores()[1],
            "seed": turn,
        }
        if cell.way == "predict":
            return generate(Plan(process.port, self.bodies.requests(cell.form), self.bodies.lengths, **load))
        plan = WalkPlan(process.port, texts(self.bodies, cell.form), self.bodies.lengths, **load)
        plan = replace(plan, form=cell.form, order=turn)
        if cell.way == "tokens":
            paths, starts = [self._predict] * cell.live, [1] * cell.live
            return generate(replace(plan, way="tokens", paths=paths, starts=starts, token=self._token))
        missing = cell.live - len(standing(process.port))
        if missing > 0:
            create(process, self.shape, missing)
        return generate(walk(plan, standing(process.port)[: cell.live]))

    @property
    def _predict(self) -> str:
        return f"/v1/models/{self.shape.name}/predict"

    def _check(self, name: str) -> None:
        """Check that one step per request ends with the output of the whole sequence. Raises WrongAnswer."""
        port = self._processes[name].port
        right = reference(self.model, self.checked.sequences)
        for sequence, expected in zip(self.checked.sequences, right, strict=True):
            if name == "plain":
                ends = [self._by_tokens(port, sequence, form) for form in ("octet", "json")]
            else:
                ends = [self._by_session(port, sequence)]
            for seen in ends:
                if not np.allclose(seen, expected, rtol=_TOLERANCE, atol=_TOLERANCE):
                    raise WrongAnswer(f"{name}: step by step it gives {seen}, expected {expected} as for the whole")

    def _by_session(self, port: int, sequence: np.ndarray) -> Any:
        session = fetch_json(port, "POST", f"/v1/models/{self.shape.name}/sessions")
        path = f"/v1/sessions/{session['id']}"
        for at, row in enumerate(sequence):
            answer = fetch_json(port, "POST", f"{path}/steps", {"sequence": [row.tolist()], "at": at})
        fetch(port, "DELETE", path)
        return answer["output"]

    def _by_tokens(self, port: int, sequence: np.ndarray, form: str) -> Any:
        token: str | None = None
        for row in sequence:
            if form == "octet":
                headers = {"Content-Type": CONTENT_TYPES["octet"], "Accept": CONTENT_TYPES["octet"]}
                headers |= {"Elman-State": token} if token else {}
                _, seen, body = fetch(port, "POST", f"{self._predict}?return_state=true", row.tobytes(), headers)
                token, output = seen["elman-state"], np.frombuffer(body, "<f4")
            else:
                asked = {"sequence": [row.tolist()], "state": token, "return_state": True}
                result = fetch_json(port, "POST", self._predict, asked)["results"][0]
                token, output = result["state"], result["output"]
        return output


def first_token(port: int, shape: Shape, workload: Workload) -> str:
    """The state token of a sequence after one step."""
    asked = {"sequence": workload.sequences[0].tolist(), "return_state": True}
    token: str = fetch_json(port, "POST", f"/v1/models/{shape.name}/predict", asked)["results"][0]["state"]
    return token


def rate(report: dict[str, Any]) -> float:
    """Steps per second, with one step per request."""
    return float(report["num_done"] / report["seconds"])
