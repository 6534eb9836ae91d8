"""Intervals that a user calibrates: measured errors go into the file, and nothing else of it changes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from elman import calibrate
from elman.exporter import ExportRefused
from elman.repository.spec import ForecastSpec, embedded_spec, parse_spec
from tests.looping import forecaster, put_forecaster

pytestmark = pytest.mark.torch

Array = np.ndarray[Any, Any]
HORIZON = 8


def walks(count: int, seed: int) -> Array:
    """Random walks `(count, HORIZON)`, whose spread grows with the step."""
    return np.random.default_rng(seed).standard_normal((count, HORIZON)).cumsum(axis=1)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    put_forecaster(tmp_path, "walk", forecaster("gru", 1, 1), ForecastSpec(target=(0,), residuals=((1.0,),)))
    return tmp_path / "walk" / "1" / "model.onnx"


def test_the_middle_interval_covers_new_walks_at_every_step(file: Path) -> None:
    points, truth = np.zeros((4000, HORIZON)), walks(4000, 0)
    spec = calibrate(file, points[:2000], truth[:2000], tested=(points[2000:], truth[2000:]), most_rows=1000)
    assert spec.forecast is not None and spec.forecast.errors is not None
    errors = spec.forecast.errors
    assert errors.table.shape == (1000, HORIZON, 1) and spec.forecast.residuals == ()
    assert np.array(errors.coverage) == pytest.approx(0.8, abs=0.05)
    growth = errors.table.std(axis=0)[:, 0] / np.sqrt(np.arange(1, HORIZON + 1))
    assert growth == pytest.approx(1.0, abs=0.1), "each step has the spread of its own errors"


def test_the_weights_keep_their_bits(file: Path) -> None:
    before = onnx.load(file)
    spec = calibrate(file, np.zeros((30, HORIZON)), walks(30, 1))
    after = onnx.load(file)
    assert after.graph == before.graph
    assert embedded_spec({entry.key: entry.value for entry in after.metadata_props}) == spec


def test_a_description_beside_the_file_is_the_one_that_changes(file: Path) -> None:
    beside, before = file.with_name("model.json"), file.read_bytes()
    beside.write_text(json.dumps({"task": "forecasting", "forecast": {"target": [0]}}))
    spec = calibrate(file, np.zeros((30, HORIZON)), walks(30, 1))
    assert parse_spec(beside.read_bytes(), "model.json") == spec and file.read_bytes() == before


def test_an_offset_makes_shares_of_the_forecast(file: Path) -> None:
    points = np.random.default_rng(0).uniform(0, 100, (500, HORIZON))
    truth = points + (points + 5.0) * np.random.default_rng(1).standard_normal(points.shape)
    spec = calibrate(file, points[:250], truth[:250], tested=(points[250:], truth[250:]), offset=5.0)
    assert spec.forecast is not None and spec.forecast.errors is not None
    assert spec.forecast.errors.table.std() == pytest.approx(1.0, abs=0.1)
    assert np.mean(spec.forecast.errors.coverage) == pytest.approx(0.8, abs=0.05)


def test_series_with_scales_of_their_own_need_an_offset(file: Path) -> None:
    described = {"task": "forecasting", "input": {"scale": "series"}, "forecast": {"target": [0]}}
    file.with_name("model.json").write_text(json.dumps(described))
    with pytest.raises(ExportRefused, match="give offset"):
        calibrate(file, np.zeros((30, HORIZON)), walks(30, 1))
    assert calibrate(file, np.zeros((30, HORIZON)), walks(30, 1), offset=1.0).forecast is not None


@pytest.mark.parametrize(
    ("forecasts", "truth", "options", "words"),
    [
        (np.zeros((30, 4)), np.zeros((30, 5)), {}, r"forecasts has the shape \(30, 4\), truth \(30, 5\)"),
        (np.zeros(30), np.zeros(30), {}, r"not \(forecasts, steps\[, values\]\)"),
        (np.zeros((5, 4)), np.zeros((5, 4)), {}, "give 20 or more"),
        (np.zeros((30, 4)), np.full((30, 4), np.nan), {}, r"at \[0, 0\] of truth is not finite"),
        (np.zeros((30, 4, 2)), np.zeros((30, 4, 2)), {}, "of 2 values, the model's of 1"),
        (np.zeros((30, 4)), np.zeros((30, 4)), {"level": 80}, "level: Input should be less than 1"),
        (np.zeros((30, 4)), np.zeros((30, 4)), {"offset": -1.0}, "offset: Input should be greater than 0"),
        (np.zeros((30, 4)), np.zeros((30, 4)), {"most_rows": 1}, "rows: Tuple should have at least 2 items"),
        (np.zeros((30, 4)), np.zeros((30, 4)), {"tested": (np.zeros((9, 3)), np.zeros((9, 3)))}, "the others"),
    ],
)
def test_numbers_that_do_not_fit_change_nothing(
    file: Path, forecasts: Array, truth: Array, options: dict[str, Any], words: str
) -> None:
    before = {one: one.read_bytes() for one in file.parent.iterdir()}
    with pytest.raises(ExportRefused, match=words):
        calibrate(file, forecasts, truth, **options)
    assert {one: one.read_bytes() for one in file.parent.iterdir()} == before
