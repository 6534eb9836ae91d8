"""What a forecaster's card says and shows: measures in words, examples and a picture."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.cards import draw_paths
from models.forecast_measures import ExportedForecaster
from models.forecast_recipes import BEFORE, CYCLE, NUM_PATHS, RIVALS, Recipe
from models.tasks.series import Series


def words(name: str, measured: dict[str, Any], by_seed: list[dict[str, Any]]) -> dict[str, Any]:
    """The measures in the words of the card."""
    said = WORDS[name.split("-")[0]](measured, by_seed)
    if name in BEFORE:
        said["lines"]["Held-out data"] = BEFORE[name]
    return said


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
            "Coverage": (
                f"the middle 80 % of {NUM_PATHS} sampled paths hold {100 * measured['coverage_1']:.0f} % of the held "
                f"out years one year ahead, and {100 * measured[f'coverage_{CYCLE}']:.0f} % of those one to {CYCLE} "
                "years ahead, from every year after 1920"
            ),
        },
    }


def verdict(found: float, wanted: float, digits: int) -> str:
    """Whether an error is less than the one to beat, which is rounded to `digits`."""
    if round(found, digits) == wanted:
        return "equalled as rounded, not beaten"
    return "beaten" if found < wanted else "not beaten"


def electricity_words(measured: dict[str, Any], by_seed: list[dict[str, Any]]) -> dict[str, Any]:
    over_seeds = f"{spread([one['mape'] for one in by_seed], 2)} %, {len(by_seed)} seeds"
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
            "Coverage": (
                f"the middle 80 % of {NUM_PATHS} sampled paths hold {100 * measured['coverage_first']:.0f} % of the "
                f"demand of the first half-hour, {100 * measured['coverage_demand']:.0f} % of that of the whole day, "
                f"and {100 * measured['coverage_temperature']:.0f} % of the temperature. A path draws the "
                "error of each step independently, from the errors of all hours. The errors of a real day are "
                "correlated, so that the band of the whole day is too narrow"
            ),
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
    """Draw the first forecast of the held-out rows, the middle 80 % of its paths, and the true values."""
    rows = next(iter(series.tests.values()))
    horizon = 35 if recipe.horizon == 1 else recipe.horizon
    first = 0 if recipe.history is None else rows.start - recipe.history
    history, future = series.rows[None, first : rows.start], series.rows[None, rows.start : rows.start + horizon]
    forecaster = ExportedForecaster(model)
    low, high = np.quantile(
        forecaster.paths(history, future, NUM_PATHS, np.random.default_rng(0))[0, :, :, 0], (0.1, 0.9), 0
    )
    point = forecaster.points(history, future)[0, :, 0]
    draw_paths(path, title, series.feature_names[0], history[0, -2 * horizon :, 0], future[0, :, 0], point, (low, high))
