"""Sequences to bytes and answers to values: what goes over the wire, and no sending."""

import json
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray

from elman.client.errors import BadAnswer, ElmanError, RequestError, error_of
from elman.client.results import Floats

JSON = "application/json"
BINARY = "application/octet-stream"
EVENTS = "text/event-stream"

One = NDArray[Any] | str
"""One sequence: an array `(time, features)`, `(time,)` of token ids or of a signal, or text."""

Many = list[NDArray[Any]] | list[str] | list[One] | tuple[One, ...]
"""Sequences, of any lengths."""


def is_one(x: object) -> bool:
    """Whether `x` is one sequence and not a list of them. Raises TypeError for what is neither."""
    if isinstance(x, str):
        return True
    if isinstance(x, np.ndarray):
        _check_axes(x)
        return True
    if not isinstance(x, Sequence):
        raise TypeError(
            f"a sequence is an array or a string, and many are a list of them; this is a {type(x).__name__}"
        )
    if any(isinstance(item, int | float | np.number) for item in x):
        raise TypeError("a list holds sequences; for one sequence of numbers, pass np.array(...)")
    return False


def _check_axes(x: NDArray[Any]) -> None:
    if x.ndim not in (1, 2):
        raise TypeError(f"a sequence is (time, features) or (time,), and this is {x.shape}; for a batch, pass list(x)")
    if x.dtype.kind not in "fiu":
        raise TypeError(f"a sequence has numbers, and this has {x.dtype}")


Prompt = str | Sequence[int] | NDArray[np.integer[Any]]
"""What to write on from: text, or token ids."""


class Shapes:
    """The shapes of a step that a model is known to take.

    Bytes do not say their shape: four steps of three features would be read as one of twelve. So the first array of a
    shape goes as JSON, where the server sees it; once it took that, those like it go as bytes.
    """

    def __init__(self) -> None:
        self._taken: set[tuple[int, ...]] = set()

    def taken(self, x: object) -> None:
        """Take note that the server took a sequence as JSON."""
        if isinstance(x, np.ndarray):
            self._taken.add(x.shape[1:])

    def known(self, x: object) -> bool:
        """Whether a sequence may go as bytes. Integers `(time,)` may be tokens or a signal: only JSON says both."""
        return isinstance(x, np.ndarray) and x.shape[1:] in self._taken and (x.dtype.kind == "f" or x.ndim == 2)

    def octets(self, x: object) -> bytes | None:
        """A sequence as little-endian float32, row-major; None where it has to go as JSON."""
        if not (isinstance(x, np.ndarray) and self.known(x)):
            return None
        _check_axes(x)
        with np.errstate(over="ignore"):  # the server says where it is too large
            return np.ascontiguousarray(x, "<f4").tobytes()


def plain(x: object, where: str) -> Any:
    """A sequence as JSON has it: lists and numbers, or text. Raises RequestError where a number is not finite."""
    if isinstance(x, str):
        return x
    array = np.asarray(x)
    _check_axes(array)
    if array.dtype.kind != "f":
        return array.tolist()
    with np.errstate(over="ignore"):
        array = array.astype(np.float32)
    finite = np.isfinite(array)
    if not finite.all():
        place = "".join(f"[{i}]" for i in np.argwhere(~finite)[0])
        raise RequestError("a number is not finite in float32", code="not_finite", where=f"{where}{place}")
    return array.tolist()


def numbers(x: object) -> int:
    """How many numbers a sequence holds, nearly: what a request is measured by."""
    return x.size if isinstance(x, np.ndarray) else len(x) if isinstance(x, str) else np.asarray(x).size


def encode(body: Mapping[str, Any]) -> bytes:
    """A JSON body."""
    return json.dumps(body, separators=(",", ":"), allow_nan=False).encode()


def query_of(options: Mapping[str, Any]) -> dict[str, str]:
    """Options as a query string has them."""
    return {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in options.items()}


def read_json(response: httpx.Response) -> Any:
    """Raises BadAnswer for what is not JSON."""
    try:
        return response.json()
    except ValueError as error:
        detail = f"the answer is not JSON: {response.text[:200]}"
        raise BadAnswer(detail, status=response.status_code) from error


def is_binary(response: httpx.Response) -> bool:
    return str(response.headers.get("content-type", "")).startswith(BINARY)


def read_array(response: httpx.Response) -> Floats:
    """The float32 array of a binary answer, in the shape that its header says. Raises BadAnswer."""
    try:
        shape = [int(part) for part in response.headers["elman-shape"].split(",") if part]
        return np.frombuffer(response.content, "<f4").reshape(shape).astype(np.float32, copy=False)
    except (KeyError, ValueError) as error:
        raise BadAnswer(f"a binary answer without its shape: {error}", status=response.status_code) from error


def error_in(response: httpx.Response) -> ElmanError:
    """The error that a read answer stands for."""
    try:
        problem = response.json()
    except ValueError:
        problem = None
    retry_after = seconds_of(response.headers.get("retry-after"))
    return error_of(response.status_code, problem, response.text, retry_after)


def seconds_of(retry_after: str | None) -> float | None:
    """A Retry-After header in seconds: it may be a number or a date."""
    if retry_after is None:
        return None
    try:
        seconds = float(retry_after)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(retry_after) - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError):
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None
