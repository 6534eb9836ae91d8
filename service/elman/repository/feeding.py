"""Whether a model's output can be its next input, and how."""

from dataclasses import dataclass

from elman.repository.model import Model


@dataclass(frozen=True)
class Axes:
    """Which input features a forecaster's outputs are, and which its caller knows ahead."""

    target: tuple[int, ...]
    known: tuple[int, ...]


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
    if not model.proof.streaming:
        return _no_state(model)
    if model.spec.task != "forecasting":
        return f"its task is {model.spec.task}, not forecasting: its outputs are not the next step's values"
    axes, features, size = axes_of(model), model.network.features or 0, model.network.output_size
    if len(axes.target) != size or len(set(axes.target)) != size:
        return f"its spec names {len(axes.target)} target features for {size} outputs"
    given = {*axes.target, *axes.known}
    missing = sorted(set(range(features)) - given)
    if missing or max(given, default=-1) >= features:
        names = ", ".join(map(str, missing or sorted(given - set(range(features)))))
        return f"nothing says what becomes of its input feature {names}: forecast.target and forecast.known of its spec"
    if model.spec.forecast is not None and any(len(row) != size for row in model.spec.forecast.residuals):
        return f"the residuals of its spec are not rows of {size}"
    return None


def axes_of(model: Model) -> Axes:
    """What a forecaster's spec says of its features; the first ones are its target where it says nothing."""
    forecast = model.spec.forecast
    target = forecast.target if forecast is not None else None
    known = forecast.known if forecast is not None else ()
    return Axes(tuple(range(model.network.output_size)) if target is None else target, known)


def feeds_on(model: Model) -> bool:
    """Whether a model's last output belongs to its state, since what comes next is made from it."""
    return why_no_generation(model) is None or why_no_forecast(model) is None


def _no_further(model: Model) -> str:
    names = ", ".join(repr(one.name) for one in model.network.further)
    return f"it reads {names} at every step beside the data, which nothing gives ahead"


def _no_state(model: Model) -> str:
    reason = model.network.look_ahead or model.proof.reason
    return "its state cannot be carried from step to step" + (f": {reason}" if reason else "")
