"""A request goes the way that docs/architecture.md draws."""

import asyncio
import re
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from uvicorn.config import Config
from uvicorn.server import ServerState

import elman
from elman.app import create_app
from elman.http.protocol import HTTPProtocol
from elman.settings import Settings
from tests.readme.blocks import DOCS

pytestmark = pytest.mark.slow

PACKAGE = str(Path(elman.__file__).parent)
PAGE = (DOCS / "architecture.md").read_text("utf-8")
DRAWN = re.findall(r"^\| \d+ \| `([\w.]+)` \|", PAGE, re.MULTILINE)
BODY = b'{"sequence": "Lindqvist"}'
HEAD = b"POST /v1/models/names-gru/predict HTTP/1.1\r\nHost: here\r\nContent-Length: %d\r\n\r\n" % len(BODY)


class Transport(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.answered = asyncio.Event()

    def write(self, data: Any) -> None:
        self.written += data
        self.answered.set()

    def is_closing(self) -> bool:
        return False


class Calls:
    """The functions of the package that are called, by any thread, each with the one that calls it."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(PACKAGE):
            caller = "" if frame.f_back is None else frame.f_back.f_code.co_qualname
            self.seen.append((frame.f_code.co_qualname, caller))


@pytest.fixture(scope="module")
def calls(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, str]]:
    """What one predict request calls, the second of its connection: the first fills caches."""
    models = tmp_path_factory.mktemp("models")
    (models / "names-gru").symlink_to(DOCS.parent / "models" / "store" / "names-gru")
    calls = Calls()
    before = threading.getprofile(), sys.getprofile()
    threading.setprofile(calls)
    try:
        asyncio.run(ask_twice(models, calls))
    finally:
        threading.setprofile(before[0])  # type: ignore[arg-type]
        sys.setprofile(before[1])
    return calls.seen


async def ask_twice(models: Path, calls: Calls) -> None:
    app = create_app(Settings(models=models, store="memory", poll=0))
    async with app.router.lifespan_context(app):
        connection, transport = HTTPProtocol(Config(app, access_log=False), ServerState(), {}), Transport()
        connection.connection_made(transport)
        sys.setprofile(calls)
        for _ in range(2):
            calls.seen.clear()
            transport.answered.clear()
            connection.data_received(HEAD + BODY)
            await asyncio.wait_for(transport.answered.wait(), 30)
        sys.setprofile(None)
        assert transport.written.count(b"HTTP/1.1 200 OK") == 2
        connection.connection_lost(None)


def test_the_way_has_at_most_eight_calls() -> None:
    assert 5 <= len(DRAWN) <= 8
    numbered = re.findall(r"->>\w+: \d+ ([\w.]+)$", PAGE, re.MULTILINE)
    assert numbered == DRAWN, "the drawing and the table tell the same calls"


def test_a_request_makes_the_calls_in_the_order_drawn(calls: list[tuple[str, str]]) -> None:
    assert [name for name, _ in calls if name in DRAWN] == DRAWN
    assert 100 < len(calls) < 200


@pytest.mark.parametrize("name", DRAWN)
def test_a_call_that_is_drawn_is_made_by_another_part(calls: list[tuple[str, str]], name: str) -> None:
    (caller,) = [caller for called, caller in calls if called == name]
    assert caller and caller.split(".")[0] != name.split(".")[0]
