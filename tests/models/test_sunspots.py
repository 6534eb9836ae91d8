"""The forecasters of sunspots foretell the held-out years as well as their cards say."""

import json
from pathlib import Path

import numpy as np
import pytest

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
    measured, found = RESULTS[name]["measured"], measure_sunspots(model_file(name), series, sampled=False)
    assert found["arv"] == pytest.approx(measured["arv"], abs=1e-4)
    assert RESULTS[name]["size"] == model_file(name).stat().st_size


@pytest.mark.parametrize("name", NAMES)
def test_residuals_are_errors_made_within_the_years_learned_from(series: Series, name: str) -> None:
    forecaster = ExportedForecaster(model_file(name))
    assert forecaster.residuals.shape == (sum(map(len, series.folds)), 1)
    assert 10 < forecaster.residuals.std() < 30
    assert forecaster.forecast.minimum == 0


def test_a_forecast_of_one_year_is_the_answer_at_the_last_step(series: Series) -> None:
    forecaster = ExportedForecaster(model_file("sunspots-gru"))
    history, future = series.rows[None, :221], series.rows[None, 221:232]
    read, _ = forecaster.read(history)
    assert np.allclose(forecaster.points(history, future)[:, 0], forecaster.held(read[:, -1]))


def test_paths_are_never_below_nought_and_repeat_with_their_seed(series: Series) -> None:
    forecaster = ExportedForecaster(model_file("sunspots-gru"))
    history, future = series.rows[None, :221], series.rows[None, 221:232]
    first, again = (forecaster.paths(history, future, 20, np.random.default_rng(3)) for _ in range(2))
    assert first.shape == (1, 20, 11, 1)
    assert first.min() >= 0
    assert np.array_equal(first, again)


@pytest.mark.parametrize("name", NAMES)
def test_its_examples_are_held_out_years(series: Series, name: str) -> None:
    assert name in RECIPES
    examples = json.loads(model_file(name).with_name("examples.json").read_text("utf-8"))
    for one, rows in zip(examples, series.tests.values(), strict=True):
        assert len(one["sequence"]) == rows.start
        assert np.allclose(one["truth"], series.rows[rows.start : rows.start + 11], atol=1e-3)
