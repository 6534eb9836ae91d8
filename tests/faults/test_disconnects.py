"""A client that goes away takes its work with it, and nobody else's."""

import socket
import time

import numpy as np

from tests.reference import expected, float32, same_bits
from tests.running import RunningServer

LENGTH = 1_000_000
LABELS = ("vowels-lstm", "1")


def test_work_stops_when_its_client_disconnects(server: RunningServer) -> None:
    content = np.zeros((LENGTH, 12), "<f4").tobytes()
    head = (
        "POST /v1/models/vowels-lstm/predict HTTP/1.1\r\nhost: test\r\n"
        f"content-type: application/octet-stream\r\ncontent-length: {len(content)}\r\n\r\n"
    ).encode()
    before, logged = server.stats(), len(server.log.read_text())
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(head + content)
        server.wait_for("elman_pending_sequences", 1.0)
    left = time.monotonic()
    server.wait_for("elman_pending_sequences", 0.0)
    assert time.monotonic() - left < 3.0
    after = server.stats()
    assert after["elman_steps_total", LABELS] - before["elman_steps_total", LABELS] < LENGTH
    answered = ("elman_request_seconds_count", LABELS)
    assert after.get(answered) == before.get(answered)
    assert "Traceback" not in server.log.read_text()[logged:]


def test_a_client_that_leaves_at_once_harms_nobody(server: RunningServer) -> None:
    sequence = np.random.default_rng(0).standard_normal((200, 12)).astype(np.float32)
    head = (
        "POST /v1/models/vowels-lstm/predict HTTP/1.1\r\nhost: test\r\n"
        f"content-type: application/octet-stream\r\ncontent-length: {sequence.nbytes}\r\n\r\n"
    ).encode()
    logged = len(server.log.read_text())
    for _ in range(50):
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(head + sequence.tobytes())
    (result,) = server.predict("vowels-lstm", sequence=sequence.tolist()).json()["results"]
    assert same_bits(float32(result["output"]), expected("vowels-lstm", sequence)[-1])
    server.wait_for("elman_pending_sequences", 0.0)
    assert "Traceback" not in server.log.read_text()[logged:]
