"""A deadline that a blocking call never passes, however slowly bytes arrive.

httpx limits each read and each write, not the whole call. An asynchronous call can be cancelled. A blocking call cannot
be, so here each socket operation gets no more time than the current call has left.
"""

import contextlib
import socket
import ssl
import time
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from math import inf
from types import TracebackType
from typing import Any

import httpcore
import httpx

from elman.client.bridge import KEEPALIVE, as_httpx, core_proxy, core_request

# Seconds: sockets and locks take no more at a time.
_LONGEST = 2e6


class Deadline:
    """The point in time `total` seconds after it was made."""

    def __init__(self, total: float) -> None:
        self.total = total
        self._at = time.monotonic() + total

    @property
    def remaining(self) -> float:
        """Seconds left, never negative."""
        return min(max(0.0, self._at - time.monotonic()), _LONGEST)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Limit every socket operation of this thread to the time that is left."""
        token = _current.set(self)
        try:
            yield
        finally:
            _current.reset(token)


_current: ContextVar[Deadline | None] = ContextVar("deadline", default=None)


def _left(timeout: float | None) -> float:
    """Seconds that one socket operation may take. Never 0, which would make the socket non-blocking."""
    deadline = _current.get()
    least = min(inf if timeout is None else timeout, inf if deadline is None else deadline.remaining)
    return max(least, 1e-3)


def _seconds(timeout: float | None) -> float | None:
    left = _left(timeout)
    return None if left == inf else left


class _Stream(httpcore.NetworkStream):
    """A connection whose reads and writes end at the deadline of the current call."""

    def __init__(self, inner: httpcore.NetworkStream) -> None:
        self._inner = inner
        self._socket: socket.socket = inner.get_extra_info("socket")

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._inner.read(max_bytes, _seconds(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        left = memoryview(buffer)
        try:
            while left:
                self._socket.settimeout(_seconds(timeout))
                left = left[self._socket.send(left) :]
        except TimeoutError as error:
            raise httpcore.WriteTimeout(str(error)) from error
        except OSError as error:
            raise httpcore.WriteError(str(error)) from error

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        return _Stream(self._inner.start_tls(ssl_context, server_hostname, _seconds(timeout)))

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


class _Backend(httpcore.NetworkBackend):
    """Opens connections that respect deadlines. One time limit covers all addresses of a host together."""

    def __init__(self) -> None:
        self._inner = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        until = time.monotonic() + _left(timeout)
        failure: Exception = httpcore.ConnectError(f"{host} has no address")
        for address in _addresses(host, port):
            left = _seconds(until - time.monotonic())
            try:
                return _Stream(self._inner.connect_tcp(address, port, left, local_address, socket_options))
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure


def _addresses(host: str, port: int) -> list[str]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise httpcore.ConnectError(f"{host}: {error}") from error
    return list(dict.fromkeys(str(address[4][0]) for address in found))


class _Body(httpx.SyncByteStream):
    def __init__(self, response: httpcore.Response) -> None:
        self._response = response

    def __iter__(self) -> Iterator[bytes]:
        with as_httpx():
            yield from self._response.iter_stream()

    def close(self) -> None:
        self._response.close()


class DeadlineTransport(httpx.BaseTransport):
    """The transport of blocking requests for httpx: a pool of connections that respect deadlines."""

    def __init__(self, verify: ssl.SSLContext, proxy: str | None = None, max_connections: int = 100) -> None:
        self._pool = httpcore.ConnectionPool(
            ssl_context=verify,
            proxy=core_proxy(proxy),
            max_connections=max_connections,
            max_keepalive_connections=max_connections,
            keepalive_expiry=KEEPALIVE,
            network_backend=_Backend(),
        )

    def __enter__(self) -> "DeadlineTransport":
        self._pool.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        self.close()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        with as_httpx():
            response = self._pool.handle_request(core_request(request))
        return httpx.Response(
            response.status, headers=response.headers, stream=_Body(response), extensions=response.extensions
        )

    def close(self) -> None:
        self._pool.close()
