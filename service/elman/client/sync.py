"""The blocking client: it sends what `calls` makes, and waits."""

import contextlib
import functools
import inspect
import socket
import ssl
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from types import TracebackType
from typing import Any, Concatenate, Literal, ParamSpec, Protocol, TypeVar, Unpack, cast, get_args, overload

import httpx
from tenacity import Retrying

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
from elman.client.deadline import Deadline, DeadlineTransport
from elman.client.errors import ElmanError, TimedOut
from elman.client.progress import Progress, counted
from elman.client.results import Generation, Result, StepResult, Token
from elman.client.retrying import policy, translated
from elman.client.streams import Events, Frames, StreamOptions, stream_translated, websockets
from elman.client.wire import Many, One, Prompt, error_in, is_one

T = TypeVar("T")
P = ParamSpec("P")


class _Sends(Protocol):
    _client: "Client"


def sent(build: Callable[Concatenate[Any, P], Call[T]]) -> Callable[Concatenate[_Sends, P], T]:
    """The method that sends the call that `build` makes, and returns its value."""

    @functools.wraps(build)
    def method(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> T:
        client: Client = self._client
        return client.send(build(self._calls, *args, **kwargs))

    value = get_args(inspect.signature(build).return_annotation)
    method.__signature__ = inspect.signature(build).replace(return_annotation=value[0])  # type: ignore[attr-defined]
    return method


class Client(ClientBase):
    """A server of recurrent networks, for code that waits. Safe to share between threads.

    >>> from elman.client import Client
    >>> with Client("http://localhost:8000") as elman:
    ...     elman.model("names-gru").predict("Lindqvist").label
    'Swedish'

    Args:
        url: where the server is, with its path prefix if it has one.
        api_key: sent as a bearer token, where the server wants keys.
        timeout: how long each call may take: seconds in all, or a Timeout.
        retries: how calls are tried again; `Retries(attempts=1)` for never.
        batching: how long lists of sequences are cut into requests.
        verify: the TLS context to trust servers by, where not the usual one.
        transport: sends in the place of the client's own; a total timeout is then held between reads only.
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
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        super().__init__(url, api_key, timeout, retries, batching, verify)
        self._client = self
        self._calls = ServerCalls()
        sender = transport or DeadlineTransport(self.tls)
        self._http = httpx.Client(headers=self.headers, transport=sender, trust_env=False)

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections. Sessions stay."""
        self._http.close()

    models = sent(ServerCalls.models)
    refused = sent(ServerCalls.refused)
    sessions = sent(ServerCalls.sessions)
    load = sent(ServerCalls.load)
    unload = sent(ServerCalls.unload)
    index = sent(ServerCalls.index)
    live = sent(ServerCalls.live)
    ready = sent(ServerCalls.ready)
    metrics = sent(ServerCalls.metrics)
    engine = sent(ServerCalls.engine)
    openapi = sent(ServerCalls.openapi)

    def model(self, name: str, version: int | None = None) -> "Model":
        """A model of the server, at its highest version if none is given. Asks nothing yet."""
        return Model(self, self.calls_of(name, version))

    def session(self, id: str, *, keep: bool = True) -> "Session":
        """The session of an id, to go on with. As a context manager it deletes it at the end unless `keep`."""
        return Session(self, self.send(self._calls.find(id)), keep)

    def send(self, call: Call[T], deadline: Deadline | None = None) -> T:
        """Send a call, again where that is safe, until its deadline. Raises ElmanError."""
        deadline = deadline or self.deadline(call)
        value: T = Retrying(**policy(call, self.retries, deadline))(self._attempt, call, deadline)
        return value

    def _attempt(self, call: Call[T], deadline: Deadline) -> T:
        with deadline.held(), translated(deadline, self.url):
            response = self._http.send(self.request(self._http, call, deadline))
        return call.answer(response)

    def send_all(self, drafts: Sequence[Draft[list[T]]], deadline: Deadline, report: Callable[[int], None]) -> list[T]:
        """Write and send calls side by side; their values in order. The first error ends it all."""

        def send(draft: Draft[list[T]]) -> list[T]:
            return self.send(self.written(draft, deadline), deadline)

        with ThreadPoolExecutor(min(self.batching.concurrency, len(drafts)), "elman") as pool:
            futures = [pool.submit(send, draft) for draft in drafts]
            try:
                for future in as_completed(futures):
                    report(len(future.result()))
                return [value for future in futures for value in future.result()]
            finally:
                for future in futures:
                    future.cancel()

    @contextlib.contextmanager
    def opened(self, call: Call[None], deadline: Deadline) -> Iterator[httpx.Response]:
        """The answer to a call while it is still arriving."""

        def attempt() -> httpx.Response:
            with deadline.held(), translated(deadline, self.url):
                response = self._http.send(self.request(self._http, call, deadline), stream=True)
                if not response.is_success:
                    response.read()
                    raise error_in(response)
                return response

        response = Retrying(**policy(call, self.retries, deadline))(attempt)
        with contextlib.closing(response):
            yield response


class Model:
    """One model of a server."""

    def __init__(self, client: Client, calls: ModelCalls) -> None:
        self._client = client
        self._calls = calls

    @property
    def name(self) -> str:
        """Its name."""
        return self._calls.name

    card = sent(ModelCalls.card)
    examples = sent(ModelCalls.examples)
    forecast = sent(ModelCalls.forecast)
    influence = sent(ModelCalls.influence)

    @overload
    def predict(self, x: One, *, state: str | None = None, **options: Unpack[PredictOptions]) -> Result: ...

    @overload
    def predict(
        self,
        x: Many,
        *,
        state: str | Sequence[str] | None = None,
        progress: Progress = False,
        **options: Unpack[PredictOptions],
    ) -> list[Result]: ...

    def predict(
        self,
        x: One | Many,
        *,
        state: str | Sequence[str] | None = None,
        progress: Progress = False,
        **options: Unpack[PredictOptions],
    ) -> Result | list[Result]:
        """The model's answer to one sequence, or to each of a list of them, of any lengths.

        >>> import numpy as np
        >>> result = elman.model("vowels-gru").predict(np.zeros((7, 12), np.float32))
        >>> result.output.shape, result.length
        ((9,), 7)
        >>> [result.label for result in elman.model("names-gru").predict(["Lindqvist", "Rossi"])]
        ['Swedish', 'Italian']

        Args:
            x: `(time, features)` of floats, `(time,)` of token ids or of a signal, text where the model has a
                vocabulary; or a list of such, which is cut into requests sent side by side.
            returns: `final` for the last output only, `steps` for the output after every step.
            decode: whether to decode outputs into labels, values or tokens. Without it, the answer to one array
                travels as bytes too.
            top: how many labels to list with their probability.
            state: a state token to go on from, or one for each of a list.
            return_state: whether to return the state after the last step as a token.
            hidden: whether to return the state tensors after every step.
            timeout: seconds in all, or a Timeout; the server is told, and gives up then too.
            progress: whether to draw a progress bar over a list, or what to call with (done, total).

        Raises:
            RequestError: the sequence is wrong; `where` says at which number.
            UnknownModel, Unavailable, DeadlineExceeded, ServerFailed, NoAnswer.
        """
        client, calls = self._client, self._calls
        if is_one(x):
            return client.send(calls.predict_one(cast(One, x), cast(str | None, state), options))
        deadline = Deadline(client.timeout.within(options.get("timeout")).total)
        drafts = calls.predict_many(cast(Sequence[One], x), state, options, client.batching)
        with counted(progress, len(x)) as report:
            return client.send_all(drafts, deadline, report) if drafts else []

    def session(
        self, *, ttl: float | None = None, state: str | None = None, keep: bool = False, timeout: Wait = None
    ) -> "Session":
        """A new session: the server keeps the state between the steps. Deleted at the end of its `with` unless `keep`.

        Args:
            ttl: seconds that it lives after its last step; the server's own where not given.
            state: a state token to begin from.
        """
        return Session(self._client, self._client.send(self._calls.create(state=state, ttl=ttl, timeout=timeout)), keep)

    def stream(
        self,
        session: "str | Session | None" = None,
        *,
        returns: Returns = "final",
        decode: bool = True,
        top: int = 3,
        ttl: float | None = None,
        keep: bool = False,
    ) -> "Stream":
        """A session over one open WebSocket, for many small steps in quick succession.

        A new session is deleted at the end unless `keep`; one that is given stays.
        """
        known = session._calls if isinstance(session, Session) else session
        frames = Frames(self._calls, known, StreamOptions(returns, decode, top, ttl))
        return Stream(self._client, frames, keep or session is not None)

    @overload
    def generate(
        self,
        prompt: Prompt | None = None,
        *,
        stream: Literal[False] = False,
        **options: Unpack[GenerateOptions],
    ) -> Generation: ...

    @overload
    def generate(
        self,
        prompt: Prompt | None = None,
        *,
        stream: Literal[True],
        **options: Unpack[GenerateOptions],
    ) -> "Tokens": ...

    def generate(
        self, prompt: Prompt | None = None, *, stream: bool = False, **options: Unpack[GenerateOptions]
    ) -> "Generation | Tokens":
        """What the model writes on from a prompt. The same seed and request give the same again.

        Args:
            prompt: text or token ids; nothing for the model's own beginning.
            stream: whether to return the tokens one by one, as they come.
            condition: one of the card's conditions, to begin under.
            max_steps: most tokens to write (100).
            temperature: 0 for the most likely token always; higher than 1 is wilder.
            top_k, top_p: only from the k likeliest tokens, or from the likeliest that hold p of the probability.
            seed: reproduces what was written; drawn by the server where not given, and on its answer.
            samples: how many to write.
            stop: texts to stop at.
            session, state: goes on from this session (or its id), or from this state token.
            return_state: whether to return the state at the end of each as a token.

        Raises:
            Unable: the model cannot write on (`cannot_generate`), and why.
        """
        if stream:
            return Tokens(self._client, self._calls.generate_stream(prompt, options))
        return self._client.send(self._calls.generate_whole(prompt, options))

    def __repr__(self) -> str:
        return f"Model({self.name!r} of {self._client.url})"


class Session(SessionBase):
    """A running state that the server keeps. It is one sequence: use it from one thread at a time.

    >>> import numpy as np
    >>> with elman.model("vowels-gru").session(ttl=600) as session:
    ...     answer = session.step(np.zeros((3, 12), np.float32))
    ...     session.step_count
    3
    """

    def __init__(self, client: Client, calls: SessionCalls, keep: bool) -> None:
        self._client = client
        self._calls = calls
        self.keep = keep

    step = sent(SessionCalls.step)
    refresh = sent(SessionCalls.refresh)
    state = sent(SessionCalls.state)
    restore = sent(SessionCalls.restore)
    delete = sent(SessionCalls.delete)

    def fork(self, *, ttl: float | None = None, keep: bool = False) -> "Session":
        """A session of its own that begins where this one stands."""
        return Session(self._client, self._client.send(self._calls.forked(ttl=ttl)), keep)

    def __enter__(self) -> "Session":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.keep:
            return
        # Nobody waits long for this after a failure: the session's time is over by itself.
        with contextlib.suppress(*[ElmanError] if error else []):
            self.delete()


class Tokens:
    """The tokens of a generation, as they come: iterate once.

    `generation` is the whole of it, once the last token came. Leaving the `with`, or `close`, ends it early.
    """

    def __init__(self, client: Client, call: Call[None]) -> None:
        self._client = client
        self._call = call
        self._events = Events()
        self._tokens = self._read()

    @property
    def generation(self) -> Generation | None:
        """The whole answer; None until the last token came."""
        return self._events.generation

    def _read(self) -> Iterator[Token]:
        deadline = self._client.deadline(self._call)
        with self._client.opened(self._call, deadline) as response:
            lines = response.iter_lines()
            while (line := self._next(lines, deadline)) is not None:
                token = self._events.read(line)
                if token is not None:
                    yield token
        self._events.end()

    def _next(self, lines: Iterator[str], deadline: Deadline) -> str | None:
        if not deadline.remaining:
            raise TimedOut(f"the generation took longer than {deadline.total:g} s")
        with deadline.held(), translated(deadline, self._client.url):
            return next(lines, None)

    def __iter__(self) -> "Tokens":
        return self

    def __next__(self) -> Token:
        return next(self._tokens)

    def __enter__(self) -> "Tokens":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the generation; the server stops writing."""
        self._tokens.close()  # type: ignore[attr-defined]


class Stream:
    """A session over one open WebSocket. After a cut it connects again and goes on, each step done once."""

    def __init__(self, client: Client, frames: Frames, keep: bool) -> None:
        self._client = client
        self._frames = frames
        self.keep = keep
        self._socket: Any = None
        self._open = contextlib.ExitStack()

    def __enter__(self) -> "Stream":
        call = self._frames.call(None)
        deadline = self._client.deadline(call)
        Retrying(**policy(call, self._client.retries, deadline))(self._connected, deadline)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
        if not self.keep and self._frames.session is not None:
            with contextlib.suppress(*[ElmanError] if error else []):
                self._client.send(self._frames.session.delete())

    @property
    def session(self) -> Session:
        """The session behind the stream."""
        return Session(self._client, self._frames.known, keep=True)

    @property
    def step_count(self) -> int:
        """Steps done."""
        return self._frames.known.step_count

    def send(self, x: One, *, timeout: Wait = None) -> StepResult:
        """Go on with these steps, once, whatever becomes of the connection. Raises as `Session.step`."""
        call = self._frames.call(timeout)
        deadline = self._client.deadline(call)
        return Retrying(**policy(call, self._client.retries, deadline))(self._exchange, x, call, deadline)

    def close(self) -> None:
        """Close the connection. The session stays."""
        self._socket = None
        self._open.close()

    def _exchange(self, x: One, call: Call[None], deadline: Deadline) -> StepResult:
        opened, frame = self._connected(deadline), self._frames.text(x)
        with self._cutting(deadline):
            opened.send(frame)
            silence = self._client.timeout.within(call.timeout).silence(deadline.remaining)
            message = opened.recv(timeout=silence)
        return self._frames.answered(message)

    def _connected(self, deadline: Deadline) -> Any:
        if self._socket is None:
            with self._cutting(deadline):
                opening = websockets("sync.client").connect(
                    self._frames.url(self._client.url), **self._client.stream_options(deadline)
                )
                self._socket = self._open.enter_context(opening)
                self._frames.opened(self._socket.recv(timeout=deadline.remaining))
        return self._socket

    def _drop(self) -> None:
        """Cut the connection, without the time that an orderly end takes."""
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.socket.shutdown(socket.SHUT_RDWR)
        self.close()

    @contextlib.contextmanager
    def _cutting(self, deadline: Deadline) -> Iterator[None]:
        """Give the connection up at any failure, so that no late answer is taken for the next one's."""
        try:
            with stream_translated(deadline, self._client.url):
                yield
        except BaseException:
            self._drop()
            raise
