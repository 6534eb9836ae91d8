"""The asynchronous client: it sends what `calls` makes, as the blocking one does, and is awaited."""

import asyncio
import contextlib
import functools
import inspect
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator, Sequence
from types import TracebackType
from typing import (
    Any,
    Concatenate,
    Generic,
    Literal,
    ParamSpec,
    Protocol,
    Self,
    TypeVar,
    Unpack,
    cast,
    get_args,
    overload,
)

import httpx
from tenacity import AsyncRetrying

from elman.client.base import ClientBase, SessionBase
from elman.client.calls import (
    Call,
    Draft,
    GenerateOptions,
    ModelCalls,
    PredictOptions,
    Returns,
    ServerCalls,
    SessionCalls,
    Wait,
)
from elman.client.config import Batching, Retries, Timeout
from elman.client.deadline import KEEPALIVE, Deadline
from elman.client.errors import ElmanError
from elman.client.progress import Progress, counted
from elman.client.results import Generation, Result, StepResult, Token
from elman.client.retrying import policy, translated
from elman.client.streams import Events, Frames, StreamOptions, stream_translated, websockets
from elman.client.wire import Many, One, Prompt, error_in, is_one

T = TypeVar("T")
P = ParamSpec("P")


class _Sends(Protocol):
    _client: "AsyncClient"


def awaited(build: Callable[Concatenate[Any, P], Call[T]]) -> Callable[Concatenate[_Sends, P], Coroutine[Any, Any, T]]:
    """The method that sends the call that `build` makes, and whose value is awaited."""

    @functools.wraps(build)
    async def method(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> T:
        client: AsyncClient = self._client
        return await client.send(build(self._calls, *args, **kwargs))

    value = get_args(inspect.signature(build).return_annotation)
    method.__signature__ = inspect.signature(build).replace(return_annotation=value[0])  # type: ignore[attr-defined]
    return method


class Closes(Protocol):
    """What is an asynchronous context manager of itself."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...


C = TypeVar("C", bound=Closes)


class Opening(Generic[C]):
    """Something that is about to be opened: `await` it, or enter it with `async with`."""

    def __init__(self, opens: Coroutine[Any, Any, C]) -> None:
        self._opens = opens
        self._opened: C | None = None

    def __await__(self) -> Generator[Any, None, C]:
        return self._opens.__await__()

    async def __aenter__(self) -> C:
        self._opened = await self._opens
        return await self._opened.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._opened is not None, "entered"
        await self._opened.__aexit__(kind, error, traceback)


class AsyncClient(ClientBase):
    """A server of recurrent networks, for code that awaits: the methods and arguments of `Client`.

    >>> import asyncio
    >>> from elman.client import AsyncClient
    >>> async def main():
    ...     async with AsyncClient("http://localhost:8000") as elman:
    ...         return (await elman.model("names-gru").predict("Lindqvist")).label
    >>> asyncio.run(main())
    'Swedish'
    """

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        timeout: Timeout | float = Timeout(),  # noqa: B008  (frozen)
        retries: Retries = Retries(),  # noqa: B008
        batching: Batching = Batching(),  # noqa: B008
        verify: ssl.SSLContext | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        super().__init__(url, api_key, timeout, retries, batching, verify)
        self._client = self
        self._calls = ServerCalls()
        self._http = httpx.AsyncClient(
            headers=self.headers,
            transport=transport,
            verify=self.tls,
            limits=httpx.Limits(max_connections=100, max_keepalive_connections=20, keepalive_expiry=KEEPALIVE),
            trust_env=False,
        )

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections. Sessions stay."""
        await self._http.aclose()

    models = awaited(ServerCalls.models)
    refused = awaited(ServerCalls.refused)
    sessions = awaited(ServerCalls.sessions)
    load = awaited(ServerCalls.load)
    unload = awaited(ServerCalls.unload)
    index = awaited(ServerCalls.index)
    live = awaited(ServerCalls.live)
    ready = awaited(ServerCalls.ready)
    metrics = awaited(ServerCalls.metrics)
    engine = awaited(ServerCalls.engine)
    openapi = awaited(ServerCalls.openapi)

    def model(self, name: str, version: int | None = None) -> "AsyncModel":
        """A model of the server, at its highest version if none is given. Asks nothing yet."""
        return AsyncModel(self, self.calls_of(name, version))

    def session(self, id: str, *, keep: bool = True) -> "Opening[AsyncSession]":
        """The session of an id, to go on with: await it, or enter it, and it is deleted at the end unless `keep`."""
        return self._session(self._calls.find(id), keep)

    def _session(self, call: Call[SessionCalls], keep: bool) -> "Opening[AsyncSession]":
        async def opens() -> AsyncSession:
            return AsyncSession(self, await self.send(call), keep)

        return Opening(opens())

    async def send(self, call: Call[T], deadline: Deadline | None = None) -> T:
        """Send a call, again where that is safe, until its deadline. Raises ElmanError."""
        deadline = deadline or self.deadline(call)
        return await AsyncRetrying(**policy(call, self.retries, deadline))(self._attempt, call, deadline)

    async def _attempt(self, call: Call[T], deadline: Deadline) -> T:
        with translated(deadline, self.url):
            async with asyncio.timeout(deadline.remaining):
                response = await self._http.send(self.request(self._http, call, deadline))
        return call.answer(response)

    async def send_all(
        self, drafts: Sequence[Draft[list[T]]], deadline: Deadline, report: Callable[[int], None]
    ) -> list[T]:
        """Write and send calls side by side; their values in order. The first error ends it all."""
        places = asyncio.Semaphore(self.batching.concurrency)

        async def send(draft: Draft[list[T]]) -> list[T]:
            async with places:
                call = await asyncio.to_thread(self.written, draft, deadline)
                values = await self.send(call, deadline)
            report(len(values))
            return values

        tasks = [asyncio.create_task(send(draft)) for draft in drafts]
        try:
            return [value for values in await asyncio.gather(*tasks) for value in values]
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    @contextlib.asynccontextmanager
    async def opened(self, call: Call[None], deadline: Deadline) -> AsyncIterator[httpx.Response]:
        """The answer to a call while it is still arriving."""

        async def attempt() -> httpx.Response:
            with translated(deadline, self.url):
                async with asyncio.timeout(deadline.remaining):
                    response = await self._http.send(self.request(self._http, call, deadline), stream=True)
                    if not response.is_success:
                        await response.aread()
                        raise error_in(response)
                    return response

        response: httpx.Response = await AsyncRetrying(**policy(call, self.retries, deadline))(attempt)
        async with contextlib.aclosing(response):
            yield response


class AsyncModel:
    """One model of a server: the methods and arguments of `Model`."""

    def __init__(self, client: AsyncClient, calls: ModelCalls) -> None:
        self._client = client
        self._calls = calls

    @property
    def name(self) -> str:
        """Its name."""
        return self._calls.name

    card = awaited(ModelCalls.card)
    examples = awaited(ModelCalls.examples)
    forecast = awaited(ModelCalls.forecast)
    influence = awaited(ModelCalls.influence)

    @overload
    async def predict(self, x: One, *, state: str | None = None, **options: Unpack[PredictOptions]) -> Result: ...

    @overload
    async def predict(
        self,
        x: Many,
        *,
        state: str | Sequence[str] | None = None,
        progress: Progress = False,
        **options: Unpack[PredictOptions],
    ) -> list[Result]: ...

    async def predict(
        self,
        x: One | Many,
        *,
        state: str | Sequence[str] | None = None,
        progress: Progress = False,
        **options: Unpack[PredictOptions],
    ) -> Result | list[Result]:
        """The model's answer to one sequence, or to each of a list of them: as `Model.predict`."""
        client, calls = self._client, self._calls
        if is_one(x):
            return await client.send(calls.predict_one(cast(One, x), cast(str | None, state), options))
        deadline = Deadline(client.timeout.within(options.get("timeout")).total)
        drafts = calls.predict_many(cast(Sequence[One], x), state, options, client.batching)
        with counted(progress, len(x)) as report:
            return await client.send_all(drafts, deadline, report)

    def session(
        self, *, ttl: float | None = None, state: str | None = None, keep: bool = False, timeout: Wait = None
    ) -> "Opening[AsyncSession]":
        """A new session: await it, or enter it, and it is deleted at the end unless `keep`. As `Model.session`."""
        return self._client._session(self._calls.create(state=state, ttl=ttl, timeout=timeout), keep)

    def stream(
        self,
        session: "str | AsyncSession | None" = None,
        *,
        returns: Returns = "final",
        decode: bool = True,
        top: int = 3,
        ttl: float | None = None,
        keep: bool = False,
    ) -> "AsyncStream":
        """A session over one open WebSocket: as `Model.stream`."""
        known = session._calls if isinstance(session, AsyncSession) else session
        frames = Frames(self._calls, known, StreamOptions(returns, decode, top, ttl))
        return AsyncStream(self._client, frames, keep or session is not None)

    @overload
    def generate(
        self,
        prompt: Prompt | None = None,
        *,
        stream: Literal[False] = False,
        **options: Unpack[GenerateOptions],
    ) -> Awaitable[Generation]: ...

    @overload
    def generate(
        self,
        prompt: Prompt | None = None,
        *,
        stream: Literal[True],
        **options: Unpack[GenerateOptions],
    ) -> "AsyncTokens": ...

    def generate(
        self, prompt: Prompt | None = None, *, stream: bool = False, **options: Unpack[GenerateOptions]
    ) -> "Awaitable[Generation] | AsyncTokens":
        """What the model writes on from a prompt, to await; or its tokens, to iterate over. As `Model.generate`."""
        if stream:
            return AsyncTokens(self._client, self._calls.generate_stream(prompt, options))
        return self._client.send(self._calls.generate_whole(prompt, options))

    def __repr__(self) -> str:
        return f"AsyncModel({self.name!r} of {self._client.url})"


class AsyncSession(SessionBase):
    """A running state that the server keeps. It is one sequence: one step at a time. As `Session`."""

    def __init__(self, client: AsyncClient, calls: SessionCalls, keep: bool) -> None:
        self._client = client
        self._calls = calls
        self.keep = keep

    step = awaited(SessionCalls.step)
    refresh = awaited(SessionCalls.refresh)
    state = awaited(SessionCalls.state)
    restore = awaited(SessionCalls.restore)
    delete = awaited(SessionCalls.delete)

    def fork(self, *, ttl: float | None = None, keep: bool = False) -> "Opening[AsyncSession]":
        """A session of its own that begins where this one stands: await it, or enter it."""
        return self._client._session(self._calls.forked(ttl=ttl), keep)

    async def __aenter__(self) -> "AsyncSession":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.keep:
            return
        with contextlib.suppress(*[ElmanError] if error else []):
            await self.delete()


class AsyncTokens:
    """The tokens of a generation, as they come: iterate once. As `Tokens`."""

    def __init__(self, client: AsyncClient, call: Call[None]) -> None:
        self._client = client
        self._call = call
        self._events = Events()
        self._tokens = self._read()

    @property
    def generation(self) -> Generation | None:
        """The whole answer; None until the last token came."""
        return self._events.generation

    async def _read(self) -> AsyncIterator[Token]:
        deadline = self._client.deadline(self._call)
        async with self._client.opened(self._call, deadline) as response:
            lines = response.aiter_lines()
            while (line := await self._next(lines, deadline)) is not None:
                token = self._events.read(line)
                if token is not None:
                    yield token
        self._events.end()

    async def _next(self, lines: AsyncIterator[str], deadline: Deadline) -> str | None:
        with translated(deadline, self._client.url):
            async with asyncio.timeout(deadline.remaining):
                return await anext(lines, None)

    def __aiter__(self) -> "AsyncTokens":
        return self

    async def __anext__(self) -> Token:
        return await anext(self._tokens)

    async def __aenter__(self) -> "AsyncTokens":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """End the generation; the server stops writing."""
        await self._tokens.aclose()  # type: ignore[attr-defined]


class AsyncStream:
    """A session over one open WebSocket, which connects again after a cut. As `Stream`."""

    def __init__(self, client: AsyncClient, frames: Frames, keep: bool) -> None:
        self._client = client
        self._frames = frames
        self.keep = keep
        self._socket: Any = None

    async def __aenter__(self) -> "AsyncStream":
        call = self._frames.call(None)
        deadline = self._client.deadline(call)
        await AsyncRetrying(**policy(call, self._client.retries, deadline))(self._connected, deadline)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()
        if not self.keep and self._frames.session is not None:
            with contextlib.suppress(*[ElmanError] if error else []):
                await self._client.send(self._frames.session.delete())

    @property
    def session(self) -> AsyncSession:
        """The session behind the stream."""
        return AsyncSession(self._client, self._frames.known, keep=True)

    @property
    def step_count(self) -> int:
        """Steps done."""
        return self._frames.known.step_count

    async def send(self, x: One, *, timeout: Wait = None) -> StepResult:
        """Go on with these steps, once, whatever becomes of the connection. Raises as `AsyncSession.step`."""
        call = self._frames.call(timeout)
        deadline = self._client.deadline(call)
        return await AsyncRetrying(**policy(call, self._client.retries, deadline))(self._exchange, x, call, deadline)

    async def close(self) -> None:
        """Close the connection. The session stays."""
        opened, self._socket = self._socket, None
        if opened is not None:
            await opened.close()

    async def _exchange(self, x: One, call: Call[None], deadline: Deadline) -> StepResult:
        opened, frame = await self._connected(deadline), self._frames.text(x)
        async with self._cutting(deadline):
            async with asyncio.timeout(self._client.timeout.within(call.timeout).silence(deadline.remaining)):
                await opened.send(frame)
                message = await opened.recv()
        return self._frames.answered(message)

    async def _connected(self, deadline: Deadline) -> Any:
        if self._socket is None:
            async with self._cutting(deadline), asyncio.timeout(deadline.remaining):
                opened = await websockets("asyncio.client").connect(
                    self._frames.url(self._client.url), **self._client.stream_options(deadline)
                )
                self._socket = opened
                self._frames.opened(await opened.recv())
        return self._socket

    @contextlib.asynccontextmanager
    async def _cutting(self, deadline: Deadline) -> AsyncIterator[None]:
        """Give the connection up at any failure, so that no late answer is taken for the next one's."""
        try:
            with stream_translated(deadline, self._client.url):
                yield
        except BaseException:
            opened, self._socket = self._socket, None
            if opened is not None:
                opened.transport.abort()
            raise
