"""One connection: however its bytes are cut, each request gets its own answer, in order, and limits hold."""

import contextlib
import socket
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import httptools
import numpy as np
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import StartServer
from tests.reference import expected, same_bits
from tests.running import RunningServer, running_server

PATH = "/v1/models/vowels-gru/predict"
OCTETS = {"content-type": "application/octet-stream", "accept": "application/octet-stream"}


def sequence(length: int, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).standard_normal((length, 12)).astype(np.float32)


def as_json(length: int, **options: object) -> bytes:
    return orjson.dumps({"sequence": sequence(length), **options}, option=orjson.OPT_SERIALIZE_NUMPY)


def post(body: bytes, path: str = PATH, version: str = "1.1", **headers: str) -> bytes:
    fields = {"host": "test", "content-type": "application/json", "content-length": str(len(body))}
    fields |= {name.replace("_", "-"): value for name, value in headers.items()}
    lines = [f"POST {path} HTTP/{version}", *(f"{name}: {value}" for name, value in fields.items())]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def in_chunks(body: bytes, size: int) -> bytes:
    """A request whose body comes in chunks of `size` bytes."""
    head = post(b"", transfer_encoding="chunked").replace(b"content-length: 0\r\n", b"")
    chunks = [body[at : at + size] for at in range(0, len(body), size)]
    return head + b"".join(b"%x\r\n%b\r\n" % (len(one), one) for one in [*chunks, b""])


class Parsed:
    """The answers that came over one connection: (status, headers but the date and the request's id, body)."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, list[tuple[bytes, bytes]], bytes]] = []
        self._parser = httptools.HttpResponseParser(self)

    def feed(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_begin(self) -> None:
        self._headers: list[tuple[bytes, bytes]] = []
        self._body = b""

    def on_header(self, name: bytes, value: bytes) -> None:
        if name not in (b"date", b"x-request-id"):
            self._headers.append((name, value))

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        self.answers.append((self._parser.get_status_code(), self._headers, self._body))


def exchange(port: int, pieces: list[bytes], count: int) -> Any:
    """Send some pieces, a moment apart, and read so many answers."""
    parsed = Parsed()
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for index, piece in enumerate(pieces):
            if index:
                time.sleep(0.005)
            connection.sendall(piece)
        while len(parsed.answers) < count:
            data = connection.recv(1 << 16)
            assert data, f"the server closed the connection after {parsed.answers}"
            parsed.feed(data)
    return parsed.answers


REQUESTS = {
    "json": post(as_json(9)),
    "every step": post(as_json(5, **{"return": "steps"})),
    "many": post(orjson.dumps({"sequences": [sequence(3).tolist(), sequence(70).tolist()]})),
    "chunks": in_chunks(as_json(9), 100),
    "chunks of a byte": in_chunks(as_json(9), 1),
    "octets": post(sequence(40).tobytes(), **OCTETS),
    "octets, by version": post(sequence(40).tobytes(), "/v1/models/vowels-gru/versions/1/predict", **OCTETS),
    "octets with options": post(sequence(4).tobytes(), PATH + "?return=steps", **OCTETS),
    "escaped path": post(as_json(2), "/v1/models/vowels%2Dgru/predict"),
    "broken JSON": post(b'{"sequence": [[1, 2'),
    "an empty body": post(b""),
    "wrong features": post(b'{"sequence": [[1, 2]]}'),
    "no such model": post(as_json(2), "/v1/models/nobody/predict"),
    "no such option": post(sequence(4).tobytes(), PATH + "?speed=9", **OCTETS),
    "an unknown type": post(as_json(2), content_type="text/html"),
    "nothing to accept": post(as_json(2), accept="text/html"),
    "a broken token": post(as_json(2, state="nothing")),
    "a deadline that is past": post(as_json(2, timeout=1e-9)),
    "another route": post(b"{}", "/v1/sessions"),
    "a route that is not there": post(b"{}", "/v1/nothing"),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_whole_or_in_pieces_the_answer_is_the_same(server: RunningServer, name: str) -> None:
    request = REQUESTS[name]
    head = request.index(b"\r\n\r\n") + 4
    (whole,) = exchange(server.port, [request], 1)
    for cuts in ([head - 20], [head], [head // 2, head + (len(request) - head) // 2]):
        at = [0, *cuts, len(request)]
        pieces = [piece for piece in (request[i:j] for i, j in pairwise(at)) if piece]
        (cut,) = exchange(server.port, pieces, 1)
        assert cut == whole


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    names=st.lists(st.sampled_from(sorted(REQUESTS)), min_size=1, max_size=6),
    cuts=st.lists(st.floats(0, 1), max_size=4),
)
def test_however_a_pipeline_is_cut_each_gets_its_own_answer_in_order(
    server: RunningServer, names: list[str], cuts: list[float]
) -> None:
    data = b"".join(REQUESTS[name] for name in names)
    at = sorted({0, len(data), *(int(cut * len(data)) for cut in cuts)})
    pieces = [data[i:j] for i, j in pairwise(at)]
    answers = exchange(server.port, pieces, len(names))
    alone = {name: exchange(server.port, [REQUESTS[name]], 1)[0] for name in set(names)}
    assert answers == [alone[name] for name in names]


def read_all(connection: socket.socket) -> Any:
    """Every answer until the server closes the connection."""
    parsed = Parsed()
    while data := connection.recv(1 << 16):
        parsed.feed(data)
    return parsed.answers


@pytest.mark.parametrize(
    ("head", "status", "code"),
    [
        (b"POST /v1 HTTP/1.1\r\nhost: t\r\nx: " + b"a" * 70_000, 431, b"head_too_large"),
        (b"POST /v1 HTTP/1.1\r\nhost: t\r\n" + b"x: a\r\n" * 101 + b"\r\n", 431, b"head_too_large"),
        (b"POST /" + b"a" * 70_000, 431, b"head_too_large"),
        (b"nonsense\r\n\r\n", 400, b"invalid_http"),
        (b"POST /v1 HTTP/1.1\r\nhost: t\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n", 400, b"invalid_http"),
        (b"POST /v1 HTTP/1.1\r\nhost: t\r\ncontent-length: " + b"9" * 30 + b"\r\n\r\n", 400, b"invalid_http"),
        (b"POST /v1 HTTP/1.1\r\nhost: t\r\ncontent-length: 999999999999\r\n\r\n", 413, b"too_large"),
    ],
)
def test_a_head_that_cannot_be_served_is_refused_and_the_connection_closed(
    server: RunningServer, head: bytes, status: int, code: bytes
) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        connection.sendall(head)
        ((got, headers, body),) = read_all(connection)
    assert got == status and b'"code":"' + code + b'"' in body
    assert (b"connection", b"close") in headers
    assert server.client.get("/livez").status_code == 200


def test_answers_before_a_broken_request_still_come(server: RunningServer) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        connection.sendall(post(as_json(9)) + b"nonsense\r\n\r\n")
        answers = read_all(connection)
    assert [status for status, _, _ in answers] == [200, 400]


def test_a_connection_has_few_requests_waiting_and_those_before_are_answered(server: RunningServer) -> None:
    """A read of 256 kB may hold 14,000 requests, whose objects take megabytes."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        connection.sendall(b"GET /livez HTTP/1.1\r\nhost: t\r\n\r\n" * 2_000)
        answers = read_all(connection)
    assert [status for status, _, _ in answers] == [200] * (len(answers) - 1) + [503]
    assert 20 < len(answers) < 100


@pytest.mark.parametrize("around", [b"0\r\nx: ", b"5;x="])
def test_what_stands_around_the_chunks_of_a_body_is_bounded(server: RunningServer, around: bytes) -> None:
    head = post(b"", transfer_encoding="chunked").replace(b"content-length: 0\r\n", b"")
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        connection.sendall(head + around)
        for _ in range(40):
            connection.sendall(b"a" * 8192)
        answers = read_all(connection)
    assert [status for status, _, _ in answers] == [431]


def test_a_field_after_the_body_is_no_field_of_the_request(server: RunningServer) -> None:
    """It could get past a proxy that looks at the head."""
    fields = b"0\r\nx-request-id: later\r\norigin: https://elsewhere.example\r\n\r\n"
    for path in (PATH, "/v1/models/vowels-gru/sessions"):
        body = as_json(2) if path == PATH else b"{}"
        request = in_chunks(body, 100).replace(PATH.encode(), path.encode()).replace(b"0\r\n\r\n", fields)
        with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
            connection.sendall(request)
            answer = connection.recv(1 << 16)
        assert answer.startswith(b"HTTP/1.1 20") and b"later" not in answer


@pytest.mark.slow
def test_a_head_that_does_not_come_is_given_up(server: RunningServer) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        connection.sendall(b"POST /v1/models HTTP/1.1\r\nhost:")
        started = time.monotonic()
        assert connection.recv(1) == b""
        assert 5 < time.monotonic() - started < 25


def test_the_answer_to_head_is_its_head(server: RunningServer) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        for _ in range(2):
            connection.sendall(b"HEAD /livez HTTP/1.1\r\nhost: test\r\n\r\n")
            data = b""
            while not data.endswith(b"\r\n\r\n"):
                piece = connection.recv(4096)
                assert piece
                data += piece
            assert data.startswith(b"HTTP/1.1 ")
            assert data.count(b"\r\n\r\n") == 1


def test_an_upgrade_before_an_answer_leaves_the_answer_alone(server: RunningServer) -> None:
    asked = b"GET /v1/models HTTP/1.1\r\nhost: test\r\n\r\n"
    upgrade = (
        b"GET /v1/models/vowels-gru/stream HTTP/1.1\r\nhost: test\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
        b"sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        connection.sendall(asked + upgrade)
        answers = read_all(connection)
    assert [status for status, _, _ in answers] == [200]
    assert server.client.get("/livez").status_code == 200
    assert "AttributeError" not in server.log.read_text()


def test_a_stream_of_events_comes_in_chunks_and_the_connection_is_kept(server: RunningServer) -> None:
    body = orjson.dumps({"prompt": "Mc", "seed": 1, "stream": True})
    path = "/v1/models/names-lstm-generator/generate"
    streamed, again = exchange(server.port, [post(body, path)] * 2, 2)
    assert streamed == again
    assert (b"transfer-encoding", b"chunked") in streamed[1]
    assert streamed[2].count(b"data: ") > 2 and b"event: done" in streamed[2]


def test_the_bits_are_those_of_the_sequence_alone(server: RunningServer) -> None:
    lengths = [1, 300, 7, 63, 64, 65, 12]
    requests = [post(sequence(length, length).tobytes(), **OCTETS) for length in lengths]
    answers = exchange(server.port, [b"".join(requests)], len(lengths))
    for length, (status, _, body) in zip(lengths, answers, strict=True):
        assert status == 200
        wanted = expected("vowels-gru", sequence(length, length))[-1]
        assert same_bits(np.frombuffer(body, "<f4"), wanted)


@pytest.mark.parametrize("options", [{"version": "1.0"}, {"connection": "close"}])
def test_a_connection_that_is_not_kept_is_closed_after_the_answer(
    server: RunningServer, options: dict[str, str]
) -> None:
    parsed = Parsed()
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        connection.sendall(post(as_json(3), **options))
        while data := connection.recv(1 << 16):
            parsed.feed(data)
    ((status, headers, _),) = parsed.answers
    assert status == 200
    assert (b"connection", b"close") in headers


def test_a_client_that_asks_before_it_sends_is_told_to_go_on(server: RunningServer) -> None:
    request = post(as_json(3), expect="100-continue")
    head = request.index(b"\r\n\r\n") + 4
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        connection.sendall(request[:head])
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 100 ")
        connection.sendall(request[head:])
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200 ")


@pytest.mark.slow
def test_a_reader_that_does_not_read_holds_up_its_own_requests_only(server: RunningServer) -> None:
    """Answers that are not taken are not piled up: the next request on the connection waits for them."""
    request = post(sequence(3_000).tobytes(), PATH + "?return=steps", **OCTETS)
    before = server.stats()["elman_sequences_total", ("vowels-gru", "1")]
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", server.port))
        connection.settimeout(2.0)
        num_sent = 0
        with pytest.raises(TimeoutError):
            while num_sent < 2_000:
                connection.sendall(request)
                num_sent += 1
        assert server.predict("vowels-gru", sequence=sequence(2).tolist()).status_code == 200
        done = server.stats()["elman_sequences_total", ("vowels-gru", "1")] - before - 1
        assert done < 200, "and each leaves an answer of 100 kB"


def test_a_client_that_goes_takes_its_work_along(server: RunningServer) -> None:
    """As a request that came whole has it: it is given up at once, and not counted as one that failed."""
    labels, errors, before = ("vowels-gru", "1"), server.errors(), server.stats()
    many = orjson.dumps({"sequences": [[[0.0] * 12] * 2_000] * 2, "return": "final"})
    request = post(many)
    assert len(request) < 256 * 1024, "to be one read"
    for _ in range(40):
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(request)
    server.wait_for("elman_pending_sequences", 0.0)
    after = server.stats()
    assert server.errors() == errors
    assert after["elman_steps_total", labels] - before["elman_steps_total", labels] < 40 * 4_000
    assert "Traceback" not in server.log.read_text()


@pytest.mark.slow
def test_what_a_stopping_server_took_is_answered_and_what_comes_then_is_refused(start_server: StartServer) -> None:
    server = start_server(drain_timeout=60)  # a slow machine is to answer all of it as well
    request = post(np.zeros((4_000, 12), "<f4").tobytes()[: 240 * 1024], **OCTETS)
    connections = [socket.create_connection(("127.0.0.1", server.port), timeout=60) for _ in range(40)]
    for connection in connections:
        connection.sendall(request)
    server.wait_until_taken(40)
    assert server.terminate() == 0
    told = []
    for connection in connections:
        parsed = Parsed()
        with connection:
            while data := connection.recv(1 << 16):
                parsed.feed(data)
        ((status, headers, _),) = parsed.answers
        assert status == 200
        told.append((b"connection", b"close") in headers)
    # A few may have been answered before the signal came. Then their connections were idle, and closed too.
    assert any(told)


@pytest.fixture(scope="module")
def guarded(small_store: Path) -> Iterator[RunningServer]:
    with running_server(small_store, api_keys="alice,bob") as one:
        yield one


@pytest.mark.slow
def test_keys_are_asked_for(guarded: RunningServer) -> None:
    for headers, status in (({}, 401), ({"authorization": "Bearer eve"}, 401), ({"authorization": "Bearer bob"}, 200)):
        (answer,) = exchange(guarded.port, [post(as_json(2), **headers)], 1)
        assert answer[0] == status


def test_a_state_token_is_its_owners(guarded: RunningServer) -> None:
    def ask(key: str, **options: object) -> Any:
        body = as_json(5, return_state=True, **options)
        ((status, _, content),) = exchange(guarded.port, [post(body, authorization=f"Bearer {key}")], 1)
        return status, orjson.loads(content)

    status, answer = ask("alice")
    assert status == 200
    token = answer["results"][0]["state"]
    status, answer = ask("alice", state=token)
    assert (status, answer["results"][0]["step"]) == (200, 10)
    status, answer = ask("bob", state=token)
    assert (status, answer["code"]) == (422, "bad_state_token")


@pytest.mark.slow
def test_requests_that_are_to_be_logged_are_logged(start_server: StartServer, small_store: Path) -> None:
    server = start_server(small_store, "--access-log")
    (answer,) = exchange(server.port, [post(as_json(2))], 1)
    assert answer[0] == 200
    assert f'"POST {PATH} HTTP/1.1" 200' in server.log.read_text()


def test_requests_that_repeat_a_head_are_as_those_that_are_parsed(server: RunningServer) -> None:
    """The head of the request before is compared and not parsed again: lengths, bodies and errors stay their own."""
    bodies = [as_json(9), as_json(30), b"{", as_json(2), b"", as_json(9, top=0), as_json(9)]
    fresh = [exchange(server.port, [post(body)], 1)[0] for body in bodies]
    parsed = Parsed()
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        for index, body in enumerate(bodies * 3):
            connection.sendall(post(body))
            while len(parsed.answers) <= index:
                parsed.feed(connection.recv(1 << 16))
    assert parsed.answers == fresh * 3


@pytest.mark.slow
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    length=st.sampled_from([b"%d", b"0%d", b"+%d", b" %d", b"%d ", b"%d,%d", b"%dx", b"-%d", b"0x%x", b""]),
    off=st.integers(-3, 3),
    tail=st.sampled_from([b"", b"GET /livez HTTP/1.1\r\nhost: t\r\n\r\n", b"x"]),
)
def test_no_request_hides_in_the_length_of_another(server: RunningServer, length: bytes, off: int, tail: bytes) -> None:
    """A connection that repeats heads answers as one that parses every request, whatever the length says."""
    body = as_json(3)
    told = length.replace(b"%d", b"%d" % max(0, len(body) + off)).replace(b"%x", b"%x" % len(body))
    odd = post(body).replace(b"content-length: %d" % len(body), b"content-length: " + told) + tail

    def statuses(repeats: int) -> list[int]:
        parsed = Parsed()
        with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
            for index in range(repeats):
                connection.sendall(post(as_json(2)))
                while len(parsed.answers) <= index:
                    parsed.feed(connection.recv(1 << 16))
            connection.sendall(odd)
            # A request that is not whole gets no answer until it is, with the start of the last one. Then what is left
            # of that is no request.
            connection.settimeout(0.05)
            with contextlib.suppress(TimeoutError):
                parsed.feed(connection.recv(1 << 16))
            connection.settimeout(60)
            with contextlib.suppress(ConnectionError):
                connection.sendall(b"GET /livez HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n")
                while data := connection.recv(1 << 16):
                    parsed.feed(data)
        return [status for status, _, _ in parsed.answers[repeats:]]

    assert statuses(2) == statuses(0)
