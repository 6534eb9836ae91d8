"""What a series is: rows of features in the order of time, some of them to be foretold, and where it is split."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Series:
    """One long sequence. Rows before `learned` may be learned and selected on; those of `tests` only measure."""

    name: str
    rows: NDArray[np.float32]  # (time, features), in the data's own units
    feature_names: tuple[str, ...]
    target: tuple[int, ...]
    """The features that are foretold, in the order of the outputs."""
    learned: int
    tests: dict[str, range]
    """Rows that are foretold and measured, by what they are called."""
    folds: tuple[range, ...]
    """Rows within `learned` that are held out while hyperparameters and epochs are chosen; only the rows before each
    are learned from then."""
    about: str
    data: str
    licence: str
    split: str
    known: tuple[int, ...] = ()
    """The features that are known ahead."""
    cycles: dict[int, int] = field(default_factory=dict)
    """Features that count round and round, 0, 1, ..., period - 1, 0, ..., each with its period."""
    minimum: float | None = None

    @property
    def targets(self) -> NDArray[np.float32]:
        return self.rows[:, list(self.target)]
