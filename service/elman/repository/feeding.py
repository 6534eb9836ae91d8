"""Whether a model's output can be its next input, and how."""

from dataclasses import dataclass
from typing import Literal

from elman.repository.model import Model
from elman.repository.spec import ForecastSpec


@dataclass(frozen=True)
class Driving:
    """How a forecaster is driven, as in `ForecastSpec`, with what the graph decides.

    `window` is the number of rows that each run reads, None for the whole series; `horizon` the number of steps that
    one run foretells.
    """

    drive: Literal["recursive", "window", "direct"]
    window: int | None
    horizon: int
    target: tuple[int, ...]
    known: tuple[int, ...]
    known_for: Literal["same", "next"]

    @property
    def carries_state(self) -> bool:
        """Whether it goes on from a state, and not from rows that it reads anew."""
        return self.drive == "recursive"


def why_no_generation(model: Model) -> str | None:
    """Why a model cannot write on; None where it can: its output scores the token that comes next."""
    if not model.tokens:
        return "it reads numbers, not tokens"
    if model.network.further:
        return _no_further(model)
    if not model.proof.streaming:
        return _no_state(model)
    decoder = model.spec.decoder
    if decoder is None or decoder.kind != "tokens":
        return "its outputs score no tokens: its spec has no decoder of kind tokens"
    size = model.spec.input.vocabulary_size
    if size != model.network.output_size:
        return f"its outputs are {model.network.output_size} numbers, for a vocabulary of {size} tokens"
    return None


def why_no_forecast(model: Model) -> str | None:
    """Why a model cannot be fed its own output; None where it can: its output is the next step's values."""
    if model.tokens or model.frames:
        return f"it reads {model.spec.input.kind}, not series of values"
    if model.network.further:
        return _no_further(model)
    if model.spec.task != "forecasting":
        return f"its task is {model.spec.task}, not forecasting: its outputs are not the next step's values"
    driving, features, size = driving_of(model), model.network.features or 0, model.network.output_size
    window = model.network.window
    if driving.carries_state and not model.proof.streaming:
        return _no_state(model)
    if driving.drive == "window" and driving.window is None:
        return "its spec says that it is driven by windows, and not by how many rows: forecast.window"
    if window is not None and driving.window != window:
        return f"the graph takes windows of {window} rows, its spec says {driving.window}"
    return _misfit(driving, features, size) or _wrong_residuals(model, size)


def _misfit(driving: Driving, features: int, size: int) -> str | None:
    """Why the outputs do not fit the features that they are to be."""
    target, rows = driving.target, driving.horizon
    if len(target) * rows != size or len(set(target)) != len(target):
        of = f" of {rows} steps" if rows > 1 else ""
        return f"its spec names {len(target)} target features{of} for {size} outputs"
    given = {*target, *driving.known}
    missing = sorted(set(range(features)) - given) if driving.drive != "direct" else []
    if missing or max(given, default=-1) >= features:
        names = ", ".join(map(str, missing or sorted(given - set(range(features)))))
        return f"nothing says what becomes of its input feature {names}: forecast.target and forecast.known of its spec"
    return None


def _wrong_residuals(model: Model, size: int) -> str | None:
    if model.spec.forecast is not None and any(len(row) != size for row in model.spec.forecast.residuals):
        return f"the residuals of its spec are not rows of {size}"
    return None


def driving_of(model: Model) -> Driving:
    """How a forecaster is driven. Its first features are its target where the spec does not say.

    A graph that takes windows of one length, and no others, is driven by them.
    """
    spec, window = model.spec.forecast or ForecastSpec(), model.network.window
    drive = "window" if spec.drive == "recursive" and window is not None else spec.drive
    horizon = spec.horizon or 1
    target = tuple(range(model.network.output_size // horizon)) if spec.target is None else spec.target
    return Driving(drive, spec.window or window, horizon, target, spec.known, spec.known_for)


def feeds_on(model: Model) -> bool:
    """Whether a model's last output belongs to its state, since what comes next is made from it."""
    return why_no_generation(model) is None or (why_no_forecast(model) is None and driving_of(model).carries_state)


def _no_further(model: Model) -> str:
    names = ", ".join(repr(one.name) for one in model.network.further)
    return f"it reads {names} at every step beside the data, which nothing gives ahead"


def _no_state(model: Model) -> str:
    reason = model.network.look_ahead or model.proof.reason
    return "its state cannot be carried from step to step" + (f": {reason}" if reason else "")
