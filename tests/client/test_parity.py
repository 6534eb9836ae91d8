"""The blocking and the asynchronous client have the same methods, arguments and words."""

import inspect
from typing import Any

import pytest

import elman.client as client
from elman.client import (
    AsyncClient,
    AsyncModel,
    AsyncSession,
    AsyncStream,
    AsyncTokens,
    Client,
    Model,
    Session,
    Stream,
    Tokens,
)

PAIRS = [
    (Client, AsyncClient),
    (Model, AsyncModel),
    (Session, AsyncSession),
    (Stream, AsyncStream),
    (Tokens, AsyncTokens),
]
NAMED = {"__enter__": "__aenter__", "__exit__": "__aexit__", "__iter__": "__aiter__", "__next__": "__anext__"}


def public(kind: type) -> dict[str, Any]:
    names = [name for name in dir(kind) if not name.startswith("_") or name in NAMED or name in NAMED.values()]
    return {name: inspect.getattr_static(kind, name) for name in names}


def parameters(function: Any) -> list[tuple[str, Any, Any]]:
    """What a method takes: types apart, since each names its own kind."""
    return [(one.name, one.kind, one.default) for one in inspect.signature(function).parameters.values()]


@pytest.mark.parametrize(("blocking", "awaited"), PAIRS, ids=lambda kind: kind.__name__)
def test_both_have_the_same_methods(blocking: type, awaited: type) -> None:
    mine, theirs = public(blocking), public(awaited)
    assert {NAMED.get(name, name) for name in mine} == set(theirs)
    for name, member in mine.items():
        other = theirs[NAMED.get(name, name)]
        assert isinstance(member, property) == isinstance(other, property), name
        if not isinstance(member, property):
            assert parameters(member) == parameters(other), name
    assert parameters(blocking.__init__) == parameters(awaited.__init__)  # type: ignore[misc]


@pytest.mark.parametrize("kind", [kind for pair in PAIRS for kind in pair], ids=lambda kind: kind.__name__)
def test_every_public_method_says_what_it_does(kind: type) -> None:
    assert inspect.getdoc(kind)
    for name, member in public(kind).items():
        if not name.startswith("_") and (callable(member) or isinstance(member, property)):
            assert inspect.getdoc(member), f"{kind.__name__}.{name}"


def test_every_exported_name_is_there_and_nothing_of_the_server() -> None:
    for name in client.__all__:
        assert getattr(client, name).__module__.startswith("elman.client."), name
