"""Calls for one model."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeGuard, TypeVar, cast

import httpx
import numpy as np
from numpy.typing import ArrayLike

from elman.client.calls.call import Call, CallFactory, json_call, part_of_path
from elman.client.calls.options import ForecastOptions, GenerateOptions, InfluenceOptions, PredictOptions
from elman.client.calls.session import SessionCalls, read_session
from elman.client.config import Batching, Timeout
from elman.client.inputs import Read, listed, read_values
from elman.client.results import Card, Example, Forecast, Generation, Influence, Result
from elman.client.wire import (
    BINARY,
    EVENTS,
    JSON,
    AcceptedShapes,
    Prompt,
    StaticLike,
    binary_fields,
    count_numbers,
    encode_json,
    is_binary,
    numbers,
    read_json,
    steps_are_known,
    to_json_statics,
    to_json_value,
    to_query,
)

T = TypeVar("T")

# A longer state token is not sent in a header, since proxies and servers limit their length.
_MAX_HEADER = 4096


class ModelCalls:
    """Calls for one model. They remember which shapes it accepted, so that later arrays can be sent as bytes."""

    def __init__(self, name: str, version: int | None = None, shapes: AcceptedShapes | None = None) -> None:
        self.name = name
        pinned = "" if version is None else f"/versions/{version}"
        self.path = f"/v1/models/{part_of_path(name, 'the name of a model')}{pinned}"
        self._shapes = shapes or AcceptedShapes()

    def card(self) -> Call[Card]:
        return Call("GET", self.path, lambda response: Card.from_json(read_json(response)))

    def examples(self) -> Call[list[Example]]:
        return Call(
            "GET",
            f"{self.path}/examples",
            lambda response: [Example.from_json(one) for one in read_json(response)["examples"]],
        )

    def predict(self, x: Read, state: str | None, options: PredictOptions) -> Call[Result]:
        """The call of `predict_one`, made when it is sent: by then the model may have accepted the shape."""
        _check_one(state, options.static)
        late = partial(self.predict_one, x, state, options)
        return Call("POST", f"{self.path}/predict", _not_sent, timeout=options.timeout, late=late)

    def predict_one(self, x: Read, state: str | None, options: PredictOptions) -> Call[Result]:
        path, timeout = f"{self.path}/predict", options.timeout
        only_json = options.hidden or options.static is not None or options.heads or len(state or "") > _MAX_HEADER
        content = None if only_json else self._shapes.to_bytes(x)
        if content is None:
            body = {"sequence": to_json_value(x, "sequence"), **options.body(), "state": state}
            read = partial(self._read_first, x)
            return json_call("POST", path, read, body, timeout=timeout, sequences=(x,))
        as_bytes = not options.decode and not options.return_state and steps_are_known(x, options.returns)
        headers = {"content-type": BINARY, "accept": BINARY if as_bytes else JSON}
        if state is not None:
            headers["elman-state"] = state
        return Call(
            "POST",
            path,
            lambda response: _read_result(response, len(x)),
            query=to_query(options.body()),
            content=content,
            headers=headers,
            timeout=timeout,
            sequences=(x,),
        )

    def _read_first(self, x: Read, response: httpx.Response) -> Result:
        result = _read_result(response, len(x))
        self._shapes.add(x)
        return result

    def predict_many(
        self,
        sequences: Sequence[Read],
        state: str | Sequence[str] | None,
        options: PredictOptions,
        batching: Batching,
    ) -> list[CallFactory[list[Result]]]:
        """The requests that a list of sequences is cut into, in order.

        Raises ValueError if there are too few or too many states or static inputs.
        """
        state = listed(state)
        _check_numbers(state, options.static, len(sequences))

        def make(begin: int, end: int) -> Call[list[Result]]:
            own = replace(options, static=_part(options.static, begin, end))
            return self._predict_part(sequences, begin, end, _part(state, begin, end), own)

        return [partial(make, begin, end) for begin, end in cut(sequences, batching)]

    def _predict_part(
        self,
        sequences: Sequence[Read],
        begin: int,
        end: int,
        states: str | list[str] | None,
        options: PredictOptions,
    ) -> Call[list[Result]]:
        first = sequences[begin]
        if end - begin == 1 and options.static is None and self._shapes.has(first):
            one = self.predict_one(first, states[0] if isinstance(states, list) else states, options)
            return replace(_alone(one), offset=begin)

        def parse(response: httpx.Response) -> list[Result]:
            results = [Result.from_json(one) for one in read_json(response)["results"]]
            self._shapes.add(first)
            return results

        part = sequences[begin:end]
        values = [to_json_value(x, f"sequences[{begin + i}]") for i, x in enumerate(part)]
        body, more = {"sequences": values, **options.body(), "state": states}, {"sequences": part, "offset": begin}
        return json_call("POST", f"{self.path}/predict", parse, body, timeout=options.timeout, **more)

    def create_session(
        self,
        state: str | None = None,
        ttl: float | None = None,
        timeout: Timeout | float | None = None,
        static: StaticLike | None = None,
    ) -> Call[SessionCalls]:
        body = {"state": state, "ttl": ttl, "static": None if static is None else to_json_statics(static)}
        return json_call("POST", f"{self.path}/sessions", read_session, body, repeatable=False, timeout=timeout)

    def generate(self, prompt: Prompt | None, options: GenerateOptions) -> Call[Generation]:
        return json_call(
            "POST",
            f"{self.path}/generate",
            lambda response: Generation.from_json(read_json(response)),
            _generate_body(prompt, options),
            timeout=options.timeout,
        )

    def generate_stream(self, prompt: Prompt | None, options: GenerateOptions) -> Call[None]:
        return Call(
            "POST",
            f"{self.path}/generate",
            lambda response: None,
            content=encode_json({**_generate_body(prompt, options), "stream": True}),
            headers={"content-type": JSON, "accept": EVENTS},
            repeatable=False,
            timeout=options.timeout,
        )

    def forecast(self, series: ArrayLike | Mapping[str, ArrayLike], options: ForecastOptions) -> Call[Forecast]:
        body = {"series": _numbers(series, "series"), **_forecast_body(options)}
        if options.future is not None:
            body["future"] = _numbers(options.future, "future")
        return json_call(
            "POST",
            f"{self.path}/forecast",
            lambda response: Forecast.from_json(read_json(response)),
            body,
            timeout=options.timeout,
            sequences=(series,),
        )

    def forecast_many(self, series: Sequence[ArrayLike], options: ForecastOptions) -> Call[list[Forecast]]:
        """Raises ValueError if there are too few or too many futures."""
        body = {"series_list": _each(series, "series_list"), **_forecast_body(options)}
        if options.future is not None:
            futures = cast(Sequence[ArrayLike], options.future)
            if len(futures) != len(series):
                raise ValueError(f"there are {len(futures)} futures for {len(series)} series")
            body["future"] = _each(futures, "future")

        def parse(response: httpx.Response) -> list[Forecast]:
            answer = read_json(response)
            return [Forecast.from_json({**answer, **one}) for one in answer.pop("results")]

        return json_call("POST", f"{self.path}/forecast", parse, body, timeout=options.timeout, sequences=series)

    def influence(self, x: Read, options: InfluenceOptions, offset: int | None = None) -> Call[Influence]:
        where = "sequence" if offset is None else f"sequences[{offset}]"
        return json_call(
            "POST",
            f"{self.path}/influence",
            lambda response: Influence.from_json(read_json(response)),
            {"sequence": to_json_value(x, where), **options.body()},
            timeout=options.timeout,
            sequences=(x,),
            offset=offset,
        )

    def influence_many(
        self, sequences: Sequence[Read], options: InfluenceOptions
    ) -> list[CallFactory[list[Influence]]]:
        """A request for each sequence, in order.

        Raises ValueError if there are too few or too many states or static inputs.
        """
        _check_numbers(options.state, options.static, len(sequences))

        def make(index: int) -> Call[list[Influence]]:
            state, static = (_own(given, index) for given in (options.state, options.static))
            one = self.influence(sequences[index], replace(options, state=state, static=static), index)
            return _alone(one)

        return [partial(make, index) for index in range(len(sequences))]


def cut(sequences: Sequence[Read], batching: Batching) -> list[tuple[int, int]]:
    """Where to cut a list into requests: `(begin, end)` of each."""
    parts, begin, held = [], 0, 0
    for i, x in enumerate(sequences):
        size = count_numbers(x)
        if i > begin and (i - begin >= batching.sequences or held + size > batching.numbers):
            parts.append((begin, i))
            begin, held = i, 0
        held += size
    return [*parts, (begin, len(sequences))] if len(sequences) else []


def _is_each(given: object) -> TypeGuard[Sequence[Any]]:
    """Whether states or static inputs are one for each sequence, and not one for all."""
    return given is not None and not isinstance(given, str | Mapping)


def _check_one(state: object, static: object) -> None:
    """Raise ValueError if a single sequence is given several states or static inputs."""
    for given, name in ((state, "state"), (static, "static")):
        if isinstance(given, list | tuple):
            raise ValueError(f"{name} is a list, and there is one sequence; pass its {name} alone")


def _check_numbers(states: object, statics: object, number: int) -> None:
    """Raise ValueError if there are other than `number` states or static inputs, where there is one each."""
    for given, name in ((states, "states"), (statics, "objects of static inputs")):
        if _is_each(given) and len(given) != number:
            raise ValueError(f"there are {len(given)} {name} for {number} sequences")


def _part(given: Any, begin: int, end: int) -> Any:
    return list(given[begin:end]) if _is_each(given) else given


def _own(given: Any, index: int) -> Any:
    return given[index] if _is_each(given) else given


def _alone(call: Call[T]) -> Call[list[T]]:
    """A call for one sequence as one for a list of it."""
    changed: Call[list[T]] = replace(cast(Any, call), parse=lambda response: [call.parse(response)])
    return changed


def _forecast_body(options: ForecastOptions) -> dict[str, Any]:
    """The options as fields of the body, without the future."""
    body = replace(options, future=None).body()
    if options.quantiles is not None:
        body["quantiles"] = np.ravel(read_values(options.quantiles, "quantiles")).tolist()
    return body


def _each(values: Sequence[ArrayLike], where: str) -> list[Any]:
    return [_numbers(one, f"{where}[{index}]") for index, one in enumerate(values)]


def _numbers(values: object, where: str) -> Any:
    if isinstance(values, Mapping):
        arrays = ((name, f"{where}[{name!r}]", read_values(one, f"{where}[{name!r}]")) for name, one in values.items())
        return {name: numbers(array, place, np.float64) for name, place, array in arrays}
    # Scaling is done in float64: a series far from zero that varies little would lose its digits in float32.
    array = read_values(values, where)
    return numbers(array.astype(np.float64, copy=False), where, np.float64)


def _generate_body(prompt: Prompt | None, options: GenerateOptions) -> dict[str, Any]:
    body = options.body()
    if options.stop is not None:
        if not isinstance(options.stop, Iterable):
            raise TypeError(f"stop must be a text or a list of texts; got {options.stop!r}")
        body["stop"] = [options.stop] if isinstance(options.stop, str) else list(options.stop)
    if prompt is not None:
        body["prompt"] = prompt if isinstance(prompt, str) else _token_ids(prompt)
    return body


def _token_ids(prompt: object) -> Any:
    prompt = listed(prompt)
    if isinstance(prompt, list | tuple) and any(isinstance(one, str) for one in prompt):
        raise TypeError("prompt is a list of texts, and one text is continued; call generate for each of them")
    ids = read_values(prompt, "prompt")
    if ids.ndim != 1 or (ids.size and ids.dtype.kind not in "iu"):
        raise TypeError(f"prompt must be text, or integers (time,) of token ids; got {ids.dtype} {ids.shape}")
    return ids.tolist()


def _not_sent(response: httpx.Response) -> Result:
    raise TypeError("a call that is made late has no response of its own")


def _read_result(response: httpx.Response, sent: int) -> Result:
    """The result for one sequence of `sent` steps, from JSON or bytes."""
    if not is_binary(response):
        return Result.from_json(read_json(response)["results"][0])
    step = response.headers.get("elman-step")
    return Result(**binary_fields(response, sent), step=None if step is None else int(step))
