"""The answers, for the OpenAPI document, and the bodies of the routes that FastAPI serves."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


def _absent(value: object) -> bool:
    return value is None


class InputCard(BaseModel):
    """What a sequence is made of."""

    kind: Literal["features", "tokens", "frames"]
    size: int | None = Field(None, exclude_if=_absent, description="Features of a step, or samples of a frame")
    stride: int | None = Field(None, exclude_if=_absent, description="Of frames: samples from one to the next")
    left_pad: int | None = Field(None, exclude_if=_absent, description="Of frames: zeros before the first sample")
    names: list[str] | None = Field(None, exclude_if=_absent, description="Names of the features")
    vocabulary_size: int | None = Field(None, exclude_if=_absent, description="Token ids are 0 to vocabulary_size - 1")
    text: bool = Field(False, description="Whether a sequence may be a string")


class OutputCard(BaseModel):
    """What one step's output is."""

    size: int
    labels: list[str] | None = Field(None, exclude_if=_absent)


class StateTensorCard(BaseModel):
    name: str
    shape: list[int] = Field(description="Shape of one sequence's state, without the batch axis")
    dtype: str


class StateCard(BaseModel):
    """The running state of one sequence."""

    bytes: int
    tensors: list[StateTensorCard]
    initial: Literal["zeros", "learned"]


class BatchingCard(BaseModel):
    """What was proved of the model when it was loaded."""

    exact: bool = Field(description="The same bits alone or batched, whole or in chunks")
    tolerance: float = Field(description="Largest difference seen where it is not exact")
    reason: str | None = Field(description="Why sequences of it are not cut or not batched freely")


class GenerationCard(BaseModel):
    """How a model writes on."""

    start: str | None
    end: str | None
    conditions: list[str]


class ForecastCard(BaseModel):
    """How a model is fed its own output."""

    target: list[int] = Field(description="The input features that its outputs are")
    known: list[int] = Field(description="The input features that a request gives ahead")
    sampled: bool = Field(description="Whether paths can be sampled, for quantiles")


class ModelCard(BaseModel):
    """All that a client needs to know of a model."""

    name: str
    version: int
    versions: list[int]
    task: str
    cell: str
    layers: int
    hidden_size: int
    direction: Literal["forward", "bidirectional"]
    streaming: bool = Field(description="Whether its state can be carried from request to request")
    input: InputCard
    output: OutputCard
    state: StateCard
    batching: BatchingCard
    generation: GenerationCard | None = Field(default=None, description="How it generates; null where it cannot")
    forecast: ForecastCard | None = Field(default=None, description="How it forecasts; null where it cannot")
    examples: int = Field(default=0, description="How many held-out sequences travel with it")
    digest: str


class RefusedModel(BaseModel):
    """A file in the repository that is not served."""

    name: str
    version: int | None
    reason: str
    node: str | None = Field(None, exclude_if=_absent)
    remedy: str | None = Field(None, exclude_if=_absent)
    model_json: dict[str, Any] | None = Field(None, exclude_if=_absent, description="The model.json to start from")


class ModelList(BaseModel):
    models: list[ModelCard]
    refused: list[RefusedModel]


class Ranked(BaseModel):
    label: str | None = None
    token: str | None = None
    probability: float


class Decoded(Ranked):
    """The best label or token, and the best few."""

    top: list[Ranked]


class Result(BaseModel):
    """The answer for one sequence: `output` for `final`, `outputs` with a row a step for `steps`."""

    length: int
    output: list[float] | None = None
    outputs: list[list[float]] | None = None
    decoded: Decoded | list[Decoded] | list[float] | list[list[float]] | None = None
    state: str | None = Field(None, description="A state token, where return_state was set")
    step: int | None = Field(None, description="How far the state has come, in steps")
    hidden: dict[str, list[list[float]]] | None = Field(None, description="Each state tensor, a row a step")


class StepsAnswer(BaseModel):
    """What a step gave, and where the session stands."""

    id: str
    step: int = Field(description="Steps done; for a model of frames, samples received")
    length: int = Field(description="Steps run by this request")
    output: list[float] | None = None
    outputs: list[list[float]] | None = None
    decoded: Decoded | list[Decoded] | list[float] | list[list[float]] | None = None
    replayed: bool = Field(description="Whether the step had been done already, and only its answer was given again")


class PredictAnswer(BaseModel):
    model: str
    version: int
    results: list[Result] = Field(description="In the order of the request")


class Problem(BaseModel):
    """What is wrong, and where (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    code: str = Field(description="A stable word to branch on")
    error: str = Field(description="The same as detail")
    where: str | None = Field(None, description="The place in the request, such as sequences[3][17][2]")
    expected: Any = None


class Health(BaseModel):
    status: str
    detail: str | None = None


class NewSession(BaseModel):
    """Where a session begins, and how long it lives."""

    model_config = ConfigDict(extra="forbid")

    state: str | None = Field(default=None, description="A state token to begin at; the initial state without it")
    ttl: float | None = Field(default=None, description="Seconds that it lives after its last step")


class ForkBody(BaseModel):
    model_config = ConfigDict(extra="forbid")

    ttl: float | None = Field(default=None, description="As of a new session; that of the one forked without it")


class SessionCard(BaseModel):
    """Where a session stands."""

    id: str
    model: str
    version: int
    step: int
    created_at: float = Field(description="Seconds since the epoch")
    expires_at: float = Field(description="Seconds since the epoch; each step moves it")
    ttl: float


class SessionList(BaseModel):
    sessions: list[SessionCard]
    next: str | None = Field(description="What to give as `after` for the rest")


class StateAnswer(BaseModel):
    state: str = Field(description="A state token")
    step: int


class StateBody(BaseModel):
    model_config = ConfigDict(extra="forbid")

    state: str = Field(description="A state token")


class ModelStats(BaseModel):
    """What the engine has done for one model since it was loaded."""

    model: str
    version: int
    runs: int
    rows: int = Field(description="Rows of all runs; divided by runs, the mean batch")
    steps: int = Field(description="Useful steps")
    padded_steps: int
    sequences: int
    queued: int
    run_seconds: float
    max_batch: int


class EngineStats(BaseModel):
    """What the engine does now."""

    process: int = Field(description="The worker process that answers, whose figures these are")
    queued: int = Field(description="Sequences not answered yet")
    pending_seconds: float = Field(description="Work not answered yet, by the calibrated costs")
    sessions: int = Field(description="Sessions in the store, those of other processes included")
    streams: int = Field(description="WebSocket streams open")
    models: list[ModelStats]


class Example(BaseModel):
    """A real sequence that the model was not trained on."""

    model_config = ConfigDict(extra="allow")

    title: str
    sequence: Any
    expected: str | None = None


class Examples(BaseModel):
    examples: list[Example]


class Generated(BaseModel):
    """One sample."""

    text: str | None = Field(description="Without the text that stopped it; null without a vocabulary")
    tokens: list[int]
    steps: int
    reason: Literal["stop", "end", "length"]
    state: str | None = None


class GenerateAnswer(BaseModel):
    model: str
    version: int
    seed: int
    results: list[Generated]


Values = list[float] | list[list[float]]


class ForecastAnswer(BaseModel):
    """Numbers where the model has one output, rows where it has several; in the data's own units."""

    model: str
    version: int
    horizon: int
    seed: int
    point: Values
    mean: Values | None = None
    quantiles: dict[str, Values] | None = None
    paths: list[Values] | None = None


class InfluenceAnswer(BaseModel):
    """How far o_n moves when a step is withheld: the euclidean distance of what the outputs say, or that of `target`.

    Outputs say probabilities where the model has labels or tokens, and values in the data's units elsewhere.
    """

    model: str
    version: int
    length: int
    output: list[float]
    decoded: Decoded | list[float] | None = None
    target: int | None
    influence: list[float] = Field(description="A number a step")
    span: int = Field(description="How many of the last steps hold 90 % of all influence")
