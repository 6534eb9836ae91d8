"""Train the forecasters, and write what was measured.

    python -m models.forecasting sunspots --cell gru --seed 0         a minute or two
    python -m models.forecasting electricity --cell gru --seed 0      a few minutes
    python -m models.forecasting --all                                all of them, several seeds each
    python -m models.forecasting --all --calibrate                    only their intervals; the weights stay

A forecaster's output at one step is the values of the next step, and its next input. It is trained on this feedback:
after a segment of the past it is fed its own outputs, which are compared with the true values. Sunspots are forecast
one year ahead, and are trained with teacher forcing, where the truth is fed (R. J. Williams and D. Zipser, "A Learning
Algorithm for Continually Running Fully Recurrent Neural Networks", 1989).

The number of epochs is chosen on rows before the held-out ones, with training on the rows before these only. The model
is then trained on all rows before the held-out ones. Only the exported file reads the held-out rows.
"""

import argparse
import platform
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models.calibration import Forecasts, of_left_out, recalibrate
from models.cards import draw_losses, read_results
from models.examples import write_examples
from models.forecast_cards import draw_forecast, examples, words
from models.forecast_measures import measure_electricity, measure_sunspots
from models.forecast_recipes import RECIPES, Recipe
from models.forecaster import export_forecaster, fit
from models.recurrent import CELLS, Cell
from models.tasks import electricity, sunspots
from models.tasks.series import Series
from models.train import HERE, SHIPPED_SEED, publish

TASKS = {"sunspots": sunspots.load, "electricity": electricity.load}
MEASURES = {"sunspots": measure_sunspots, "electricity": measure_electricity}
SEEDS = {"sunspots": (0, 1, 2, 3, 4), "electricity": (0, 1, 2)}
CHOOSING_SEEDS = {"sunspots": (0, 1), "electricity": (0,)}


@dataclass(frozen=True)
class Choice:
    """The number of epochs, chosen on the folds."""

    num_epochs: int
    train_loss: list[float]
    validation_loss: list[float]


def choose_epochs(series: Series, cell: Cell, recipe: Recipe, seeds: tuple[int, ...]) -> Choice:
    """The number of epochs with the least validation loss, the mean over folds and seeds."""
    curves = [
        fit(series, cell, recipe, seed, fold.start, recipe.max_epochs, fold)[1]
        for fold in series.folds
        for seed in seeds
    ]
    validation = np.mean([one.validation_loss for one in curves], axis=0)  # (epochs,)
    best = int(np.argmin(validation))
    train_loss = np.mean([one.train_loss for one in curves], axis=0)
    return Choice(best + 1, train_loss.tolist(), validation.tolist())


def train(name: str, seed: int, other_seeds: tuple[int, ...] = (), home: Path = HERE) -> dict[str, Any]:
    """Train, export, measure and draw one forecaster, and return what its card says."""
    task, cell, recipe = name.split("-")[0], cell_of(name), RECIPES[name]
    series, measure = TASKS[task](), MEASURES[task]
    started = time.process_time()
    choice = choose_epochs(series, cell, recipe, CHOOSING_SEEDS[task])
    model, _ = fit(series, cell, recipe, seed, series.learned, choice.num_epochs)
    seconds = time.process_time() - started  # Processor time, which other work does not change much.
    path = home / "store" / name / "1" / "model.onnx"
    export_forecaster(model, series, path)
    intervals = calibrated(name, path, series, of_left_out(series, cell, recipe, choice.num_epochs, seed))
    write_examples(path, examples(series, recipe))
    measured = measure(path, series)
    by_seed = {str(seed): measured}
    by_seed |= {str(one): measure_seed(series, cell, recipe, one, choice) for one in other_seeds}
    losses = {"training": choice.train_loss, "validation": choice.validation_loss}
    unit = f"{recipe.loss} error, normalised"
    draw_losses(home / "pictures" / f"{name}.png", name, losses, choice.num_epochs, unit)
    draw_forecast(home / "pictures" / f"{name}-forecast.png", name, path, series, recipe)
    return {
        "about": series.about,
        "network": (
            f"{cell.upper()}, forward, 1 layer of {recipe.hidden_size}, initial state zeros, decoder at every step "
            "beside a linear guess from the last value"
        ),
        "data": series.data,
        "licence": series.licence,
        "split": series.split,
        "num_train": series.learned,
        "num_test": sum(len(rows) for rows in series.tests.values()),
        "seed": seed,
        "num_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "machine": f"{platform.machine()}, torch {torch.__version__}",
        "command": f"python -m models.forecasting {task} --cell {cell} --seed {seed}",
        "measured": {**measured, "by_seed": by_seed},
        "intervals": intervals,
        "loop": {
            **words(name, measured, list(by_seed.values()), intervals, series),
            "chosen": (
                f"{recipe.updates_per_epoch} updates each, chosen on {sum(map(len, series.folds)):,} rows kept back "
                f"from the training data, then all {series.learned:,}"
            ),
            "pictures": {"Loss by epoch": f"{name}.png", "A forecast of held-out rows": f"{name}-forecast.png"},
        },
        "num_epochs": choice.num_epochs,
        "training_seconds": seconds,
        "size": path.stat().st_size,
    }


def calibrated(name: str, path: Path, series: Series, left_out: list[Forecasts]) -> dict[str, Any]:
    """Write the errors of forecasts into a file, and return what the intervals hold, beside what they held before."""
    known = read_results(HERE / "results.json").get(name, {}).get("intervals", {})
    return {**known, **recalibrate(path, series, RECIPES[name], left_out)}


def calibrate(name: str) -> dict[str, Any]:
    """Measure the intervals of a shipped forecaster again, whose weights stay, and return what its card says."""
    series, recipe, result = TASKS[name.split("-")[0]](), RECIPES[name], read_results(HERE / "results.json")[name]
    path = HERE / "store" / name / "1" / "model.onnx"
    left_out = of_left_out(series, cell_of(name), recipe, result["num_epochs"], result["seed"])
    intervals = calibrated(name, path, series, left_out)
    draw_forecast(HERE / "pictures" / f"{name}-forecast.png", name, path, series, recipe)
    measured, by_seed = result["measured"], list(result["measured"]["by_seed"].values())
    said = {**result["loop"], **words(name, measured, by_seed, intervals, series)}
    return {**result, "intervals": intervals, "loop": said, "size": path.stat().st_size}


def measure_seed(series: Series, cell: Cell, recipe: Recipe, seed: int, choice: Choice) -> dict[str, Any]:
    """The errors of one more seed on the held-out rows, from an exported file of its own."""
    model, _ = fit(series, cell, recipe, seed, series.learned, choice.num_epochs)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        export_forecaster(model, series, path)
        return MEASURES[series.name](path, series)


def cell_of(name: str) -> Cell:
    return next(cell for cell in CELLS if cell in name.split("-"))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m models.forecasting", description="Train the forecasters.")
    parser.add_argument("task", nargs="?", choices=list(TASKS), help="the series")
    parser.add_argument("--cell", choices=list(CELLS), default="gru")
    parser.add_argument("--seed", type=int, default=SHIPPED_SEED)
    parser.add_argument("--all", action="store_true", help="every model, or every cell of the task, several seeds each")
    parser.add_argument("--calibrate", action="store_true", help="only measure the intervals of the shipped file again")
    given = parser.parse_args(arguments)
    if not given.all and given.task is None:
        parser.error("name a task, or say --all")
    names = [f"{given.task}-{given.cell}"]
    if given.all:
        names = [name for name in RECIPES if given.task in (None, name.split("-")[0])]
    for name in names:
        seeds = SEEDS[name.split("-")[0]] if given.all else (given.seed,)
        result = calibrate(name) if given.calibrate else train(name, seeds[0], seeds[1:])
        publish({name: result})
        held = 100 * np.mean(result["intervals"]["shares"])
        print(f"{name}: {result['loop']['shipped']}; 80 % intervals hold {held:.0f} %", flush=True)


if __name__ == "__main__":
    main()
