"""Forecasting: the last output, in the data's own units, is the next step's input.

The spec of a model holds the residuals of its training. A sampled path adds one of their rows to each step: row
floor(u * rows), with u from `randomness`. A path without residuals is the point forecast. (After the sieve bootstrap:
P. Bühlmann, "Sieve bootstrap for time series", Bernoulli 3, 1997.) If the spec has the errors of whole forecasts, only
the point forecast is run, and paths are made from it.
"""

from dataclasses import dataclass, field

import numpy as np

from elman.engine.feedback import Feedback
from elman.engine.heads import Head
from elman.engine.randomness import uniforms
from elman.repository.network import Array
from elman.repository.spec import ErrorsSpec

PATHS = 2**16
"""Path p of series i of a request draws the random numbers of path `i * PATHS + p`, so that no two series share any."""


@dataclass(frozen=True, eq=False, slots=True)
class ForecastPlan:
    """What all paths of one forecast share.

    Attributes:
        horizon: number of steps to forecast.
        future: the next input rows as the network reads them, float32 `(horizon - 1, features)`. Features known ahead
            are filled in already.
        target: for each output, the index of the input feature that it predicts.
        mean, std: `output * std + mean` is in the data's units; float64 `(outputs,)`.
        input_mean, input_std: the network reads `(value - input_mean) / input_std`; float64 `(outputs,)`.
        residuals: float64 `(rows, outputs)`; without rows every path is the point forecast.
        minimum: smaller values are raised to this.
        seed: below 2**64.
        window: rows that are read anew at each step; None if the state is carried on.
        head: what the outputs say of each value; None if they are the values.
    """

    horizon: int
    future: Array
    target: tuple[int, ...]
    mean: Array
    std: Array
    input_mean: Array
    input_std: Array
    residuals: Array
    minimum: float | None
    seed: int
    window: Array | None = None
    head: Head | None = None


@dataclass(eq=False, slots=True)
class SamplePath:
    """One path of a forecast.

    Attributes:
        plan: what it shares with the other paths.
        path: its number; None for the point forecast.
        length: steps forecast so far.
        values: float64 `(horizon, outputs)`; the first `length` rows are filled.
        window: the last rows, if the model reads them anew at each step.
    """

    plan: ForecastPlan
    path: int | None
    length: int = 0
    values: Array = field(init=False)
    window: Array | None = field(init=False)

    def __post_init__(self) -> None:
        self.values = np.zeros((self.plan.horizon, len(self.plan.mean)))
        self.window = self.plan.window

    def feed(self, feedbacks: list[Feedback], outputs: Array) -> list[Array | None]:
        """Like `Feedback.feed`; the next inputs of each row are `(1, features)`."""
        paths = [path for path in feedbacks if isinstance(path, SamplePath)]
        return [path.take(value) for path, value in zip(paths, next_values(paths, outputs), strict=True)]

    def take(self, value: Array) -> Array | None:
        """Add a value `(outputs,)`. Returns the next inputs, or None after the last value."""
        plan, at = self.plan, self.length
        self.values[at] = value
        self.length += 1
        if at + 1 == plan.horizon:
            return None
        inputs = plan.future[at : at + 1].copy()
        inputs[0, plan.target] = (value - plan.input_mean) / plan.input_std
        if self.window is None:
            return inputs
        self.window = np.concatenate([self.window[1:], inputs])
        return self.window


def next_values(paths: list[SamplePath], outputs: Array) -> Array:
    """The next value of each path in the data's units, float64 `(paths, values)`.

    outputs: the last output of each, `(paths, outputs)`. All paths are of one model.
    """
    plans = [path.plan for path in paths]
    head = plans[0].head
    values: Array = outputs.astype(np.float64) if head is None else _drawn(head, paths, outputs)
    values = values * np.stack([plan.std for plan in plans]) + np.stack([plan.mean for plan in plans])
    if any(len(plan.residuals) for plan in plans):
        for value, path, number in zip(values, paths, _numbers(paths, 1)[:, 0].tolist(), strict=True):
            residuals = path.plan.residuals
            if path.path is not None and len(residuals):
                value += residuals[int(number * len(residuals))]
    for value, plan in zip(values, plans, strict=True):
        if plan.minimum is not None:
            np.maximum(value, plan.minimum, out=value)
    return values


def paths_of_errors(points: Array, errors: ErrorsSpec, seed: int, numbers: Array, minimum: float | None) -> Array:
    """Sampled paths, float64 `(series, samples, horizon, values)`: point forecasts plus the errors of whole forecasts.

    A path has the errors of forecast floor(u * rows), with u of its number and step 0 from `randomness`. The errors of
    a forecast stay together, so that those of neighbouring steps and of values that are forecast together are as
    correlated as they were. At each step, and for exchangeable forecasts, the quantiles are those of split conformal
    prediction (J. Lei et al., "Distribution-Free Predictive Inference for Regression", JASA 113, 2018; with an offset
    its locally weighted form). For all steps of a forecast: K. Stankevičiūtė, A. Alaa and M. van der Schaar, "Conformal
    Time-Series Forecasting", NeurIPS 2021.

    Args:
        points: `(series, horizon, values)`, no longer than the errors.
        numbers: of the paths, `(series, samples)`.
        minimum: smaller values are raised to this.
    """
    flat = numbers.reshape(-1).astype(np.uint64)
    u = uniforms(np.full(len(flat), seed, np.uint64), flat, np.zeros(len(flat), np.uint64)).reshape(numbers.shape)
    drawn = errors.table[(u * len(errors.rows)).astype(np.int64), : points.shape[1]]  # (series, samples, horizon, ...)
    points = points[:, None]
    scale = 1.0 if errors.offset is None else np.abs(points) + errors.offset
    paths: Array = points + drawn * scale
    return paths if minimum is None else np.maximum(paths, minimum)


def _drawn(head: Head, paths: list[SamplePath], outputs: Array) -> Array:
    """The value of each path as its head says: the point for the point forecast, a draw for the others."""
    parameters = head.split(outputs)
    values = head.draw(parameters, _numbers(paths, parameters.shape[1]))
    points = [row for row, path in enumerate(paths) if path.path is None]
    values[points] = head.point(parameters[points])
    return values


def _numbers(paths: list[SamplePath], each: int) -> Array:
    """Random numbers `(paths, each)`: number `j` of step `t` is that of step `each * t + j`."""
    seeds, numbers = (
        np.array(one, np.uint64) for one in zip(*((p.plan.seed, p.path or 0) for p in paths), strict=True)
    )
    steps = [each * path.length for path in paths]
    return np.stack([uniforms(seeds, numbers, np.array(steps, np.uint64) + np.uint64(j)) for j in range(each)], axis=1)
