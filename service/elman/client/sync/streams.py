# Generated from aio/streams.py by `python -m tests.client.unasync`. Change that file, not this one.
"""Open streams of the blocking client: tokens of a generation, and a session over a WebSocket."""

import contextlib
from collections.abc import Generator
from functools import partial
from types import TracebackType
from typing import Any, NoReturn, Self

from elman.client.calls import Call
from elman.client.config import Timeout
from elman.client.deadline import Deadline
from elman.client.errors import ElmanError
from elman.client.inputs import Read, SequenceLike
from elman.client.results import Generation, StepResult, Token
from elman.client.streams import GenerationEvents, StreamProtocol
from elman.client.sync.sender import Sender, Turns
from elman.client.sync.session import Session, read_steps
from elman.client.sync.websocket import WebSocket


# No method: a generator that refers to its owner is collected late, together with all that it reads from.
def _read_tokens(sender: Sender, call: Call[None], events: GenerationEvents) -> Generator[Token, None, None]:
    with contextlib.closing(sender.lines(call)) as lines:
        for line in lines:
            token = events.read(line)
            if token is not None:
                yield token
    events.end()


class Tokens:
    """The tokens of a generation, as they are generated. They can be iterated once.

    After the last token, `generation` has the complete result. To stop earlier, leave the loop, or a `with`
    block, or call `close`; the server then stops too.

    The iteration raises what `Model.generate` raises, and `Disconnected` if the connection breaks, since a
    generation is never started twice.

    >>> with client.model("names-lstm-generator").generate("Mc", seed=7, stream=True) as tokens:
    ...     text = "".join([token.text for token in tokens])
    >>> text == tokens.generation.text
    True
    """

    def __init__(self, sender: Sender, call: Call[None]) -> None:
        self._events = GenerationEvents()
        self._tokens = _read_tokens(sender, call, self._events)

    def __reduce__(self) -> NoReturn:
        raise TypeError("tokens that are being read cannot be pickled; pickle `generation`, which they end with")

    @property
    def generation(self) -> Generation | None:
        """The complete result; None until the last token has come."""
        return self._events.generation

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Token:
        return next(self._tokens)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop the generation, here and on the server."""
        self._tokens.close()


class Stream:
    """A session over one open WebSocket, for many small steps in quick succession. Use it in a `with` block.

    If the connection breaks it connects again and continues. Every step is done exactly once. Entering raises
    `UnknownModel`, `UnknownSession` or `Unable` (the model cannot run step by step). It can be pickled as its session
    can, and opens a connection of its own then.

    >>> import numpy as np
    >>> with client.model("vowels-gru").stream() as stream:
    ...     for row in np.zeros((3, 12), np.float32):
    ...         result = stream.send(row[None])
    >>> result.step
    3
    """

    def __init__(self, sender: Sender, protocol: StreamProtocol, keep: bool) -> None:
        self._sender = sender
        self._protocol = protocol
        self._websocket = WebSocket(sender, protocol)
        self._keep = keep
        self._turns = Turns()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._sender, self._protocol, self._keep)

    def __enter__(self) -> Self:
        self._sender.retry(self._protocol.call(None), self._websocket.connect)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
        if not self._keep:
            with contextlib.suppress(*[ElmanError] if error else []):
                self.session.delete()

    def __repr__(self) -> str:
        return f"Stream({self._protocol!r})"

    @property
    def session(self) -> Session:
        """The session behind the stream. Raises RuntimeError before the stream was entered."""
        return Session(self._sender, self._protocol.known, keep=True)

    @property
    def step_count(self) -> int:
        """Steps done, as far as this client knows. Raises RuntimeError before the stream was entered."""
        return self._protocol.known.step_count

    def send(self, x: SequenceLike | list[Any], *, timeout: Timeout | float | None = None) -> StepResult:
        """Run the next steps, exactly once. Several calls run in the order in which they were made.

        After `NoAnswer` call it again with the same steps.

        Args:
            x: the next steps, as `Session.step` takes them.
            timeout: seconds for the whole call, or a `Timeout`; None for the client's own.

        Raises:
            RequestError, StepConflict, StepReused, ModelChanged, UnknownSession: as `Session.step` does.
        """
        deadline = self._sender.deadline(timeout)
        with self._turns.turn(deadline):
            steps = read_steps(self._sender, self._protocol.model, x, deadline)
            call = self._protocol.call(timeout)
            return self._sender.retry(call, partial(self._exchange, steps, call), deadline)

    def _exchange(self, x: Read, call: Call[None], deadline: Deadline) -> StepResult:
        self._websocket.connect(deadline)
        message = self._websocket.exchange(self._protocol.request(x), call, deadline)
        return self._protocol.read_result(message, x)

    def close(self) -> None:
        """Close the connection. The session stays."""
        self._websocket.close()
