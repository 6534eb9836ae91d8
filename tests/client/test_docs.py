"""What the page and the docstrings show runs as it stands."""

import doctest
import importlib
import pkgutil
from pathlib import Path

import pytest

import elman.client
from elman.client import Client
from tests.readme.blocks import read_blocks
from tests.running import RunningServer

PAGE = Path(elman.client.__file__).parent / "README.md"
SHOWN = "http://localhost:8000"
MODULES = [f"elman.client.{module.name}" for module in pkgutil.iter_modules(elman.client.__path__)]


def test_the_page_runs_from_top_to_bottom(server: RunningServer, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, object] = {}
    blocks = read_blocks(PAGE)
    assert len(blocks) > 5 and {block.language for block in blocks} == {"python"}
    for block in blocks:
        code = compile(block.text.replace(SHOWN, server.url), f"{PAGE.name}:{block.line}", "exec")
        exec(code, names)
    client = names["elman"]
    assert isinstance(client, Client)
    client.close()
    assert "wrong_features sequences[1][0] 12" in capsys.readouterr().out


@pytest.mark.parametrize("module", MODULES)
def test_the_docstrings_say_what_happens(server: RunningServer, module: str) -> None:
    report: list[str] = []
    with Client(server.url) as elman:
        for test in doctest.DocTestFinder(exclude_empty=True).find(importlib.import_module(module)):
            for example in test.examples:
                example.source = example.source.replace(SHOWN, server.url)
            test.globs["elman"] = elman
            doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=report.append)
    assert not report, "".join(report)


def test_there_are_docstrings_to_run() -> None:
    found = {
        test.name
        for module in MODULES
        for test in doctest.DocTestFinder().find(importlib.import_module(module))
        if test.examples
    }
    assert {"elman.client.sync.Client", "elman.client.sync.Model.predict", "elman.client.sync.Session"} <= found
