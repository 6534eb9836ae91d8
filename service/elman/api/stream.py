"""`/v1/models/{name}/stream`: a session over a WebSocket; each frame is a steps request.

A frame is read, run and answered before the next one is read. So a client that does not read its answers cannot send
more either, and after `stream_timeout` seconds it is disconnected. Frames of all streams share batches.
"""

import asyncio
import contextlib
import math
import time
from collections.abc import Awaitable
from dataclasses import dataclass, replace
from typing import Any

import msgspec
from fastapi import APIRouter, WebSocket, WebSocketDisconnect

from elman.api.metrics import Metrics
from elman.api.segment import check_sessions
from elman.api.server import ServedModel, Server
from elman.api.sessions import check_ttl, own_ttl
from elman.api.steps import Stepper
from elman.codec.answer import encode_json, encode_octets
from elman.codec.octets import decode_octets, parse_query
from elman.codec.requests import StepsRequest, StreamQuery
from elman.engine.work import Steps
from elman.errors import Draining, ElmanError, Internal, InvalidField, Overloaded, Unauthorized, UnknownModel
from elman.http.asgi import party_of
from elman.http.callers import Caller, Callers, caller_of
from elman.http.endpoint import GONE, REQUEST_ID, Driver, encode_problem
from elman.http.roles import needs
from elman.http.spans import Message, Sampled, renewed
from elman.repository.network import Array
from elman.sessions.store import Record

_GOING_AWAY = 1001
_POLICY_VIOLATION = 1008
_INTERNAL_ERROR = 1011
_TRY_AGAIN_LATER = 1013


# How frames are counted as requests.
_ROUTE = "/v1/models/{name}/stream"
# What the span of a frame says of it.
_SPAN = {"http.route": _ROUTE, "network.protocol.name": "websocket"}


class SlowClient(Exception):
    """The client does not read what is sent to it."""


@dataclass(slots=True)
class _Stream:
    """One connection: its session, and the default options of its frames."""

    socket: WebSocket
    caller: Caller
    driver: Driver
    served: ServedModel
    record: Record
    query: StreamQuery

    @property
    def party(self) -> bytes:
        """Whose share of the engine its frames take."""
        return party_of(self.socket.scope)

    @property
    def defaults(self) -> dict[str, Any]:
        """Options of the query string that frames have by default: those that differ from a request's defaults."""
        names = ("returns", "decode", "top", "timeout")
        return {name: value for name in names if (value := getattr(self.query, name)) != getattr(_DEFAULTS, name)}


_DEFAULTS = StreamQuery()


class Streams:
    """The streams of one server."""

    def __init__(self, server: Server, driver: Driver, callers: Callers, metrics: Metrics, stepper: Stepper) -> None:
        self.server = server
        self.driver = driver
        self.callers = callers
        self.metrics = metrics
        self.stepper = stepper
        self._tasks: set[asyncio.Task[Any]] = set()
        self._idle: set[asyncio.Task[Any]] = set()
        self._ending = False

    def __len__(self) -> int:
        return len(self._tasks)

    def open(self) -> None:
        """Take streams, also after `end`."""
        self._ending = False

    def end(self) -> None:
        """End every stream once its current frame is answered. Called on the event loop when the server stops."""
        self._ending = True
        for task in list(self._idle):
            task.cancel()

    async def close(self) -> None:
        """End every stream at once."""
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=2.0)

    async def serve(self, socket: WebSocket, name: str, version: str | None) -> None:
        """One connection, from its handshake to its end."""
        task = asyncio.current_task()
        assert task is not None, "connections are served in tasks"
        self._tasks.add(task)
        try:
            await socket.accept()
            await self._serve(socket, name, version)
        except WebSocketDisconnect:
            pass
        except SlowClient:
            await _close(socket, _POLICY_VIOLATION, "slow consumer: answers were not read")
        except asyncio.CancelledError:
            await _close(socket, _GOING_AWAY, "the server is stopping")
        except ElmanError as error:
            self.metrics.request_failed(error)
            with contextlib.suppress(SlowClient, RuntimeError, WebSocketDisconnect):
                await self._send(socket.send_text(_problem(error)))
            await _close(socket, _code_of(error), error.detail)
        except Exception:
            self.metrics.request_failed(Internal("internal error"))
            await _close(socket, _INTERNAL_ERROR, "the server failed on this stream")
            raise
        finally:
            self._tasks.discard(task)

    async def _serve(self, socket: WebSocket, name: str, version: str | None) -> None:
        if len(self._tasks) > self.server.settings.max_streams:
            raise Overloaded(f"{self.server.settings.max_streams} streams are open, which is the limit", retry_after=5)
        if not self.server.ready:
            raise Draining("the server is stopping and takes no new work", retry_after=1)
        stream = await self._open(socket, name, version)
        record = stream.record
        hello = {"session": record.id, "model": record.model, "version": record.version, "step": record.step}
        await self._send(socket.send_text(encode_json(hello).decode()))
        while True:
            message = await self._receive(socket)
            if message["type"] == "websocket.disconnect":
                return
            try:
                await self._counted(stream, message.get("text"), message.get("bytes"))
            except ElmanError as error:
                self.metrics.request_failed(error)
                if _ends(error):
                    raise
                await self._send(socket.send_text(_problem(error)))

    async def _counted(self, stream: _Stream, text: str | None, content: bytes | None) -> None:
        """Answer a frame, and count it as a request. Raises what the answer raises."""
        arrived, status, code, model = time.monotonic(), 0, GONE.code, None
        request_id = renewed(stream.socket.scope[REQUEST_ID])
        self.metrics.num_accepted += 1
        try:
            await self._answer(stream, text, content, request_id)
            status, code, model = 200, "", stream.served.key
        except ElmanError as error:
            status, code = error.status, error.code
            raise
        finally:
            self.metrics.request_ended(_ROUTE, status, code, model, time.monotonic() - arrived)
            if isinstance(request_id, Sampled):
                message = Message(f"frame {_ROUTE}", _SPAN, status, code, model, stream.caller.name)
                request_id.ended(request_id, message, arrived)

    async def _receive(self, socket: WebSocket) -> Any:
        """The next message. The wait is cancelled as soon as the server stops."""
        task = asyncio.current_task()
        assert task is not None, "connections are served in tasks"
        if self._ending:
            raise asyncio.CancelledError
        self._idle.add(task)
        try:
            return await socket.receive()
        finally:
            self._idle.discard(task)

    async def _open(self, socket: WebSocket, name: str, version: str | None) -> _Stream:
        """The session of a stream: an existing one, or a new one. Raises ElmanError."""
        server, caller = self.server, caller_of(socket.scope)
        driver, owner = self.driver.within(caller.meter), caller.owner
        query = parse_query(socket.scope["query_string"], StreamQuery, StreamQuery)
        served = server.served(name, version)
        check_sessions(served)
        if query.session is None:
            model, start = served.model, replace(served.snapshots.first, statics=_statics(served, query.static))
            snapshot = served.snapshots.pack(start)
            ttl = own_ttl(server, served) if query.ttl is None else check_ttl(server, query.ttl)
            steps = server.sessions.create(owner, model.name, model.version, served.digest, 0, snapshot, ttl)
            return _Stream(socket, caller, driver, served, await self.driver.complete(steps), query)
        if query.static is not None:
            raise InvalidField("the session has its static inputs already", where="static", expected="no static")
        record = await self.driver.complete(server.sessions.read(owner, query.session))
        if record.model != name or (version is not None and str(record.version) != version):
            raise UnknownModel(
                f"the session belongs to model {record.model!r}, version {record.version}, not to this one"
            )
        return _Stream(socket, caller, driver, server.served_to(record), record, query)

    async def _answer(self, stream: _Stream, text: str | None, content: bytes | None, request_id: bytes) -> None:
        """Run one frame and send its answer. Raises ElmanError and SlowClient."""
        if not self.callers.holds(stream.caller):
            raise Unauthorized("the API key of this stream is no longer valid")
        party = stream.party
        stream.driver.engine.check_room(party)
        steps = self._step(stream, text, content, time.monotonic())
        answer = await stream.driver.complete(steps, party, request_id)
        sending = stream.socket.send_bytes(answer) if text is None else stream.socket.send_text(answer.decode())
        await self._send(sending)

    def _step(self, stream: _Stream, text: str | None, content: bytes | None, arrived: float) -> Steps[bytes]:
        served, stepper = stream.served, self.stepper
        if text is not None:
            request, inputs = yield from stepper.decoded(served, text.encode("utf-8", "surrogatepass"), stream.defaults)
        else:
            request = StepsRequest(sequence=None, **stream.defaults)
            inputs = decode_octets(content or b"", served.format, served.decoder.limits, held=True)
        deadline = math.inf if request.timeout is None else arrived + request.timeout
        octets = text is None
        owner, id = stream.caller.owner, stream.record.id
        done = yield from stepper.step(owner, id, served, request, inputs, deadline, octets)
        if octets:
            return encode_octets(done[0].outputs, request.returns)[0]
        return (yield from stepper.encoded(served, request, *done))

    async def _send(self, sending: Awaitable[None]) -> None:
        """Await a send. Raises SlowClient if the client does not read in time."""
        try:
            async with asyncio.timeout(self.server.settings.stream_timeout):
                await sending
        except TimeoutError:
            raise SlowClient from None


def stream_router(streams: Streams) -> APIRouter:
    """The WebSocket routes."""
    router = APIRouter(tags=["sessions"])

    @router.websocket("/v1/models/{name}/stream")
    @needs("sessions")
    async def stream(socket: WebSocket, name: str) -> None:
        await streams.serve(socket, name, None)

    @router.websocket("/v1/models/{name}/versions/{version}/stream")
    @needs("sessions")
    async def stream_version(socket: WebSocket, name: str, version: str) -> None:
        await streams.serve(socket, name, version)

    return router


def _statics(served: ServedModel, text: str | None) -> tuple[Array, ...]:
    """The static inputs in a query string. Raises InvalidField."""
    try:
        return served.decoder.statics_in(None if text is None else msgspec.json.decode(text))
    except (msgspec.DecodeError, RecursionError):
        raise InvalidField("static is not valid JSON", where="static", expected="an object by name") from None


def _problem(error: ElmanError) -> str:
    return encode_problem(error).decode()


def _ends(error: ElmanError) -> bool:
    """True if a stream ends with an error: its session, its key or the server is gone."""
    gone = ("unauthorized", "unknown_session", "unknown_model", "model_changed")
    return isinstance(error, Draining) or error.code in gone


def _code_of(error: ElmanError) -> int:
    if isinstance(error, Draining):
        return _GOING_AWAY
    return _TRY_AGAIN_LATER if isinstance(error, Overloaded) else _POLICY_VIOLATION


async def _close(socket: WebSocket, code: int, reason: str) -> None:
    """Close with a reason, cut to what a close frame can hold (123 bytes). The client may be gone already."""
    short = reason.encode()[:120].decode(errors="ignore")
    with contextlib.suppress(Exception):
        async with asyncio.timeout(1.0):
            await socket.close(code, short)
