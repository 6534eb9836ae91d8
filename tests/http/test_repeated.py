"""A head that is as the last one is not parsed: the answers are the same as if it were.

Run it with ELMAN_TEST_EXAMPLES=25000 for a long search; `python -m tests.fuzz.heads` tries a million cases in less.
"""

import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from elman.http import protocol
from elman.http.exchange import parse_target
from elman.http.repeated import _LINE
from tests.fuzz.connection import Connection

pytestmark = pytest.mark.slow

EXAMPLES = int(os.environ.get("ELMAN_TEST_EXAMPLES", "200"))
# Turns in which a request is answered before the next one comes.
_TURNS = 5

BEFORE = b"POST /echo HTTP/1.1\r\nHost: test\r\nX-Request-ID: one\r\nContent-Length: "
AFTERS = [b"\r\n\r\n", b"\r\nContent-Type: a/b\r\n\r\n", b"\r\nX-A:\r\nAccept: */*\r\n\r\n"]
# What may stand where the length, or the line after it, is.
TRICKS = st.sampled_from([
    b"0", b"5", b"05", b"+5", b"-5", b"5 ", b" 5", b"\t5", b"5,5", b"0x5", b"5\r\nContent-Length: 6", b"", b"\n5",
    b"5\r\nTransfer-Encoding: chunked", b"1_0", b"000000000005", b"99999999999", b"5\n", b"5\r", b"\xb2", b"\xd9\xa5",
])  # fmt: skip
SLIPS = st.sampled_from([b"", b"\r\n", b"\n", b" ", b":", b"a", b"\0"])
bodies = st.one_of(st.binary(max_size=20), st.just(BEFORE + b"0\r\n\r\n"), st.just(b"5\r\nhello\r\n0\r\n\r\n"))


@st.composite
def requests(draw: st.DrawFn) -> list[bytes]:
    """A request that is remembered, and others that are nearly the same."""
    after, body = draw(st.sampled_from(AFTERS)), draw(bodies)
    sent = [BEFORE + b"%d" % len(body) + after + body]
    for _ in range(draw(st.integers(1, 3))):
        body = draw(bodies)
        length = draw(st.one_of(st.just(b"%d" % len(body)), TRICKS))
        data = bytearray(BEFORE + length + after + body)
        for _ in range(draw(st.sampled_from([0, 0, 1, 2]))):
            at = draw(st.integers(0, len(data)))
            data[at : at + draw(st.integers(0, 2))] = draw(
                st.sampled_from([b"", b"\r\n", b"\n", b" ", b":", b"a", b"\0"])
            )
        sent.append(bytes(data))
    return sent


@pytest.fixture(scope="module")
def connection() -> Iterator[Connection]:
    one = Connection()
    yield one
    one.close()


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sent=requests())
def test_a_repeated_head_is_read_as_the_parser_reads_it(
    connection: Connection, monkeypatch: pytest.MonkeyPatch, sent: list[bytes]
) -> None:
    found = connection.hear(sent, _TURNS)
    with monkeypatch.context() as patch:
        patch.setattr(protocol, "_MAX_HEADS", 0)
        parsed = connection.hear(sent, _TURNS)
    assert found[1] == parsed[1]
    assert [(one.status, one.body) for one in found[0]] == [(one.status, one.body) for one in parsed[0]]


def test_empty_lines_between_requests_count_towards_no_head(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some clients send one after each body."""
    monkeypatch.setattr(protocol, "MOST_HEAD", 200)
    request = BEFORE + b"5" + AFTERS[0] + b"hello"
    other = request.replace(b"one", b"two")
    answers, closes = connection.hear([*[request, b"\r\n"] * 100, other[:50], other[50:]], _TURNS)
    assert ({one.status for one in answers}, len(answers), closes) == ({200}, 101, False)


def test_a_head_is_repeated_here(connection: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the test above would compare the parser with itself."""
    taken: list[bool] = []
    take = protocol.HTTPProtocol._take_repeated
    monkeypatch.setattr(
        protocol.HTTPProtocol, "_take_repeated", lambda self, *args: taken.append(take(self, *args)) or taken[-1]
    )
    connection.hear([BEFORE + b"%d" % len(body) + AFTERS[0] + body for body in (b"hello", b"hello, world")], _TURNS)
    assert taken == [True]


def test_a_head_is_repeated_with_other_targets(connection: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[bytes] = []
    read = protocol.HTTPProtocol.on_url
    monkeypatch.setattr(protocol.HTTPProtocol, "on_url", lambda self, url: parsed.append(url) or read(self, url))
    targets = [b"/echo/a/steps?at=1", b"/echo/b/steps?at=17", b"/echo/b/steps?at=18", b"/echo?", b"/echo/a/steps?at=2"]
    answers, closes = connection.hear([BEFORE.replace(b"/echo", one) + b"2\r\n\r\nok" for one in targets], _TURNS)
    assert [one.body for one in answers] == [b"ok"] * len(targets) and not closes
    assert parsed == targets[:1]
    assert connection.app.targets == [(one.decode(), query) for one, _, query in (t.partition(b"?") for t in targets)]


@given(target=st.text("/aZ09_.-?=&%#+~ \t", max_size=12).map(str.encode))
def test_a_target_is_read_as_the_parser_reads_it(target: bytes) -> None:
    line = _LINE.match(b"POST " + target + b" HTTP/1.1")
    if line is not None and line[1] == target:
        path, raw_path, query = parse_target(target)
        assert (path.encode(), raw_path, query) == (line[2], line[2], line[3] or b"")
