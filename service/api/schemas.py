"""The shapes of requests and answers, for the OpenAPI document and for the routes that are not hot."""

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


Step = list[float]
SequenceBody = list[Step] | list[float] | list[int] | str


class PredictBody(BaseModel):
    """Either `sequence`, for one, or `sequences`, for many of any lengths."""

    model_config = ConfigDict(json_schema_extra={"example": {"sequence": [[0.1, 0.2], [0.3, 0.4]], "return": "final"}})

    sequence: SequenceBody | None = Field(
        None,
        description="[[f, ...], ...] of features, [t, ...] of tokens, or a string where there is a vocabulary",
    )
    sequences: list[SequenceBody] | None = None
    returns: Literal["final", "steps"] = Field("final", alias="return")
    decode: bool = Field(True, description="Whether to decode outputs into labels, values or tokens")
    top: int = Field(3, ge=1, le=1000, description="How many labels to list with their probability")
    timeout: float | None = Field(None, gt=0, description="Seconds after which the answer is of no use: 504")


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
