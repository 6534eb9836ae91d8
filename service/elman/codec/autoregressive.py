"""Decodes the requests of one model for generate, forecast and influence."""

from functools import cached_property
from itertools import chain
from typing import Any

import msgspec
import numpy as np

from elman.codec.faults import brief, decode_body, echoed
from elman.codec.json import JSONDecoder
from elman.codec.limits import MAX_LISTED
from elman.codec.requests import MAX_STEPS, ForecastRequest, GenerateRequest, InfluenceRequest, Origin
from elman.codec.series import Series, SeriesDecoder
from elman.codec.text import Unknown
from elman.engine.sequence import Inputs
from elman.errors import EmptySequence, InvalidField, TooLong
from elman.repository.feeding import driving_of
from elman.repository.model import Model
from elman.repository.network import Array
from elman.repository.spec import GenerationSpec

_ORIGIN = msgspec.json.Decoder(Origin)
_DEFAULTS: GenerateRequest[Any] = GenerateRequest()
# Most scores in one step of a beam search, all beams together: 40 MB of float64.
MAX_BEAM_SCORES = 5_000_000


def session_in(content: bytes) -> str | None:
    """The session that a request starts from. Read first, as the session decides the version of the model."""
    try:
        origin = _ORIGIN.decode(content)
        if bytes(origin.state) != b"null":
            return None
        return msgspec.json.decode(origin.session, type=str)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return None  # there is none, or the full decoding reports the error


class AutoregressiveDecoder:
    """Decodes these requests for one model. Can be pickled, for the codec pool."""

    def __init__(self, model: Model, decoder: JSONDecoder) -> None:
        self._decoder = decoder
        self._generation = model.spec.generation or GenerationSpec()
        errors = None if model.spec.forecast is None else model.spec.forecast.errors
        self._series = SeriesDecoder(decoder, driving_of(model), model.spec.input.names, errors)
        self._output_size = model.network.output_size
        output = model.spec.decoder
        kind = None if output is None else output.kind
        self._output_names = output.labels if output is not None and kind == "labels" else None
        if kind == "tokens":
            self._output_names = model.spec.input.vocabulary

    @cached_property
    def _generate(self) -> Any:
        return msgspec.json.Decoder(GenerateRequest[self._decoder.static])  # type: ignore[name-defined]

    def generate(self, content: bytes) -> tuple[GenerateRequest[Any], Inputs]:
        """A generate request and its prompt, token ids `(length,)`.

        The first token of the prompt is the start or condition token, if there is one. The prompt may be empty if the
        request starts from a session or a state token. Raises RequestError with the `where` of the first error.
        """
        request: GenerateRequest[Any] = decode_body(self._generate, content)
        _check_together(request)
        _check_beams(request, self._output_size)
        _check_tokens(request)
        statics = self._statics(request)
        prompt, unknown = self._prompt(request)
        return request, Inputs(prompt, (), statics, unknown)

    def _statics(self, request: GenerateRequest[Any] | InfluenceRequest[Any, Any]) -> Any:
        """The static inputs of a request; none if its state or session holds them. Raises RequestError."""
        held = request.state is not None or getattr(request, "session", None) is not None
        static, request.static = request.static, None
        return self._decoder.statics(static, held=held)

    def _prompt(self, request: GenerateRequest[Any]) -> tuple[Array, Unknown]:
        format, spec = self._decoder.format, self._generation
        has_state = request.session is not None or request.state is not None
        first: list[str] = []
        if request.condition is not None:
            if request.condition not in spec.conditions:
                raise InvalidField(
                    f"there is no condition {echoed(request.condition)!r}",
                    where="condition",
                    expected=list(spec.conditions) or "none: the model has no conditions",
                )
            first = [spec.conditions[request.condition]]
        elif spec.start is not None and not has_state:
            first = [spec.start]
        ids = format.token_ids or {}
        start = np.array([ids[token] for token in first], format.numpy_dtype)
        prompt, unknown = self._decoder.read(request.prompt, "prompt") if request.prompt else (start[:0], ())
        whole = np.concatenate([start, prompt])
        if not len(whole) and not has_state:
            raise EmptySequence("there is no prompt to start from", where="prompt", expected="a text, or token ids")
        return whole, unknown

    @cached_property
    def _forecast(self) -> Any:
        return msgspec.json.Decoder(ForecastRequest[self._series.decoder.item, self._series.decoder.static])  # type: ignore[name-defined]

    def forecast(self, content: bytes) -> tuple[ForecastRequest[Any, Any], list[Series], int]:
        """A forecast request, its series, and its horizon. Raises RequestError with the `where` of the first error."""
        request: ForecastRequest[Any, Any] = decode_body(self._forecast, content)
        _check_together(request)
        if request.quantiles and not request.samples:
            raise InvalidField("quantiles are those of sampled paths", where="samples", expected="1 or more")
        _check_quantiles(request.levels)
        horizon = self._series.horizon if request.horizon is None else request.horizon
        series = self._series.decode(request, horizon)
        request.series, request.series_list = None, [None] if request.many else None
        request.static = request.future = None
        return request, series, horizon

    @cached_property
    def _influence(self) -> Any:
        return msgspec.json.Decoder(InfluenceRequest[self._decoder.item, self._decoder.static])  # type: ignore[name-defined]

    def influence(self, content: bytes) -> tuple[InfluenceRequest[Any, Any], Inputs, int | None]:
        """An influence request, its sequence, and the index of its target output; None for all outputs.

        Raises RequestError with the `where` of the first error.
        """
        request: InfluenceRequest[Any, Any] = decode_body(self._influence, content)
        inputs = self._decoder.inputs(request.sequence, "sequence", self._statics(request))
        request.sequence = None
        return request, inputs, self._target(request.target)

    def _target(self, target: str | int | None) -> int | None:
        size, names = self._output_size, self._output_names
        if target is None or isinstance(target, int):
            if target is not None and not 0 <= target < size:
                raise InvalidField(f"there is no output {brief(target)}", where="target", expected=f"0 to {size - 1}")
            return target
        if names is None or target not in names:
            raise InvalidField(
                f"there is no label {echoed(target)!r}", where="target", expected=list(names or ())[:100] or "a number"
            )
        return names.index(target)

    def __getstate__(self) -> dict[str, Any]:
        return {
            name: value for name, value in self.__dict__.items() if name not in ("_generate", "_forecast", "_influence")
        }


def _check_quantiles(levels: list[float]) -> None:
    """Raise InvalidField if a quantile is listed twice."""
    if len(set(levels)) < len(levels):
        index = next(index for index, level in enumerate(levels) if level in levels[:index])
        raise InvalidField(
            f"the quantile {levels[index]} is listed twice", where=f"quantiles[{index}]", expected="each quantile once"
        )


def _check_together(request: GenerateRequest[Any] | ForecastRequest[Any, Any]) -> None:
    """Raise InvalidField if of the fields that say where to start too few or too many are given."""
    names = dict.fromkeys(chain(*request.together))
    given = tuple(name for name in names if getattr(request, name) is not None)
    if given not in request.together:
        detail = f"{' and '.join(given)} cannot be given together" if given else f"there is no {' or '.join(names)}"
        raise InvalidField(
            detail, where=given[-1] if given else next(iter(names)),
            expected=[" and ".join(one) for one in request.together if one],
        )  # fmt: skip


def _check_beams(request: GenerateRequest[Any], vocabulary_size: int) -> None:
    """Raise InvalidField for an option that has no meaning with beam search, or without it."""
    if request.num_beams == 1:
        for name in request.searching:
            if getattr(request, name) != getattr(_DEFAULTS, name):
                raise InvalidField(f"{name} is of beam search", where="num_beams", expected="2 to 64")
        return
    for name in request.drawing:
        if getattr(request, name) != getattr(_DEFAULTS, name):
            raise InvalidField(f"beam search draws and streams nothing, so it takes no {name}", where=name)
    if request.num_return_sequences > request.num_beams:
        raise InvalidField(
            f"{request.num_beams} beams cannot give {request.num_return_sequences} texts",
            where="num_return_sequences",
            expected=f"1 to {request.num_beams}",
        )
    if request.num_beams * vocabulary_size > MAX_BEAM_SCORES:
        raise TooLong(
            f"{request.num_beams} beams of {vocabulary_size} tokens are too many scores for one step",
            where="num_beams",
            expected=f"at most {max(1, MAX_BEAM_SCORES // vocabulary_size)}",
        )


def _check_tokens(request: GenerateRequest[Any]) -> None:
    """Raise TooLong if too many tokens would be generated, or listed."""
    word, num_rows = ("samples", request.samples) if request.num_beams == 1 else ("num_beams", request.num_beams)
    tokens = num_rows * request.max_steps
    if tokens > MAX_STEPS:
        raise TooLong(
            f"{num_rows} {word.removeprefix('num_')} of {request.max_steps} steps are {tokens} tokens",
            where=word if num_rows > 1 else "max_steps",
            expected=f"at most {MAX_STEPS} tokens in all",
        )
    if request.logprobs is not None and tokens * (1 + request.logprobs) > MAX_LISTED:
        raise TooLong(
            f"{tokens} tokens with {request.logprobs} others each are too many to list",
            where="logprobs",
            expected=f"at most {MAX_LISTED} tokens listed in all",
        )
