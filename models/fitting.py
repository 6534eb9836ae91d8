"""Training of one network on one task: batches, losses, and the loop over epochs."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm  # type: ignore[import-untyped]

from models.recurrent import Cell, Recurrent, Shape
from models.tasks import Recipe, Sequence, Split, Task

# -- data --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Batch:
    x: Tensor  # (batch, time, features) float32 or (batch, time) int64
    lengths: Tensor  # (batch,) int64
    labels: Tensor  # (batch,) int64


def collate(split: Split, indices: NDArray[np.int64], sequences: list[Sequence]) -> Batch:
    lengths = torch.tensor([len(one) for one in sequences])
    x = pad_sequence([torch.from_numpy(one) for one in sequences], batch_first=True)
    return Batch(x, lengths, torch.from_numpy(split.labels[indices]))


def shuffled(task: Task, split: Split, batch_size: int, generator: np.random.Generator) -> Iterator[Batch]:
    """One epoch of augmented batches in a new order."""
    order = generator.permutation(len(split))
    for start in range(0, len(order), batch_size):
        indices = order[start : start + batch_size]
        yield collate(split, indices, [task.augment(split.sequences[i], generator) for i in indices])


# -- model -------------------------------------------------------------------------------------------


def build(task: Task, cell: Cell, recipe: Recipe) -> Recurrent:
    model = Recurrent(
        Shape(
            cell=cell,
            num_outputs=len(task.labels),
            num_features=task.num_features,
            vocabulary_size=len(task.vocabulary) if task.vocabulary else None,
            **recipe.shape,
        )
    )
    if task.num_features:
        model.normalise_by(torch.from_numpy(np.concatenate(task.train.sequences)))
    if recipe.memory is not None:
        model.start_as_memory(recipe.memory)
    return model


def seed_everything(seed: int) -> np.random.Generator:
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    return np.random.default_rng(seed)


# -- loop --------------------------------------------------------------------------------------------


def sequence_loss(outputs: Tensor, batch: Batch, recipe: Recipe) -> Tensor:
    """Cross entropy of a padded batch: the mean over all steps of a sequence, and its last step with its own weight.

    The mean teaches the network to answer early. The last step is the answer that is measured.
    """
    num_steps = outputs.shape[1]
    targets = batch.labels[:, None].expand(-1, num_steps)  # (batch, time)
    losses = cross_entropy(
        outputs.flatten(0, 1), targets.flatten(), reduction="none", label_smoothing=recipe.label_smoothing
    ).view(targets.shape)  # (batch, time)
    steps = torch.arange(num_steps)
    inside = (steps < batch.lengths[:, None]).float()  # (batch, time)
    is_last = (steps == batch.lengths[:, None] - 1).float()  # (batch, time)
    mean = (losses * inside).sum(dim=1) / batch.lengths  # (batch,)
    last = (losses * is_last).sum(dim=1)  # (batch,)
    return (recipe.last_step_weight * last + (1 - recipe.last_step_weight) * mean).mean()


def mixed_loss(model: Recurrent, batch: Batch, recipe: Recipe, generator: np.random.Generator) -> Tensor:
    """The loss of each sequence mixed with another one of the batch, cut to the shorter of both."""
    if not recipe.mixup:
        return sequence_loss(model.unroll(batch.x, batch.lengths), batch, recipe)
    share = float(generator.beta(recipe.mixup, recipe.mixup))
    partner = torch.from_numpy(generator.permutation(len(batch.labels)))  # (batch,)
    x = share * batch.x + (1 - share) * batch.x[partner]  # (batch, time, features)
    lengths = torch.minimum(batch.lengths, batch.lengths[partner])  # (batch,)
    outputs = model.unroll(x, lengths)  # (batch, time, outputs)
    own = sequence_loss(outputs, Batch(x, lengths, batch.labels), recipe)
    other = sequence_loss(outputs, Batch(x, lengths, batch.labels[partner]), recipe)
    return share * own + (1 - share) * other


@torch.no_grad()
def validate(model: Recurrent, split: Split, per_step: bool = False) -> tuple[float, float]:
    """Cross entropy and accuracy of the last step of each sequence, or of every step (`per_step`)."""
    model.eval()
    batch = collate(split, np.arange(len(split)), list(split.sequences))
    outputs = model.unroll(batch.x, batch.lengths)  # (batch, time, labels)
    if per_step:
        inside = torch.arange(outputs.shape[1]) < batch.lengths[:, None]  # (batch, time)
        labels = batch.labels[:, None].expand(inside.shape)[inside]  # (steps,)
        return cross_entropy(outputs[inside], labels).item(), (
            outputs[inside].argmax(1) == labels
        ).float().mean().item()
    last = outputs[torch.arange(len(split)), batch.lengths - 1]  # (batch, labels)
    correct = last.argmax(dim=1) == batch.labels
    return cross_entropy(last, batch.labels).item(), correct.float().mean().item()


@torch.no_grad()
def follow(averaged: nn.Module, model: nn.Module, decay: float) -> None:
    """Update the moving average of the weights (B. Polyak and A. Juditsky, 1992)."""
    for slow, fast in zip(averaged.parameters(), model.parameters(), strict=True):
        slow.lerp_(fast, 1 - decay)


def update(
    model: nn.Module, averaged: nn.Module, optimizer: torch.optim.Optimizer, loss: Tensor, average_decay: float
) -> float:
    """One optimizer step, the gradient clipped at a norm of 1, and one of the average. Returns the loss."""
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    follow(averaged, model, average_decay)
    return loss.item()


@dataclass
class Curves:
    """One number an epoch."""

    train_loss: list[float]
    validation_loss: list[float]
    validation_accuracy: list[float]

    @property
    def best_epoch(self) -> int:
        """The first number of epochs with the least validation loss."""
        return int(np.argmin(self.validation_loss)) + 1


def fit(
    task: Task,
    cell: Cell,
    recipe: Recipe,
    seed: int,
    train: Split,
    num_epochs: int,
    validation: Split | None = None,
) -> tuple[Recurrent, Curves]:
    """Train for `num_epochs`; with validation data, stop once its loss has not improved for `patience` epochs."""
    generator = seed_everything(seed)
    model = build(task, cell, recipe)
    optimizer = torch.optim.AdamW(model.parameters(), recipe.learning_rate, weight_decay=recipe.weight_decay)
    averaged = copy.deepcopy(model)
    curves = Curves([], [], [])
    progress = tqdm(range(num_epochs), desc=f"{task.name}-{cell} seed {seed}", unit="epoch", leave=False)
    for epoch in progress:
        model.train()
        losses = []
        for batch in shuffled(task, train, recipe.batch_size, generator):
            loss = mixed_loss(model, batch, recipe, generator)
            losses.append(update(model, averaged, optimizer, loss, recipe.average_decay))
        curves.train_loss.append(float(np.mean(losses)))
        if validation is None:
            continue
        validation_loss, accuracy = validate(averaged, validation, task.kind == "tagging")
        curves.validation_loss.append(validation_loss)
        curves.validation_accuracy.append(accuracy)
        progress.set_postfix(loss=f"{losses[-1]:.3f}", validation=f"{validation_loss:.3f}")
        if epoch + 1 - curves.best_epoch >= recipe.patience:
            break
    return averaged.eval(), curves
