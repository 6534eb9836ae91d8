"""A bad request is told what is wrong with it and where, and harms nobody else."""

import contextlib
import json
import math
import select
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests.reference import expected, float32, same_bits
from tests.running import RunningServer, running_server

# They start servers of their own.
pytestmark = pytest.mark.slow

FEATURES, TOKENS = "vowels-lstm", "names-gru"
GOOD = [0.25] * 12
JSON = "application/json"
BINARY = "application/octet-stream"

LIMIT = 20_000
MAX_STEPS = 500


def rows(text: str) -> bytes:
    """A body with one sequence of three steps, the second of which holds `text` as its third number."""
    good = json.dumps(GOOD)
    return f'{{"sequence": [{good}, [0, 0, {text}{", 0" * 9}], {good}]}}'.encode()


def body(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


def packed(*numbers: float) -> bytes:
    return struct.pack(f"<{len(numbers)}f", *numbers)


INVALID = (422, "invalid_field")
DEEP = b"[" * 100_000 + b"]" * 100_000

# (what it is, model, content type, body, status, code, where)
HOSTILE: list[tuple[str, str, str, bytes, int, str, str | None]] = [
    ("no body", FEATURES, JSON, b"", 400, "invalid_json", None),
    ("blank body", FEATURES, JSON, b" \n ", 400, "invalid_json", None),
    ("millions of lists", FEATURES, JSON, b'{"sequence": [' + b"[]," * 2**21 + b"[]]}", 413, "too_large", None),
    ("millions of objects", TOKENS, JSON, b'{"sequences": [' + b"{}," * 2**21 + b"{}]}", 413, "too_large", None),
    ("cut short", FEATURES, JSON, rows("0")[:-5], 400, "invalid_json", None),
    ("no JSON at all", FEATURES, JSON, b"sequence=1", 400, "invalid_json", None),
    ("more behind the JSON", FEATURES, JSON, rows("0") + b"{}", 400, "invalid_json", None),
    ("trailing comma", FEATURES, JSON, b'{"sequence": [[1],]}', 400, "invalid_json", None),
    ("invalid UTF-8", TOKENS, JSON, b'{"sequence": "\xff\xfe"}', 400, "invalid_json", None),
    ("lone surrogate", TOKENS, JSON, b'{"sequence": "a\\ud800b"}', 400, "invalid_json", None),
    ("UTF-16", FEATURES, JSON, rows("0").decode().encode("utf-16"), 400, "invalid_json", None),
    ("NaN", FEATURES, JSON, rows("NaN"), 422, "not_finite", "sequence[1][2]"),
    ("Infinity", FEATURES, JSON, rows("Infinity"), 422, "not_finite", "sequence[1][2]"),
    ("-Infinity", FEATURES, JSON, rows("-Infinity"), 422, "not_finite", "sequence[1][2]"),
    ("past float64", FEATURES, JSON, rows("1e999"), 422, "not_finite", "sequence[1][2]"),
    ("past float32", FEATURES, JSON, rows("1e39"), 422, "not_finite", "sequence[1][2]"),
    ("past float32, negative", FEATURES, JSON, rows("-3.5e38"), 422, "not_finite", "sequence[1][2]"),
    ("5000-digit integer", FEATURES, JSON, rows("9" * 5000), 422, "not_finite", "sequence[1][2]"),
    ("a string among numbers", FEATURES, JSON, rows('"1"'), *INVALID, "sequence[1][2]"),
    ("a boolean among numbers", FEATURES, JSON, rows("true"), *INVALID, "sequence[1][2]"),
    ("null among numbers", FEATURES, JSON, rows("null"), 422, "not_finite", "sequence[1][2]"),
    ("a list among numbers", FEATURES, JSON, rows("[1]"), *INVALID, "sequence[1][2]"),
    ("ragged rows", FEATURES, JSON, body(sequence=[GOOD, GOOD, GOOD[:5]]), 422, "ragged_features", "sequence[2]"),
    ("an empty row", FEATURES, JSON, body(sequence=[GOOD, []]), 422, "ragged_features", "sequence[1]"),
    ("rows of no features", FEATURES, JSON, body(sequence=[[], []]), 422, "wrong_features", "sequence[0]"),
    ("too few features", FEATURES, JSON, body(sequence=[GOOD[:11]] * 2), 422, "wrong_features", "sequence[0]"),
    ("too many features", FEATURES, JSON, body(sequence=[[*GOOD, 1.0]]), 422, "wrong_features", "sequence[0]"),
    ("the 4th of many ragged", FEATURES, JSON, body(sequences=[[GOOD]] * 3 + [[GOOD, [1.0]]]), 422,
     "ragged_features", "sequences[3][1]"),
    ("the 2nd of many not finite", FEATURES, JSON, body(sequences=[[GOOD], [GOOD, [1e39] * 12]]), 422,
     "not_finite", "sequences[1][1][0]"),
    ("empty sequence", FEATURES, JSON, body(sequence=[]), 422, "empty_sequence", "sequence"),
    ("empty sequence of many", FEATURES, JSON, body(sequences=[[GOOD], []]), 422, "empty_sequence", "sequences[1]"),
    ("empty text", TOKENS, JSON, body(sequence=""), 422, "empty_sequence", "sequence"),
    ("no sequences", FEATURES, JSON, body(sequences=[]), *INVALID, "sequences"),
    ("neither", FEATURES, JSON, b"{}", *INVALID, None),
    ("null", FEATURES, JSON, b'{"sequence": null}', *INVALID, None),
    ("both", FEATURES, JSON, body(sequence=[GOOD], sequences=[[GOOD]]), *INVALID, None),
    ("no object", FEATURES, JSON, b"[1, 2]", *INVALID, None),
    ("an unknown field", FEATURES, JSON, body(sequence=[GOOD], retrun="steps"), *INVALID, "retrun"),
    ("text for features", FEATURES, JSON, body(sequence="hello"), *INVALID, "sequence"),
    ("an unknown return", FEATURES, JSON, body(sequence=[GOOD], **{"return": "all"}), *INVALID, "return"),
    ("decode as text", FEATURES, JSON, body(sequence=[GOOD], decode="yes"), *INVALID, "decode"),
    ("huge top", FEATURES, JSON, body(sequence=[GOOD], top=10**9), *INVALID, "top"),
    ("top past int64", FEATURES, JSON, b'{"sequence": [[0]], "top": ' + b"9" * 5000 + b"}", 422, None, "top"),
    ("top of zero", FEATURES, JSON, body(sequence=[GOOD], top=0), *INVALID, "top"),
    ("timeout of zero", FEATURES, JSON, body(sequence=[GOOD], timeout=0), *INVALID, "timeout"),
    ("negative timeout", FEATURES, JSON, body(sequence=[GOOD], timeout=-1), *INVALID, "timeout"),
    ("negative token", TOKENS, JSON, body(sequence=[0, 1, -1]), 422, "unknown_token", "sequence[2]"),
    ("token out of range", TOKENS, JSON, body(sequences=[[1], [5, 111]]), 422, "unknown_token", "sequences[1][1]"),
    ("token past int64", TOKENS, JSON, body(sequence=[0, 2**70]), 422, None, "sequence[1]"),
    ("5000-digit token", TOKENS, JSON, b'{"sequence": [0, ' + b"9" * 5000 + b"]}", 422, None, "sequence[1]"),
    ("a fraction for a token", TOKENS, JSON, body(sequence=[0, 1.5]), *INVALID, "sequence[1]"),
    ("rows for tokens", TOKENS, JSON, body(sequence=[[1.0]]), *INVALID, "sequence[0]"),
    ("deep nesting", FEATURES, JSON, DEEP, 422, None, None),
    ("deep nesting in a sequence", FEATURES, JSON, b'{"sequence": ' + DEEP + b"}", 422, None, None),
    ("deep nesting in an unknown field", FEATURES, JSON, b'{"x": ' + DEEP + b"}", 422, None, None),
    ("deep objects", FEATURES, JSON, b'{"sequence": ' + b'{"a":' * 100_000 + b"1" + b"}" * 100_001, 422, None, None),
    ("wrong byte count", FEATURES, BINARY, b"\0" * 50, 422, "wrong_features", "sequence"),
    ("zero-length binary", FEATURES, BINARY, b"", 422, "empty_sequence", "sequence"),
    ("zero-length binary tokens", TOKENS, BINARY, b"", 422, "empty_sequence", "sequence"),
    ("NaN in binary", FEATURES, BINARY, packed(*GOOD, *GOOD[:4], math.nan, *GOOD[:7]), 422, "not_finite",
     "sequence[1][4]"),
    ("infinity in binary", FEATURES, BINARY, packed(-math.inf, *GOOD[:11]), 422, "not_finite", "sequence[0][0]"),
    ("negative token in binary", TOKENS, BINARY, struct.pack("<3i", 1, 2, -1), 422, "unknown_token", "sequence[2]"),
    ("half a token", TOKENS, BINARY, b"\0" * 6, 422, "wrong_features", "sequence"),
]  # fmt: skip


def check_problem(response: httpx.Response, status: int, code: str | None, where: str | None) -> None:
    assert response.status_code == status, response.text[:500]
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert problem["status"] == status
    assert code is None or problem["code"] == code, problem
    assert where is None or problem.get("where") == where, problem
    assert problem["detail"] and len(response.content) < 20_000


def check_answers(server: RunningServer) -> None:
    """The server still gives a right answer, and nothing is left in it."""
    sequence = np.full((5, 12), 0.25, np.float32)
    (result,) = server.predict(FEATURES, sequence=sequence.tolist()).json()["results"]
    assert same_bits(float32(result["output"]), expected(FEATURES, sequence)[-1])
    assert server.client.get("/readyz").status_code == 200
    assert server.stats()["elman_pending_sequences", ()] == 0


@pytest.mark.parametrize(
    ("model", "kind", "content", "status", "code", "where"),
    [pytest.param(*case[1:], id=case[0]) for case in HOSTILE],
)
def test_a_hostile_body_gets_its_error_and_the_server_answers_on(
    server: RunningServer, model: str, kind: str, content: bytes, status: int, code: str | None, where: str | None
) -> None:
    response = server.client.post(f"/v1/models/{model}/predict", content=content, headers={"content-type": kind})
    check_problem(response, status, code, where)
    check_answers(server)


@pytest.mark.parametrize(
    ("query", "where"),
    [
        ("top=0", "top"),
        ("top=1001", "top"),
        ("top=many", "top"),
        ("top=" + "9" * 5000, "top"),
        ("return=all", "return"),
        ("decode=yes", "decode"),
        ("timeout=0", "timeout"),
        ("timeout=nan", "timeout"),
        ("timeout=soon", "timeout"),
        ("retrun=steps", "retrun"),
        ("%ff=1", None),
    ],
)
def test_a_wrong_option_of_a_binary_request_is_named(server: RunningServer, query: str, where: str | None) -> None:
    url = f"/v1/models/{FEATURES}/predict?{query}"
    response = server.client.post(url, content=packed(*GOOD), headers={"content-type": BINARY})
    check_problem(response, 422, "invalid_field", where)


def test_options_of_a_json_request_do_not_belong_in_the_query(server: RunningServer) -> None:
    response = server.client.post(f"/v1/models/{FEATURES}/predict?return=steps", json={"sequence": [GOOD]})
    check_problem(response, 422, "invalid_field", "query")


def test_of_duplicated_keys_the_last_counts(server: RunningServer) -> None:
    """As in every JSON parser that Python has."""
    content = b'{"sequence": [[9]], "top": 2, "sequence": [' + json.dumps(GOOD).encode() + b'], "top": 1}'
    response = server.client.post(f"/v1/models/{FEATURES}/predict", content=content, headers={"content-type": JSON})
    once = server.predict(FEATURES, sequence=[GOOD], top=1)
    assert response.status_code == 200
    assert response.content == once.content


def test_the_largest_float32_is_no_mistake(server: RunningServer) -> None:
    largest = float(np.finfo(np.float32).max)
    response = server.predict(FEATURES, sequence=[[largest, -largest, 5e-324, *GOOD[:9]]])
    # What such a number does to a network is its own affair, but it is answered, or said not to be finite.
    assert response.status_code == 200 or response.json()["code"] == "not_finite_output"


def test_bad_and_good_requests_at_once_do_not_meet(server: RunningServer) -> None:
    from concurrent.futures import ThreadPoolExecutor

    sequence = np.random.default_rng(1).standard_normal((40, 12)).astype(np.float32)
    good = {"sequence": sequence.tolist()}
    cases = [case for case in HOSTILE if case[1] == FEATURES][:40]

    def send_bad(case: tuple[Any, ...]) -> int:
        url = f"/v1/models/{FEATURES}/predict"
        return server.client.post(url, content=case[3], headers={"content-type": case[2]}).status_code

    with ThreadPoolExecutor(8) as pool:
        bad = [pool.submit(send_bad, case) for case in cases]
        answers = [pool.submit(server.predict, FEATURES, **good) for _ in cases]
        assert [one.result() for one in bad] == [case[4] for case in cases]
        wanted = expected(FEATURES, sequence)[-1]
        assert all(same_bits(float32(one.result().json()["results"][0]["output"]), wanted) for one in answers)


# Sizes and stalls, on a server with small limits


@pytest.fixture(scope="module")
def strict(small_store: Path) -> Iterator[RunningServer]:
    with running_server(small_store, "--max-body", str(LIMIT), max_steps=MAX_STEPS, max_queue=50) as one:
        yield one


@pytest.fixture(scope="module")
def hasty(small_store: Path) -> Iterator[RunningServer]:
    with running_server(small_store, body_timeout=2.0) as one:
        yield one


@contextlib.contextmanager
def connected(server: RunningServer) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        yield connection


def head(*headers: str) -> bytes:
    lines = [f"POST /v1/models/{FEATURES}/predict HTTP/1.1", "host: test", *headers, "", ""]
    return "\r\n".join(lines).encode()


def read_response(connection: socket.socket) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of one response with a content-length."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = connection.recv(65536)
        assert piece, f"the connection closed after {data!r}"
        data += piece
    lines, _, content = data.partition(b"\r\n\r\n")
    status, *fields = lines.decode().split("\r\n")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in fields)}
    while len(content) < int(headers["content-length"]):
        content += connection.recv(65536)
    return int(status.split()[1]), headers, content


def check_raw(connection: socket.socket, status: int, code: str) -> None:
    seen, headers, content = read_response(connection)
    assert (seen, headers["content-type"]) == (status, "application/problem+json")
    assert json.loads(content)["code"] == code


@pytest.mark.slow
def test_a_body_over_the_limit_is_413(strict: RunningServer) -> None:
    response = strict.predict(FEATURES, sequence=[GOOD] * 400)
    check_problem(response, 413, "too_large", None)
    check_answers(strict)


@pytest.mark.slow
def test_a_body_declared_over_the_limit_is_413_before_it_is_sent(strict: RunningServer) -> None:
    with connected(strict) as connection:
        connection.sendall(head(f"content-length: {LIMIT + 1}"))
        check_raw(connection, 413, "too_large")
    with connected(strict) as connection:
        connection.sendall(head("content-length: 99999999999"))
        check_raw(connection, 413, "too_large")
    check_answers(strict)


@pytest.mark.slow
def test_a_chunked_body_over_the_limit_is_413(strict: RunningServer) -> None:
    response = strict.client.post(f"/v1/models/{FEATURES}/predict", content=(b" " * 1000 for _ in range(40)))
    check_problem(response, 413, "too_large", None)
    check_answers(strict)


@pytest.mark.slow
def test_an_endless_chunked_body_is_413(strict: RunningServer) -> None:
    with connected(strict) as connection:
        connection.sendall(head("transfer-encoding: chunked"))
        for _ in range(LIMIT // 1000 + 1):
            connection.sendall(b"3e8\r\n" + b" " * 1000 + b"\r\n")
        check_raw(connection, 413, "too_large")
    check_answers(strict)


@pytest.mark.slow
def test_an_unfinished_body_that_is_over_the_limit_at_once_is_413(strict: RunningServer) -> None:
    piece = b"3e8\r\n" + b" " * 1000 + b"\r\n"
    with connected(strict) as connection:
        connection.sendall(head("transfer-encoding: chunked") + piece * (LIMIT // 1000 + 1))
        check_raw(connection, 413, "too_large")
    check_answers(strict)


@pytest.mark.slow
def test_a_chunked_body_within_the_limit_is_read(strict: RunningServer) -> None:
    content = body(sequence=[GOOD] * 3)
    pieces = (content[at : at + 7] for at in range(0, len(content), 7))
    response = strict.client.post(f"/v1/models/{FEATURES}/predict", content=pieces)
    assert response.content == strict.predict(FEATURES, sequence=[GOOD] * 3).content
    assert response.status_code == 200


@pytest.mark.slow
@pytest.mark.parametrize("framing", ["content-length: 1000", "transfer-encoding: chunked"])
def test_a_stalled_body_is_408(hasty: RunningServer, framing: str) -> None:
    with connected(hasty) as connection:
        started = time.monotonic()
        connection.sendall(head(framing))
        check_raw(connection, 408, "body_timeout")
        assert 1.9 < time.monotonic() - started < 20.0
    check_answers(hasty)


@pytest.mark.slow
def test_a_stalled_connection_is_closed_after_its_408(hasty: RunningServer) -> None:
    with connected(hasty) as connection:
        connection.sendall(head("content-length: 1000") + b'{"sequ')
        check_raw(connection, 408, "body_timeout")
        assert connection.recv(1) == b"", "the connection stays open in the middle of a body"


@pytest.mark.slow
@pytest.mark.parametrize("sent", [b"", b'{"sequence": [['])
def test_half_a_request_and_a_closed_connection_harm_nobody(strict: RunningServer, sent: bytes) -> None:
    for _ in range(20):
        with connected(strict) as connection:
            connection.sendall(head("content-length: 500") + sent)
    check_answers(strict)
    assert "Traceback" not in strict.log.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("garbage", [b"\x16\x03\x01\x02\x00\x01\x00", b"GET\r\n\r\n", b"\0" * 100, b"A" * 10_000])
def test_what_is_not_http_harms_nobody(strict: RunningServer, garbage: bytes) -> None:
    with connected(strict) as connection:
        connection.sendall(garbage)
    check_answers(strict)


@pytest.mark.slow
def test_a_sequence_of_too_many_steps_is_413(strict: RunningServer) -> None:
    response = strict.client.post(f"/v1/models/{TOKENS}/predict", json={"sequences": ["a", [1] * (MAX_STEPS + 1)]})
    check_problem(response, 413, "too_long", "sequences[1]")
    assert strict.predict(TOKENS, sequence=[1] * MAX_STEPS).status_code == 200


@pytest.mark.slow
def test_more_sequences_than_the_queue_holds_are_413(strict: RunningServer) -> None:
    check_problem(strict.predict(TOKENS, sequences=["a"] * 51), 413, "too_long", "sequences")
    assert strict.predict(TOKENS, sequences=["a"] * 50).status_code == 200


@pytest.mark.slow
def test_slow_uploads_of_one_caller_leave_room_for_the_body_of_another(strict: RunningServer) -> None:
    def upload(stack: contextlib.ExitStack, address: str) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", strict.port), 10, source_address=(address, 0))
        return stack.enter_context(connection)

    content = body(sequence=[GOOD] * 3).ljust(LIMIT - 1000)
    with contextlib.ExitStack() as stack:
        greedy = [upload(stack, "127.0.0.2") for _ in range(8)]
        for connection in greedy:
            connection.sendall(head(f"content-length: {LIMIT}") + b" " * (LIMIT // 2))
        refused = 0
        for connection in greedy:
            connection.sendall(b" " * (LIMIT // 2 - 10))
        readable, _, _ = select.select(greedy, [], [], 5.0)
        for connection in readable:
            check_raw(connection, 503, "overloaded")
            refused += 1
        assert refused, "one caller took more than four bodies"
        with upload(stack, "127.0.0.3") as light:
            light.sendall(head(f"content-length: {len(content)}"))
            for at in range(0, len(content), 1000):
                light.sendall(content[at : at + 1000])
            assert read_response(light)[0] == 200
    check_answers(strict)
