"""What a forecaster's outputs say of a value: quantiles, or the parameters of a distribution to draw from."""

from typing import Any

import numpy as np

from elman.repository.network import Array
from elman.repository.spec import HeadSpec


class Head:
    """Turns parameters into points and draws.

    Parameters are float64 `(rows, values, parameters)`, in the order that `HeadSpec` states.
    """

    def __init__(self, spec: HeadSpec) -> None:
        self.spec = spec
        self._levels = np.array(spec.levels)
        # The middle quantile, or the one next to it.
        self._middle = int(np.abs(self._levels - 0.5).argmin()) if spec.kind == "quantiles" else 0

    def split(self, outputs: Array) -> Array:
        """Outputs `(rows, values * parameters)` as parameters; quantiles are put in order."""
        raw = outputs.astype(np.float64).reshape(len(outputs), -1, self.spec.num_parameters)
        if self.spec.kind == "quantiles":
            return np.sort(raw, axis=-1)
        for index in self.spec.positive:
            raw[..., index] = _POSITIVE[self.spec.transform](raw[..., index])
        if self.spec.kind == "student_t" and self.spec.transform == "softplus":
            raw[..., 0] += 2.0
        return raw

    def point(self, parameters: Array) -> Array:
        """The point forecast, `(rows, values)`: the middle quantile, or the mean of the distribution."""
        index = {"quantiles": self._middle, "student_t": 1}.get(self.spec.kind, 0)
        found: Array = parameters[..., index]
        return found

    def draw(self, parameters: Array, u: Array) -> Array:
        """The value at the share `u` of each distribution. `u` and the result are `(rows, values)`."""
        if self.spec.kind == "quantiles":
            return self._between(parameters, u)
        return _inverse(self.spec.kind, parameters, np.clip(u, 1e-12, 1.0 - 1e-12))

    def _between(self, quantiles: Array, u: Array) -> Array:
        """The line through the quantiles of each row at the share `u`, as of `np.interp`."""
        levels, last = self._levels, len(self._levels) - 1
        if not last:
            return quantiles[..., 0]
        below = np.clip(np.searchsorted(levels, u, side="right") - 1, 0, last - 1)
        low, high = (np.take_along_axis(quantiles, at[..., None], axis=-1)[..., 0] for at in (below, below + 1))
        slope = (high - low) / (levels[below + 1] - levels[below])
        inner = slope * (u - levels[below]) + low
        found: Array = np.where(u < levels[0], quantiles[..., 0], np.where(u >= levels[-1], quantiles[..., -1], inner))
        return found


def _inverse(kind: str, parameters: Array, u: Array) -> Array:
    """The inverse of the cumulative distribution function, by scipy."""
    from scipy import special

    drawn: Array
    if kind == "normal":
        drawn = parameters[..., 0] + parameters[..., 1] * special.ndtri(u)
    elif kind == "student_t":
        drawn = parameters[..., 1] + parameters[..., 2] * special.stdtrit(parameters[..., 0], u)
    else:
        drawn = _counts(parameters[..., 0], parameters[..., 1], u, special)
    return drawn


def _counts(mean: Array, alpha: Array, u: Array, special: Any) -> Array:
    """The inverse for a negative binomial distribution: whole numbers."""
    excess = alpha * mean  # of the variance, as a share of the mean
    # With less it is a Poisson distribution to nine digits, and the probability below would round to 1.
    poisson = excess < 1e-9
    number = 1.0 / np.where(poisson, 1.0, alpha)
    # Failures before `number` successes, each with this probability: their mean is `mean`.
    found = np.where(poisson, special.pdtrik(u, mean), special.nbdtrik(u, number, 1.0 / (1.0 + excess)))
    # scipy does not find the zeros of a small mean.
    zeros = np.exp(np.where(poisson, -mean, -number * np.log1p(excess)))
    drawn: Array = np.where(u <= zeros, 0.0, np.maximum(np.ceil(found), 0.0))
    return drawn


def _softplus(raw: Array) -> Any:
    return np.logaddexp(0.0, raw)


_POSITIVE: dict[str, Any] = {"none": np.abs, "softplus": _softplus, "exp": np.exp}
