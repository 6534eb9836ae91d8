"""A request that arrives whole is answered without ASGI, and nobody can tell: neither the client nor the engine."""

import asyncio
import socket
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import httptools
import numpy as np
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.types import Receive, Scope, Send

from elman.app import create_app
from elman.errors import ElmanError, Overloaded
from elman.http.asgi import Answer, GiveUp, HotDirect, Request, Settle
from elman.settings import Settings
from tests.conftest import StartServer
from tests.reference import expected, same_bits
from tests.running import STORE, RunningServer, running_server

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


class Parsed:
    """The answers that came over one connection: (status, headers but the date, body)."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, list[tuple[bytes, bytes]], bytes]] = []
        self._parser = httptools.HttpResponseParser(self)

    def feed(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_begin(self) -> None:
        self._headers: list[tuple[bytes, bytes]] = []
        self._body = b""

    def on_header(self, name: bytes, value: bytes) -> None:
        if name != b"date":
            self._headers.append((name, value))

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        self.answers.append((self._parser.get_status_code(), self._headers, self._body))


def exchange(port: int, pieces: list[bytes], count: int) -> Any:
    """Send some pieces, a moment apart, and read so many answers."""
    parsed = Parsed()
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
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


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
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
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall(post(as_json(3), **options))
        while data := connection.recv(1 << 16):
            parsed.feed(data)
    ((status, headers, _),) = parsed.answers
    assert status == 200
    assert (b"connection", b"close") in headers


def test_a_client_that_asks_before_it_sends_is_told_to_go_on(server: RunningServer) -> None:
    request = post(as_json(3), expect="100-continue")
    head = request.index(b"\r\n\r\n") + 4
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall(request[:head])
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 100 ")
        connection.sendall(request[head:])
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200 ")


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
    labels, failed = ("vowels-gru", "1"), ("elman_errors_total", ("deadline_exceeded",))
    before = server.stats()
    many = orjson.dumps({"sequences": [[[0.0] * 12] * 2_000] * 2, "return": "final"})
    request = post(many)
    assert len(request) < 256 * 1024, "to be one read"
    for _ in range(40):
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(request)
    server.wait_for("elman_pending_sequences", 0.0)
    after = server.stats()
    assert after.get(failed) == before.get(failed)
    assert after["elman_steps_total", labels] - before["elman_steps_total", labels] < 40 * 4_000
    assert "Traceback" not in server.log.read_text()


def test_what_a_stopping_server_took_is_answered_and_what_comes_then_is_refused(start_server: StartServer) -> None:
    server = start_server(STORE)
    request = post(np.zeros((4_000, 12), "<f4").tobytes()[: 240 * 1024], **OCTETS)
    connections = [socket.create_connection(("127.0.0.1", server.port), timeout=30) for _ in range(20)]
    for connection in connections:
        connection.sendall(request)
    server.wait_for("elman_pending_sequences", 20.0)
    assert server.terminate() == 0
    for connection in connections:
        parsed = Parsed()
        while data := connection.recv(1 << 16):
            parsed.feed(data)
        ((status, headers, _),) = parsed.answers
        assert status == 200
        assert (b"connection", b"close") in headers
        connection.close()


@pytest.fixture(scope="module")
def guarded() -> Iterator[RunningServer]:
    with running_server(api_keys="alice,bob") as one:
        yield one


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


def test_requests_that_are_to_be_logged_are_logged(start_server: StartServer) -> None:
    server = start_server(STORE, "--access-log")
    (answer,) = exchange(server.port, [post(as_json(2))], 1)
    assert answer[0] == 200
    assert f'"POST {PATH} HTTP/1.1" 200' in server.log.read_text()


class Waiting:
    """Who waits for one answer, in this process."""

    def __init__(self) -> None:
        self.disconnected = False
        self.answers: list[Answer] = []

    def reply(self, answer: Answer) -> None:
        self.answers.append(answer)


def in_process(call: Callable[[Any], Any], **options: Any) -> Any:
    """What a call of the running application gives."""
    app = create_app(Settings(models=STORE, **options))

    async def run() -> Any:
        async with app.router.lifespan_context(app):
            found = call(app)
            return await found if asyncio.iscoroutine(found) else found

    return asyncio.run(run())


def begin(app: Any, body: bytes, path: str = PATH) -> GiveUp | None:
    headers = [(b"host", b"test"), (b"content-type", b"application/json")]
    found: GiveUp | None = app.begin(path, b"", headers, body, Waiting())
    return found


def test_what_takes_a_task_is_left_to_asgi() -> None:
    def look(app: Any) -> None:
        assert begin(app, as_json(3)) is not None
        assert begin(app, b"{}", "/v1/sessions/0/steps") is None
        assert begin(app, b"{}", "/v1/sessions") is None
        assert begin(app, as_json(10_000)) is None, "its reading takes long"
        assert begin(app, as_json(300, hidden=True)) is None, "its writing takes long"
        many = orjson.dumps({"sequences": [[[0.0] * 12]] * 200, "return_state": True})
        assert begin(app, many) is None, "its tokens take long"
        app.user_middleware.append(object())
        assert begin(app, as_json(3)) is None, "it would pass by the middleware"

    in_process(look)


def test_a_body_over_the_limit_is_left_to_asgi() -> None:
    assert in_process(lambda app: begin(app, as_json(100)), max_body=1024) is None


class Endpoint:
    """One that does as it is told."""

    def __init__(self, compose: Callable[[], Answer], first: Exception | None = None) -> None:
        self.compose = compose
        self.first = first

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None: ...

    def begin(self, request: Request, settle: Settle) -> GiveUp | None:
        if self.first is not None:
            raise self.first
        settle(self.compose)
        return lambda: None


def told(endpoint: Endpoint, gone: bool = False) -> tuple[list[Answer], list[ElmanError]]:
    reported: list[ElmanError] = []
    caller = Waiting()
    caller.disconnected = gone
    assert HotDirect(endpoint, reported.append).begin(Request({}, {}, b"", b"", b""), caller) is not None
    return caller.answers, reported


def raising(error: Exception) -> Callable[[], Answer]:
    def compose() -> Answer:
        raise error

    return compose


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize(
    ("error", "status", "code"),
    [(Overloaded("full", retry_after=3), 503, "overloaded"), (ZeroDivisionError("a defect"), 500, "internal")],
)
def test_an_error_is_answered_and_counted_once(error: Exception, status: int, code: str, at_once: bool) -> None:
    answers, reported = told(Endpoint(raising(error), error if at_once else None))
    assert [answer.status for answer in answers] == [status]
    assert orjson.loads(answers[0].content)["code"] == code
    assert [one.code for one in reported] == [code]
    if status == 503:
        assert (b"retry-after", b"3") in list(answers[0].headers)


def test_nobody_is_answered_who_is_gone() -> None:
    assert told(Endpoint(raising(Overloaded("full"))), gone=True) == ([], [])
