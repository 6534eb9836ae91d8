"""Whether a model's output can be its next input, and how."""

import importlib.util
import math
from dataclasses import dataclass
from typing import Literal, cast

from elman.repository.model import Model
from elman.repository.spec import ForecastSpec


@dataclass(frozen=True)
class Driving:
    """How a forecaster is driven, as in `ForecastSpec`, with what the graph decides.

    `window` is the number of rows that each run reads, None for the whole series; `horizon` the number of steps that
    one run foretells; `num_parameters` the number of outputs for each value; `filled` the features that the server
    fills; `future` the index among the static inputs of the one that takes what is known ahead; `num_known` the number
    of features known ahead.
    """

    drive: Literal["recursive", "window", "direct"]
    window: int | None
    horizon: int
    target: tuple[int, ...]
    known: tuple[int, ...]
    known_for: Literal["same", "next"]
    num_parameters: int = 1
    filled: tuple[int, ...] = ()
    future: int | None = None
    num_known: int = 0

    @property
    def carries_state(self) -> bool:
        """Whether it goes on from a state, and not from rows that it reads anew."""
        return self.drive == "recursive"


def why_no_generation(model: Model) -> str | None:
    """Why a model cannot write on; None where it can: its output scores the token that comes next."""
    if not model.tokens:
        return "it reads numbers, not tokens"
    if model.network.further or model.network.end is not None:
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
    if model.network.end is not None:
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
    misfit = _misfit(driving, features, size) or _wrong_future(model, driving) or _unsaid_step(model, driving)
    return misfit or _wrong_residuals(model, size) or _missing_package(model)


def _misfit(driving: Driving, features: int, size: int) -> str | None:
    """Why the outputs do not fit the features that they are to be."""
    target, rows, parameters = driving.target, driving.horizon, driving.num_parameters
    if len(target) * rows * parameters != size or len(set(target)) != len(target):
        of = (f" of {rows} steps" if rows > 1 else "") + (f", {parameters} outputs each," if parameters > 1 else "")
        return f"its spec names {len(target)} target features{of} for {size} outputs"
    given = {*target, *driving.known, *driving.filled}
    missing = sorted(set(range(features)) - given) if driving.drive != "direct" else []
    if missing or max(given, default=-1) >= features:
        names = ", ".join(map(str, missing or sorted(given - set(range(features)))))
        return f"nothing says what becomes of its input feature {names}: forecast.target and forecast.known of its spec"
    return None


def _wrong_residuals(model: Model, size: int) -> str | None:
    spec = model.spec.forecast or ForecastSpec()
    if any(len(row) != size for row in spec.residuals):
        return f"the residuals of its spec are not rows of {size}"
    values = len(driving_of(model).target)
    if spec.errors is not None and len(spec.errors.rows[0][0]) != values:
        return f"the errors of its spec are of {len(spec.errors.rows[0][0])} values a step, its forecasts of {values}"
    return None


def _missing_package(model: Model) -> str | None:
    head = None if model.spec.forecast is None else model.spec.forecast.head
    if head is None or head.kind == "quantiles" or importlib.util.find_spec("scipy") is not None:
        return None
    return f"drawing from a {head.kind} distribution needs the package scipy: pip install 'elman[distributions]'"


def driving_of(model: Model) -> Driving:
    """How a forecaster is driven. Its first features are its target where the spec does not say.

    A graph that takes windows of one length, and no others, is driven by them.
    """
    spec, window = model.spec.forecast or ForecastSpec(), model.network.window
    drive = "window" if spec.drive == "recursive" and window is not None else spec.drive
    horizon, parameters = spec.horizon or 1, 1 if spec.head is None else spec.head.num_parameters
    outputs = model.network.output_size // (horizon * parameters)
    target = tuple(range(outputs)) if spec.target is None else spec.target
    mask = model.spec.input.missing_mask
    filled = () if mask is None else (mask,)
    names = [one.name for one in model.network.statics]
    future, num_known = None, len(spec.known)
    if spec.future in names:
        future = names.index(spec.future)
        num_known = math.prod(extent or 1 for extent in model.network.statics[future].shape) // horizon
    of_graph = parameters, filled, future, num_known
    return Driving(drive, spec.window or window, horizon, target, spec.known, spec.known_for or "same", *of_graph)


def _wrong_future(model: Model, driving: Driving) -> str | None:
    """Why what is known ahead does not fit the input that takes it."""
    spec = model.spec.forecast or ForecastSpec()
    if spec.future is None:
        return None
    if driving.future is None:
        names = ", ".join(repr(one.name) for one in model.network.statics) or "none"
        return f"its spec names {spec.future!r} for what is known ahead; its static inputs are {names}"
    shape, steps = model.network.statics[driving.future].shape, driving.horizon
    if model.network.statics[driving.future].dtype.kind != "f":
        return f"its input {spec.future!r} takes no fractions, as features do"
    if None in shape or not shape or math.prod(cast(tuple[int, ...], shape)) != steps * driving.num_known:
        return f"its input {spec.future!r} of shape {list(shape)} does not take features of {steps} steps"
    if driving.known and len(driving.known) != driving.num_known:
        return (
            f"its spec names {len(driving.known)} known features, its input {spec.future!r} takes {driving.num_known}"
        )
    return None


def _unsaid_step(model: Model, driving: Driving) -> str | None:
    """Why it is not known for which step the further sequence inputs are, which are given ahead."""
    if driving.drive == "direct" or not model.network.further or (model.spec.forecast or ForecastSpec()).known_for:
        return None
    names = ", ".join(repr(one.name) for one in model.network.further)
    return (
        f'it reads {names} at every step, which is given ahead, and its spec does not say for which step: add "same" '
        'as forecast.known_for if a row has the values of its own step, "next" if it has those of the step that it '
        "foretells"
    )


def feeds_on(model: Model) -> bool:
    """Whether a model's last output belongs to its state, since what comes next is made from it."""
    return why_no_generation(model) is None or (why_no_forecast(model) is None and driving_of(model).carries_state)


def _no_further(model: Model) -> str:
    if model.network.end is not None:
        return "its graph is told the end of a sequence, which nothing knows ahead"
    names = ", ".join(repr(one.name) for one in model.network.further)
    return f"it reads {names} at every step beside the data, which nothing gives ahead"


def _no_state(model: Model) -> str:
    reason = model.network.look_ahead or model.proof.reason
    return "its state cannot be carried from step to step" + (f": {reason}" if reason else "")
