"""Calls that no library for gRPC sends, by frames of HTTP/2."""

import queue
import signal
import socket
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.api.test_grpc import SERVICE, Channel, refused, request, rows
from tests.conftest import StartServer
from tests.running import RunningServer
from tests.waiting import wait_until

pytestmark = pytest.mark.slow

_DATA, _HEADERS, _SETTINGS, _END_STREAM, _END_HEADERS = 0, 1, 4, 1, 4


def answered(port: int, path: bytes, *metadata: tuple[bytes, bytes]) -> bytes:
    """What comes back for a call with an empty message until the connection or the call ends."""
    fields = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", path), (b":authority", b"localhost")]
    fields += [(b"content-type", b"application/grpc"), (b"te", b"trailers"), *metadata]
    head = b"".join(b"\x00" + bytes([len(name)]) + name + bytes([len(value)]) + value for name, value in fields)
    with socket.create_connection(("127.0.0.1", port), 60) as connection:
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _frame(_SETTINGS, 0, 0, b""))
        connection.sendall(_frame(_HEADERS, _END_HEADERS, 1, head) + _frame(_DATA, _END_STREAM, 1, bytes(5)))
        found = b""
        while b"grpc-status" not in found and (piece := connection.recv(65536)):
            found += piece
    return found


def _frame(kind: int, flags: int, stream: int, content: bytes) -> bytes:
    return len(content).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + content


@pytest.fixture
def server(start_server: StartServer, small_store: Path) -> RunningServer:
    return start_server(small_store, "--grpc-port", "0", drain_timeout=120)


def test_a_path_that_is_no_text_ends_neither_the_server_nor_a_call_under_way(server: RunningServer) -> None:
    messages: queue.Queue[Any] = queue.Queue()
    stream = Channel(server, ()).method("ModelStreamInfer", kind="stream_stream")(iter(messages.get, None), timeout=120)
    messages.put(request(rows(2), id="before"))
    assert next(stream).infer_response.id == "before"
    for _ in range(2):
        answered(server.grpc_port, b"/%b/\xff" % SERVICE.encode())
        wait_until(lambda: _is_live(server))
    messages.put(request(rows(2), id="after"))
    assert next(stream).infer_response.id == "after"
    assert server.log.read_text().count("gRPC listens anew") == 2
    server.process.send_signal(signal.SIGTERM)
    refused(lambda: next(stream), grpc.StatusCode.UNAVAILABLE, "draining")
    messages.put(None)


def _is_live(server: RunningServer) -> bool:
    channel = Channel(server, ())
    try:
        return bool(channel.ask("ServerLive").live)
    except grpc.RpcError:
        return False
    finally:
        channel.channel.close()


@pytest.mark.parametrize("value", [b"\xe9", "€".encode()], ids=["latin-1", "utf-8"])
def test_metadata_may_have_any_bytes(server: RunningServer, value: bytes) -> None:
    found = answered(server.grpc_port, f"/{SERVICE}/ServerLive".encode(), (b"x-other", value))
    assert b"grpc-status\x010" in found, found
