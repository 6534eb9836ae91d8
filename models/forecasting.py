"""Train the forecasters, and write what was measured.

    python -m models.forecasting sunspots --cell gru --seed 0         a minute or two
    python -m models.forecasting electricity --cell gru --seed 0      a few minutes
    python -m models.forecasting --all                                all of them, several seeds each

A forecaster's output at one step is the next step's values, and its next input. It is trained on that loop: after a
segment of the past it is fed its own answers, and what it then says is compared with what came (R. J. Williams and
D. Zipser, "A Learning Algorithm for Continually Running Fully Recurrent Neural Networks", 1989, call the other way,
of feeding the truth, teacher forcing; sunspots are foretold one year ahead, and are trained so).

The number of epochs is chosen on rows before the held-out ones, learning only from what came before them; the model
is then trained on all of them for that many. The held-out rows are touched by the exported file alone.
"""

import argparse
import copy
import platform
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import embedding
from tqdm import tqdm  # type: ignore[import-untyped]

from elman.exporter import export
from elman.exporter.verifying import open_session
from elman.repository.spec import ForecastSpec, ModelSpec, embedded_spec
from models.cards import draw_losses, draw_paths
from models.examples import write_examples
from models.recurrent import CELLS, Cell, Recurrent, Shape
from models.tasks import electricity, sunspots
from models.tasks.series import Series
from models.train import HERE, SHIPPED_SEED, publish, seed_everything, update

# -- config ------------------------------------------------------------------------------------------

TASKS = {"sunspots": sunspots.load, "electricity": electricity.load}
SEEDS = {"sunspots": (0, 1, 2, 3, 4), "electricity": (0, 1, 2)}
CHOOSING_SEEDS = {"sunspots": (0, 1), "electricity": (0,)}
NUM_RESIDUALS = 256
NUM_PATHS = 200
"""Sampled of every forecast whose coverage is measured."""
CYCLE = 11
"""Years from one maximum of sunspots to the next, or about."""
RIVALS = (("a GRU of 12 units, quickly trained", 0.099, 0.378), ("linear regression on nine years", 0.126, 0.351))
"""Average relative variances of the first two test periods, dividing by the variance of this series."""
CUSTOMARY_VARIANCE = 1535
"""Of the sunspot numbers, by which the literature divides; the series here has its own, a little smaller."""

State = list[NDArray[np.float32]]
"""h (and c), each (layers, batch, hidden)."""


@dataclass(frozen=True)
class Recipe:
    """Hyperparameters of one model: its shape, then its training."""

    hidden_size: int
    history: int | None
    """Steps that are read before the first one that is foretold; None for all there are."""
    learned_history: int | None
    """The same in training, where fewer will do."""
    horizon: int
    """Steps foretold on end, each from the one before."""
    start_every: int = 1
    """Of the rows that a forecast may begin at when it is measured."""
    max_epochs: int = 100
    updates_per_epoch: int = 10
    batch_size: int = 1
    learning_rate: float = 3e-3
    decay: bool = False
    """Whether the rate falls evenly towards nothing over `max_epochs`."""
    weight_decay: float = 1e-2
    noise: float = 0.0
    """Deviation of what is added to the inputs in training, of those of the targets."""
    loss: str = "squared"
    weights: tuple[float, ...] = (1.0,)
    """Of each target in the loss."""
    one_step_weight: float = 1.0
    """Of the loss while the truth is read, the rest being that of the steps fed back."""
    average_decay: float = 0.98
    harmonics: int = 6
    forget_bias: float = 0.0
    """What an LSTM's forget gates start from (R. Jozefowicz, W. Zaremba and I. Sutskever, 2015)."""


# Weight decay and noise by the validation folds alone, for the GRU; the other cells take what served it.
SUNSPOTS = Recipe(
    hidden_size=12,
    history=None,
    learned_history=None,
    horizon=1,
    max_epochs=50,
    batch_size=4,
    weight_decay=0.3,
    noise=0.1,
)
ELECTRICITY = Recipe(
    hidden_size=64,
    history=336,
    learned_history=144,
    horizon=48,
    start_every=48,
    max_epochs=50,
    updates_per_epoch=8,
    batch_size=32,
    learning_rate=1e-2,
    decay=True,
    weight_decay=0.1,
    loss="absolute",
    weights=(1.0, 0.2),
    one_step_weight=0.2,
)
RECIPES = {
    **{f"sunspots-{cell}": SUNSPOTS for cell in CELLS},
    **{f"electricity-{cell}": ELECTRICITY for cell in CELLS},
    "electricity-lstm": replace(ELECTRICITY, max_epochs=70, learning_rate=4e-3, forget_bias=1.0),
}
BEFORE = {
    "electricity-lstm": "one recipe before this one, the GRU's, was measured on it: 8.10 %. This one was chosen on the "
    "validation days",
}
"""What had been seen of the held-out rows when a recipe was chosen."""


# -- model -------------------------------------------------------------------------------------------


class Forecaster(nn.Module):
    """A recurrent network that adds what it makes of the past to a linear guess from the last step.

    Rows come raw; the outputs are normalised, and are the targets' own units after `output * deviation + mean`.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, series: Series, cell: Cell, recipe: Recipe, learned: NDArray[np.float32]) -> None:
        super().__init__()
        self.target, self.cycles = series.target, series.cycles
        self.plain = [i for i in series.known if i not in series.cycles]
        targets = torch.from_numpy(learned[:, list(series.target)])
        self.register_buffer("mean", targets.mean(dim=0))
        self.register_buffer("deviation", targets.std(dim=0))
        for feature, period in series.cycles.items():
            self.register_buffer(f"cycle_{feature}", harmonics_of(period, recipe.harmonics))
        num_inputs = len(series.target) + len(self.plain)
        num_inputs += sum(getattr(self, f"cycle_{feature}").shape[1] for feature in series.cycles)
        num_outputs = len(series.target)
        self.network = Recurrent(
            Shape(cell=cell, num_outputs=num_outputs, num_features=num_inputs, hidden_size=recipe.hidden_size)
        )
        if recipe.forget_bias:
            bias = self.network.layers.bias_ih_l0
            assert isinstance(bias, Tensor)
            nn.init.constant_(bias.detach()[recipe.hidden_size : 2 * recipe.hidden_size], recipe.forget_bias)
        self.straight = nn.Linear(num_outputs, num_outputs)
        nn.init.eye_(self.straight.weight)
        nn.init.zeros_(self.straight.bias)

    def initial_state(self, batch: int = 1) -> tuple[Tensor, ...]:
        return self.network.initial_state(batch)

    def forward(self, x: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """x: (batch, time, features) raw. Returns outputs (batch, time, targets), normalised, and the new state."""
        return self.answer(self.normalised(x), self.calendar(x), *state)

    def normalised(self, x: Tensor) -> Tensor:
        """The targets among the features of x, as the outputs are: (batch, time, targets)."""
        return (x[..., : len(self.target)] - self.mean) / self.deviation

    def calendar(self, x: Tensor) -> Tensor:
        """What the network sees of the other features of x: (batch, time, inputs - targets)."""
        parts = [x[..., i : i + 1] for i in self.plain]
        for feature, period in self.cycles.items():
            counts = x[..., feature].clamp(0, period - 1).to(torch.int64)  # (batch, time)
            parts.append(embedding(counts, getattr(self, f"cycle_{feature}")))
        return torch.cat(parts, dim=-1) if parts else x[..., :0]

    def answer(self, values: Tensor, calendar: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        inputs = torch.cat([values, calendar], dim=-1) if calendar.shape[-1] else values
        outputs, *after = self.network(inputs, *state)
        return (outputs + self.straight(values), *after)

    def values(self, outputs: Tensor) -> Tensor:
        """Outputs in the data's own units."""
        return outputs * self.deviation + self.mean


def harmonics_of(period: int, most: int) -> Tensor:
    """The sines and cosines of the first few harmonics, (period, 2 * harmonics) float32."""
    phase = 2 * np.pi * np.arange(period)[:, None] * np.arange(1, min(most, (period - 1) // 2) + 1) / period
    return torch.from_numpy(np.concatenate([np.sin(phase), np.cos(phase)], axis=1).astype(np.float32))


# -- loop --------------------------------------------------------------------------------------------


def free_run(model: Forecaster, history: Tensor, future: Tensor) -> tuple[Tensor, Tensor]:
    """Read the history, then go on from each answer to the next.

    history: (batch, time, features). future: (batch, horizon, features), of which the known ones are taken.
    Returns the outputs while reading, (batch, time, targets), and those of the horizon, (batch, horizon, targets).
    """
    read, *state = model(history, *model.initial_state(len(history)))
    calendar = model.calendar(future)
    outputs = [read[:, -1:]]
    for step in range(future.shape[1] - 1):
        output, *state = model.answer(outputs[-1], calendar[:, step : step + 1], *state)
        outputs.append(output)
    return read, torch.cat(outputs, dim=1)


def windows(series: Series, stop: int, recipe: Recipe, random: np.random.Generator) -> Iterator[Tensor]:
    """An epoch of batches (batch, history + horizon, features) out of the rows before `stop`."""
    length = stop if recipe.learned_history is None else recipe.learned_history + recipe.horizon
    for _ in range(recipe.updates_per_epoch):
        starts = random.integers(0, stop - length + 1, size=recipe.batch_size)
        # Half of them begin where forecasts do when they are measured.
        aligned = starts - (starts + length - recipe.horizon) % recipe.start_every
        starts = np.where((random.random(len(starts)) < 0.5) & (aligned >= 0), aligned, starts)
        yield torch.from_numpy(np.stack([series.rows[one : one + length] for one in starts]))


def distance(outputs: Tensor, truth: Tensor, recipe: Recipe) -> Tensor:
    """The loss of normalised outputs, a number; both (batch, time, targets)."""
    error = outputs - truth
    loss = error.abs() if recipe.loss == "absolute" else error.square()
    return (loss.mean(dim=(0, 1)) * torch.tensor(recipe.weights)).sum()


def batch_loss(model: Forecaster, batch: Tensor, recipe: Recipe, noise: Tensor | None = None) -> Tensor:
    """The loss of a batch of windows: of each next step while reading, and of the steps fed back."""
    num_targets = len(model.target)
    truth = (batch[..., :num_targets] - model.mean) / model.deviation  # (batch, time, targets)
    if noise is not None:
        batch = torch.cat([batch[..., :num_targets] + noise * model.deviation, batch[..., num_targets:]], dim=-1)
    split = batch.shape[1] - recipe.horizon
    read, fed_back = free_run(model, batch[:, :split], batch[:, split:])
    one_step = distance(read, truth[:, 1 : split + 1], recipe)
    if recipe.horizon == 1:
        return one_step
    return recipe.one_step_weight * one_step + (1 - recipe.one_step_weight) * distance(
        fed_back, truth[:, split:], recipe
    )


@torch.no_grad()
def validate(model: Forecaster, series: Series, rows: range, recipe: Recipe) -> tuple[float, NDArray[np.float32]]:
    """The loss over forecasts of those rows, and their errors of one step in the data's own units (rows, targets)."""
    model.eval()
    num_targets = len(series.target)
    first = 0 if recipe.history is None else rows.start - recipe.history
    one_step, *_ = model(torch.from_numpy(series.rows[None, first : rows.stop - 1]))
    one_step = one_step[:, rows.start - 1 - first :]  # (1, rows, targets)
    truth = torch.from_numpy(series.rows[None, rows.start : rows.stop, :num_targets])  # (1, rows, targets)
    errors = (truth - model.values(one_step))[0].numpy()
    if recipe.horizon == 1:
        return distance(one_step, (truth - model.mean) / model.deviation, recipe).item(), errors
    batch = torch.from_numpy(np.stack(list(cut(series, rows, recipe))))
    history = batch.shape[1] - recipe.horizon
    _, fed_back = free_run(model, batch[:, :history], batch[:, history:])
    truth = (batch[:, history:, :num_targets] - model.mean) / model.deviation
    return distance(fed_back, truth, recipe).item(), errors


def cut(series: Series, rows: range, recipe: Recipe) -> Iterator[NDArray[np.float32]]:
    """Each forecast's history and horizon, (time, features), the horizons within `rows`."""
    for start in range(rows.start, rows.stop - recipe.horizon + 1, recipe.start_every):
        first = 0 if recipe.history is None else start - recipe.history
        yield series.rows[first : start + recipe.horizon]


@dataclass
class Curves:
    """One number an epoch, and the validation errors of one step after it."""

    train_loss: list[float]
    validation_loss: list[float]
    errors: list[NDArray[np.float32]]


def fit(
    series: Series,
    cell: Cell,
    recipe: Recipe,
    seed: int,
    stop: int,
    num_epochs: int,
    validation: range | None = None,
) -> tuple[Forecaster, Curves]:
    """Train for `num_epochs` on the rows before `stop`, looking at the validation rows after each if there are any."""
    random = seed_everything(seed)
    model = Forecaster(series, cell, recipe, series.rows[:stop])
    optimizer = torch.optim.AdamW(model.parameters(), recipe.learning_rate, weight_decay=recipe.weight_decay)
    averaged = copy.deepcopy(model)
    curves = Curves([], [], [])
    progress = tqdm(range(num_epochs), desc=f"{series.name}-{cell} seed {seed}", unit="epoch", leave=False)
    for epoch in progress:
        model.train()
        if recipe.decay:
            optimizer.param_groups[0]["lr"] = recipe.learning_rate * (1 - epoch / recipe.max_epochs)
        losses = []
        for batch in windows(series, stop, recipe, random):
            noise = recipe.noise * torch.randn(*batch.shape[:2], len(series.target)) if recipe.noise else None
            loss = batch_loss(model, batch, recipe, noise)
            losses.append(update(model, averaged, optimizer, loss, recipe.average_decay))
        curves.train_loss.append(float(np.mean(losses)))
        if validation is None:
            continue
        validation_loss, errors = validate(averaged, series, validation, recipe)
        curves.validation_loss.append(validation_loss)
        curves.errors.append(errors)
        progress.set_postfix(loss=f"{losses[-1]:.3f}", validation=f"{validation_loss:.3f}")
    return averaged.eval(), curves


# -- checkpoint --------------------------------------------------------------------------------------


def export_forecaster(model: Forecaster, series: Series, residuals: NDArray[np.float32], path: Path) -> ModelSpec:
    example = torch.from_numpy(series.rows[None, : min(series.learned, 96)])
    rows = tuple(tuple(round(float(value), 6) for value in row) for row in residuals)
    return export(
        model,
        path,
        example=(example, *model.initial_state()),
        task="forecasting",
        feature_names=series.feature_names,
        mean=model.mean.tolist(),
        std=model.deviation.tolist(),
        spec=ModelSpec(
            forecast=ForecastSpec(target=series.target, known=series.known, residuals=rows, minimum=series.minimum)
        ),
    )


class Loop:
    """An exported forecaster and the states of the forecasts that it is making, side by side."""

    def __init__(self, path: Path) -> None:
        metadata = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
        spec = embedded_spec(metadata)
        assert spec is not None and spec.forecast is not None and spec.decoder is not None
        self.forecast = spec.forecast
        self.residuals = np.array(spec.forecast.residuals)  # (residuals, targets)
        self.mean, self.deviation = np.array(spec.decoder.mean), np.array(spec.decoder.std)
        self.session = open_session(str(path))

    def read(self, x: NDArray[np.float32], state: State | None = None) -> tuple[NDArray[np.float64], State]:
        """The values foretold after each row of x (batch, time, features), in the data's own units, and the state."""
        data, *states = self.session.get_inputs()
        state = state or [np.zeros((one.shape[0], len(x), one.shape[2]), np.float32) for one in states]
        names = [one.name for one in states]
        output, *after = self.session.run(None, {data.name: x, **dict(zip(names, state, strict=True))})
        return np.asarray(output) * self.deviation + self.mean, after

    def points(self, history: NDArray[np.float32], future: NDArray[np.float32]) -> NDArray[np.float64]:
        """One forecast of each history (batch, time, features): (batch, horizon, targets).

        future: (batch, horizon, features), of which the known ones are taken.
        """
        return self._run(history, future, None)

    def paths(
        self, history: NDArray[np.float32], future: NDArray[np.float32], samples: int, random: np.random.Generator
    ) -> NDArray[np.float64]:
        """Sampled paths, each step with a residual of its own: (batch, samples, horizon, targets)."""
        many = [np.repeat(one, samples, axis=0) for one in (history, future)]
        return self._run(many[0], many[1], random).reshape(len(history), samples, future.shape[1], -1)

    def _run(
        self, history: NDArray[np.float32], future: NDArray[np.float32], random: np.random.Generator | None
    ) -> NDArray[np.float64]:
        read, state = self.read(history)
        value, values = read[:, -1], []
        target, known = list(self.forecast.target or ()), list(self.forecast.known)
        for step in range(future.shape[1]):
            if random is not None:
                value = value + self.residuals[random.integers(len(self.residuals), size=len(value))]
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


# -- measures ----------------------------------------------------------------------------------------


def coverage(paths: NDArray[np.float64], truth: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Whether the truth (batch, horizon, targets) lies in the middle 80 % of the paths (batch, samples, ...)."""
    low, high = np.quantile(paths, (0.1, 0.9), axis=1)  # (batch, horizon, targets)
    return np.asarray((low <= truth) & (truth <= high))


def measure_sunspots(path: Path, series: Series, sampled: bool = True) -> dict[str, Any]:
    """Errors one year ahead given the true past, and what the paths cover of one and of eleven years ahead."""
    loop = Loop(path)
    read, _ = loop.read(series.rows[None, :-1])
    foretold = np.concatenate([series.rows[:1], loop.held(read[0])])  # (years, 1); nothing foretells the first
    squared = ((foretold - series.rows) ** 2)[:, 0]
    variance = float(series.rows[: sunspots.row_of(1979) + 1].astype(np.float64).var())
    measured: dict[str, Any] = {
        "variance": variance,
        "arv": {name: float(squared[rows].mean() / variance) for name, rows in series.tests.items()},
        "arv_1535": {name: float(squared[rows].mean() / CUSTOMARY_VARIANCE) for name, rows in series.tests.items()},
        "arv_learned": float(squared[1 : series.learned].mean() / variance),
    }
    if not sampled:
        return measured
    random = np.random.default_rng(0)
    inside = []
    for start in range(series.learned, len(series.rows) - CYCLE + 1):
        history, future = series.rows[None, :start], series.rows[None, start : start + CYCLE]
        inside.append(coverage(loop.paths(history, future, NUM_PATHS, random), future)[0, :, 0])
    covered = np.array(inside)  # (starts, horizon)
    return measured | {"coverage_1": float(covered[:, 0].mean()), f"coverage_{CYCLE}": float(covered.mean())}


def measure_electricity(path: Path, series: Series, sampled: bool = True) -> dict[str, Any]:
    """Errors over the days held out, each foretold at midnight from the week before, and what the paths cover."""
    loop, recipe = Loop(path), ELECTRICITY
    (rows,) = series.tests.values()
    days = np.stack(list(cut(series, rows, recipe)))  # (days, history + horizon, features)
    history, future = np.split(days, [days.shape[1] - recipe.horizon], axis=1)
    truth = future[..., :2]  # (days, horizon, 2)
    demand = truth[..., 0]
    points = loop.points(history, future)
    measured: dict[str, Any] = {
        "num_days": len(days),
        "mape": mape(points[..., 0], demand),
        "mape_last_week": mape(history[:, : recipe.horizon, 0], demand),
        "mape_yesterday": mape(history[:, -recipe.horizon :, 0], demand),
        "temperature_error": float(np.abs(points[..., 1] - truth[..., 1]).mean()),
    }
    if not sampled:
        return measured
    paths = loop.paths(history, future, NUM_PATHS, np.random.default_rng(0))
    inside = coverage(paths, truth)  # (days, horizon, 2)
    return measured | {
        "coverage_first": float(inside[:, 0, 0].mean()),
        "coverage_demand": float(inside[..., 0].mean()),
        "coverage_temperature": float(inside[..., 1].mean()),
    }


def mape(foretold: NDArray[Any], truth: NDArray[Any]) -> float:
    """Mean absolute error as a share of the truth, in %."""
    return float(100 * (np.abs(foretold - truth) / truth).mean())


# -- results -----------------------------------------------------------------------------------------

MEASURES = {"sunspots": measure_sunspots, "electricity": measure_electricity}


@dataclass(frozen=True)
class Choice:
    """How many epochs, as found on the folds, and the errors of one step that were made there after as many."""

    num_epochs: int
    train_loss: list[float]
    validation_loss: list[float]
    residuals: NDArray[np.float32]  # (residuals, targets)


def choose_epochs(series: Series, cell: Cell, recipe: Recipe, seeds: tuple[int, ...]) -> Choice:
    """The epochs with the least validation loss, in the mean over the folds and seeds."""
    curves = [
        fit(series, cell, recipe, seed, fold.start, recipe.max_epochs, fold)[1]
        for fold in series.folds
        for seed in seeds
    ]
    validation = np.mean([one.validation_loss for one in curves], axis=0)  # (epochs,)
    best = int(np.argmin(validation))
    # Of the first seed alone: those of another on the same rows would be no more than echoes.
    errors = np.concatenate([one.errors[best] for one in curves[:: len(seeds)]])
    if len(errors) > NUM_RESIDUALS:
        errors = errors[np.sort(np.random.default_rng(0).permutation(len(errors))[:NUM_RESIDUALS])]
    train_loss = np.mean([one.train_loss for one in curves], axis=0)
    return Choice(best + 1, train_loss.tolist(), validation.tolist(), errors)


def train(name: str, seed: int, other_seeds: tuple[int, ...] = (), home: Path = HERE) -> dict[str, Any]:
    """Train, export, measure and draw one forecaster; the result is what its card says."""
    task, cell, recipe = name.split("-")[0], cell_of(name), RECIPES[name]
    series, measure = TASKS[task](), MEASURES[task]
    started = time.process_time()
    choice = choose_epochs(series, cell, recipe, CHOOSING_SEEDS[task])
    model, _ = fit(series, cell, recipe, seed, series.learned, choice.num_epochs)
    seconds = time.process_time() - started  # Of one core, however busy the machine.
    path = home / "store" / name / "1" / "model.onnx"
    export_forecaster(model, series, choice.residuals, path)
    write_examples(path, examples(series, recipe))
    measured = measure(path, series)
    by_seed = {str(seed): {key: value for key, value in measured.items() if "coverage" not in key}}
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
        "loop": {
            **words(name, measured, list(by_seed.values())),
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


def measure_seed(series: Series, cell: Cell, recipe: Recipe, seed: int, choice: Choice) -> dict[str, Any]:
    """The errors of one more seed on the held-out rows, by way of an exported file."""
    model, _ = fit(series, cell, recipe, seed, series.learned, choice.num_epochs)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        export_forecaster(model, series, choice.residuals, path)
        return MEASURES[series.name](path, series, sampled=False)


def words(name: str, measured: dict[str, Any], by_seed: list[dict[str, Any]]) -> dict[str, Any]:
    """What was measured, as the card says it."""
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
    """Whether an error is less than the one to beat, as that is rounded."""
    if round(found, digits) == wanted:
        return "equalled as rounded, not beaten"
    return "beaten" if found < wanted else "not beaten"


def electricity_words(measured: dict[str, Any], by_seed: list[dict[str, Any]]) -> dict[str, Any]:
    over_seeds = f"{spread([one['mape'] for one in by_seed], 2)} %, {len(by_seed)} seeds"
    return {
        "shipped": f"{measured['mape']:.2f} % mean absolute error of the next day",
        "over_seeds": over_seeds,
        "lines": {
            f"Error over the {measured['num_days']} days, each foretold at midnight from the week before": (
                f"mean absolute percentage error of demand **{measured['mape']:.2f} %**; over seeds {over_seeds}. The "
                f"same day last week is off by {measured['mape_last_week']:.2f} %, the day before by "
                f"{measured['mape_yesterday']:.2f} %. Temperature is off by {measured['temperature_error']:.2f} °C"
            ),
            "To beat": f"5.67 % (a quick GRU): {verdict(measured['mape'], 5.67, 2)}",
            "Coverage": (
                f"the middle 80 % of {NUM_PATHS} sampled paths hold {100 * measured['coverage_first']:.0f} % of the "
                f"demand of the first half-hour, {100 * measured['coverage_demand']:.0f} % of that of the whole day, "
                f"and {100 * measured['coverage_temperature']:.0f} % of the temperature. Each step of a path draws its "
                "error by itself, out of those of all hours alike, while the errors of a real day hang together: the "
                "band of the whole day is not to be taken for what it says"
            ),
        },
    }


WORDS = {"sunspots": sunspots_words, "electricity": electricity_words}


def examples(series: Series, recipe: Recipe) -> list[dict[str, Any]]:
    """A history before held-out rows, what is known of those ahead, and what came."""
    horizon = CYCLE if recipe.horizon == 1 else recipe.horizon
    starts = {called: rows.start for called, rows in series.tests.items()}
    if len(starts) == 1:  # Three forecasts out of one long segment, a third of it apart.
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
    """The first forecast of the held-out rows with its middle 80 %, beside what came."""
    rows = next(iter(series.tests.values()))
    horizon = 35 if recipe.horizon == 1 else recipe.horizon
    first = 0 if recipe.history is None else rows.start - recipe.history
    history, future = series.rows[None, first : rows.start], series.rows[None, rows.start : rows.start + horizon]
    loop = Loop(model)
    low, high = np.quantile(loop.paths(history, future, NUM_PATHS, np.random.default_rng(0))[0, :, :, 0], (0.1, 0.9), 0)
    point = loop.points(history, future)[0, :, 0]
    draw_paths(path, title, series.feature_names[0], history[0, -2 * horizon :, 0], future[0, :, 0], point, (low, high))


def cell_of(name: str) -> Cell:
    return next(cell for cell in CELLS if cell in name.split("-"))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m models.forecasting", description="Train the forecasters.")
    parser.add_argument("task", nargs="?", choices=list(TASKS), help="the series")
    parser.add_argument("--cell", choices=list(CELLS), default="gru")
    parser.add_argument("--seed", type=int, default=SHIPPED_SEED)
    parser.add_argument("--all", action="store_true", help="every model, or every cell of the task, several seeds each")
    given = parser.parse_args(arguments)
    if not given.all and given.task is None:
        parser.error("name a task, or say --all")
    names = [f"{given.task}-{given.cell}"]
    if given.all:
        names = [name for name in RECIPES if given.task in (None, name.split("-")[0])]
    for name in names:
        seeds = SEEDS[name.split("-")[0]] if given.all else (given.seed,)
        result = train(name, seeds[0], seeds[1:])
        publish({name: result})
        print(f"{name}: {result['loop']['shipped']}, {result['training_seconds']:.0f} s", flush=True)


if __name__ == "__main__":
    main()
