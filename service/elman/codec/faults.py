"""Turns decoding errors into RequestErrors with code, `where` and `expected`, in time linear in the body."""

import json
import re
from collections.abc import Iterator
from difflib import get_close_matches
from functools import lru_cache
from math import isfinite
from typing import Any, cast

import msgspec
import orjson
from msgspec import inspect

from elman.codec.limits import check_lists
from elman.errors import ElmanError, InvalidField, InvalidJSON, NotFinite, RequestError

# Largest body in which the position of a NaN is searched. The search is far slower than decoding.
_MAX_SEARCHED_BYTES = 1 << 20
# Most characters of a client's text that an error repeats.
MOST_ECHOED = 80
# Most names that an error lists.
_MOST_NAMES = 100

_AT = " - at `$"
_UNKNOWN = "Object contains unknown field `"
_MISSING = "Object missing required field `"
_CHOICE = "Invalid enum value "
_TYPE = re.compile(r"Expected `([^`]{1,200})`, got `([^`]{1,200})`")
_BOUND = re.compile(r"Expected `([^`]{1,40})` (?:of length )?(>=|<=|>|<) ([^ ]{1,40})")
_BOUNDS = {">=": "at least", "<=": "at most", ">": "more than", "<": "less than"}
_INDEX = re.compile(r"\[[^\]]*\]")
_ITEM = re.compile(r"\[\d+\]$")
_WORDS = {"float": "number", "int": "integer", "str": "string", "bool": "boolean"}


def brief(value: float) -> str:
    """A number for an error message, without its digits if there are more than 30."""
    if isinstance(value, int):
        return str(value) if abs(value) < 10**30 else "a number of more than 30 digits"
    return f"{value:g}"


def echoed(text: str) -> str:
    """A client's text for an error message, cut to 80 characters."""
    return text if len(text) <= MOST_ECHOED else text[:MOST_ECHOED] + "..."


def invalid_field(message: str, kind: Any = None) -> ElmanError:
    """An error for msgspec's message about a field.

    kind: the class that was decoded. With it, `expected` shows both bounds of a number, and the names of all fields.
    """
    text, at, path = message.rpartition(_AT)
    text, where = (text, path[:-1].removeprefix(".") or None) if at else (message, None)
    if text.startswith(_UNKNOWN):
        return unknown_field(text[len(_UNKNOWN) : -1], where, _field_names(kind, _INDEX.sub("", where or "")))
    if text.startswith(_MISSING):
        return InvalidField(f"the field {text[len(_MISSING) : -1]!r} is missing", where=where)
    if "out of range" in text:
        detail = "the number is out of range"
        if where is None or "[" in where:
            return NotFinite(detail, where=where, expected="a finite float32")
        return InvalidField(detail, where=where, expected=_range(kind, where))
    wanted = _TYPE.match(text)
    if wanted:
        if wanted[2] == "null" and _ITEM.search(where or "") and wanted[1] != "array":
            # As in a binary body, where it is NaN.
            missing = InvalidField if wanted[1] == "int" else NotFinite
            return missing("a value is missing", where=where, expected="a number")
        expected, got = (_words(part) for part in wanted.groups())
        return InvalidField(f"expected {expected}, got {got}", where=where, expected=expected)
    if text.startswith(_CHOICE):
        choices = [value for one in _types(kind, where) if isinstance(one, inspect.LiteralType) for value in one.values]
        return InvalidField(f"there is no choice {echoed(text[len(_CHOICE) :])}", where=where, expected=choices or None)
    bound = _BOUND.match(text)
    if bound:
        length = " items or characters" if "of length" in text else ""
        expected = _range(kind, where) or f"{_BOUNDS[bound[2]]} {bound[3]}{length}"
        return InvalidField(f"{where or 'the value'} is outside its bounds", where=where, expected=expected)
    return InvalidField(echoed(text[:1].lower() + text[1:]), where=where)


def unknown_field(name: str, where: str | None, names: tuple[str, ...], word: str = "field") -> ElmanError:
    """An error for a name that does not exist. `names` are those that do, `where` is the place of their object."""
    name = echoed(name)
    near = get_close_matches(name, names, 1)
    return InvalidField(
        f"there is no {word} {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""),
        where=f"{where}.{name}" if where else name,
        expected=list(names[:_MOST_NAMES]) or None,
    )


def invalid_json(content: bytes, message: str) -> RequestError:
    """An error for malformed JSON. If NaN or Infinity is the only fault, `where` is its position."""
    if not content.strip():
        return InvalidJSON("the body is empty")
    place = None
    if len(content) <= _MAX_SEARCHED_BYTES:
        try:
            place = _first_not_finite(json.loads(content))
        except (ValueError, RecursionError):
            pass
    if place is not None:
        return NotFinite("JSON has no NaN and no infinity", where=place, expected="a finite number")
    at = re.search(r"\(byte (\d{1,20})\)", message)
    return InvalidJSON("the body is not valid JSON" + (f": error at byte {at[1]}" if at else ""))


def _words(types: str) -> str:
    """msgspec's names of JSON types, as words."""
    return " or ".join(_WORDS.get(part, part) for part in types.split(" | "))


@lru_cache(256)
def _field_names(kind: Any, path: str) -> tuple[str, ...]:
    """The fields of the object at a path such as `static`, from the class that was decoded; none if it is not known."""
    objects = [] if kind is None else _objects(inspect.type_info(kind))
    for name in path.split(".") if path else ():
        objects = [one for o in objects for f in o.fields if f.encode_name == name for one in _objects(f.type)]
    return tuple(dict.fromkeys(field.encode_name for one in objects for field in one.fields))


def _objects(kind: inspect.Type) -> list[inspect.StructType]:
    """The classes of objects that a type allows, alone or in a list."""
    if isinstance(kind, inspect.UnionType):
        return [one for part in kind.types for one in _objects(part)]
    if isinstance(kind, inspect.ListType):
        return _objects(kind.item_type)
    if isinstance(kind, inspect.Metadata):
        return _objects(kind.type)
    return [kind] if isinstance(kind, inspect.StructType) else []


@lru_cache(256)
def _range(kind: Any, name: str | None) -> str | None:
    """The bounds of a number field, such as "1 to 1000"; None if it is not a number or has no bounds."""
    numbers = [one for one in _types(kind, name) if isinstance(one, inspect.IntType | inspect.FloatType)]
    return _bounds_text(numbers[0]) if numbers else None


def _types(kind: Any, name: str | None) -> list[inspect.Type]:
    """The types that a field of a class allows, or an item of it, such as `stop[0]`; none if it is not known."""
    fields = () if kind is None or name is None else inspect.type_info(kind).fields  # type: ignore[attr-defined]
    field, *indices = (name or "").split("[")
    found = _alternatives([one.type for one in fields if one.encode_name == field])
    for _ in indices:
        found = _alternatives([one.item_type for one in found if isinstance(one, inspect.ListType)])
    return found


def _alternatives(kinds: list[inspect.Type]) -> list[inspect.Type]:
    """The types that are allowed, without their bounds in the document."""
    parts = [part for one in kinds for part in (one.types if isinstance(one, inspect.UnionType) else (one,))]
    return [one.type if isinstance(one, inspect.Metadata) else one for one in parts]


def _bounds_text(number: inspect.IntType | inspect.FloatType) -> str | None:
    low = number.ge if number.ge is not None else number.gt
    high = number.le if number.le is not None else number.lt
    if low is None:
        return None
    least = f"more than {low:g}" if number.gt is not None else f"{low:g}"
    if high is None:
        return least if number.gt is not None else f"{low:g} or more"
    if number.lt is not None:
        return f"{least}, less than {high:g}"
    most = f"{high:g}" if high < 10**6 else str(high)
    return f"{least}, at most {most}" if number.gt is not None else f"{least} to {most}"


def _first_not_finite(value: object) -> str | None:
    """The position of the first NaN or infinity in decoded JSON, such as `sequences[3][17][2]`.

    Keeps one key for each level of nesting, not one for each value.
    """
    levels, keys = [_children(value)], [cast(str | int, "")]
    while levels:
        for keys[-1], child in levels[-1]:
            if type(child) is float:
                if not isfinite(child):
                    return _text(keys)
            elif type(child) is list or type(child) is dict:
                levels.append(_children(child))
                keys.append("")
                break
        else:
            levels.pop()
            keys.pop()
    return None


def _children(value: object) -> Iterator[tuple[str | int, object]]:
    if isinstance(value, dict):
        return iter(value.items())
    return enumerate(value) if isinstance(value, list) else iter(())


def _text(keys: list[str | int]) -> str:
    """A position, cut to 320 characters."""
    most = 4 * MOST_ECHOED
    parts = [f"[{key}]" if isinstance(key, int) else f".{echoed(key)}" for key in keys[:most]]
    place = "".join(parts).removeprefix(".")
    return place if len(place) <= most else place[:most] + "..."


def decode_body(decoder: msgspec.json.Decoder[Any], content: bytes) -> Any:
    """A decoded body. Raises RequestError with the `where` of the first error, and TooLarge."""
    check_lists(content)
    try:
        return decoder.decode(content)
    except msgspec.ValidationError as error:
        raise invalid_field(str(error), decoder.type) from None
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise invalid_json(content, str(error)) from None


def encode_any(value: object) -> bytes:
    """A value as JSON, whatever a client's text and numbers in it are. What JSON does not have is written as text."""
    try:
        return orjson.dumps(value, default=str)
    except orjson.JSONEncodeError:
        # An integer of more than 64 bits, or text that is not UTF-8, such as the name of a file.
        return json.dumps(value, default=str).encode()
