"""The fields of every request: names, types, bounds and defaults, once.

JSON bodies are decoded straight into these classes, query strings of octet requests too. The OpenAPI document is made
from them (`elman.api.openapi`), and tests hold the client's signatures and the command line's options to them.

The type of a sequence is the model's: `PredictRequest[list[list[float]]]` is that of a model of features.
"""

from typing import Annotated, Any, Generic, Literal, TypeVar

from msgspec import UNSET, Meta, Struct, UnsetType, field

S = TypeVar("S")

Return = Literal["final", "steps"]

MAX_STEPS = 1_000_000
"""Most tokens that one request may generate, all samples together."""

Timeout = Annotated[float, Meta(gt=0, description="Seconds after which the answer is of no use: 504")]
Seed = Annotated[int, Meta(ge=0, le=2**63 - 1, description="The same seed gives the same answer")]
Session = Annotated[str, Meta(description="The id of a session to go on from. It is not moved")]
StateToken = Annotated[str, Meta(description="A state token to go on from")]
StepCount = Annotated[int, Meta(ge=0, le=2**63 - 1, description="The step that the session is believed to be at")]
Text = Annotated[str, Meta(min_length=1, max_length=256)]
Row = list[float] | float


class Options(Struct, kw_only=True, forbid_unknown_fields=True):
    """What every request for outputs may ask for."""

    returns: Annotated[
        Return, Meta(description="`final`: the output after the last step; `steps`: after every step")
    ] = field(name="return", default="final")
    decode: Annotated[bool, Meta(description="Whether outputs are decoded into labels, values or tokens")] = True
    top: Annotated[int, Meta(ge=1, le=1000, description="How many labels are listed with their probability")] = 3
    timeout: Timeout | None = None


class PredictQuery(Options, kw_only=True, forbid_unknown_fields=True):
    """The options of a predict request whose body is octets, in its query string."""

    return_state: Annotated[bool, Meta(description="Whether each result has a state token to go on with")] = False


class PredictRequest(PredictQuery, Generic[S], kw_only=True, forbid_unknown_fields=True):
    """Either `sequence`, for one, or `sequences`, for many of any lengths."""

    sequence: S | UnsetType = UNSET
    sequences: Annotated[list[S], Meta(min_length=1)] | UnsetType = UNSET
    state: Annotated[
        str | list[str] | None, Meta(description="A state token to go on from: one for all sequences, or one each")
    ] = None
    hidden: Annotated[bool, Meta(description="Whether each result has the state after every step")] = False

    @property
    def many(self) -> bool:
        """Whether it is `sequences` that were given."""
        return self.sequences is not UNSET

    @property
    def carries_state(self) -> bool:
        """Whether it asks for what only a model with a running state has."""
        return self.state is not None or self.return_state or self.hidden


class StepsQuery(Options, kw_only=True, forbid_unknown_fields=True):
    """The options of a steps request whose body is octets, in its query string."""

    at: (
        Annotated[int, Meta(ge=0, le=2**63 - 1, description="The step that the session is believed to be at")] | None
    ) = None


class StepsRequest(StepsQuery, Generic[S], kw_only=True, forbid_unknown_fields=True):
    """The next steps of a session."""

    sequence: S


class StreamQuery(Options, kw_only=True, forbid_unknown_fields=True):
    """The options of a WebSocket stream, in its query string. Frames that say nothing else have them too."""

    session: Annotated[str, Meta(description="The id of a session to go on with; a new one without it")] | None = None
    ttl: Annotated[float, Meta(gt=0, description="Seconds that a new session lives after its last step")] | None = None


class GenerateRequest(Struct, kw_only=True, forbid_unknown_fields=True):
    """A prompt, or a session or state, to write on from."""

    prompt: Annotated[str | list[int] | None, Meta(description="A text, or token ids")] = None
    condition: Annotated[str | None, Meta(description="One of the card's generation.conditions")] = None
    session: Session | None = None
    state: StateToken | None = None
    max_steps: Annotated[int, Meta(ge=1, le=MAX_STEPS, description="Most tokens of each sample")] = 100
    temperature: Annotated[float, Meta(ge=0, le=100, description="0 takes the likeliest token")] = 1.0
    top_k: Annotated[int, Meta(ge=0, le=2**31, description="Draw among so many of the likeliest; 0: all")] = 0
    top_p: Annotated[float, Meta(gt=0, le=1, description="Draw among the likeliest that sum to this")] = 1.0
    seed: Seed | None = None
    samples: Annotated[int, Meta(ge=1, le=1000, description="How many texts")] = 1
    stop: Annotated[Annotated[list[Text], Meta(max_length=16)] | Text, Meta(description="Texts that end a sample")] = []
    stream: Annotated[bool, Meta(description="Answer with server-sent events, one a token")] = False
    return_state: Annotated[bool, Meta(description="Whether each sample has a state token to go on with")] = False
    timeout: Timeout | None = None


class ForecastRequest(Struct, Generic[S], kw_only=True, forbid_unknown_fields=True):
    """A series, or a session or state, to carry on."""

    series: S | None = None
    session: Session | None = None
    state: StateToken | None = None
    horizon: Annotated[int, Meta(ge=1, le=100_000, description="How many steps are forecast")] = 24
    samples: Annotated[int, Meta(ge=0, le=1000, description="Paths that are sampled for mean and quantiles")] = 0
    quantiles: Annotated[
        list[Annotated[float, Meta(gt=0, lt=1)]], Meta(max_length=100, description="Quantiles of the sampled paths")
    ] = field(default_factory=lambda: [0.1, 0.5, 0.9])
    seed: Seed | None = None
    future: Annotated[list[Row], Meta(description="What is known ahead, a row a step")] | None = None
    paths: Annotated[bool, Meta(description="Whether the sampled paths are wanted too")] = False
    timeout: Timeout | None = None


class InfluenceRequest(Struct, Generic[S], kw_only=True, forbid_unknown_fields=True):
    """A sequence of two steps or more."""

    sequence: S
    target: Annotated[str | int | None, Meta(description="The label or output to look at; all without it")] = None
    state: StateToken | None = None
    decode: Annotated[bool, Meta(description="Whether the output is decoded")] = True
    top: Annotated[int, Meta(ge=1, le=1000, description="How many labels are listed with their probability")] = 3
    timeout: Timeout | None = None

    @property
    def returns(self) -> Return:
        """It looks at the output after the last step."""
        return "final"


class Origin(Struct):
    """Where an autoregressive request starts, read before the rest: a session decides the version that is asked."""

    session: Any = None
    state: Any = None


AnySequence = Annotated[
    Any,
    Meta(
        description="[[f, ...], ...] of features, [t, ...] of tokens or of a signal, or a text",
        extra_json_schema={
            "anyOf": [
                {"type": "array", "items": {"type": "array", "items": {"type": "number"}}},
                {"type": "array", "items": {"type": "number"}},
                {"type": "string"},
            ]
        },
    ),
]
"""A sequence of any model, for the OpenAPI document."""
