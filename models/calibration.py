"""Errors of whole forecasts, for the intervals of the forecasters, and what such intervals hold of the held-out rows.

The errors are those of forecasts of rows that the forecasting model was not trained on: of the held-out rows by the
shipped model itself, and of learned rows by models that were trained on the rows before only. Coverage is measured
forward in time: each held-out forecast is measured with the errors of the forecasts whose last step was over when it
was made, and of no later ones.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elman.exporter.calibrating import bounds, coverage, errors_of, write_errors
from elman.repository.spec import ErrorsSpec
from models.forecast_measures import ExportedForecaster
from models.forecast_recipes import Recipe
from models.forecaster import export_forecaster, fit
from models.recurrent import Cell
from models.tasks.series import Series

LEVEL = 0.8
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Forecasts:
    """Point forecasts and what came, from several origins in the order of time."""

    origins: NDArray[np.int64]  # (forecasts,) the row of the first step
    points: Array  # (forecasts, steps, values)
    truth: Array  # the same


def origins_in(rows: range, recipe: Recipe, stop: int) -> NDArray[np.int64]:
    """The origins within `rows` whose forecasts end before the row `stop`."""
    return np.arange(rows.start, min(rows.stop, stop - recipe.steps + 1), recipe.errors_every)


def batches(series: Series, origins: NDArray[np.int64], recipe: Recipe) -> list[tuple[Any, Any]]:
    """History and future of each origin, both (batch, time, features), in batches of histories of one length."""
    if recipe.history is None:
        return [(series.rows[None, :t], series.rows[None, t : t + recipe.steps]) for t in origins]
    return [
        (
            np.stack([series.rows[t - recipe.history : t] for t in some]),
            np.stack([series.rows[t : t + recipe.steps] for t in some]),
        )
        for some in np.array_split(origins, len(origins) // 256 + 1)
    ]


def of_left_out(series: Series, cell: Cell, recipe: Recipe, num_epochs: int, seed: int) -> list[Forecasts]:
    """Forecasts of learned rows, each by the file of a model that was not trained on what it foretells."""
    parts = []
    for rows in series.left_out:
        model, _ = fit(series, cell, recipe, seed, rows.start, num_epochs)
        origins = origins_in(rows, recipe, series.learned)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            export_forecaster(model, series, path)
            parts.append(of_file(series, path, recipe, origins))
    return parts


def of_held_out(series: Series, path: Path, recipe: Recipe) -> Forecasts:
    """Forecasts of the held-out rows by the exported file."""
    rows = range(series.learned, len(series.rows))
    return of_file(series, path, recipe, origins_in(rows, recipe, rows.stop))


def of_file(series: Series, path: Path, recipe: Recipe, origins: NDArray[np.int64]) -> Forecasts:
    forecaster = ExportedForecaster(path)
    points = [forecaster.points(history, future) for history, future in batches(series, origins, recipe)]
    truth = np.stack([series.targets[t : t + recipe.steps] for t in origins])
    return Forecasts(origins, np.concatenate(points), truth.astype(np.float64))


def joined(parts: list[Forecasts]) -> Forecasts:
    return Forecasts(
        *(np.concatenate([getattr(one, name) for one in parts]) for name in ("origins", "points", "truth"))
    )


def errors_before(row: int, forecasts: Forecasts, recipe: Recipe, offset: float | None) -> ErrorsSpec:
    """The errors of the forecasts whose last step was over at a row."""
    past = forecasts.origins + recipe.steps <= row
    return errors_of(forecasts.points[past], forecasts.truth[past], offset, LEVEL, recipe.most_rows)


def forward_coverage(forecasts: Forecasts, series: Series, recipe: Recipe, offset: float | None) -> Array:
    """The share of the held-out truth in the middle interval, (steps, values), measured forward in time."""
    held = [
        coverage(
            errors_before(row, forecasts, recipe, offset),
            forecasts.points[i : i + 1],
            forecasts.truth[i : i + 1],
            series.minimum,
        )
        for i, row in enumerate(forecasts.origins.tolist())
        if row >= series.learned + series.only_calibrated
    ]
    return np.asarray(np.mean(held, axis=0))


def interval_score(errors: ErrorsSpec, forecasts: Forecasts, minimum: float | None) -> float:
    """The mean of widths and fines for truth outside (T. Gneiting and A. E. Raftery, JASA 102, 2007)."""
    low, high = bounds(errors, forecasts.points, minimum)
    outside = np.maximum(low - forecasts.truth, 0) + np.maximum(forecasts.truth - high, 0)
    return float((high - low + 2 / (1 - errors.level) * outside).mean())


def choose_offset(forecasts: Forecasts, series: Series, recipe: Recipe) -> float | None:
    """The offset with the least interval score among the learned rows.

    Each forecast is measured with the errors of those that share none of its steps.
    """

    def score(offset: float | None) -> float:
        scores = []
        for i, row in enumerate(forecasts.origins.tolist()):
            apart = np.abs(forecasts.origins - row) >= recipe.steps
            errors = errors_of(forecasts.points[apart], forecasts.truth[apart], offset, LEVEL, recipe.most_rows)
            one = Forecasts(*(getattr(forecasts, name)[i : i + 1] for name in ("origins", "points", "truth")))
            scores.append(interval_score(errors, one, series.minimum))
        return float(np.mean(scores))

    return min(recipe.offsets, key=score)


def recalibrate(path: Path, series: Series, recipe: Recipe, left_out: list[Forecasts]) -> dict[str, Any]:
    """Write the errors and the coverage into a file, whose weights stay as they are. Returns what the card says."""
    offset = choose_offset(joined(left_out), series, recipe) if left_out else None
    forecasts = joined([*left_out, of_held_out(series, path, recipe)])
    errors = errors_before(len(series.rows), forecasts, recipe, offset)
    shares = forward_coverage(forecasts, series, recipe, offset)
    rows = tuple(tuple(step) for step in shares.round(4).tolist())
    write_errors(path, errors.model_copy(update={"coverage": rows}))
    return {"offset": offset, "num_errors": len(errors.rows), "shares": shares.tolist()}
