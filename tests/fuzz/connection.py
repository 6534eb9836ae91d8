"""The fuzz target of heads: one connection of the server's protocol, with whatever bytes in whatever pieces."""

import asyncio
from dataclasses import dataclass
from typing import Any

import h11
from uvicorn.config import Config
from uvicorn.server import ServerState

from elman.engine.work import Work
from elman.errors import ElmanError, Forbidden
from elman.http.bodies import Bodies
from elman.http.callers import ANYONE, Caller
from elman.http.connections import Connections
from elman.http.endpoint import Driver, Request, Response, Route
from elman.http.exchange import HTTPExchange
from elman.http.protocol import HTTPProtocol
from tests.fuzz.linear import check_linear

_MAX_BODY = 100_000
# Turns of the event loop in which a complete request is answered.
_TURNS = 20


# How the paths begin that are served by the endpoint, and that are refused.
ECHOED, REFUSED = ("/echo", "/v2/models/"), "/refused"


@dataclass(frozen=True)
class Answer:
    """One answer on a connection."""

    status: int
    id: bytes
    body: bytes


class Echo:
    """An endpoint that answers with the body of its request."""

    def __init__(self, app: "Application") -> None:
        self._app = app

    def parse(self, request: Request) -> Work | Response:
        self._app.methods.append("POST")
        self._app.targets.append((request.parameters["path"], request.query))
        return Response(request.body)


class Counters:
    """Counts requests, as the metrics do."""

    def __init__(self) -> None:
        self.num_accepted = 0
        self.num_ended = 0

    def request_ended(self, *arguments: Any) -> None:
        self.num_ended += 1

    def request_failed(self, error: ElmanError) -> None:
        pass


class Application:
    """A POST to a path of `ECHOED` goes to the endpoint, one of `REFUSED` nowhere; others are served as ASGI.

    Attributes:
        methods: of the requests that it was given.
        targets: the path and the query of those that went to the endpoint.
    """

    exchange = HTTPExchange

    def __init__(self) -> None:
        self.counters = Counters()
        self.driver = Driver(_Idle(), self.counters)  # type: ignore[arg-type]
        self.bodies = Bodies(_MAX_BODY, 30.0)
        self.connections = Connections(100, 0)
        self.methods: list[str] = []
        self.targets: list[tuple[str, bytes]] = []

    def party(self, headers: Any, address: bytes) -> bytes:
        return address

    def is_admin(self, address: Any) -> bool:
        return False

    def find(self, path: str, headers: Any) -> Route | None:
        if path.startswith(REFUSED):
            raise Forbidden("this path is refused")
        if not path.startswith(ECHOED):
            return None
        return Route(Echo(self), {"path": path}, "/echo", Caller(ANYONE, frozenset()), self.driver)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.methods.append(scope["method"])
        body = (await receive())["body"]
        headers = [(b"content-length", b"%d" % len(body))] if len(body) % 2 else []
        # An answer of 200 would make a tunnel of it.
        status = 405 if scope["method"] == "CONNECT" else 200
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body[:5], "more_body": True})
        await send({"type": "http.response.body", "body": body[5:]})


class _Idle:
    """An engine that always has room."""

    def check_room(self, owner: bytes) -> None:
        pass


class Wire(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()
        self.closed = self.half_closed = False

    def write(self, data: Any) -> None:
        self.written += data

    def write_eof(self) -> None:
        self.half_closed = True

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    abort = close

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def set_protocol(self, protocol: Any) -> None:
        pass

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 1) if name in ("peername", "sockname") else default


class Connection:
    """The target."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._failures: list[Any] = []
        self._loop.set_exception_handler(lambda _, context: self._failures.append(context))
        self.app = Application()
        # WebSockets have a protocol of their own.
        self._config = Config(self.app, ws="none", log_config=None, access_log=False)  # type: ignore[arg-type]
        self._config.load()
        self._config.loaded_app = self.app

    def close(self) -> None:
        self._loop.close()

    def __call__(self, data: bytes) -> None:
        """Send bytes over one connection, in pieces as the first byte says: 0 for all at once."""
        if data:
            with check_linear(len(data)):
                self.talk(data[1:], data[0])

    def talk(self, data: bytes, size: int) -> tuple[list[Answer], bool]:
        """The answers to what is sent in pieces of `size` bytes, and whether the server then closes."""
        size = size or max(1, len(data))
        pieces = [data[at : at + size] for at in range(0, len(data), size)]
        return self.hear(pieces, size % 2)

    def hear(self, pieces: list[bytes], turns: int) -> tuple[list[Answer], bool]:
        """As `talk`, with so many turns of the event loop after each piece."""
        written, closes = self.written(pieces, turns)
        return read_answers(written, self.app.methods), closes

    def written(self, pieces: list[bytes], turns: int) -> tuple[bytes, bool]:
        """As `hear`, but the bytes of the answers."""
        return self._loop.run_until_complete(self._written(pieces, turns))

    async def _written(self, pieces: list[bytes], turns: int) -> tuple[bytes, bool]:
        self.app.methods.clear()
        self.app.targets.clear()
        wire, state = Wire(), ServerState()
        protocol = HTTPProtocol(self._config, state, {})
        protocol.connection_made(wire)
        for piece in pieces:
            protocol.data_received(piece)
            for _ in range(turns):
                await asyncio.sleep(0)
            if wire.closed:
                break
        for _ in range(_TURNS + len(self.app.methods)):
            await asyncio.sleep(0)
        closes = wire.closed or wire.half_closed
        protocol.connection_lost(None)
        await asyncio.sleep(0)
        self._check_clean(state)
        return bytes(wire.written), closes

    def _check_clean(self, state: ServerState) -> None:
        """Nothing is left of a connection that is gone."""
        failures, self._failures = self._failures, []
        assert not failures, failures
        assert not state.connections and not self.app.connections.all
        assert not self.app.bodies.waiting


def read_answers(written: bytes, methods: list[str]) -> list[Answer]:
    """All answers, as an independent parser reads them. Raises RemoteProtocolError if it cannot.

    methods: of the requests that the application was given. What comes after them is refused without it.
    """
    found: list[Answer] = []
    while written:
        method = methods[len(found)] if len(found) < len(methods) else "GET"
        client = h11.Connection(h11.CLIENT)
        client.send(h11.Request(method=method, target="/", headers=[("host", "test")]))
        client.send(h11.EndOfMessage())
        client.receive_data(written)
        client.receive_data(b"")
        status, id, body = 0, b"", b""
        while status == 0 or client.their_state is h11.SEND_BODY:
            event = client.next_event()
            if isinstance(event, h11.Response):
                status, id = event.status_code, dict(event.headers).get(b"x-request-id", b"")
            elif isinstance(event, h11.Data):
                body += event.data
            else:
                assert isinstance(event, (h11.InformationalResponse, h11.EndOfMessage)), "an answer is cut short"
        found.append(Answer(status, id, body))
        written = client.trailing_data[0]
    return found
