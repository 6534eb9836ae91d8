"""However bytes are framed, the server sees the requests that an independent parser sees, or refuses and closes."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import h11
import pytest

from tests.fuzz.connection import Connection
from tests.http.shapes import BODY, NEXT, SHAPES, head

pytestmark = pytest.mark.slow

# Longer ones are not cut into pieces, which would take seconds.
_MAX_CUT = 2_000


@dataclass
class Seen:
    """What h11 makes of the bytes of a connection.

    Attributes:
        requests: (id, method, body) of each complete request.
        ends: whether nothing more is a request: the last one asked to close, or what follows is none.
    """

    requests: list[tuple[bytes, bytes, bytes]]
    ends: bool = False


def seen_by_h11(data: bytes) -> Seen:
    """What it sees once the data is written as it wants it, where HTTP allows more."""
    seen, rest = Seen([]), _as_h11_wants(data)
    while rest := rest.lstrip(b"\r\n"):  # empty lines before a request
        server = h11.Connection(h11.SERVER, max_incomplete_event_size=200_000)
        server.receive_data(rest)
        try:
            request, body = server.next_event(), b""
            if not isinstance(request, h11.Request):
                break
            while isinstance(event := server.next_event(), h11.Data):
                body += event.data
        except h11.RemoteProtocolError:
            seen.ends = True
            break
        if not isinstance(event, h11.EndOfMessage):
            break
        seen.requests.append((dict(request.headers).get(b"x-request-id", b""), request.method, body))
        server.send(h11.Response(status_code=405, headers=[("content-length", "0")]))
        server.send(h11.EndOfMessage())
        if server.our_state is not h11.DONE:
            seen.ends = True
            break
        rest = server.trailing_data[0]
    return seen


def _as_h11_wants(data: bytes) -> bytes:
    """Numbers with at most a few leading zeros, and request lines with one space between their parts."""
    data = re.sub(rb"0{20,}", b"0", data)
    return re.sub(rb"^([A-Z]+) +(\S+) +(HTTP/1\.1\r)", rb"\1 \2 \3", data, flags=re.MULTILINE)


@pytest.fixture(scope="module")
def connection() -> Iterator[Connection]:
    one = Connection()
    yield one
    one.close()


@pytest.fixture(scope="module")
def seen() -> list[Seen]:
    return [seen_by_h11(shape.data) for shape in SHAPES]


def check(connection: Connection, data: bytes, size: int, seen: Seen) -> None:
    answers, closes = connection.talk(data, size)
    refused = bool(answers) and answers[-1].status != 200
    for index, answer in enumerate(answers[: -1 if refused else None]):
        assert answer.status == 200, "a refusal is the last answer"
        assert index < len(seen.requests), "the server sees a request more"
        id, method, body = seen.requests[index]
        if not re.fullmatch(rb"[\x21-\x7e]{1,128}", id):  # the server gives it another
            id = answer.id
        assert (answer.id, answer.body) == (id, b"" if method == b"HEAD" else body), "the server sees another request"
    if refused:
        assert 400 <= answers[-1].status < 500 and closes, "a refusal ends the connection"
    elif len(answers) < len(seen.requests):
        assert closes, "a request has no answer, and the connection stays"


def test_there_are_a_thousand_shapes() -> None:
    assert len({shape.data for shape in SHAPES}) >= 1000


def test_requests_that_are_well_framed_are_answered(connection: Connection) -> None:
    answers, closes = connection.talk(head(b"Content-Length: 5\r\n") + BODY + NEXT, 0)
    assert [(one.status, one.id, one.body) for one in answers] == [(200, b"first", b"hello"), (200, b"next", b"ok")]
    assert not closes


@pytest.mark.parametrize("size", [0, 1, 7])
def test_no_shape_is_read_in_two_ways(connection: Connection, seen: list[Seen], size: int) -> None:
    """Whole, byte by byte, and in pieces of seven bytes."""
    for shape, one in zip(SHAPES, seen, strict=True):
        if size == 0 or len(shape.data) < _MAX_CUT:
            try:
                check(connection, shape.data, size, one)
            except Exception as error:
                raise AssertionError(f"{shape.name}: {error}") from error
