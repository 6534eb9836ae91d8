"""Every example of README.md runs as it stands, and gives the answer that stands under it.

The server behind them is started by the page's own `make serve`. Only ports are changed, so that nothing else on this
machine is in the way.
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.readme.blocks import README, Block, read_blocks
from tests.readme.tables import with_tables

ROOT = README.parent
BLOCKS = read_blocks()
EXAMPLES = [one for one in BLOCKS[1:] if not one.needs_docker]  # the others are run by tests/containers
SERVE = "make serve\n"
CLOSE = 0.1
"""How near the numbers of the page must be: they are rounded, and a model trained again moves a little."""


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def start(command: list[str], folder: Path, output: Path, **variables: str) -> subprocess.Popen[bytes]:
    """A command in a process group of its own, so that what it leaves running can be ended with it."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("ELMAN_", "MAKE", "MFLAGS"))}
    with output.open("wb") as stream:
        return subprocess.Popen(
            command,
            cwd=folder,
            env=clean | variables,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def end(process: subprocess.Popen[bytes], number: signal.Signals = signal.SIGKILL) -> None:
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        pass
    process.wait(40)


@pytest.fixture(scope="module")
def page_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of the server that the page's first block starts."""
    assert BLOCKS[0].text == SERVE
    port, folder = free_port(), tmp_path_factory.mktemp("readme")
    log = folder / "log"
    # Sessions that a server left in the clone before are none of this one's.
    variables = {"PORT": str(port), "ELMAN_STORE_DIR": str(folder / "store")}
    process = start(["bash", "-euo", "pipefail", "-c", SERVE], ROOT, log, **variables)
    try:
        until = time.monotonic() + 300
        while not _ready(port):
            assert process.poll() is None and time.monotonic() < until, log.read_text()
            time.sleep(0.1)
        yield port
    finally:
        end(process, signal.SIGTERM)


def _ready(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/readyz").status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, page_server: int) -> Path:
    """A folder that looks like the clone, so that what the examples write stays out of it."""
    made = tmp_path_factory.mktemp("clone")
    for path in ROOT.iterdir():
        if path.name not in (".git", "my-models"):
            (made / path.name).symlink_to(path)
    return made


@pytest.mark.slow
@pytest.mark.parametrize(
    "block", [one for one in BLOCKS[1:] if not one.needs_docker], ids=lambda one: f"line{one.line}"
)
def test_the_example_runs_as_it_stands(block: Block, page_server: int, folder: Path) -> None:
    ports = {"8000": str(page_server), "8001": str(free_port())}
    text = re.sub(r"(localhost:|--port )(800[01])\b", lambda found: found[1] + ports[found[2]], block.text)
    script = folder / f"example-{block.line}"
    script.write_text(text, "utf-8")
    command = ["bash", "-euo", "pipefail"] if block.language == "bash" else [sys.executable]
    output = folder / f"output-{block.line}"
    process = start([*command, str(script)], folder, output)
    try:
        code = process.wait(120)
    finally:
        end(process)
    assert code == 0, f"{README.name}:{block.line} ended with {code}:\n{output.read_text()}"
    if block.answer is not None:
        assert_shown(json.loads(block.answer), json.loads(output.read_text()))


def test_the_tables_say_what_the_code_says() -> None:
    text = README.read_text("utf-8")
    assert text == with_tables(text), "run: .venv/bin/python tests/readme/tables.py"


def test_every_file_that_the_page_links_to_is_there() -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)", README.read_text("utf-8")):
        assert (ROOT / target).exists(), target


def assert_shown(shown: Any, real: Any, place: str = "") -> None:
    """The page's answer is the real one, numbers nearly; the string "..." stands for anything."""
    if shown in ("...", ["..."]):
        return
    assert isinstance(real, type(shown)) or isinstance(shown, int | float), place
    if isinstance(shown, dict):
        assert list(shown) == list(real), place
        for name, value in shown.items():
            assert_shown(value, real[name], f"{place}.{name}")
    elif isinstance(shown, list):
        assert len(shown) == len(real), place
        for i, value in enumerate(shown):
            assert_shown(value, real[i], f"{place}[{i}]")
    elif isinstance(shown, float):
        assert real == pytest.approx(shown, abs=CLOSE), place
    else:
        assert real == shown, place
