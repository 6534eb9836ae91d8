"""Requests whose answers are fed back: generate, forecast and influence."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import msgspec
import numpy as np

from elman.codec.arrays import features_array, finite, text_array, tokens_array
from elman.codec.json import JSONDecoder, body_decoder, decode_body
from elman.codec.request import brief, check_options
from elman.errors import EmptySequence, InvalidField, TooLong, WrongFeatures
from elman.repository.feeding import axes_of
from elman.repository.model import Model
from elman.repository.network import Array
from elman.repository.spec import GenerationSpec

MAX_SAMPLES = 1000
MAX_QUANTILES = 100
# Tokens that the samples of one request may have in all.
MAX_TOKENS = 1_000_000
_MAX_STOPS = 16
_MAX_STOP = 256


@dataclass(slots=True)
class GenerateRequest:
    """A prompt to write on from.

    `prompt` is token ids `(length,)`, the one that stands for the condition or the start included; it may be empty
    where a session or a state token says where to go on.
    """

    prompt: Array
    session: str | None
    state: str | None
    max_steps: int
    temperature: float
    top_k: int
    top_p: float
    seed: int | None
    samples: int
    stop: tuple[str, ...]
    stream: bool
    return_state: bool
    timeout: float | None


@dataclass(slots=True)
class ForecastRequest:
    """A series to carry on: `(length, features)` in the data's own units, None where there is only a state.

    `future` holds what is known ahead, `(horizon or more, known)`.
    """

    series: Array | None
    session: str | None
    state: str | None
    horizon: int
    samples: int
    quantiles: tuple[float, ...]
    seed: int | None
    future: Array | None
    paths: bool
    timeout: float | None


@dataclass(slots=True)
class InfluenceRequest:
    """A sequence whose steps are withheld one by one, and the output that is looked at; None for the best one."""

    sequence: Array
    target: int | None
    state: str | None
    decode: bool
    top: int
    timeout: float | None


class _Where(msgspec.Struct):
    session: Any = None
    state: Any = None


_WHERE = msgspec.json.Decoder(_Where)


def session_in(content: bytes) -> str | None:
    """The session that a request goes on from, read before anything else: it decides the version that is asked."""
    try:
        where = _WHERE.decode(content)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return None  # what is wrong with it is told when all of it is read
    return where.session if isinstance(where.session, str) and where.state is None else None


class LoopDecoder:
    """Decodes these requests for one model."""

    def __init__(self, model: Model, decoder: JSONDecoder) -> None:
        self.model = model
        self._decoder = decoder

    @cached_property
    def _generate(self) -> Any:
        return body_decoder(
            ("prompt", list[int] | str | None, None),
            ("condition", str | None, None),
            ("session", str | None, None),
            ("state", str | None, None),
            ("max_steps", int, 100),
            ("temperature", float, 1.0),
            ("top_k", int, 0),
            ("top_p", float, 1.0),
            ("seed", int | None, None),
            ("samples", int, 1),
            ("stop", list[str] | str, []),
            ("stream", bool, False),
            ("return_state", bool, False),
            ("timeout", float | None, None),
        )

    @cached_property
    def _forecast(self) -> Any:
        return body_decoder(
            ("series", self._decoder.item | None, None),
            ("session", str | None, None),
            ("state", str | None, None),
            ("horizon", int, 24),
            ("samples", int, 0),
            ("quantiles", list[float], msgspec.field(default_factory=lambda: [0.1, 0.5, 0.9])),
            ("seed", int | None, None),
            ("future", list[list[float] | float] | None, None),
            ("paths", bool, False),
            ("timeout", float | None, None),
        )

    @cached_property
    def _influence(self) -> Any:
        return body_decoder(
            ("sequence", self._decoder.item),
            ("target", str | int | None, None),
            ("state", str | None, None),
            ("decode", bool, True),
            ("top", int, 3),
            ("timeout", float | None, None),
        )

    def generate(self, content: bytes) -> GenerateRequest:
        """Raises RequestError with the place of the first fault."""
        body = decode_body(self._generate, content)
        check_options(1, body.timeout)
        _check_one_start(body)
        stop = (body.stop,) if isinstance(body.stop, str) else tuple(body.stop)
        if len(stop) > _MAX_STOPS or any(not 0 < len(text) <= _MAX_STOP for text in stop):
            raise InvalidField(
                "stop holds too many texts, or one that is empty or too long",
                where="stop",
                expected=f"at most {_MAX_STOPS} texts of 1 to {_MAX_STOP} characters",
            )
        _check_range("max_steps", body.max_steps, 1, self._decoder.limits.max_steps)
        _check_range("temperature", body.temperature, 0.0, 100.0)
        _check_range("top_k", body.top_k, 0, 2**31)
        if not 0.0 < body.top_p <= 1.0:
            raise InvalidField(f"top_p is {body.top_p:g}", where="top_p", expected="more than 0, at most 1")
        _check_range("samples", body.samples, 1, MAX_SAMPLES)
        if body.samples * body.max_steps > MAX_TOKENS:
            raise TooLong(
                f"{body.samples} samples of {body.max_steps} steps are {body.samples * body.max_steps} tokens",
                where="samples" if body.samples > 1 else "max_steps",
                expected=f"at most {MAX_TOKENS} tokens in all",
            )
        return GenerateRequest(
            self._prompt(body),
            body.session,
            body.state,
            body.max_steps,
            body.temperature,
            body.top_k,
            body.top_p,
            _seed(body.seed),
            body.samples,
            stop,
            body.stream,
            body.return_state,
            body.timeout,
        )

    def _prompt(self, body: Any) -> Array:
        """Token ids, the one that begins the sequence first where it begins here."""
        format, limits = self._decoder.format, self._decoder.limits
        spec = self.model.spec.generation or GenerationSpec()
        first: list[str] = []
        if body.condition is not None:
            if body.condition not in spec.conditions:
                raise InvalidField(
                    f"there is no condition {body.condition!r}",
                    where="condition",
                    expected=list(spec.conditions) or "none: the model has no conditions",
                )
            first = [spec.conditions[body.condition]]
        elif spec.start is not None and body.session is None and body.state is None:
            first = [spec.start]
        ids = format.token_ids or {}
        begun = np.array([ids[token] for token in first], format.numpy_dtype)
        prompt = begun[:0]
        if body.prompt:
            convert = text_array if isinstance(body.prompt, str) else tokens_array
            prompt = convert(body.prompt, format, "prompt", limits)
        whole = np.concatenate([begun, prompt])
        if not len(whole) and body.session is None and body.state is None:
            raise EmptySequence("there is nothing to write on from", where="prompt", expected="a text, or token ids")
        return whole

    def forecast(self, content: bytes) -> ForecastRequest:
        """Raises RequestError with the place of the first fault."""
        body = decode_body(self._forecast, content)
        check_options(1, body.timeout)
        _check_one_start(body)
        if body.series is None and body.session is None and body.state is None:
            raise InvalidField("there is no series to carry on", where="series", expected="a series, session or state")
        _check_range("horizon", body.horizon, 1, 100_000)
        _check_range("samples", body.samples, 0, MAX_SAMPLES)
        if len(body.quantiles) > MAX_QUANTILES or not all(0.0 < one < 1.0 for one in body.quantiles):
            raise InvalidField(
                "quantiles must lie between 0 and 1", where="quantiles", expected=f"at most {MAX_QUANTILES} of them"
            )
        series = None
        if body.series is not None:
            series = features_array(body.series, self._decoder.format, "series", self._decoder.limits)
        return ForecastRequest(
            series,
            body.session,
            body.state,
            body.horizon,
            body.samples,
            tuple(body.quantiles),
            _seed(body.seed),
            self._future(body),
            body.paths,
            body.timeout,
        )

    def _future(self, body: Any) -> Array | None:
        """What is known ahead, checked against the model: as many rows as the horizon, or more."""
        known = axes_of(self.model).known
        rows = body.future
        if not known:
            if rows:
                raise InvalidField("the model knows nothing ahead", where="future", expected="nothing")
            return None
        names = self.model.spec.input.names
        wanted = f"{body.horizon} rows of {len(known)}" + (
            f": {', '.join(names[index] for index in known)}" if names else ""
        )
        if rows is None or len(rows) < body.horizon:
            raise InvalidField(f"future has {0 if rows is None else len(rows)} rows", where="future", expected=wanted)
        rows = [[row] if isinstance(row, float) else row for row in rows]
        for index, row in enumerate(rows):
            if len(row) != len(known):
                raise WrongFeatures(f"the row has {len(row)} values", where=f"future[{index}]", expected=wanted)
        return finite(np.array(rows, np.float64), np.dtype(np.float32), "future")

    def influence(self, content: bytes) -> InfluenceRequest:
        """Raises RequestError with the place of the first fault."""
        body = decode_body(self._influence, content)
        check_options(body.top, body.timeout)
        sequence = self._decoder.array(body.sequence, "sequence")
        target = self._target(body.target)
        return InfluenceRequest(sequence, target, body.state, body.decode, body.top, body.timeout)

    def _target(self, target: str | int | None) -> int | None:
        size = self.model.network.output_size
        if target is None or isinstance(target, int):
            if target is not None and not 0 <= target < size:
                raise InvalidField(f"there is no output {brief(target)}", where="target", expected=f"0 to {size - 1}")
            return target
        decoder = self.model.spec.decoder
        names = decoder.labels if decoder is not None and decoder.kind == "labels" else None
        if decoder is not None and decoder.kind == "tokens":
            names = self.model.spec.input.vocabulary
        if names is None or target not in names:
            raise InvalidField(
                f"there is no label {target!r}", where="target", expected=list(names or ())[:100] or "a number"
            )
        return names.index(target)


def _check_one_start(body: Any) -> None:
    if body.session is not None and body.state is not None:
        raise InvalidField("session and state cannot both be given", where="state", expected="one of them")


def _check_range(name: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:  # nor does NaN lie between them
        raise InvalidField(f"{name} is {brief(value)}", where=name, expected=f"{least:g} to {most:g}")


def _seed(seed: int | None) -> int | None:
    if seed is not None and not 0 <= seed < 2**63:
        raise InvalidField(f"seed is {brief(seed)}", where="seed", expected="0 or more, below 2**63")
    return seed
