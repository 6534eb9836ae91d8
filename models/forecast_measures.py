"""The errors of an exported forecaster on the held-out rows."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from elman.exporter.verifying import open_session
from elman.repository.spec import embedded_spec
from models.forecast_recipes import CUSTOMARY_VARIANCE, ELECTRICITY
from models.forecaster import cut
from models.tasks import sunspots
from models.tasks.series import Series

State = list[NDArray[np.float32]]
"""h (and c), each (layers, batch, hidden)."""


class ExportedForecaster:
    """An exported forecaster, run on a batch of forecasts as the server runs one.

    path: of the file.
    """

    def __init__(self, path: Path) -> None:
        metadata = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
        spec = embedded_spec(metadata)
        assert spec is not None and spec.forecast is not None and spec.decoder is not None
        self.forecast = spec.forecast
        self.mean, self.deviation = np.array(spec.decoder.mean), np.array(spec.decoder.std)
        self.session = open_session(str(path))

    def read(self, x: NDArray[np.float32], state: State | None = None) -> tuple[NDArray[np.float64], State]:
        """The forecast after each row of x (batch, time, features), in the data's own units, and the new state."""
        data, *states = self.session.get_inputs()
        state = state or [np.zeros((one.shape[0], len(x), one.shape[2]), np.float32) for one in states]
        names = [one.name for one in states]
        output, *after = self.session.run(None, {data.name: x, **dict(zip(names, state, strict=True))})
        return np.asarray(output) * self.deviation + self.mean, after

    def points(self, history: NDArray[np.float32], future: NDArray[np.float32]) -> NDArray[np.float64]:
        """One forecast of each history (batch, time, features): (batch, horizon, targets).

        future: (batch, horizon, features). Only the known features are read.
        """
        read, state = self.read(history)
        value, values = read[:, -1], []
        target, known = list(self.forecast.target or ()), list(self.forecast.known)
        for step in range(future.shape[1]):
            value = self.held(value)
            values.append(value)
            x = np.zeros((len(history), 1, history.shape[2]), np.float32)
            x[:, 0, target] = value
            x[:, 0, known] = future[:, step, known]
            after, state = self.read(x, state)
            value = after[:, -1]
        return np.stack(values, axis=1)

    def held(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        return values if self.forecast.minimum is None else np.maximum(values, self.forecast.minimum)


def measure_sunspots(path: Path, series: Series) -> dict[str, Any]:
    """Errors one year ahead, given the true past."""
    forecaster = ExportedForecaster(path)
    read, _ = forecaster.read(series.rows[None, :-1])
    forecast = np.concatenate([series.rows[:1], forecaster.held(read[0])])  # (years, 1); the first has no forecast
    squared = ((forecast - series.rows) ** 2)[:, 0]
    variance = float(series.rows[: sunspots.row_of(1979) + 1].astype(np.float64).var())
    return {
        "variance": variance,
        "arv": {name: float(squared[rows].mean() / variance) for name, rows in series.tests.items()},
        "arv_1535": {name: float(squared[rows].mean() / CUSTOMARY_VARIANCE) for name, rows in series.tests.items()},
        "arv_learned": float(squared[1 : series.learned].mean() / variance),
    }


def measure_electricity(path: Path, series: Series) -> dict[str, Any]:
    """Errors over the held-out days, forecast at midnight from the week before."""
    forecaster, recipe = ExportedForecaster(path), ELECTRICITY
    (rows,) = series.tests.values()
    days = np.stack(list(cut(series, rows, recipe)))  # (days, history + horizon, features)
    history, future = np.split(days, [days.shape[1] - recipe.horizon], axis=1)
    truth = future[..., :2]  # (days, horizon, 2)
    demand = truth[..., 0]
    points = forecaster.points(history, future)
    return {
        "num_days": len(days),
        "mape": mape(points[..., 0], demand),
        "mape_last_week": mape(history[:, : recipe.horizon, 0], demand),
        "mape_yesterday": mape(history[:, -recipe.horizon :, 0], demand),
        "temperature_error": float(np.abs(points[..., 1] - truth[..., 1]).mean()),
    }


def mape(forecast: NDArray[Any], truth: NDArray[Any]) -> float:
    """Mean absolute percentage error, in %."""
    return float(100 * (np.abs(forecast - truth) / truth).mean())
