"""`POST /v1/models/{name}/generate`: what comes next, token by token, whole or as server-sent events."""

import asyncio
import secrets
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from starlette.types import Receive, Scope, Send

from elman.api.autoregressive import Asked, Loop
from elman.api.predict import placed, watch
from elman.api.segment import seal_token
from elman.api.server import ServedModel
from elman.codec.answer import encode_json
from elman.codec.autoregressive import GenerateRequest, LoopDecoder
from elman.engine.engine import AwaitedRequest, first_error
from elman.engine.sampling import Rule, Sampler
from elman.engine.sequence import Sequence
from elman.errors import CannotGenerate, Draining, ElmanError
from elman.http.asgi import ClientGone, respond
from elman.repository.feeding import why_no_generation
from elman.repository.spec import GenerationSpec
from elman.sessions.snapshot import Snapshot

# Scores that take milliseconds to draw from, which is then done beside the event loop.
_MANY = 200_000
# Samples that take milliseconds to write.
_MANY_DRAFTS = 100
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
        asked = await self.loop.read(scope, receive, _check, LoopDecoder.generate)
        after_prompt = await self.loop.begin(asked, asked.request.prompt, "prompt")
        drafts = await self._drafts(asked, after_prompt)
        if asked.request.stream:
            await self._stream(asked, send, after_prompt, drafts)
        else:
            await self.loop.run(asked, [one.sequence for one in drafts if one.sequence is not None], "prompt")
            await respond(send, await self._answer(asked, after_prompt, drafts))
        self.loop.metrics.request_done(asked.served.model, time.perf_counter() - started)

    async def _drafts(self, asked: Asked[GenerateRequest], start: Snapshot) -> list[_Draft]:
        """Every sample with its first token, which the prompt's last output gives."""
        assert start.output is not None, "a prompt was read"
        request, rule = asked.request, rule_of(asked.served, asked.request)
        more = request.max_steps - 2  # beyond the first token, and the last, which nothing reads
        samplers = [Sampler(rule, path) for path in range(request.samples)]
        scores = np.broadcast_to(start.output, (len(samplers), len(start.output)))
        if scores.size > _MANY:
            inputs = await asyncio.to_thread(samplers[0].feed, list(samplers), scores)
        else:
            inputs = samplers[0].feed(list(samplers), scores)
        wanted: dict[str, Any] = {
            "keep_state": request.return_state,
            "deadline": asked.deadline,
        }
        return [
            _Draft(
                one, None if first is None else Sequence(first, state=start.state, feedback=one, more=more, **wanted)
            )
            for one, first in zip(samplers, inputs, strict=True)
        ]

    async def _stream(self, asked: Asked[GenerateRequest], send: Send, start: Snapshot, drafts: list[_Draft]) -> None:
        running = [draft.sequence for draft in drafts if draft.sequence is not None]
        news = asyncio.Event()
        for sequence in running:
            sequence.listener = news.set
        ticket = self.server.engine.submit(asked.served.queue, running) if running else None
        await send({"type": "http.response.start", "status": 200, "headers": _STREAM_HEADERS})
        watching = None if ticket is None else asyncio.create_task(watch(ticket, asked.receive))
        try:
            if ticket is not None:
                await self._follow(send, ticket, news, drafts)
                failed = first_error(running)
                if failed is not None:
                    raise placed(failed[1], "prompt")
            last = b"".join(event for index, draft in enumerate(drafts) for event in draft.rest(index))
            answer = await self._answer(asked, start, drafts)
            await _send_piece(send, last + b"event: done\ndata: " + answer + b"\n\n", more=False)
        except ElmanError as error:
            await self._send_error(send, error)
        except asyncio.CancelledError:
            if self.server.ready:
                raise
            await self._send_error(send, Draining("the server stopped before this was done", retry_after=1))
        finally:
            if ticket is not None:
                ticket.cancel()
            if watching is not None:
                watching.cancel()

    async def _send_error(self, send: Send, error: ElmanError) -> None:
        self.loop.metrics.request_failed(error)
        await _send_piece(send, b"event: error\ndata: " + encode_json(error.problem()) + b"\n\n", more=False)

    async def _follow(self, send: Send, ticket: AwaitedRequest, news: asyncio.Event, drafts: list[_Draft]) -> None:
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

    async def _answer(self, asked: Asked[GenerateRequest], start: Snapshot, drafts: list[_Draft]) -> bytes:
        results: list[dict[str, Any]] = []
        for draft in drafts:
            sampler = draft.sampler
            text = sampler.text if sampler.rule.vocabulary is not None else None
            found = {"text": text, "tokens": sampler.tokens, "steps": len(sampler.tokens), "reason": sampler.reason}
            results.append(found)
        if asked.request.return_state:
            for result, token in zip(results, await self._states(asked, start, drafts), strict=True):
                result["state"] = token
        model, seed = asked.served.model, drafts[0].sampler.rule.seed
        answer = {"model": model.name, "version": model.version, "seed": seed, "results": results}
        return await asyncio.to_thread(encode_json, answer) if len(drafts) > _MANY_DRAFTS else encode_json(answer)

    async def _states(self, asked: Asked[GenerateRequest], start: Snapshot, drafts: list[_Draft]) -> list[str]:
        """A token for the state after every token of each sample; the last one drawn is read for it."""
        served, dtype = asked.served, asked.served.format.numpy_dtype
        afters, unread = [], []
        for draft in drafts:
            sampler, sequence = draft.sampler, draft.sequence
            if sequence is None:
                afters.append(start)
                unread.append(np.array(sampler.tokens, dtype))
            else:
                assert sequence.final_state is not None, "it was to be kept"
                afters.append(Snapshot(sequence.final_state, sequence.last_output))
                unread.append(np.array(sampler.tokens[-1:] if sampler.reason != "end" else [], dtype))
        rows = [row for row, inputs in enumerate(unread) if len(inputs)]
        read = await self.loop.advance(asked, [unread[row] for row in rows], [afters[row] for row in rows], "prompt")
        for row, after in zip(rows, read, strict=True):
            afters[row] = after
        first = asked.step + len(asked.request.prompt)
        steps = [first + len(draft.sampler.tokens) for draft in drafts]

        def seal() -> list[str]:
            return [
                seal_token(self.server, served, asked.owner, step, served.snapshots.pack(after))
                for step, after in zip(steps, afters, strict=True)
            ]

        return await asyncio.to_thread(seal) if len(drafts) > _MANY_DRAFTS else seal()


def rule_of(served: ServedModel, request: GenerateRequest) -> Rule:
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


def _check(served: ServedModel) -> None:
    reason = why_no_generation(served.model)
    if reason is not None:
        raise CannotGenerate(f"{served.model.name} cannot generate: {reason}")


async def _send_piece(send: Send, body: bytes, more: bool = True) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": more})
