"""SIGTERM: what is in flight is answered, what stalls is left, and the process ends with 0."""

import contextlib
import signal
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest

from tests.reference import expected
from tests.running import LOADS, RunningServer
from tests.waiting import wait_until

pytestmark = pytest.mark.slow

LENGTH = 60_000
URL = "/v1/models/vowels-lstm/predict"
HEADERS = {"content-type": "application/octet-stream", "accept": "application/octet-stream"}


@pytest.fixture(scope="module")
def long() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((LENGTH, 12)).astype(np.float32)


def test_requests_in_flight_are_answered_before_the_server_ends(
    start_server: Callable[..., RunningServer], long: np.ndarray
) -> None:
    server = start_server(drain_timeout=60, max_queue_seconds=3600)  # a slow machine is to answer all of it as well
    content = long.tobytes()
    with ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(server.client.post, URL, content=content, headers=HEADERS) for _ in range(8)]
        server.wait_until_taken(8)
        server.process.send_signal(signal.SIGTERM)
        responses = [answer.result() for answer in answers]
    assert [response.status_code for response in responses] == [200] * 8
    wanted = expected("vowels-lstm", long)[-1].tobytes()
    assert {response.content for response in responses} == {wanted}
    assert server.process.wait(60) == 0


def test_a_stalled_client_does_not_keep_a_stopping_server_alive(start_server: Callable[..., RunningServer]) -> None:
    server = start_server(drain_timeout=0)
    head = f"POST {URL} HTTP/1.1\r\nhost: test\r\ncontent-length: 1000\r\n\r\n".encode()
    with (
        socket.create_connection(("127.0.0.1", server.port)) as stalled,
        socket.create_connection(("127.0.0.1", server.port)) as silent,
    ):
        stalled.sendall(head + b'{"sequence')
        silent.sendall(b"POST /v1/mod")
        time.sleep(0.2)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(60) == 0


def test_work_that_does_not_end_in_time_is_given_up(start_server: Callable[..., RunningServer]) -> None:
    server = start_server(drain_timeout=0, max_queue_seconds=3600)  # a slow machine is to take all of it as well
    url, endless = "/v1/models/names-gru/predict", np.zeros(1_000_000, "<i4").tobytes()
    with ThreadPoolExecutor(24) as pool:
        answers = [pool.submit(server.client.post, url, content=endless, headers=HEADERS) for _ in range(24)]
        server.wait_until_taken(24)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(60) == 0
        for answer in answers:
            # Told that the server stops, or cut off, or done in time after all.
            error = answer.exception()
            if error is not None:
                assert isinstance(error, httpx.TransportError)
            elif answer.result().status_code != 200:
                assert (answer.result().status_code, answer.result().json()["code"]) == (503, "draining")


@pytest.mark.parametrize(("number", "workers"), [(signal.SIGTERM, 1), (signal.SIGINT, 1), (signal.SIGTERM, 2)])
def test_a_stopping_server_takes_no_new_connections_and_answers_a_body_on_its_way(
    start_server: Callable[..., RunningServer], long: np.ndarray, tmp_path: Path, number: signal.Signals, workers: int
) -> None:
    server = start_server(drain_timeout=60, body_timeout=60, workers=workers, store_dir=tmp_path, load_cache_dir=LOADS)
    content = long[:100].tobytes()
    head = f"POST {URL} HTTP/1.1\r\nhost: test\r\ncontent-type: {HEADERS['content-type']}\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        connection.sendall(f"{head}expect: 100-continue\r\ncontent-length: {len(content)}\r\n\r\n".encode())
        assert connection.recv(4096) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(content[:1000])
        server.process.send_signal(number)
        with pytest.raises(httpx.ConnectError):
            while True:
                with contextlib.suppress(httpx.ReadError, httpx.RemoteProtocolError):  # it had not been accepted
                    httpx.get(f"{server.url}/livez", timeout=60)
        connection.sendall(content[1000:])
        assert connection.recv(4096).startswith(b"HTTP/1.1 200 ")
    assert server.process.wait(60) == 0


def test_a_second_sigint_ends_the_server_at_once_and_in_order(
    start_server: Callable[..., RunningServer], long: np.ndarray
) -> None:
    server = start_server(drain_timeout=300, max_queue_seconds=3600)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(server.client.post, URL, content=np.tile(long, (16, 1)).tobytes(), headers=HEADERS)
        server.wait_until_taken(1)
        server.process.send_signal(signal.SIGINT)
        wait_until(lambda: "Shutting down" in server.log.read_text())
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(60) == 0
        assert answer.result().status_code in (200, 503)
    assert "Traceback" not in server.log.read_text()
