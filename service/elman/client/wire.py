"""Sequences to bytes and JSON, and responses to arrays and errors."""

import json
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeGuard

import httpx
import numpy as np
from numpy.typing import ArrayLike, NDArray

from elman.client.errors import BadAnswer, ElmanError, RequestError, error_of
from elman.client.inputs import Read, read_values
from elman.client.results import Floats

JSON = "application/json"
BINARY = "application/octet-stream"
EVENTS = "text/event-stream"

StaticLike = Mapping[str, ArrayLike]
"""The static inputs of a sequence by name: a number, or an array of the shape on the model's card."""

Prompt = str | Sequence[int] | NDArray[np.integer[Any]]
"""The beginning of a text to generate: text, or token ids `(time,)`."""


class AcceptedShapes:
    """The shapes of a step that a model has accepted.

    Bytes do not carry their shape: four steps of three features would be read as one step of twelve. So the first array
    of each shape is sent as JSON, where the server checks it. Once that succeeded, arrays like it are sent as bytes.
    Integers `(time,)` are always sent as JSON: only there are token ids and a signal told apart.
    """

    def __init__(self) -> None:
        self._shapes: set[tuple[int, ...]] = set()

    def add(self, x: object) -> None:
        """Remember that the server accepted a sequence that was sent as JSON."""
        if _may_be_bytes(x):
            self._shapes.add(x.shape[1:])

    def has(self, x: object) -> TypeGuard[NDArray[Any]]:
        """Whether a sequence may be sent as bytes."""
        return _may_be_bytes(x) and x.shape[1:] in self._shapes

    def to_bytes(self, x: object) -> bytes | None:
        """A sequence as little-endian float32, row-major; None if it has to be sent as JSON."""
        if not self.has(x) or isinstance(x, np.ma.MaskedArray):
            return None
        with np.errstate(over="ignore"):  # the server refuses infinity and names its place
            return np.ascontiguousarray(x, "<f4").tobytes()


def _may_be_bytes(x: object) -> TypeGuard[NDArray[Any]]:
    return isinstance(x, np.ndarray) and (x.dtype.kind == "f" or (x.ndim == 2 and x.dtype.kind in "iu"))


def to_json_value(x: Read, where: str, dtype: type[np.floating[Any]] = np.float32) -> Any:
    """A sequence as JSON holds it: lists of numbers, or text. A missing value, NaN or masked, is None.

    dtype: fractions are rounded to this. Raises RequestError if a number is infinite in it.
    """
    if isinstance(x, str):
        return x
    if isinstance(x, Mapping):
        return {
            name: value if isinstance(value, str) else numbers(value, f"{where}.{name}", dtype)
            for name, value in x.items()
        }
    return numbers(x, where, dtype)


def to_json_statics(static: StaticLike | Sequence[StaticLike], where: str = "static") -> Any:
    """Static inputs as JSON holds them. Raises RequestError if a number is infinite."""
    if isinstance(static, Mapping):
        return {
            name: numbers(read_values(value, f"{where}.{name}"), f"{where}.{name}") for name, value in static.items()
        }
    if not isinstance(static, list | tuple):
        raise TypeError(f"{where} must be a mapping from names to values, or a list of those; got {static!r}"[:200])
    return [to_json_statics(one, f"{where}[{index}]") for index, one in enumerate(static)]


def numbers(array: NDArray[Any], where: str, dtype: type[np.floating[Any]] = np.float32) -> Any:
    """An array as lists of numbers. Raises RequestError if one is infinite in `dtype`."""
    if array.dtype.kind != "f":
        return array.tolist()  # a masked value becomes None
    with np.errstate(over="ignore"):
        array = array.astype(dtype, copy=False)
    infinite = np.ma.filled(np.isinf(array), False)
    if infinite.any():
        place = _first_place(infinite)
        raise RequestError(f"a number is not finite in {dtype.__name__}", code="not_finite", where=f"{where}{place}")
    # JSON has no NaN. The server knows whether the model takes missing values, and names the place if not.
    missing = np.isnan(np.ma.filled(array, np.nan))
    return np.ma.masked_array(array, missing).tolist() if missing.any() else array.tolist()


def _first_place(wrong: NDArray[np.bool_]) -> str:
    """The place of the first number that is wrong, such as `[17][2]`."""
    return "".join(f"[{index}]" for index in np.argwhere(wrong)[0])


def count_numbers(x: Read) -> int:
    """How many numbers or characters a sequence has."""
    if isinstance(x, Mapping):
        return sum(map(count_numbers, x.values()))
    return len(x) if isinstance(x, str) else x.size


def encode_json(body: Mapping[str, Any]) -> bytes:
    """The body of a request. Raises RequestError if a number is not finite, TypeError for what JSON does not have."""
    try:
        return _dumped(body)
    except (TypeError, ValueError) as error:
        name, wrong = next((name, fault) for name, value in body.items() if (fault := _fault(value)))
        if isinstance(wrong, UnicodeEncodeError):
            half = f"the character {wrong.object[wrong.start]!r} is half of a pair, which no text can hold"
            raise RequestError(half, code="invalid_json", where=name) from None
        if isinstance(wrong, ValueError):
            raise RequestError("a number is not finite", code="not_finite", where=name) from None
        raise TypeError(f"{name}: {error}") from None


def _dumped(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), allow_nan=False, default=_of_json, ensure_ascii=False).encode()


def _fault(value: object) -> Exception | None:
    try:
        _dumped(value)
    except (TypeError, ValueError) as error:
        return error
    return None


def _of_json(value: Any) -> Any:
    if not hasattr(value, "tolist"):
        raise TypeError(f"a value of the type {type(value).__name__} cannot be sent")
    return plain(value)


def plain(value: Any) -> Any:
    """A number or an array of NumPy or torch as Python has it; anything else as it is."""
    return value.tolist() if hasattr(value, "tolist") else value


def to_query(options: Mapping[str, Any]) -> dict[str, str]:
    """Options as a query string has them, without those that are None."""
    given = {name: plain(value) for name, value in options.items() if value is not None}
    return {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in given.items()}


def read_json(response: httpx.Response) -> Any:
    """The JSON value of a response. Raises BadAnswer if it is not JSON."""
    try:
        return response.json()
    except ValueError:
        detail = f"the response is not JSON: {response.text[:200]}"
        raise BadAnswer(detail, status=response.status_code) from None


def is_binary(response: httpx.Response) -> bool:
    return str(response.headers.get("content-type", "")).startswith(BINARY)


def steps_are_known(x: Read, returns: str) -> bool:
    """Whether a binary response tells the number of steps. Only the server counts the windows of a signal `(time,)`."""
    return returns == "steps" or (isinstance(x, np.ndarray) and x.ndim == 2)


def binary_fields(response: httpx.Response, sent: int) -> dict[str, Any]:
    """The fields of a Result from the binary response to a request of `sent` steps."""
    array = _read_array(response)
    every_step = array.ndim == 2
    return {
        "length": len(array) if every_step else sent,
        "outputs" if every_step else "output": array,
        "state": response.headers.get("elman-state"),
    }


def _read_array(response: httpx.Response) -> Floats:
    """The float32 array of a binary response, in the shape of its header. Raises BadAnswer."""
    try:
        shape = [int(part) for part in response.headers["elman-shape"].split(",") if part]
        return np.frombuffer(response.content, "<f4").reshape(shape).astype(np.float32, copy=False)
    except (KeyError, ValueError) as error:
        raise BadAnswer(f"the header Elman-Shape does not fit: {error}", status=response.status_code) from None


def read_error(response: httpx.Response) -> ElmanError:
    """The error that a response describes."""
    try:
        problem = response.json()
    except ValueError:
        problem = None
    retry_after = parse_retry_after(response.headers.get("retry-after"))
    return error_of(response.status_code, problem, response.text, retry_after)


def parse_retry_after(header: str | None) -> float | None:
    """Seconds from a Retry-After header, which is a number or a date; None if it is neither."""
    if header is None:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(header) - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError):
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None
