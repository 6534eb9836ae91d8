"""A client that goes away takes its work with it, and nobody else's."""

import os
import socket
import struct
import time

import numpy as np
import pytest

from tests.reference import expected, float32, same_bits
from tests.running import RunningServer
from tests.waiting import assert_undisturbed, wait_until

LENGTH = 1_000_000
LABELS = ("vowels-lstm", "1")


def test_work_stops_when_its_client_disconnects(server: RunningServer) -> None:
    content = np.zeros((LENGTH, 12), "<f4").tobytes()
    head = (
        "POST /v1/models/vowels-lstm/predict HTTP/1.1\r\nhost: test\r\n"
        f"content-type: application/octet-stream\r\ncontent-length: {len(content)}\r\n\r\n"
    ).encode()
    logged = len(server.log.read_text())

    def seconds_until_it_stops() -> float:
        before = server.stats()
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(head + content)
            server.wait_for("elman_pending_sequences", 1.0)
        left = time.monotonic()
        server.wait_for("elman_pending_sequences", 0.0)
        stopped, after = time.monotonic(), server.stats()
        assert after["elman_steps_total", LABELS] - before["elman_steps_total", LABELS] < LENGTH
        answered = ("elman_request_seconds_count", LABELS)
        assert after.get(answered) == before.get(answered)
        return stopped - left

    assert_undisturbed(seconds_until_it_stops, lambda seconds: seconds < 3.0)
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


POST = b"POST /v1/models/vowels-gru/predict HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n%b"
WHOLE, LONG = (POST % (len(body), body) for body in (b'{"sequence": [[%b]]}' % b",".join([b"1"] * 12), b" " * 90_000))
STREAM = (
    b"GET /v1/models/vowels-gru/stream HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
    b"sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
LEFT = [
    *(b"", b"PO", WHOLE[:40], WHOLE[:-3], WHOLE, WHOLE + WHOLE[:50], WHOLE * 100, LONG, LONG[:-1], LONG + WHOLE * 3),
    *(b"junk\r\n\r\n", b"GET /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n" * 80),
    *(STREAM, STREAM[:-2], STREAM + b"\x82\x80", STREAM + b"\x89\x80" + bytes(4)),
]


def num_sockets(server: RunningServer) -> int:
    """The sockets that the server's process has open while our client has one connection."""
    server.client.get("/livez")
    folder = f"/proc/{server.process.pid}/fd"
    found = 0
    for name in os.listdir(folder):
        try:
            found += os.readlink(f"{folder}/{name}").startswith("socket:")
        except FileNotFoundError:  # closed meanwhile
            pass
    return found


@pytest.mark.slow
@pytest.mark.parametrize("abruptly", [False, True])
def test_wherever_a_client_leaves_nothing_of_it_stays_and_the_metrics_add_up(
    server: RunningServer, abruptly: bool
) -> None:
    before, logged = num_sockets(server), len(server.log.read_text())
    for left in LEFT * 4:
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(left)
            if abruptly:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    server.wait_for("elman_active_requests", 1.0)  # the one that asks
    server.wait_for("elman_pending_sequences", 0.0)
    server.wait_for("elman_streams", 0.0)
    wait_until(lambda: num_sockets(server) <= before, "sockets stay open")
    stats = server.stats()
    ended = sum(value for (name, _), value in stats.items() if name == "elman_requests_total")
    assert stats["elman_accepted_requests_total", ()] == ended + 1
    assert "Traceback" not in server.log.read_text()[logged:]
