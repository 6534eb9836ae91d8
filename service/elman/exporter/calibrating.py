"""Intervals of a forecaster, from its errors on data that it was not trained on."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import ArrayLike
from pydantic import ValidationError

from elman.errors import ModelRefused, message_of
from elman.exporter.errors import ExportRefused
from elman.exporter.writing import write
from elman.repository.spec import METADATA_KEY, ErrorsSpec, ForecastSpec, ModelSpec, embedded_spec, parse_spec

MOST_ROWS = 256
"""Default of `most_rows`. The file has all their numbers as text."""

FEWEST_ROWS = 20
"""With fewer, the quantiles of a middle interval are among the very first and last errors."""

Array = np.ndarray[Any, Any]


def calibrate(
    path: str | os.PathLike[str],
    forecasts: ArrayLike,
    truth: ArrayLike,
    *,
    tested: tuple[ArrayLike, ArrayLike] | None = None,
    offset: float | None = None,
    level: float = 0.8,
    most_rows: int = MOST_ROWS,
) -> ModelSpec:
    """Write the errors of forecasts into a forecaster's file, so that the server makes intervals from them.

        calibrate("my-models/load/1/model.onnx", forecasts, truth, tested=(later_forecasts, later_truth))

    The forecasts are point forecasts from many origins, all of one horizon, of data that the model was not trained on.
    A sampled path is then a point forecast plus the errors of one of them, so that the intervals are as wide at each
    step as the errors were. Only the description changes: that in `model.json` if there is one beside the file, and
    otherwise that in the file. The weights stay as they are.

    Args:
        path: of the ONNX file.
        forecasts, truth: `(forecasts, steps)` or `(forecasts, steps, values)`, in the data's own units.
        tested: forecasts and truth of other data, as above, on which the coverage is measured. It goes onto the card.
        offset: makes the errors shares of `|forecast| + offset`, for series whose errors grow with their values.
        level: the share that the measured middle interval is meant to hold.
        most_rows: most forecasts that are kept, evenly spread over those that are given.

    Returns:
        the new description. Its `forecast.errors.coverage` is the coverage for each step and value.

    Raises:
        ExportRefused: the file is no forecaster, or the numbers do not fit it or each other. Nothing was written.
        OSError: the file cannot be read or written.
    """
    path = Path(path)
    _, spec = _read(path)
    forecast = spec.forecast
    if spec.task != "forecasting" or forecast is None:
        raise ExportRefused(f"the description of {path} has no task forecasting with a key forecast")
    if forecast.head is not None:
        raise ExportRefused("the model has a head, and its paths are drawn from that")
    if spec.input.scale is not None and offset is None:
        raise ExportRefused("its series have scales of their own: give offset, and errors are shares of the forecast")
    points, values = _pair(forecasts, truth, "forecasts", "truth")
    if forecast.target is not None and points.shape[2] != len(forecast.target):
        raise ExportRefused(f"forecasts are of {points.shape[2]} values, the model's of {len(forecast.target)}")
    if len(points) < FEWEST_ROWS:
        raise ExportRefused(f"there are {len(points)} forecasts: give {FEWEST_ROWS} or more")
    try:
        errors = errors_of(points, values, offset, level, most_rows)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        raise ExportRefused(f"{'.'.join(map(str, first['loc']))}: {message_of(first)}") from None
    if tested is not None:
        shares = coverage(errors, *_pair(*tested, "tested[0]", "tested[1]"), forecast.minimum)
        errors = errors.model_copy(update={"coverage": tuple(tuple(step) for step in shares.tolist())})
    return write_errors(path, errors)


def errors_of(forecasts: Array, truth: Array, offset: float | None, level: float, most_rows: int) -> ErrorsSpec:
    """The errors of forecasts, both `(forecasts, steps, values)`, of at most `most_rows`, to four digits."""
    kept = np.unique(np.linspace(0, len(truth) - 1, min(most_rows, len(truth))).round().astype(np.int64))
    errors = (truth - forecasts)[kept]
    if offset is not None:
        errors = errors / (np.abs(forecasts[kept]) + offset)
    rows = tuple(tuple(tuple(float(f"{one:.4g}") for one in step) for step in row) for row in errors.tolist())
    return ErrorsSpec(rows=rows, offset=offset, level=level)


def coverage(errors: ErrorsSpec, forecasts: Array, truth: Array, minimum: float | None = None) -> Array:
    """The share of the truth in the middle interval, `(steps, values)`. Both are `(forecasts, steps, values)`."""
    if truth.shape[1:] != errors.table.shape[1:]:
        expected = errors.table.shape[1:]
        raise ExportRefused(f"tested forecasts have {truth.shape[1:]} steps and values, the others {expected}")
    low, high = bounds(errors, forecasts, minimum)
    held: Array = ((low <= truth) & (truth <= high)).mean(axis=0)
    return held


def bounds(errors: ErrorsSpec, forecasts: Array, minimum: float | None = None) -> tuple[Array, Array]:
    """The middle interval of `errors.level` about forecasts `(forecasts, steps, values)`: its ends, as they are."""
    low, high = np.quantile(errors.table, (0.5 - errors.level / 2, 0.5 + errors.level / 2), axis=0)  # (steps, values)
    scale = 1.0 if errors.offset is None else np.abs(forecasts) + errors.offset
    floor = -np.inf if minimum is None else minimum
    return np.maximum(forecasts + low * scale, floor), np.maximum(forecasts + high * scale, floor)


def write_errors(path: Path, errors: ErrorsSpec) -> ModelSpec:
    """Put errors into the description of a forecaster, in place of what its paths were made from."""
    model, spec = _read(path)
    forecast = (spec.forecast or ForecastSpec()).model_copy(update={"errors": errors, "residuals": ()})
    spec = spec.model_copy(update={"forecast": forecast})
    _write(path, model, spec)
    return spec


def _pair(forecasts: ArrayLike, truth: ArrayLike, *names: str) -> tuple[Array, Array]:
    """Both as float64 `(forecasts, steps, values)`. Raises ExportRefused."""
    found = [np.asarray(one, np.float64) for one in (forecasts, truth)]
    for name, one in zip(names, found, strict=True):
        if one.ndim not in (2, 3) or not one.size:
            raise ExportRefused(f"{name} has the shape {one.shape}, not (forecasts, steps[, values])")
        if not np.isfinite(one).all():
            first = np.argwhere(~np.isfinite(one))[0].tolist()
            raise ExportRefused(f"the number at {first} of {name} is not finite")
    points, values = (one.reshape(*one.shape[:2], -1) for one in found)
    if points.shape != values.shape:
        raise ExportRefused(f"{names[0]} has the shape {found[0].shape}, {names[1]} {found[1].shape}")
    return points, values


def _read(path: Path) -> tuple[onnx.ModelProto, ModelSpec]:
    """The file without what lies in other files, and its description. Raises ExportRefused, OSError."""
    model = onnx.load(path, load_external_data=False)
    beside = path.with_name("model.json")
    try:
        if beside.exists():
            return model, parse_spec(beside.read_bytes(), "model.json")
        return model, embedded_spec({entry.key: entry.value for entry in model.metadata_props}) or ModelSpec()
    except ModelRefused as error:
        raise ExportRefused(str(error)) from error


def _write(path: Path, model: onnx.ModelProto, spec: ModelSpec) -> None:
    beside, text = path.with_name("model.json"), json.dumps(spec.dump(), ensure_ascii=False, separators=(",", ":"))
    if beside.exists():
        write(beside, text.encode())
        return
    carried = {entry.key: entry.value for entry in model.metadata_props}
    onnx.helper.set_model_props(model, {**carried, METADATA_KEY: text})
    write(path, model.SerializeToString())
