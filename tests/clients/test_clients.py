"""Clients of other projects, unmodified, against a running server; and the page that shows them.

They live in an environment of their own, which `make test-clients` makes. The scripts in `scripts/` run there under
pytest: they import nothing of the project, and read the addresses of the server from ELMAN_URL and ELMAN_GRPC.
"""

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.readme.blocks import CLIENTS, Block, read_blocks
from tests.running import ROOT, RunningServer, running_server

pytestmark = pytest.mark.clients

BIN = ROOT / ".clients" / "bin"
SCRIPTS = sorted((Path(__file__).parent / "scripts").glob("*.py"))


@pytest.fixture(scope="module")
def serving(small_store: Path) -> Iterator[RunningServer]:
    with running_server(small_store, "--grpc-port", "0", store="memory") as one:
        yield one


def run(command: list[str], server: RunningServer, folder: Path) -> None:
    """Run a command with the environment's programs first. Fails with what it printed."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PYTEST", "ELMAN_"))}
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    addresses = {"ELMAN_URL": server.url, "ELMAN_GRPC": f"127.0.0.1:{server.grpc_port}"}
    environment = {**clean, **addresses, "PATH": path}
    ran = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, f"{command[-1]} ended with {ran.returncode}:\n{ran.stdout[-6000:]}{ran.stderr[-3000:]}"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_client_gets_right_answers_by_every_call(serving: RunningServer, script: Path, tmp_path: Path) -> None:
    options = ["-q", "--noconftest", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), "-c", os.devnull]
    run([str(BIN / "python"), "-m", "pytest", *options, str(script)], serving, tmp_path)


@pytest.mark.parametrize("block", read_blocks(CLIENTS), ids=lambda block: f"line-{block.line}")
def test_the_examples_of_the_page_run_as_they_stand(serving: RunningServer, block: Block, tmp_path: Path) -> None:
    script = tmp_path / f"example-{block.line}"
    ports = {"8000": serving.port, "8001": serving.grpc_port}
    script.write_text(
        re.sub(r"localhost:(800[01])\b", lambda found: f"localhost:{ports[found[1]]}", block.text), "utf-8"
    )
    command = ["python"] if block.language == "python" else ["bash", "-euo", "pipefail"]
    run([*command, str(script)], serving, tmp_path)
