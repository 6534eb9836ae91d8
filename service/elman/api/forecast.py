"""`POST /v1/models/{name}/forecast`: a series carried on by the model's own output."""

import asyncio
import secrets
import time
from typing import Any

import numpy as np
from starlette.types import Receive, Scope, Send

from elman.api.autoregressive import Loop
from elman.api.server import ServedModel
from elman.codec.answer import encode_json
from elman.codec.autoregressive import ForecastRequest, LoopDecoder
from elman.engine.forecasting import ForecastPlan, SamplePath
from elman.engine.sequence import Sequence
from elman.errors import CannotForecast, NotFiniteOutput, TooLong
from elman.http.asgi import respond
from elman.repository.feeding import axes_of, why_no_forecast
from elman.repository.network import Array
from elman.repository.spec import DecoderSpec, ForecastSpec

# Values that the paths of one request may hold.
_MAX_VALUES = 2_000_000
# Values that take milliseconds to sort and write, which is then done beside the event loop.
_MANY = 20_000


class Forecast:
    """The forecast endpoint, as bare ASGI."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        asked = await self.loop.read(scope, receive, _check, LoopDecoder.forecast)
        served, request = asked.served, asked.request
        _check_size(served, request)
        start = await self.loop.begin(asked, request.series, "series")
        assert start.output is not None, "a series was read"
        plan = forecast_plan(served, request)
        paths = [SamplePath(plan, None), *(SamplePath(plan, path) for path in range(request.samples))]
        first = paths[0].feed(list(paths), np.broadcast_to(start.output, (len(paths), len(start.output))))
        running = [
            Sequence(inputs, state=start.state, feedback=path, more=request.horizon - 2, deadline=asked.deadline)
            for path, inputs in zip(paths, first, strict=True)
            if inputs is not None
        ]
        await self.loop.run(asked, running, "series")
        if len(paths) * request.horizon > _MANY:
            content = await asyncio.to_thread(lambda: encode_json(_answer(served, request, plan, paths)))
        else:
            content = encode_json(_answer(served, request, plan, paths))
        await respond(send, content)
        self.loop.metrics.request_done(served.model, time.perf_counter() - started)


def forecast_plan(served: ServedModel, request: ForecastRequest) -> ForecastPlan:
    """What the paths of a request share."""
    model, axes = served.model, axes_of(served.model)
    size, features = model.network.output_size, model.network.features or 0
    decoder = model.spec.decoder or DecoderSpec()
    spec = model.spec.forecast or ForecastSpec()
    future = np.zeros((request.horizon - 1, features), np.float32)
    if request.future is not None:
        future[:, axes.known] = request.future[: request.horizon - 1]
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


def _answer(
    served: ServedModel, request: ForecastRequest, plan: ForecastPlan, paths: list[SamplePath]
) -> dict[str, Any]:
    values = np.array([path.values for path in paths])  # (1 + samples, horizon, outputs)
    if not np.isfinite(values).all():
        step = int(np.argwhere(~np.isfinite(values))[:, 1].min())
        raise NotFiniteOutput(f"the forecast is not finite from step {step}", where="horizon", expected=f"{step}")
    answer: dict[str, Any] = {
        "model": served.model.name,
        "version": served.model.version,
        "horizon": request.horizon,
        "seed": plan.seed,
        "point": _rows(values[0]),
    }
    if request.samples:
        sampled = values[1:]
        answer["mean"] = _rows(sampled.mean(axis=0))
        levels = np.quantile(sampled, request.quantiles, axis=0)
        answer["quantiles"] = {f"{level:g}": _rows(rows) for level, rows in zip(request.quantiles, levels, strict=True)}
        if request.paths:
            answer["paths"] = [_rows(path) for path in sampled]
    return answer


def _rows(values: Array) -> Array:
    """Numbers where there is one output, rows where there are several."""
    return np.ascontiguousarray(values[:, 0] if values.shape[1] == 1 else values)


def _check(served: ServedModel) -> None:
    reason = why_no_forecast(served.model)
    if reason is not None:
        raise CannotForecast(f"{served.model.name} cannot forecast: {reason}")


def _check_size(served: ServedModel, request: ForecastRequest) -> None:
    spec = served.model.spec.forecast
    if request.samples and (spec is None or not spec.residuals):
        raise CannotForecast(
            f"{served.model.name} cannot sample paths: its spec holds no residuals of its training",
            where="samples",
            expected=0,
        )
    values = (1 + request.samples) * request.horizon * served.model.network.output_size
    if values > _MAX_VALUES:
        raise TooLong(
            f"the paths would hold {values} values", where="samples", expected=f"at most {_MAX_VALUES} values"
        )
