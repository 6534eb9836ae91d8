"""`POST /v1/models/{name}/forecast`: continues a series, with the model's output as its next input."""

import secrets
from typing import Any

import numpy as np

from elman.api.autoregressive import read_prompt, read_start
from elman.api.server import ServedModel, Server
from elman.codec.answer import encode_json, outputs_of
from elman.codec.autoregressive import AutoregressiveDecoder
from elman.codec.limits import check_statics
from elman.codec.requests import ForecastRequest
from elman.engine.forecasting import ForecastPlan, SamplePath
from elman.engine.heads import Head
from elman.engine.sequence import Sequence
from elman.engine.work import Steps, Work, run, script
from elman.errors import CannotForecast, InvalidField, NotFiniteOutput, TooLong, WrongLength
from elman.http.endpoint import Request, Response
from elman.repository.feeding import Driving, driving_of, why_no_forecast
from elman.repository.network import Array
from elman.repository.spec import DecoderSpec, ForecastSpec
from elman.sessions.snapshot import Snapshot

# Most values in all paths of one request, its mean and its quantiles.
_MAX_VALUES = 2_000_000
# More values take milliseconds to sort and encode, so the codec pool does it.
_POOL_VALUES = 20_000


class Forecast:
    """The forecast endpoint."""

    def __init__(self, server: Server) -> None:
        self.server = server

    def parse(self, request: Request) -> Work | Response:
        """The work that runs the series first. Raises ElmanError."""
        return script(self._forecast(request))  # type: ignore[no-any-return]

    def _forecast(self, request: Request) -> Steps[Response]:
        start = yield from read_start(self.server, request, _check, AutoregressiveDecoder.forecast)
        served, (options, (series, *_), future) = start.served, start.decoded
        driving = driving_of(served.model)
        _check_size(served, options)
        _check_origin(driving, options)
        check_statics([start.snapshot.statics] * (1 + options.samples), "samples")
        deadline = request.deadline(options.timeout)
        if future is not None and driving.known_for == "next" and len(series):
            series, future = _shifted(series, future, driving.known), future[1:]
        window = None
        if driving.carries_state:
            snapshot, output = yield from read_prompt(served, start.snapshot, series, deadline, "series")
        else:
            window = series if driving.window is None else _last_rows(series, driving.window)
            snapshot, output = start.snapshot, (yield from _read_once(served, start.snapshot, window, deadline))
        plan = forecast_plan(served, options, future, window if driving.drive == "window" else None)
        paths = [SamplePath(plan, None), *(SamplePath(plan, path) for path in range(options.samples))]
        first = paths[0].feed(list(paths), np.broadcast_to(output, (len(paths), len(output))))
        # Rows that are read anew belong to no state.
        state = snapshot.state if driving.carries_state else None
        wanted: dict[str, Any] = {"state": state, "anew": state is None, "statics": snapshot.statics}
        more = (plan.horizon - 2) * (1 if window is None else len(window))
        sequences = [
            Sequence(inputs, feedback=path, more=more, deadline=deadline, **wanted)
            for path, inputs in zip(paths, first, strict=True)
            if inputs is not None
        ]
        yield from run(served.queue, sequences, "series")
        # One run of a direct model gives the values of several steps.
        values = np.array([path.values for path in paths]).reshape(len(paths), -1, len(driving.target))
        values = values[:, : options.horizon]  # (1 + samples, horizon, outputs)
        arguments = served.key, options, plan.seed, values
        content = yield from self.server.pool.offload(values.size > _POOL_VALUES, encode_forecast, *arguments)
        return Response(content, model=served.key)


def _check_origin(driving: Driving, options: ForecastRequest[Any, Any]) -> None:
    """Raise InvalidField if a model that reads its rows anew is asked to go on from a session or a state."""
    if driving.carries_state:
        return
    for name in ("session", "state"):
        if getattr(options, name) is not None:
            raise InvalidField(
                "the model reads the last rows of a series anew, so it does not go on from a state",
                where=name,
                expected="a series",
            )


def _shifted(series: Array, future: Array, known: tuple[int, ...]) -> Array:
    """A series whose rows have the known features of the step after them, which the first row ahead completes."""
    series = series.copy()
    columns = list(known)
    series[:-1, columns] = series[1:, columns]
    series[-1, columns] = future[0]
    return series


def _last_rows(series: Array, window: int) -> Array:
    """The rows that one run reads. Raises WrongLength if there are too few."""
    if len(series) < window:
        raise WrongLength(
            f"the series has {len(series)} steps, the model reads windows of {window}",
            where="series",
            expected=f"{window} steps or more",
        )
    return series[-window:]


def _read_once(served: ServedModel, start: Snapshot, rows: Array, deadline: float) -> Steps[Array]:
    """The last output after some rows, `(output_size,)`, from the initial state. Raises NotFiniteOutput."""
    sequence = Sequence(rows, statics=start.statics, deadline=deadline)
    yield from run(served.queue, [sequence], "series")
    output: Array = outputs_of(sequence)[-1]
    if not np.isfinite(output).all():
        raise NotFiniteOutput("the output to continue from is not finite", where="series")
    return output


def forecast_plan(
    served: ServedModel, request: ForecastRequest[Any, Any], ahead: Array | None, window: Array | None = None
) -> ForecastPlan:
    """The plan that all paths of a request share.

    Args:
        ahead: the features known ahead for each row that is fed back, `(steps, known)`, as the network reads them.
        window: the rows that the first run read, if each run reads its rows anew.
    """
    model, driving, format = served.model, driving_of(served.model), served.format
    size, features = model.network.output_size, model.network.features or 0
    decoder, spec = model.spec.decoder or DecoderSpec(), model.spec.forecast or ForecastSpec()
    # A direct model gives all its values in one run.
    horizon = 1 if driving.drive == "direct" else request.horizon
    future = np.zeros((horizon - 1, features), np.float32)
    if ahead is not None:
        future[:, driving.known] = ahead[: horizon - 1]
    mean, std = (np.array(decoder.mean or (0.0,)), np.array(decoder.std or (1.0,)))
    input_mean, input_std = format.scale_of(driving.target)
    return ForecastPlan(
        horizon=horizon,
        future=future,
        target=driving.target,
        mean=np.resize(mean, size // driving.num_parameters),
        std=np.resize(std, size // driving.num_parameters),
        input_mean=input_mean,
        input_std=input_std,
        residuals=np.array(spec.residuals, np.float64).reshape(-1, size),
        minimum=spec.minimum,
        seed=secrets.randbits(32) if request.seed is None else request.seed,
        window=window,
        head=None if spec.head is None else Head(spec.head),
    )


def encode_forecast(key: tuple[str, int], request: ForecastRequest[Any, Any], seed: int, values: Array) -> bytes:
    """The answer as JSON. Raises NotFiniteOutput.

    values: the point forecast, then each sampled path: float64 `(1 + samples, horizon, outputs)`.
    """
    if not np.isfinite(values).all():
        step = int(np.argwhere(~np.isfinite(values))[:, 1].min())
        raise NotFiniteOutput(f"the forecast is not finite from step {step}", where="horizon", expected=f"{step}")
    answer: dict[str, Any] = {
        "model": key[0],
        "version": key[1],
        "horizon": request.horizon,
        "seed": seed,
        "point": _rows(values[0]),
    }
    if request.samples:
        sampled = values[1:]
        answer["mean"] = _rows(sampled.mean(axis=0))
        levels = np.quantile(sampled, request.quantiles, axis=0)
        answer["quantiles"] = {f"{level:g}": _rows(rows) for level, rows in zip(request.quantiles, levels, strict=True)}
        if request.paths:
            answer["paths"] = [_rows(path) for path in sampled]
    return encode_json(answer)


def _rows(values: Array) -> Array:
    """A list of numbers if there is one output, a list of rows otherwise."""
    return np.ascontiguousarray(values[:, 0] if values.shape[1] == 1 else values)


def _check(served: ServedModel) -> None:
    reason = why_no_forecast(served.model)
    if reason is not None:
        raise CannotForecast(f"{served.model.name} cannot forecast: {reason}")


def _check_size(served: ServedModel, request: ForecastRequest[Any, Any]) -> None:
    spec = served.model.spec.forecast
    if request.samples and (spec is None or not (spec.residuals or spec.head)):
        raise CannotForecast(
            f"{served.model.name} cannot sample paths: its model.json has neither residuals nor a head",
            where="samples",
            expected=0,
        )
    driving = driving_of(served.model)
    if driving.drive == "direct" and request.horizon > driving.horizon:
        raise InvalidField(
            f"{served.model.name} foretells {driving.horizon} steps",
            where="horizon",
            expected=f"1 to {driving.horizon}",
        )
    figures = 1 + len(request.quantiles) if request.samples else 0
    values = (1 + request.samples + figures) * request.horizon * len(driving.target)
    if values > _MAX_VALUES:
        raise TooLong(
            f"the forecast would have {values} values", where="samples", expected=f"at most {_MAX_VALUES} values"
        )
