"""`POST /v1/models/{name}/predict`: sequences in, every o_1..o_n or the decoded o_n out."""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, TypeVar

from starlette.types import Receive, Scope, Send

from elman.api.metrics import Metrics
from elman.api.segment import Segment, check_streaming, cut_whole, deadline_of, open_token, seal_token
from elman.api.server import ServedModel, Server
from elman.codec.answer import encode_answer, encode_binary, outputs_of
from elman.codec.binary import decode_binary, parse_options
from elman.codec.frames import check_cut
from elman.codec.request import PredictRequest, check_listed
from elman.engine.engine import AwaitedRequest, first_error
from elman.engine.sequence import Return, Sequence
from elman.errors import Draining, ElmanError, InvalidField, NotAcceptable, TooLong, UnsupportedMediaType
from elman.http.asgi import (
    BINARY,
    JSON,
    Answer,
    BodyReader,
    ClientGone,
    GiveUp,
    Request,
    Settle,
    respond_with,
)
from elman.http.callers import owner_of
from elman.repository.network import Array

T = TypeVar("T")

# A request that takes longer than this is watched, so that its work stops when its client is gone.
_WATCH_AFTER = 0.25
# Where a request of octets brings its state token along, and its answer the next.
STATE_HEADER = b"elman-state"
# A JSON body larger than this takes milliseconds to decode, and is decoded elsewhere.
LARGE = 512 * 1024
# Numbers that the answer to one request may hold: 400 MB of float32.
MAX_NUMBERS = 100_000_000
# The same for an answer in JSON, which holds up the interpreter as long as it is written.
MAX_JSON_NUMBERS = 20_000_000
# Numbers of an answer that takes milliseconds to encode, which is then done beside the event loop.
MANY = 50_000
# State tokens that take milliseconds to open or seal.
_MANY_TOKENS = 100


class Watcher:
    """Waits for answers, and gives up those whose client has closed the connection.

    One sweep looks after all requests: only those that it meets twice are listened to, so that a quick one costs
    nothing.
    """

    def __init__(self, serving: Callable[[], bool]) -> None:
        self._serving = serving
        self._waiting: dict[AwaitedRequest, Receive] = {}
        self._watching: dict[AwaitedRequest, asyncio.Task[None]] = {}

    async def wait(self, ticket: AwaitedRequest, receive: Receive) -> list[Sequence]:
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

    async def run(
        self, server: Server, served: ServedModel, sequences: list[Sequence], receive: Receive, where: str
    ) -> None:
        """Run sequences as one request. Raises ClientGone, and the first error of any, placed."""
        await self.wait(server.engine.submit(served.queue, sequences), receive)
        failed = first_error(sequences)
        if failed is not None:
            raise placed(failed[1], where)

    async def sweep(self) -> None:
        """Listen to the clients of requests that take long, until cancelled."""
        met: set[AwaitedRequest] = set()
        while True:
            await asyncio.sleep(_WATCH_AFTER)
            for ticket in met & self._waiting.keys() - self._watching.keys():
                self._watching[ticket] = asyncio.create_task(watch(ticket, self._waiting[ticket]))
            met = set(self._waiting)


async def watch(ticket: AwaitedRequest, receive: Receive) -> None:
    """Give up a request whose client closes the connection."""
    while (await receive())["type"] != "http.disconnect":
        pass
    ticket.cancel()
    if not ticket.future.done():
        ticket.future.set_exception(ClientGone())


@dataclass(slots=True)
class _Work:
    """A request on its way: what it runs, and what its answer is made of."""

    served: ServedModel
    request: PredictRequest
    binary: bool
    owner: bytes
    segments: list[tuple[int, Segment]] | None
    sequences: list[Sequence]

    @property
    def many_numbers(self) -> bool:
        """Whether writing its answer takes milliseconds."""
        rows = _num_rows(self.request, self.sequences)
        return not self.binary and (self.request.hidden or rows * self.served.model.network.output_size > MANY)


class Predict:
    """The predict endpoint, as bare ASGI and without a task."""

    def __init__(self, server: Server, metrics: Metrics, bodies: BodyReader, watcher: Watcher) -> None:
        self.server = server
        self.metrics = metrics
        self.bodies = bodies
        self.watcher = watcher

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        served = served_in(self.server, scope["path_params"])
        headers = dict(scope["headers"])
        body = await self.bodies.read(headers, receive)
        asked = Request(scope["path_params"], headers, scope["query_string"], body, owner_of(scope))
        binary = wants_binary(headers.get(b"accept", b""))
        if len(body) > LARGE and not is_binary(headers.get(b"content-type", b"")):
            check_no_options(asked.query)
            request = await self.server.decoding.decode(body, served.decoder)
        else:
            request = _decode(asked, served)
        many_tokens = _many_tokens(request)
        work = await _aside(many_tokens, self._prepare, asked.owner, served, request, binary)
        await self.watcher.wait(self.server.engine.submit(served.queue, work.sequences), receive)
        answer = await _aside(many_tokens or work.many_numbers, self._compose, work)
        await respond_with(send, answer)
        self.metrics.request_done(served.model, time.perf_counter() - started)

    def begin(self, asked: Request, settle: Settle) -> GiveUp | None:
        """As `Direct` has it: what takes long to read, to open or to write takes a task."""
        started = time.perf_counter()
        served = served_in(self.server, asked.parameters)
        binary = wants_binary(asked.headers.get(b"accept", b""))
        if len(asked.body) > LARGE:
            return None
        request = _decode(asked, served)
        if _many_tokens(request):
            return None
        work = self._prepare(asked.owner, served, request, binary)
        if work.many_numbers:
            return None
        compose = partial(self._answer, work, started)
        return self.server.engine.begin(served.queue, work.sequences, partial(_finish, settle, compose)).cancel

    def _answer(self, work: _Work, started: float) -> Answer:
        answer = self._compose(work)
        self.metrics.request_done(work.served.model, time.perf_counter() - started)
        return answer

    def _prepare(self, owner: bytes, served: ServedModel, request: PredictRequest, binary: bool) -> _Work:
        """What a decoded request runs, checked. Raises RequestError."""
        check_returns(served, request.returns)
        _check_one(request, binary)
        segments = self._stretches(request, served, owner) if request.carries_state else None
        sequences = self._sequences(request, served, segments)
        _check_size(request, sequences, served, binary)
        return _Work(served, request, binary, owner, segments, sequences)

    def _compose(self, work: _Work) -> Answer:
        """The answer, once all has run. Raises the first error of any sequence, placed."""
        served, request, sequences = work.served, work.request, work.sequences
        _raise_first_error(sequences, request)
        extras = None if work.segments is None else self._extras(request, served, work.owner, sequences, work.segments)
        if not work.binary:
            return Answer(encode_answer(served.model, request, sequences, extras))
        extra = extras[0] if extras else {}
        headers = [(b"elman-" + name.encode(), str(value).encode()) for name, value in extra.items()]
        return binary_answer(served, outputs_of(sequences[0]), request.returns, headers)

    def _stretches(self, request: PredictRequest, served: ServedModel, owner: bytes) -> list[tuple[int, Segment]]:
        """Each sequence with the step that it starts at, where it carries state. Raises as `open_token`."""
        check_streaming(served)
        tokens = request.state
        starts = [(0, served.snapshots.first)] * len(request.sequences)
        if isinstance(tokens, str):
            starts = [open_token(self.server, served, owner, tokens, "state")] * len(request.sequences)
        elif tokens is not None:
            starts = [
                open_token(self.server, served, owner, token, f"state[{index}]") for index, token in enumerate(tokens)
            ]
        segments = []
        for data, place, (step, start) in zip(request.sequences, request.places, starts, strict=True):
            segment = Segment(served, data, start)
            if start.carry is not None:
                check_cut(segment.inputs, data, start.carry, served.format, place)
            segments.append((step, segment))
        return segments

    def _sequences(
        self, request: PredictRequest, served: ServedModel, segments: list[tuple[int, Segment]] | None
    ) -> list[Sequence]:
        deadline = deadline_of(request.timeout)
        if segments is not None:
            wanted = {"keep_state": request.return_state, "keep_trace": request.hidden}
            return [one.sequence(returns=request.returns, deadline=deadline, **wanted) for _, one in segments]
        data = request.sequences
        if served.format.frames:
            data = [cut_whole(served, one, place) for one, place in zip(data, request.places, strict=True)]
        return [Sequence(inputs, returns=request.returns, deadline=deadline) for inputs in data]

    def _extras(
        self,
        request: PredictRequest,
        served: ServedModel,
        owner: bytes,
        sequences: list[Sequence],
        segments: list[tuple[int, Segment]],
    ) -> list[dict[str, Any]]:
        """What carries state in each result."""
        extras: list[dict[str, Any]] = [{} for _ in sequences]
        for extra, sequence, (step, segment) in zip(extras, sequences, segments, strict=True):
            if request.return_state:
                extra["step"] = step + segment.moves
                snapshot = served.snapshots.pack(segment.end(sequence))
                extra["state"] = seal_token(self.server, served, owner, extra["step"], snapshot)
            if request.hidden:
                extra["hidden"] = served.queue.runner.packing.trace(sequence.trace)
        return extras


def _decode(asked: Request, served: ServedModel) -> PredictRequest:
    """Raises RequestError with the place of the first fault."""
    if is_binary(asked.headers.get(b"content-type", b"")):
        token = asked.headers.get(STATE_HEADER)
        state = None if token is None else token.decode("latin-1")
        return decode_binary(asked.body, asked.query, served.format, served.decoder.limits, state)
    check_no_options(asked.query)
    return served.decoder.decode(asked.body)


def _many_tokens(request: PredictRequest) -> bool:
    """Whether opening or sealing the state tokens of a request takes milliseconds."""
    return request.carries_state and len(request.sequences) > _MANY_TOKENS


def _finish(settle: Settle, compose: Callable[[], Answer], error: ElmanError | None) -> None:
    """Settle a request that the engine is done with."""
    settle(compose if error is None else partial(_raise, error))


def _raise(error: ElmanError) -> Answer:
    raise error


async def _aside(aside: bool, call: Callable[..., T], *arguments: Any) -> T:
    """A call's result, made in a thread or here."""
    return await asyncio.to_thread(call, *arguments) if aside else call(*arguments)


def served_in(server: Server, parameters: Mapping[str, str]) -> ServedModel:
    """The model that a path names. Raises UnknownModel."""
    return server.served(parameters["name"], parameters.get("version"))


@lru_cache(256)
def wants_binary(accept: bytes) -> bool:
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
def is_binary(content_type: bytes) -> bool:
    """Whether a Content-Type says octets and not JSON. Raises UnsupportedMediaType."""
    kind = content_type.split(b";")[0].strip().lower()
    # curl -d without a header says it sends a form; what it holds is judged by the JSON decoder.
    if kind not in (b"", JSON, BINARY, b"application/x-www-form-urlencoded"):
        raise UnsupportedMediaType(f"the body is {kind.decode('latin-1')}", expected=[JSON.decode(), BINARY.decode()])
    return kind == BINARY


def check_no_options(query: bytes) -> None:
    if query:
        parse_options(query)
        raise InvalidField("the options of a JSON request belong in its body", where="query")


def check_returns(served: ServedModel, returns: Return) -> None:
    """Raise InvalidField where every step's output is wanted of a model that has only the last one's."""
    if returns == "steps" and served.queue.scheduler.policy.steps_singly and not served.model.proof.chunked:
        raise InvalidField(
            f"{served.model.name} gives an output after the last step only", where="return", expected="final"
        )


def _check_size(request: PredictRequest, sequences: list[Sequence], served: ServedModel, binary: bool) -> None:
    """Raise where the answer would be larger than a server can hold ready for one request."""
    rows, size = _num_rows(request, sequences), served.model.network.output_size
    numbers = rows * size
    if request.hidden:
        numbers += _num_steps(sequences) * served.model.network.state_nbytes // 4
    most = MAX_NUMBERS if binary else MAX_JSON_NUMBERS
    if numbers > most:
        raise TooLong(
            f"the answer would hold {numbers} numbers",
            where="return" if request.returns == "steps" or request.hidden else "sequences",
            expected=f"at most {most} numbers" + ("" if binary else ", more as application/octet-stream"),
        )
    if request.decode and not binary:
        check_listed(rows, min(request.top, size))


def _num_rows(request: PredictRequest, sequences: list[Sequence]) -> int:
    """Output rows of an answer."""
    return _num_steps(sequences) if request.returns == "steps" else len(sequences)


def _num_steps(sequences: list[Sequence]) -> int:
    return sum([len(sequence.inputs) for sequence in sequences])


def _check_one(request: PredictRequest, binary: bool) -> None:
    if binary and len(request.sequences) > 1:
        raise NotAcceptable("several sequences cannot be answered as application/octet-stream", expected=JSON.decode())
    if binary and request.hidden:
        raise NotAcceptable("hidden cannot be answered as application/octet-stream", expected=JSON.decode())


def _raise_first_error(sequences: list[Sequence], request: PredictRequest) -> None:
    failed = first_error(sequences)
    if failed is not None:
        index, error = failed
        raise placed(error, request.places[index])


def placed(error: ElmanError, where: str) -> ElmanError:
    error.where = error.where or where
    return error


def binary_answer(
    served: ServedModel, outputs: Array, returns: Return, headers: Iterable[tuple[bytes, bytes]] = ()
) -> Answer:
    """Output rows as octets."""
    content, shape = encode_binary(outputs, returns)
    named = [(b"elman-shape", ",".join(map(str, shape)).encode()), *_name(served.model.name, served.model.version)]
    return Answer(content, BINARY, [*named, *headers])


@lru_cache(256)
def _name(model: str, version: int) -> tuple[tuple[bytes, bytes], ...]:
    return (b"elman-model", model.encode()), (b"elman-version", str(version).encode())
