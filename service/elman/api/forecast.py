"""`POST /v1/models/{name}/forecast`: continues a series, with the model's output as its next input."""

import secrets
from typing import Any

import numpy as np

from elman.api.autoregressive import read_prompt, read_start
from elman.api.server import ServedModel, Server
from elman.codec.answer import encode_json
from elman.codec.autoregressive import AutoregressiveDecoder
from elman.codec.requests import ForecastRequest
from elman.engine.forecasting import ForecastPlan, SamplePath
from elman.engine.sequence import Sequence
from elman.engine.work import Steps, Work, run, script
from elman.errors import CannotForecast, NotFiniteOutput, TooLong
from elman.http.endpoint import Request, Response
from elman.repository.feeding import axes_of, why_no_forecast
from elman.repository.network import Array
from elman.repository.spec import DecoderSpec, ForecastSpec

# Most values in all paths of one request.
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
        _check_size(served, options)
        deadline = request.deadline(options.timeout)
        snapshot, output = yield from read_prompt(served, start.snapshot, series, deadline, "series")
        plan = forecast_plan(served, options, future)
        paths = [SamplePath(plan, None), *(SamplePath(plan, path) for path in range(options.samples))]
        first = paths[0].feed(list(paths), np.broadcast_to(output, (len(paths), len(output))))
        wanted: dict[str, Any] = {"more": options.horizon - 2, "deadline": deadline}
        sequences = [
            Sequence(inputs, state=snapshot.state, feedback=path, statics=snapshot.statics, **wanted)
            for path, inputs in zip(paths, first, strict=True)
            if inputs is not None
        ]
        yield from run(served.queue, sequences, "series")
        values = np.array([path.values for path in paths])  # (1 + samples, horizon, outputs)
        arguments = served.key, options, plan.seed, values
        content = yield from self.server.pool.offload(values.size > _POOL_VALUES, encode_forecast, *arguments)
        return Response(content, model=served.key)


def forecast_plan(served: ServedModel, request: ForecastRequest[Any, Any], ahead: Array | None) -> ForecastPlan:
    """The plan that all paths of a request share. `ahead` holds the features known ahead, `(steps, known)`."""
    model, axes = served.model, axes_of(served.model)
    size, features = model.network.output_size, model.network.features or 0
    decoder = model.spec.decoder or DecoderSpec()
    spec = model.spec.forecast or ForecastSpec()
    future = np.zeros((request.horizon - 1, features), np.float32)
    if ahead is not None:
        future[:, axes.known] = ahead[: request.horizon - 1]
    return ForecastPlan(
        horizon=request.horizon,
        future=future,
        target=axes.target,
        mean=np.array(decoder.mean if decoder.mean is not None else [0.0] * size),
        std=np.array(decoder.std if decoder.std is not None else [1.0] * size),
        residuals=np.array(spec.residuals, np.float64).reshape(-1, size),
        minimum=spec.minimum,
        seed=secrets.randbits(32) if request.seed is None else request.seed,
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
    if request.samples and (spec is None or not spec.residuals):
        raise CannotForecast(
            f"{served.model.name} cannot sample paths: its model.json has no forecast residuals",
            where="samples",
            expected=0,
        )
    values = (1 + request.samples) * request.horizon * served.model.network.output_size
    if values > _MAX_VALUES:
        raise TooLong(
            f"the forecast would have {values} values", where="samples", expected=f"at most {_MAX_VALUES} values"
        )
