"""One request, and how its response is read."""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar
from urllib.parse import quote

import httpx

from elman.client.advice import explained
from elman.client.config import Timeout
from elman.client.errors import BadAnswer, ElmanError
from elman.client.wire import JSON, encode_json, read_error

T = TypeVar("T")


@dataclass(frozen=True)
class Call(Generic[T]):
    """A request, and how its response is read.

    Attributes:
        parse: turns the response into a value.
        repeatable: whether sending it twice does the same as sending it once.
        at: for steps of a session, the step that they start at.
        accepts: statuses beside 2xx that are parsed too, and not raised as errors.
        timeout: replaces the client's own timeout.
        sequences: those that the request holds, which its errors name.
        offset: index of the request's first sequence in the caller's list, so that errors name places in that list.
        late: makes the call itself, just before it is sent.
    """

    method: str
    path: str
    parse: Callable[[httpx.Response], T]
    query: Mapping[str, str] = field(default_factory=dict)
    content: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    repeatable: bool = True
    at: int | None = None
    accepts: Collection[int] = ()
    timeout: Timeout | float | None = None
    sequences: Sequence[Any] = ()
    offset: int | None = None
    late: "CallFactory[T] | None" = None

    def made(self) -> "Call[T]":
        """The call as it is to be sent. Raises RequestError if it cannot be sent."""
        return self if self.late is None else self.late()

    def read(self, response: httpx.Response) -> T:
        """The value of a response. Raises Refused if it is an error, BadAnswer if it cannot be parsed."""
        if not (response.is_success or response.status_code in self.accepts):
            raise self._located(explained(read_error(response), self.sequences, self.offset is not None))
        try:
            return self.parse(response)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise BadAnswer(
                f"the response to {self.method} {self.path} is not what Elman sends: {type(error).__name__}: {error}",
                status=response.status_code,
            ) from None

    def _located(self, error: ElmanError) -> ElmanError:
        """The error with the `where` of this request changed to a place in the caller's list."""
        if self.offset is not None and error.where is not None:
            found = re.match(r"(sequences|state|static)\[(\d+)\]|sequence\b", error.where)
            if found:
                index = self.offset + int(found[2] or 0)
                error.where = f"{found[1] or 'sequences'}[{index}]{error.where[found.end() :]}"
        return error


CallFactory = Callable[[], Call[T]]
"""Makes a call just before it is sent, so that of many only the requests on their way are held as bytes."""


class HasId(Protocol):
    """A session, blocking or asynchronous."""

    @property
    def id(self) -> str: ...


def part_of_path(name: str, what: str) -> str:
    """A name or an id as a part of a path. Raises ValueError if it cannot be one."""
    if not isinstance(name, str) or name in ("", ".", ".."):
        raise ValueError(f"{name!r} cannot be {what}")
    return quote(name, safe="")


def id_of(session: HasId | str | None) -> str | None:
    return session if session is None or isinstance(session, str) else session.id


def json_call(
    method: str, path: str, parse: Callable[[httpx.Response], T], body: Mapping[str, Any], **more: Any
) -> Call[T]:
    """A call with a JSON body. Fields of the body that are None are left out."""
    given = {name: value for name, value in body.items() if value is not None}
    headers = {"content-type": JSON, "accept": JSON}
    return Call(method, path, parse, content=encode_json(given), headers=headers, **more)
