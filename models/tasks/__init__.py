"""A task: sequences with one label each, their fixed split, and how a model is trained on them."""

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
    """Sequences, and the index of the label of each."""

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
    """Fixed by an earlier cross-validation over the training data. None: chosen on the validation part."""
    folds: str = "fivefold"
    """How that cross-validation was done."""
    batch_size: int = 32
    learning_rate: float = 3e-3
    weight_decay: float = 1e-2
    label_smoothing: float = 0.1
    last_step_weight: float = 0.5
    """Weight of the last step in the loss. The mean over all steps has the rest."""
    memory: float | None = None
    """`kept` of `Recurrent.start_as_memory`; None to start from torch's own weights."""
    mixup: float = 0.0
    """Both parameters of the beta distribution of mixup (H. Zhang et al., 2018); 0 for no mixup."""
    average_decay: float = 0.98
    """Decay of the moving average of the weights. The average is evaluated and exported."""


@dataclass(frozen=True)
class Task:
    """A data set with its split. `train` is for training and selection, `test` for measuring only."""

    name: str
    train: Split
    validation: NDArray[np.int64]
    """Indices into `train` of the sequences that are held out while the number of epochs is chosen."""
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
    """classification: a sequence is answered at its last step. tagging: at every step."""
    titles: tuple[str, ...] | None = None
    """A title for each test sequence."""


def stratified(labels: NDArray[np.int64], fraction: float, seed: int) -> NDArray[np.int64]:
    """Sorted indices of `fraction` of each label's examples, chosen by `seed`."""
    generator = np.random.default_rng(seed)
    chosen = [
        generator.permutation(np.flatnonzero(labels == label))[: round(fraction * (labels == label).sum())]
        for label in np.unique(labels)
    ]
    return np.sort(np.concatenate(chosen))
