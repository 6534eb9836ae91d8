"""What generate, forecast and influence have in common: bodies of JSON, and a sequence that is read first."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

import numpy as np
from starlette.types import Receive, Scope

from service.api.asgi import BodyReader
from service.api.callers import owner_of
from service.api.metrics import Metrics
from service.api.predict import LARGE, Watcher, check_no_options, is_binary, served_in
from service.api.stretch import deadline_of, start_at
from service.codec.loops import LoopDecoder
from service.engine.sequence import Sequence
from service.errors import EmptySequence, UnsupportedMediaType
from service.repository.network import Array
from service.server import Served, Server
from service.sessions.snapshot import Snapshot

T = TypeVar("T")


class Loop:
    """Reads requests and prompts for the endpoints that feed outputs back."""

    def __init__(self, server: Server, metrics: Metrics, bodies: BodyReader, watcher: Watcher) -> None:
        self.server = server
        self.metrics = metrics
        self.bodies = bodies
        self.watcher = watcher

    async def read(
        self, scope: Scope, receive: Receive, check: Callable[[Served], None], decode: Callable[[LoopDecoder, bytes], T]
    ) -> tuple[Served, T]:
        """The model that is asked, checked, and what it is asked. Raises ElmanError."""
        served = served_in(self.server, scope)
        headers = dict(scope["headers"])
        body = await self.bodies.read(headers, receive)
        check(served)
        if is_binary(headers.get(b"content-type", b"")):
            raise UnsupportedMediaType("the body is octets", expected="application/json")
        check_no_options(scope["query_string"])
        if len(body) > LARGE:
            return served, await asyncio.to_thread(decode, served.loops, body)
        return served, decode(served.loops, body)

    async def begin(
        self, scope: Scope, receive: Receive, served: Served, prompt: Array | None, ask: "Start"
    ) -> tuple[Served, Snapshot]:
        """Read a prompt from where the request starts: the state after it and its last output.

        Without a prompt the state must have given an output already; raises EmptySequence where it has not.
        """
        served, start = await start_at(self.server, served, owner_of(scope), ask.session, ask.state)
        if prompt is not None and len(prompt):
            return served, await self.advance(receive, served, prompt, start, ask.timeout)
        if start.output is None:
            raise EmptySequence("the state has given no output yet to go on from", where=ask.where, expected="steps")
        return served, start

    async def advance(
        self, receive: Receive, served: Served, inputs: Array, start: Snapshot, timeout: float | None
    ) -> Snapshot:
        """Where a sequence stands after some steps."""
        sequence = Sequence(inputs, state=start.state, keep_state=True, deadline=deadline_of(timeout))
        await self.watcher.run(self.server, served, [sequence], receive)
        assert sequence.final_state is not None, "it was to be kept"
        return Snapshot(sequence.final_state, np.array(sequence.outputs[-1][-1]))


class Start:
    """Where a request starts, and how it is called in an error."""

    def __init__(self, session: str | None, state: str | None, timeout: float | None, where: str) -> None:
        self.session = session
        self.state = state
        self.timeout = timeout
        self.where = where
