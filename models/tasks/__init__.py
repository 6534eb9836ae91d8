"""What a task is: sequences with one label each, split once and for all, and how to learn it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Sequence = NDArray[Any]
"""(time, features) float32, or (time,) int64 tokens."""

Augment = Callable[[Sequence, np.random.Generator], Sequence]


@dataclass(frozen=True)
class Split:
    """Sequences with the index of each one's label."""

    sequences: tuple[Sequence, ...]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.sequences)

    def take(self, indices: NDArray[np.int64]) -> "Split":
        return Split(tuple(self.sequences[i] for i in indices), self.labels[indices])


@dataclass(frozen=True)
class Recipe:
    """Hyperparameters of one model: its shape, then its training."""

    shape: dict[str, Any] = field(default_factory=dict)
    max_epochs: int = 100
    patience: int = 20
    num_epochs: int | None = None
    """Fixed by cross-validation over the training data, in place of a choice on the part kept back."""
    folds: str = "fivefold"
    """How that was done."""
    batch_size: int = 32
    learning_rate: float = 3e-3
    weight_decay: float = 1e-2
    label_smoothing: float = 0.1
    last_step_weight: float = 0.5
    """The share of the last step in the loss; the rest is the mean over all steps."""
    memory: float | None = None
    """What is kept a step where the recurrent weights start so: see `Recurrent.start_as_memory`."""
    mixup: float = 0.0
    """Of H. Zhang et al., "mixup" (2018): both parameters of the beta distribution; 0 mixes nothing."""
    average_decay: float = 0.98
    """Of the moving average of the weights, which is what is evaluated and exported."""


@dataclass(frozen=True)
class Task:
    """A data set with its split. `train` is what may be learned and selected on; `test` only measures."""

    name: str
    train: Split
    validation: NDArray[np.int64]
    """Indices into `train` of what is held out while the number of epochs is chosen."""
    test: Split
    labels: tuple[str, ...]
    augment: Augment
    about: str
    data: str
    licence: str
    split: str
    num_features: int | None = None
    vocabulary: tuple[str, ...] | None = None
    unknown: str | None = None
    feature_names: tuple[str, ...] | None = None
    kind: Literal["classification", "tagging"] = "classification"
    """Whether a sequence is answered by its last step, or every step by its own."""
    titles: tuple[str, ...] | None = None
    """What each test sequence is, in words."""


def stratified(labels: NDArray[np.int64], fraction: float, seed: int) -> NDArray[np.int64]:
    """Sorted indices of `fraction` of each label's examples, chosen by `seed` alone."""
    generator = np.random.default_rng(seed)
    chosen = [
        generator.permutation(np.flatnonzero(labels == label))[: round(fraction * (labels == label).sum())]
        for label in np.unique(labels)
    ]
    return np.sort(np.concatenate(chosen))
