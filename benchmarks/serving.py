"""Runs Elman with given settings on one core, and sends it single requests beside the load."""

import contextlib
import http.client
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.environments import ROOT
from benchmarks.processes import Process, StartFailure, cores, free_port

_START_TIMEOUT = 90.0
_LOOK_AGAIN = 0.005


def elman(repository: Path, folder: Path, log: Path, **settings: object) -> Process:
    """A server of a repository, not started yet. Its store, if any, is in `folder`."""
    port = free_port()
    command = [sys.executable, "-m", "elman", "serve", str(repository), "--port", str(port)]
    ours = {"store_dir": folder, "models": repository, "poll": 0, **settings}
    environment = {f"ELMAN_{name.upper()}": str(value) for name, value in ours.items()}
    log.parent.mkdir(parents=True, exist_ok=True)
    command += ["--log-level", "warning"]
    return Process(command, port, cores()[0], log, {**environment, "PYTHONPATH": f"{ROOT / 'service'}:{ROOT}"})


@contextlib.contextmanager
def serving(repository: Path, folder: Path, log: Path, **settings: object) -> Iterator[Process]:
    """The same server, started and ready. Raises StartFailure."""
    with elman(repository, folder, log, **settings) as process:
        wait_until_ready(process)
        yield process


def wait_until_ready(process: Process, timeout: float = _START_TIMEOUT) -> float:
    """Wait for `/readyz`. Returns the seconds waited. Raises StartFailure."""
    started = time.perf_counter()
    while time.perf_counter() < started + timeout:
        with contextlib.suppress(OSError, http.client.HTTPException):
            if fetch(process.port, "GET", "/readyz")[0] == 200:
                return time.perf_counter() - started
        time.sleep(_LOOK_AGAIN)
    raise StartFailure(f"Elman does not become ready: {process.last_words()}")


def fetch(
    port: int, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
) -> tuple[int, dict[str, str], bytes]:
    """Send one request. Returns (status, headers, body), with header names in lower case."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    try:
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        return response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()
    finally:
        connection.close()


def fetch_json(port: int, method: str, path: str, body: Any = None) -> Any:
    """The decoded answer. Raises RuntimeError if it is an error."""
    content = None if body is None else json.dumps(body).encode()
    status, _, answer = fetch(port, method, path, content, {"Content-Type": "application/json"})
    if status >= 300:
        raise RuntimeError(f"{method} {path} is answered with {status}: {answer[:300]!r}")
    return json.loads(answer)
