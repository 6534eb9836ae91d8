"""Elman's promises under any load: no blocking, linear cost, nothing lost, one decoded output for `final`."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.contenders import ELMAN
from benchmarks.environments import BENCH
from benchmarks.load import Plan, request
from benchmarks.measure import Settings, generate, raise_file_limit, running, say, start_generator
from benchmarks.models import SHAPES, WORDS, write_model
from benchmarks.processes import Process, cores, resident_bytes
from benchmarks.workload import CONTENT_TYPES, draw, with_lengths

_OCTET = CONTENT_TYPES["octet"]
_LONG = 10_000
_FLOOD = 10_000
_SMALL_QUEUE = 1_000
# Steps asked for in all at each length, of no fewer requests than connections and as many more.
_STEPS = 40_000
_CONNECTIONS = 4
_WORDS_LENGTH = 100


def keep_promises(settings: Settings, logs: Path) -> dict[str, Any]:
    """Measure each promise on a separate server."""
    found: dict[str, Any] = {"blocking": {}, "length": {}}
    for name in settings.models:
        with _elman(name, logs) as process:
            found["blocking"][name] = _blocking(process, name, settings)
            found["length"][name] = _length(process, name)
        say(f"  {name}: ten-step p99 {_milliseconds(found['blocking'][name])}")
    found["flood"] = _flood(settings.models[0], logs)
    found["words"] = _words(settings, logs)
    return found


def _elman(name: str, logs: Path) -> Any:
    shape = SHAPES[name]
    model = write_model(shape, BENCH / "models" / name)
    return running(ELMAN, shape, model, {}, cores()[0], logs)


def _plan(process: Process, name: str, lengths: list[int], **fields: Any) -> Plan:
    """A plan with binary bodies, so that the engine is measured and not the decoding of long JSON."""
    workload = with_lengths(SHAPES[name], lengths)
    requests = ELMAN.requests(workload, "octet")
    return Plan(process.port, requests, lengths, pids=process.pids(), core=cores()[1], **fields)


def _blocking(process: Process, name: str, settings: Settings) -> dict[str, Any]:
    """Latencies of ten-step requests, alone and beside four clients with long sequences."""
    seconds = 2 * settings.seconds
    short = _plan(process, name, [10] * 32, connections=1, seconds=seconds)
    long = _plan(process, name, [_LONG] * 4, connections=4, seconds=seconds + 2.5)
    rounds = []
    for _ in range(settings.rounds):
        alone = generate(short)
        with start_generator(long):
            beside = generate(replace(short, warmup=1.0))
        rounds.append({"alone": {"p50": alone.p50, "p99": alone.p99}, "beside": {"p50": beside.p50, "p99": beside.p99}})
    return {"rounds": rounds}


def _length(process: Process, name: str) -> list[dict[str, Any]]:
    """Useful steps per second and memory, for longer and longer sequences."""
    found = []
    for length in (10, 100, 1_000, _LONG):
        limit = max(2 * _CONNECTIONS, _STEPS // length)
        report = generate(_plan(process, name, [length] * 8, connections=_CONNECTIONS, limit=limit, seconds=60.0))
        found.append(
            {
                "length": length,
                "steps_per_second": report.num_steps / report.seconds,
                "memory": resident_bytes(process.pids()),
            }
        )
    return found


def _flood(name: str, logs: Path) -> list[dict[str, Any]]:
    """Ten thousand requests at once, with the default queue and with a short one."""
    count = min(_FLOOD, raise_file_limit() - 100)
    workload = draw(SHAPES[name], "lognormal", 400)
    shape, found = SHAPES[name], []
    model = write_model(shape, BENCH / "models" / name)
    for queue in (None, _SMALL_QUEUE):
        process = ELMAN.process(shape, model, cores()[0], {}, logs)
        if queue is not None:
            process.environment = {**process.environment, "ELMAN_MAX_QUEUE": str(queue)}
        with process:
            process.wait_until_ready()
            plan = Plan(
                process.port,
                ELMAN.requests(workload, "octet"),
                workload.lengths,
                connections=count,
                limit=count,
                seconds=60.0,
                core=cores()[1],
            )
            report = generate(plan)
        found.append(
            {
                "queue": queue,
                "requests": count,
                "statuses": report.statuses,
                "lost": report.num_lost,
                "seconds": report.seconds,
            }
        )
        say(f"  {count} at once: {report.statuses}, {report.num_lost} lost, {report.seconds:.1f} s")
    return found


def _words(settings: Settings, logs: Path) -> dict[str, Any]:
    """Processor time of requests for `final` and for `steps`, with ten thousand scores per output."""
    model = write_model(WORDS, BENCH / "models" / WORDS.name)
    rng = np.random.default_rng(0)
    bodies = [rng.integers(0, WORDS.vocabulary, _WORDS_LENGTH).astype("<i4").tobytes() for _ in range(32)]
    found: dict[str, Any] = {"length": _WORDS_LENGTH, "vocabulary": WORDS.vocabulary}
    process = ELMAN.process(WORDS, model, cores()[0], {}, logs)
    with process:
        process.wait_until_ready()
        for returns in ("final", "steps"):
            path = f"/v1/models/{WORDS.name}/predict?decode=false&return={returns}"
            requests = [request(path, body, _OCTET, _OCTET) for body in bodies]
            plan = Plan(process.port, requests, [_WORDS_LENGTH] * len(bodies), connections=4)
            plan = replace(plan, seconds=settings.seconds, pids=process.pids(), core=cores()[1])
            report = generate(plan)
            found[returns] = {"cpu": report.server_cpu / max(report.num_done, 1), "statuses": report.statuses}
    costs = [f"{returns} {1e3 * found[returns]['cpu']:.2f} ms" for returns in ("final", "steps")]
    say(f"  {WORDS.vocabulary} words, {_WORDS_LENGTH} steps: " + ", ".join(costs))
    return found


def _milliseconds(blocking: dict[str, Any]) -> str:
    pairs = [(1e3 * one["alone"]["p99"], 1e3 * one["beside"]["p99"]) for one in blocking["rounds"]]
    return ", ".join(f"{alone:.2f} ms alone, {beside:.2f} beside" for alone, beside in pairs)
