"""Binary bodies (`application/octet-stream`): one sequence as little-endian numbers, row-major.

Features are float32 and token ids int32. The options are in the query string.
"""

from functools import lru_cache
from typing import Any, TypeVar
from urllib.parse import parse_qsl

import msgspec
import numpy as np

from elman.codec.arrays import check_length, check_samples, tokens_array
from elman.codec.faults import invalid_field, unknown_field
from elman.codec.finite import FLOAT32, finite
from elman.codec.input_format import InputFormat
from elman.codec.limits import Limits
from elman.codec.rows import as_read
from elman.engine.sequence import Inputs
from elman.errors import ElmanError, InvalidField, UnsupportedMediaType, WrongFeatures
from elman.repository.network import Array

Q = TypeVar("Q", bound=msgspec.Struct)


def decode_octets(content: bytes, format: InputFormat, limits: Limits, held: bool = False) -> Inputs:
    """One sequence, as in `JSONDecoder.predict`. Raises RequestError with the `where` of the first error.

    held: whether a state or session holds the static inputs.
    """
    if format.further or (format.statics and not held):
        missing = [*format.further, *(() if held else format.statics)]
        names = ", ".join(repr(one.name) for one in missing)
        raise UnsupportedMediaType(
            f"the model takes {names} too, so the body must be JSON", expected="application/json"
        )
    return Inputs(_data(content, format, limits))


def _data(content: bytes, format: InputFormat, limits: Limits) -> Array:
    features = 1 if format.frames else format.features
    step = 4 * (features or 1)
    if len(content) % step:
        raise WrongFeatures(
            f"the body has {len(content)} bytes, which is not a whole number of steps of {step} bytes",
            where="sequence",
            expected=f"a multiple of {step} bytes",
        )
    if features is None:
        return tokens_array(np.frombuffer(content, "<i4").tolist(), format, "sequence", limits)
    if format.frames:
        check_samples(len(content) // 4, format, "sequence", limits)
        return finite(np.frombuffer(content, FLOAT32), FLOAT32, "sequence")
    check_length(len(content) // step, "sequence", limits)
    rows = np.frombuffer(content, FLOAT32).reshape(-1, features)
    return as_read(rows, format, "sequence")


def parse_query(query: bytes, kind: type[msgspec.Struct], request: type[Q], **others: Any) -> Q:
    """The options in a query string, which are the fields of `kind`, as a request with other fields too.

    Raises InvalidField.
    """
    if not query:
        return request(**others)
    pairs, names = _pairs(query.decode("latin-1")), _names(kind)
    options: dict[str, Any] = dict(pairs)
    if len(options) < len(pairs) or not options.keys() <= names.keys():
        raise _wrong(pairs, tuple(names))
    options |= others
    try:
        return msgspec.convert(options, request, strict=False)
    except msgspec.ValidationError as error:
        raise invalid_field(str(error), kind) from None


def _wrong(pairs: list[tuple[str, str]], names: tuple[str, ...]) -> ElmanError:
    """The error for the first option that does not exist or comes again."""
    known = list(names)
    for name, _ in pairs:
        if name not in names:
            return unknown_field(name, None, names, "option")
        if name not in known:
            break
        known.remove(name)
    return InvalidField(f"the option {name!r} comes twice", where=name, expected="one value")


def check_no_query(query: bytes) -> None:
    """Raise InvalidField if a JSON request has a query string."""
    if query:
        raise InvalidField("the options of a JSON request belong in its body", where="query")


def _pairs(text: str) -> list[tuple[str, str]]:
    """As `parse_qsl` gives them. Without escapes, which are rare, it takes a third of the time."""
    if "%" in text or "+" in text:
        return parse_qsl(text, keep_blank_values=True)
    return [(name, value) for one in text.split("&") if one for name, _, value in (one.partition("="),)]


@lru_cache(16)
def _names(kind: type[msgspec.Struct]) -> dict[str, None]:
    return dict.fromkeys([field.encode_name for field in msgspec.structs.fields(kind)])
