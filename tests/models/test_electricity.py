"""The forecasters of electricity foretell the days held out as well as their cards say."""

import json
import pickle
from pathlib import Path

import numpy as np
import onnx
import pytest

from elman.repository.spec import METADATA_KEY, parse_spec
from models.cards import read_results
from models.forecast_measures import ExportedForecaster, mape, measure_electricity
from models.forecast_recipes import ELECTRICITY
from models.forecaster import cut
from models.forecasting import HERE
from models.recurrent import CELLS
from models.tasks import electricity
from models.tasks.series import Series

pytestmark = pytest.mark.torch

RESULTS = read_results(HERE / "results.json")
NAMES = [f"electricity-{cell}" for cell in CELLS]


@pytest.fixture(scope="module")
def series() -> Series:
    return electricity.load()


def model_file(name: str) -> Path:
    return HERE / "store" / name / "1" / "model.onnx"


def test_there_is_a_year_of_half_hours(series: Series) -> None:
    assert series.rows.shape == (365 * 48, 5)
    assert series.rows[:, 0].min() == pytest.approx(2.858)
    assert series.rows[:, 0].max() == pytest.approx(9.345)
    assert series.rows[:50, 3].tolist() == [*range(48), 0, 1]


def test_no_saturday_or_sunday_is_a_workday(series: Series) -> None:
    workday, weekday = series.rows[::48, 2], series.rows[::48, 4]
    assert not workday[weekday >= 5].any()
    assert workday[weekday < 5].mean() > 0.9


def test_the_days_held_out_are_the_last_ones(series: Series) -> None:
    (rows,) = series.tests.values()
    assert (rows.start, rows.stop) == (series.learned, len(series.rows))
    assert len(rows) == 72 * 48
    assert max(fold.stop for fold in series.folds) <= series.learned


def test_the_temperature_ahead_is_not_given(series: Series) -> None:
    assert series.target == (0, 1)
    assert series.known == (2, 3, 4)


def test_the_same_day_last_week_is_the_baseline_to_beat(series: Series) -> None:
    (rows,) = series.tests.values()
    demand = series.rows[:, 0]
    last_week = demand[rows.start - 7 * 48 : rows.stop - 7 * 48]
    assert mape(last_week, demand[rows.start : rows.stop]) == pytest.approx(6.69, abs=0.005)


def test_arrays_are_taken_out_of_a_pickle_without_running_it() -> None:
    numbers, counts = np.arange(4.0), np.arange(4)
    pickled = pickle.dumps([bytearray(numbers.tobytes()), bytearray(counts.tobytes())], protocol=5)
    values, workday = electricity.parse(pickled)
    assert values.tolist() == [[0, 1], [2, 3]]
    assert workday.tolist() == [2, 3]


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_forecaster_is_as_good_as_its_results_say(series: Series, name: str) -> None:
    measured, found = RESULTS[name]["measured"], measure_electricity(model_file(name), series)
    assert found["num_days"] == 72
    assert found["mape"] == pytest.approx(measured["mape"], abs=0.01)
    assert found["temperature_error"] == pytest.approx(measured["temperature_error"], abs=0.01)
    assert RESULTS[name]["size"] == model_file(name).stat().st_size


def test_the_forecasters_beat_the_same_day_last_week() -> None:
    for name in NAMES:
        assert RESULTS[name]["measured"]["mape"] < RESULTS[name]["measured"]["mape_last_week"]


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_forecaster_describes_itself(series: Series, name: str) -> None:
    properties = {entry.key: entry.value for entry in onnx.load(model_file(name)).metadata_props}
    spec = parse_spec(properties[METADATA_KEY], name)
    assert spec.task == "forecasting"
    assert spec.input.names == series.feature_names
    assert spec.forecast is not None
    assert (spec.forecast.target, spec.forecast.known) == ((0, 1), (2, 3, 4))
    assert spec.forecast.errors is not None
    assert spec.forecast.errors.table.shape == (96, 48, 2)


@pytest.mark.parametrize("name", NAMES)
def test_intervals_hold_what_its_card_says(name: str) -> None:
    errors = ExportedForecaster(model_file(name)).forecast.errors
    assert errors is not None
    shares, before = (np.array(RESULTS[name]["intervals"][key]) for key in ("shares", "before"))
    assert np.array(errors.coverage) == pytest.approx(shares, abs=1e-4)
    # Over all steps, of demand and of temperature.
    assert np.abs(shares.mean(axis=0) - 0.8).max() < 0.075 < np.abs(before.mean(axis=0) - 0.8).max()


def test_a_forecast_takes_nothing_from_the_day_ahead_but_its_calendar(series: Series) -> None:
    forecaster = ExportedForecaster(model_file("electricity-gru"))
    (rows,) = series.tests.values()
    day = next(iter(cut(series, rows, ELECTRICITY)))[None]
    history, future = day[:, :336], day[:, 336:]
    blind = future.copy()
    blind[..., :2] = 99
    assert np.array_equal(forecaster.points(history, future), forecaster.points(history, blind))


@pytest.mark.parametrize("name", NAMES)
def test_its_examples_are_days_held_out(series: Series, name: str) -> None:
    examples = json.loads(model_file(name).with_name("examples.json").read_text("utf-8"))
    assert len(examples) == 3
    (rows,) = series.tests.values()
    for one in examples:
        assert (len(one["sequence"]), len(one["future"]), len(one["truth"])) == (336, 48, 48)
        start = next(
            i
            for i in range(rows.start, rows.stop, 48)
            if np.allclose(one["truth"], series.rows[i : i + 48, :2], atol=1e-3)
        )
        assert np.allclose(one["sequence"], series.rows[start - 336 : start], atol=1e-3)
