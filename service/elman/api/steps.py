"""`POST /v1/sessions/{id}/steps`: the hot path of sessions."""

import asyncio
import hashlib
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from starlette.types import Receive, Scope, Send

from elman.api.metrics import Metrics
from elman.api.predict import (
    LARGE,
    MANY,
    MAX_NUMBERS,
    Watcher,
    binary_answer,
    check_no_options,
    check_returns,
    is_binary,
    wants_binary,
)
from elman.api.segment import Segment, deadline_of, unpacked
from elman.api.server import ServedModel, Server
from elman.codec.answer import encode_json, outputs_of, rows_of
from elman.codec.binary import decode_binary_step
from elman.codec.request import StepRequest, check_listed
from elman.engine.sequence import Sequence
from elman.errors import TooLong
from elman.http.asgi import BodyReader, respond, respond_with
from elman.http.callers import owner_of
from elman.repository.network import Array
from elman.sessions.sessions import Ask, StepWrite


@dataclass(frozen=True, slots=True)
class Stepped:
    """What a step gave: its output rows, where the session stands, and whether it had been done before.

    `length` counts the steps that were run; `outputs` has no row where a piece of a signal completed no window.
    """

    id: str
    step: int
    length: int
    outputs: Array
    replayed: bool


class Stepper:
    """Takes a session on: what the route and the streams share."""

    def __init__(self, server: Server, watcher: Watcher) -> None:
        self.server = server
        self.watcher = watcher

    async def step(
        self, owner: bytes, id: str, served: ServedModel, request: StepRequest, receive: Receive | None
    ) -> Stepped:
        """Move a session on, once. Raises what `Sessions.step` and the engine raise.

        receive: of the client that waits; None where nobody is to be listened to.
        """
        check_returns(served, request.returns)
        ask = Ask(content_digest(request.sequence), len(request.sequence), request.at)

        async def run(snapshot: bytes, save: StepWrite | None) -> tuple[int, Array]:
            segment = Segment(served, request.sequence, unpacked(served, snapshot))
            if not len(segment.inputs):
                if save is not None:
                    save.snapshot = served.snapshots.pack(segment.end(None))
                    await self.server.sessions.save(save)
                return 0, np.zeros((0, served.model.network.output_size), np.float32)
            check_size(served, request, len(segment.inputs))
            if save is not None:
                save.compose = lambda sequence: served.snapshots.pack(segment.end(sequence))
            deadline = deadline_of(request.timeout)
            sequence = segment.sequence(returns=request.returns, deadline=deadline, keep_state=True, save=save)
            await self._run(served, sequence, receive)
            return sequence.length, outputs_of(sequence)

        (length, outputs), record, replayed = await self.server.sessions.step(owner, id, ask, run)
        # What is replayed was the last step, so the session stands where that left it.
        return Stepped(id, record.step, length, outputs, replayed)

    async def _run(self, served: ServedModel, sequence: Sequence, receive: Receive | None) -> None:
        ticket = self.server.engine.submit(served.queue, [sequence])
        if receive is not None:
            await self.watcher.wait(ticket, receive)
        else:
            try:
                await ticket.future
            except asyncio.CancelledError:
                ticket.cancel()
                raise
        if sequence.error is not None:
            sequence.error.where = sequence.error.where or "sequence"
            raise sequence.error


class Steps:
    """The steps endpoint, as bare ASGI."""

    def __init__(self, server: Server, metrics: Metrics, bodies: BodyReader, stepper: Stepper) -> None:
        self.server = server
        self.metrics = metrics
        self.bodies = bodies
        self.stepper = stepper

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        owner, id = owner_of(scope), scope["path_params"]["id"]
        headers = dict(scope["headers"])
        body = await self.bodies.read(headers, receive)
        binary = wants_binary(headers.get(b"accept", b""))
        served = self.server.served_to(await self.server.sessions.at_hand(owner, id))
        request = await self._decode(scope, headers, body, served)
        stepped = await self.stepper.step(owner, id, served, request, receive)
        if binary:
            fields = [
                (b"elman-step", str(stepped.step).encode()),
                (b"elman-replayed", b"true" if stepped.replayed else b"false"),
            ]
            returns = request.returns if stepped.length else "steps"
            await respond_with(send, binary_answer(served, stepped.outputs, returns, fields))
        else:
            await respond(send, await encoded(served, request, stepped))
        self.metrics.request_done(served.model, time.perf_counter() - started)

    async def _decode(self, scope: Scope, headers: dict[bytes, bytes], body: bytes, served: ServedModel) -> StepRequest:
        if is_binary(headers.get(b"content-type", b"")):
            return decode_binary_step(body, scope["query_string"], served.format, served.decoder.limits)
        check_no_options(scope["query_string"])
        if len(body) > LARGE:
            return await self.server.decoding.decode_step(body, served.decoder)
        return served.decoder.decode_step(body)


async def encoded(served: ServedModel, request: StepRequest, stepped: Stepped) -> bytes:
    """The answer to a step request as JSON, written beside the event loop where that takes long."""
    if stepped.outputs.size > MANY:
        return await asyncio.to_thread(lambda: encode_json(step_answer(served, request, stepped)))
    return encode_json(step_answer(served, request, stepped))


def step_answer(served: ServedModel, request: StepRequest, stepped: Stepped) -> dict[str, Any]:
    """The answer to a step request, to be written as JSON. Raises NotFiniteOutput."""
    rows: dict[str, Any]
    if stepped.length:
        rows = rows_of(served.model, stepped.outputs, request.returns, request.decode, request.top, "sequence")
    else:
        names = ("outputs", "decoded") if request.returns == "steps" else ("output", "decoded")
        rows = {name: [] if request.returns == "steps" else None for name in names[: 1 + request.decode]}
    return {
        "id": stepped.id,
        "step": stepped.step,
        "length": stepped.length,
        **rows,
        "replayed": stepped.replayed,
    }


def content_digest(data: Array) -> bytes:
    """16 bytes that stand for what a step reads."""
    return hashlib.blake2b(data.tobytes(), digest_size=16).digest()


def check_size(served: ServedModel, request: StepRequest, length: int) -> None:
    """Raise where the answer would be larger than a server can hold ready for one request."""
    rows = length if request.returns == "steps" else 1
    size = served.model.network.output_size
    if rows * size > MAX_NUMBERS:
        raise TooLong(
            f"the answer would hold {rows} outputs of {size} numbers",
            where="return",
            expected=f"at most {MAX_NUMBERS} numbers",
        )
    if request.decode:
        check_listed(rows, min(request.top, size))
