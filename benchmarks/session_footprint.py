"""The size of sessions, in memory and on disk, and a server with a hundred thousand of them."""

import asyncio
import math
import os
import random
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benchmarks.ceilings import pinned
from benchmarks.live import LONG, create, standing, texts, walk
from benchmarks.measure import generate, say
from benchmarks.models import Shape, write_model
from benchmarks.processes import Process, anonymous_bytes, cores
from benchmarks.serving import elman, fetch_json, serving, wait_until_ready
from benchmarks.session_load import WalkPlan
from benchmarks.workload import Workload, with_lengths
from elman.api.metrics import Metrics
from elman.api.server import Server
from elman.api.steps import Stepper
from elman.codec.requests import StepsRequest
from elman.engine.sequence import Inputs
from elman.http.callers import ANYONE, Callers
from elman.http.endpoint import Driver
from elman.sessions.store import Advance, Record, Usage, new_id, new_mark
from elman.sessions.stores.lmdb import LMDBStore
from elman.settings import Settings

STORES = ("lmdb", "memory")
# Steps that are written in one call of the store.
GROUP = 32
AT_ONCE = 32
_NUM_BODIES = 200
_EVERYTHING = Usage(10**9, 10**15)
_DISK_SIZES = (256, 512, 1024, 2048, 4096, 8192, 16384)
_AGAIN_SECONDS = 3.0
SAMPLE = 20_000
"""Number of sessions that are stepped over HTTP."""
# Sessions made before measuring, as the first requests of a server allocate memory of their own.
_WARMUP_SESSIONS = 200


def held(shape: Shape, count: int, folder: Path, logs: Path) -> dict[str, Any]:
    """Bytes per session that was stepped twice: allocated memory and size of the file."""
    repository = folder / "models" / shape.name
    write_model(shape, repository)
    bodies = with_lengths(shape, [1] * _NUM_BODIES)
    found: dict[str, Any] = {"title": shape.title, "sessions": count}
    for name in STORES:
        store = folder / f"held-{shape.name}-{name}"
        with serving(repository, store, logs / f"held-{name}.log", store=name) as process:
            card = fetch_json(process.port, "GET", f"/v1/models/{shape.name}")
            found["raw"] = 2 * card["state"]["bytes"]
            create(process, shape, _WARMUP_SESSIONS)
            _walk_all(process, shape, bodies)
            before = anonymous_bytes(process.pids()), file_bytes(store)
            made = create(process, shape, count)
            _walk_all(process, shape, bodies)
            after = anonymous_bytes(process.pids()), file_bytes(store)
        found[name] = {
            "memory": (after[0] - before[0]) / count,
            "disk": (after[1] - before[1]) / count,
            "create_cpu": made.server_cpu / count,
            "creates_per_second": count / made.seconds,
        }
    say(f"  {shape.title}: raw {found['raw']}, " + ", ".join(f"{name} {found[name]}" for name in STORES))
    return found


def _walk_all(process: Process, shape: Shape, bodies: Workload) -> None:
    """Step every new session twice."""
    plan = WalkPlan(process.port, texts(bodies, "octet"), bodies.lengths, connections=AT_ONCE, core=cores()[1])
    new = [path for path, step in standing(process.port) if step == 0]
    for turn in (0, 1):
        once = replace(walk(plan, [(path, turn) for path in new]), limit=len(new), seconds=LONG, order=turn)
        report = generate(once)
        if report.statuses != {"200": len(new)}:
            raise RuntimeError(f"stepping sessions was answered with {report.statuses}, expected 200 only")


def file_bytes(store: Path) -> int:
    """Size of the store's file on disk."""
    file = store / "data.mdb"
    return os.stat(file).st_blocks * 512 if file.exists() else 0


def disk(folder: Path) -> list[dict[str, Any]]:
    """The LMDB store alone, in this process: bytes per session and seconds per call, by size of the state."""
    found = []
    with pinned(cores()[0]):
        for size in _DISK_SIZES:
            store = LMDBStore(folder / f"disk-{size}")
            try:
                found.append(_disk(store, folder / f"disk-{size}", size))
            finally:
                store.close()
    say("  a session in the file: " + ", ".join(f"{one['size']}: {one['stepped'] / one['raw']:.2f}" for one in found))
    return found


def _disk(store: LMDBStore, folder: Path, size: int) -> dict[str, Any]:
    count = max(1_000, min(5_000, 2**25 // size))
    empty = file_bytes(folder)
    records = [_record(size) for _ in range(count)]
    seconds = _timed(lambda one: store.create(one, _EVERYTHING), records)
    found: dict[str, Any] = {"size": size, "raw": 2 * size, "sessions": count, "create": seconds / count}
    found["created"] = (file_bytes(folder) - empty) / count
    snapshot, shuffled = secrets.token_bytes(size), random.Random(0)
    marks = {one.id: one.mark for one in records}
    for step, (name, group) in enumerate((("advance", 1), ("advance_together", GROUP), ("", GROUP))):
        shuffled.shuffle(records)
        until = time.time() + 3600.0
        moves = [Advance(one.id, marks[one.id], new_mark(), step + 1, snapshot, bytes(16), until) for one in records]
        marks = {one.id: one.next_mark for one in moves}
        groups = [moves[at : at + group] for at in range(0, count, group)]
        seconds = _timed(store.advance, groups)
        if name:
            found[name] = seconds / count
    found["read"] = _timed(lambda one: store.read(one.id), records) / count
    found["stepped"] = (file_bytes(folder) - empty) / count
    return found


def _record(size: int) -> Record:
    now = time.time()
    snapshot = secrets.token_bytes(size)
    return Record(new_id(), ANYONE, "model", 1, bytes(32), now, now + 3600.0, 3600.0, new_mark(), 0, snapshot)


def _timed(call: Callable[[Any], object], arguments: Sequence[Any]) -> float:
    """Processor seconds per call, over all arguments."""
    started = time.thread_time()
    for argument in arguments:
        call(argument)
    return time.thread_time() - started


def many(shape: Shape, count: int, rounds: int, folder: Path, logs: Path) -> dict[str, Any]:
    """Create and step many sessions in this process, then start a server with them."""
    repository, store, log = folder / "models" / shape.name, folder / "many", logs / "many.log"
    write_model(shape, repository)
    found: dict[str, Any] = {"sessions": count}
    found["start_empty"] = _start(repository, folder / "none", log)
    with pinned(cores()[0]):
        found |= asyncio.run(_fill(repository, store, shape, count))
    say(
        f"  {count:,} sessions in process: {count / found['create_seconds']:,.0f} made and "
        f"{count / found['step_seconds']:,.0f} stepped a second"
    )
    found["disk"] = file_bytes(store)
    found["start"] = [_start(repository, store, log) for _ in range(rounds)]
    bodies = with_lengths(shape, [1] * _NUM_BODIES)
    with serving(repository, store, log) as process:
        everyone = standing(process.port)
        if len(everyone) != count:
            raise RuntimeError(f"after the restart there are {len(everyone)} sessions, expected {count}")
        plan = WalkPlan(process.port, texts(bodies, "octet"), bodies.lengths, connections=AT_ONCE)
        # All of them would take long, and some are enough to tell the speed.
        drawn = random.Random(0).sample(everyone, min(count, SAMPLE + _WARMUP_SESSIONS))
        first, some = drawn[:_WARMUP_SESSIONS], drawn[_WARMUP_SESSIONS:]
        generate(replace(walk(plan, first), limit=_WARMUP_SESSIONS, seconds=LONG))
        before = anonymous_bytes(process.pids())
        plan = replace(walk(plan, some), seconds=_AGAIN_SECONDS, pids=process.pids(), core=cores()[1])
        found["steps"] = [asdict(generate(replace(plan, limit=len(some), seconds=LONG)))]
        again = replace(plan, starts=[start + 1 for start in plan.starts], order=1)
        found["steps"].append(asdict(generate(again)))
        found["memory"] = (anonymous_bytes(process.pids()) - before) / len(some)
    rates = ", ".join(f"{one['num_done'] / one['seconds']:,.0f} {one['statuses']}" for one in found["steps"])
    say(f"  with {count:,} sessions: ready in {found['start'][0]['ready']:.2f} s, steps/s {rates}")
    return found


def _start(repository: Path, store: Path, log: Path) -> dict[str, float]:
    """Seconds from the start of a server until it is ready, and from there to the first answer to a step."""
    started = time.perf_counter()
    with elman(repository, store, log) as process:
        wait_until_ready(process)
        ready = time.perf_counter() - started
        page = fetch_json(process.port, "GET", "/v1/sessions?limit=1")["sessions"]
        if not page:
            return {"ready": ready}
        size = fetch_json(process.port, "GET", f"/v1/models/{page[0]['model']}")["input"]["size"]
        asked = time.perf_counter()
        fetch_json(process.port, "POST", f"/v1/sessions/{page[0]['id']}/steps", {"sequence": [[0.5] * size]})
        return {"ready": ready, "step": time.perf_counter() - asked}


async def _fill(repository: Path, store: Path, shape: Shape, count: int) -> dict[str, float]:
    """Create sessions and step each once, without HTTP."""
    server = Server(Settings(models=repository, store_dir=store, store="lmdb", poll=0.0, hot_session_bytes=0))
    await server.start()
    try:
        served, ids = server.served(shape.name), []
        driver, stepper = Driver(server.engine, Metrics(server, Callers(()))), Stepper(server)
        rows = with_lengths(shape, [1] * _NUM_BODIES).sequences

        async def make(number: int) -> None:
            first = served.snapshots.pack(served.snapshots.first)
            making = server.sessions.create(ANYONE, shape.name, 1, served.digest, 0, first, None)
            ids.append((await driver.complete(making)).id)

        async def step(number: int) -> None:
            asked, data = StepsRequest(sequence=None, at=0), Inputs(rows[number % len(rows)])
            await driver.complete(stepper.step(ANYONE, ids[number], served, asked, data, math.inf, octets=False))

        return {
            "create_seconds": await _each(make, count),
            "step_seconds": await _each(step, count),
        }
    finally:
        await server.stop()


async def _each(do: Callable[[int], Any], count: int) -> float:
    """Call `do` for each number below `count`, several at once. Returns the seconds that took."""
    started, numbers = time.perf_counter(), iter(range(count))

    async def work() -> None:
        for each in numbers:
            await do(each)

    await asyncio.gather(*(work() for _ in range(AT_ONCE)))
    return time.perf_counter() - started


def _rate(report: dict[str, Any]) -> float:
    return float(report["num_done"] / report["seconds"])
