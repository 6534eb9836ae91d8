"""An answer's head and body reach the kernel together, and nothing waits for what does not come."""

import asyncio
import socket
from typing import Any

import pytest

from elman.http.protocol import HeadHoldingTransport
from tests.conftest import StartServer
from tests.running import RunningServer

HEAD = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n"
STREAM_HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


class Written:
    """A transport that notes what is written to it, call by call."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.closing = False

    def write(self, data: bytes) -> None:
        self.calls.append(data)

    def writelines(self, pieces: Any) -> None:
        self.calls.append(tuple(pieces))

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.calls.append("closed")

    def get_extra_info(self, name: str) -> str:
        return name


@pytest.fixture
def written() -> Written:
    return Written()


def holding(written: Written) -> HeadHoldingTransport:
    transport: Any = written
    assert not isinstance(transport, asyncio.Transport)
    return HeadHoldingTransport(transport)


def test_head_and_body_are_one_write(written: Written) -> None:
    transport = holding(written)
    transport.write(HEAD)
    assert written.calls == []
    transport.write(b"ok")
    transport.flush()
    assert written.calls == [HEAD + b"ok"]


def test_a_large_body_is_not_copied(written: Written) -> None:
    transport, body = holding(written), bytes(1_000_000)
    transport.write(HEAD)
    transport.write(body)
    assert written.calls == [(HEAD, body)]
    assert written.calls[0][1] is body


@pytest.mark.parametrize(
    "data", [STREAM_HEAD, b"HTTP/1.1 100 Continue\r\n\r\n", b"0\r\n\r\n", b"data: 1\r\n\r\n", HEAD + b"ok"]
)
def test_what_may_be_all_there_is_for_now_is_written_at_once(written: Written, data: bytes) -> None:
    transport = holding(written)
    transport.write(data)
    assert written.calls == [data]


def test_a_head_that_nothing_follows_is_written_at_the_end(written: Written) -> None:
    transport = holding(written)
    transport.write(HEAD)
    transport.flush()
    transport.write(HEAD)
    transport.close()
    assert written.calls == [HEAD, HEAD, "closed"]
    assert transport.get_extra_info("peername") == "peername"


@pytest.mark.parametrize("size", [2, 1_000_000])
def test_nothing_is_written_to_a_peer_that_is_gone(written: Written, size: int) -> None:
    transport = holding(written)
    transport.write(HEAD)
    written.closing = True
    transport.write(bytes(size))
    transport.write(HEAD)
    transport.flush()
    assert written.calls == []


def test_the_answer_to_head_is_its_head(server: RunningServer) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection:
        for _ in range(2):
            connection.sendall(b"HEAD /livez HTTP/1.1\r\nhost: test\r\n\r\n")
            data = b""
            while not data.endswith(b"\r\n\r\n"):
                piece = connection.recv(4096)
                assert piece
                data += piece
            assert data.startswith(b"HTTP/1.1 ")
            assert data.count(b"\r\n\r\n") == 1


def test_an_upgrade_before_an_answer_leaves_the_answer_alone(start_server: StartServer) -> None:
    server = start_server()
    asked = b"GET /v1/models HTTP/1.1\r\nhost: test\r\n\r\n"
    upgrade = (
        b"GET /v1/models/vowels-gru/stream HTTP/1.1\r\nhost: test\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
        b"sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection:
        connection.sendall(asked + upgrade)
        data = connection.recv(65536)
        assert data.startswith(b"HTTP/1.1 ")
    assert server.client.get("/livez").status_code == 200
    assert "AttributeError" not in server.log.read_text()
