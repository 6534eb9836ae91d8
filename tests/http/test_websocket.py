"""A hostile WebSocket costs no more than its share, is closed with a reason, and leaves nothing behind."""

import contextlib
import json
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.running import RunningServer, running_server
from tests.waiting import assert_undisturbed

# They start servers of their own.
pytestmark = pytest.mark.slow

MODEL = "vowels-gru"
ROW = struct.pack("<12f", *[0.25] * 12)
TEXT, BINARY, CONTINUATION, PING, PONG = 1, 2, 0, 9, 10
MIB = 2**20


@pytest.fixture(scope="module")
def target(small_store: Path) -> Iterator[RunningServer]:
    with running_server(small_store, max_body=4 * MIB) as one:
        yield one


@pytest.fixture(autouse=True)
def close_sockets() -> Iterator[None]:
    yield
    while SOCKETS:
        SOCKETS.pop().close()


SOCKETS: list[socket.socket] = []


class Stream:
    """A client that sends whatever bytes it likes. Its socket is closed at the end of the test."""

    def __init__(self, server: RunningServer, extensions: str = "") -> None:
        self.socket = socket.create_connection(("127.0.0.1", server.port), timeout=20)
        SOCKETS.append(self.socket)
        self.socket.sendall(
            f"GET /v1/models/{MODEL}/stream HTTP/1.1\r\nhost: localhost\r\nupgrade: websocket\r\n"
            f"connection: upgrade\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
            f"{extensions}\r\n".encode()
        )
        self._data = b""
        while b"\r\n\r\n" not in self._data:
            self._fill()
        self.head, _, self._data = self._data.partition(b"\r\n\r\n")
        self.hello = json.loads(self.read()[1])

    def _fill(self) -> None:
        piece = self.socket.recv(1 << 16)
        if not piece:
            raise ConnectionResetError
        self._data += piece

    def _take(self, count: int) -> bytes:
        while len(self._data) < count:
            self._fill()
        taken, self._data = self._data[:count], self._data[count:]
        return taken

    def read(self) -> tuple[int, bytes]:
        """The kind and content of the next frame."""
        kind, size = self._take(2)
        if size == 126:
            (size,) = struct.unpack("!H", self._take(2))
        elif size == 127:
            (size,) = struct.unpack("!Q", self._take(8))
        return kind & 15, self._take(size)

    def closed(self) -> int:
        """The code that the server closes with; frames before it are passed over."""
        while True:
            kind, content = self.read()
            if kind == 8:
                return int.from_bytes(content[:2], "big")


def frame(kind: int, content: bytes, final: bool = True, size: int | None = None) -> bytes:
    """A frame with a mask of zeros. `size` is what it says of its length."""
    size = len(content) if size is None else size
    length = bytes([128 | size]) if size < 126 else b"\xff" + struct.pack("!Q", size)
    return bytes([kind | (128 if final else 0)]) + length + bytes(4) + content


def check_serves(server: RunningServer) -> None:
    assert server.client.get("/livez").status_code == 200
    stream = Stream(server)
    stream.socket.sendall(frame(BINARY, ROW))
    assert stream.read()[0] == BINARY
    stream.socket.close()
    assert "Traceback" not in server.log.read_text()


def test_compression_is_not_agreed_to(target: RunningServer) -> None:
    stream = Stream(target, "sec-websocket-extensions: permessage-deflate; client_max_window_bits\r\n")
    assert b"permessage-deflate" not in stream.head.lower()
    stream.socket.sendall(bytes([0xC1]) + frame(TEXT, b"{}")[1:])  # a frame that says that it is compressed
    assert stream.closed() == 1002
    check_serves(target)


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        ([frame(BINARY, b"", size=MIB + 1)], 1009),
        ([frame(BINARY, bytes(MIB // 2), final=False), frame(CONTINUATION, b"", size=MIB // 2 + 1)], 1009),
        ([frame(BINARY, b"", final=False), *[frame(CONTINUATION, b"", final=False)] * 5_000], 1009),
        ([frame(PING, b"") * 2_000], 1008),
        ([frame(PONG, b"") * 2_000], 1008),
        ([frame(TEXT, b"\xff\xfe")], 1007),
        ([frame(TEXT, b"\xe2\x82")], 1007),
        ([frame(TEXT, b"a", final=False), frame(CONTINUATION, b"\xff")], 1007),
        ([frame(CONTINUATION, b"a")], 1002),
        ([frame(3, b"a")], 1002),
    ],
    ids=[
        "large",
        "large in all",
        "many fragments",
        "many pings",
        "many pongs",
        "not UTF-8",
        "half a character",
        "not UTF-8 later",
        "no first",
        "kind",
    ],
)
def test_a_frame_that_is_not_allowed_closes_with_its_code(
    target: RunningServer, frames: list[bytes], code: int
) -> None:
    stream = Stream(target)
    with contextlib.suppress(ConnectionError):
        for one in frames:
            stream.socket.sendall(one)
    assert stream.closed() == code
    check_serves(target)


def test_forty_large_messages_cost_no_more_than_the_budget_of_bodies(target: RunningServer) -> None:
    """Each holds back the last byte. The budget is four times the largest body."""
    check_serves(target)
    before = target.memory()
    streams = [Stream(target) for _ in range(40)]
    for stream in streams:
        with contextlib.suppress(ConnectionError):
            stream.socket.sendall(frame(BINARY, bytes(MIB - 1), size=MIB))
    time.sleep(1)
    assert target.memory("VmHWM") < before + 3 * 16 * MIB
    for stream in streams:
        stream.socket.close()
    check_serves(target)
    sent = target.client.post(f"/v1/models/{MODEL}/predict", content=iter([ROW * 20_000] * 4), headers={
        "content-type": "application/octet-stream", "accept": "application/octet-stream",
    })  # fmt: skip
    assert sent.status_code == 200, "the budget is there again"


def test_many_tiny_frames_do_not_become_many_objects(target: RunningServer) -> None:
    check_serves(target)
    before = target.memory()
    streams = [Stream(target) for _ in range(20)]
    flood = frame(BINARY, b"") * 40_000
    for stream in streams:
        stream.socket.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            stream.socket.send(flood)
    time.sleep(1)
    assert target.memory("VmHWM") < before + 64 * MIB
    for stream in streams:
        stream.socket.close()
    check_serves(target)


def test_frames_that_need_no_wait_do_not_hold_the_event_loop(target: RunningServer) -> None:
    """Twenty thousand empty frames of one client: another request is answered before all of them."""

    def refused_before() -> float:
        before = target.errors().get("invalid_json", 0)
        stream = Stream(target)
        stream.socket.sendall(frame(TEXT, b"") * 20_000)
        number = target.errors()["invalid_json"] - before
        stream.socket.close()
        return number

    assert_undisturbed(refused_before, lambda number: number < 5_000)
    check_serves(target)


@pytest.mark.parametrize(
    ("method", "more"),
    [
        ("GET", f"x: {'a' * 9_000}\r\n"),
        ("GET", "content-length: 5\r\n"),
        ("GET", "transfer-encoding: chunked\r\n"),
        ("POST", ""),
    ],
    ids=["a long line", "a length", "chunks", "another method"],
)
def test_what_is_no_handshake_is_answered_and_keeps_no_server_from_stopping(
    small_store: Path, method: str, more: str
) -> None:
    with running_server(small_store) as server:
        with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
            connection.sendall(
                f"{method} /v1/models/{MODEL}/stream HTTP/1.1\r\nhost: localhost\r\nupgrade: websocket\r\n"
                "connection: upgrade\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
                f"{more}\r\n".encode()
            )
            assert connection.recv(1 << 16).split(b" ")[1] in (b"400", b"405")
            assert server.client.get("/livez").status_code == 200
            assert server.terminate() == 0
        assert "Traceback" not in server.log.read_text()


def test_answers_to_pings_do_not_pile_up(target: RunningServer) -> None:
    check_serves(target)
    before = target.memory()
    stream = Stream(target)
    stream.socket.settimeout(2)
    with contextlib.suppress(TimeoutError, ConnectionError):
        for _ in range(2_000):
            stream.socket.sendall(frame(PING, bytes(125)) * 256)
    assert target.memory() < before + 32 * MIB
    stream.socket.close()
    check_serves(target)


def test_a_message_that_does_not_arrive_is_given_up(small_store: Path) -> None:
    with running_server(small_store, body_timeout=1) as server:
        stream = Stream(server)
        time.sleep(3)
        stream.socket.sendall(frame(BINARY, ROW))
        assert stream.read()[0] == BINARY, "to be silent between messages is allowed"
        stream.socket.sendall(frame(BINARY, ROW)[:-1])
        assert stream.closed() == 1008


def test_a_soak_of_streams_returns_to_its_memory(target: RunningServer) -> None:
    def open_and_close(count: int) -> None:
        for index in range(count):
            stream = Stream(target)
            stream.socket.sendall(frame(BINARY, ROW))
            assert stream.read()[0] == BINARY
            if index % 2:
                stream.socket.sendall(frame(8, b"\x03\xe8"))
                stream.closed()
            stream.socket.close()

    open_and_close(300)
    before = target.memory()
    open_and_close(3_000)
    assert target.memory() < before + 24 * MIB
    check_serves(target)


def test_no_log_holds_the_id_of_a_session(small_store: Path) -> None:
    with running_server(small_store, "--access-log", "--log-level", "debug") as server:
        id = Stream(server).hello["session"]
        again = server.client.post(f"/v1/sessions/{id}/steps", json={"sequence": [[0.25] * 12]})
        assert again.status_code == 200
        assert server.client.get(f"/v1/sessions?after={id}").status_code == 200
        log = server.log.read_text()
        assert "/v1/sessions/.../steps" in log and again.headers["x-request-id"] in log
        assert id not in log


def test_frames_that_wait_for_their_turn_are_answered_in_their_order(target: RunningServer) -> None:
    """A connection from another address makes the server let callers take turns."""
    with socket.create_connection(("127.0.0.1", target.port), 20, ("127.0.0.2", 0)) as other:
        other.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert other.recv(12) == b"HTTP/1.1 200"
        stream = Stream(target)
        steps = [frame(TEXT, json.dumps({"sequence": [[0.1] * 12] * count}).encode()) for count in (1, 2, 3, 400)]
        content = b"".join(steps)  # more than is parsed at once
        for piece in (content[:10], content[10:100], content[100:]):
            stream.socket.sendall(piece)
        assert [json.loads(stream.read()[1])["step"] for _ in steps] == [1, 3, 6, 406]
        stream.socket.close()
