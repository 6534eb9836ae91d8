"""The processes of a contender: starting them on one core, finding all of them, and measuring time and memory."""

import contextlib
import os
import random
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

_MARK = "BENCHMARK_PROCESS"
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_START_TIMEOUT = 90.0
_STOP_TIMEOUT = 15.0


class StartFailure(Exception):
    """A contender did not start."""


def cores() -> tuple[int, int]:
    """(core of the servers, core of the load generator): the first two cores that this process may use."""
    allowed = sorted(os.sched_getaffinity(0))
    return allowed[0], allowed[1 % len(allowed)]


def free_port() -> int:
    """A port that nobody listens on, and that the system gives to no outgoing connection before a server takes it."""
    while True:
        port = random.SystemRandom().randrange(10_000, 32_000)
        with contextlib.suppress(OSError), socket.socket() as one:
            one.bind(("127.0.0.1", port))
            return port


def cpu_seconds(pids: Iterable[int]) -> float:
    """Processor time of processes, with all threads and the children that they have waited for."""
    total = 0
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        except (OSError, IndexError):
            continue
        total += sum(map(int, fields[11:15]))
    return total / _TICKS


def resident_bytes(pids: Iterable[int]) -> int:
    """Memory of processes. Shared pages count in proportion (PSS)."""
    return sum(_share(pid) for pid in pids)


def _share(pid: int) -> int:
    found = _in_rollup(pid, "Pss:")
    if found:
        return found
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE
    except OSError:
        return 0


def _in_rollup(pid: int, name: str) -> int:
    """A line of /proc/PID/smaps_rollup; 0 if it is missing."""
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def anonymous_bytes(pids: Iterable[int]) -> int:
    """Anonymous memory of processes: what they have allocated."""
    return sum(_in_rollup(pid, "Anonymous:") for pid in pids)


@contextlib.contextmanager
def _on(core: int | None) -> Iterator[None]:
    """Keep this thread, and the processes that it starts, on a core; None for where it runs now."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, before if core is None else {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@dataclass
class Process:
    """A server and all processes that it started. They are found by a mark in their environment.

    `core` is where they run; None for anywhere.
    """

    command: list[str]
    port: int
    core: int | None
    log: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)
    _root: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Process":
        with self.log.open("wb") as stream, _on(self.core):
            self._root = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                env={**os.environ, **self.environment, _MARK: self.mark},
                start_new_session=True,
            )
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """The process that was started, while it runs or after."""
        assert self._root is not None, "it was started"
        return self._root.pid

    def pids(self) -> list[int]:
        mark = f"{_MARK}={self.mark}".encode()
        return [int(folder.name) for folder in Path("/proc").glob("[0-9]*") if mark in _environment(folder)]

    def pause(self) -> None:
        """Stop (SIGSTOP) while another contender is measured."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """Kill all of them at once (SIGKILL)."""
        self._signal(signal.SIGKILL)

    def wait_until_ready(self) -> None:
        """Wait for the port. Raises StartFailure."""
        until = time.monotonic() + _START_TIMEOUT
        while time.monotonic() < until:
            assert self._root is not None
            if self._root.poll() is not None:
                raise StartFailure(f"it ended with {self._root.returncode}: {self.last_words()}")
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                time.sleep(0.05)
        raise StartFailure(f"it did not open its port: {self.last_words()}")

    def last_words(self) -> str:
        return self.log.read_text(errors="replace")[-1500:].strip()

    def stop(self) -> None:
        if self._root is None:
            return
        self.resume()
        self._root.send_signal(signal.SIGTERM)
        try:
            self._root.wait(_STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            pass
        until = time.monotonic() + _STOP_TIMEOUT
        while self.pids() and time.monotonic() < until:
            self._signal(signal.SIGKILL)
            time.sleep(0.01)  # a killed process takes a moment to end
        self._root.wait()

    def _signal(self, number: signal.Signals) -> None:
        for pid in self.pids():
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                pass


def _environment(folder: Path) -> bytes:
    try:
        return (folder / "environ").read_bytes()
    except OSError:
        return b""
