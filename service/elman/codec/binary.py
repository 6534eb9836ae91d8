"""`application/octet-stream`: one sequence as little-endian numbers, row-major, options in the query string.

Features are float32; token ids are int32.
"""

from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import parse_qsl

import numpy as np

from elman.codec.arrays import check_length, check_samples, finite, tokens_array
from elman.codec.format import Format
from elman.codec.request import Limits, PredictRequest, StepRequest, check_at, check_options
from elman.errors import InvalidField, WrongFeatures
from elman.repository.network import Array

T = TypeVar("T")
Readers = dict[str, Callable[[str, str], Any]]


def decode_binary(
    content: bytes, query: bytes, format: Format, limits: Limits, state: str | None = None
) -> PredictRequest:
    """A predict request; `state` is its state token. Raises RequestError with the place of the first fault."""
    options = parse_options(query, {**_COMMON, "return_state": _flag})
    return PredictRequest([binary_array(content, format, limits)], ["sequence"], state=state, **options)


def decode_binary_step(content: bytes, query: bytes, format: Format, limits: Limits) -> StepRequest:
    """A step request. Raises RequestError with the place of the first fault."""
    options = parse_options(query, {**_COMMON, "at": _number(int, "an integer")})
    check_at(options.get("at"))
    return StepRequest(binary_array(content, format, limits), **options)


def binary_array(content: bytes, format: Format, limits: Limits) -> Array:
    """One sequence as `PredictRequest` has it. Raises RequestError with the place of the first fault."""
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
        return finite(np.frombuffer(content, "<f4"), np.dtype(np.float32), "sequence")
    check_length(len(content) // step, "sequence", limits)
    return finite(np.frombuffer(content, "<f4").reshape(-1, features), format.numpy_dtype, "sequence")


def parse_options(query: bytes, readers: Readers | None = None) -> dict[str, Any]:
    """The options of a request whose body is not JSON, from its query string. Raises InvalidField."""
    readers = _COMMON if readers is None else readers
    options: dict[str, Any] = {}
    if not query:
        return options
    for name, text in parse_qsl(query.decode("latin-1"), keep_blank_values=True):
        if name not in readers:
            raise InvalidField(f"there is no option {name!r}", where=name, expected=list(readers))
        options["returns" if name == "return" else name] = readers[name](name, text)
    check_options(options.get("top", 1), options.get("timeout"))
    return options


def options_of_stream(query: bytes) -> dict[str, Any]:
    """The options of a WebSocket stream: `session`, `ttl`, and those of its binary frames. Raises InvalidField."""
    plain: Readers = {"session": lambda name, text: text, "ttl": _number(float, "seconds")}
    return parse_options(query, {**_COMMON, **plain})


def _one_of(*choices: str) -> Callable[[str, str], str]:
    def read(name: str, text: str) -> str:
        if text not in choices:
            raise InvalidField(f"{name} is {text!r}", where=name, expected=list(choices))
        return text

    return read


def _number(kind: Callable[[str], T], what: str) -> Callable[[str, str], T]:
    def read(name: str, text: str) -> T:
        try:
            return kind(text)
        except ValueError:
            raise InvalidField(f"{name} is {text!r}", where=name, expected=what) from None

    return read


def _flag(name: str, text: str) -> bool:
    return _one_of("true", "false")(name, text) == "true"


_COMMON: Readers = {
    "return": _one_of("final", "steps"),
    "decode": _flag,
    "top": _number(int, "an integer"),
    "timeout": _number(float, "seconds"),
}
