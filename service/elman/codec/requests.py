"""The one definition of every request: names, types, bounds and defaults of its fields.

JSON bodies are decoded straight into these classes, and so are the query strings of binary requests. The OpenAPI
document is made from them (`elman.api.openapi`). Tests compare the client's signatures and the command line's options
with them.

The types of a sequence and of the static inputs depend on the model. For a model of features with a static input
`age` the request is `PredictRequest[list[list[float]], Statics]`, where `Statics` is a class with the field `age`.
"""

from typing import Annotated, Any, ClassVar, Generic, Literal, TypeVar

from msgspec import UNSET, Meta, Raw, Struct, UnsetType, field

S = TypeVar("S")
T = TypeVar("T")

Return = Literal["final", "steps"]

MAX_STEPS = 1_000_000
"""Most tokens that one request may generate, all samples together."""

Timeout = Annotated[float, Meta(gt=0, description="Seconds until the request fails with 504")]
Seed = Annotated[int, Meta(ge=0, le=2**63 - 1, description="The same seed gives the same answer")]
Session = Annotated[str, Meta(description="The id of a session to start from. The session does not move")]
StateToken = Annotated[str, Meta(description="A state token to start from")]
StepCount = Annotated[int, Meta(ge=0, le=2**63 - 1, description="The step that the session is expected to be at")]
Text = Annotated[str, Meta(min_length=1, max_length=256)]
Named = dict[str, Any]
Future = list[list[list[float] | float] | Named | float] | Named
"""Rows ahead, each a list or a number, or an object of those by input; or a list with one for each series."""
Heads = Annotated[list[Text], Meta(max_length=256, description="Names of further outputs to return, as in the card")]
Together = tuple[tuple[str, ...], ...]
"""Of some fields, which may be given together. Null counts as not given."""

STATIC = "The static inputs, an object by name; not with a state or session, which holds its own"


class Options(Struct, kw_only=True, forbid_unknown_fields=True):
    """Options of every request for outputs."""

    returns: Annotated[
        Return, Meta(description="`final`: the output after the last step; `steps`: after every step")
    ] = field(name="return", default="final")
    decode: Annotated[bool, Meta(description="Decode outputs into labels, tokens or values")] = True
    top: Annotated[int, Meta(ge=1, le=1000, description="How many labels are listed with their probability")] = 3
    timeout: Timeout | None = None


class PredictQuery(Options, kw_only=True, forbid_unknown_fields=True):
    """The query options of a predict request with a binary body."""

    return_state: Annotated[bool, Meta(description="Return a state token for each result")] = False


class PredictRequest(PredictQuery, Generic[S, T], kw_only=True, forbid_unknown_fields=True):
    """Either `sequence`, for one, or `sequences`, for many of any lengths."""

    together: ClassVar[Together] = (("sequence",), ("sequences",))

    sequence: S | UnsetType = UNSET
    sequences: Annotated[list[S], Meta(min_length=1)] | UnsetType = UNSET
    static: Annotated[
        T | list[T] | None, Meta(description=f"{STATIC}. One object for all sequences, or a list with one for each")
    ] = None
    heads: Heads = []
    state: Annotated[
        str | list[str] | None,
        Meta(description="State token to start from: one for all sequences, or a list with one for each"),
    ] = None
    hidden: Annotated[bool, Meta(description="Return the state after every step for each result")] = False

    @property
    def many(self) -> bool:
        """True if the request has `sequences`, False for `sequence`."""
        return self.sequences is not UNSET

    @property
    def carries_state(self) -> bool:
        """True if it needs a model with a running state."""
        return self.state is not None or self.return_state or self.hidden


class StepsQuery(Options, kw_only=True, forbid_unknown_fields=True):
    """The query options of a steps request with a binary body."""

    at: StepCount | None = None


class StepsRequest(StepsQuery, Generic[S], kw_only=True, forbid_unknown_fields=True):
    """The next steps of a session."""

    sequence: S
    heads: Heads = []


class NewSession(Struct, Generic[T], kw_only=True, forbid_unknown_fields=True):
    """The start state of a session, its static inputs, and its time to live."""

    state: Annotated[str | None, Meta(description="A state token to start from; without it the initial state")] = None
    static: Annotated[
        T | None, Meta(description="The static inputs, an object by name; not with a state, which holds its own")
    ] = None
    ttl: Annotated[float | None, Meta(description="Seconds that the session lives after its last step")] = None


class StreamQuery(Options, kw_only=True, forbid_unknown_fields=True):
    """The query options of a WebSocket stream. They are the defaults of its frames."""

    session: Annotated[str, Meta(description="The id of a session; without it a new one is created")] | None = None
    ttl: Annotated[float, Meta(gt=0, description="Seconds that a new session lives after its last step")] | None = None
    static: (
        Annotated[str, Meta(description="The static inputs of a new session, as JSON: an object by name")] | None
    ) = None


class GenerateRequest(Struct, Generic[T], kw_only=True, forbid_unknown_fields=True):
    """A prompt, or a session or state, to generate from."""

    together: ClassVar[Together] = ((), ("session",), ("state",))
    drawing: ClassVar[tuple[str, ...]] = ("temperature", "top_k", "top_p", "seed", "samples", "stream")
    """Fields that keep their defaults with beams."""
    searching: ClassVar[tuple[str, ...]] = ("num_return_sequences", "length_penalty", "early_stopping")
    """Fields that keep their defaults without beams."""

    prompt: Annotated[str | list[int] | None, Meta(description="A text, or token ids")] = None
    condition: Annotated[str | None, Meta(description="One of the card's generation.conditions")] = None
    session: Session | None = None
    state: StateToken | None = None
    static: Annotated[T | None, Meta(description=STATIC)] = None
    max_steps: Annotated[int, Meta(ge=1, le=MAX_STEPS, description="Most tokens of each sample")] = 100
    temperature: Annotated[float, Meta(ge=0, le=100, description="0 takes the most probable token")] = 1.0
    top_k: Annotated[int, Meta(ge=0, le=2**31, description="Draw from this many most probable tokens; 0: all")] = 0
    top_p: Annotated[
        float, Meta(gt=0, le=1, description="Draw from the most probable tokens whose probabilities sum to this")
    ] = 1.0
    seed: Seed | None = None
    samples: Annotated[int, Meta(ge=1, le=1000, description="Number of samples")] = 1
    stop: Annotated[
        Annotated[list[Text], Meta(max_length=16)] | Text, Meta(description="Stop strings, which end a sample")
    ] = []
    num_beams: Annotated[
        int, Meta(ge=1, le=64, description="Search the most probable texts with this many beams; 1: draw samples")
    ] = 1
    num_return_sequences: Annotated[
        int, Meta(ge=1, le=64, description="Most texts of a beam search, at most num_beams")
    ] = 1
    length_penalty: Annotated[
        float, Meta(ge=-10, le=10, description="Of beams: a score is the sum of log-probabilities / length ** this")
    ] = 1.0
    early_stopping: Annotated[bool, Meta(description="Of beams: end as soon as num_beams texts are complete")] = False
    logprobs: (
        Annotated[
            int,
            Meta(
                ge=0, le=20, description="Return the log-probability of each token, and this many most probable tokens"
            ),
        ]
        | None
    ) = None
    stream: Annotated[bool, Meta(description="Answer with server-sent events, one per token")] = False
    return_state: Annotated[bool, Meta(description="Return a state token for each sample")] = False
    timeout: Timeout | None = None


class ForecastRequest(Struct, Generic[S, T], kw_only=True, forbid_unknown_fields=True):
    """Either `series`, for one, or `series_list`, for many of any lengths; or a session or state to forecast from."""

    together: ClassVar[Together] = (
        ("series",),
        ("series", "session"),
        ("series", "state"),
        ("series_list",),
        ("session",),
        ("state",),
    )

    series: S | None = None
    series_list: Annotated[list[S], Meta(min_length=1)] | None = None
    session: Session | None = None
    state: StateToken | None = None
    static: Annotated[
        T | list[T] | None, Meta(description=f"{STATIC}. One object for all series, or a list with one for each")
    ] = None
    horizon: (
        Annotated[
            int,
            Meta(
                ge=1,
                le=100_000,
                description="Number of steps to forecast; without it max_horizon or max_sampled of the card, or 24",
            ),
        ]
        | None
    ) = None
    samples: Annotated[int, Meta(ge=0, le=5000, description="Number of paths to sample, for mean and quantiles")] = 0
    quantiles: (
        Annotated[
            list[Annotated[float, Meta(gt=0, lt=1)]],
            Meta(
                max_length=100,
                description="Quantiles of the sampled paths; without it 0.1, 0.5 and 0.9. They need `samples`",
                extra_json_schema={"uniqueItems": True},
            ),
        ]
        | None
    ) = None
    seed: Seed | None = None
    future: (
        Annotated[
            Future,
            Meta(
                description="The features known ahead, one row per step; an object by name if the model has several "
                "sequence inputs; with `series_list` a list with one for each"
            ),
        ]
        | None
    ) = None
    paths: Annotated[bool, Meta(description="Return the sampled paths too")] = False
    timeout: Timeout | None = None

    @property
    def levels(self) -> list[float]:
        """The quantiles to take over the paths."""
        return [0.1, 0.5, 0.9] if self.quantiles is None else self.quantiles

    @property
    def many(self) -> bool:
        """True if the request has `series_list`."""
        return self.series_list is not None


class InfluenceRequest(Struct, Generic[S, T], kw_only=True, forbid_unknown_fields=True):
    """A sequence of two steps or more."""

    sequence: S
    target: Annotated[str | int | None, Meta(description="The label or output to compare; without it all")] = None
    state: StateToken | None = None
    static: Annotated[T | None, Meta(description=STATIC)] = None
    decode: Annotated[bool, Meta(description="Decode the output")] = True
    top: Annotated[int, Meta(ge=1, le=1000, description="How many labels are listed with their probability")] = 3
    timeout: Timeout | None = None

    @property
    def returns(self) -> Return:
        """Always `final`: the output after the last step."""
        return "final"


class Origin(Struct):
    """The start of an autoregressive request. Read first, as a session decides the version of the model."""

    session: Raw = Raw(b"null")
    state: Raw = Raw(b"null")


_LARGEST = 3.4028234663852886e38


def _lists(least: int) -> list[dict[str, Any]]:
    """Sequences of rows and of numbers, as JSON schema has them. `least` is the number of steps."""
    number = {"type": "number", "minimum": -_LARGEST, "maximum": _LARGEST}
    row = {"type": "array", "items": number, "minItems": 1}
    return [{"type": "array", "items": items, "minItems": least} for items in (row, number)]


def _sequence(least: int) -> Meta:
    """A sequence of any model, of at least so many steps."""
    others: list[dict[str, Any]] = [{"type": "string", "minLength": 1}, {"type": "object"}]
    return Meta(
        description="Features [[f, ...], ...], token ids or a signal [t, ...], a text, or an object of those by the "
        "names of the sequence inputs, if there are several",
        extra_json_schema={"anyOf": [*_lists(least), *others]},
    )


AnySequence = Annotated[Any, _sequence(1)]
"""A sequence of any model, for the OpenAPI document."""

TwoSteps = Annotated[Any, _sequence(2)]
"""A sequence of at least two steps."""

AnySeries = Annotated[
    Any, Meta(description="Numbers, or rows of one for each feature", extra_json_schema={"anyOf": _lists(1)})
]
"""A series of any model."""

AnyStatics = dict[str, Any]
"""The static inputs of any model, for the OpenAPI document."""
