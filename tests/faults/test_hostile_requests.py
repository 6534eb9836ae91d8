"""A small hostile request costs little, is told why in a line, and leaves the server as it was."""

import contextlib
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.reference import expected, float32, same_bits
from tests.running import RunningServer, running_server
from tests.waiting import assert_undisturbed

# They start servers of their own.
pytestmark = pytest.mark.slow

MODEL = "vowels-gru"
PREDICT = f"/v1/models/{MODEL}/predict"
SESSIONS = f"/v1/models/{MODEL}/sessions"
ROWS = [[0.25] * 12] * 3
JSON = {"content-type": "application/json"}

# What one hostile request may cost: its own bytes many times over, and the time that a loaded machine takes.
MOST_BYTES = 64 * 2**20
MOST_SECONDS = 5.0
# The longest answer to a request that is refused.
MOST_ANSWER = 3_000


@pytest.fixture(scope="module")
def target(small_store: Path) -> Iterator[RunningServer]:
    with running_server(small_store) as one:
        # Starts a process that decodes, so that no test waits for that.
        one.client.post(PREDICT, content=b"[" * 2**20, headers=JSON)
        yield one


def check_serves(server: RunningServer) -> None:
    """The control: the server is live, and predicts as the reference does."""
    assert server.client.get("/livez").status_code == 200
    answer = server.predict(MODEL, sequence=ROWS).json()
    assert same_bits(float32(answer["results"][0]["output"]), expected(MODEL, float32(ROWS))[-1])


def many(count: int, text: str) -> str:
    return ",".join(text % index if "%" in text else text for index in range(count))


LONG = "k" * 150_000
BODIES = {
    "NaN beside a long key": f'{{"{LONG}": [{many(75_000, "1")}, NaN]}}',
    "NaN below long keys": f'{{"{LONG}": {{"{LONG}": [{many(50_000, "1")}, NaN]}}}}',
    "NaN after many lists": f'{{"sequence": [{many(150_000, "[]")}, NaN]}}',
    "NaN after many objects": f'{{"sequence": [{many(100_000, "{}")}, NaN]}}',
    "NaN below many lists": f'{{"sequence": {"[" * 900}NaN{"]" * 900}}}',
    "a field like an error message": f'{{"{" - at `$" * 16_000}": 1}}',
    "a field of backticks": f'{{"{"`" * 200_000}": 1}}',
    "a field of brackets": f'{{"static": {{"{"[" * 300_000}": 1}}}}',
    "a field like an expectation": f'{{"Expected `{"a" * 300_000}`, got `": 1}}',
    "many fields": f"{{{many(40_000, chr(34) + '%d' + chr(34) + ': 1')}}}",
    "many options after the sequence": f'{{"sequence": [[1]], {many(40_000, chr(34) + "%d" + chr(34) + ": 1")}}}',
    "nested lists": "[" * 400_000,
    "nested objects": '{"a":' * 80_000,
    "a number of many digits": f'{{"sequence": [[{"1" * 400_000}]]}}',
    "an option of many digits": f'{{"sequence": [[1]], "top": {"1" * 400_000}}}',
    "a long option": f'{{"sequence": [[1]], "return": "{"a" * 400_000}"}}',
    "a long head": f'{{"sequence": [[1]], "heads": ["{"a" * 400_000}"]}}',
    "a long token": f'{{"sequence": [{ROWS[0]}], "state": "{"a" * 400_000}"}}',
}


@pytest.mark.parametrize("name", BODIES)
def test_a_small_body_costs_little_and_is_refused_in_a_line(target: RunningServer, name: str) -> None:
    content = BODIES[name].encode()
    assert len(content) < 512 * 1024, "so that the event loop decodes it, unless it has many pieces"
    before = target.memory()
    for path in (PREDICT, SESSIONS):

        def seconds(path: str = path) -> float:
            started = time.monotonic()
            response = target.client.post(path, content=content, headers=JSON)
            took = time.monotonic() - started
            assert response.status_code in (400, 422)
            assert len(response.content) < MOST_ANSWER
            return took

        assert_undisturbed(seconds, lambda seconds: seconds < MOST_SECONDS)
    assert target.memory("VmHWM") < before + MOST_BYTES
    check_serves(target)


def test_the_time_for_a_refusal_grows_with_the_body_and_not_with_its_square(target: RunningServer) -> None:
    def seconds(count: int) -> float:
        content = f"{{{many(count, chr(34) + '%d' + chr(34) + ': 1')}}}".encode()
        started = time.monotonic()
        assert target.client.post(PREDICT, content=content, headers=JSON).status_code == 422
        return time.monotonic() - started

    small, large = (min(seconds(count) for _ in range(3)) for count in (4_000, 40_000))
    assert large < 40 * small + 0.05  # by the square it would be 100 times


@pytest.mark.parametrize("path", ["/v2/repository/index", "/v2/repository/models/x/load", "/v1/sessions/x/fork"])
def test_no_large_body_is_decoded_on_the_event_loop(target: RunningServer, path: str) -> None:
    content = b'{"ready": [' + b"[]," * 5_000_000 + b"1]}"
    before = target.memory()
    response = target.client.post(path, content=content, headers=JSON)
    assert (response.status_code, response.json()["code"]) == (413, "too_large")
    assert target.memory("VmHWM") < before + 5 * len(content)
    check_serves(target)


def test_a_large_state_and_large_static_inputs_still_arrive(target: RunningServer) -> None:
    id = target.client.post(SESSIONS).json()["id"]
    body = {"state": "a" * 2_000_000}
    for response in (target.client.post(SESSIONS, json=body), target.client.put(f"/v1/sessions/{id}/state", json=body)):
        assert (response.status_code, response.json()["code"]) == (422, "bad_state_token")


def test_no_answer_repeats_much_of_a_request(target: RunningServer) -> None:
    long = "a" * 25_000
    octets = {"content-type": "application/octet-stream"}
    requests = [
        ("GET", f"/{long}", {}),
        ("GET", f"/v1/models/{long}", {}),
        ("GET", f"/v1/models/{MODEL}/versions/{long}", {}),
        ("POST", f"/v1/models/{long}/predict", JSON),
        ("POST", f"/v1/models/{MODEL}/versions/{long}/predict", JSON),
        ("POST", f"/v1/sessions/{long}/steps", JSON),
        ("GET", f"/v1/sessions/{long}", {}),
        ("GET", f"/v1/sessions?after={long}", {}),
        ("GET", f"/v1/sessions?limit={long}", {}),
        ("GET", f"/playground/{long}", {}),
        ("POST", f"/v2/repository/models/{long}/load", JSON),
        ("POST", f"{PREDICT}?{long}=1", octets),
        ("POST", f"{PREDICT}?top={long}", octets),
        ("POST", f"{PREDICT}?return={long}", octets),
        ("POST", PREDICT, {"content-type": long}),
        ("POST", PREDICT, {"content-encoding": long}),
        ("POST", PREDICT, {**JSON, "accept": long}),
        (long.upper(), "/livez", {}),
    ]
    for method, path, headers in requests:
        response = target.client.request(method, path, headers=headers)
        assert 400 <= response.status_code < 500, (method[:20], path[:40])
        assert len(response.content) < MOST_ANSWER, (method[:20], path[:40])
    check_serves(target)


def test_nothing_that_clients_say_is_kept(target: RunningServer) -> None:
    """Each request differs in all texts that a cache could go by."""
    check_serves(target)
    before = target.memory()
    for index in range(1_000):
        long = f"{index}" * 2_000
        headers = {"accept": f"application/json;x={long}", "content-type": f"application/json;x={long}"}
        target.client.post(f"{PREDICT}?{long}", content=b"{}", headers=headers)
        target.client.get(f"/v1/models/{long}", headers={"x-request-id": long})
    assert target.memory() < before + 16 * 2**20  # all together they take 40 MB
    check_serves(target)


def test_no_refused_body_is_kept(target: RunningServer) -> None:
    """An error holds the frames through which it came, and they the body."""
    size, octets = 4 * 2**20, {"content-type": "application/octet-stream"}
    bodies = [
        (PREDICT, b'{"sequence": "%b"}' % (b"a" * size), JSON),
        (PREDICT, bytes(size + 1), octets),
        ("/v1/models/nobody/predict", bytes(size), octets),
        (f"/v2/models/{MODEL}/infer", b'{"inputs": "%b"}' % (b"a" * size), JSON),
        (SESSIONS, b'{"ttl": "%b"}' % (b"a" * size), JSON),
    ]

    def refuse_all(times: int) -> None:
        for _ in range(times):
            for path, body, headers in bodies:
                assert 400 <= target.client.post(path, content=body, headers=headers).status_code < 500

    refuse_all(2)
    before = target.memory()
    refuse_all(20)
    assert target.memory() < before + 16 * size, "all together have 100 times as much"
    check_serves(target)


def read_all(connection: socket.socket) -> bytes:
    data = b""
    while piece := connection.recv(1 << 16):
        data += piece
    return data


def send_without_end(port: int, start: bytes) -> None:
    """Send a head until the connection is closed."""
    until = time.monotonic() + 60
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(start + b"a" * 70_000)
        assert connection.recv(1 << 16).split(b" ")[1] in (b"431", b"400")
        with contextlib.suppress(ConnectionError):
            while time.monotonic() < until:
                connection.send(b"a" * 977)
        assert time.monotonic() < until, "it was not closed"


def test_endless_heads_are_refused_early(target: RunningServer) -> None:
    """Four at once, since each connection stays open for seconds after the refusal."""
    starts = [b"GET /livez HTTP/1.1\r\nhost: t\r\nx: ", b"GET /", b"GET / HTTP/1.1\r\nx", b"\r\n"]
    before = target.memory()
    with ThreadPoolExecutor(len(starts)) as pool:
        list(pool.map(send_without_end, [target.port] * len(starts), starts))
    assert target.memory("VmHWM") < before + MOST_BYTES
    check_serves(target)


def test_heads_in_small_pieces_take_time_by_their_size(target: RunningServer) -> None:
    """Twenty heads of 30 kB that come in pieces of seven bytes do not hold up others."""
    head = b"GET /livez HTTP/1.1\r\nhost: t\r\nx: " + b"a" * 30_000

    def seconds() -> float:
        connections = [socket.create_connection(("127.0.0.1", target.port), timeout=60) for _ in range(20)]
        started = time.monotonic()
        for at in range(0, len(head), 700):
            for connection in connections:
                for piece in range(at, min(at + 700, len(head)), 7):
                    connection.send(head[piece : min(piece + 7, len(head))])
        for connection in connections:
            connection.sendall(b"\r\nconnection: close\r\n\r\n")
            assert read_all(connection).startswith(b"HTTP/1.1 200 ")
            connection.close()
        return time.monotonic() - started

    assert_undisturbed(seconds, lambda seconds: seconds < 20, attempts=3)
    check_serves(target)


@pytest.mark.parametrize("path", ["/livez", "/v1/sessions/x/fork", PREDICT, SESSIONS, "/v2/repository/index"])
@pytest.mark.parametrize("length", [b"0" * 5_000, b"0" * 5_000 + b"2"])
def test_a_length_of_many_zeros_is_a_number(target: RunningServer, path: str, length: bytes) -> None:
    method = b"GET" if path == "/livez" else b"POST"
    head = b"%b %b HTTP/1.1\r\nhost: t\r\nconnection: close\r\ncontent-type: application/json\r\n"
    head += b"content-length: %b\r\n\r\n"
    with socket.create_connection(("127.0.0.1", target.port), timeout=60) as connection:
        connection.sendall(head % (method, path.encode(), length) + b"{}" * (length[-1:] == b"2"))
        status = int(read_all(connection).split(b" ", 2)[1])
    assert status < 500 and status != 413
    check_serves(target)


@pytest.mark.parametrize(
    "path", ["/livez", "/readyz", "/metrics", "/v2/health/live", "/v1/models", "/v2", "/docs", "/"]
)
def test_a_route_that_answers_get_answers_head(target: RunningServer, path: str) -> None:
    response = target.client.head(path)
    assert (response.status_code, response.content) == (200, b"")
    assert response.headers["content-type"] == target.client.get(path).headers["content-type"]
    refused = target.client.put(path)
    assert (refused.status_code, refused.headers["allow"]) == (405, "GET, HEAD")


def test_a_route_that_answers_post_alone_answers_no_head(target: RunningServer) -> None:
    response = target.client.head(PREDICT)
    assert (response.status_code, response.headers["allow"], response.content) == (405, "POST", b"")


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "identity, gzip"])
@pytest.mark.parametrize("path", [PREDICT, SESSIONS, "/v2/repository/index"])
def test_a_compressed_body_is_refused_as_such(target: RunningServer, path: str, encoding: str) -> None:
    headers = {**JSON, "content-encoding": encoding}
    response = target.client.post(path, content=b"\x1f\x8b\x08\x00", headers=headers)
    assert (response.status_code, response.json()["where"]) == (415, "header Content-Encoding")
    plain = target.client.post(path, json={}, headers={"content-encoding": "identity"})
    assert plain.status_code != 415


def test_a_boolean_is_no_time_to_live(target: RunningServer) -> None:
    id = target.client.post(SESSIONS).json()["id"]
    for path in (SESSIONS, f"/v1/sessions/{id}/fork"):
        for value in (True, "60"):
            response = target.client.post(path, json={"ttl": value})
            assert (response.status_code, response.json()["where"]) == (422, "ttl")
        assert target.client.post(path, json={"ttl": 60}).status_code == 201


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("application/octet-stream;q=0.1, application/json", "json"),
        ("application/json;q=0.5, application/octet-stream;q=0.6", "octet-stream"),
        ("application/json, application/octet-stream", "json"),
        ("application/octet-stream, application/json", "octet-stream"),
        ("application/octet-stream;q=0, */*", "json"),
        ("application/json;q=0, */*", "octet-stream"),
        ("text/html, application/*;q=0.1", "json"),
        ("application/json;q=0", None),
        ("text/html;q=1", None),
    ],
)
def test_the_answer_is_of_the_type_that_is_preferred(target: RunningServer, accept: str, kind: str | None) -> None:
    response = target.client.post(PREDICT, json={"sequence": ROWS}, headers={"accept": accept})
    if kind is None:
        assert response.status_code == 406
    else:
        assert (response.status_code, response.headers["content-type"]) == (200, f"application/{kind}")


def test_every_answer_has_an_id_and_is_not_sniffed(target: RunningServer) -> None:
    def ask(**headers: str) -> list[httpx.Response]:
        return [
            target.client.post(PREDICT, json={"sequence": ROWS}, headers=headers),
            target.client.post(PREDICT, json={}, headers=headers),
            *(target.client.get(path, headers=headers) for path in ("/livez", "/metrics", "/", "/docs", "/nowhere")),
            target.client.post("/v1/models/names-gru/predict", content=b"{", headers=headers),
        ]

    own = [response.headers["x-request-id"] for response in ask() + ask()]
    assert len(set(own)) == len(own)
    for response in ask(**{"x-request-id": "trace-7"}):
        assert response.headers["x-request-id"] == "trace-7"
        assert response.headers.get_list("x-content-type-options") == ["nosniff"]
    for hostile in ("a" * 200, "a b", "caf\u00e9".encode().decode("latin-1"), ""):
        response = target.client.get("/livez", headers=[(b"x-request-id", hostile.encode("latin-1"))])
        assert response.headers["x-request-id"] not in ("", hostile)
