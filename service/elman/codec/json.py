"""JSON requests, decoded straight into typed lists, with the place of the first fault."""

import json
import re
from collections.abc import Callable, Mapping
from functools import cached_property
from types import MappingProxyType
from typing import Any

import msgspec
import numpy as np

from elman.codec.arrays import features_array, numbers_array, signal_array, text_array, tokens_array
from elman.codec.format import Format
from elman.codec.numbers import NotPlain, read_numbers
from elman.codec.request import Limits, PredictRequest, StepRequest, check_at, check_options
from elman.engine.sequence import Return
from elman.errors import ElmanError, InvalidField, InvalidJSON, NotFinite, RequestError, TooLong
from elman.repository.network import Array

# The largest body that is searched for the place of a NaN; the search is far slower than decoding.
_SEARCHED = 1 << 20


class JSONDecoder:
    """Decodes the requests of one model.

    The types of a body follow the model's input, so that a string or a boolean among numbers is found while
    decoding and never becomes a number.
    """

    def __init__(self, format: Format, limits: Limits) -> None:
        self.format = format
        self.limits = limits
        self.item = item_type(format)
        item, many = self.item | None, list[self.item] | None  # type: ignore[name-defined]
        # How many numbers a row of a plain body has; None where a sequence is not of numbers.
        self._width = 0 if format.frames else format.features
        self._predict = body_decoder(("sequence", item, None), ("sequences", many, None), *_PREDICT_OPTIONS)

    @cached_property
    def _step(self) -> Any:
        return body_decoder(("sequence", self.item), *_STEP_OPTIONS)

    def decode(self, content: bytes) -> PredictRequest:
        """A predict request. Raises RequestError with the place of the first fault."""
        plain = self._plain(content, _PredictOptions)
        if plain is not None:
            body, items, many = plain
        else:
            body = decode_body(self._predict, content)
            items, many = _items(body)
        check_options(body.top, body.timeout)
        places = self._places(items, many)
        sequences = [self.array(item, place) for item, place in zip(items, places, strict=True)]
        if isinstance(body.state, list) and len(body.state) != len(sequences):
            raise InvalidField(
                f"{len(body.state)} states are given for {len(sequences)} sequences",
                where="state",
                expected="one for all, or one each",
            )
        return PredictRequest(
            sequences,
            places,
            body.returns,
            body.decode,
            body.top,
            body.timeout,
            body.state,
            body.return_state,
            body.hidden,
        )

    def decode_step(self, content: bytes, defaults: Mapping[str, Any] = MappingProxyType({})) -> StepRequest:
        """A step request, options that it leaves out being those of `defaults`.

        Raises RequestError with the place of the first fault.
        """
        plain = self._plain(content, _StepOptions)
        if plain is not None and not plain[2]:
            body, (sequence,), _ = plain
        else:
            body = decode_body(self._step, content)
            sequence = body.sequence
        given = {name: getattr(body, name) for name in ("returns", "decode", "top", "timeout")}
        options = {**defaults, **{name: value for name, value in given.items() if value is not msgspec.UNSET}}
        check_options(options.get("top", 1), options.get("timeout"))
        check_at(body.at)
        return StepRequest(self.array(sequence, "sequence"), at=body.at, **options)

    def array(self, item: Any, where: str) -> Array:
        """One decoded sequence as `PredictRequest` has it. Raises RequestError."""
        convert: Callable[..., Array] = features_array
        if isinstance(item, np.ndarray):
            convert = numbers_array
        elif self.format.tokens:
            convert = text_array if isinstance(item, str) else tokens_array
        elif self.format.frames:
            convert = signal_array
        return convert(item, self.format, where, self.limits)

    def _plain(self, content: bytes, options: type) -> tuple[Any, list[Any], bool] | None:
        """The options of a body of plain numbers, its sequences, and whether they may be many; None for others."""
        if self._width is None:
            return None
        try:
            fields, items, many = read_numbers(content, self._width)
            return msgspec.convert(fields, options), items, many
        except (NotPlain, msgspec.ValidationError):
            return None

    def _places(self, items: list[Any], many: bool) -> list[str]:
        """Where each sequence stands. Raises InvalidField and TooLong."""
        if not many:
            return ["sequence"]
        if not items:
            raise InvalidField("sequences is empty", where="sequences", expected="at least one sequence")
        if len(items) > self.limits.max_sequences:
            raise TooLong(
                f"the request has {len(items)} sequences",
                where="sequences",
                expected=f"at most {self.limits.max_sequences} sequences",
            )
        return [f"sequences[{i}]" for i in range(len(items))]


def _items(body: Any) -> tuple[list[Any], bool]:
    """The sequences of a decoded body, and whether they may be many. Raises InvalidField."""
    if (body.sequence is None) == (body.sequences is None):
        raise InvalidField(
            "the body needs either sequence, for one, or sequences, for many",
            expected=["sequence", "sequences"],
        )
    return ([body.sequence], False) if body.sequences is None else (body.sequences, True)


OPTIONS: tuple[Any, ...] = (
    ("returns", Return, msgspec.field(name="return", default="final")),
    ("decode", bool, True),
    ("top", int, 3),
    ("timeout", float | None, None),
)
"""Fields that requests share."""

_PREDICT_OPTIONS: tuple[Any, ...] = (
    *OPTIONS,
    ("state", str | list[str] | None, None),
    ("return_state", bool, False),
    ("hidden", bool, False),
)


def _unset(name: str) -> Any:
    return msgspec.field(name="return", default=msgspec.UNSET) if name == "returns" else msgspec.UNSET


_STEP_OPTIONS: tuple[Any, ...] = (
    *((name, kind | msgspec.UnsetType, _unset(name)) for name, kind, _ in OPTIONS),
    ("at", int | None, None),
)


def item_type(format: Format) -> Any:
    """The type of a sequence in JSON."""
    if format.tokens:
        return list[int] | str
    if format.frames:
        return list[float]
    return list[list[float] | float] if format.features == 1 else list[list[float]]


def _body_type(*fields: Any) -> type:
    """Bodies with these fields and no others, each (name, type, default) or (name, type)."""
    return msgspec.defstruct("Body", fields, forbid_unknown_fields=True, kw_only=True)


_PredictOptions, _StepOptions = _body_type(*_PREDICT_OPTIONS), _body_type(*_STEP_OPTIONS)


def body_decoder(*fields: Any) -> Any:
    """A decoder of bodies with these fields and no others, each (name, type, default) or (name, type)."""
    return msgspec.json.Decoder(_body_type(*fields))


def decode_body(decoder: Any, content: bytes) -> Any:
    """Raises RequestError with the place of the first fault."""
    try:
        return decoder.decode(content)
    except msgspec.ValidationError as error:
        raise _invalid_field(str(error)) from None
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise _invalid_json(content, str(error)) from None


def _invalid_field(message: str) -> ElmanError:
    """What msgspec says, as a sentence, a place and a code."""
    found = re.search(r" - at `\$\.?(.*?)`$", message)
    where = (found.group(1) or None) if found else None
    text = message[: found.start()] if found else message
    unknown = re.search(r"unknown field `(.*)`", text)
    if unknown:
        name = f"{where}.{unknown.group(1)}" if where else unknown.group(1)
        return InvalidField(f"there is no field {unknown.group(1)!r}", where=name)
    if "out of range" in text:
        return NotFinite("the number is out of range", where=where, expected="a finite float32")
    wanted = re.match(r"Expected `(.*?)`, got `(.*?)`", text)
    if wanted:
        expected, got = (_words(part) for part in wanted.groups())
        return InvalidField(f"expected {expected}, got {got}", where=where, expected=expected)
    return InvalidField(text[:1].lower() + text[1:], where=where)


def _words(types: str) -> str:
    """msgspec's names of JSON types, as words."""
    names = {"float": "number", "int": "integer", "str": "string", "bool": "boolean"}
    return " or ".join(names.get(part, part) for part in types.split(" | "))


def _invalid_json(content: bytes, message: str) -> RequestError:
    """Malformed JSON; where only NaN or Infinity makes it so, the place of the first of them."""
    place = None
    if len(content) <= _SEARCHED:
        try:
            place = _first_not_finite(json.loads(content))
        except (ValueError, RecursionError):
            pass
    if place is not None:
        return NotFinite("NaN and infinities are no numbers in JSON", where=place, expected="a finite number")
    at = re.search(r"\(byte (\d+)\)", message)
    detail = "the body is not valid JSON" + (f": it goes wrong at byte {at.group(1)}" if at else "")
    if not content.strip():
        detail = "the body is empty"
    return InvalidJSON(detail)


def _first_not_finite(value: object, where: str = "") -> str | None:
    """The place of the first NaN or infinity in decoded JSON."""
    todo: list[tuple[object, str]] = [(value, where)]
    while todo:
        item, place = todo.pop()
        if isinstance(item, float) and (item != item or item in (float("inf"), float("-inf"))):
            return place
        if isinstance(item, list):
            todo += [(child, f"{place}[{i}]") for i, child in reversed(list(enumerate(item)))]
        elif isinstance(item, dict):
            todo += [(child, f"{place}.{key}".lstrip(".")) for key, child in reversed(item.items())]
    return None
