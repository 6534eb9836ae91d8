"""What all methods share: who calls, request ids, deadlines, counters and errors."""

import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from urllib.parse import unquote

import grpc

from elman.api.grpc.statuses import status_of, text_of, trailing
from elman.codec.budget import Budget
from elman.errors import ElmanError, Internal, Overloaded, UnknownRoute
from elman.http.callers import ANYONE, Caller, Callers
from elman.http.connections import Places, network_of
from elman.http.endpoint import GONE, Driver, Response, forget_frames
from elman.http.roles import OPEN_TO_ALL, Need, served_at
from elman.http.spans import Message, Sampled, renewed

Context = Any
"""A `grpc.aio.ServicerContext`, which has no types."""

_REQUEST_ID = "x-request-id"
# What a client may ask for by the metadata `accept-encoding`, as in HTTP. All clients can read both.
_COMPRESSIONS = {b"gzip": grpc.Compression.Gzip, b"deflate": grpc.Compression.Deflate}
# The library compresses on the event loop, some milliseconds for so many bytes.
_MOST_COMPRESSED = 128 * 1024


@lru_cache(4096)
def network_in(peer: str) -> bytes:
    """The network of a client, from gRPC's name of it, such as `ipv4:10.0.0.1:4000` or `ipv6:%5B::1%5D:4000`."""
    host, _, port = unquote(peer).partition(":")[2].rpartition(":")
    return network_of((host.strip("[]"), port)).encode()


class Peer:
    """The client's side of a call: its metadata, and the id of its request."""

    def __init__(self, context: Context, driver: Driver) -> None:
        self.context = context
        # Asked for now: parts of a stream may be served when the call is over, and then the library would crash.
        self._network = network_in(context.peer())
        self.headers = {
            name.encode(): value if isinstance(value, bytes) else value.encode()
            for name, value in context.invocation_metadata() or ()
        }
        self.request_id = driver.request_id(self.headers)
        context.set_trailing_metadata(((_REQUEST_ID, self.request_id.decode()),))
        self._compression = _COMPRESSIONS.get(self.headers.get(b"accept-encoding", b"").strip().lower())
        if self._compression is not None:
            context.set_compression(self._compression)

    def party(self, caller: Caller | None) -> bytes:
        """Whose share of the server the call takes: the owner of its key, or without one its address."""
        return self._network if caller is None or caller.owner == ANYONE else caller.owner

    def prepare(self, answer: bytes) -> None:
        """Called before each answer is sent: a large one is not compressed, which would hold the event loop."""
        if self._compression is not None and len(answer) > _MOST_COMPRESSED:
            self.context.disable_next_message_compression()

    async def abort(self, error: ElmanError) -> None:
        """End the call with an error. Raises what ends it."""
        metadata = ((_REQUEST_ID, self.request_id.decode()), *trailing(error))
        await self.context.abort(status_of(error), text_of(error), metadata)


@dataclass(slots=True)
class Call:
    """A message of a client.

    Attributes:
        content: the message, not decoded.
        caller: whose key was shown; None until that is known, and if no key is needed.
        request_id: that of the call, or of the stream.
        arrived: when the message arrived, on the clock of `time.monotonic`.
        remaining: seconds from then to the deadline of the call; None without one.
    """

    peer: Peer
    content: bytes
    caller: Caller | None
    request_id: bytes
    arrived: float
    remaining: float | None

    @classmethod
    def of(cls, peer: Peer, content: bytes, caller: Caller | None = None) -> "Call":
        """A message that has just arrived."""
        return cls(peer, content, caller, renewed(peer.request_id), time.monotonic(), peer.context.time_remaining())


def known(error: Exception) -> ElmanError:
    """An error as clients are told of it: nothing of a defect but that there is one."""
    return error if isinstance(error, ElmanError) else Internal("the server failed on this request")


Serve = Callable[[Call], Awaitable[Response]]
"""Makes the answer to a message. May raise anything."""


class Calls:
    """Serves the calls of one server."""

    def __init__(self, driver: Driver, callers: Callers, budget: Budget, has_admin_port: bool, most: int) -> None:
        """
        Args:
            budget: of the bodies that are held.
            most: calls at once.
        """
        self.driver = driver
        self.budget = budget
        self.callers = callers
        self._has_admin_port = has_admin_port
        self._watching = Places(most // 2, 0)

    @contextlib.asynccontextmanager
    async def watching(self, context: Context) -> AsyncIterator[Peer]:
        """Count a call that needs no key and stays open. It is ended if there are too many.

        All such calls together take at most half of the calls of the server, and those of one address a quarter.
        """
        peer = Peer(context, self.driver)
        if not self._watching.take(context, peer.party(None).decode()):
            await peer.abort(Overloaded("there are too many open calls, in all or from this address", retry_after=1))
        try:
            yield peer
        finally:
            self._watching.give_back(context)

    def admit(self, peer: Peer, need: Need) -> Caller | None:
        """Whoever makes a call. Raises Unauthorized, Forbidden and UnknownRoute."""
        if self._has_admin_port and not served_at(need, admin_port=False):
            raise UnknownRoute("this method is not served at this port", expected="the same at the admin port, by HTTP")
        return None if need in OPEN_TO_ALL else self.callers.admit(peer.headers, need)

    def method(self, route: str, need: Need, serve: Serve) -> Any:
        """A method that takes one message and answers with one.

        Args:
            route: its name in the metrics.
            need: what the caller's key must be for.
        """

        async def answer(content: bytes, context: Context) -> bytes:
            peer = Peer(context, self.driver)

            async def admitted(call: Call) -> Response:
                call.caller = self.admit(peer, need)
                if call.caller is not None and call.caller.meter is not None and need != "infer":
                    call.caller.meter.take_request()
                with self.holding(call):
                    return await serve(call)

            try:
                answered = bytes((await self.counted(route, Call.of(peer, content), admitted)).content)
                peer.prepare(answered)
                return answered
            except ElmanError as error:
                forget_frames(error)
                failure = error
            del content  # what ends the call holds this frame, and the library holds that
            await peer.abort(failure)
            raise AssertionError("abort() raises")

        return grpc.unary_unary_rpc_method_handler(answer)

    @contextlib.contextmanager
    def holding(self, call: Call) -> Iterator[None]:
        """Count a message among the bodies that are held. Raises Overloaded if there is no room for it."""
        party, size = call.peer.party(call.caller), len(call.content)
        try:
            self.budget.add(party, size)
            yield
        finally:
            self.budget.remove(party, size)

    async def counted(self, route: str, call: Call, serve: Serve) -> Response:
        """Serve a message and count it. Raises ElmanError: a defect is logged, and stays behind Internal."""
        counters = self.driver.counters
        counters.num_accepted += 1
        status, code, model, told = 0, GONE.code, None, grpc.StatusCode.CANCELLED
        try:
            response = await serve(call)
            status, code, model, told = 200, "", response.model, grpc.StatusCode.OK
            return response
        except Exception as error:
            self.driver.problem(error, call.request_id)
            failure = known(error)
            status, code, told = failure.status, failure.code, status_of(failure)
            raise failure from None
        finally:
            counters.request_ended(route, status, code, model, time.monotonic() - call.arrived)
            if isinstance(call.request_id, Sampled):
                key = "" if call.caller is None else call.caller.name
                message = Message(route, _attributes(route, told), status, code, model, key)
                call.request_id.ended(call.request_id, message, call.arrived)


def _attributes(route: str, status: grpc.StatusCode) -> dict[str, str | int]:
    """What the span of a call says of it, by the names of OpenTelemetry's conventions."""
    service, _, method = route.partition("/")
    number = int(status.value[0])
    return {"rpc.system": "grpc", "rpc.service": service, "rpc.method": method, "rpc.grpc.status_code": number}
