"""Forecasting: the last output, in the data's own units, is the next step's input.

The spec of a model holds the residuals of its training. A sampled path adds one of their rows to each step: row
floor(u * rows), with u from `randomness`. A path without residuals is the point forecast. (After the sieve bootstrap:
P. Bühlmann, "Sieve bootstrap for time series", Bernoulli 3, 1997.) If the spec has the errors of whole forecasts, only
the point forecast is run, and paths are made from it.
"""

from dataclasses import dataclass, field

import numpy as np

from elman.engine.feedback import Fed, Feedback
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
class PathBlock:
    """Paths of one series that advance together.

    Attributes:
        plan: what all paths of the series share.
        numbers: the number of each path, uint64 `(rows,)`.
        values: float64 `(rows, horizon, values)`; the first `length` steps are filled.
        has_point: True if the first row is the point forecast, which draws nothing.
        length: steps forecast so far.
        window: the last rows of each path, `(window, rows, features)`, if the model reads them anew at each step.
    """

    plan: ForecastPlan
    numbers: Array
    values: Array
    has_point: bool
    length: int = 0
    window: Array | None = field(init=False)

    def __post_init__(self) -> None:
        window, rows = self.plan.window, len(self.numbers)
        # A forecast of one step reads no window.
        self.window = np.repeat(window[:, None], rows, 1) if window is not None and self.plan.horizon > 1 else None

    def feed(self, feedbacks: list[Feedback], outputs: Array) -> list[Fed]:
        """Like `Feedback.feed`."""
        blocks = [block for block in feedbacks if isinstance(block, PathBlock)]
        return [block.take(np.atleast_2d(rows)) for block, rows in zip(blocks, outputs, strict=True)]

    def take(self, outputs: Array) -> Array | None:
        """Add the values of a step, from `outputs` `(rows, output_size)`.

        Returns the next inputs, `(steps, features)` of one row or `(steps, rows, features)`; None after the last value.
        """
        plan, at = self.plan, self.length
        values = self.next_values(outputs)
        self.values[:, at] = values
        self.length += 1
        if self.length == plan.horizon:
            return None
        inputs = np.repeat(plan.future[at : at + 1], len(values), axis=0)  # (rows, features)
        inputs[:, plan.target] = (values - plan.input_mean) / plan.input_std
        steps = inputs[None]
        if self.window is not None:
            steps = self.window = np.concatenate([self.window[1:], steps])
        return steps if len(values) > 1 else steps[:, 0]

    def next_values(self, outputs: Array) -> Array:
        """The next value of each path in the data's units, float64 `(rows, values)`."""
        plan = self.plan
        values: Array = outputs.astype(np.float64) if plan.head is None else self._drawn(plan.head, outputs)
        values = values * plan.std + plan.mean
        if len(plan.residuals):
            rows = (self._uniforms(1)[:, 0] * len(plan.residuals)).astype(np.intp)
            values[self.has_point :] += plan.residuals[rows[self.has_point :]]
        return values if plan.minimum is None else np.maximum(values, plan.minimum)

    def _drawn(self, head: Head, outputs: Array) -> Array:
        """The value of each path as the head says: a draw, but the point for the point forecast."""
        parameters = head.split(outputs)
        values = head.draw(parameters, self._uniforms(parameters.shape[1]))
        if self.has_point:
            values[0] = head.point(parameters[:1])[0]
        return values

    def _uniforms(self, each: int) -> Array:
        """Random numbers `(rows, each)`: number `j` of step `t` is that of step `each * t + j`."""
        steps = each * self.length + np.arange(each, dtype=np.uint64)
        return uniforms(np.array(self.plan.seed, np.uint64), self.numbers[:, None], steps)


def path_blocks(plan: ForecastPlan, first: int, values: Array, max_rows: int) -> list[PathBlock]:
    """The point forecast and the sampled paths of a series, in blocks of about the same size.

    Args:
        first: the number of the first sampled path.
        values: for the point forecast and for each path, float64 `(1 + paths, horizon, values)`. The blocks fill it.
        max_rows: most rows of a block.
    """
    # The point forecast has a number that it does not use.
    numbers = np.concatenate([[0], first + np.arange(len(values) - 1)]).astype(np.uint64)
    cuts = np.array_split(np.arange(len(numbers)), -(-len(numbers) // max_rows))
    return [PathBlock(plan, numbers[rows], values[rows[0] : rows[-1] + 1], bool(rows[0] == 0)) for rows in cuts]


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
    u = uniforms(np.array(seed, np.uint64), flat, np.array(0, np.uint64)).reshape(numbers.shape)
    drawn = errors.table[(u * len(errors.rows)).astype(np.int64), : points.shape[1]]  # (series, samples, horizon, ...)
    points = points[:, None]
    scale = 1.0 if errors.offset is None else np.abs(points) + errors.offset
    paths: Array = points + drawn * scale
    return paths if minimum is None else np.maximum(paths, minimum)
