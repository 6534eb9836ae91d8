"""Every example of README.md and docs/ runs as it stands, and gives the answer that stands under it.

The server behind them is started by the README's own `make serve`. Only ports are changed, so that nothing else on this
machine is in the way. The command `elman` is on the path, as in an environment that was activated.
"""

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from benchmarks.processes import free_port
from tests.readme.blocks import CLIENTS, DOCS, FRAMEWORKS, PAGES, README, ROOT, Block, read_blocks
from tests.readme.forks import Forks, running_forks
from tests.readme.tables import with_tables
from tests.running import LOADS, STORE

SERVE = "make serve\n"
# What starts the server, or a container, is run by a fixture, or by tests/containers.
EXAMPLES = [
    (page, block)
    for page in PAGES
    for block in read_blocks(page)
    if not block.needs_docker and page not in (*FRAMEWORKS, CLIENTS) and not (page == README and block.text == SERVE)
]
CLOSE = 0.1
"""How near the numbers of a page must be: they are rounded, and a model trained again moves a little."""
MEGABYTE = 1e6
PATH = f"{ROOT / '.venv' / 'bin'}{os.pathsep}{os.environ['PATH']}"


def clean_environment(**variables: str) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("ELMAN_", "MAKE", "MFLAGS"))}
    return clean | variables


def start(command: list[str], folder: Path, output: Path, **variables: str) -> subprocess.Popen[bytes]:
    """A command in a process group of its own, so that what it leaves running can be ended with it."""
    with output.open("wb") as stream:
        return subprocess.Popen(
            command,
            cwd=folder,
            env=clean_environment(**variables),
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
    """The port of the server that the README's first block starts."""
    assert read_blocks(README)[0].text == SERVE
    port, folder = free_port(), tmp_path_factory.mktemp("readme")
    log = folder / "log"
    # Sessions that a server left in the clone before are none of this one's.
    variables = {"PORT": str(port), "ELMAN_STORE_DIR": str(folder / "store"), "ELMAN_LOAD_CACHE_DIR": str(LOADS)}
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
def folders(tmp_path_factory: pytest.TempPathFactory, page_server: int) -> dict[Path, Path]:
    """For each page, a folder that looks like the clone, so that what the examples write stays out of it."""
    made = {page: tmp_path_factory.mktemp(page.stem) for page in PAGES}
    for folder in made.values():
        for path in ROOT.iterdir():
            if path.name not in (".git", "my-models"):
                (folder / path.name).symlink_to(path)
    return made


@pytest.fixture(scope="module")
def forks() -> Iterator[Forks]:
    """Runs the examples in Python."""
    with running_forks(clean_environment(PATH=PATH)) as one:
        yield one


@pytest.mark.slow
@pytest.mark.parametrize(("page", "block"), EXAMPLES, ids=lambda one: one.stem if isinstance(one, Path) else one.line)
def test_the_example_runs_as_it_stands(
    page: Path, block: Block, page_server: int, folders: dict[Path, Path], forks: Forks
) -> None:
    ports, folder = {"8000": str(page_server), "8001": str(free_port())}, folders[page]
    text = re.sub(r"(localhost:|--port )(800[01])\b", lambda found: found[1] + ports[found[2]], block.text)
    script = folder / f"example-{block.line}"
    script.write_text(text, "utf-8")
    output = folder / f"output-{block.line}"
    if block.language == "python":
        code = forks.run(script, output)
    else:
        process = start(["bash", "-euo", "pipefail", str(script)], folder, output, PATH=PATH)
        try:
            code = process.wait(120)
        finally:
            end(process)
    assert code == 0, f"{page.name}:{block.line} ended with {code}:\n{output.read_text()}"
    if block.answer is not None:
        assert_shown(json.loads(block.answer), json.loads(output.read_text()))


@pytest.mark.slow
def test_the_memory_told_is_that_of_the_server(page_server: int) -> None:
    told = re.search(r"\| resident memory of the process \| (\d+) MB \|", (DOCS / "operating.md").read_text("utf-8"))
    assert told is not None
    metrics = httpx.get(f"http://127.0.0.1:{page_server}/metrics").text
    seen = re.search(r"^process_resident_memory_bytes (\S+)$", metrics, re.MULTILINE)
    assert seen is not None
    # Examples may have run before: it has grown by what they asked for.
    assert float(seen[1]) / MEGABYTE == pytest.approx(float(told[1]), rel=0.3)


def test_the_number_of_models_told_is_that_of_the_store() -> None:
    number = sum(path.is_dir() for path in STORE.iterdir())
    told = {
        (page.name, int(n))
        for page in PAGES
        for n in re.findall(r"\b(\d+)(?: shipped)? models\b", page.read_text("utf-8"))
    }
    assert {name for name, _ in told} >= {"README.md", "operating.md"}
    assert told == {(name, number) for name, _ in told}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_tables_say_what_the_code_and_the_results_say(page: Path) -> None:
    text = page.read_text("utf-8")
    assert text == with_tables(text), "run: .venv/bin/python tests/readme/tables.py"


def test_each_table_is_on_a_page() -> None:
    marks = [mark for page in PAGES for mark in re.findall(r"<!-- (\w+): written by", page.read_text("utf-8"))]
    assert sorted(marks) == ["errors", "figures", "settings"]


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md", ROOT / "SECURITY.md"], ids=lambda page: page.stem)
def test_what_a_page_links_to_is_there(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)", page.read_text("utf-8")):
        name, _, anchor = target.partition("#")
        linked = page.parent / name if name else page
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), target


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as code hosts make them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_page_is_linked_from_the_readme() -> None:
    text = README.read_text("utf-8")
    assert [page.name for page in PAGES if page != README and f"](docs/{page.name})" not in text] == []


def test_the_readme_is_short() -> None:
    assert len(README.read_text("utf-8").splitlines()) <= 150


def test_the_picture_is_small() -> None:
    picture = DOCS / "pictures" / "page.png"
    assert picture.read_bytes().startswith(b"\x89PNG") and picture.stat().st_size < 200 * 1024


def assert_shown(shown: Any, real: Any, place: str = "") -> None:
    """A page's answer is the real one, numbers nearly; the string "..." stands for anything."""
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
