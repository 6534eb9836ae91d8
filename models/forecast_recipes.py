"""How each forecaster is shaped and trained."""

from dataclasses import dataclass, replace

from models.recurrent import CELLS

NUM_PATHS = 200
"""Paths sampled for each forecast whose coverage is measured."""
CYCLE = 11
"""Years from one maximum of sunspots to the next, approximately."""
RIVALS = (("a GRU of 12 units, quickly trained", 0.099, 0.378), ("linear regression on nine years", 0.126, 0.351))
"""Average relative variances of the first two test periods, dividing by the variance of this series."""
CUSTOMARY_VARIANCE = 1535
"""The variance of the sunspot numbers in the literature. That of the series here is a little smaller."""


@dataclass(frozen=True)
class Recipe:
    """Hyperparameters of one model: its shape, then its training."""

    hidden_size: int
    history: int | None
    """Steps that are read before the first forecast step; None for all."""
    learned_history: int | None
    """The same in training, where fewer are enough."""
    horizon: int
    """Steps of a forecast, each computed from the one before."""
    start_every: int = 1
    """Measured forecasts begin at every so many rows."""
    max_epochs: int = 100
    updates_per_epoch: int = 10
    batch_size: int = 1
    learning_rate: float = 3e-3
    decay: bool = False
    """Whether the learning rate falls linearly to zero over `max_epochs`."""
    weight_decay: float = 1e-2
    noise: float = 0.0
    """Standard deviation of the noise on the inputs in training, in those of the targets."""
    loss: str = "squared"
    weights: tuple[float, ...] = (1.0,)
    """Weight of each target in the loss."""
    one_step_weight: float = 1.0
    """Weight of the loss while the truth is read. The steps that are fed back have the rest."""
    average_decay: float = 0.98
    harmonics: int = 6
    forget_bias: float = 0.0
    """Initial bias of an LSTM's forget gates (R. Jozefowicz, W. Zaremba and I. Sutskever, 2015)."""


# Weight decay and noise were chosen on the validation folds for the GRU. The other cells use the same.
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
    "electricity-lstm": "an earlier recipe, that of the GRU, was measured on it: 8.10 %. This recipe was chosen on the "
    "validation days",
}
"""What was known of the held-out rows when a recipe was chosen."""
