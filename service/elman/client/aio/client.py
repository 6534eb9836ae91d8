"""The asynchronous client of a server."""

import ssl
from types import TracebackType
from typing import Any, Self

import httpx

from elman.client.aio.model import AsyncModel
from elman.client.aio.opening import Opening
from elman.client.aio.sender import AsyncSender
from elman.client.aio.session import AsyncSession, open_session
from elman.client.calls import ModelCalls, server
from elman.client.config import Batching, Retries, Timeout
from elman.client.results import Card, IndexEntry, Refusal, SessionInfo
from elman.client.wire import AcceptedShapes


class AsyncClient:
    """A client of one Elman server. It keeps connections open, and can be shared by the tasks of one event loop.

    Use it in an `async with` block, or call `close` at the end. It can be pickled, and used after a fork.

    Every method that sends a request raises `NoAnswer` (`NotConnected`, `Disconnected`, `TimedOut`, `BadAnswer`) if no
    response could be read, and `Refused` if the server answered with an error. Both are `ElmanError`. The methods list
    the errors that callers most often handle.

    >>> from elman import AsyncClient
    >>> async with AsyncClient("http://localhost:8000") as client:
    ...     result = await client.model("names-gru").predict("Lindqvist")
    >>> result.label
    'Swedish'

    Args:
        url: address of the server, with its path prefix if it has one; None for that in the environment variable
            ELMAN_URL, or else http://localhost:8000.
        api_key: sent as a bearer token, for a server that asks for keys; None for that in ELMAN_API_KEY, if any.
        timeout: how long each call may take: seconds in all, or a `Timeout`.
        retries: when failed calls are sent again; `Retries(attempts=1)` for never.
        batching: how long lists of sequences are cut into requests.
        verify: the TLS context, if not the default one.
        transport: a transport of httpx that sends the requests, for example through a proxy.

    Raises:
        ValueError: `url` is not an http or https address, or a timeout is not more than 0.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        api_key: str | None = None,
        timeout: Timeout | float = Timeout(),  # noqa: B008  (frozen)
        retries: Retries = Retries(),  # noqa: B008
        batching: Batching = Batching(),  # noqa: B008
        verify: ssl.SSLContext | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._sender = AsyncSender(url, api_key, timeout, retries, batching, verify, transport)
        # By model and version, so that every AsyncModel of one name shares them.
        self._shapes: dict[str, AcceptedShapes] = {}

    @property
    def url(self) -> str:
        """The address of the server."""
        return self._sender.url

    async def close(self) -> None:
        """Close the connections. Sessions on the server stay."""
        await self._sender.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"AsyncClient({self.url!r})"

    def model(self, name: str, version: int | None = None) -> AsyncModel:
        """A model of the server. Sends nothing yet, so an unknown name is noticed only when the model is used.

        Args:
            name: name of the model.
            version: one version of it; None for the version that the server uses by default, the highest.
        """
        shapes = self._shapes.setdefault(f"{name}/{version}", AcceptedShapes())
        return AsyncModel(self._sender, ModelCalls(name, version, shapes))

    def session(self, id: str, *, keep: bool = True) -> Opening[AsyncSession]:
        """An existing session, to continue it.

        Args:
            id: the `id` of the session.
            keep: whether the session stays after an `async with` block. If False, it is deleted there.

        Raises:
            UnknownSession: it was deleted, it has expired, or it belongs to another API key.
        """
        return Opening(open_session(self._sender, server.session(id), keep))

    async def models(self) -> list[Card]:
        """The cards of all models that are served, each at its default version."""
        return await self._sender.send(server.models())

    async def refused(self) -> list[Refusal]:
        """The files in the repository that are not served, each with the reason."""
        return await self._sender.send(server.refused())

    async def sessions(
        self, model: str | None = None, *, limit: int | None = None, after: str | None = None
    ) -> list[SessionInfo]:
        """A page of the sessions of this API key, in the order of their ids.

        Args:
            model: only sessions of this model.
            limit: length of the page; None for the server's own.
            after: id of the last session of the page before.
        """
        return await self._sender.send(server.sessions(model, limit, after))

    async def load(self, model: str, *, timeout: Timeout | float | None = None) -> None:
        """Load a model from the repository, or load it again. If that fails, what was served before stays.

        Args:
            model: name of the model.
            timeout: seconds for the whole call, or a `Timeout`; None for the client's own.

        Raises:
            RequestError: the file is refused (`invalid_model`).
            UnknownModel: the repository has no such model.
        """
        await self._sender.send(server.load(model, timeout))

    async def unload(self, model: str) -> None:
        """Stop serving a model. Requests that wait for it are still answered. Raises UnknownModel."""
        await self._sender.send(server.unload(model))

    async def index(self, *, ready: bool = False) -> list[IndexEntry]:
        """Every model version in the repository, served or refused.

        Args:
            ready: only versions that are served.
        """
        return await self._sender.send(server.index(ready))

    async def live(self) -> bool:
        """Whether the server works. If not, it should be restarted."""
        return await self._sender.send(server.live())

    async def ready(self) -> bool:
        """Whether the server takes requests: its models are loaded and it is not stopping."""
        return await self._sender.send(server.ready())

    async def metrics(self) -> str:
        """The metrics of the server in the text format of Prometheus."""
        return await self._sender.send(server.metrics())

    async def engine(self) -> dict[str, Any]:
        """Statistics of the engine as JSON: what waits, and what ran for each model."""
        return await self._sender.send(server.engine())

    async def openapi(self) -> dict[str, Any]:
        """The OpenAPI document of the server as JSON."""
        return await self._sender.send(server.openapi())
