"""A connection of the awaitable client reads every form of response in HTTP/1.1, and takes nothing else for one."""

import asyncio
import gzip
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from elman.client import AsyncClient, Disconnected, NoAnswer, Retries, TimedOut, Timeout
from elman.client.aio import connection
from elman.client.aio.connection import Reply, read_reply

OK = b"HTTP/1.1 200 OK\r\n"
WHOLE: dict[str, tuple[bytes, tuple[int, bytes, bool]]] = {
    "a length": (OK + b"Content-Length: 5\r\n\r\nhello", (200, b"hello", True)),
    "no body": (b"HTTP/1.1 204 No Content\r\nx: y\r\n\r\n", (204, b"", True)),
    "no reason": (b"HTTP/1.1 404\r\ncontent-length: 0\r\n\r\n", (404, b"", True)),
    "the same length twice": (OK + b"content-length: 1\r\ncontent-length: 1\r\n\r\na", (200, b"a", True)),
    "chunks": (OK + b"transfer-encoding: chunked\r\n\r\n5\r\nhello\r\nA;x=y\r\n0123456789\r\n0\r\n\r\n",
               (200, b"hello0123456789", True)),
    "trailing fields": (OK + b"transfer-encoding: Chunked\r\n\r\n1\r\na\r\n0\r\nx: y\r\nz: w\r\n\r\n",
                        (200, b"a", True)),
    "chunks and a length": (OK + b"content-length: 9\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
                            (200, b"a", True)),
    "an interim response": (b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + OK + b"content-length: 1\r\n\r\na",
                            (200, b"a", True)),
    "a last response": (OK + b"connection: close\r\ncontent-length: 1\r\n\r\na", (200, b"a", False)),
    "HTTP/1.0": (b"HTTP/1.0 200 OK\r\ncontent-length: 1\r\n\r\na", (200, b"a", False)),
    "more than was asked for": (OK + b"content-length: 1\r\n\r\naHTTP/1.1 200 OK\r\n", (200, b"a", False)),
}  # fmt: skip


def read(pieces: list[bytes], method: str = "POST") -> Reply | None:
    """What the pieces are read as; None if more is waited for."""
    reading = read_reply(method)
    next(reading)
    try:
        for piece in pieces:
            reading.send(piece)  # type: ignore[arg-type]
    except StopIteration as done:
        reply: Reply = done.value
        return reply
    return None


@pytest.mark.parametrize("name", WHOLE)
def test_a_response_is_read_whole_and_byte_by_byte(name: str) -> None:
    content, expected = WHOLE[name]
    whole = read([content])
    assert whole is not None and (whole[0], whole[2], whole[3]) == expected
    if name != "more than was asked for":
        assert read([content[i : i + 1] for i in range(len(content))]) == whole
        assert read([content[:-1]]) is None


def test_a_body_without_a_length_ends_with_the_connection() -> None:
    pieces = [OK + b"x: y\r\n\r\nab", b"cd"]
    assert read(pieces) is None
    whole = read([*pieces, b""])
    assert whole is not None and whole[2:] == (b"abcd", False)
    head = read([OK + b"content-length: 5\r\n\r\n"], "HEAD")
    assert head is not None and head[2:] == (b"", True)


@pytest.mark.parametrize(
    "content",
    [
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 99 Low\r\n\r\n",
        OK + b"no colon\r\n\r\n",
        OK + b"spaced : x\r\n\r\n",
        OK + b" folded: x\r\n\r\n",
        OK + b"content-length: 5\r\ncontent-length: 6\r\n\r\n",
        OK + b"content-length: -1\r\n\r\n",
        OK + b"content-length: 1_0\r\n\r\n",
        OK + b"transfer-encoding: gzip\r\n\r\n",
        OK + b"transfer-encoding: chunked, chunked\r\n\r\n",
        OK + b"transfer-encoding: chunked\r\n\r\n0x5\r\nhello\r\n",
        OK + b"transfer-encoding: chunked\r\n\r\n-5\r\nhello\r\n",
        OK + b"transfer-encoding: chunked\r\n\r\n2\r\nhello\r\n",
        OK + b"x: " + b"y" * (1 << 17),
        OK + b"content-length: 5\r\n\r\nhell" + b"\0END",
    ],
    ids=lambda content: str(content[:60]),
)
def test_what_is_no_response_is_told(content: bytes) -> None:
    pieces = [content.removesuffix(b"\0END")] + [b""] * content.endswith(b"\0END")
    with pytest.raises(httpx.RemoteProtocolError):
        read(pieces)


Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def serving(serve: Serve) -> Any:
    """The address of a server that treats each connection so, and how many there were."""
    connections: list[int] = []

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(1)
        try:
            await serve(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async with await asyncio.start_server(connected, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", connections


async def asked(reader: asyncio.StreamReader) -> bytes:
    """The head of the next request; its body is read too."""
    head = await reader.readuntil(b"\r\n\r\n")
    if b"Content-Length: " in head:
        await reader.readexactly(int(head.partition(b"Content-Length: ")[2].partition(b"\r\n")[0]))
    return head


def answers(*replies: bytes) -> Serve:
    """A server that gives these answers over each connection, one a request."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for reply in replies:
            await asked(reader)
            writer.write(reply)
            await writer.drain()

    return serve


METRICS = OK + b"content-length: 2\r\n\r\nok"


def test_a_connection_is_used_again_until_it_ends() -> None:
    async def run() -> None:
        async with serving(answers(METRICS, METRICS, METRICS)) as (url, connections), AsyncClient(url) as client:
            # After the third answer the server closes. The call after it notices, before or after it is sent.
            assert [await client.metrics() for _ in range(6)] == ["ok"] * 6
            assert len(connections) == 2
        last = OK + b"connection: close\r\ncontent-length: 2\r\n\r\nok"
        async with serving(answers(last)) as (url, connections), AsyncClient(url, retries=Retries(1)) as client:
            assert [await client.metrics() for _ in range(3)] == ["ok"] * 3
            assert len(connections) == 3

    asyncio.run(run())


def test_a_compressed_response_is_read() -> None:
    packed = gzip.compress(b"figures")
    reply = OK + b"content-encoding: gzip\r\ncontent-length: %d\r\n\r\n%b" % (len(packed), packed)

    async def run() -> str:
        async with serving(answers(reply)) as (url, _), AsyncClient(url) as client:
            return await client.metrics()

    assert asyncio.run(run()) == "figures"


def test_a_connection_that_ends_in_an_answer_is_told_and_not_used_again() -> None:
    async def run() -> None:
        async with serving(answers(METRICS[:-1])) as (url, connections):
            async with AsyncClient(url, retries=Retries(attempts=2, first=0.0)) as client:
                with pytest.raises(Disconnected, match="the connection ended"):
                    await client.metrics()
            assert len(connections) == 2

    asyncio.run(run())


@pytest.fixture
def silent() -> Serve:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asked(reader)
        await reader.read()  # until the client gives up

    return serve


def test_a_silent_server_ends_an_attempt(silent: Serve) -> None:
    async def run() -> None:
        once = Retries(attempts=1)
        async with serving(silent) as (url, _):
            async with AsyncClient(url, timeout=Timeout(60.0, read=0.05), retries=once) as client:
                with pytest.raises(TimedOut, match="no answer comes"):
                    await client.metrics()

    asyncio.run(run())


def test_a_server_that_takes_no_request_ends_an_attempt() -> None:
    async def deaf(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        await given_up.wait()

    given_up = asyncio.Event()

    async def run() -> None:
        async with serving(deaf) as (url, _):
            async with AsyncClient(url, timeout=Timeout(60.0, write=0.1), retries=Retries(attempts=1)) as client:
                with pytest.raises(TimedOut, match="the request is not taken"):
                    await client.model("m").generate("x" * 40_000_000)
            given_up.set()

    asyncio.run(run())


def test_a_large_request_that_is_taken_slowly_is_sent() -> None:
    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        left = int(head.partition(b"Content-Length: ")[2].partition(b"\r\n")[0])
        while left:
            left -= len(await reader.read(1 << 20))
            await asyncio.sleep(0)
        writer.write(OK + b"content-length: 2\r\n\r\n{}")
        await writer.drain()

    async def run() -> None:
        async with serving(slow) as (url, connections), AsyncClient(url, timeout=Timeout(60.0, read=30.0)) as client:
            with pytest.raises(NoAnswer, match="is not what Elman sends"):
                await client.model("m").generate("x" * 20_000_000)
            assert len(connections) == 1

    asyncio.run(run())


def test_a_field_of_a_request_cannot_end_it() -> None:
    async def run() -> None:
        async with serving(answers(METRICS)) as (url, _):
            async with AsyncClient(url, api_key="a\r\nx-more: 1") as client:
                with pytest.raises(NoAnswer, match="end of a line"):
                    await client.metrics()

    asyncio.run(run())


def test_a_connection_that_was_idle_for_long_is_not_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        async with serving(answers(METRICS, METRICS)) as (url, connections), AsyncClient(url) as client:
            await client.metrics()
            monkeypatch.setattr(connection, "KEEPALIVE", -1.0)
            await client.metrics()
            assert len(connections) == 2

    asyncio.run(run())
