"""Responses as values, with arrays where the server has arrays.

Every class reads itself from the server's JSON. It ignores fields that it does not know, since a newer server may have
more of them.
"""

from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from importlib import import_module
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from elman.client import notebooks

Floats = NDArray[np.float32]
Values = NDArray[np.float64]

Readers = Mapping[str, Callable[[Any], Any]]
"""Functions that turn the JSON value of a field into its type. A field that has none keeps its JSON value."""


def _float32(values: Any) -> Floats:
    return np.array(values, np.float32)


def _float64(values: Any) -> Values:
    return np.array(values, np.float64)


def _rows(rows: list[Any]) -> Floats:
    """Rows as float32; no rows as an array of the shape `(0, 0)`."""
    return np.array(rows, np.float32) if rows else np.zeros((0, 0), np.float32)


def _head(rows: Any) -> NDArray[Any]:
    array = np.array(rows)
    return array.astype(np.float32) if array.dtype.kind == "f" else array


def _sequence(sequence: Any) -> str | NDArray[Any]:
    if isinstance(sequence, str):
        return sequence
    array = np.array(sequence)
    return array if array.dtype.kind == "i" and array.ndim == 1 else array.astype(np.float32)


def _unknown(listed: list[Mapping[str, Any]]) -> dict[str, int]:
    return {one["character"]: one["count"] for one in listed}


def _quantiles(quantiles: Mapping[str, Any]) -> dict[float, Values]:
    return {float(share): _float64(rows) for share, rows in quantiles.items()}


class _FromJson:
    """Reads a dataclass from JSON. A field without a default has to be there."""

    __slots__ = ()
    _readers: ClassVar[Readers] = {}

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Self:
        """Read the server's JSON. Raises KeyError, TypeError or ValueError if it is not of this kind."""
        values: dict[str, Any] = {}
        for one in fields(cls):  # type: ignore[arg-type]  # every subclass is a dataclass
            if raw.get(one.name) is not None:
                values[one.name] = cls._readers.get(one.name, lambda value: value)(raw[one.name])
            elif one.default is MISSING and one.default_factory is MISSING:
                values[one.name] = raw[one.name]
        return cls(**values)


@dataclass(frozen=True, slots=True)
class Card(_FromJson):
    """What a client needs to know of a model.

    Attributes:
        name, version: the model, and the version that this card describes.
        versions: every version that is served.
        cell, layers, hidden_size, direction: its recurrent layers.
        streaming: whether its state can be carried from one request to the next, as sessions do.
        digest: identifies the model file.
        input, output, state, batching: objects of the card, such as `card.input["size"]`.
        inputs, outputs: every input and output of the graph, with `name`, `role`, `shape`, `dtype` and `found`.
        raw: the whole card as the server sent it.
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
    inputs: list[Mapping[str, Any]]
    outputs: list[Mapping[str, Any]]
    raw: Mapping[str, Any] = field(repr=False)

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Self:
        """Read the server's JSON. Raises KeyError or TypeError if it is not a card."""
        return cls(**{one.name: raw[one.name] for one in fields(cls) if one.name != "raw"}, raw=raw)

    @property
    def labels(self) -> list[str] | None:
        """The labels of the outputs, in their order; None if the model has none."""
        return self.output.get("labels")


@dataclass(frozen=True, slots=True)
class Refusal(_FromJson):
    """A file in the repository that is not served: the reason, and what would repair it."""

    name: str
    reason: str
    version: int | None = None
    remedy: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Example(_FromJson):
    """Held-out data of a model: a sequence to predict from, or a history to forecast from.

    Attributes:
        title: what it is, for a person.
        sequence: text, int64 `(time,)` of token ids, or float32 `(time, features)` or `(time,)`.
        expected: the right label, for a classifier.
        condition: the condition to generate under, for a generator.
        future: for a history: the features of the coming steps that are known ahead, float64 `(horizon, known)`.
        truth: for a history: what really came, float64 `(horizon,)` or `(horizon, outputs)`.
    """

    title: str
    sequence: str | NDArray[Any]
    expected: str | None = None
    condition: str | None = None
    future: Values | None = None
    truth: Values | None = None

    _readers: ClassVar[Readers] = {"sequence": _sequence, "future": _float64, "truth": _float64}


@dataclass(frozen=True, slots=True)
class Ranked:
    """A label or token, and its probability, 0 to 1."""

    label: str
    probability: float


@dataclass(frozen=True, slots=True, eq=False)
class Result(_FromJson):
    """The result for one sequence.

    Attributes:
        length: number of steps.
        output: the last output o_n, float32 `(size,)`; None with `returns="steps"`.
        outputs: all outputs o_1..o_n, float32 `(length, size)`; None with `returns="final"`.
        decoded: what the server decoded the outputs into, as JSON: one item, or a list with one item a step.
        state: the state after the last step as a token; None unless asked for.
        step: steps since the sequence began, over all requests that carried its state on; None if not said.
        hidden: the state tensors after every step by name, each float32 `(length, width)`; None unless asked for.
        heads: the further outputs that were asked for, by name: float32 or int64, `(length, size)` with
            `returns="steps"`, otherwise `(size,)`; always `(size,)` for an output with one row a sequence.
        unknown: the characters of a text that were read as the unknown token, with their counts; at most 20 of them.
    """

    length: int
    output: Floats | None = None
    outputs: Floats | None = None
    decoded: Any = None
    state: str | None = None
    step: int | None = None
    hidden: Mapping[str, Floats] | None = None
    heads: Mapping[str, NDArray[Any]] | None = None
    unknown: Mapping[str, int] = field(default_factory=dict)

    _readers: ClassVar[Readers] = {
        "unknown": _unknown,
        "output": _float32,
        "outputs": _rows,
        "hidden": lambda tensors: {name: _rows(rows) for name, rows in tensors.items()} or None,
        "heads": lambda heads: {name: _head(rows) for name, rows in heads.items()},
    }

    @property
    def label(self) -> str | None:
        """The most likely label or token after the last step; None if the model has no labels."""
        return _label(self._last)

    @property
    def labels(self) -> list[str | None]:
        """The most likely label or token after every step that was returned."""
        return [_label(item) for item in self._items]

    @property
    def probability(self) -> float | None:
        """The probability of `label`, 0 to 1."""
        last = self._last
        return last["probability"] if isinstance(last, Mapping) else None

    @property
    def top(self) -> list[Ranked]:
        """The most likely labels or tokens after the last step, best first."""
        last = self._last
        if not isinstance(last, Mapping):
            return []
        return [Ranked(str(_label(item)), item["probability"]) for item in last["top"]]

    @property
    def probabilities(self) -> dict[str, float]:
        """The probability of each label or token in `top`, 0 to 1, best first."""
        return {one.label: one.probability for one in self.top}

    @property
    def values(self) -> Values | None:
        """The outputs in the data's own units: float64 of the same shape; None if they have no units."""
        if not self._items or isinstance(self._last, Mapping):
            return None
        return np.array(self.decoded, np.float64)

    def _repr_html_(self) -> str:
        return notebooks.of_result(self)

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
    """The result for steps of a session. Its `step` is the step that the session is at now.

    Attributes:
        id: of the session.
        replayed: True if these steps had been done before, and this is their result again.
    """

    id: str
    replayed: bool = False


@dataclass(frozen=True, slots=True)
class SessionInfo(_FromJson):
    """A session as the server holds it.

    Attributes:
        id: with which `Client.session` finds it again.
        model, version: the model that it runs.
        step: steps done; for a model of a signal, samples received.
        expires_at, created_at: in seconds since 1970 (Unix time).
        ttl: seconds from its last step until it expires.
    """

    id: str
    model: str
    version: int
    step: int
    expires_at: float
    ttl: float
    created_at: float | None = None


@dataclass(frozen=True, slots=True)
class RankedToken(_FromJson):
    """A token, its text, and its log-probability. The text is None if the model has no vocabulary."""

    token: int
    logprob: float
    text: str | None = None


def _ranked_tokens(listed: list[Mapping[str, Any]]) -> list[RankedToken]:
    return [RankedToken.from_json(one) for one in listed]


@dataclass(frozen=True, slots=True)
class TokenLogprob(_FromJson):
    """The log-probability of a generated token, and the most probable tokens of its step, best first.

    They are those of the model's own distribution: before `temperature`, `top_k` and `top_p`.
    """

    logprob: float
    top: list[RankedToken]

    _readers: ClassVar[Readers] = {"top": _ranked_tokens}


@dataclass(frozen=True, slots=True)
class Token(_FromJson):
    """One generated token. `str(token)` is its text.

    Text that could be the start of a stop string is held back until that is decided. It then comes with a later token,
    or not at all.

    Attributes:
        sample: index of the sample that it belongs to.
        token: its id; None for text that was held back.
        text: its text.
        logprob: its log-probability; None unless `logprobs` was set.
        top: the most probable tokens of its step, best first; None unless `logprobs` was set.
    """

    sample: int
    token: int | None
    text: str
    logprob: float | None = None
    top: list[RankedToken] | None = None

    _readers: ClassVar[Readers] = {"top": _ranked_tokens}

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class Generated(_FromJson):
    """One generated sample.

    Attributes:
        text: what was generated; None if the model has no vocabulary.
        tokens: its token ids.
        steps: how many tokens were generated.
        reason: why it ended: `stop` (a stop string), `end` (the model's end token) or `length` (`max_steps`).
        state: the state at its end as a token; None unless `return_state` was set.
        cumulative_logprob: the sum of the log-probabilities of its tokens, with that of the end token; None unless
            `logprobs` was set or beams were searched.
        score: of a beam search: `cumulative_logprob / length ** length_penalty`; the length counts the end token.
        logprobs: for each token its log-probability and the most probable ones; None unless `logprobs` was set.
    """

    text: str | None
    tokens: list[int]
    steps: int
    reason: str
    state: str | None = None
    cumulative_logprob: float | None = None
    score: float | None = None
    logprobs: list[TokenLogprob] | None = None

    _readers: ClassVar[Readers] = {"logprobs": lambda listed: [TokenLogprob.from_json(one) for one in listed]}


@dataclass(frozen=True, slots=True)
class Generation(_FromJson):
    """What a model generated: one result a sample. The same request with the same seed gives the same again.

    The results of a beam search are ordered by their score, and `seed` is None.

    `unknown` has the characters of the prompt that were read as the unknown token, with their counts.
    """

    model: str
    version: int
    seed: int | None
    results: list[Generated]
    unknown: Mapping[str, int] = field(default_factory=dict)

    _readers: ClassVar[Readers] = {
        "unknown": _unknown,
        "results": lambda results: [Generated.from_json(one) for one in results],
    }

    @property
    def text(self) -> str | None:
        """The text of the first sample; None if the model has no vocabulary."""
        return self.results[0].text

    @property
    def texts(self) -> list[str | None]:
        """The text of each sample."""
        return [one.text for one in self.results]

    def _repr_html_(self) -> str:
        return notebooks.of_generation(self)


@dataclass(frozen=True, slots=True, eq=False)
class Forecast(_FromJson):
    """The coming steps of a series, in its own units: float64, `(horizon,)` or `(horizon, outputs)` each.

    Attributes:
        horizon: number of steps.
        seed: with which the paths were sampled; None without samples.
        point: the point forecast.
        mean: mean of the sampled paths; None without samples.
        quantiles: quantiles of the sampled paths by their share, such as `quantiles[0.9]`; empty without samples.
        paths: the sampled paths, float64 `(samples, horizon[, outputs])`; None unless `paths` was set.
    """

    model: str
    version: int
    horizon: int
    point: Values
    seed: int | None = None
    mean: Values | None = None
    quantiles: Mapping[float, Values] = field(default_factory=dict)
    paths: Values | None = None

    _readers: ClassVar[Readers] = {"point": _float64, "mean": _float64, "quantiles": _quantiles, "paths": _float64}

    def to_frame(self) -> Any:
        """A data frame of pandas with a row for each step, from 1 on: `point`, `mean`, and the quantiles as `q0.9`.

        With several outputs each column has the number of its output at its end, such as `point_0`.

        Raises:
            ModuleNotFoundError: pandas is not installed.
        """
        pandas = import_module("pandas")
        return pandas.DataFrame(self._columns, index=pandas.RangeIndex(1, self.horizon + 1, name="step"))

    @property
    def _columns(self) -> dict[str, Values]:
        figures = {"point": self.point, **({} if self.mean is None else {"mean": self.mean})}
        figures |= {f"q{share:g}": values for share, values in self.quantiles.items()}
        return {
            name if values.ndim == 1 else f"{name}_{index}": column
            for name, values in figures.items()
            for index, column in enumerate(values.reshape(len(values), -1).T)
        }

    def _repr_html_(self) -> str:
        return notebooks.of_forecast(self, self._columns)


@dataclass(frozen=True, slots=True, eq=False)
class Influence(_FromJson):
    """How much each step of a sequence moves its last output.

    Attributes:
        length: number of steps.
        influence: float64 `(length,)`: how far the last output moves when step k is left out.
        span: the number of last steps that hold 90 % of all influence.
        output: the last output o_n, float32 `(size,)`.
        target: index of the output that was looked at; None for the whole output.
        decoded: what the server decoded the last output into, as JSON.
    """

    model: str
    version: int
    length: int
    influence: Values
    span: int
    output: Floats
    target: int | None = None
    decoded: Any = None

    _readers: ClassVar[Readers] = {"influence": _float64, "output": _float32}

    def _repr_html_(self) -> str:
        return notebooks.of_influence(self)


@dataclass(frozen=True, slots=True)
class IndexEntry(_FromJson):
    """A model version in the repository. Its `state` is READY, or UNAVAILABLE with a `reason`."""

    name: str
    state: str
    version: str | None = None
    reason: str = ""


def _label(item: Any) -> str | None:
    return item.get("label", item.get("token")) if isinstance(item, Mapping) else None
