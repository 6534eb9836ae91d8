"""All errors that a caller can get: status, stable code and title.

ElmanError
├── RequestError               the request is wrong
│   ├── InvalidJSON            400  not JSON, or not the JSON that the route takes
│   ├── NotFinite              422  NaN, an infinity, or a number beyond float32
│   ├── WrongLength            422  another number of steps than the one that the model takes
│   ├── RaggedFeatures         422  rows of one sequence differ in length
│   ├── WrongFeatures          422  rows of the wrong length for this model
│   ├── UnknownToken           422  an id or character outside the vocabulary
│   ├── EmptySequence          422  no steps
│   ├── InvalidField           422  a field of the wrong type or value
│   ├── TooLong                413  more steps than the server takes
│   ├── TooLarge               413  more bytes than the server takes
│   ├── HeadTooLarge           431  more bytes or header fields than a head may have
│   ├── InvalidHTTP            400  not HTTP/1.1
│   ├── BodyTimeout            408  a body that stopped arriving
│   ├── SequenceNotStarted     400  a request that goes on with a sequence which nobody began, or which has ended
│   ├── StepReused             422  the step was done already, with other content
│   ├── BadStateToken          422  a state token that is broken, expired, or of another caller
│   ├── UnsupportedMediaType   415
│   └── NotAcceptable          406
├── Unauthorized               401  no API key, or an unknown one
├── Forbidden                  403  the key does not have the role, or a web page may not call
├── UnknownModel               404
├── InvalidModel               422  the model that a request wanted to load is refused
├── UnknownRoute               404
├── MethodNotAllowed           405
├── UnknownSession             404  no such session, or expired, or of another caller
├── NotStreamable              409  the model has no running state
├── CannotGenerate             409  the model cannot generate tokens
├── CannotForecast             409  the model cannot take its own output as input
├── StepConflict               409  the session is at another step
├── NotByRequest               409  one of several servers would load or unload the model
├── ModelChanged               409  the session's model file is not the one that is served now
├── Quota                      429  the caller has too many sessions: Retry-After
├── RateLimited                429  the caller's key may not do so much in a second: Retry-After
├── StoreUnavailable           503  the session store does not work; requests without sessions do
│   └── OutcomeUnknown         503  its answer was lost: what was asked of it may have happened
├── Overloaded                 503  the queue is full: Retry-After
├── ModelLoading               503  the model with which a session started may be in the folder: Retry-After
├── Draining                   503  the server is stopping
├── DeadlineExceeded           504
├── ModelFailed                500  the model itself failed on this input
├── NotFiniteOutput            500  the model answered NaN or an infinity
└── Internal                   500
ModelRefused                        a file that cannot be served, and the remedy
└── SpecRefused                     its spec does not fit it
"""

from collections.abc import Mapping
from typing import Any, ClassVar

_MAX_DETAIL = 2_000


class ElmanError(Exception):
    """Base of the errors that reach a caller.

    `detail` is one or two sentences for a person. `where` is the place in the request, such as
    `sequences[3][17][2]`. `expected` is what would have been accepted there.
    """

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal"
    title: ClassVar[str] = "Internal error"

    def __init__(
        self,
        detail: str,
        *,
        where: str | None = None,
        expected: object = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.where = where
        self.expected = expected
        self.retry_after = retry_after

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (type(self), self.detail, self.__dict__)

    @property
    def headers(self) -> Mapping[str, str]:
        """Response headers that belong to this error."""
        return {} if self.retry_after is None else {"retry-after": str(self.retry_after)}

    def problem(self) -> dict[str, Any]:
        """The `application/problem+json` body (RFC 9457), with `error` for Open Inference Protocol clients.

        A detail is cut to 2,000 characters, so that no text of a client or of a model makes it long.
        """
        detail = self.detail if len(self.detail) <= _MAX_DETAIL else self.detail[:_MAX_DETAIL] + "..."
        body: dict[str, Any] = {
            "type": f"urn:elman:error:{self.code}",
            "title": self.title,
            "status": self.status,
            "detail": detail,
            "code": self.code,
            "error": detail,
        }
        if self.where is not None:
            body["where"] = self.where
        if self.expected is not None:
            body["expected"] = self.expected
        return body


def _restore(kind: type[ElmanError], detail: str, attributes: dict[str, Any]) -> ElmanError:
    """Unpickle an error. The constructor is not called, as its arguments differ by class."""
    error = kind.__new__(kind, detail)
    error.args = (detail,)
    error.__dict__.update(attributes)
    return error


class RequestError(ElmanError):
    """The request is wrong. Sending it again changes nothing."""

    status = 422
    code = "invalid_request"
    title = "Invalid request"


class InvalidJSON(RequestError):
    status = 400
    code = "invalid_json"
    title = "Invalid JSON"


class NotFinite(RequestError):
    code = "not_finite"
    title = "Number is not finite"


class WrongLength(RequestError):
    code = "wrong_length"
    title = "Wrong number of steps"


class RaggedFeatures(RequestError):
    code = "ragged_features"
    title = "Steps differ in their number of features"


class WrongFeatures(RequestError):
    code = "wrong_features"
    title = "Wrong number of features"


class UnknownToken(RequestError):
    code = "unknown_token"
    title = "Token outside the vocabulary"


class EmptySequence(RequestError):
    code = "empty_sequence"
    title = "Sequence has no steps"


class InvalidField(RequestError):
    code = "invalid_field"
    title = "Field has a wrong type or value"


class TooLong(RequestError):
    status = 413
    code = "too_long"
    title = "Sequence is too long"


class InvalidHTTP(RequestError):
    status = 400
    code = "invalid_http"
    title = "Invalid HTTP request"


class HeadTooLarge(RequestError):
    status = 431
    code = "head_too_large"
    title = "Head of the request is too large"


class BodyTimeout(RequestError):
    status = 408
    code = "body_timeout"
    title = "The body did not arrive in time"


class TooLarge(RequestError):
    status = 413
    code = "too_large"
    title = "Request body is too large"


class SequenceNotStarted(RequestError):
    status = 400
    code = "sequence_not_started"
    title = "Sequence was not started"


class StepReused(RequestError):
    code = "step_reused"
    title = "Step was done with other content"


class BadStateToken(RequestError):
    code = "bad_state_token"
    title = "State token cannot be used"


class UnsupportedMediaType(RequestError):
    status = 415
    code = "unsupported_media_type"
    title = "Unsupported media type"


class NotAcceptable(RequestError):
    status = 406
    code = "not_acceptable"
    title = "No acceptable representation"


class Unauthorized(ElmanError):
    status = 401
    code = "unauthorized"
    title = "No valid API key"

    @property
    def headers(self) -> Mapping[str, str]:
        return {"www-authenticate": "Bearer"}


class Forbidden(ElmanError):
    status = 403
    code = "forbidden"
    title = "Not allowed"


class UnknownModel(ElmanError):
    status = 404
    code = "unknown_model"
    title = "Unknown model"


class UnknownRoute(ElmanError):
    status = 404
    code = "unknown_route"
    title = "Unknown route"


class MethodNotAllowed(ElmanError):
    status = 405
    code = "method_not_allowed"
    title = "Method not allowed"

    def __init__(self, detail: str, *, allow: str) -> None:
        super().__init__(detail)
        self.allow = allow

    @property
    def headers(self) -> Mapping[str, str]:
        return {"allow": self.allow}


class InvalidModel(ElmanError):
    status = 422
    code = "invalid_model"
    title = "Model cannot be served"


class NotStreamable(ElmanError):
    status = 409
    code = "not_streamable"
    title = "Model has no running state"


class UnknownSession(ElmanError):
    status = 404
    code = "unknown_session"
    title = "Unknown session"


class CannotGenerate(ElmanError):
    status = 409
    code = "cannot_generate"
    title = "Model cannot generate"


class CannotForecast(ElmanError):
    status = 409
    code = "cannot_forecast"
    title = "Model cannot forecast"


class StepConflict(ElmanError):
    status = 409
    code = "step_conflict"
    title = "Session is at another step"


class NotByRequest(ElmanError):
    status = 409
    code = "not_by_request"
    title = "Models are changed in their folder"


class ModelChanged(ElmanError):
    status = 409
    code = "model_changed"
    title = "Session belongs to another model file"


class Quota(ElmanError):
    status = 429
    code = "quota"
    title = "Quota is used up"


class RateLimited(ElmanError):
    status = 429
    code = "rate_limited"
    title = "Too much in a second"


class StoreUnavailable(ElmanError):
    status = 503
    code = "store_unavailable"
    title = "Session store does not work"


class OutcomeUnknown(StoreUnavailable):
    code = "outcome_unknown"
    title = "Whether it happened is not known"


class Overloaded(ElmanError):
    status = 503
    code = "overloaded"
    title = "Server is overloaded"


class ModelSuspended(ElmanError):
    status = 503
    code = "model_suspended"
    title = "Model is suspended"


class ModelLoading(ElmanError):
    status = 503
    code = "model_loading"
    title = "Model is being loaded"


class Draining(ElmanError):
    status = 503
    code = "draining"
    title = "Server is stopping"


class DeadlineExceeded(ElmanError):
    status = 504
    code = "deadline"
    title = "Deadline exceeded"


class ModelFailed(ElmanError):
    code = "model_failed"
    title = "The model failed on this input"


class NotFiniteOutput(ElmanError):
    code = "not_finite_output"
    title = "The model's output is not finite"


class Internal(ElmanError):
    pass


class ModelRefused(Exception):
    """A model file that cannot be served: what is wrong with it, where, and the remedy.

    `node` names the graph node or tensor at fault; `template` is a `model.json` to start from, if one would help.
    """

    def __init__(
        self,
        reason: str,
        *,
        node: str | None = None,
        remedy: str | None = None,
        template: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.node = node
        self.remedy = remedy
        self.template = None if template is None else dict(template)

    def __str__(self) -> str:
        parts = [self.reason]
        if self.node:
            parts.append(f"at {self.node}")
        text = ", ".join(parts)
        return f"{text}. {self.remedy}" if self.remedy else text


class SpecRefused(ModelRefused):
    """A model file that cannot be served because of what its spec says of it, which the reason names."""


def message_of(listed: Mapping[str, Any]) -> str:
    """The message of one of the errors that pydantic lists; of an exception that a validator raised, its own words."""
    return str(listed["msg"]).removeprefix("Value error, ")
