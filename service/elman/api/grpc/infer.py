"""`ModelInfer` and `ModelStreamInfer`."""

import asyncio
from typing import Any, NamedTuple

import grpc

from elman.api.grpc.calls import Call, Calls, Context, Peer, known
from elman.api.grpc.fields import check_elements, check_fields, parsed
from elman.api.grpc.messages import INFERENCE
from elman.api.grpc.statuses import text_of
from elman.api.grpc.tensors import read_request, write_response
from elman.api.server import Server
from elman.api.v2.infer import Infer
from elman.api.v2.messages import InferRequest, InferResponse
from elman.codec.pool import LARGE
from elman.engine.work import Steps, aside_if, in_thread
from elman.errors import Draining, ElmanError, Overloaded, Unauthorized
from elman.http.callers import Caller
from elman.http.endpoint import Driver, Response, forget_frames

ROUTE = "inference.GRPCInferenceService"

_REQUEST = INFERENCE.message("ModelInferRequest")
_STREAMED = INFERENCE.message("ModelStreamInferResponse")
# Most messages of one stream that are read and not answered.
_MOST_PENDING = 128
# Lists of elements are read one by one. More bytes of them take milliseconds, and are read in a thread.
_MANY_LISTED_BYTES = 16 * 1024
# Copying more bytes into a message takes milliseconds and is done in a thread.
_MANY_BYTES = 4 * 2**20


class _Answer(NamedTuple):
    """An answer of a stream, the error that it tells of, and how many places its message took."""

    content: bytes
    error: ElmanError | None
    places: int


class Inferring:
    """Both methods."""

    def __init__(self, server: Server, infer: Infer, calls: Calls) -> None:
        self.server = server
        self.infer = infer
        self.calls = calls
        self._readers: set[asyncio.Task[None]] = set()
        self._ending = False

    def end(self) -> None:
        """End every stream once the messages that it has read are answered."""
        self._ending = True
        for reader in list(self._readers):
            reader.cancel()

    async def once(self, call: Call) -> Response:
        """Answer a message of `ModelInfer`. Raises what the work raises."""
        message = await _message(call.content)
        return await self._run(call, await self._request(call, message), lambda response: response)

    async def _request(self, call: Call, message: Any) -> InferRequest:
        """The request of a message. Raises Overloaded before it is read, and RequestError."""
        assert call.caller is not None, "inferring needs a key"
        self._driver(call).engine.check_room(call.peer.party(call.caller))
        size = len(call.content)
        arguments = message, call.caller.owner, call.arrived, call.remaining
        if size > LARGE or (size > _MANY_LISTED_BYTES and not message.raw_input_contents):
            return await in_thread(read_request, *arguments)
        return read_request(*arguments)

    async def _run(self, call: Call, request: InferRequest, wrapped: Any) -> Response:
        party = call.peer.party(call.caller)
        return await self._driver(call).complete(self._steps(request, wrapped), party, call.request_id)

    def _driver(self, call: Call) -> Driver:
        return self.calls.driver.within(None if call.caller is None else call.caller.meter)

    def _steps(self, request: InferRequest, wrapped: Any) -> Steps[Response]:
        response: InferResponse = yield from self.infer.steps(request, lambda response: response)
        many = sum(one.array.nbytes for one in response.outputs) > _MANY_BYTES
        content = yield from aside_if(many, lambda: wrapped(write_response(response)).SerializeToString())
        return Response(content, model=(response.model, response.version))

    async def stream(self, _: Any, context: Context) -> None:
        """Answer the messages of a stream in their order. Several of them may be under way."""
        peer = Peer(context, self.calls.driver)
        failure: ElmanError | None = None
        try:
            caller = self.calls.admit(peer, "infer")
            self._check_room()
            failure = await self._answer_all(peer, caller)
        except grpc.aio.BaseError:
            return  # the connection broke
        except Exception as error:
            self.calls.driver.problem(error, peer.request_id)
            failure = known(error)
        if failure is not None:
            await peer.abort(failure)

    def _check_room(self) -> None:
        most = self.server.settings.max_streams
        if len(self._readers) >= most:
            raise Overloaded(f"{most} streams are open, which is the limit", retry_after=5)
        if self._ending or not self.server.ready:
            raise _stopping()

    async def _answer_all(self, peer: Peer, caller: Caller | None) -> ElmanError | None:
        """Answer until the client has no more messages. Returns the error that the stream ends with, if it does."""
        strict = peer.headers.get(b"triton_grpc_error") == b"true"
        answers: asyncio.Queue[asyncio.Task[_Answer] | None] = asyncio.Queue()
        room = asyncio.Semaphore(_MOST_PENDING)
        reader = asyncio.create_task(self._read(peer, caller, answers, room))
        self._readers.add(reader)
        task = None
        try:
            while (task := await answers.get()) is not None:
                answer = await task
                if answer.error is not None and strict:
                    return answer.error
                async with asyncio.timeout(self.server.settings.stream_timeout):
                    peer.prepare(answer.content)
                    await peer.context.write(answer.content)
                for _ in range(answer.places):
                    room.release()
            return _stopping() if self._ending else None
        except TimeoutError:
            return Overloaded("answers were not read in time")
        finally:
            self._readers.discard(reader)
            reader.cancel()
            answers.put_nowait(task)
            while not answers.empty():
                if (task := answers.get_nowait()) is not None:
                    task.cancel()

    async def _read(self, peer: Peer, caller: Caller | None, answers: Any, room: asyncio.Semaphore) -> None:
        """Begin on each message of a stream as it comes; None follows the last.

        A large message takes several places, so that all that are held have about the size of a body.
        """
        most = self.server.settings.max_body
        in_order = asyncio.Lock()
        try:
            while await room.acquire() and (content := await peer.context.read()) is not grpc.aio.EOF:
                places = min(_MOST_PENDING, 1 + len(content) * _MOST_PENDING // most)
                answers.put_nowait(asyncio.create_task(self._answer(Call.of(peer, content, caller), in_order, places)))
                for _ in range(places - 1):
                    await room.acquire()
        except grpc.aio.BaseError:
            pass  # the connection broke
        finally:
            answers.put_nowait(None)

    async def _answer(self, call: Call, in_order: asyncio.Lock, places: int) -> _Answer:
        """The answer to one message of a stream. Does not raise.

        A large message is read in a thread. A small one behind it waits: it may be the next part of its sequence.
        """
        answer = _STREAMED()

        async def serve(call: Call) -> Response:
            with self.calls.holding(call):
                async with in_order:
                    message = await _message(call.content)
                    answer.infer_response.id = message.id
                    if call.caller is None or not self.calls.callers.holds(call.caller):
                        raise Unauthorized("the API key has been revoked, or may do less than it could")
                    request = await self._request(call, message)
                return await self._run(call, request, _streamed)

        try:
            response = await self.calls.counted(f"{ROUTE}/ModelStreamInfer", call, serve)
            return _Answer(bytes(response.content), None, places)
        except ElmanError as error:
            forget_frames(error)
            answer.error_message = text_of(error)
            return _Answer(answer.SerializeToString(), error, places)


def read_listed(content: bytes) -> Any:
    """A request from bytes that `check_fields` has passed. Raises InvalidField and TooLong."""
    check_elements(content)
    return parsed(_REQUEST, content)


async def _message(content: bytes) -> Any:
    """A request from its bytes, read in a thread if it has lists of many elements. Raises also TooLarge."""
    if check_fields(content) > _MANY_LISTED_BYTES:
        return await in_thread(read_listed, content)
    return parsed(_REQUEST, content)


def _streamed(message: Any) -> Any:
    message.parameters["triton_final_response"].bool_param = True
    return _STREAMED(infer_response=message)


def _stopping() -> Draining:
    return Draining("the server is stopping and takes no new work", retry_after=1)
