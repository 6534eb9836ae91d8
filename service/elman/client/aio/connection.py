"""A connection to the server for awaited calls: HTTP/1.1, one request after another, whole responses.

Of the time of a small call the general machinery below httpx takes most: its pool, its streams, and a parser in Python
that takes each part of a message as an event. All that is needed here is to write a request and to read a response.
"""

import asyncio
import re
import ssl
from collections.abc import Generator
from typing import Any

import httpx

from elman.client.deadline import KEEPALIVE

# Bytes of the head of a response, and of the line before a chunk.
_MAX_HEAD, _MAX_LINE = 1 << 16, 1 << 12
_STATUS = re.compile(rb"HTTP/1\.([01]) ([1-5]\d\d)(?: [^\r\n]*)?")
_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_DIGITS = re.compile(rb"[0-9]+")
_HEX = re.compile(rb"[0-9A-Fa-f]+")
# What would end a field, or the head, of a request.
_ILLEGAL = re.compile(rb"[\r\n\0]")
# Bytes that wait to be sent; of no more than these nobody looks whether they go on.
_SMALL = 1 << 16
# Of a body that is being sent, how often in its time limit it is looked at whether it goes on.
_LOOKS = 4

Headers = list[tuple[bytes, bytes]]
Reply = tuple[int, Headers, bytes, bool]
"""Status, header fields, body as it was sent, and whether the connection may be used again."""


def read_reply(method: str) -> Generator[None, bytes, Reply]:
    """Reads a response. It is sent the bytes that arrive, and b"" when the connection has ended; returns the whole.

    Raises RemoteProtocolError if it is not HTTP/1.1, or not complete.
    """
    buffer = bytearray()
    status = 100
    while status < 200:  # an interim response is followed by another
        end = yield from _found(buffer, b"\r\n\r\n", _MAX_HEAD)
        version, status, headers = _head(bytes(buffer[:end]))
        del buffer[: end + 4]
    fields = [(name.lower(), value.lower()) for name, value in headers]
    coding = b",".join(value for name, value in fields if name == b"transfer-encoding")
    lengths = {value for name, value in fields if name == b"content-length"}
    closes = version == 0 or any(name == b"connection" and b"close" in value for name, value in fields)
    body, extra = b"", 0
    if method == "HEAD" or status in (204, 304):
        extra = len(buffer)
    elif coding:
        if coding.rpartition(b",")[2].strip() != b"chunked" or b"," in coding:
            raise httpx.RemoteProtocolError(f"the response has an unknown transfer coding: {coding!r}")
        body = yield from _read_chunks(buffer)
        extra = len(buffer)
    elif lengths:
        length = lengths.pop()
        if lengths or not _DIGITS.fullmatch(length):
            raise httpx.RemoteProtocolError("the response has no single length")
        yield from _filled(buffer, int(length))
        body, extra = bytes(memoryview(buffer)[: int(length)]), len(buffer) - int(length)
    else:
        closes = True
        while data := (yield):
            buffer += data
        body = bytes(buffer)
    return status, headers, body, not closes and not extra


def _found(buffer: bytearray, mark: bytes, most: int) -> Generator[None, bytes, int]:
    """Where a mark is, once it has come."""
    while (end := buffer.find(mark)) < 0:
        if len(buffer) > most:
            raise httpx.RemoteProtocolError(f"the response has a head of more than {most} bytes")
        yield from _filled(buffer, len(buffer) + 1)
    return end


def _filled(buffer: bytearray, length: int) -> Generator[None, bytes, None]:
    """Wait until so many bytes are there."""
    while len(buffer) < length:
        data = yield
        if not data:
            raise httpx.RemoteProtocolError("the connection ended")
        buffer += data


def _head(head: bytes) -> tuple[int, int, Headers]:
    """The minor version, the status and the header fields."""
    first, *lines = head.split(b"\r\n")
    found = _STATUS.fullmatch(first)
    if found is None:
        raise httpx.RemoteProtocolError(f"the response begins with {first[:40]!r}, and not as HTTP/1.1 does")
    headers = []
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon or not _NAME.fullmatch(name):
            raise httpx.RemoteProtocolError(f"the response has an illegal header field: {line[:40]!r}")
        headers.append((name, value.strip(b" \t")))
    return int(found[1]), int(found[2]), headers


def _read_chunks(buffer: bytearray) -> Generator[None, bytes, bytes]:
    """Take the chunks, with the fields that may follow the last one, and return what they hold."""
    body = bytearray()
    while True:
        end = yield from _found(buffer, b"\r\n", _MAX_LINE)
        size = bytes(buffer[:end]).partition(b";")[0].strip()
        if not _HEX.fullmatch(size):
            raise httpx.RemoteProtocolError(f"the response has a chunk of {size[:40]!r} bytes")
        length = int(size, 16)
        del buffer[: end + 2]
        if not length:
            break
        yield from _filled(buffer, length + 2)
        if buffer[length : length + 2] != b"\r\n":
            raise httpx.RemoteProtocolError("the response has a chunk that is longer than it says")
        body += buffer[:length]
        del buffer[: length + 2]
    while end := (yield from _found(buffer, b"\r\n", _MAX_LINE)):  # trailing fields
        del buffer[: end + 2]
    del buffer[:2]
    return bytes(body)


class _Connection(asyncio.Protocol):
    """An open connection, with at most one request under way."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: Any = None
        self._reply: Generator[None, bytes, Reply] | None = None
        self._answer: asyncio.Future[Reply] | None = None
        self._active_at = self._loop.time()
        self._closed = False

    @property
    def usable(self) -> bool:
        """Whether another request may be sent."""
        return not self._closed and self._loop.time() < self._active_at + KEEPALIVE

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._active_at = self._loop.time()
        if self._reply is None:
            self.abort()  # nothing was asked for
        else:
            self._feed(data)

    def connection_lost(self, error: Exception | None) -> None:
        self._closed = True
        if error is not None:
            self._fail(httpx.ReadError(str(error)))
        elif self._reply is not None:
            self._feed(b"")

    def _feed(self, data: bytes) -> None:
        assert self._reply is not None
        try:
            self._reply.send(data)
        except StopIteration as done:
            self._reply = None
            if self._answer is not None and not self._answer.done():
                self._answer.set_result(done.value)
        except httpx.RemoteProtocolError as error:
            self._fail(error)

    def _fail(self, error: httpx.TransportError) -> None:
        self._reply = None
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)
        self.abort()

    def abort(self) -> None:
        """Close the connection at once."""
        self._closed = True
        if self._transport is not None:
            self._transport.abort()

    async def exchange(self, request: httpx.Request) -> Reply:
        """Send a request and read its response. After any error the connection is closed."""
        message, limits = _message(request), request.extensions["timeout"]
        self._reply, self._answer = read_reply(request.method), self._loop.create_future()
        next(self._reply)
        self._active_at = self._loop.time()
        self._transport.write(message)
        watch = None
        if limits["read"] < limits["pool"] or self._transport.get_write_buffer_size() > _SMALL:
            watch = asyncio.ensure_future(self._watch(limits["read"], limits["write"]))
        try:
            reply = await self._answer
        except BaseException:
            self.abort()
            raise
        finally:
            if watch is not None:
                watch.cancel()
        if not reply[3] or self._transport.get_write_buffer_size():
            self.abort()
        return reply

    async def _watch(self, read: float, write: float) -> None:
        """End the request if it is not sent on, or not answered, for so many seconds."""
        left, moved_at = self._transport.get_write_buffer_size(), self._loop.time()
        while left:
            await asyncio.sleep(write / _LOOKS)
            before, left = left, self._transport.get_write_buffer_size()
            if left != before:
                moved_at = self._active_at = self._loop.time()
            elif self._loop.time() - moved_at >= write:
                self._fail(httpx.WriteTimeout("the request is not taken"))
                return
        while (silent := self._loop.time() - self._active_at) < read:
            await asyncio.sleep(read - silent)
        self._fail(httpx.ReadTimeout("no answer comes"))


def _message(request: httpx.Request) -> bytes:
    """A request as it is sent. Raises LocalProtocolError for what would end a header field early."""
    headers = request.headers.raw
    if _ILLEGAL.search(b" ".join(value for _, value in headers)):
        raise httpx.LocalProtocolError("a header field has the end of a line in its value")
    fields = b"".join(b"%b: %b\r\n" % field for field in headers)
    return b"%b %b HTTP/1.1\r\n%b\r\n%b" % (request.method.encode(), request.url.raw_path, fields, request.content)


class AsyncConnection(httpx.AsyncBaseTransport):
    """A transport of httpx with one connection, which is opened when it is needed. One request at a time."""

    def __init__(self, tls: ssl.SSLContext) -> None:
        self._tls = tls
        self._open: _Connection | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if self._open is None or not self._open.usable:
            await self.aclose()
            self._open = await self._connect(request)
        status, headers, body, _ = await self._open.exchange(request)
        return httpx.Response(status, headers=headers, content=body)

    async def _connect(self, request: httpx.Request) -> _Connection:
        url, limits = request.url, request.extensions["timeout"]
        secure = url.scheme == "https"
        if secure:
            self._tls.set_alpn_protocols(["http/1.1"])
        options: dict[str, Any] = {"ssl": self._tls} if secure else {}
        try:
            async with asyncio.timeout(limits["connect"]):
                _, connection = await asyncio.get_running_loop().create_connection(
                    _Connection, url.raw_host.decode(), url.port or (443 if secure else 80), **options
                )
        except TimeoutError as error:
            raise httpx.ConnectTimeout("no connection was made in time") from error
        except OSError as error:
            raise httpx.ConnectError(str(error)) from error
        return connection

    async def aclose(self) -> None:
        if self._open is not None:
            self._open.abort()
            self._open = None
