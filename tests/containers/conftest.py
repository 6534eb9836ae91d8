"""The image and the containers that run it, where a Docker engine runs."""

import contextlib
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import httpx
import pytest

from benchmarks.processes import free_port
from tests.installing import made_once
from tests.readme.blocks import DOCS, read_blocks
from tests.running import ROOT

BUILD_TIMEOUT = 1500.0
START_TIMEOUT = 180.0


def shell(*command: str, timeout: float = 180.0, variables: Mapping[str, str] = MappingProxyType({})) -> str:
    """What a command prints; it must succeed."""
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **variables}, capture_output=True, text=True, timeout=timeout, check=False
    )
    assert done.returncode == 0, f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
    return done.stdout.strip()


@dataclass(frozen=True)
class Container:
    """A running container, and a client for the port that it publishes."""

    name: str
    client: httpx.Client

    def inspect(self, template: str) -> str:
        return shell("docker", "inspect", "--format", template, self.name)

    def run(self, *command: str) -> str:
        """What a command prints that is run inside."""
        return shell("docker", "exec", self.name, *command)

    def wait_until_healthy(self) -> None:
        until = time.monotonic() + START_TIMEOUT
        while self.inspect("{{.State.Health.Status}}") != "healthy":
            assert time.monotonic() < until, shell("docker", "logs", self.name)
            time.sleep(0.5)

    def stop(self) -> tuple[int, float]:
        """The exit code after SIGTERM, and the seconds that it took."""
        with subprocess.Popen(["docker", "wait", self.name], stdout=subprocess.PIPE, text=True) as waiting:
            time.sleep(0.5)
            began = time.monotonic()
            shell("docker", "stop", "--time", "30", self.name)
            took = time.monotonic() - began
            return int(waiting.communicate(timeout=30)[0]), took


@pytest.fixture(scope="session")
def docker() -> None:
    """Skip where no Docker engine runs."""
    if shutil.which("docker") is None:
        pytest.skip("docker is not installed")
    found = subprocess.run(["docker", "info"], capture_output=True, text=True, timeout=30, check=False)
    if found.returncode:
        pytest.skip("no Docker engine runs here")


@pytest.fixture(scope="session")
def image(docker: None, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The image, built as `make image` builds it, which also writes what is in it: once for all processes of a run."""
    made_once(tmp_path_factory, "image", lambda folder: print(shell("make", "image", timeout=BUILD_TIMEOUT)))
    return "elman"


@pytest.fixture(scope="session")
def container(image: str) -> Iterator[Container]:
    """The container that the commands in docs/operating.md start; only its name and port are changed."""
    (block,) = [one for one in read_blocks(DOCS / "operating.md") if one.needs_docker]
    name, port = f"elman-{os.getpid()}", free_port()
    text = block.text.replace("--name elman", f"--name {name}").replace("127.0.0.1:8000:", f"127.0.0.1:{port}:")
    text = text.replace("elman-state", f"{name}-state")
    assert name in text and re.search(rf":{port}:8000", text)
    with _removed(name), httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
        shell("bash", "-euo", "pipefail", "-c", text, timeout=BUILD_TIMEOUT)
        started = Container(name, client)
        started.wait_until_healthy()
        yield started


@pytest.fixture
def composed(image: str) -> Iterator[Container]:
    """The container of docker-compose.yml."""
    port = free_port()
    command = [*compose_command(), "--project-name", f"elman{os.getpid()}"]
    variables = {"ELMAN_PUBLISH": f"127.0.0.1:{port}"}
    try:
        shell(*command, "up", "--detach", "--no-build", timeout=300, variables=variables)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            started = Container(shell(*command, "ps", "--quiet", "elman", variables=variables), client)
            started.wait_until_healthy()
            yield started
    finally:
        shell(*command, "down", "--volumes", timeout=120, variables=variables)


def compose_command() -> list[str]:
    """The command of Compose. Skips where there is none."""
    if not subprocess.run(["docker", "compose", "version"], capture_output=True, timeout=60, check=False).returncode:
        return ["docker", "compose"]
    if shutil.which("docker-compose") is None:
        pytest.skip("neither docker compose nor docker-compose is installed")
    return ["docker-compose"]


@contextlib.contextmanager
def _removed(name: str) -> Iterator[None]:
    try:
        yield
    finally:
        subprocess.run(["docker", "rm", "--force", name], capture_output=True, timeout=120, check=False)
        volume = ["docker", "volume", "rm", "--force", f"{name}-state"]
        subprocess.run(volume, capture_output=True, timeout=120, check=False)
