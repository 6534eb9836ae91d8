"""Open streams of the asynchronous client: tokens of a generation, and a session over a WebSocket."""

import contextlib
from collections.abc import AsyncGenerator
from functools import partial
from types import TracebackType
from typing import Any, NoReturn, Self

from elman.client.aio.sender import AsyncSender, AsyncTurns
from elman.client.aio.session import AsyncSession, read_steps
from elman.client.aio.websocket import AsyncWebSocket
from elman.client.calls import Call
from elman.client.config import Timeout
from elman.client.deadline import Deadline
from elman.client.errors import ElmanError
from elman.client.inputs import Read, SequenceLike
from elman.client.results import Generation, StepResult, Token
from elman.client.streams import GenerationEvents, StreamProtocol


# No method: a generator that refers to its owner is collected late, together with all that it reads from.
async def _read_tokens(sender: AsyncSender, call: Call[None], events: GenerationEvents) -> AsyncGenerator[Token, None]:
    async with contextlib.aclosing(sender.lines(call)) as lines:
        async for line in lines:
            token = events.read(line)
            if token is not None:
                yield token
    events.end()


class AsyncTokens:
    """The tokens of a generation, as they are generated. They can be iterated once.

    After the last token, `generation` has the complete result. To stop earlier, leave the loop, or an `async with`
    block, or call `close`; the server then stops too.

    The iteration raises what `AsyncModel.generate` raises, and `Disconnected` if the connection breaks, since a
    generation is never started twice.

    >>> async with client.model("names-lstm-generator").generate("Mc", seed=7, stream=True) as tokens:
    ...     text = "".join([token.text async for token in tokens])
    >>> text == tokens.generation.text
    True
    """

    def __init__(self, sender: AsyncSender, call: Call[None]) -> None:
        self._events = GenerationEvents()
        self._tokens = _read_tokens(sender, call, self._events)

    def __reduce__(self) -> NoReturn:
        raise TypeError("tokens that are being read cannot be pickled; pickle `generation`, which they end with")

    @property
    def generation(self) -> Generation | None:
        """The complete result; None until the last token has come."""
        return self._events.generation

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Token:
        return await anext(self._tokens)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Stop the generation, here and on the server."""
        await self._tokens.aclose()


class AsyncStream:
    """A session over one open WebSocket, for many small steps in quick succession. Use it in an `async with` block.

    If the connection breaks it connects again and continues. Every step is done exactly once. Entering raises
    `UnknownModel`, `UnknownSession` or `Unable` (the model cannot run step by step). It can be pickled as its session
    can, and opens a connection of its own then.

    >>> import numpy as np
    >>> async with client.model("vowels-gru").stream() as stream:
    ...     for row in np.zeros((3, 12), np.float32):
    ...         result = await stream.send(row[None])
    >>> result.step
    3
    """

    def __init__(self, sender: AsyncSender, protocol: StreamProtocol, keep: bool) -> None:
        self._sender = sender
        self._protocol = protocol
        self._websocket = AsyncWebSocket(sender, protocol)
        self._keep = keep
        self._turns = AsyncTurns()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._sender, self._protocol, self._keep)

    async def __aenter__(self) -> Self:
        await self._sender.retry(self._protocol.call(None), self._websocket.connect)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()
        if not self._keep:
            with contextlib.suppress(*[ElmanError] if error else []):
                await self.session.delete()

    def __repr__(self) -> str:
        return f"AsyncStream({self._protocol!r})"

    @property
    def session(self) -> AsyncSession:
        """The session behind the stream. Raises RuntimeError before the stream was entered."""
        return AsyncSession(self._sender, self._protocol.known, keep=True)

    @property
    def step_count(self) -> int:
        """Steps done, as far as this client knows. Raises RuntimeError before the stream was entered."""
        return self._protocol.known.step_count

    async def send(self, x: SequenceLike | list[Any], *, timeout: Timeout | float | None = None) -> StepResult:
        """Run the next steps, exactly once. Several calls run in the order in which they were made.

        After `NoAnswer` call it again with the same steps.

        Args:
            x: the next steps, as `AsyncSession.step` takes them.
            timeout: seconds for the whole call, or a `Timeout`; None for the client's own.

        Raises:
            RequestError, StepConflict, StepReused, ModelChanged, UnknownSession: as `AsyncSession.step` does.
        """
        deadline = self._sender.deadline(timeout)
        async with self._turns.turn(deadline):
            steps = await read_steps(self._sender, self._protocol.model, x, deadline)
            call = self._protocol.call(timeout)
            return await self._sender.retry(call, partial(self._exchange, steps, call), deadline)

    async def _exchange(self, x: Read, call: Call[None], deadline: Deadline) -> StepResult:
        await self._websocket.connect(deadline)
        message = await self._websocket.exchange(self._protocol.request(x), call, deadline)
        return self._protocol.read_result(message, x)

    async def close(self) -> None:
        """Close the connection. The session stays."""
        await self._websocket.close()
