"""What a forecaster's card says and shows: measures in words, examples and a picture."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elman.exporter.calibrating import bounds
from models.cards import draw_paths
from models.forecast_measures import ExportedForecaster
from models.forecast_recipes import BEFORE, CYCLE, INTERVALS, RIVALS, Recipe
from models.tasks.series import Series


def words(
    name: str, measured: dict[str, Any], by_seed: list[dict[str, Any]], intervals: dict[str, Any], series: Series
) -> dict[str, Any]:
    """The measures in the words of the card."""
    said = WORDS[name.split("-")[0]](measured, by_seed)
    said["lines"]["Intervals"] = interval_words(name, intervals, series)
    said["table"] = interval_table(intervals, series)
    if name in BEFORE:
        said["lines"]["Held-out data"] = BEFORE[name]
    return said


SHOWN_STEPS = (1, 2, 3, 4, 6, 8, 11, 12, 24, 36, 48)


def interval_words(name: str, intervals: dict[str, Any], series: Series) -> str:
    """What the intervals hold of the held-out rows."""
    shares, offset = np.array(intervals["shares"]), intervals["offset"]  # shares: (steps, values)
    values = [
        f"**{100 * share:.0f} %** of the {one}" for share, one in zip(shares.mean(axis=0), named(series), strict=True)
    ]
    scaled = "" if offset is None else f", as shares of the forecast plus {offset:g}"
    of_learned = "of learned rows by models that were trained on the rows before, and " if series.left_out else ""
    first = f". The first {series.only_calibrated:,} held-out rows only calibrate" if series.only_calibrated else ""
    said = (
        f"80 % intervals hold {' and '.join(values)} held out, {100 * shares.min():.0f} to {100 * shares.max():.0f} % "
        f"at single steps. The file has the errors of {intervals['num_errors']} forecasts of {len(shares)} "
        f"steps{scaled}: {of_learned}of held-out rows. Coverage is measured forward in time: each held-out forecast "
        f"with the errors of those that were over when it was made{first}"
    )
    return f"{said}. {INTERVALS[name]}" if name in INTERVALS else said


def interval_table(intervals: dict[str, Any], series: Series) -> list[str]:
    """Coverage by steps ahead, with errors of one step that were drawn independently and fed back, and now."""
    before, now = np.array(intervals["before"]), np.array(intervals["shares"])  # (steps, values)
    head = ["steps ahead", *(f"{one}, {when}" for one in named(series) for when in ("before", "now"))]
    lines = [head, ["---"] * len(head)]
    for step in (one for one in SHOWN_STEPS if one <= len(now)):
        pairs = zip(before[step - 1], now[step - 1], strict=True)
        lines.append([str(step), *(f"{100 * share:.0f} %" for pair in pairs for share in pair)])
    title = (
        "Share of the held-out truth in 80 % intervals. Before, a path drew an error of one step independently at each "
        "step, and fed the sum back:"
    )
    return ["", title, "", *(f"| {' | '.join(line)} |" for line in lines)]


def named(series: Series) -> list[str]:
    """The names of what is forecast, without units."""
    return [series.feature_names[i].split(",")[0] for i in series.target]


def spread(values: list[float], digits: int) -> str:
    return f"{np.mean(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def sunspots_words(measured: dict[str, Any], by_seed: list[dict[str, Any]]) -> dict[str, Any]:
    first, second, third = measured["arv"]
    near, far = (spread([one["arv"][period] for one in by_seed], 3) for period in (first, second))
    customary = measured["arv_1535"]
    return {
        "shipped": f"average relative variance {measured['arv'][first]:.3f} and {measured['arv'][second]:.3f}",
        "over_seeds": f"{near} and {far}, {len(by_seed)} seeds",
        "lines": {
            "Average relative variance, one year ahead given the true past": (
                f"**{measured['arv'][first]:.3f}** for {first}, **{measured['arv'][second]:.3f}** for {second}, "
                f"{measured['arv'][third]:.3f} for {third} ({measured['arv_learned']:.3f} on the years learned): the "
                f"mean squared error divided by {measured['variance']:.1f}, the variance of this series from 1700 to "
                f"1979. Divided by 1535, as is the custom, {customary[first]:.3f}, {customary[second]:.3f} and "
                f"{customary[third]:.3f}. Over {len(by_seed)} seeds {near} and {far}"
            ),
            "To beat": (
                f"0.086 and 0.35 (Weigend, Huberman and Rumelhart, 1990), dividing by 1535: "
                f"{verdict(customary[first], 0.086, 3)}; {verdict(customary[second], 0.35, 2)}. "
                + ". ".join(
                    f"{near} and {far} ({rival}): {verdict(measured['arv'][first], near, 3)}; "
                    f"{verdict(measured['arv'][second], far, 3)}"
                    for rival, near, far in RIVALS
                )
            ),
        },
    }


def verdict(found: float, wanted: float, digits: int) -> str:
    """Whether an error is less than the one to beat, which is rounded to `digits`."""
    if round(found, digits) == wanted:
        return "equalled as rounded, not beaten"
    return "beaten" if found < wanted else "not beaten"


def electricity_words(measured: dict[str, Any], by_seed: list[dict[str, Any]]) -> dict[str, Any]:
    over_seeds = (
        f"{spread([one['mape'] for one in by_seed], 2)} %, {len(by_seed)} seed{'s' if len(by_seed) > 1 else ''}"
    )
    return {
        "shipped": f"{measured['mape']:.2f} % mean absolute error of the next day",
        "over_seeds": over_seeds,
        "lines": {
            f"Error over the {measured['num_days']} days, each forecast at midnight from the week before": (
                f"mean absolute percentage error of demand **{measured['mape']:.2f} %**; over seeds {over_seeds}. The "
                f"same day last week is off by {measured['mape_last_week']:.2f} %, the day before by "
                f"{measured['mape_yesterday']:.2f} %. Temperature is off by {measured['temperature_error']:.2f} °C"
            ),
            "To beat": f"5.67 % (a quick GRU): {verdict(measured['mape'], 5.67, 2)}",
        },
    }


WORDS = {"sunspots": sunspots_words, "electricity": electricity_words}


def examples(series: Series, recipe: Recipe) -> list[dict[str, Any]]:
    """A history before held-out rows, the known features of these rows, and their true values."""
    horizon = CYCLE if recipe.horizon == 1 else recipe.horizon
    starts = {called: rows.start for called, rows in series.tests.items()}
    if len(starts) == 1:  # Three forecasts from one long segment, a third of it apart.
        (called, rows), *_ = series.tests.items()
        first_day, third = rows.start, len(rows) // 3 // recipe.start_every * recipe.start_every
        starts = {f"{called}, {i + 1} of 3": first_day + i * third for i in range(3)}
    found = []
    for called, start in starts.items():
        first = 0 if recipe.history is None else start - recipe.history
        future = series.rows[start : start + horizon]
        found.append(
            {
                "title": f"{series.name.capitalize()}, {called}: {horizon} steps ahead",
                "sequence": plain(series.rows[first:start]),
                "expected": None,
                **({"future": plain(future[:, list(series.known)])} if series.known else {}),
                "truth": plain(future[:, list(series.target)]),
            }
        )
    return found


def plain(rows: NDArray[np.float32]) -> list[list[float]]:
    return [[round(float(value), 3) for value in row] for row in rows]


def draw_forecast(path: Path, title: str, model: Path, series: Series, recipe: Recipe) -> None:
    """Draw the first forecast of the held-out rows, its 80 % intervals, and the true values."""
    rows = next(iter(series.tests.values()))
    horizon = recipe.steps
    first = 0 if recipe.history is None else rows.start - recipe.history
    history, future = series.rows[None, first : rows.start], series.rows[None, rows.start : rows.start + horizon]
    forecaster = ExportedForecaster(model)
    points = forecaster.points(history, future)
    errors = forecaster.forecast.errors
    assert errors is not None
    low, high = (one[0, :, 0] for one in bounds(errors, points, series.minimum))
    past, point = history[0, -2 * horizon :, 0], points[0, :, 0]
    draw_paths(path, title, series.feature_names[0], past, future[0, :, 0], point, (low, high))
