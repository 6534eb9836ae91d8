"""Answers as values: arrays where the server has arrays, and what it decoded them into."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Card:
    """What a client needs to know of a model; `raw` is the whole card as the server gave it.

    `input`, `output`, `state` and `batching` are objects of the card: `card.input["size"]`.
    """

    name: str
    version: int
    versions: list[int]
    task: str
    cell: str
    layers: int
    hidden_size: int
    direction: str
    streaming: bool
    digest: str
    input: Mapping[str, Any]
    output: Mapping[str, Any]
    state: Mapping[str, Any]
    batching: Mapping[str, Any]
    raw: Mapping[str, Any] = field(repr=False)

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> "Card":
        names = [name for name in cls.__slots__ if name != "raw"]
        return cls(**{name: raw[name] for name in names}, raw=raw)

    @property
    def labels(self) -> list[str] | None:
        """The labels of its outputs, in order, where it has any."""
        return self.output.get("labels")


@dataclass(frozen=True, slots=True)
class Refusal:
    """A file in the repository that is not served: why, and what would mend it."""

    name: str
    version: int | None
    reason: str
    remedy: str | None = None

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> "Refusal":
        return cls(raw["name"], raw.get("version"), raw["reason"], raw.get("remedy"))


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """Real held-out data of a model: a sequence to predict from, or a history to forecast from.

    Attributes:
        sequence: text, `(time,)` integer tokens, or float32 `(time, features)` or `(time,)`.
        expected: what is right, where one word says it.
        condition: of the beginning of a text: what to write on under.
        future, truth: of a history: the known features of the steps to come, and what came.
    """

    title: str
    sequence: str | NDArray[Any]
    expected: str | None = None
    condition: str | None = None
    future: Values | None = None
    truth: Values | None = None

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> "Example":
        sequence = raw["sequence"]
        return cls(
            title=raw["title"],
            sequence=sequence if isinstance(sequence, str) else _numbers(sequence),
            expected=raw.get("expected"),
            condition=raw.get("condition"),
            future=_values(raw.get("future")),
            truth=_values(raw.get("truth")),
        )


@dataclass(frozen=True, slots=True)
class Ranked:
    """A label or token, and its probability."""

    label: str
    probability: float


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """The answer for one sequence.

    Attributes:
        length: steps done.
        output: o_n, float32 `(size,)`, where the final output was asked for.
        outputs: o_1..o_n, float32 `(length, size)`, where every step's was.
        decoded: what the server decoded them into, as it came: one item, or one a step.
        state: the state after the last step as a token, where it was asked for.
        step: steps done since the sequence's very beginning, where the answer says it.
        hidden: the state tensors after every step, float32 `(length, width)`, by name, where they were asked for.
    """

    length: int
    output: Floats | None = None
    outputs: Floats | None = None
    decoded: Any = None
    state: str | None = None
    step: int | None = None
    hidden: Mapping[str, Floats] | None = None

    @classmethod
    def of(cls, raw: Mapping[str, Any], **more: Any) -> Any:
        outputs = raw.get("outputs")
        return cls(
            length=raw["length"],
            output=None if raw.get("output") is None else np.array(raw["output"], np.float32),
            outputs=None if outputs is None else _rows(outputs),
            decoded=raw.get("decoded"),
            state=raw.get("state"),
            step=raw.get("step"),
            hidden={name: _rows(rows) for name, rows in raw["hidden"].items()} if raw.get("hidden") else None,
            **more,
        )

    @property
    def label(self) -> str | None:
        """The best label or token of the last step; None where there is none."""
        return _label(self._last)

    @property
    def labels(self) -> list[str | None]:
        """The best label or token of every step that was answered."""
        return [_label(item) for item in self._items]

    @property
    def probability(self) -> float | None:
        """The probability of `label`."""
        last = self._last
        return last["probability"] if isinstance(last, Mapping) else None

    @property
    def top(self) -> list[Ranked]:
        """The best labels or tokens of the last step, best first."""
        last = self._last
        if not isinstance(last, Mapping):
            return []
        return [Ranked(str(_label(item)), item["probability"]) for item in last["top"]]

    @property
    def values(self) -> Values | None:
        """The outputs in the data's own units, float64, shaped as they are; None where they have none."""
        if not self._items or isinstance(self._last, Mapping):
            return None
        return np.array(self.decoded, np.float64)

    @property
    def _items(self) -> list[Any]:
        if self.decoded is None:
            return []
        return list(self.decoded) if self.outputs is not None else [self.decoded]

    @property
    def _last(self) -> Any:
        return self._items[-1] if self._items else None


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class StepResult(Result):
    """The answer to steps of a session: a Result, whose `step` is where the session is now.

    `replayed` says that the steps had been done already, and that this is their answer once more.
    """

    id: str
    replayed: bool = False


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """A session as the server holds it. Times are seconds since the epoch; `ttl` is seconds from its last change."""

    id: str
    model: str
    version: int
    step: int
    expires_at: float
    ttl: float
    created_at: float | None = None

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> "SessionInfo":
        names = ("id", "model", "version", "step", "expires_at", "ttl")
        return cls(**{name: raw[name] for name in names}, created_at=raw.get("created_at"))


@dataclass(frozen=True, slots=True)
class Token:
    """One generated token, as it comes: `str(token)` is its text.

    Text that a `stop` may yet take back is held until it may not: then it comes with a later token, or without one.
    """

    sample: int
    token: int | None
    text: str

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class Generated:
    """One generated sequence: `reason` is `stop`, `end` or `length`."""

    text: str | None
    tokens: list[int]
    steps: int
    reason: str
    state: str | None = None

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> "Generated":
        return cls(raw["text"], raw["tokens"], raw["steps"], raw["reason"], raw.get("state"))


@dataclass(frozen=True, slots=True)
class Generation:
    """What a model wrote: one result a sample. The same seed and request give the same again."""

    model: str
    version: int
    seed: int
    results: list[Generated]

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> "Generation":
        return cls(raw["model"], raw["version"], raw["seed"], [Generated.of(one) for one in raw["results"]])

    @property
    def text(self) -> str | None:
        """The text of the first sample; None where the model has no vocabulary."""
        return self.results[0].text

    @property
    def texts(self) -> list[str | None]:
        """The text of each sample."""
        return [one.text for one in self.results]


@dataclass(frozen=True, slots=True, eq=False)
class Forecast:
    """What is to come, in the series' own units: float64, `(horizon,)` or `(horizon, outputs)`.

    Attributes:
        point: each step from the model's most likely past.
        mean, quantiles: over the sampled paths, where there were any; quantiles by their share, such as 0.9.
        paths: `(samples, horizon[, outputs])`, where they were asked for.
    """

    model: str
    version: int
    horizon: int
    seed: int | None
    point: Values
    mean: Values | None
    quantiles: Mapping[float, Values]
    paths: Values | None

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> "Forecast":
        quantiles = raw.get("quantiles") or {}
        return cls(
            model=raw["model"],
            version=raw["version"],
            horizon=raw["horizon"],
            seed=raw.get("seed"),
            point=np.array(raw["point"], np.float64),
            mean=_values(raw.get("mean")),
            quantiles={float(share): np.array(rows, np.float64) for share, rows in quantiles.items()},
            paths=_values(raw.get("paths")),
        )


@dataclass(frozen=True, slots=True, eq=False)
class Influence:
    """How far each step reaches into the last output.

    Attributes:
        influence: float64 `(length,)`: how far the output moves when step k is withheld.
        span: how many last steps hold 90 % of it all.
        target: the index of the output that was looked at; None for the whole output.
        output: o_n, float32 `(size,)`; decoded: what the server decoded it into.
    """

    model: str
    version: int
    length: int
    influence: Values
    span: int
    target: int | None
    output: Floats
    decoded: Any

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> "Influence":
        return cls(
            model=raw["model"],
            version=raw["version"],
            length=raw["length"],
            influence=np.array(raw["influence"], np.float64),
            span=raw["span"],
            target=raw.get("target"),
            output=np.array(raw["output"], np.float32),
            decoded=raw.get("decoded"),
        )


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """One model version in the repository: READY, or UNAVAILABLE with the reason."""

    name: str
    version: str | None
    state: str
    reason: str = ""

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> "IndexEntry":
        return cls(raw["name"], raw.get("version"), raw["state"], raw.get("reason", ""))


def _label(item: Any) -> str | None:
    return item.get("label", item.get("token")) if isinstance(item, Mapping) else None


def _rows(rows: list[Any]) -> Floats:
    """Rows as float32; none of them as `(0, 0)`."""
    return np.array(rows, np.float32) if rows else np.zeros((0, 0), np.float32)


def _numbers(sequence: list[Any]) -> NDArray[Any]:
    made = np.array(sequence)
    return made if made.dtype.kind == "i" and made.ndim == 1 else made.astype(np.float32)


def _values(rows: list[Any] | None) -> Values | None:
    return None if rows is None else np.array(rows, np.float64)
