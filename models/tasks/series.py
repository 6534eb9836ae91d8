"""A series: rows of features in the order of time, some of them to be forecast, and its split."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Series:
    """One long sequence. Rows before `learned` are for training and selection, those of `tests` for measuring only."""

    name: str
    rows: NDArray[np.float32]  # (time, features), in the data's own units
    feature_names: tuple[str, ...]
    target: tuple[int, ...]
    """The features that are forecast, in the order of the outputs."""
    learned: int
    tests: dict[str, range]
    """Rows that are forecast and measured, by name."""
    folds: tuple[range, ...]
    """Rows within `learned` that are held out while hyperparameters and epochs are chosen. Training for such a choice
    uses only the rows before."""
    about: str
    data: str
    licence: str
    split: str
    known: tuple[int, ...] = ()
    """The features that are known ahead."""
    cycles: dict[int, int] = field(default_factory=dict)
    """Features that count 0, 1, ..., period - 1 and begin again, each with its period."""
    minimum: float | None = None
    left_out: tuple[range, ...] = ()
    """Rows within `learned` that are forecast by models trained on the rows before only, for the errors in the file."""
    only_calibrated: int = 0
    """Held-out rows, the first ones, whose forecasts are errors in the file and are in no coverage."""

    @property
    def targets(self) -> NDArray[np.float32]:
        return self.rows[:, list(self.target)]
