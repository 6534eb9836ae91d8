# Generated from aio/session.py by `python -m tests.client.unasync`. Change that file, not this one.
"""A session of the blocking client."""

import contextlib
from collections.abc import Callable, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar

from elman.client.calls import Call, ModelCalls, Returns, SessionCalls, StepOptions
from elman.client.config import Timeout
from elman.client.deadline import Deadline
from elman.client.errors import ElmanError
from elman.client.inputs import Read, SequenceLike, listed, needs_card, read_input, read_one
from elman.client.results import SessionInfo, StepResult
from elman.client.sync.sender import Sender, Turns

T = TypeVar("T")


class Session:
    """The running state of one sequence, which the server keeps between steps.

    `Model.session` makes one, `Client.session` finds one again. In a `with` block it is deleted at the
    end, unless it was opened with `keep=True`. Its calls run one at a time, in the order in which they were made. It
    can be pickled: it is its id, the step that it is at, and the settings of its client.

    >>> import numpy as np
    >>> with client.model("vowels-gru").session(ttl=600) as session:
    ...     result = session.step(np.zeros((3, 12), np.float32))
    >>> result.output.shape, session.step_count
    ((9,), 3)
    """

    def __init__(self, sender: Sender, calls: SessionCalls, keep: bool) -> None:
        self._sender = sender
        self._calls = calls
        self._keep = keep
        self._turns = Turns()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._sender, self._calls, self._keep)

    def _in_turn(self, make: Callable[[], Call[T]]) -> T:
        """Send a call once those before it are done: only then is the step known that it begins at."""
        deadline = self._sender.deadline(None)
        with self._turns.turn(deadline):
            return self._sender.send(make(), deadline)

    @property
    def id(self) -> str:
        """Its id, with which `Client.session` finds it again."""
        return self._calls.info.id

    @property
    def model(self) -> str:
        """The name of its model."""
        return self._calls.info.model

    @property
    def version(self) -> int:
        """The version of its model."""
        return self._calls.info.version

    @property
    def step_count(self) -> int:
        """Steps done, as far as this client knows; for a model of a signal, samples received."""
        return self._calls.step_count

    @property
    def info(self) -> SessionInfo:
        """The session as the server last described it: when it was opened, or by `refresh` or `restore`."""
        return self._calls.info

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._keep:
            return
        # An error in the block is not replaced by one of the deletion; the session then expires by itself.
        with contextlib.suppress(*[ElmanError] if error else []):
            self.delete()

    def __repr__(self) -> str:
        return f"Session({self.id!r}, model={self.model!r}, step_count={self.step_count})"

    def step(
        self,
        x: SequenceLike | list[Any],
        *,
        returns: Returns = "final",
        decode: bool = True,
        top: int = 3,
        heads: Sequence[str] | None = None,
        timeout: Timeout | float | None = None,
    ) -> StepResult:
        """Run the next steps. They are done exactly once, even if the connection breaks and the request is repeated.

        After `NoAnswer` call it again with the same steps: if they had been done, their result is returned again.

        Args:
            x: the next steps: float `(time, features)`, integer `(time,)` of token ids, `(time,)` of a signal, or text.
                An array may be of another library than NumPy, a data frame, or a list. If the model has several
                sequence inputs, a mapping from the name of each to its values.
            returns: `final` for the output after the last step, `steps` for the output after each step.
            decode: whether to decode outputs into labels, values or tokens.
            top: how many labels to list, 1 to 1000.
            heads: the names of further outputs to return, as on the model's card.
            timeout: seconds for the whole call, or a `Timeout`; None for the client's own.

        Raises:
            RequestError: the steps are wrong; `where` names the place. Nothing was done.
            StepConflict: another client has moved the session on; call `refresh` to continue from its step.
            StepReused: other steps than these were done from here.
            ModelChanged: the model was replaced since the session began.
            UnknownSession: it was deleted, or it has expired.
        """
        options = StepOptions(returns=returns, decode=decode, top=top, heads=heads, timeout=timeout)
        deadline = self._sender.deadline(timeout)
        with self._turns.turn(deadline):
            steps = read_steps(self._sender, ModelCalls(self.model, self.version), x, deadline)
            return self._sender.send(self._calls.step(steps, options), deadline)

    def refresh(self) -> SessionInfo:
        """Ask the server for the session, and continue from its step. Raises UnknownSession."""
        return self._in_turn(self._calls.refresh)

    def state(self) -> str:
        """The state as a token, which any server with the same model and the same secret accepts.

        Raises UnknownSession.
        """
        return self._in_turn(self._calls.state)

    def restore(self, token: str) -> SessionInfo:
        """Put the session into the state of a token: its own earlier state, or that of another session.

        Raises:
            BadStateToken: the token is broken, has expired, or is of another model.
            UnknownSession: it was deleted, or it has expired.
        """
        return self._in_turn(partial(self._calls.restore, token))

    def fork(self, *, ttl: float | None = None, keep: bool = False) -> "Session":
        """A new session that begins with the state of this one.

        Args:
            ttl: seconds from its last step until it expires; None for the server's own.
            keep: whether the new session stays after a `with` block. If False, it is deleted there.

        Raises:
            UnknownSession: this session was deleted, or it has expired.
            Quota: there are as many sessions as this API key may have.
        """
        return self._forked(ttl, keep)

    def _forked(self, ttl: float | None, keep: bool) -> "Session":
        return Session(self._sender, self._in_turn(partial(self._calls.fork, ttl)), keep)

    def delete(self) -> None:
        """Delete the session. It is no error if it is gone already."""
        self._sender.send(self._calls.delete())


def read_steps(sender: Sender, model: ModelCalls, x: object, deadline: Deadline) -> Read:
    """The steps of one sequence, as arrays of NumPy or text. Asks for the model's card if they need it."""
    x = listed(x)
    return read_one(x, (sender.send(model.card(), deadline)).input if needs_card(x) else None)


def read_sequences(sender: Sender, model: ModelCalls, x: object, deadline: Deadline) -> Read | list[Read]:
    """One sequence or a list of them, as arrays of NumPy or text. Asks for the model's card if they need it."""
    x = listed(x)
    return read_input(x, (sender.send(model.card(), deadline)).input if needs_card(x) else None)


def open_session(sender: Sender, call: Call[SessionCalls], keep: bool) -> Session:
    """The session that a call makes or finds."""
    return Session(sender, sender.send(call), keep)
