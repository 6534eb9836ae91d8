"""What a server takes: memory, descriptors, threads and tasks; and how long `/livez` takes."""

import contextlib
import http.client
import multiprocessing
import os
import re
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.processes import anonymous_bytes
from benchmarks.serving import fetch

_SPAWN = multiprocessing.get_context("spawn")
_BEAT = 0.1
_KEPT = 2.0


@dataclass(frozen=True)
class Footprint:
    """Of all processes of a server together; memory in bytes, `memory` being what they have allocated."""

    memory: int
    resident: int
    descriptors: int
    threads: int


def footprint(pids: Iterable[int]) -> Footprint:
    """The processes must be there."""
    pids = list(pids)
    statuses = [Path(f"/proc/{pid}/status").read_text() for pid in pids]

    def total(name: str) -> int:
        return sum(int(re.search(rf"^{name}:\s+(\d+)", one, re.MULTILINE)[1]) for one in statuses)  # type: ignore[index]

    descriptors = sum(sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir()) for pid in pids)
    return Footprint(anonymous_bytes(pids), 1024 * total("VmRSS"), descriptors, total("Threads"))


def open_files(pids: Iterable[int]) -> Counter[str]:
    """What the descriptors of processes stand for, such as `socket`, `pipe` or a path."""
    found: Counter[str] = Counter()
    for descriptor in (one for pid in pids for one in Path(f"/proc/{pid}/fd").iterdir()):
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            found[re.sub(r":\[\d+\]$", "", os.readlink(descriptor))] += 1
    return found


GAUGES = ("elman_pending_sequences", "elman_active_requests", "elman_streams", "elman_sessions", "elman_tasks")
"""What a server that nobody visits must have as few of as before."""


def gauges(port: int) -> dict[str, float]:
    text = fetch(port, "GET", "/metrics")[2].decode()
    return {name: float(re.search(rf"^{name} (\S+)$", text, re.MULTILINE)[1]) for name in GAUGES}  # type: ignore[index]


@contextlib.contextmanager
def health(port: int) -> Iterator[dict[str, Any]]:
    """Ask for `/livez` ten times a second, from a process of its own. The figures are there at the end."""
    found: dict[str, Any] = {}
    ours, theirs = _SPAWN.Pipe()
    process = _SPAWN.Process(target=_watch, args=(port, theirs), daemon=True)
    process.start()
    theirs.close()
    ours.recv()  # it is connected
    try:
        yield found
    finally:
        ours.send(None)
        seconds, num_lost, num_bad = ours.recv()
        process.join()
        p50, p99, longest = (float(np.quantile(seconds, share)) if seconds else None for share in (0.5, 0.99, 1))
        found |= {"asked": len(seconds), "lost": num_lost, "bad": num_bad, "p50": p50, "p99": p99, "longest": longest}


def _watch(port: int, told: Any) -> None:
    """Ask until told to end, and send back the seconds of all answers, and how many were lost or not 200."""
    seconds: list[float] = []
    num_lost = num_bad = 0
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.connect()
    told.send(None)
    answered = time.perf_counter()
    while not told.poll(_BEAT):
        started = time.perf_counter()
        if started - answered > _KEPT:  # this process stood still, and the server may be about to close the connection
            connection.close()
        try:
            connection.request("GET", "/livez")
            response = connection.getresponse()
            response.read()
        except (OSError, http.client.HTTPException):
            num_lost += 1
            connection.close()
            continue
        num_bad += response.status != 200
        answered = time.perf_counter()
        seconds.append(answered - started)
    told.send((seconds, num_lost, num_bad))
