"""The errors of the client.

ElmanError
├── NoAnswer                no response came that could be read
│   ├── NotConnected        the server was not reached, so it did nothing
│   ├── Disconnected        the connection broke before the response was complete
│   ├── TimedOut            the call took longer than its timeout (a TimeoutError too)
│   │   └── PoolTimeout     other calls of the client had all its connections for so long; it was not sent
│   └── BadAnswer           the response is not one of Elman's
└── Refused                 the server answered with an error
    ├── RequestError        400 406 408 413 415 422  the request is wrong
    │   ├── StepReused      422  the step was done before, with other content
    │   └── BadStateToken   422  a state token is broken, has expired, or is of another caller
    ├── NotAllowed          401 403  the API key is missing, unknown, or does not allow this
    ├── NotFound            404 405  there is no such thing
    │   ├── UnknownModel    404
    │   └── UnknownSession  404  there is no such session, it has expired, or it is of another caller
    ├── Conflict            409
    │   ├── StepConflict    409  the session is at another step, `expected`
    │   ├── ModelChanged    409  the model was replaced since the session began
    │   └── Unable          409  the model cannot stream, generate or forecast
    ├── Busy                `retry_after` says when to try again
    │   ├── Quota           429  the caller has as many sessions as it may have
    │   ├── RateLimited     429  the API key may not do so much in a second
    │   └── Unavailable     502 503  overloaded, stopping, model suspended, or no session store
    ├── DeadlineExceeded    504  the server stopped at the request's timeout (a TimeoutError too)
    └── ServerFailed        500  the model or the server failed on this input
"""

from collections.abc import Iterator
from typing import Any, ClassVar


class ElmanError(Exception):
    """The base of all errors of the client.

    Attributes:
        code: a stable word to branch on; the server's own if there was a response.
        status: the HTTP status; None if no response came.
        detail: one or two sentences for people.
        where: the place in the request, such as `sequences[3][17][2]`; None if the error has no place.
        expected: what would have been accepted there; for a StepConflict the step that the session is at.
        retry_after: seconds after which to try again; None if the server did not say.
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
    """Makes an error again when it is read from a pickle."""
    error = kind(detail)
    error.__dict__.update(attributes)
    return error


class NoAnswer(ElmanError):
    """No response came that could be read."""

    codes: ClassVar[tuple[str, ...]] = ("no_answer",)


class NotConnected(NoAnswer):
    """The server was not reached, so it did nothing."""

    codes: ClassVar[tuple[str, ...]] = ("not_connected",)


class Disconnected(NoAnswer):
    """The connection broke before the response was complete. The server may have done what was asked."""

    codes: ClassVar[tuple[str, ...]] = ("disconnected",)


class TimedOut(NoAnswer, TimeoutError):
    """The call took longer than its timeout. The server may have done what was asked."""

    codes: ClassVar[tuple[str, ...]] = ("timed_out",)


class PoolTimeout(TimedOut):
    """Other calls of the client had all its connections until the timeout of this call. It was not sent."""

    codes: ClassVar[tuple[str, ...]] = ("pool_timeout",)


class BadAnswer(NoAnswer):
    """The response is not one of Elman's: perhaps another server or a proxy answered."""

    codes: ClassVar[tuple[str, ...]] = ("bad_answer",)


class Refused(ElmanError):
    """The server answered with an error. A code that is not known here is raised as this class."""


class RequestError(Refused):
    """The request is wrong. Sending it again gives the same error."""

    codes: ClassVar[tuple[str, ...]] = (
        "invalid_request",
        "invalid_http",
        "head_too_large",
        "invalid_json",
        "invalid_field",
        "invalid_model",
        "not_finite",
        "ragged_features",
        "wrong_features",
        "wrong_length",
        "unknown_token",
        "empty_sequence",
        "too_long",
        "too_large",
        "body_timeout",
        "unsupported_media_type",
        "not_acceptable",
        "sequence_not_started",
    )


class StepReused(RequestError):
    """The step was done before, with other content."""

    codes: ClassVar[tuple[str, ...]] = ("step_reused",)


class BadStateToken(RequestError):
    """A state token is broken, has expired, or is of another model or caller."""

    codes: ClassVar[tuple[str, ...]] = ("bad_state_token",)


class NotAllowed(Refused):
    """The API key is missing, unknown, or does not allow this."""

    codes: ClassVar[tuple[str, ...]] = ("unauthorized", "forbidden")


class NotFound(Refused):
    """There is no such route, model or session."""

    codes: ClassVar[tuple[str, ...]] = ("unknown_route", "method_not_allowed")


class UnknownModel(NotFound):
    """There is no such model, or no such version of it."""

    codes: ClassVar[tuple[str, ...]] = ("unknown_model",)


class UnknownSession(NotFound):
    """There is no such session, it has expired, or it is of another caller."""

    codes: ClassVar[tuple[str, ...]] = ("unknown_session",)


class Conflict(Refused):
    """The request does not fit the state of the session or the model."""

    codes: ClassVar[tuple[str, ...]] = ("conflict",)


class StepConflict(Conflict):
    """The session is at another step, which `expected` names."""

    codes: ClassVar[tuple[str, ...]] = ("step_conflict",)


class ModelChanged(Conflict):
    """The session belongs to a model file that is no longer served."""

    codes: ClassVar[tuple[str, ...]] = ("model_changed",)


class Unable(Conflict):
    """The model, or one of several servers, cannot do this; `detail` has the reason."""

    codes: ClassVar[tuple[str, ...]] = ("not_streamable", "cannot_generate", "cannot_forecast", "not_by_request")


class Busy(Refused):
    """The server cannot do this now; `retry_after` says when to try again."""

    codes: ClassVar[tuple[str, ...]] = ("busy",)


class Quota(Busy):
    """The caller has as many sessions, or as much state, as it may have."""

    codes: ClassVar[tuple[str, ...]] = ("quota",)


class RateLimited(Busy):
    """The API key may not do so much in a second. The server did nothing."""

    codes: ClassVar[tuple[str, ...]] = ("rate_limited",)


class Unavailable(Busy):
    """The server is overloaded or stopping, has suspended the model, or lacks its session store.

    It did nothing, unless the code is `outcome_unknown`.
    """

    codes: ClassVar[tuple[str, ...]] = (
        "overloaded",
        "draining",
        "model_suspended",
        "model_loading",
        "store_unavailable",
        "outcome_unknown",
    )


class DeadlineExceeded(Refused, TimeoutError):
    """The server stopped, since the request took longer than its timeout."""

    codes: ClassVar[tuple[str, ...]] = ("deadline",)


class ServerFailed(Refused):
    """The model or the server failed on this input."""

    codes: ClassVar[tuple[str, ...]] = ("internal", "model_failed", "not_finite_output")


def _tree(base: type[ElmanError]) -> Iterator[type[ElmanError]]:
    yield base
    for kind in base.__subclasses__():
        yield from _tree(kind)


CLASSES: dict[str, type[ElmanError]] = {code: kind for kind in _tree(Refused) for code in kind.codes}
"""The class for each code that the server may answer with."""

_BY_STATUS: dict[int, type[ElmanError]] = {502: Unavailable, 503: Unavailable, 429: Busy}


def error_of(status: int, problem: object, text: str, retry_after: float | None = None) -> ElmanError:
    """The error that a response describes.

    Args:
        status: of the response.
        problem: its body as JSON, or None. It describes an error of Elman's if it is an object with a `code`.
        text: its body, which is quoted if it is not an error of Elman's.
        retry_after: seconds, from its headers.
    """
    if not isinstance(problem, dict) or not isinstance(problem.get("code"), str):
        kind = _BY_STATUS.get(status, BadAnswer)
        detail = f"the response has status {status} and is not one of Elman's: {text[:200]}"
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
