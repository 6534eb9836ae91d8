"""What a model is: the spec that `model.json`, the ONNX metadata key `elman`, or the graph itself supplies."""

import unicodedata
from codecs import BOM_UTF8
from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from elman.errors import ModelRefused, message_of

METADATA_KEY = "elman"
QUANTISED_KEY = "elman.quantised"
"""The metadata key of a file that answers only about as its module does; its value says how it was rounded."""

Number = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_COUNTS = "negative_binomial"
Task = Literal["classification", "tagging", "regression", "forecasting", "generation", "raw"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class InputSpec(_Frozen):
    """The data input. `size` is the number of features of a step; `vocabulary` lists tokens by id.

    Where `mean` and `std` are given, one number for each feature or one for all, the network reads `(x - mean) / std`
    of every value x, also of those that are fed back. Requests are in the data's own units.

    Attributes:
        scale: `series`: mean and std of the features `scaled` are those of each series: of the rows that the first run
            reads. A feature that does not vary in a series has std 1. The outputs of a forecaster are then in the units
            of its scaled targets, and so are its residuals. `mean` and `std` are for the other features.
        scaled: the features that `scale` scales; without it the targets of a forecaster, and all features of another
            model.
        missing: what becomes of missing values, which are refused without it. `forward_fill`: the value of the step
            before. A number: that value, in the data's own units. `model`: the network reads NaN.
        missing_mask: the feature that the server sets to 1 where a value of the row is missing, and to 0 elsewhere. It
            is not scaled.
    """

    kind: Literal["features", "tokens", "frames"] | None = None
    name: str | None = None
    size: Annotated[int, Field(ge=1, le=2**20)] | None = None
    names: tuple[str, ...] | None = None
    vocabulary: tuple[str, ...] | None = None
    vocabulary_size: Annotated[int, Field(ge=1)] | None = None
    unknown: str | None = None
    """The token that stands for characters outside the vocabulary; without it they are refused."""
    normalisation: Literal["NFC", "none"] | None = None
    """The Unicode form that texts are brought into before their characters are looked up in the vocabulary.

    Left out, it is NFC where NFC changes no text of the vocabulary's own characters, and `none` otherwise.
    """
    stride: Annotated[int, Field(ge=1)] | None = None
    """Of frames: samples from the start of one to the start of the next. `size` where it is left out."""
    left_pad: Annotated[int, Field(ge=0)] = 0
    """Of frames: zeros before the first sample."""
    batch_axis: Annotated[int, Field(ge=0, le=7)] | None = None
    time_axis: Annotated[int, Field(ge=0, le=7)] | None = None
    mean: tuple[Number, ...] | None = None
    std: tuple[Positive, ...] | None = None
    scale: Literal["series"] | None = None
    scaled: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] | None = None
    missing: Literal["forward_fill", "model"] | Number | None = None
    missing_mask: Annotated[int, Field(ge=0)] | None = None

    @property
    def remembers(self) -> bool:
        """Whether the next rows of a series are read by what was kept of the rows before."""
        return self.scale is not None or self.missing == "forward_fill"

    @model_validator(mode="after")
    def _check_preparing(self) -> "InputSpec":
        prepares = self.scale is not None or self.missing is not None
        if prepares and self.kind not in (None, "features"):
            raise ValueError(f"scale and missing are of features, not of {self.kind}")
        if self.scaled is not None and self.scale is None:
            raise ValueError("scaled names the features of a scale, and there is none")
        if self.missing_mask is not None and self.missing is None:
            raise ValueError("missing_mask goes with missing")
        if self.size is not None and max([*(self.scaled or ()), self.missing_mask or 0]) >= self.size:
            raise ValueError(f"scaled or missing_mask names a feature beyond the {self.size} of the input")
        return self

    @model_validator(mode="after")
    def _check(self) -> "InputSpec":
        _check_scale(self.mean, self.std)
        if self.mean is not None and self.kind not in (None, "features"):
            raise ValueError(f"mean and std are of features, not of {self.kind}")
        if self.mean is not None and self.size is not None and len(self.mean) not in (1, self.size):
            raise ValueError(f"mean lists {len(self.mean)} numbers but size is {self.size}")
        if self.vocabulary is not None:
            if len(set(self.vocabulary)) != len(self.vocabulary):
                raise ValueError("vocabulary lists a token twice")
            if self.vocabulary_size not in (None, len(self.vocabulary)):
                raise ValueError(
                    f"vocabulary_size is {self.vocabulary_size} but vocabulary lists {len(self.vocabulary)} tokens"
                )
            if self.unknown is not None and self.unknown not in self.vocabulary:
                raise ValueError(f"unknown token {self.unknown!r} is not in the vocabulary")
        _check_normalisation(self.normalisation, self.vocabulary)
        if self.kind == "frames" and self.size is None:
            raise ValueError("an input of frames needs a size")
        if self.stride is not None and self.size is not None and self.stride > self.size:
            raise ValueError(f"stride {self.stride} leaves out samples between frames of {self.size}")
        if self.names is not None and self.size is not None and len(self.names) != self.size:
            raise ValueError(f"names lists {len(self.names)} features but size is {self.size}")
        return self


def _check_normalisation(form: str | None, vocabulary: tuple[str, ...] | None) -> None:
    """Raise ValueError if texts are brought into a form that no character, or not every one, of the vocabulary has."""
    if form is not None and vocabulary is None:
        raise ValueError("normalisation is of texts, which need a vocabulary")
    for token in vocabulary or ():
        if form == "NFC" and not unicodedata.is_normalized("NFC", token):
            raise ValueError(f"normalisation is NFC, but the token {token!r} of the vocabulary is not in NFC")


InputRole = Literal["sequence", "static", "lengths", "mask", "control", "state", "constant"]
"""`sequence`: one value a step, from the request. `static`: one a sequence, from the request. `lengths` and `mask`: how
many steps, and which, are no padding, filled by the server. `control`: where in its sequence a run is, filled by the
server. `state`: what an output replaces after each run. `constant`: the same for everybody, from the spec."""

Control = Literal["start", "end", "ready", "corrid"]
"""What a control input says of each row, as in Triton. `start`: the run begins a sequence. `end`: it ends one. `ready`:
the row is a sequence, not padding. `corrid`: the number that the client calls the sequence by; 0 if it has none."""

OutputRole = Literal["steps", "final", "state", "unused"]
"""`steps`: one row a step. `final`: one row a sequence. `state`: the next state. `unused`: nobody is given it."""


class PortSpec(_Frozen):
    """What one input of the graph is for, where the graph does not show it.

    `valid` is what a mask says of a real step. `control` is what a control input says, and `false_true` are its values
    for no and yes. `value` is that of a constant. `output` names the output that replaces a state, and `initial` the
    initialiser that it starts from; none means zeros.
    """

    role: InputRole | None = None
    batch_axis: Annotated[int, Field(ge=0, le=7)] | None = None
    time_axis: Annotated[int, Field(ge=0, le=7)] | None = None
    valid: Annotated[int, Field(ge=0, le=1)] | None = None
    control: Control | None = None
    false_true: tuple[Number, Number] = (0.0, 1.0)
    value: Any = None
    output: str | None = None
    initial: str | None = None

    @model_validator(mode="after")
    def _check(self) -> "PortSpec":
        if (self.role == "state") != (self.output is not None):
            raise ValueError("a state names the output that replaces it, and nothing else names one")
        if self.valid is not None and self.role != "mask":
            raise ValueError("valid is of a mask")
        if (self.role == "control") != (self.control is not None):
            raise ValueError("an input of the role control says which control it is, and no other does")
        if self.false_true[0] == self.false_true[1]:
            raise ValueError("false_true are two values")
        return self


class AnswerSpec(_Frozen):
    """What one output of the graph is for: `unused` leaves it out of every answer."""

    role: Literal["steps", "final", "unused"] | None = None


class StateSpec(_Frozen):
    """One piece of running state: the graph input that takes it and the output that replaces it.

    `initial` names the initialiser of shape (..., 1 on the batch axis, ...) that it starts from; none means zeros.
    """

    input: str
    output: str
    batch_axis: Annotated[int, Field(ge=0)] = 1
    initial: str | None = None


class DecoderSpec(_Frozen):
    """How an output row becomes an answer.

    `labels`: one score a label, taken as `scores` says (softmax is applied to logits, exp to log probabilities).
    `values`: numbers, in the data's own units after `output * std + mean`.
    `tokens`: one score a token of the vocabulary.
    """

    kind: Literal["labels", "values", "tokens", "none"] = "none"
    labels: tuple[str, ...] | None = None
    scores: Literal["logits", "log_probabilities", "probabilities"] | None = None
    mean: tuple[Number, ...] | None = None
    std: tuple[Positive, ...] | None = None

    @model_validator(mode="after")
    def _check(self) -> "DecoderSpec":
        if self.kind == "labels" and not self.labels:
            raise ValueError("a labels decoder needs labels")
        _check_scale(self.mean, self.std)
        return self


def _check_scale(mean: tuple[float, ...] | None, std: tuple[float, ...] | None) -> None:
    """Raise ValueError unless mean and std are both given, of one length, or both left out."""
    if (mean is None) != (std is None):
        raise ValueError("mean and std go together")
    if mean is not None and std is not None and (not mean or len(mean) != len(std)):
        raise ValueError(f"mean lists {len(mean)} numbers and std {len(std)}")


class GenerationSpec(_Frozen):
    """How a model of tokens, whose output scores the next one, writes on.

    `start` is the token that every sequence begins with, `end` the one that closes it. `conditions` are what may be
    asked for by name, each with the token that stands in the place of `start`.
    """

    start: str | None = None
    end: str | None = None
    conditions: dict[str, str] = {}


class HeadSpec(_Frozen):
    """What the outputs of a forecaster say of each value. Its parameters stand side by side, in this order.

    Attributes:
        kind: `quantiles`: one number for each of `levels`. `normal`: mean, standard deviation. `student_t`: degrees of
            freedom, location, scale. `negative_binomial`: mean, dispersion alpha, so that the variance is
            `mean + alpha * mean**2`.
        levels: of quantiles, ascending.
        transform: what makes the parameters positive that must be: `none` if the network does so itself, `softplus` or
            `exp` of its outputs. With `softplus` the degrees of freedom are `2 + softplus(x)`.
    """

    kind: Literal["quantiles", "normal", "student_t", "negative_binomial"]
    levels: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = ()
    transform: Literal["none", "softplus", "exp"] = "none"

    @property
    def num_parameters(self) -> int:
        """Numbers for each value."""
        return {"quantiles": len(self.levels), "student_t": 3}.get(self.kind, 2)

    @property
    def positive(self) -> tuple[int, ...]:
        """The indices of the parameters that must be positive."""
        return {"quantiles": (), "normal": (1,), "student_t": (0, 2)}.get(self.kind, (0, 1))

    @model_validator(mode="after")
    def _check(self) -> "HeadSpec":
        if (self.kind == "quantiles") != bool(self.levels):
            raise ValueError("quantiles have levels, and nothing else has any")
        if any(low >= high for low, high in zip(self.levels, self.levels[1:], strict=False)):
            raise ValueError("levels must ascend")
        return self


class ErrorsSpec(_Frozen):
    """Errors of whole forecasts of data that was not trained on, from which intervals are made.

    Attributes:
        rows: for each forecast its errors (truth minus forecast), one row for each step, one number for each value.
            All have the same number of steps, and paths go no further than these.
        offset: where it is given, the numbers are shares of `|forecast| + offset`, for series whose errors grow with
            their values. Without it they are in the data's own units.
        level: the share of the truth that the middle interval is meant to hold.
        coverage: the share of the truth that it held, on data that neither training nor `rows` had seen: for each
            step one number for each value.
    """

    rows: Annotated[tuple[tuple[tuple[Number, ...], ...], ...], Field(min_length=2, max_length=4096)]
    offset: Positive | None = None
    level: Annotated[float, Field(gt=0, lt=1)] = 0.8
    coverage: tuple[tuple[Annotated[float, Field(ge=0, le=1)], ...], ...] = ()

    @property
    def steps(self) -> int:
        """Steps that the errors are known for."""
        return len(self.rows[0])

    @cached_property
    def table(self) -> "np.ndarray[Any, Any]":
        """The rows as float64 `(rows, steps, values)`."""
        return np.array(self.rows, np.float64)

    @model_validator(mode="after")
    def _check(self) -> "ErrorsSpec":
        shapes = {tuple(len(step) for step in row) for row in self.rows}
        if len(shapes) != 1 or len(set(*shapes)) != 1 or 0 in next(iter(shapes)):
            raise ValueError("all rows must have the same number of steps, and each step the same number of values")
        if self.coverage and {tuple(len(step) for step in self.coverage)} != shapes:
            raise ValueError("coverage must have the steps and the values that the rows have")
        return self


class ForecastSpec(_Frozen):
    """How a model whose outputs are the coming values of a series is driven.

    Attributes:
        drive: `recursive`: the output is the next input, from the state after the series. `window`: the same, but each
            step reads the last `window` rows anew, as a network does that was trained on windows. `direct`: one run
            gives the values of all `horizon` steps, row by row.
        window: rows that each run reads, where they are not the whole series.
        horizon: steps that a `direct` model foretells.
        target: the input features that the outputs are, in the order of the outputs.
        known: the input features that the caller knows ahead, in the order in which a request gives them.
        future: the static input of a `direct` model that takes the features known ahead of all its steps,
            `(horizon, features)`, as the decoder of an encoder-decoder reads them. If they are input features too,
            `known` says which, and they are scaled like those.
        known_for: `same`: an input row has the known features of its own step. `next`: of the step after it, which it
            foretells. It is required with `known`, since the graph does not show it.
        residuals: errors (truth minus forecast, in the data's own units) seen on data that was not trained on, one
            row for each forecast of one run. A sampled path adds one row, drawn at random, to the output of each run.
        errors: errors of whole forecasts, by step. A sampled path is the point forecast plus those of one forecast,
            drawn at random, and nothing of them is fed back.
        head: what the outputs say of each value, where they are not the values themselves.
        minimum: values are held at it or above.
    """

    drive: Literal["recursive", "window", "direct"] = "recursive"
    window: Annotated[int, Field(ge=1, le=2**20)] | None = None
    horizon: Annotated[int, Field(ge=1, le=2**16)] | None = None
    target: tuple[Annotated[int, Field(ge=0)], ...] | None = None
    known: tuple[Annotated[int, Field(ge=0)], ...] = ()
    future: str | None = None
    known_for: Literal["same", "next"] | None = None
    residuals: tuple[tuple[Number, ...], ...] = ()
    errors: ErrorsSpec | None = None
    head: HeadSpec | None = None
    minimum: Number | None = None

    @cached_property
    def residual_table(self) -> "np.ndarray[Any, Any]":
        """The residuals as float64 `(rows, outputs)`; `(0,)` if there are none."""
        return np.array(self.residuals, np.float64)

    @property
    def sampled(self) -> bool:
        """Whether paths can be sampled."""
        return bool(self.residuals or self.errors or self.head)

    @model_validator(mode="after")
    def _check(self) -> "ForecastSpec":
        if (self.horizon is not None) != (self.drive == "direct"):
            raise ValueError("a direct model has a horizon, and no other has one")
        if self.window is not None and self.drive == "recursive":
            raise ValueError("a recursive model reads no window")
        if sum(map(bool, (self.head, self.errors, self.residuals))) > 1:
            raise ValueError("paths are drawn from the head, from errors or from residuals, not from two of them")
        if self.future is not None and self.drive != "direct":
            raise ValueError("future is the input of a direct model")
        if self.known and self.drive == "direct" and self.future is None:
            raise ValueError("a direct model reads features that are known ahead by an input of its own: future")
        if self.known and self.drive != "direct" and self.known_for is None:
            raise ValueError(
                'known needs known_for: "same" if an input row has the known features of its own step, "next" if it '
                "has those of the step that it foretells"
            )
        return self


class ModelSpec(_Frozen):
    """The whole description of a model. Every field may be left out where the graph decides it."""

    task: Task | None = None
    input: InputSpec = InputSpec()
    state: tuple[StateSpec, ...] | None = None
    inputs: dict[str, PortSpec] = {}
    outputs: tuple[str, ...] | dict[str, AnswerSpec] | None = None
    """The outputs that answer, the primary one first, and no others; or what is said of some by name."""
    constants: dict[str, Any] = {}
    decoder: DecoderSpec | None = None
    generation: GenerationSpec | None = None
    forecast: ForecastSpec | None = None
    initial_state: Literal["zeros", "learned"] = "zeros"

    @model_validator(mode="after")
    def _check(self) -> "ModelSpec":
        if self.outputs is not None and len(set(self.outputs)) < len(self.outputs):
            raise ValueError("outputs lists a name twice")
        if self.outputs == ():
            raise ValueError("outputs lists the outputs that answer, and there is none in it")
        self._check_roles()
        self._check_generation()
        if self.input.scale is None or self.task != "forecasting":
            return self
        if self.decoder is not None and self.decoder.mean is not None:
            raise ValueError("outputs have the scale of their series, so the decoder has no mean and std")
        errors = None if self.forecast is None else self.forecast.errors
        if errors is not None and errors.offset is None:
            raise ValueError("errors in the data's own units do not fit series of every scale: give them an offset")
        if self.forecast is not None and self.forecast.head is not None and self.forecast.head.kind == _COUNTS:
            raise ValueError(f"a {_COUNTS} distribution is of counts, which have no scale")
        return self

    def with_axes_of(self, data: str) -> "ModelSpec":
        """The spec with the axes of the data input where the input is named, which `inputs` may say too."""
        told = self.inputs.get(data, PortSpec())
        axes = {key: getattr(told, key) for key in ("batch_axis", "time_axis") if getattr(self.input, key) is None}
        return self.model_copy(update={"input": self.input.model_copy(update=axes)})

    def _check_roles(self) -> None:
        """Raise ValueError for an input that has more than one role."""
        said: list[tuple[str, InputRole, str]] = []
        if self.input.name is not None:
            said.append((self.input.name, "sequence", "input.name"))
        said += [(state.input, "state", f"state.{index}") for index, state in enumerate(self.state or ())]
        said += [(name, "constant", f"constants.{name}") for name in self.constants]
        first: dict[str, tuple[InputRole, str]] = {}
        for name, role, field in said:
            if name in first:
                raise ValueError(f"{first[name][1]} and {field} are both the input {name!r}")
            first[name] = role, field
        for name, (role, field) in first.items():
            other = self.inputs.get(name, PortSpec()).role
            if other not in (None, role):
                raise ValueError(f"{field} makes the input {name!r} a {role}, and inputs.{name}.role is {other!r}")

    def _check_generation(self) -> None:
        """Raise ValueError for a token of the generation that the vocabulary does not list."""
        vocabulary, one = self.input.vocabulary, self.generation
        if vocabulary is None or one is None:
            return
        named = {"start": one.start, "end": one.end} | {f"conditions.{k}": token for k, token in one.conditions.items()}
        for field, token in named.items():
            if token is not None and token not in vocabulary:
                raise ValueError(f"generation.{field} is {token!r}, which is not in the vocabulary")

    @property
    def answers(self) -> dict[str, AnswerSpec]:
        """What is said of outputs by name."""
        return self.outputs if isinstance(self.outputs, dict) else {}

    @property
    def controls(self) -> dict[str, PortSpec]:
        """What is said of the control inputs, by name."""
        return {name: one for name, one in self.inputs.items() if one.role == "control"}

    @property
    def values(self) -> dict[str, Any]:
        """The value of every constant."""
        return {name: one.value for name, one in self.inputs.items() if one.role == "constant"} | self.constants

    def dump(self) -> dict[str, Any]:
        """The spec as a JSON object, without what was left out."""
        return self.model_dump(mode="json", exclude_none=True, exclude_defaults=True)


def parse_spec(text: str | bytes, source: str) -> ModelSpec:
    """Read a spec from JSON, which may begin with a byte order mark; `source` says where it is from in the refusal.

    Raises ModelRefused where the text is not a spec, naming the field.
    """
    try:
        content = text.encode() if isinstance(text, str) else text
        return ModelSpec.model_validate_json(content.removeprefix(BOM_UTF8))
    except ValidationError as error:
        reason = f"{source} is not a valid spec: {first_error(error)}"
        raise ModelRefused(reason, node=source, remedy="Correct what the message names.") from None


def first_error(error: ValidationError) -> str:
    """The first thing that is wrong, after the field that has it: `mean.0: Input should be a finite number`."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    field = ".".join(str(part) for part in first["loc"])
    return f"{field + ': ' if field else ''}{message_of(first)}"


def embedded_spec(metadata: Mapping[str, str]) -> ModelSpec | None:
    """The spec that an ONNX file carries under the metadata key `elman`, if any."""
    text = metadata.get(METADATA_KEY)
    return None if text is None else parse_spec(text, f"ONNX metadata {METADATA_KEY!r}")
