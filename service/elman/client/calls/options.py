"""The options of requests. Each default is the server's own, so only options that differ from it are sent."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from math import isfinite
from typing import Any, Literal

from numpy.typing import ArrayLike

from elman.client.config import Timeout
from elman.client.inputs import listed
from elman.client.wire import StaticLike, plain, to_json_statics

Returns = Literal["final", "steps"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Options that every request has. The server is told the timeout, so that it stops when its caller does."""

    timeout: Timeout | float | None = None

    def __post_init__(self) -> None:
        for field in fields(self):  # what a generator gives is read for each of several requests
            value = getattr(self, field.name)
            if isinstance(value, Iterator):
                object.__setattr__(self, field.name, listed(value))

    def body(self) -> dict[str, Any]:
        """The options as fields of a request's body, without those that have their default."""
        given = {field.name: plain(getattr(self, field.name)) for field in fields(self) if self._is_given(field)}
        if "static" in given:
            given["static"] = to_json_statics(given["static"])
        if "heads" in given:
            given["heads"] = [given["heads"]] if isinstance(given["heads"], str) else list(given["heads"])
        if not given.get("heads", True):
            del given["heads"]
        if "returns" in given:
            given["return"] = given.pop("returns")
        given["timeout"] = None if self.timeout is None else Timeout().override(self.timeout).total
        if given["timeout"] is None or not isfinite(given["timeout"]):
            del given["timeout"]
        return given

    def _is_given(self, field: Any) -> bool:
        value = getattr(self, field.name)
        # An array is compared with None only, since `!=` would compare it element by element.
        return value is not None and (field.default is None or value != field.default)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepOptions(Options):
    returns: Returns = "final"
    decode: bool = True
    top: int = 3
    heads: Sequence[str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictOptions(StepOptions):
    static: StaticLike | Sequence[StaticLike] | None = None
    return_state: bool = False
    hidden: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateOptions(Options):
    condition: str | None = None
    max_steps: int = 100
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int | None = None
    samples: int = 1
    stop: str | Sequence[str] | None = None
    num_beams: int = 1
    num_return_sequences: int = 1
    length_penalty: float = 1.0
    early_stopping: bool = False
    logprobs: int | None = None
    session: str | None = None
    state: str | None = None
    static: StaticLike | None = None
    return_state: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ForecastOptions(Options):
    horizon: int | None = None
    samples: int = 0
    quantiles: Sequence[float] | None = None
    seed: int | None = None
    future: ArrayLike | Mapping[str, ArrayLike] | Sequence[ArrayLike | Mapping[str, ArrayLike]] | None = None
    paths: bool = False
    session: str | None = None
    state: str | None = None
    static: StaticLike | Sequence[StaticLike] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class InfluenceOptions(Options):
    target: str | int | None = None
    state: str | Sequence[str] | None = None
    static: StaticLike | Sequence[StaticLike] | None = None
    decode: bool = True
    top: int = 3
