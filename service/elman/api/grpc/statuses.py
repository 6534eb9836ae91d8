"""Errors as gRPC tells them: a status, a text, and the whole of it as JSON."""

import grpc

from elman.errors import ElmanError, StepConflict, UnsupportedMediaType
from elman.http.endpoint import encode_problem

PROBLEM = "elman-problem-bin"
"""The trailing metadata with an error as JSON: the body that HTTP would have sent."""

# Clients take 8 KiB of metadata. Bytes travel as base64, and each byte of a text that is not ASCII as three.
_MOST_TEXT, _MOST_PROBLEM = 650, 4096

_STATUSES = {
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    409: grpc.StatusCode.FAILED_PRECONDITION,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    500: grpc.StatusCode.INTERNAL,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}


def status_of(error: ElmanError) -> grpc.StatusCode:
    """The status of an error. All that is wrong with a request itself is INVALID_ARGUMENT."""
    if isinstance(error, StepConflict):
        return grpc.StatusCode.ABORTED
    if isinstance(error, UnsupportedMediaType):
        return grpc.StatusCode.UNIMPLEMENTED
    return _STATUSES.get(error.status, grpc.StatusCode.INVALID_ARGUMENT)


def text_of(error: ElmanError) -> str:
    """What a client shows of an error. A long text is cut."""
    return str(error.problem()["error"]).encode()[:_MOST_TEXT].decode(errors="ignore")


def trailing(error: ElmanError) -> tuple[tuple[str, str | bytes], ...]:
    """The metadata that belongs to an error. It is without the error itself if that is large."""
    problem = encode_problem(error)
    return *(((PROBLEM, problem),) if len(problem) <= _MOST_PROBLEM else ()), *error.headers.items()
