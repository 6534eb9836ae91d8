"""Connections are bounded in number, in all and from one address, and in silence; health checks always get through."""

import contextlib
import resource
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from elman.http.connections import Connections
from elman.http.process import within_descriptors
from elman.settings import Settings
from tests.http.test_protocol import as_json, post
from tests.running import RunningServer, running_server
from tests.waiting import wait_until

# They start servers of their own.
pytestmark = pytest.mark.slow

LIMIT = 20


@pytest.fixture(scope="module")
def narrow(small_store: Path) -> Iterator[RunningServer]:
    with running_server(small_store, max_connections=LIMIT, max_address_connections=LIMIT) as one:
        yield one


@contextlib.contextmanager
def silent(server: RunningServer, count: int, first: bytes = b"", source: str = "127.0.0.1") -> Iterator[None]:
    """So many connections that send `first` and then nothing."""
    server.client.close()  # its kept connections count too
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            connection = socket.create_connection(("127.0.0.1", server.port), 60, source_address=(source, 0))
            stack.enter_context(connection).sendall(first)
        time.sleep(0.2)
        yield


def ask(server: RunningServer, request: bytes, source: str = "127.0.0.1") -> bytes:
    """The first line of the answer, by a new connection, which must be closed after it."""
    with socket.create_connection(("127.0.0.1", server.port), 60, source_address=(source, 0)) as connection:
        connection.sendall(request)
        data = b""
        while piece := connection.recv(1 << 16):
            data += piece
    return data.split(b"\r\n")[0]


HEALTH = [b"GET /livez HTTP/1.1\r\nhost: t\r\n\r\n", b"HEAD /readyz HTTP/1.1\r\nhost: t\r\n\r\n"]


@pytest.mark.parametrize("first", [b"", b"GET / HTTP/1.1\r\n", b"POST /v1 HTTP/1.1\r\ncontent-length: 9\r\n\r\n1"])
def test_when_all_connections_are_taken_the_health_is_told_and_others_refused(
    narrow: RunningServer, first: bytes
) -> None:
    with silent(narrow, LIMIT, first):
        for request in HEALTH * 3:
            assert b" 200 " in ask(narrow, request)
        for request in (
            post(as_json(2)),
            b"GET /v1/models HTTP/1.1\r\nhost: t\r\n\r\n",
            b"GET / HTTP/1.1\r\nhost: t\r\n\r\n",
        ):
            assert b" 503 " in ask(narrow, request)
    wait_until(lambda: b" 200 " in ask(narrow, post(as_json(2), connection="close")), "they are not let go of")


def test_many_more_silent_connections_do_not_keep_the_health_check_out(narrow: RunningServer) -> None:
    with silent(narrow, LIMIT + 300):
        for request in HEALTH * 3:
            assert b" 200 " in ask(narrow, request)


def test_one_address_does_not_take_all_connections(small_store: Path) -> None:
    with running_server(small_store, max_connections=LIMIT) as server, silent(server, LIMIT, source="127.0.0.2"):
        assert b" 503 " in ask(server, post(as_json(2)), source="127.0.0.2")
        assert b" 200 " in ask(server, post(as_json(2), connection="close"), source="127.0.0.3")


def test_silent_and_idle_connections_are_closed(narrow: RunningServer) -> None:
    idle, half = b"GET /livez HTTP/1.1\r\nhost: t\r\n\r\n", b"GET /livez HTTP/1.1\r\nho"
    with contextlib.ExitStack() as stack:
        connections = []
        for first in (b"", half, idle, post(as_json(2)) + half):
            connection = socket.create_connection(("127.0.0.1", narrow.port), timeout=60)
            connections.append(stack.enter_context(connection))
            connection.sendall(first)
        started = time.monotonic()
        for connection in connections:
            while connection.recv(4096):
                pass
        assert time.monotonic() - started < 15


def test_a_server_with_few_descriptors_takes_fewer_connections(small_store: Path) -> None:
    """Else an accept would fail for all once a thousand silent connections have taken 1,024 descriptors."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (2048, before[1]))
    try:
        with running_server(small_store) as server:
            resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE)
            with silent(server, 1_100):
                assert all(b" 200 " in ask(server, request) for request in HEALTH)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_the_process_may_open_as_many_files_as_its_connections_need(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = [(1024, 4096)]
    monkeypatch.setattr(resource, "getrlimit", lambda kind: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda kind, both: limits.append(both))
    assert within_descriptors(Settings(max_connections=700)).max_connections == 700
    assert limits == [(1024, 4096)]
    assert within_descriptors(Settings(max_connections=2_000)).max_connections == 2_000
    assert 2_000 < limits[-1][0] <= 4096
    assert 3_000 < within_descriptors(Settings(max_connections=10_000)).max_connections < 4096
    assert limits[-1] == (4096, 4096)
    with_grpc = within_descriptors(Settings(max_connections=10_000, grpc_port=0)).max_connections
    assert 1_500 < with_grpc < 2048, "both kinds of connections have room"


def test_of_many_connections_beyond_the_limit_the_oldest_are_closed_at_once() -> None:
    class Counted:
        deadline = 0.0
        num_expired = 0

        def expire(self) -> None:
            self.num_expired += 1

    connections, extra = Connections(1, 1), [Counted() for _ in range(100)]
    for one in extra:
        connections.add(one, extra=True)  # none is discarded before the next turn of the loop
    assert [one.num_expired for one in extra] == [1] * 36 + [0] * 64


def test_connections_are_counted_by_address_and_network() -> None:
    connections = Connections(10, 2)
    assert connections.admit(1, ("10.0.0.1", 1)) and connections.admit(2, ("10.0.0.1", 2))
    assert not connections.admit(3, ("10.0.0.1", 3))
    assert connections.admit(3, ("::ffff:10.0.0.2", 3, 0, 0)) and connections.admit(4, ("10.0.0.2", 4))
    assert not connections.admit(5, ("10.0.0.2", 5))
    assert connections.admit(5, ("2001:db8::1", 5, 0, 0)) and connections.admit(6, ("2001:db8::2", 6, 0, 0))
    assert not connections.admit(7, ("2001:db8::3", 7, 0, 0)) and connections.admit(7, ("2001:db8:0:1::1", 7, 0, 0))
    connections.release(1)
    connections.release(1)
    assert connections.admit(8, ("10.0.0.1", 8)) and not connections.admit(9, ("10.0.0.1", 9))
    assert [connections.admit(one, "socket") for one in (10, 11, 12, 13)] == [True, True, True, False]
