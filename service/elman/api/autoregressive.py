"""What generate, forecast and influence have in common: bodies of JSON, and where a request starts."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from starlette.types import Receive, Scope

from elman.api.metrics import Metrics
from elman.api.predict import LARGE, Watcher, check_no_options, is_binary, served_in
from elman.api.segment import deadline_of, open_token, unpacked
from elman.api.server import ServedModel, Server
from elman.codec.autoregressive import ForecastRequest, GenerateRequest, InfluenceRequest, LoopDecoder, session_in
from elman.engine.sequence import Sequence
from elman.errors import EmptySequence, InvalidField, NotFiniteOutput, UnsupportedMediaType
from elman.http.asgi import BodyReader
from elman.http.callers import owner_of
from elman.repository.network import Array
from elman.sessions.snapshot import Snapshot
from elman.sessions.store import Record

T = TypeVar("T", GenerateRequest, ForecastRequest, InfluenceRequest)


@dataclass(slots=True)
class Asked(Generic[T]):
    """A request, the model that it is for, and where it starts.

    Attributes:
        served: the model; a session's own, where the request goes on from a session.
        request: what is asked.
        owner: whose request it is.
        step, start: where it starts: a session, which is not moved, a state token, or the initial state.
        deadline: of everything that is run for it, on the engine's clock.
        receive: of the client that waits.
    """

    served: ServedModel
    request: T
    owner: bytes
    step: int
    start: Snapshot
    deadline: float
    receive: Receive


class Loop:
    """Reads requests and prompts for the endpoints that feed outputs back."""

    def __init__(self, server: Server, metrics: Metrics, bodies: BodyReader, watcher: Watcher) -> None:
        self.server = server
        self.metrics = metrics
        self.bodies = bodies
        self.watcher = watcher

    async def read(
        self,
        scope: Scope,
        receive: Receive,
        check: Callable[[ServedModel], None],
        decode: Callable[[LoopDecoder, bytes], T],
    ) -> Asked[T]:
        """A request, checked. Raises ElmanError."""
        served, owner = served_in(self.server, scope["path_params"]), owner_of(scope)
        headers = dict(scope["headers"])
        body = await self.bodies.read(headers, receive)
        if is_binary(headers.get(b"content-type", b"")):
            raise UnsupportedMediaType("the body is octets", expected="application/json")
        check_no_options(scope["query_string"])
        session, record = session_in(body), None
        if session is not None:
            record = await self.server.sessions.read(owner, session)
            served = self._of_session(scope, served, record)
        check(served)
        large = len(body) > LARGE
        request = await asyncio.to_thread(decode, served.loops, body) if large else decode(served.loops, body)
        step, start = 0, served.snapshots.first
        if record is not None:
            step, start = record.step, unpacked(served, record.snapshot)
        elif request.state is not None:
            step, start = open_token(self.server, served, owner, request.state, "state")
        return Asked(served, request, owner, step, start, deadline_of(request.timeout), receive)

    def _of_session(self, scope: Scope, served: ServedModel, record: Record) -> ServedModel:
        """The model that a session began with. Raises InvalidField where the path names another."""
        version = scope["path_params"].get("version")
        if record.model != served.model.name or version not in (None, str(record.version)):
            raise InvalidField(
                f"the session is one of {record.model!r}, version {record.version}",
                where="session",
                expected=f"one of {served.model.name!r}" + (f", version {version}" if version else ""),
            )
        return self.server.served_to(record)

    async def begin(self, asked: Asked[T], prompt: Array | None, where: str) -> Snapshot:
        """Read a prompt from where the request starts: the state after it and its last output.

        Without a prompt the state must have given an output already. Raises EmptySequence where it has not, and
        NotFiniteOutput.
        """
        start = asked.start
        if prompt is not None and len(prompt):
            (start,) = await self.advance(asked, [prompt], [start], where)
        if start.output is None:
            raise EmptySequence("the state has given no output yet to go on from", where=where, expected="steps")
        if np.isnan(start.output).any() or np.isposinf(start.output).any():
            raise NotFiniteOutput("the output to go on from is not finite", where=where)
        return start

    async def advance(self, asked: Asked[T], inputs: list[Array], starts: list[Snapshot], where: str) -> list[Snapshot]:
        """Where some sequences stand after some steps each."""
        sequences = [
            Sequence(data, state=start.state, keep_state=True, deadline=asked.deadline)
            for data, start in zip(inputs, starts, strict=True)
        ]
        await self.run(asked, sequences, where)
        return [Snapshot(one.final_state or b"", np.array(one.outputs[-1][-1])) for one in sequences]

    async def run(self, asked: Asked[T], sequences: list[Sequence], where: str) -> None:
        """Run sequences as one request. Raises ClientGone, and the first error of any, placed."""
        if sequences:
            await self.watcher.run(self.server, asked.served, sequences, asked.receive, where)
