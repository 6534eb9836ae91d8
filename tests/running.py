"""A real server in a process of its own."""

import contextlib
import os
import re
import signal
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
from prometheus_client.parser import text_string_to_metric_families

ROOT = Path(__file__).parent.parent
# The package lies in service; the recipes of the shipped models, in the root.
PYTHONPATH = f"{ROOT / 'service'}:{ROOT}"
STORE = ROOT / "models" / "store"
# What is slow to make and the same each time: exports of torch, wheels from a package index, proofs of models.
CACHE = Path(os.environ.get("ELMAN_TEST_CACHE", ROOT / ".cache"))
# What one server proved of a model holds for the next, as long as neither the model nor the code changes.
LOADS = CACHE / "loads"

_START_TIMEOUT = 180.0
_STOP_TIMEOUT = 60.0


@dataclass
class RunningServer:
    """A server that answers at `url`, and a client for it."""

    process: subprocess.Popen[bytes]
    url: str
    client: httpx.Client
    log: Path

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])

    @property
    def grpc_port(self) -> int:
        """The port of gRPC, of a server with `--grpc-port`."""
        found = re.search(r"gRPC running on .*?, port (\d+)", self.log.read_text())
        assert found is not None, self.log.read_text()
        return int(found[1])

    def terminate(self, timeout: float = _STOP_TIMEOUT) -> int:
        """Send SIGTERM, wait and return the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout)

    def memory(self, kind: str = "VmRSS") -> int:
        """Bytes of memory of the process now, or the most that it had with `VmHWM`."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return 1024 * int(re.search(rf"^{kind}:\s+(\d+) kB$", status, re.MULTILINE)[1])  # type: ignore[index]

    def predict(self, model: str, **body: object) -> httpx.Response:
        return self.client.post(f"/v1/models/{model}/predict", json=body)

    def stats(self) -> dict[tuple[str, tuple[str, ...]], float]:
        """The metrics by sample name and label values."""
        return parsed(self.client.get("/metrics").text)

    def errors(self) -> dict[str, float]:
        """How many errors were answered, by code."""
        return {labels[0]: value for (name, labels), value in self.stats().items() if name == "elman_errors_total"}

    def wait_for(self, name: str, value: float, *labels: str, timeout: float = 60.0) -> None:
        """Wait until a metric has a value. Raises KeyError where there is no such metric."""
        until = time.monotonic() + timeout
        while self.stats()[name, labels] != value:
            assert time.monotonic() < until, f"{name} did not become {value}"
            time.sleep(0.02)

    def wait_until_taken(self, number: int, timeout: float = 60.0) -> None:
        """Wait until so many requests to predict or infer, each of one sequence, are under way or answered.

        On a busy machine the first may be answered before the last is sent.
        """
        until = time.monotonic() + timeout
        while True:
            answered, stats = 0.0, self.stats()
            for (name, labels), value in stats.items():
                if name == "elman_requests_total" and labels[-1].endswith(("/predict", "Infer")):
                    answered += value
            if stats["elman_pending_sequences", ()] + answered >= number:
                return
            assert time.monotonic() < until, f"{number} requests were not taken"
            time.sleep(0.02)


def num_connections(port: int) -> int:
    """Connections that a server on this machine holds, as the kernel lists them."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    listening, time_wait = "0A", "06"
    return sum(int(row[1].split(":")[1], 16) == port and row[3] not in (listening, time_wait) for row in rows)


def parsed(metrics: str) -> dict[tuple[str, tuple[str, ...]], float]:
    """Samples by name and label values, of the text of `/metrics`."""
    families = text_string_to_metric_families(metrics)
    return {
        (sample.name, tuple(sample.labels.values())): sample.value for family in families for sample in family.samples
    }


def environment(**settings: object) -> dict[str, str]:
    """The environment for a command of the server: nothing of ours but `settings`, as ELMAN_..."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("ELMAN_")}
    ours = {f"ELMAN_{name.upper()}": str(value) for name, value in settings.items()}
    # However many cores the container has that runs the tests.
    ours = {"ELMAN_WORKERS": "1", **ours}
    return {**inherited, **ours, "PYTHONPATH": PYTHONPATH, "PYTHONUNBUFFERED": "1"}


@contextlib.contextmanager
def running_server(
    models: Path = STORE, *flags: str, any_exit: bool = False, tls: ssl.SSLContext | None = None, **settings: object
) -> Iterator[RunningServer]:
    """Serve `models` on a free port, and see to it that SIGTERM ends the process with 0, unless `any_exit` will do.

    `tls` is what clients of a server need that has a certificate. What is proved of a model is kept for the next server
    in `LOADS`; a server with a store of its own keeps it there.
    """
    if not {"store_dir", "load_cache_dir"} & settings.keys():
        settings["load_cache_dir"] = LOADS
    command = [*DIES_WITH_PARENT, sys.executable, "-m", "elman", "serve", str(models), "--port", "0", *flags]
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        with log.open("wb") as stream:
            process = subprocess.Popen(
                command,
                stdout=stream,
                stderr=stream,
                stdin=subprocess.DEVNULL,
                env=environment(**settings),
                cwd=folder,
            )
        try:
            url = _wait_for_url(process, log)
            with httpx.Client(base_url=url, timeout=300.0, verify=tls or True) as client:
                _wait_until_ready(process, client, log)
                yield RunningServer(process, url, client, log)
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            code = process.wait(_STOP_TIMEOUT)
            assert any_exit or code == 0, f"the server ended with {code}:\n{log.read_text()[-3000:]}"
        finally:
            if process.poll() is None:
                process.kill()
                process.wait(_STOP_TIMEOUT)


# Where the tests themselves are killed, no fixture stops the server: let the kernel do it. The new process asks for it.
# A function that is called between fork and exec would need a fork, in which the threads of gRPC, if this process has
# any, meet files that are closed already, and abort.
_SET_PARENT_DEATH_SIGNAL = 1
_ASK_AND_EXEC = f"""
import ctypes, os, sys
ctypes.CDLL(None).prctl({_SET_PARENT_DEATH_SIGNAL}, {int(signal.SIGKILL)})
os.execv(sys.argv[1], sys.argv[1:])
"""
DIES_WITH_PARENT = [sys.executable, "-I", "-S", "-c", _ASK_AND_EXEC] if sys.platform == "linux" else []


def _wait_for_url(process: subprocess.Popen[bytes], log: Path) -> str:
    until = time.monotonic() + _START_TIMEOUT
    while time.monotonic() < until:
        found = re.search(r"running on (https?://[\d.]+:\d+)", log.read_text())
        if found:
            return found.group(1)
        assert process.poll() is None, f"the server did not start:\n{log.read_text()[-3000:]}"
        time.sleep(0.05)
    raise AssertionError(f"the server did not start in time:\n{log.read_text()[-3000:]}")


def _wait_until_ready(process: subprocess.Popen[bytes], client: httpx.Client, log: Path) -> None:
    until = time.monotonic() + _START_TIMEOUT
    while not _is_ready(client):
        assert process.poll() is None, f"the server did not start:\n{log.read_text()[-3000:]}"
        assert time.monotonic() < until, "the server did not become ready"
        time.sleep(0.05)


def _is_ready(client: httpx.Client) -> bool:
    try:
        return client.get("/readyz").status_code == 200
    except httpx.ConnectError:  # several workers: the address is known before any of them listens
        return False
