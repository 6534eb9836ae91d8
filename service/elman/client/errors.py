"""Every error of the client, with what the server said of it.

ElmanError
├── NoAnswer                no answer came that could be read
│   ├── NotConnected        the server was not reached: nothing happened there
│   ├── Disconnected        the connection was cut before the answer was whole
│   ├── TimedOut            the call's own time was over (a TimeoutError too)
│   └── BadAnswer           what came is no answer of Elman's
└── Refused                 the server answered with a problem
    ├── RequestError        400 406 408 413 415 422  what was sent is wrong
    │   ├── StepReused      422  the step was done already, with other content
    │   └── BadStateToken   422  a state token that is broken, expired or somebody else's
    ├── NotAllowed          401 403  no API key, an unknown one, or one that is not for this
    ├── NotFound            404 405  there is nothing there
    │   ├── UnknownModel    404
    │   └── UnknownSession  404  no such session, or no more, or another caller's
    ├── Conflict            409
    │   ├── StepConflict    409  the session is at another step, `expected`
    │   ├── ModelChanged    409  the session's model is not the one that is served now
    │   └── Unable          409  the model cannot do this: stream, generate or forecast
    ├── Busy                `retry_after` says when to try again
    │   ├── Quota           429  the caller holds as many sessions as it may
    │   └── Unavailable     502 503  overloaded, stopping, or the session store is away
    ├── DeadlineExceeded    504  the server gave up at the request's own timeout (a TimeoutError too)
    └── ServerFailed        500  the model or the server failed on this input
"""

from collections.abc import Iterator
from typing import Any, ClassVar


class ElmanError(Exception):
    """Base of all errors of the client.

    Attributes:
        code: a stable word to branch on, the server's where it answered.
        status: the HTTP status; None where no answer came.
        detail: one or two sentences for a person.
        where: the place in the request, such as `sequences[3][17][2]`; None where there is none.
        expected: what would have been accepted there; of a StepConflict the step that the session is at.
        retry_after: seconds after which to try again, where the server said so.
    """

    codes: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        detail: str,
        *,
        code: str | None = None,
        status: int | None = None,
        where: str | None = None,
        expected: Any = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.code = code or (self.codes[0] if self.codes else "unknown")
        self.status = status
        self.where = where
        self.expected = expected
        self.retry_after = retry_after

    def __str__(self) -> str:
        parts = [self.detail]
        if self.where is not None:
            parts.append(f"at {self.where}")
        if self.expected is not None:
            parts.append(f"expected: {self.expected}")
        return f"[{self.code}] " + "; ".join(parts)

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (type(self), self.detail, self.__dict__)


def _restore(kind: type[ElmanError], detail: str, attributes: dict[str, Any]) -> ElmanError:
    """An error out of a pickle."""
    error = kind(detail)
    error.__dict__.update(attributes)
    return error


class NoAnswer(ElmanError):
    """No answer came that could be read."""

    codes: ClassVar[tuple[str, ...]] = ("no_answer",)


class NotConnected(NoAnswer):
    """The server was not reached, so nothing happened there."""

    codes: ClassVar[tuple[str, ...]] = ("not_connected",)


class Disconnected(NoAnswer):
    """The connection was cut before the answer was whole: the server may have done what was asked, or not."""

    codes: ClassVar[tuple[str, ...]] = ("disconnected",)


class TimedOut(NoAnswer, TimeoutError):
    """The call's own time was over: the server may have done what was asked, or not."""

    codes: ClassVar[tuple[str, ...]] = ("timed_out",)


class BadAnswer(NoAnswer):
    """What came is no answer of Elman's: another server, or a proxy, answered."""

    codes: ClassVar[tuple[str, ...]] = ("bad_answer",)


class Refused(ElmanError):
    """The server answered with a problem; of this class itself where its code is not known here."""


class RequestError(Refused):
    """What was sent is wrong; sending it again changes nothing."""

    codes: ClassVar[tuple[str, ...]] = (
        "invalid_request",
        "invalid_json",
        "invalid_field",
        "invalid_model",
        "not_finite",
        "ragged_features",
        "wrong_features",
        "unknown_token",
        "empty_sequence",
        "too_long",
        "too_large",
        "body_timeout",
        "unsupported_media_type",
        "not_acceptable",
    )


class StepReused(RequestError):
    """The step was done already, with other content."""

    codes: ClassVar[tuple[str, ...]] = ("step_reused",)


class BadStateToken(RequestError):
    """A state token that is broken, expired, of another model, or somebody else's."""

    codes: ClassVar[tuple[str, ...]] = ("bad_state_token",)


class NotAllowed(Refused):
    """No API key, an unknown one, or one that is not for this."""

    codes: ClassVar[tuple[str, ...]] = ("unauthorized", "forbidden")


class NotFound(Refused):
    """There is nothing there."""

    codes: ClassVar[tuple[str, ...]] = ("unknown_route", "method_not_allowed")


class UnknownModel(NotFound):
    """No such model, or no such version."""

    codes: ClassVar[tuple[str, ...]] = ("unknown_model",)


class UnknownSession(NotFound):
    """No such session, or no more, or another caller's."""

    codes: ClassVar[tuple[str, ...]] = ("unknown_session",)


class Conflict(Refused):
    """What was asked does not go with what the server holds."""

    codes: ClassVar[tuple[str, ...]] = ("conflict",)


class StepConflict(Conflict):
    """The session is at another step, which is `expected`."""

    codes: ClassVar[tuple[str, ...]] = ("step_conflict",)


class ModelChanged(Conflict):
    """The session belongs to a model file that is served no more."""

    codes: ClassVar[tuple[str, ...]] = ("model_changed",)


class Unable(Conflict):
    """The model cannot do this; the detail says why."""

    codes: ClassVar[tuple[str, ...]] = ("not_streamable", "cannot_generate", "cannot_forecast")


class Busy(Refused):
    """Not now; `retry_after` says when to try again."""

    codes: ClassVar[tuple[str, ...]] = ("busy",)


class Quota(Busy):
    """The caller holds as many sessions, or as much state, as it may."""

    codes: ClassVar[tuple[str, ...]] = ("quota",)


class Unavailable(Busy):
    """The server is overloaded or stopping, or its session store is away. Nothing happened."""

    codes: ClassVar[tuple[str, ...]] = ("overloaded", "draining", "store_unavailable")


class DeadlineExceeded(Refused, TimeoutError):
    """The server gave the request up, since its own timeout was over."""

    codes: ClassVar[tuple[str, ...]] = ("deadline",)


class ServerFailed(Refused):
    """The model or the server failed on this input."""

    codes: ClassVar[tuple[str, ...]] = ("internal", "model_failed", "not_finite_output")


def _tree(base: type[ElmanError]) -> Iterator[type[ElmanError]]:
    yield base
    for kind in base.__subclasses__():
        yield from _tree(kind)


CLASSES: dict[str, type[ElmanError]] = {code: kind for kind in _tree(Refused) for code in kind.codes}
"""The class of each code that the server may answer with."""

_BY_STATUS: dict[int, type[ElmanError]] = {502: Unavailable, 503: Unavailable, 429: Busy}


def error_of(status: int, problem: object, text: str, retry_after: float | None = None) -> ElmanError:
    """The error that an answer stands for.

    Args:
        status: of the answer.
        problem: its body as JSON, or None; a problem where it is an object with a `code`.
        text: its body, for an answer that is no problem.
        retry_after: seconds, from its headers.
    """
    if not isinstance(problem, dict) or not isinstance(problem.get("code"), str):
        kind = _BY_STATUS.get(status, BadAnswer)
        detail = f"the answer has status {status} and is no problem of Elman's: {text[:200]}"
        return kind(detail, code=None if kind is BadAnswer else "busy", status=status, retry_after=retry_after)
    code = problem["code"]
    kind = CLASSES.get(code) or _BY_STATUS.get(status, Refused)
    return kind(
        str(problem.get("detail", code)),
        code=code,
        status=status,
        where=problem.get("where"),
        expected=problem.get("expected"),
        retry_after=retry_after,
    )
