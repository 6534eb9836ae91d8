"""A soak: mixed traffic on two servers for a long time, with every answer checked against plain ONNX Runtime.

One server is never killed. Its models are replaced, unloaded and loaded, and clients leave it in the middle of what
they ask. At the end it must take as much memory, and as many descriptors, threads and tasks, as at the beginning. The
other one has two workers, which are killed, restarted one by one and restarted together with it. What it has
acknowledged must never be lost, and no step may happen twice.
"""

import asyncio
import contextlib
import http.client
import itertools
import os
import re
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from benchmarks.environments import BENCH
from benchmarks.measure import WrongAnswer, machine, say
from benchmarks.processes import Process, anonymous_bytes
from benchmarks.serving import elman, fetch, fetch_json, wait_until_ready
from benchmarks.soak.footprint import footprint, gauges, health, open_files
from benchmarks.soak.truth import STORE, TURNING, VALUES, WRITER, Truth
from benchmarks.soak.visits import COMING, COPIED, KEPT, KILLED, PATIENCE, STEADY, TURNED, Books, Lost, Target, Visit

MOST_MEMORY = 32 * 2**20
"""By how many bytes the allocated memory at the end may exceed that after the warm-up."""

MOST_LOST = 1e-3
"""Share of the requests to the steady server that may be lost since they were sent too late, on a busy machine."""

_QUIET_SECONDS = 5.0
_VISITS = 25
_SAMPLE_SECONDS = 15.0
_BEAT_SECONDS = 0.1
_START_SECONDS = 3.0
# Of the time, before the memory is measured that the end is compared with.
_WARMUP = 0.1
_COMPLAINT = re.compile(r"Traceback|ERROR|CRITICAL")
_SHARES = {"lowest": 0.0, "median": 0.5, "highest": 1.0}
# Threads that the server's pools start only when they are needed.
_POOLED = 8
# A restart in progress takes a few descriptors of the supervisor.
_MOST_DESCRIPTORS = 6


@dataclass(frozen=True)
class Settings:
    """How long, and how busy. All in seconds.

    Attributes:
        seconds: of the whole, less starts and checks.
        pause: mean time between two visits of the same visitor.
        trouble: mean time between two kills or restarts.
        reload: mean time between two changes of the repository.
    """

    rounds: int = 1
    seconds: float = 1800.0
    pause: float = 0.1
    trouble: float = 20.0
    reload: float = 5.0


QUICK = replace(Settings(), seconds=60.0, trouble=5.0, reload=2.0)


def run(settings: Settings, save: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Soak both servers, and return the results. `save` gets them first. Raises WrongAnswer if anything is amiss."""
    started = time.monotonic()
    results: dict[str, Any] = {"machine": machine(), "settings": asdict(settings)}
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        results |= asyncio.run(Soak(settings, Path(folder)).run())
    results["machine"]["minutes"] = (time.monotonic() - started) / 60
    results["faults"] = list(faults(results))
    save(results)
    if results["faults"]:
        raise WrongAnswer("\n".join(results["faults"]))
    return results


def faults(results: Mapping[str, Any]) -> list[str]:
    """What is not as it must be."""
    found = [f"wrong: {one}" for server in ("steady", "killed") for one in results[server]["wrong"]]
    steady, health = results["steady"], results["liveness"]["steady"]
    if sum(steady["lost"].values()) > max(5, MOST_LOST * sum(steady["right"].values())):
        found.append(f"lost by the steady server: {dict(steady['lost'])}")
    if health["lost"] or health["bad"]:
        found.append(f"liveness: /livez has no answer {health['lost']} times, and not 200 {health['bad']} times")
    before, after = results["before"], results["after"]
    grown = after["memory"] - before["memory"]
    if grown > MOST_MEMORY:
        found.append(f"memory: {grown / 2**20:.0f} MiB more than after the warm-up")
    for name in before:
        if name not in ("memory", "resident") and after[name] > before[name] + (_POOLED if name == "threads" else 0):
            more = f": {results['opened']}" if name == "descriptors" else ""
            found.append(f"{name}: {after[name]:g}, and {before[name]:g} after the warm-up{more}")
    lives = [life for life in results["supervisors"] if len(life) > 1]
    found += [f"descriptors of a supervisor: {life}" for life in lives if life[1] > life[0] + _MOST_DESCRIPTORS]
    return found + [f"log: {line}" for line in results["log"]]


class Soak:
    """One soak in a folder of its own."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self._settings = settings
        self._folder = folder
        self._models = folder / "models"
        self._models.mkdir()
        self._logs = BENCH / "logs" / "soak"
        shutil.rmtree(self._logs, ignore_errors=True)
        self._truth = Truth(self._models)
        for name in (*VALUES, WRITER):
            (self._models / name).symlink_to(STORE / name)
        for name, source in ((TURNED, TURNING[0]), (COMING, COPIED)):
            shutil.copytree(STORE / source, self._models / name)
        self._rng = np.random.default_rng(1)
        self._books = {"steady": Books(), "killed": Books()}
        self._troubles: Counter[str] = Counter()
        self._loads: list[float] = []
        self._lag = 0.0
        self._open: list[Counter[str]] = []
        self._curve: list[tuple[float, int]] = []
        self._supervisors: list[list[int]] = []

    async def run(self) -> dict[str, Any]:
        """What was found, by name."""
        with contextlib.ExitStack() as stack:
            self._steady = stack.enter_context(self._server("steady", workers=1))
            self._killed = self._server("killed", workers=2).__enter__()
            stack.callback(lambda: self._killed.stop())  # another one by then
            ports = self._steady.port, self._killed.port
            self._targets = {"steady": Target(ports[0], False), "killed": Target(ports[1], True)}
            for process in (self._steady, self._killed):
                await asyncio.to_thread(wait_until_ready, process)
            self._supervisors.append([self._descriptors()])
            with health(ports[0]) as of_steady, health(ports[1]) as of_killed:
                await self._visit(_WARMUP * self._settings.seconds)
                before = await self._footprint()
                say(f"  after the warm-up: {before}")
                await self._visit((1 - _WARMUP) * self._settings.seconds)
                after = await self._footprint()
                say(f"  at the end: {after}")
                with self._noted("killed", "the end"):
                    await asyncio.to_thread(wait_until_ready, self._killed, PATIENCE)
                    self._supervisors[-1].append(self._descriptors())
            log = self._complaints()
        return {
            "before": before,
            "after": after,
            "memory": self._curve,
            "load": {name: float(np.quantile(self._loads, share)) for name, share in _SHARES.items()},
            "opened": self._open[1] - self._open[0],
            "lag": self._lag,
            "liveness": {"steady": of_steady, "killed": of_killed},
            **{name: vars(books) for name, books in self._books.items()},
            "reloads": self._targets["steady"].turns,
            "troubles": self._troubles,
            "supervisors": self._supervisors,
            "log": log,
        }

    def _server(self, name: str, workers: int) -> Process:
        log = self._logs / f"{name}-{self._troubles.total()}.log"
        process = elman(self._models, self._folder / name, log, workers=workers, session_ttl=600)
        process.core = None
        return process

    async def _visit(self, seconds: float) -> None:
        """Let all visitors come for so long, and end their visits."""
        end = asyncio.Event()
        jobs = [self._reload(end), self._make_trouble(end), self._sample(end), self._watch_lag(end)]
        for name, kinds in (("steady", STEADY), ("killed", KILLED)):
            jobs += [self._keep_coming(name, kind, end) for kind, (count, _) in kinds.items() for _ in range(count)]
        tasks = [asyncio.create_task(job) for job in jobs]
        await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_EXCEPTION)
        end.set()
        await asyncio.gather(*tasks)

    async def _keep_coming(self, server: str, kind: str, end: asyncio.Event) -> None:
        """Visit a server again and again, each time for one kind of thing."""
        target, books = self._targets[server], self._books[server]
        visit = {**KILLED, **STEADY}[kind][1]
        rng = np.random.default_rng(self._rng.integers(2**32))
        # Not all at once: this process would stand still, and what it has connected would be closed as too slow.
        await _is_set(end, rng.uniform(0, _START_SECONDS))
        while not end.is_set():
            async with _client(target) as client:
                one = Visit(target, client, self._truth, rng, books, kind)
                for _ in range(_VISITS):
                    with self._noted(server, kind):
                        await visit(one)
                    if await _is_set(end, rng.uniform(0, 2 * self._settings.pause)):
                        break

    @contextlib.contextmanager
    def _noted(self, server: str, kind: str) -> Iterator[None]:
        """Note what is lost or wrong, and go on."""
        books = self._books[server]
        try:
            yield
        except Lost:
            books.lost[kind] += 1
        except Exception as error:
            books.wrong.append(f"{datetime.now():%H:%M:%S}, {server}, {kind}: {error!r} {error.__cause__!r}")
            say(f"  {books.wrong[-1]}")

    async def _reload(self, end: asyncio.Event) -> None:
        """Replace a file of the steady server, unload a model and load it again, in turns."""
        target, rng = self._targets["steady"], np.random.default_rng(2)
        async with _client(target) as client:
            visit = Visit(target, client, self._truth, rng, self._books["steady"], "reloads")

            async def change(name: str, verb: str) -> None:
                with self._noted("steady", f"{verb} {name}"):
                    await visit.surely("POST", f"/v2/repository/models/{name}/{verb}")

            while not await _is_set(end, rng.uniform(0, 2 * self._settings.reload)):
                target.turning = True
                new = self._models / TURNED / "1" / ".new"
                shutil.copy(STORE / TURNING[(target.turns + 1) % 2] / "1" / "model.onnx", new)
                new.rename(new.with_name("model.onnx"))
                await change(TURNED, "load")
                target.turns += 1
                target.turning = False
                await change(COMING, "unload")
                await _is_set(end, rng.uniform(0, self._settings.reload))
                await change(COMING, "load")

    async def _make_trouble(self, end: asyncio.Event) -> None:
        """Kill and restart what belongs to the second server, in every way in turn."""
        rng = np.random.default_rng(3)
        of_workers = [("a worker killed", self._kill_worker), ("workers restarted", self._restart_workers)] * 5
        kill, stop = ("all killed", self._kill_all), ("stopped and started", self._stop)
        ways = itertools.cycle([*of_workers, kill, *of_workers, stop])
        while not await _is_set(end, rng.uniform(0, 2 * self._settings.trouble)):
            name, way = next(ways)
            with self._noted("killed", name):
                await way()
                self._troubles[name] += 1

    async def _kill_worker(self) -> None:
        try:
            worker = (await asyncio.to_thread(fetch_json, self._killed.port, "GET", "/v1/engine"))["process"]
        except (OSError, RuntimeError, http.client.HTTPException) as error:  # the one that was asked is ending
            raise Lost from error
        os.kill(worker, signal.SIGKILL)

    async def _restart_workers(self) -> None:
        os.kill(self._killed.pid, signal.SIGHUP)

    async def _kill_all(self) -> None:
        self._supervisors[-1].append(self._descriptors())
        await asyncio.to_thread(self._killed.kill)
        await self._start_again()

    async def _stop(self) -> None:
        self._supervisors[-1].append(self._descriptors())
        await self._start_again()

    async def _start_again(self) -> None:
        port = self._killed.port
        await asyncio.to_thread(self._killed.stop)
        process = self._server("killed", workers=2)
        process.command[process.command.index("--port") + 1] = str(port)
        process.port = port
        self._killed = await asyncio.to_thread(process.__enter__)
        await asyncio.to_thread(wait_until_ready, process, PATIENCE)
        self._supervisors.append([self._descriptors()])

    def _descriptors(self) -> int:
        """Those of the supervisor of the server that is killed."""
        return footprint([self._killed.pid]).descriptors

    async def _sample(self, end: asyncio.Event) -> None:
        """Note the load of the machine, and the memory of the steady server."""
        started = time.monotonic()
        while not await _is_set(end, _SAMPLE_SECONDS):
            self._loads.append(os.getloadavg()[0])
            memory = await asyncio.to_thread(lambda: anonymous_bytes(self._steady.pids()))
            self._curve.append((round(time.monotonic() - started), memory))

    async def _watch_lag(self, end: asyncio.Event) -> None:
        """Note how long the visitors themselves stand still. What that costs is not the fault of a server."""
        while not end.is_set():
            started = time.monotonic()
            await asyncio.sleep(_BEAT_SECONDS)
            self._lag = max(self._lag, time.monotonic() - started - _BEAT_SECONDS)

    async def _footprint(self) -> dict[str, float]:
        """What the steady server takes once nobody visits it. Its sessions are ended first."""
        port = self._steady.port
        while page := (await asyncio.to_thread(fetch_json, port, "GET", "/v1/sessions?limit=1000"))["sessions"]:
            for one in page:
                await asyncio.to_thread(fetch, port, "DELETE", f"/v1/sessions/{one['id']}")
        await asyncio.sleep(_QUIET_SECONDS)
        pids = self._steady.pids()
        self._open.append(open_files(pids))
        return {**asdict(footprint(pids)), **await asyncio.to_thread(gauges, port)}

    def _complaints(self) -> list[str]:
        """Lines of the logs that tell of a defect."""
        lines = [(log.name, line) for log in sorted(self._logs.iterdir()) for line in log.read_text().splitlines()]
        return [f"{name}: {line}" for name, line in lines if _COMPLAINT.search(line)]


def _client(target: Target) -> httpx.AsyncClient:
    """A client that asks on no connection that the server may be about to close."""
    limits, url = httpx.Limits(keepalive_expiry=KEPT), f"http://127.0.0.1:{target.port}"
    # Without TLS, since it takes time to read certificates, and without the proxies of the environment.
    return httpx.AsyncClient(base_url=url, timeout=60, limits=limits, verify=False, trust_env=False)


async def _is_set(end: asyncio.Event, seconds: float) -> bool:
    """Wait so long for the end. True if it has come."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(end.wait(), seconds)
    return end.is_set()
