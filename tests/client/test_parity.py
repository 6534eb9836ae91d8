"""The blocking client is the asynchronous one without `await`, and an editor can show every public method of both."""

import inspect
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import pytest

import elman.client as client
from elman import Client
from elman.client import AsyncClient, AsyncModel, AsyncSession, AsyncStream, AsyncTokens, Model, Session, Stream, Tokens
from elman.client.calls.options import (
    ForecastOptions,
    GenerateOptions,
    InfluenceOptions,
    Options,
    PredictOptions,
    StepOptions,
)
from tests.client import unasync

PAIRS = [
    (Client, AsyncClient),
    (Model, AsyncModel),
    (Session, AsyncSession),
    (Stream, AsyncStream),
    (Tokens, AsyncTokens),
]
NAMED = {"__enter__": "__aenter__", "__exit__": "__aexit__", "__iter__": "__aiter__", "__next__": "__anext__"}
CLASSES = [getattr(client, name) for name in client.__all__]
OPTIONS: list[tuple[Any, type[Options], str]] = [
    (Model.predict, PredictOptions, "PredictRequest"),
    (Session.step, StepOptions, "StepsRequest"),
    (Model.generate, GenerateOptions, "GenerateRequest"),
    (Model.forecast, ForecastOptions, "ForecastRequest"),
    (Model.influence, InfluenceOptions, "InfluenceRequest"),
]


@pytest.mark.parametrize("name", unasync.MODULES)
def test_the_blocking_half_is_generated_from_the_asynchronous_one(name: str) -> None:
    assert (unasync.SYNC / name).read_text("utf-8") == unasync.generate(name), "run python -m tests.client.unasync"


def public(kind: type) -> dict[str, Any]:
    names = [name for name in dir(kind) if not name.startswith("_") or name in NAMED or name in NAMED.values()]
    return {name: inspect.getattr_static(kind, name) for name in names}


def parameters(function: Any) -> list[tuple[str, Any, Any]]:
    """The parameters of a method without their types, which differ in the prefix Async."""
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


def methods(kind: type) -> Iterator[tuple[str, Any]]:
    """The public methods and properties that a class of the client defines or inherits from another."""
    for name in dir(kind):
        member = getattr(kind, name)
        if name.startswith("_") or not (callable(member) or isinstance(member, property)):
            continue
        if issubclass(kind, Exception) and hasattr(Exception, name):
            continue
        yield name, member


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_public_method_has_a_docstring_and_a_signature(kind: type) -> None:
    assert kind.__module__.startswith("elman.client.")
    assert kind.__doc__ and not kind.__doc__.startswith(f"{kind.__name__}(")  # the default of a dataclass
    for name, member in methods(kind):
        assert inspect.getdoc(member), f"{kind.__name__}.{name} has no docstring"
        signature = inspect.signature(member.fget if isinstance(member, property) else member)
        assert signature.return_annotation is not inspect.Signature.empty, f"{kind.__name__}.{name}"
        for one in signature.parameters.values():
            assert one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD), f"{kind.__name__}.{name} hides {one}"
            assert one.name == "self" or one.annotation is not one.empty, f"{kind.__name__}.{name}: {one}"


@pytest.mark.parametrize(("method", "options", "body"), OPTIONS, ids=lambda one: getattr(one, "__qualname__", one))
def test_the_defaults_of_options_are_those_of_the_server(
    elman: Client, method: Any, options: type[Options], body: str
) -> None:
    """Options with their default are not sent, so the client's defaults have to be the server's."""
    described = elman.openapi()["components"]["schemas"][body]["properties"]
    shown = inspect.signature(method).parameters
    for one in fields(options):
        assert shown[one.name].default == one.default, one.name
        field = described["return" if one.name == "returns" else one.name]
        assert one.default is None or field["default"] == one.default, one.name
