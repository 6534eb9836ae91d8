"""Forecasting: the last output, in the data's own units, is the next step's input.

A sampled path adds to each step one row of the residuals that training left in the spec, drawn as `randomness` says:
row floor(u * rows). The path without them is the point forecast. (After the sieve bootstrap: P. Bühlmann, "Sieve
bootstrap for time series", Bernoulli 3, 1997.)
"""

from dataclasses import dataclass, field

import numpy as np

from elman.engine.feedback import Feedback
from elman.engine.randomness import uniforms
from elman.repository.network import Array


@dataclass(frozen=True, eq=False, slots=True)
class ForecastPlan:
    """What all paths of one forecast share.

    Attributes:
        horizon: values wanted.
        future: input rows that follow, float32 `(horizon - 1, features)`, in which what is known ahead stands already.
        target: the features that the outputs are.
        mean, std: outputs are in the data's units after `output * std + mean`; float64 `(outputs,)`.
        residuals: float64 `(rows, outputs)`; none leaves every path at the point forecast.
        minimum: values are held at this or above.
        seed: below 2**64.
    """

    horizon: int
    future: Array
    target: tuple[int, ...]
    mean: Array
    std: Array
    residuals: Array
    minimum: float | None
    seed: int


@dataclass(eq=False, slots=True)
class SamplePath:
    """One path into the future.

    Attributes:
        plan: what it shares with others.
        path: its number; None for the point forecast.
        values: float64 `(horizon, outputs)`, of which the first `length` are there.
    """

    plan: ForecastPlan
    path: int | None
    length: int = 0
    values: Array = field(init=False)

    def __post_init__(self) -> None:
        self.values = np.zeros((self.plan.horizon, len(self.plan.target)))

    def feed(self, feedbacks: list[Feedback], outputs: Array) -> list[Array | None]:
        """As `Feedback.feed`: each row's next inputs, `(1, features)`."""
        paths = [one for one in feedbacks if isinstance(one, SamplePath)]
        return [path.take(value) for path, value in zip(paths, move(paths, outputs), strict=True)]

    def take(self, value: Array) -> Array | None:
        """Add a value. The inputs to go on with, or None where that was the last."""
        plan, at = self.plan, self.length
        self.values[at] = value
        self.length += 1
        if at + 1 == plan.horizon:
            return None
        inputs = plan.future[at : at + 1].copy()
        inputs[0, plan.target] = value
        return inputs


def move(paths: list[SamplePath], outputs: Array) -> Array:
    """The next value of each path in the data's units, float64 `(paths, outputs)`, of outputs of that shape."""
    values: Array = outputs.astype(np.float64)
    courses = [path.plan for path in paths]
    values = values * np.stack([plan.std for plan in courses]) + np.stack([plan.mean for plan in courses])
    u = uniforms(
        np.array([plan.seed for plan in courses], np.uint64),
        np.array([path.path or 0 for path in paths], np.uint64),
        np.array([path.length for path in paths], np.uint64),
    )
    for value, path, number in zip(values, paths, u.tolist(), strict=True):
        residuals = path.plan.residuals
        if path.path is not None and len(residuals):
            value += residuals[int(number * len(residuals))]
        if path.plan.minimum is not None:
            np.maximum(value, path.plan.minimum, out=value)
    return values
