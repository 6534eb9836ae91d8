"""An editor completes every public method of the client, and shows its arguments, on a script that uses them all."""

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jedi
import pytest

import elman.client as client

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).parent / "script.py"
CODE = SCRIPT.read_text("utf-8")
NODES = list(ast.walk(ast.parse(CODE)))

KINDS = [
    client.Client, client.Model, client.Session, client.Stream, client.Tokens,
    client.AsyncClient, client.AsyncModel, client.AsyncSession, client.AsyncStream, client.AsyncTokens,
    client.Card, client.Result, client.StepResult, client.Generation, client.Forecast,
]  # fmt: skip


def members(kind: type) -> list[str]:
    """The public methods and properties of a class; of a result no fields, of which its attributes tell."""
    return [
        name
        for name, member in inspect.getmembers_static(kind)
        if not name.startswith("_") and isinstance(inspect.unwrap(member), property | classmethod)
    ] + [name for name, member in inspect.getmembers(kind, inspect.isfunction) if not name.startswith("_")]


WANTED = {(kind.__name__, name) for kind in KINDS for name in members(kind)}


def accesses() -> Iterator[ast.Attribute]:
    names = {name for _, name in WANTED}
    return (node for node in NODES if isinstance(node, ast.Attribute) and node.attr in names)


@pytest.fixture(scope="module")
def editor() -> Any:
    return jedi.Script(CODE, path=SCRIPT, project=jedi.Project(SCRIPT.parents[2], added_sys_path=("service",)))


@pytest.fixture(scope="module")
def completed(editor: Any) -> set[tuple[str, str]]:
    """The class and the name of each member that the editor offers where the script uses it."""
    found = set()
    for node in accesses():
        assert node.end_lineno is not None and node.end_col_offset is not None
        offered = editor.complete(node.end_lineno, node.end_col_offset - len(node.attr))
        for one in offered:
            if one.name == node.attr:
                found.add((one.parent().name, one.name))
    return found


def test_every_public_member_is_used_and_completed(completed: set[tuple[str, str]]) -> None:
    classes = {kind.__name__: kind for kind in KINDS}
    offered = {
        (name, member)
        for name, kind in classes.items()
        for owner, member in completed
        if owner in {one.__name__ for one in kind.__mro__}
    }
    assert WANTED - offered == set()


def test_the_arguments_of_every_call_are_shown(editor: Any) -> None:
    shown = set()
    for node in NODES:
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            function = node.func
            assert function.end_lineno is not None and function.end_col_offset is not None
            for one in editor.get_signatures(function.end_lineno, function.end_col_offset + 1):
                shown.add((one.name, tuple(parameter.name for parameter in one.params)))
    for kind in KINDS:
        for name, method in inspect.getmembers(kind, inspect.isfunction):
            if not name.startswith("_"):
                expected = tuple(inspect.signature(method).parameters)[1:]
                assert any(one == name and set(given) <= set(expected) for one, given in shown), (kind, name, shown)
