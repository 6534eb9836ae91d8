"""Answers, for the OpenAPI document."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from elman.repository.spec import InputRole, OutputRole


def _absent(value: object) -> bool:
    return value is None


class _Schema(BaseModel):
    model_config = ConfigDict(defer_build=True)  # most are for the document alone, which few ask for


class InputCard(_Schema):
    """The steps of an input sequence."""

    kind: Literal["features", "tokens", "frames"]
    size: int | None = Field(None, exclude_if=_absent, description="Features per step, or samples per frame")
    stride: int | None = Field(None, exclude_if=_absent, description="Frames: samples from one frame to the next")
    left_pad: int | None = Field(None, exclude_if=_absent, description="Frames: zeros before the first sample")
    names: list[str] | None = Field(None, exclude_if=_absent, description="Names of the features")
    vocabulary_size: int | None = Field(None, exclude_if=_absent, description="Token ids are 0 to vocabulary_size - 1")
    text: bool = Field(False, description="Whether a sequence may be a string")
    scale: Literal["series"] | None = Field(
        None, exclude_if=_absent, description="`series`: each series is scaled by its own mean and std"
    )
    missing: Literal["forward_fill", "model"] | float | None = Field(
        None,
        exclude_if=_absent,
        description="What becomes of missing values (null, NaN): the value before, this value, or the model reads NaN; "
        "absent if they are refused",
    )
    missing_mask: int | None = Field(
        None,
        exclude_if=_absent,
        description="The feature that the server sets to 1 where a value of the row is missing",
    )
    normalisation: Literal["NFC"] | None = Field(
        None, exclude_if=_absent, description="The Unicode form that strings are brought into; absent if none"
    )
    unknown: str | None = Field(
        None, exclude_if=_absent, description="The token for other characters; absent if they are refused"
    )


class OutputCard(_Schema):
    """The output of one step."""

    size: int
    labels: list[str] | None = Field(None, exclude_if=_absent)


class InputTensorCard(_Schema):
    """An input of the graph."""

    name: str
    role: InputRole
    shape: list[int | None] = Field(description="Of one step, one sequence's static or state, or a whole constant")
    dtype: str
    found: str = Field(description="How the role was found")


class OutputTensorCard(_Schema):
    """An output of the graph."""

    name: str
    role: OutputRole
    shape: list[int | None] = Field(description="Of one step (`steps`) or of one sequence (`final`, `state`)")
    dtype: str
    found: str = Field(description="How the role was found")


class StateTensorCard(_Schema):
    name: str
    shape: list[int] = Field(description="Shape of one sequence's state, without the batch axis")
    dtype: str


class StateCard(_Schema):
    """The running state of one sequence."""

    bytes: int
    tensors: list[StateTensorCard]
    initial: Literal["zeros", "learned"]


class BatchingCard(_Schema):
    """How the model may be batched, as proved when it was loaded."""

    exact: bool = Field(description="Whether it gives the same bits alone or batched, whole or in chunks")
    tolerance: float = Field(description="The largest difference seen, if it is not exact")
    reason: str | None = Field(description="Why sequences are not run in chunks, or not batched freely")


class GenerationCard(_Schema):
    """How a model generates."""

    start: str | None
    end: str | None
    conditions: list[str]


class CoverageCard(_Schema):
    """How much of the truth the middle interval held, on data that neither training nor calibration had seen."""

    level: float = Field(description="The share that it is meant to hold")
    shares: list[list[float]] = Field(description="The share that it held: for each step one number for each value")


class ForecastCard(_Schema):
    """How a model forecasts."""

    drive: Literal["recursive", "window", "direct"] = Field(
        description="`recursive`: the output is the next input; `window`: the same, and each step reads the last rows "
        "anew; `direct`: one run gives all steps"
    )
    window: int | None = Field(description="Rows that each run reads; null for the whole series")
    max_horizon: int | None = Field(description="Most steps that it foretells; null if any")
    target: list[int] = Field(description="For each value, the index of the input feature that it predicts")
    known: list[int] = Field(description="Indices of the input features known ahead, which a request gives as `future`")
    future: str | None = Field(
        default=None, exclude_if=_absent, description="The static input of a direct model that takes `future`"
    )
    known_for: Literal["same", "next"] = Field(
        description="`same`: an input row has the known features of its own step; `next`: of the step after it"
    )
    sampled: bool = Field(description="Whether paths can be sampled, for quantiles")
    max_sampled: int | None = Field(description="Most steps of a sampled path; null if any that it foretells")
    coverage: CoverageCard | None = Field(description="The coverage that was measured; null if none is known")


class ModelCard(_Schema):
    """All that a client needs to know about a model."""

    name: str
    version: int
    versions: list[int]
    task: str
    cell: str
    layers: int
    hidden_size: int
    direction: Literal["forward", "bidirectional"]
    streaming: bool = Field(description="Whether it has sessions: its state can be carried, or it takes windows")
    window: int | None = Field(description="The number of steps that a sequence must have; null if any")
    input: InputCard
    output: OutputCard
    inputs: list[InputTensorCard] = Field(description="Every input of the graph, the data first")
    outputs: list[OutputTensorCard] = Field(description="Every output of the graph, the primary one first")
    state: StateCard
    batching: BatchingCard
    generation: GenerationCard | None = Field(default=None, description="How it generates; null if it cannot")
    forecast: ForecastCard | None = Field(default=None, description="How it forecasts; null if it cannot")
    suspended: str | None = Field(default=None, description="Why it answers nothing at present; null if it does")
    examples: int = Field(default=0, description="Number of held-out sequences in its folder")
    notes: list[str] = Field(default=[], description="What its config.pbtxt says and the server does not follow")
    digest: str


class RefusedModel(_Schema):
    """A file in the repository that is not served."""

    name: str
    version: int | None
    reason: str
    node: str | None = Field(None, exclude_if=_absent)
    remedy: str | None = Field(None, exclude_if=_absent)
    model_json: dict[str, Any] | None = Field(None, exclude_if=_absent, description="A model.json to start from")


class ModelList(_Schema):
    models: list[ModelCard]
    refused: list[RefusedModel]


class Ranked(_Schema):
    label: str | None = None
    token: str | None = None
    probability: float


class Decoded(Ranked):
    """The most probable label or token, and the `top` most probable ones."""

    top: list[Ranked]


class UnknownCharacter(_Schema):
    """A character of a text that is not in the vocabulary and was read as its unknown token."""

    character: str
    count: int


UNKNOWN = Field(None, description="Characters read as the unknown token, the first 20 different ones; absent if none")

Heads = dict[str, list[float] | list[list[float]]]


class Result(_Schema):
    """The answer for one sequence: `output` for `final`, `outputs` with one row per step for `steps`."""

    length: int
    output: list[float] | None = None
    outputs: list[list[float]] | None = None
    decoded: Decoded | list[Decoded] | list[float] | list[list[float]] | None = None
    heads: Heads | None = Field(None, description="The heads asked for: a row for each step, or one row")
    unknown: list[UnknownCharacter] | None = UNKNOWN
    state: str | None = Field(None, description="A state token, if return_state was set")
    step: int | None = Field(None, description="Number of steps done up to this state")
    hidden: dict[str, list[list[float]]] | None = Field(None, description="Each state tensor, one row per step")


class StepsAnswer(_Schema):
    """The outputs of a steps request, and the step that the session is at."""

    id: str
    step: int = Field(description="Steps done; for a model of frames, samples received")
    length: int = Field(description="Steps run by this request")
    output: list[float] | None = None
    outputs: list[list[float]] | None = None
    decoded: Decoded | list[Decoded] | list[float] | list[list[float]] | None = None
    heads: Heads | None = Field(None, description="The heads asked for: a row for each step, or one row")
    unknown: list[UnknownCharacter] | None = UNKNOWN
    replayed: bool = Field(description="True if the step was done by an earlier request: its answer is given again")


class PredictAnswer(_Schema):
    model: str
    version: int
    results: list[Result] = Field(description="In the order of the request")


class OutputTensor(_Schema):
    """One output: its elements in `data`, or `binary_data_size` bytes of them after the JSON."""

    name: str
    datatype: str
    shape: list[int]
    data: list[float] | list[bool] | list[str] | None = None
    parameters: dict[str, int] | None = None


class InferAnswer(_Schema):
    """The requested outputs, in order."""

    model_name: str
    model_version: str
    id: str | None = Field(None, description="That of the request")
    outputs: list[OutputTensor]


class OpenServer(_Schema):
    """The server, in the Open Inference Protocol."""

    name: str
    version: str
    extensions: list[str]


class Live(_Schema):
    live: bool
    error: str | None = None


class Ready(_Schema):
    ready: bool
    error: str | None = None


class ModelReady(Ready):
    name: str


class TensorMetadata(_Schema):
    """A tensor. -1 is an extent that may differ from request to request."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(_Schema):
    """A model, in the Open Inference Protocol."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata] = Field(description="The inputs that every request has, the primary one first")
    outputs: list[TensorMetadata] = Field(description="The outputs of a request that names none, the primary one first")


class ModelStatistics(_Schema):
    """Counts and durations of models in nanoseconds, in the Open Inference Protocol."""

    model_stats: list[dict[str, Any]]


class Problem(_Schema):
    """An error: what is wrong, and where (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    code: str = Field(description="A stable word for programs to test")
    error: str = Field(description="The same as detail")
    where: str | None = Field(None, description="The place in the request, such as sequences[3][17][2]")
    expected: Any = None


class Health(_Schema):
    status: str
    detail: str | None = None


class SessionCard(_Schema):
    """A session, and the step that it is at."""

    id: str
    model: str
    version: int
    step: int
    created_at: float = Field(description="Seconds since the epoch")
    expires_at: float = Field(description="Seconds since the epoch; each step moves it")
    ttl: float


class SessionList(_Schema):
    sessions: list[SessionCard]
    next: str | None = Field(description="The `after` of the next page; null on the last page")


class StateAnswer(_Schema):
    state: str = Field(description="A state token")
    step: int


class Example(_Schema):
    """A sequence that the model was not trained on."""

    model_config = ConfigDict(extra="allow")

    title: str
    sequence: Any
    expected: str | None = None


class Examples(_Schema):
    examples: list[Example]


class RankedToken(_Schema):
    token: int
    text: str | None = Field(None, description="Absent if the model has no vocabulary")
    logprob: float


class TokenLogprobs(_Schema):
    """The log-probability of a token, and the most probable tokens of its step."""

    logprob: float
    top: list[RankedToken]


class Generated(_Schema):
    """One sample, or one text of a beam search."""

    text: str | None = Field(description="The text before the stop string; null if the model has no vocabulary")
    tokens: list[int]
    steps: int
    reason: Literal["stop", "end", "length"]
    cumulative_logprob: float | None = Field(
        None, description="Sum of the log-probabilities of its tokens, with that of the end token"
    )
    score: float | None = Field(None, description="Of beam search: cumulative_logprob / length ** length_penalty")
    logprobs: list[TokenLogprobs] | None = Field(None, description="One for each token, if logprobs was set")
    state: str | None = None


class TokenEvent(_Schema):
    """A token of a sample, in a stream of events."""

    sample: int
    token: int | None = Field(description="null in the event with the rest of a sample's text")
    text: str = Field(description="The text since the last event; empty if the model has no vocabulary")
    logprob: float | None = Field(None, description="If logprobs was set, and so are `top`")
    top: list[RankedToken] | None = None


class GenerateAnswer(_Schema):
    model: str
    version: int
    seed: int | None = Field(description="null for a beam search, which draws nothing")
    unknown: list[UnknownCharacter] | None = UNKNOWN
    results: list[Generated] = Field(description="The samples in their order, or the texts by score, best first")


Values = list[float] | list[list[float]]


class ForecastResult(_Schema):
    """A forecast in the data's own units: a number per step, or a row per step if the model has several outputs."""

    point: Values | None = Field(default=None, description="Always there for a single series")
    mean: Values | None = None
    quantiles: dict[str, Values] | None = None
    paths: list[Values] | None = None


class ForecastAnswer(ForecastResult):
    """The forecast of one series, or `results` with that of each series of `series_list`, in their order."""

    model: str
    version: int
    horizon: int
    seed: int
    results: list[ForecastResult] | None = Field(default=None, description="Only for `series_list`")


class TimeSeriesForecast(_Schema):
    """The forecast of one series."""

    type: str = Field(
        description="`univariate_time_series`, or `multivariate_time_series` of a model of several outputs"
    )
    name: str
    mean_forecast: Values = Field(description="The mean of the sampled paths; without paths the point forecast")
    frequency: str
    start_timestamp: str = Field(description="The time of the first step; empty if the series has none")
    quantiles: dict[str, Values] | None = None


class TimeSeriesOutput(_Schema):
    """The output of one series."""

    type: str
    id: str
    status: str
    content: list[TimeSeriesForecast]
    error: None


class TimeSeriesAnswer(_Schema):
    """The forecasts of all series, in their order."""

    id: str
    created_at: int = Field(description="Seconds since 1970")
    status: str = Field(description="`completed`. Whatever fails is answered with a problem")
    error: None
    model: str
    outputs: list[TimeSeriesOutput]


class InfluenceAnswer(_Schema):
    """How far o_n moves when a step is left out: the Euclidean distance of the outputs, or the distance of `target`.

    Outputs are compared as probabilities if the model has labels or tokens, and as values in the data's units if not.
    """

    model: str
    version: int
    length: int
    output: list[float]
    decoded: Decoded | list[float] | None = None
    unknown: list[UnknownCharacter] | None = UNKNOWN
    target: int | None
    influence: list[float] = Field(description="One number per step")
    span: int = Field(description="How many of the last steps have 90 % of all influence")
