"""The examples on the client's page and in its docstrings run, and print what they show."""

import ast
import asyncio
import contextlib
import doctest
import importlib
import inspect
import io
import pkgutil
from pathlib import Path
from types import CodeType

import pytest

import elman.client
from elman import AsyncClient, Client
from tests.readme.blocks import read_blocks
from tests.running import RunningServer

PAGE = Path(elman.client.__file__).parent / "README.md"
SHOWN = "http://localhost:8000"
MODULES = [module.name for module in pkgutil.walk_packages(elman.client.__path__, "elman.client.")]
TESTS = [
    test
    for module in MODULES
    for test in doctest.DocTestFinder(exclude_empty=True).find(importlib.import_module(module))
    if test.examples
]


@pytest.mark.torch  # what comes with it: the page makes a data frame of pandas
def test_the_page_runs_from_top_to_bottom(server: RunningServer, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, object] = {}
    blocks = read_blocks(PAGE)
    assert len(blocks) > 5 and {block.language for block in blocks} == {"python"}
    for block in blocks:
        code = compile(block.text.replace(SHOWN, server.url), f"{PAGE.name}:{block.line}", "exec")
        exec(code, names)
    client = names["client"]
    assert isinstance(client, Client)
    client.close()
    assert "wrong_features sequences[1][0] 12" in capsys.readouterr().out


def compiled(example: doctest.Example, server: RunningServer) -> CodeType:
    """An example, compiled as the interactive interpreter does. It may have `await` at the top level."""
    source = example.source.replace(SHOWN, server.url)
    return compile(source, "<example>", "single", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


async def run(test: doctest.DocTest, server: RunningServer, names: dict[str, object]) -> None:
    """Run the examples of a docstring one after the other and compare what they print."""
    for example in test.examples:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            running = eval(compiled(example, server), names)
            if inspect.iscoroutine(running):
                await running
        assert printed.getvalue() == example.want, f"{test.name}: {example.source}"


@pytest.mark.parametrize("test", TESTS, ids=lambda test: test.name)
def test_a_docstring_prints_what_it_shows(server: RunningServer, test: doctest.DocTest) -> None:
    async def main() -> None:
        if test.name.startswith("elman.client.aio"):
            async with AsyncClient(server.url) as client:
                await run(test, server, {"client": client})
        else:
            with Client(server.url) as client:
                await run(test, server, {"client": client})

    asyncio.run(main())


def test_the_main_methods_have_examples() -> None:
    names = {test.name for test in TESTS}
    assert {"elman.client.sync.client.Client", "elman.client.aio.client.AsyncClient"} <= names
    assert {"elman.client.sync.model.Model.predict", "elman.client.sync.session.Session"} <= names
