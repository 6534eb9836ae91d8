"""Connections of several callers: whose request begins when, and that nothing is lost when a client leaves."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest
from uvicorn.config import Config
from uvicorn.server import ServerState

from elman.engine.work import Work
from elman.http.bodies import Bodies
from elman.http.callers import Caller
from elman.http.connections import Connections
from elman.http.endpoint import Request, Response, Route
from elman.http.protocol import HTTPProtocol
from tests.fuzz.connection import Application, Wire
from tests.http.test_protocol import OCTETS, PATH, Parsed, sequence
from tests.http.test_protocol import post as predict
from tests.reference import expected
from tests.running import RunningServer

LARGE = 3 * 2**20
# A piece that the event loop reads at once.
PIECE = 250_000


class Place:
    """An endpoint that keeps the order in which its requests begin. The answer is the size of the body."""

    def __init__(self) -> None:
        self.begun: list[str] = []

    def parse(self, request: Request) -> Work | Response:
        self.begun.append(request.query.decode())
        return Response(b"%d" % len(request.body))


class Shared(Application):
    """An application whose callers are told apart by a header field."""

    def __init__(self) -> None:
        super().__init__()
        self.bodies = Bodies(4 * LARGE, 30.0)
        self.connections = Connections(1000, 1000)
        self.place = Place()

    def party(self, headers: Any, address: bytes) -> bytes:
        owner: bytes = headers[b"x-owner"]
        return owner

    def find(self, path: str, headers: Any) -> Route:
        caller = Caller(headers[b"x-owner"], frozenset())
        return Route(self.place, {}, path, caller, self.driver)  # type: ignore[arg-type]


class Line(Wire):
    """A connection's transport, which tells whether it is read."""

    reading = True

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def writelines(self, pieces: Any) -> None:
        self.write(b"".join(pieces))


def post(owner: str, name: str, body: bytes = b"") -> bytes:
    lines = [f"POST /place?{name} HTTP/1.1", "host: here", f"x-owner: {owner}", f"content-length: {len(body)}"]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def run(test: Callable[[Shared, Callable[[], HTTPProtocol]], Awaitable[None]]) -> Shared:
    """Run a test with an application, and a function that makes a connection to it."""
    app = Shared()
    config = Config(app, log_config=None, access_log=False)  # type: ignore[arg-type]
    config.load()
    config.loaded_app = app

    def connect() -> HTTPProtocol:
        connection = HTTPProtocol(config, ServerState(), {})
        connection.connection_made(Line())
        return connection

    asyncio.run(test(app, connect))  # type: ignore[arg-type]
    assert app.counters.num_accepted == app.counters.num_ended
    assert not app.bodies.budget.num_held and not app.bodies.waiting
    return app


def answers(connection: HTTPProtocol) -> list[bytes]:
    written = bytes(connection.transport.written)  # type: ignore[attr-defined]
    return [one.partition(b"\r\n\r\n")[2] for one in written.split(b"HTTP/1.1 200 OK")[1:]]


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not true():
            await asyncio.sleep(0.001)


def test_a_request_that_repeats_its_head_takes_the_turns_of_its_own_caller() -> None:
    """Also where a proxy sends requests of several callers over one connection."""

    async def test(app: Shared, connect: Callable[[], HTTPProtocol]) -> None:
        one, chunked = connect(), b"transfer-encoding: chunked\r\n\r\n0\r\n\r\n"
        one.data_received(post("a", "x"))
        one.data_received(post("b", "x").replace(b"content-length: 0\r\n\r\n", chunked))
        assert one._taking == b"b"
        one.data_received(post("a", "x"))
        assert one._taking == b"a" and answers(one) == [b"0"] * 3

    run(test)


def test_a_request_does_not_wait_for_those_of_another_caller_that_came_before_it() -> None:
    async def test(app: Shared, connect: Callable[[], HTTPProtocol]) -> None:
        light, *heavy = [connect() for _ in range(101)]
        light.data_received(post("light", "known"))
        app.place.begun.clear()
        for index, one in enumerate(heavy):
            one.data_received(post("heavy", f"heavy-{index}"))
        light.data_received(post("light", "light"))
        assert app.place.begun == ["heavy-0", "light"]
        await until(lambda: len(app.place.begun) == 101)
        assert app.place.begun[2:] == [f"heavy-{index}" for index in range(1, 100)]
        assert all(answers(one) == [b"0"] for one in heavy) and answers(light) == [b"0", b"0"]

    run(test)


def test_with_a_single_caller_each_request_begins_as_it_comes() -> None:
    async def test(app: Shared, connect: Callable[[], HTTPProtocol]) -> None:
        for index in range(30):
            connect().data_received(post("alone", f"{index}"))
        assert app.place.begun == [f"{index}" for index in range(30)]

    run(test)


def test_a_connection_that_is_lost_before_its_turn_begins_nothing_and_holds_up_nobody() -> None:
    async def test(app: Shared, connect: Callable[[], HTTPProtocol]) -> None:
        other, *several = [connect() for _ in range(21)]
        other.data_received(post("other", "other"))
        for index, one in enumerate(several):
            one.data_received(post("owner", f"{index}"))
            one.data_received(post("owner", f"{index}-again"))  # waits for the answer to the first
        for one in several[1::2]:
            one.connection_lost(None)
        left = [f"{index}" for index in range(0, 20, 2)]
        await until(lambda: len(app.place.begun) == 1 + 2 * len(left))
        assert sorted(app.place.begun) == sorted(["other", *left, *[f"{one}-again" for one in left]])
        for one in several[::2]:
            assert len(answers(one)) == 2
            one.connection_lost(None)
        assert not app.connections.turns.several, "those that are gone take no turns"

    run(test)


def test_a_large_body_is_joined_beside_the_event_loop_and_answers_keep_their_order() -> None:
    async def test(app: Shared, connect: Callable[[], HTTPProtocol]) -> None:
        connection, lost = connect(), connect()
        body = bytes(LARGE)
        for one in (connection, lost):
            content = post("owner", "large", body) + post("owner", "small", b"12") + post("owner", "large", body)
            for at in range(0, len(content), PIECE):
                one.data_received(content[at : at + PIECE])
        assert not app.place.begun, "the thread has not answered yet"
        assert app.bodies.budget.num_held == 4 * LARGE
        lost.connection_lost(None)
        await until(lambda: len(answers(connection)) == 3)
        assert answers(connection) == [b"%d" % LARGE, b"2", b"%d" % LARGE]
        assert app.place.begun == ["large", "small", "large"]

    run(test)


def test_with_several_callers_a_large_body_is_read_a_piece_a_turn() -> None:
    async def test(app: Shared, connect: Callable[[], HTTPProtocol]) -> None:
        connect().data_received(post("other", "other"))
        body = bytes(LARGE // 2)
        connections = [connect() for _ in range(24)]
        lines: list[Any] = [one.transport for one in connections]
        contents = [post("owner", "large", body) for _ in connections]
        most = 0
        while any(contents):
            # What an event loop does: it reads a piece of each connection that is not paused.
            readable = [index for index, line in enumerate(lines) if line.reading and contents[index]]
            if len(contents[0]) < len(body):  # the first piece of each comes before anybody knows of it
                most = max(most, len(readable))
            for index in readable:
                connections[index].data_received(contents[index][:PIECE])
                contents[index] = contents[index][PIECE:]
            await asyncio.sleep(0)
        await until(lambda: all(answers(one) == [b"%d" % len(body)] for one in connections))
        assert 1 <= most <= 10, "more was read in one iteration than fits into a slice"

    run(test)


@pytest.mark.slow
def test_callers_at_two_addresses_of_one_server_get_the_answers_to_their_own_requests(server: RunningServer) -> None:
    """Without keys a caller is an address. Some bodies take several reads, and are joined beside the event loop."""
    lengths = [3, 40, 30_000, 7, 30_001]
    requests = [predict(sequence(length).tobytes(), PATH, **OCTETS) for length in lengths]
    wanted = [expected("vowels-gru", sequence(length))[-1].tobytes() for length in lengths]
    addresses = ("127.0.0.1", "127.0.0.2")

    async def ask(address: str, which: list[int]) -> list[bytes]:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port, local_addr=(address, 0))
        writer.write(b"".join([requests[one] for one in which]))
        parsed = Parsed()
        while len(parsed.answers) < len(which):
            parsed.feed(await reader.read(1 << 16) or b"cut")
        writer.close()
        return [body for status, _, body in parsed.answers if status == 200]

    async def ask_all() -> list[list[bytes]]:
        return await asyncio.gather(*[ask(addresses[index % 2], orders[index]) for index in range(len(orders))])

    rng = np.random.default_rng(0)
    orders: list[list[int]] = [rng.permutation(len(lengths)).tolist() for _ in range(12)]
    assert asyncio.run(ask_all()) == [[wanted[one] for one in order] for order in orders]
