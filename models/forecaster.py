"""The network of the forecasters, and its training on its own feedback."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import embedding
from tqdm import tqdm  # type: ignore[import-untyped]

from elman.exporter import export
from elman.repository.spec import ForecastSpec, ModelSpec
from models.fitting import seed_everything, update
from models.forecast_recipes import Recipe
from models.recurrent import Cell, Recurrent, Shape
from models.tasks.series import Series

# -- model -------------------------------------------------------------------------------------------


class Forecaster(nn.Module):
    """A recurrent network whose output is added to a linear prediction from the last step.

    Inputs are raw rows. Outputs are normalised: `output * deviation + mean` is in the targets' own units.
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
        if recipe.memory is not None:
            self.network.start_as_memory(recipe.memory)
        self.straight = nn.Linear(num_outputs, num_outputs)
        nn.init.eye_(self.straight.weight)
        nn.init.zeros_(self.straight.bias)

    def initial_state(self, batch: int = 1) -> tuple[Tensor, ...]:
        return self.network.initial_state(batch)

    def forward(self, x: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """x: (batch, time, features) raw. Returns outputs (batch, time, targets), normalised, and the new state."""
        return self.answer(self.normalised(x), self.calendar(x), *state)

    def normalised(self, x: Tensor) -> Tensor:
        """The targets among the features of x, normalised as the outputs are: (batch, time, targets)."""
        return (x[..., : len(self.target)] - self.mean) / self.deviation

    def calendar(self, x: Tensor) -> Tensor:
        """The network's inputs from the other features of x: (batch, time, inputs - targets)."""
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
    """Read the history, then feed each output back as the next input.

    history: (batch, time, features). future: (batch, horizon, features). Only the known features are read.
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
    """One epoch of batches (batch, history + horizon, features), from the rows before `stop`."""
    length = stop if recipe.learned_history is None else recipe.learned_history + recipe.horizon
    for _ in range(recipe.updates_per_epoch):
        starts = random.integers(0, stop - length + 1, size=recipe.batch_size)
        # Half of them begin where measured forecasts begin.
        aligned = starts - (starts + length - recipe.horizon) % recipe.start_every
        starts = np.where((random.random(len(starts)) < 0.5) & (aligned >= 0), aligned, starts)
        yield torch.from_numpy(np.stack([series.rows[one : one + length] for one in starts]))


def distance(outputs: Tensor, truth: Tensor, recipe: Recipe) -> Tensor:
    """The loss of normalised outputs, a number; both (batch, time, targets)."""
    error = outputs - truth
    loss = error.abs() if recipe.loss == "absolute" else error.square()
    return (loss.mean(dim=(0, 1)) * torch.tensor(recipe.weights)).sum()


def batch_loss(model: Forecaster, batch: Tensor, recipe: Recipe, noise: Tensor | None = None) -> Tensor:
    """The loss of a batch of windows: of the next step while the truth is read, and of the steps that are fed back."""
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
def validate(model: Forecaster, series: Series, rows: range, recipe: Recipe) -> float:
    """The loss over forecasts of these rows."""
    model.eval()
    num_targets = len(series.target)
    if recipe.horizon == 1:
        one_step, *_ = model(torch.from_numpy(series.rows[None, : rows.stop - 1]))
        truth = torch.from_numpy(series.rows[None, rows.start : rows.stop, :num_targets])  # (1, rows, targets)
        return distance(one_step[:, rows.start - 1 :], (truth - model.mean) / model.deviation, recipe).item()
    batch = torch.from_numpy(np.stack(list(cut(series, rows, recipe))))
    history = batch.shape[1] - recipe.horizon
    _, fed_back = free_run(model, batch[:, :history], batch[:, history:])
    truth = (batch[:, history:, :num_targets] - model.mean) / model.deviation
    return distance(fed_back, truth, recipe).item()


def cut(series: Series, rows: range, recipe: Recipe) -> Iterator[NDArray[np.float32]]:
    """The rows of each forecast, its history and its horizon: (time, features). The horizons lie within `rows`."""
    for start in range(rows.start, rows.stop - recipe.horizon + 1, recipe.start_every):
        first = 0 if recipe.history is None else start - recipe.history
        yield series.rows[first : start + recipe.horizon]


@dataclass
class Curves:
    """For each epoch, the losses."""

    train_loss: list[float]
    validation_loss: list[float]


def fit(
    series: Series,
    cell: Cell,
    recipe: Recipe,
    seed: int,
    stop: int,
    num_epochs: int,
    validation: range | None = None,
) -> tuple[Forecaster, Curves]:
    """Train for `num_epochs` on the rows before `stop`, and evaluate the validation rows after each, if given."""
    random = seed_everything(seed)
    model = Forecaster(series, cell, recipe, series.rows[:stop])
    optimizer = torch.optim.AdamW(model.parameters(), recipe.learning_rate, weight_decay=recipe.weight_decay)
    averaged = copy.deepcopy(model)
    curves = Curves([], [])
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
        curves.validation_loss.append(validate(averaged, series, validation, recipe))
        progress.set_postfix(loss=f"{losses[-1]:.3f}", validation=f"{curves.validation_loss[-1]:.3f}")
    return averaged.eval(), curves


# -- file --------------------------------------------------------------------------------------------


def export_forecaster(model: Forecaster, series: Series, path: Path) -> None:
    """Write the ONNX file of a trained network, without errors to make intervals from."""
    example = torch.from_numpy(series.rows[None, : min(series.learned, 96)])
    export(
        model,
        path,
        example=(example, *model.initial_state()),
        task="forecasting",
        feature_names=series.feature_names,
        mean=model.mean.tolist(),
        std=model.deviation.tolist(),
        reads="data",
        spec=ModelSpec(
            forecast=ForecastSpec(
                target=series.target,
                known=series.known,
                known_for="same" if series.known else None,
                minimum=series.minimum,
            )
        ),
    )
