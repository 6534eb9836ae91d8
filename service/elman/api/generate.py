"""`POST /v1/models/{name}/generate`: generates tokens from a prompt, as one answer or as server-sent events."""

import secrets
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from elman.api.autoregressive import Start, advance, read_prompt, read_start
from elman.api.metrics import Metrics
from elman.api.segment import seal_token
from elman.api.server import ServedModel, Server
from elman.codec.answer import encode_json
from elman.codec.autoregressive import AutoregressiveDecoder
from elman.codec.limits import check_statics
from elman.codec.requests import GenerateRequest
from elman.codec.text import listed_unknown
from elman.engine.queue import ModelQueue
from elman.engine.sampling import Rule, Sampler
from elman.engine.sequence import Sequence
from elman.engine.work import Run, Steps, Work, aside, run, script
from elman.errors import CannotGenerate, ElmanError
from elman.http.endpoint import Request, Response, Send
from elman.repository.feeding import why_no_generation
from elman.repository.network import Array
from elman.repository.spec import GenerationSpec
from elman.sessions.snapshot import Snapshot

# With more scores, drawing the first tokens takes milliseconds and is done in a thread.
_THREAD_SCORES = 200_000
# With more samples, sealing and encoding the answer take milliseconds and leave the event loop.
_MANY_SAMPLES = 100
_STREAM_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
]


@dataclass(slots=True)
class _Sample:
    """One sample: its sampler, and its sequence; None if the first token ended it.

    `num_sent` counts the tokens, `num_read` the characters that are in events already.
    """

    sampler: Sampler
    sequence: Sequence | None
    num_sent: int = 0
    num_read: int = 0

    def events(self, index: int) -> list[bytes]:
        """An event for each token since the last call.

        Text that could be the start of a stop string is held back until that is decided.
        """
        sampler = self.sampler
        events = []
        for settled in sampler.settled[self.num_sent :]:
            events.append(self._event(index, sampler.tokens[self.num_sent], settled))
            self.num_sent += 1
        return events

    def rest(self, index: int) -> list[bytes]:
        """The events since the last call, and the text held back. Called once the sample has ended."""
        events = self.events(index)
        if self.num_read < len(self.sampler.text):
            events.append(self._event(index, None, len(self.sampler.text)))
        return events

    def _event(self, index: int, token: int | None, settled: int) -> bytes:
        text = self.sampler.text[self.num_read : settled]
        self.num_read = settled
        return b"data: " + encode_json({"sample": index, "token": token, "text": text}) + b"\n\n"


class _StreamedRun(Run):
    """Samples whose answer is streamed: the script is resumed each time that they have new tokens, until `done`."""

    __slots__ = ("_begun", "_notified", "_waiting", "done", "failure")

    def __init__(self, queue: ModelQueue, sequences: list[Sequence]) -> None:
        super().__init__(queue, sequences, where="prompt")
        self.done = self._begun = self._notified = self._waiting = False
        self.failure: ElmanError | None = None

    def begin(self, driver: Any) -> bool:
        self.driver = driver
        if not self._begun:
            self._begun = True
            for sequence in self.sequences:
                sequence.listener = self._notify
            if self.sequences:
                driver.engine.begin(self)
            else:
                self.done = True
        self._waiting = not (self._notified or self.done)
        self._notified = False
        return self._waiting

    def finish(self, error: ElmanError | None) -> None:
        self.done, self.failure = True, error
        self._notify()

    def _notify(self) -> None:
        if self._waiting:
            self._waiting = False
            assert self.driver is not None, "begin() sets the driver"
            self.driver.resume(self, None)
        else:
            self._notified = True


class Generate:
    """The generate endpoint."""

    def __init__(self, server: Server, metrics: Metrics) -> None:
        self.server = server
        self.metrics = metrics

    def parse(self, request: Request) -> Work | Response:
        """The work that runs the prompt first. Raises ElmanError."""
        return script(self._generate(request))  # type: ignore[no-any-return]

    def _generate(self, request: Request) -> Steps[Response]:
        start = yield from read_start(self.server, request, _check, AutoregressiveDecoder.generate)
        served, (options, (prompt, *_)) = start.served, start.decoded
        check_statics([start.snapshot.statics] * options.samples, "samples")
        deadline = request.deadline(options.timeout)
        snapshot, output = yield from read_prompt(served, start.snapshot, prompt, deadline, "prompt")
        samples = yield from self._samples(served, options, snapshot, output, deadline)
        step = start.step + len(prompt)
        if options.stream:
            return (yield from self._stream(start, snapshot, step, samples, deadline))
        yield from run(served.queue, [one.sequence for one in samples if one.sequence is not None], "prompt")
        content = yield from self._answer(start, snapshot, step, samples, deadline)
        return Response(content, model=served.key)

    def _samples(
        self, served: ServedModel, options: GenerateRequest[Any], snapshot: Snapshot, output: Array, deadline: float
    ) -> Steps[list[_Sample]]:
        """The samples, each with its first token, which is drawn from the last output of the prompt."""
        rule = rule_of(served, options)
        samplers = [Sampler(rule, path) for path in range(options.samples)]
        scores = np.broadcast_to(output, (len(samplers), len(output)))
        feed = samplers[0].feed
        if scores.size > _THREAD_SCORES:
            inputs = yield from aside(feed, list(samplers), scores)
        else:
            inputs = feed(list(samplers), scores)
        more = options.max_steps - 2  # the first token is drawn already, and the last one is never an input
        wanted: dict[str, Any] = {"keep_state": options.return_state, "deadline": deadline, "more": more}
        wanted["statics"] = snapshot.statics
        return [
            _Sample(
                sampler, None if first is None else Sequence(first, state=snapshot.state, feedback=sampler, **wanted)
            )
            for sampler, first in zip(samplers, inputs, strict=True)
        ]

    def _stream(
        self, start: Start[Any], snapshot: Snapshot, step: int, samples: list[_Sample], deadline: float
    ) -> Steps[Response]:
        """Send tokens as they are drawn. An error after the response has begun is sent as an event."""
        running = [one.sequence for one in samples if one.sequence is not None]
        work = _StreamedRun(start.served.queue, running)
        try:
            yield Send(b"", _STREAM_HEADERS)
            while not work.done:
                yield work
                events = b"".join(_events(samples))
                if events:
                    yield Send(events, _STREAM_HEADERS)
            if work.failure is not None:
                raise work.failure
            work.check()
            last = b"".join(event for index, one in enumerate(samples) for event in one.rest(index))
            answer = yield from self._answer(start, snapshot, step, samples, deadline)
            return Response(last + b"event: done\ndata: " + answer + b"\n\n", model=start.served.key)
        except ElmanError as error:
            self.metrics.request_failed(error)
            return Response(b"event: error\ndata: " + encode_json(error.problem()) + b"\n\n")
        finally:
            work.cancel()

    def _answer(
        self, start: Start[Any], snapshot: Snapshot, step: int, samples: list[_Sample], deadline: float
    ) -> Steps[bytes]:
        served, (options, inputs) = start.served, start.decoded
        results: list[dict[str, Any]] = []
        for sample in samples:
            sampler = sample.sampler
            text = sampler.text if sampler.rule.vocabulary is not None else None
            result = {"text": text, "tokens": sampler.tokens, "steps": len(sampler.tokens), "reason": sampler.reason}
            results.append(result)
        if options.return_state:
            snapshots = yield from self._states(served, snapshot, samples, deadline)
            steps = [step + len(sample.sampler.tokens) for sample in samples]
            sealing = self._seal, served, start.owner, steps, snapshots
            many = len(samples) > _MANY_SAMPLES
            tokens = (yield from aside(*sealing)) if many else self._seal(*sealing[1:])
            for result, token in zip(results, tokens, strict=True):
                result["state"] = token
        name, version = served.key
        answer = {"model": name, "version": version, "seed": samples[0].sampler.rule.seed, "results": results}
        if inputs.unknown:
            answer["unknown"] = listed_unknown(inputs.unknown)
        return (yield from self.server.pool.offload(len(samples) > _MANY_SAMPLES, encode_json, answer))

    def _states(
        self, served: ServedModel, snapshot: Snapshot, samples: list[_Sample], deadline: float
    ) -> Steps[list[Snapshot]]:
        """The snapshot of each sample after all of its tokens. The last token was not an input yet, so it is run."""
        dtype = served.format.numpy_dtype
        snapshots, unread = [], []
        for sample in samples:
            sampler, sequence = sample.sampler, sample.sequence
            if sequence is None:
                snapshots.append(snapshot)
                unread.append(np.array(sampler.tokens, dtype))
            else:
                assert sequence.final_state is not None, "keep_state is set"
                snapshots.append(replace(snapshot, state=sequence.final_state, output=sequence.last_output))
                unread.append(np.array(sampler.tokens[-1:] if sampler.reason != "end" else [], dtype))
        rows = [row for row, inputs in enumerate(unread) if len(inputs)]
        starts = [snapshots[row] for row in rows]
        read = yield from advance(served, [unread[row] for row in rows], starts, deadline, "prompt")
        for row, after in zip(rows, read, strict=True):
            snapshots[row] = after
        return snapshots

    def _seal(self, served: ServedModel, owner: bytes, steps: list[int], snapshots: list[Snapshot]) -> list[str]:
        return [
            seal_token(self.server, served, owner, step, served.snapshots.pack(after))
            for step, after in zip(steps, snapshots, strict=True)
        ]


def _events(samples: list[_Sample]) -> Iterable[bytes]:
    for index, sample in enumerate(samples):
        yield from sample.events(index)


def rule_of(served: ServedModel, request: GenerateRequest[Any]) -> Rule:
    """The sampling rule of a request. Start and condition tokens are never drawn."""
    spec = served.model.spec.generation or GenerationSpec()
    ids = served.format.token_ids or {}
    start_tokens = [*spec.conditions.values(), *([spec.start] if spec.start is not None else [])]
    return Rule(
        temperature=request.temperature,
        top_k=request.top_k,
        top_p=request.top_p,
        seed=secrets.randbits(32) if request.seed is None else request.seed,
        max_steps=request.max_steps,
        end=None if spec.end is None else ids[spec.end],
        stop=tuple(map(served.format.normalised, [request.stop] if isinstance(request.stop, str) else request.stop)),
        vocabulary=served.format.vocabulary,
        banned=tuple(sorted({ids[token] for token in start_tokens} - {ids.get(spec.end or "", -1)})),
    )


def _check(served: ServedModel) -> None:
    reason = why_no_generation(served.model)
    if reason is not None:
        raise CannotGenerate(f"{served.model.name} cannot generate: {reason}")
