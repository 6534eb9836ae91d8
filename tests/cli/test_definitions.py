"""The options of a request are written down once, in elman.codec.requests: the command line has their bounds."""

import inspect as signatures
from typing import Any, get_type_hints

import msgspec
import pytest
from msgspec import inspect

from elman.cli.commands.forecast import forecast
from elman.cli.commands.generate import generate
from elman.cli.commands.predict import predict
from elman.codec.requests import ForecastRequest, GenerateRequest, Options

COMMANDS = ((predict, Options), (generate, GenerateRequest), (forecast, ForecastRequest))
# A command has a time-out of its own, and takes these in another form.
OTHERS = {"timeout", "prompt", "stop", "quantiles", "future"}


def number_of(kind: Any) -> inspect.IntType | inspect.FloatType | None:
    """The number among the types of a field."""
    kinds = kind.types if isinstance(kind, inspect.UnionType) else (kind,)
    for one in kinds:
        bare = one.type if isinstance(one, inspect.Metadata) else one
        if isinstance(bare, inspect.IntType | inspect.FloatType):
            return bare
    return None


def pairs() -> list[Any]:
    """(option, default, field) of every option of a command that is a field of its request."""
    found = []
    for command, kind in COMMANDS:
        hints = get_type_hints(command, include_extras=True)
        parameters = signatures.signature(command).parameters
        for field in inspect.type_info(kind).fields:  # type: ignore[attr-defined]
            if field.name in hints and field.name not in OTHERS:
                (option,) = hints[field.name].__metadata__
                case = option, parameters[field.name].default, field
                found.append(pytest.param(*case, id=f"{command.__name__} {field.name}"))
    return found


@pytest.mark.parametrize(("option", "default", "field"), pairs())
def test_an_option_has_the_bounds_and_the_default_of_its_field(option: Any, default: Any, field: Any) -> None:
    number = number_of(field.type)
    if number is not None:
        least = number.ge if number.ge is not None else number.gt
        most = number.le if number.le is not None else number.lt
        assert (option.min, option.max) == (least, most)
    assert field.default is not msgspec.NODEFAULT
    assert getattr(default, "value", default) == field.default


def test_every_option_of_a_request_is_looked_at() -> None:
    seen = {param.id for param in pairs()}
    assert {"predict top", "predict returns", "generate samples", "generate top_p", "forecast horizon"} <= seen
