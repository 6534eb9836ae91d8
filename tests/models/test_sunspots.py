"""The forecasters of sunspots foretell the held-out years as well as their cards say."""

import json
from pathlib import Path

import numpy as np
import pytest

from elman.exporter.calibrating import errors_of
from models.calibration import Forecasts, errors_before, of_held_out
from models.cards import read_results
from models.forecast_measures import ExportedForecaster, measure_sunspots
from models.forecast_recipes import RECIPES
from models.forecasting import HERE
from models.recurrent import CELLS
from models.tasks import sunspots
from models.tasks.series import Series

pytestmark = pytest.mark.torch

RESULTS = read_results(HERE / "results.json")
NAMES = [f"sunspots-{cell}" for cell in CELLS]


@pytest.fixture(scope="module")
def series() -> Series:
    return sunspots.load()


def model_file(name: str) -> Path:
    return HERE / "store" / name / "1" / "model.onnx"


def test_there_are_309_years_and_the_known_ones_are_right(series: Series) -> None:
    assert series.rows.shape == (309, 1)
    known = {1700: 5.0, 1778: 154.4, 1957: 190.2, 2008: 2.9}
    assert {year: round(float(series.rows[sunspots.row_of(year), 0]), 1) for year in known} == known


def test_the_years_learned_from_end_before_those_held_out(series: Series) -> None:
    assert series.learned == sunspots.row_of(1920) + 1
    assert [(rows.start + 1700, rows.stop + 1699) for rows in series.tests.values()] == [
        (1921, 1955),
        (1956, 1979),
        (1980, 2008),
    ]
    assert max(fold.stop for fold in series.folds) <= series.learned


def test_the_variance_that_errors_are_divided_by_is_near_the_customary_one(series: Series) -> None:
    assert series.rows[:280].var() == pytest.approx(1495.6, abs=0.1)


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_forecaster_is_as_good_as_its_results_say(series: Series, name: str) -> None:
    measured, found = RESULTS[name]["measured"], measure_sunspots(model_file(name), series)
    assert found["arv"] == pytest.approx(measured["arv"], abs=1e-4)
    assert RESULTS[name]["size"] == model_file(name).stat().st_size


@pytest.mark.parametrize("name", NAMES)
def test_intervals_hold_what_its_card_says(series: Series, name: str) -> None:
    forecast = ExportedForecaster(model_file(name)).forecast
    assert forecast.errors is not None and forecast.minimum == 0
    assert forecast.errors.table.shape == (188, 11, 1), "110 of learned years, 78 of held-out ones"
    shares, before = (np.array(RESULTS[name]["intervals"][key]) for key in ("shares", "before"))
    assert np.array(forecast.errors.coverage) == pytest.approx(shares, abs=1e-4)
    assert 0.75 <= shares.mean() <= 0.85 and before.mean() < 0.75


@pytest.mark.parametrize("name", NAMES)
def test_its_errors_end_with_its_own_of_the_held_out_years(series: Series, name: str) -> None:
    held_out = of_held_out(series, model_file(name), RECIPES[name])
    errors = ExportedForecaster(model_file(name)).forecast.errors
    assert errors is not None
    own = errors_of(held_out.points, held_out.truth, errors.offset, errors.level, 100)
    assert np.allclose(own.table, errors.table[-78:], atol=1e-3)


def test_coverage_is_measured_without_later_errors(series: Series) -> None:
    """Errors that come after a forecast do not change its interval."""
    recipe = RECIPES["sunspots-gru"]
    held_out = of_held_out(series, model_file("sunspots-gru"), recipe)
    row = int(held_out.origins[40])
    truth = held_out.truth.copy()
    truth[held_out.origins + recipe.steps > row] += 1000
    changed = Forecasts(held_out.origins, held_out.points, truth)
    assert errors_before(row, changed, recipe, None) == errors_before(row, held_out, recipe, None)


def test_a_forecast_of_one_year_is_the_answer_at_the_last_step(series: Series) -> None:
    forecaster = ExportedForecaster(model_file("sunspots-gru"))
    history, future = series.rows[None, :221], series.rows[None, 221:232]
    read, _ = forecaster.read(history)
    assert np.allclose(forecaster.points(history, future)[:, 0], forecaster.held(read[:, -1]))


@pytest.mark.parametrize("name", NAMES)
def test_its_examples_are_held_out_years(series: Series, name: str) -> None:
    assert name in RECIPES
    examples = json.loads(model_file(name).with_name("examples.json").read_text("utf-8"))
    for one, rows in zip(examples, series.tests.values(), strict=True):
        assert len(one["sequence"]) == rows.start
        assert np.allclose(one["truth"], series.rows[rows.start : rows.start + 11], atol=1e-3)
