"""`POST /v1/models/{name}/predict`: sequences in, every o_1..o_n or the decoded o_n out."""

import asyncio
import time
from collections.abc import Callable
from functools import lru_cache
from math import inf

from starlette.types import Receive, Scope, Send

from service.api.asgi import BINARY, JSON, BodyReader, ClientGone, respond
from service.api.metrics import Metrics
from service.codec.answer import encode_answer, encode_binary
from service.codec.binary import decode_binary, parse_options
from service.codec.request import PredictRequest, check_listed
from service.engine.engine import Ticket, first_error
from service.engine.sequence import Sequence
from service.errors import Draining, ElmanError, InvalidField, NotAcceptable, TooLong, UnsupportedMediaType
from service.server import Served, Server

# A request that takes longer than this is watched, so that its work stops when its client is gone.
_WATCH_AFTER = 0.25
# A JSON body larger than this takes milliseconds to decode, and is decoded elsewhere.
_LARGE = 512 * 1024
# Numbers that the answer to one request may hold: 400 MB of float32.
_MAX_NUMBERS = 100_000_000
# Numbers of an answer that takes milliseconds to encode, which is then done beside the event loop.
_MANY = 50_000


class Watcher:
    """Waits for answers, and gives up those whose client has closed the connection.

    One sweep looks after all requests: only those that it meets twice are listened to, so that a quick one costs
    nothing.
    """

    def __init__(self, serving: Callable[[], bool]) -> None:
        self._serving = serving
        self._waiting: dict[Ticket, Receive] = {}
        self._watching: dict[Ticket, asyncio.Task[None]] = {}

    async def wait(self, ticket: Ticket, receive: Receive) -> list[Sequence]:
        """The sequences once they are done. Raises ClientGone where nobody waits any more."""
        self._waiting[ticket] = receive
        try:
            return await ticket.future
        except asyncio.CancelledError:
            ticket.cancel()
            if self._serving():
                raise
            raise Draining("the server stopped before this was done", retry_after=1) from None
        finally:
            del self._waiting[ticket]
            watch = self._watching.pop(ticket, None)
            if watch is not None:
                watch.cancel()

    async def sweep(self) -> None:
        """Listen to the clients of requests that take long, until cancelled."""
        met: set[Ticket] = set()
        while True:
            await asyncio.sleep(_WATCH_AFTER)
            for ticket in met & self._waiting.keys() - self._watching.keys():
                self._watching[ticket] = asyncio.create_task(_watch(ticket, self._waiting[ticket]))
            met = set(self._waiting)


async def _watch(ticket: Ticket, receive: Receive) -> None:
    """Give up a request whose client closes the connection."""
    while (await receive())["type"] != "http.disconnect":
        pass
    ticket.cancel()
    if not ticket.future.done():
        ticket.future.set_exception(ClientGone())


class Predict:
    """The predict endpoint, as bare ASGI."""

    def __init__(self, server: Server, metrics: Metrics, bodies: BodyReader, watcher: Watcher) -> None:
        self.server = server
        self.metrics = metrics
        self.bodies = bodies
        self.watcher = watcher

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        served = self._served(scope)
        headers = dict(scope["headers"])
        body = await self.bodies.read(headers, receive)
        binary = _wants_binary(headers.get(b"accept", b""))
        request = await self._decode(scope, headers, body, served)
        _check_returns(request, served)
        _check_one(request, binary)
        _check_size(request, served, binary)
        sequences = await self._run(request, served, receive)
        _raise_first_error(sequences, request)
        await _answer(send, served, request, sequences, binary)
        self.metrics.request_done(served.model, time.perf_counter() - started)

    def _served(self, scope: Scope) -> Served:
        return self.server.served(scope["path_params"]["name"], scope["path_params"].get("version"))

    async def _decode(self, scope: Scope, headers: dict[bytes, bytes], body: bytes, served: Served) -> PredictRequest:
        if _is_binary(headers.get(b"content-type", b"")):
            return decode_binary(body, scope["query_string"], served.format, served.decoder.limits)
        _check_no_options(scope["query_string"])
        if len(body) > _LARGE:
            return await self.server.decoding.decode(body, served.decoder)
        return served.decoder.decode(body)

    async def _run(self, request: PredictRequest, served: Served, receive: Receive) -> list[Sequence]:
        deadline = inf if request.timeout is None else time.monotonic() + request.timeout
        sequences = [Sequence(inputs, returns=request.returns, deadline=deadline) for inputs in request.sequences]
        return await self.watcher.wait(self.server.engine.submit(served.lane, sequences), receive)


@lru_cache(256)
def _wants_binary(accept: bytes) -> bool:
    """Whether an Accept header asks for octets before JSON. Raises NotAcceptable where it takes neither."""
    kinds = [part.split(b";")[0].strip().lower() for part in accept.split(b",") if part.strip()]
    for kind in kinds:
        if kind in (JSON, BINARY):
            return kind == BINARY
    if not kinds or b"*/*" in kinds or b"application/*" in kinds:
        return False
    raise NotAcceptable(
        f"no answer can be given as {accept.decode('latin-1')}", expected=[JSON.decode(), BINARY.decode()]
    )


@lru_cache(256)
def _is_binary(content_type: bytes) -> bool:
    """Whether a Content-Type says octets and not JSON. Raises UnsupportedMediaType."""
    kind = content_type.split(b";")[0].strip().lower()
    # curl -d without a header says it sends a form; what it holds is judged by the JSON decoder.
    if kind not in (b"", JSON, BINARY, b"application/x-www-form-urlencoded"):
        raise UnsupportedMediaType(f"the body is {kind.decode('latin-1')}", expected=[JSON.decode(), BINARY.decode()])
    return kind == BINARY


def _check_no_options(query: bytes) -> None:
    if query:
        parse_options(query)
        raise InvalidField("the options of a JSON request belong in its body", where="query")


def _check_returns(request: PredictRequest, served: Served) -> None:
    if request.returns == "steps" and served.lane.scheduler.policy.steps_singly and not served.model.proof.chunked:
        raise InvalidField(
            f"{served.model.name} gives an output after the last step only", where="return", expected="final"
        )


def _check_size(request: PredictRequest, served: Served, binary: bool) -> None:
    """Raise where the answer would be larger than a server can hold ready for one request."""
    steps = request.returns == "steps"
    rows = sum([len(inputs) for inputs in request.sequences]) if steps else len(request.sequences)
    size = served.model.network.output_size
    if rows * size > _MAX_NUMBERS:
        raise TooLong(
            f"the answer would hold {rows} outputs of {size} numbers",
            where="return" if steps else "sequences",
            expected=f"at most {_MAX_NUMBERS} numbers",
        )
    if request.decode and not binary:
        check_listed(rows, min(request.top, size))


def _check_one(request: PredictRequest, binary: bool) -> None:
    if binary and len(request.sequences) > 1:
        raise NotAcceptable("several sequences cannot be answered as application/octet-stream", expected=JSON.decode())


def _raise_first_error(sequences: list[Sequence], request: PredictRequest) -> None:
    failed = first_error(sequences)
    if failed is not None:
        index, error = failed
        raise _placed(error, request.places[index])


def _placed(error: ElmanError, where: str) -> ElmanError:
    error.where = error.where or where
    return error


async def _answer(send: Send, served: Served, request: PredictRequest, sequences: list[Sequence], binary: bool) -> None:
    if not binary:
        rows = sum([len(block) for sequence in sequences for block in sequence.outputs])
        if rows * served.model.network.output_size > _MANY:
            content = await asyncio.to_thread(encode_answer, served.model, request, sequences)
        else:
            content = encode_answer(served.model, request, sequences)
        await respond(send, content)
        return
    content, shape = encode_binary(sequences[0], request.places[0])
    headers = [
        (b"elman-shape", ",".join(map(str, shape)).encode()),
        (b"elman-model", served.model.name.encode()),
        (b"elman-version", str(served.model.version).encode()),
    ]
    await respond(send, content, BINARY, headers=headers)
