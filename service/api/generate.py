"""`POST /v1/models/{name}/generate`: what comes next, token by token, whole or as server-sent events."""

import asyncio
import secrets
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from starlette.types import Receive, Scope, Send

from service.api.asgi import ClientGone, respond
from service.api.callers import owner_of
from service.api.loop import Loop, Start
from service.api.predict import watch
from service.api.stretch import deadline_of, seal_token
from service.codec.answer import encode_json
from service.codec.loops import GenerateRequest, LoopDecoder
from service.engine.engine import Ticket, first_error
from service.engine.sampling import Rule, Sampler
from service.engine.sequence import Sequence
from service.errors import CannotGenerate, ElmanError
from service.repository.feeding import why_no_generation
from service.repository.spec import GenerationSpec
from service.server import Served
from service.sessions.snapshot import Snapshot

# Scores that take milliseconds to draw from, which is then done beside the event loop.
_MANY = 200_000
_STREAM_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
]


@dataclass(slots=True)
class _Draft:
    """One sample as it is written: its sampler, and the sequence that runs it, where it did not end at once."""

    sampler: Sampler
    sequence: Sequence | None
    num_sent: int = 0
    num_read: int = 0

    def events(self, index: int) -> list[bytes]:
        """What was written since the last call, an event a token; text that a stop may yet take back is held."""
        sampler = self.sampler
        events = []
        for settled in sampler.settled[self.num_sent :]:
            events.append(self._event(index, sampler.tokens[self.num_sent], settled))
            self.num_sent += 1
        return events

    def rest(self, index: int) -> list[bytes]:
        """The same once it has ended, and text that was held in vain."""
        events = self.events(index)
        if self.num_read < len(self.sampler.text):
            events.append(self._event(index, None, len(self.sampler.text)))
        return events

    def _event(self, index: int, token: int | None, settled: int) -> bytes:
        text = self.sampler.text[self.num_read : settled]
        self.num_read = settled
        return b"data: " + encode_json({"sample": index, "token": token, "text": text}) + b"\n\n"


class Generate:
    """The generate endpoint, as bare ASGI."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.server = loop.server

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        served, request = await self.loop.read(scope, receive, _check, LoopDecoder.generate)
        ask = Start(request.session, request.state, request.timeout, "prompt")
        served, start = await self.loop.begin(scope, receive, served, request.prompt, ask)
        rule = rule_of(served, request)
        drafts = await self._drafts(served, request, rule, start)
        if request.stream:
            await self._stream(scope, receive, send, served, request, start, drafts)
        else:
            running = [draft.sequence for draft in drafts if draft.sequence is not None]
            if running:
                await self.loop.watcher.run(self.server, served, running, receive)
            await respond(send, await self._answer(scope, receive, served, request, start, drafts))
        self.loop.metrics.request_done(served.model, time.perf_counter() - started)

    async def _drafts(self, served: Served, request: GenerateRequest, rule: Rule, start: Snapshot) -> list[_Draft]:
        """Every sample with its first token, which the prompt's last output gives."""
        assert start.output is not None, "a prompt was read"
        samplers = [Sampler(rule, path) for path in range(request.samples)]
        scores = np.broadcast_to(start.output, (len(samplers), len(start.output)))
        if scores.size > _MANY:
            inputs = await asyncio.to_thread(samplers[0].feed, list(samplers), scores)
        else:
            inputs = samplers[0].feed(list(samplers), scores)
        deadline = deadline_of(request.timeout)
        return [
            _Draft(
                sampler,
                None
                if first is None
                else Sequence(
                    first,
                    state=start.state,
                    feedback=sampler,
                    more=request.max_steps - 2,
                    keep_state=request.return_state,
                    deadline=deadline,
                ),
            )
            for sampler, first in zip(samplers, inputs, strict=True)
        ]

    async def _stream(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        served: Served,
        request: GenerateRequest,
        start: Snapshot,
        drafts: list[_Draft],
    ) -> None:
        running = [draft.sequence for draft in drafts if draft.sequence is not None]
        news = asyncio.Event()
        for sequence in running:
            sequence.listener = news.set
        ticket = self.server.engine.submit(served.lane, running) if running else None
        await send({"type": "http.response.start", "status": 200, "headers": _STREAM_HEADERS})
        watching = None if ticket is None else asyncio.create_task(watch(ticket, receive))
        try:
            if ticket is not None:
                await self._follow(send, ticket, news, drafts)
                failed = first_error(running)
                if failed is not None:
                    raise failed[1]
            last = b"".join(event for index, draft in enumerate(drafts) for event in draft.rest(index))
            answer = await self._answer(scope, receive, served, request, start, drafts)
            await _send_piece(send, last + b"event: done\ndata: " + answer + b"\n\n", more=False)
        except ElmanError as error:
            self.loop.metrics.request_failed(error)
            await _send_piece(send, b"event: error\ndata: " + encode_json(error.problem()) + b"\n\n", more=False)
        finally:
            if ticket is not None:
                ticket.cancel()
            if watching is not None:
                watching.cancel()

    async def _follow(self, send: Send, ticket: Ticket, news: asyncio.Event, drafts: list[_Draft]) -> None:
        """Send what is written as it is written, until all is. Raises ClientGone."""
        ticket.future.add_done_callback(lambda _: news.set())
        while not ticket.future.done():
            await news.wait()
            news.clear()
            events = b"".join(event for index, draft in enumerate(drafts) for event in draft.events(index))
            if events:
                await _send_piece(send, events)
        if isinstance(ticket.future.exception(), ClientGone):
            raise ClientGone
        await ticket.future

    async def _answer(
        self,
        scope: Scope,
        receive: Receive,
        served: Served,
        request: GenerateRequest,
        start: Snapshot,
        drafts: list[_Draft],
    ) -> bytes:
        results = []
        for draft in drafts:
            sampler = draft.sampler
            result: dict[str, Any] = {
                "text": sampler.text if sampler.rule.vocabulary is not None else None,
                "tokens": sampler.tokens,
                "steps": len(sampler.tokens),
                "reason": sampler.reason,
            }
            if request.return_state:
                result["state"] = await self._state(scope, receive, served, request, start, draft)
            results.append(result)
        model, seed = served.model, drafts[0].sampler.rule.seed
        return encode_json({"model": model.name, "version": model.version, "seed": seed, "results": results})

    async def _state(
        self,
        scope: Scope,
        receive: Receive,
        served: Served,
        request: GenerateRequest,
        start: Snapshot,
        draft: _Draft,
    ) -> str:
        """A token for the state after every token of a sample; the last one drawn is read for it."""
        sampler, sequence = draft.sampler, draft.sequence
        after, unread = start, sampler.tokens
        if sequence is not None and sequence.final_state is not None:
            after, unread = Snapshot(sequence.final_state, sequence.last_output), sampler.tokens[-1:]
            if sampler.reason == "end":
                unread = []
        if unread:
            inputs = np.array(unread, served.format.numpy_dtype)
            after = await self.loop.advance(receive, served, inputs, after, request.timeout)
        step = len(request.prompt) + len(sampler.tokens)
        return seal_token(self.server, served, owner_of(scope), step, served.snapshots.pack(after))


def rule_of(served: Served, request: GenerateRequest) -> Rule:
    """How a request's tokens are drawn. A token that only begins a sequence is never drawn."""
    spec = served.model.spec.generation or GenerationSpec()
    ids = served.format.token_ids or {}
    begins = [*spec.conditions.values(), *([spec.start] if spec.start is not None else [])]
    return Rule(
        temperature=request.temperature,
        top_k=request.top_k,
        top_p=request.top_p,
        seed=secrets.randbits(32) if request.seed is None else request.seed,
        max_steps=request.max_steps,
        end=None if spec.end is None else ids[spec.end],
        stop=request.stop,
        vocabulary=served.format.vocabulary,
        banned=tuple(sorted({ids[token] for token in begins} - {ids.get(spec.end or "", -1)})),
    )


def _check(served: Served) -> None:
    reason = why_no_generation(served.model)
    if reason is not None:
        raise CannotGenerate(f"{served.model.name} cannot generate: {reason}")


async def _send_piece(send: Send, body: bytes, more: bool = True) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": more})
