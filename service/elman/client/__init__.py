"""The client: models, sessions and streams of a server, blocking or asynchronous.

It imports nothing of the server. It needs httpx and numpy, and for streams websockets.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

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
    PoolTimeout,
    Quota,
    RateLimited,
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
    RankedToken,
    Refusal,
    Result,
    SessionInfo,
    StepResult,
    Token,
    TokenLogprob,
)
from elman.client.sync.client import Client
from elman.client.sync.model import Model
from elman.client.sync.session import Session
from elman.client.sync.streams import Stream, Tokens

if TYPE_CHECKING:
    from elman.client.aio.client import AsyncClient
    from elman.client.aio.model import AsyncModel
    from elman.client.aio.session import AsyncSession
    from elman.client.aio.streams import AsyncStream, AsyncTokens

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
    "PoolTimeout",
    "Quota",
    "Ranked",
    "RankedToken",
    "RateLimited",
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
    "TokenLogprob",
    "Tokens",
    "Unable",
    "Unavailable",
    "UnknownModel",
    "UnknownSession",
]

# Imported when it is first used, since a blocking client does without asyncio.
_ASYNC = {
    "AsyncClient": "client",
    "AsyncModel": "model",
    "AsyncSession": "session",
    "AsyncStream": "streams",
    "AsyncTokens": "streams",
}


def __getattr__(name: str) -> Any:
    if name not in _ASYNC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"elman.client.aio.{_ASYNC[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
