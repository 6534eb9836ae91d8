"""The client: models, sessions and streams of a server, blocking or asynchronous.

It imports nothing of the server. It needs httpx, numpy and tenacity, and for streams websockets.
"""

from elman.client.aio.client import AsyncClient
from elman.client.aio.model import AsyncModel
from elman.client.aio.session import AsyncSession
from elman.client.aio.streams import AsyncStream, AsyncTokens
from elman.client.config import Batching, Retries, Timeout
from elman.client.errors import (
    BadAnswer,
    BadStateToken,
    Busy,
    Conflict,
    DeadlineExceeded,
    Disconnected,
    ElmanError,
    ModelChanged,
    NoAnswer,
    NotAllowed,
    NotConnected,
    NotFound,
    Quota,
    Refused,
    RequestError,
    ServerFailed,
    StepConflict,
    StepReused,
    TimedOut,
    Unable,
    Unavailable,
    UnknownModel,
    UnknownSession,
)
from elman.client.results import (
    Card,
    Example,
    Forecast,
    Generated,
    Generation,
    IndexEntry,
    Influence,
    Ranked,
    Refusal,
    Result,
    SessionInfo,
    StepResult,
    Token,
)
from elman.client.sync.client import Client
from elman.client.sync.model import Model
from elman.client.sync.session import Session
from elman.client.sync.streams import Stream, Tokens

__all__ = [
    "AsyncClient",
    "AsyncModel",
    "AsyncSession",
    "AsyncStream",
    "AsyncTokens",
    "BadAnswer",
    "BadStateToken",
    "Batching",
    "Busy",
    "Card",
    "Client",
    "Conflict",
    "DeadlineExceeded",
    "Disconnected",
    "ElmanError",
    "Example",
    "Forecast",
    "Generated",
    "Generation",
    "IndexEntry",
    "Influence",
    "Model",
    "ModelChanged",
    "NoAnswer",
    "NotAllowed",
    "NotConnected",
    "NotFound",
    "Quota",
    "Ranked",
    "Refusal",
    "Refused",
    "RequestError",
    "Result",
    "Retries",
    "ServerFailed",
    "Session",
    "SessionInfo",
    "StepConflict",
    "StepResult",
    "StepReused",
    "Stream",
    "TimedOut",
    "Timeout",
    "Token",
    "Tokens",
    "Unable",
    "Unavailable",
    "UnknownModel",
    "UnknownSession",
]
