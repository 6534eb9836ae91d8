"""A stopping server waits a moment for what is on its way on connections without a request."""

import asyncio

import pytest
from uvicorn import Config
from uvicorn.server import ServerState

from elman.http import protocol
from tests.fuzz.connection import Application, Wire

REQUEST = b"POST /echo HTTP/1.1\r\nhost: test\r\ncontent-length: 2\r\n\r\nhi"


class Opened(protocol.HTTPProtocol):
    """A connection, and the bytes that the server wrote to it."""

    def __init__(self) -> None:
        application = Application()
        config = Config(application, ws="none", log_config=None, access_log=False)  # type: ignore[arg-type]
        config.load()
        config.loaded_app = application
        super().__init__(config, ServerState(), {})
        self.wire = Wire()
        self.connection_made(self.wire)


@pytest.fixture(autouse=True)
def moment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "_LAST_SECONDS", 0.01)


@pytest.mark.parametrize("before", [b"", REQUEST])
def test_a_request_that_comes_while_the_server_stops_is_answered_and_the_last_one(before: bytes) -> None:
    async def stop() -> Opened:
        one = Opened()
        if before:
            one.data_received(before)
        one.wire.written.clear()
        one.shutdown()
        assert not one.wire.closed
        one.data_received(REQUEST)
        return one

    wire = asyncio.run(stop()).wire
    assert wire.written.startswith(b"HTTP/1.1 200") and b"connection: close" in wire.written
    assert wire.closed


@pytest.mark.parametrize("sent", [b"", REQUEST, REQUEST[:10]])
def test_a_connection_on_which_nothing_comes_is_closed(sent: bytes) -> None:
    async def stop() -> bool:
        one = Opened()
        one.data_received(sent)
        one.shutdown()
        await asyncio.sleep(0.05)
        return one.wire.closed

    assert asyncio.run(stop())


def test_a_body_on_its_way_is_waited_for() -> None:
    async def stop() -> Opened:
        one = Opened()
        one.data_received(REQUEST[:-1])
        one.shutdown()
        await asyncio.sleep(0.05)
        assert not one.wire.closed
        one.data_received(REQUEST[-1:])
        return one

    wire = asyncio.run(stop()).wire
    assert wire.written.startswith(b"HTTP/1.1 200") and wire.closed
