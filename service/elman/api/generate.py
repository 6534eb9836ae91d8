"""`POST /v1/models/{name}/generate`: generates tokens from a prompt, as one answer or as server-sent events."""

import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from elman.api.autoregressive import Start, advance, read_prompt, read_start
from elman.api.beams import Finished, search
from elman.api.metrics import Metrics
from elman.api.segment import seal_token
from elman.api.server import ServedModel, Server
from elman.codec.answer import encode_json, encoded_list
from elman.codec.autoregressive import AutoregressiveDecoder
from elman.codec.limits import check_statics
from elman.codec.requests import GenerateRequest
from elman.codec.text import listed_unknown
from elman.engine.feedback import Fed, Fewer
from elman.engine.logprobs import TokenLogprob
from elman.engine.queue import ModelQueue
from elman.engine.sampling import Rule, Sampler, Samples
from elman.engine.sequence import Inputs, Sequence
from elman.engine.stops import StopStrings
from elman.engine.work import Run, Steps, Work, aside_if, run, script
from elman.errors import CannotGenerate, ElmanError
from elman.http.endpoint import Request, Response, Send, encode_problem
from elman.http.roles import Need
from elman.repository.feeding import why_no_generation
from elman.repository.network import Array
from elman.repository.spec import GenerationSpec
from elman.sessions.snapshot import Snapshot

# With more scores, drawing the first tokens takes milliseconds and is done in a thread.
_THREAD_SCORES = 200_000
# So many samples cost less in runs of their own than as sequences that share runs with others.
_FEWEST_IN_BLOCK = 8
# With more samples, sealing and encoding the answer take milliseconds and leave the event loop.
_MANY_SAMPLES = 100
# With more tokens and log-probabilities, encoding the answer takes milliseconds.
_MANY_LISTED = 5_000
_STREAM_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
]


@dataclass(slots=True)
class _Sample:
    """One sample: its sampler, and the sequence that gives its state. That is None if the first token ended it, or if
    no state is wanted.

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

    def finished(self, start: Snapshot) -> Finished:
        """The sample once it has ended; `start` is the state after the prompt."""
        sampler, sequence = self.sampler, self.sequence
        if sequence is None or sequence.final_state is None:
            return Finished(sampler, start, sampler.tokens)
        # The last token of a sample was never an input.
        unread = [] if sampler.reason == "end" else sampler.tokens[-1:]
        return Finished(sampler, replace(start, state=sequence.final_state, output=sequence.last_output), unread)

    def _event(self, index: int, token: int | None, settled: int) -> bytes:
        text = self.sampler.text[self.num_read : settled]
        event = {"sample": index, "token": token, "text": text}
        if token is not None and self.sampler.logprobs:
            event |= logprob_fields(self.sampler.logprobs[self.num_sent], self.sampler.rule)
        self.num_read = settled
        return b"data: " + encode_json(event) + b"\n\n"


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

    needs: Need = "infer"

    def __init__(self, server: Server, metrics: Metrics) -> None:
        self.server = server
        self.metrics = metrics

    def parse(self, request: Request) -> Work | Response:
        """The work that runs the prompt first. Raises ElmanError."""
        return script(self._generate(request))  # type: ignore[no-any-return]

    def _generate(self, request: Request) -> Steps[Response]:
        start = yield from read_start(self.server, request, _check, AutoregressiveDecoder.generate)
        served, (options, (prompt, *_)) = start.served, start.decoded
        num_rows = max(options.samples, options.num_beams)
        check_statics([start.snapshot.statics], "samples" if options.num_beams == 1 else "num_beams", num_rows)
        deadline = request.deadline(options.timeout)
        snapshot, output = yield from read_prompt(served, start.snapshot, prompt, deadline, "prompt")
        step, rule = start.step + len(prompt), rule_of(served, options)
        if options.num_beams > 1:
            finished = yield from search(served, options, rule, snapshot, output, deadline)
            content = yield from self._answer(start, step, finished, deadline)
            return Response(content, model=served.key)
        samples, sequences = yield from self._samples(served, options, rule, snapshot, output, deadline)
        if options.stream:
            return (yield from self._stream(start, snapshot, step, samples, sequences, deadline, request.arrived))
        yield from run(served.queue, sequences, "prompt")
        content = yield from self._answer(start, step, [one.finished(snapshot) for one in samples], deadline)
        return Response(content, model=served.key)

    def _samples(
        self,
        served: ServedModel,
        options: GenerateRequest[Any],
        rule: Rule,
        snapshot: Snapshot,
        output: Array,
        deadline: float,
    ) -> Steps[tuple[list[_Sample], list[Sequence]]]:
        """The samples, each with its first token, which is drawn from the last output of the prompt; and what to run.

        Many of them advance in blocks, unless their states are wanted.
        """
        samplers = [Sampler(rule, path) for path in range(options.samples)]
        scores = np.broadcast_to(output, (len(samplers), len(output)))
        feed = samplers[0].feed
        inputs = yield from aside_if(scores.size > _THREAD_SCORES, feed, list(samplers), scores)
        begun = {row: first for row, one in enumerate(inputs) if (first := _begun(one)) is not None}
        keep_state = options.return_state
        size = 1 if keep_state or len(begun) < _FEWEST_IN_BLOCK else served.queue.scheduler.policy.max_block
        samples, sequences = [_Sample(one, None) for one in samplers], []
        for rows in np.array_split(list(begun), -(-len(begun) // size)) if begun else ():
            first = np.array([begun[row] for row in rows.tolist()]).T  # (1, rows)
            sequence = Sequence(
                first if len(rows) > 1 else first[:, 0],
                state=snapshot.state,
                keep_state=keep_state,
                feedback=Samples([samplers[row] for row in rows.tolist()]),
                more=options.max_steps - 2,  # the first token is drawn already, and the last one is never an input
                rows=len(rows),
                deadline=deadline,
                statics=snapshot.statics,
            )
            sequences.append(sequence)
            if keep_state:
                samples[rows[0]].sequence = sequence
        return samples, sequences

    def _stream(
        self,
        start: Start[Any],
        snapshot: Snapshot,
        step: int,
        samples: list[_Sample],
        sequences: list[Sequence],
        deadline: float,
        arrived: float,
    ) -> Steps[Response]:
        """Send tokens as they are drawn. An error after the response has begun is sent as an event."""
        work, before, first = _StreamedRun(start.served.queue, sequences), arrived, True
        try:
            yield Send(b"", _STREAM_HEADERS)
            while not work.done:
                yield work
                events = b"".join(_events(samples))
                if events:
                    yield Send(events, _STREAM_HEADERS)
                    now = time.monotonic()
                    self.metrics.token_sent(start.served.key, now - before, first=first)
                    before, first = now, False
            if work.failure is not None:
                raise work.failure
            work.check()
            last = b"".join(event for index, one in enumerate(samples) for event in one.rest(index))
            answer = yield from self._answer(start, step, [one.finished(snapshot) for one in samples], deadline)
            return Response(last + b"event: done\ndata: " + answer + b"\n\n", model=start.served.key)
        except ElmanError as error:
            self.metrics.request_failed(error)
            return Response(b"event: error\ndata: " + encode_problem(error) + b"\n\n", code=error.code)
        finally:
            work.cancel()

    def _answer(self, start: Start[Any], step: int, finished: list[Finished], deadline: float) -> Steps[bytes]:
        """The answer as JSON. `step` is that after the prompt."""
        served, (options, inputs) = start.served, start.decoded
        tokens: list[str] = []
        if options.return_state:
            snapshots = yield from self._states(served, finished, deadline)
            steps = [step + len(one.sampler.tokens) for one in finished]
            many = len(finished) > _MANY_SAMPLES
            tokens = yield from aside_if(many, self._seal, served, start.owner, steps, snapshots)
        name, version = served.key
        seed = finished[0].sampler.rule.seed if options.num_beams == 1 else None
        answer: dict[str, Any] = {"model": name, "version": version, "seed": seed}
        if inputs.unknown:
            answer["unknown"] = listed_unknown(inputs.unknown)
        listed = sum(len(one.sampler.tokens) for one in finished) * (1 + (options.logprobs or 0))
        heavy = len(finished) > _MANY_SAMPLES or listed > _MANY_LISTED
        return (yield from aside_if(heavy, _encoded, answer, finished, tokens))

    def _states(self, served: ServedModel, finished: list[Finished], deadline: float) -> Steps[list[Snapshot]]:
        """The snapshot of each sequence after all of its tokens. Those that the model has not read are run."""
        snapshots, dtype = [one.snapshot for one in finished], served.format.numpy_dtype
        rows = [row for row, one in enumerate(finished) if one.unread]
        unread = [Inputs(np.array(finished[row].unread, dtype)) for row in rows]
        starts = [snapshots[row] for row in rows]
        read = yield from advance(served, unread, starts, deadline, "prompt")
        for row, after in zip(rows, read, strict=True):
            snapshots[row] = after
        return snapshots

    def _seal(self, served: ServedModel, owner: bytes, steps: list[int], snapshots: list[Snapshot]) -> list[str]:
        return [
            seal_token(self.server, served, owner, step, served.snapshots.pack(after))
            for step, after in zip(steps, snapshots, strict=True)
        ]


def _begun(first: Fed) -> Array | None:
    """The first inputs of a sample; None if its first token ended it. Raises why it cannot begin."""
    if isinstance(first, ElmanError):
        first.where = "prompt"
        raise first
    assert not isinstance(first, Fewer), "a sample is no block"
    return first


def _events(samples: list[_Sample]) -> Iterable[bytes]:
    for index, sample in enumerate(samples):
        yield from sample.events(index)


def _encoded(answer: dict[str, Any], finished: list[Finished], tokens: list[str]) -> bytes:
    """An answer as JSON, with its results. `tokens` are their state tokens, if they were asked for."""
    states: list[dict[str, str]] = [{"state": token} for token in tokens] or [{} for _ in finished]
    results = [_result(one) | state for one, state in zip(finished, states, strict=True)]
    return encode_json(answer | {"results": results})


def _result(finished: Finished) -> dict[str, Any]:
    """The fields of one result."""
    sampler, rule = finished.sampler, finished.sampler.rule
    text = sampler.text if rule.vocabulary is not None else None
    tokens = sampler.tokens
    result: dict[str, Any] = {"text": text, "tokens": tokens, "steps": len(tokens), "reason": sampler.reason}
    if rule.logprobs is not None or finished.score is not None:
        result["cumulative_logprob"] = sampler.cumulative_logprob
    if finished.score is not None:
        result["score"] = finished.score
    if rule.logprobs is not None:
        result["logprobs"] = encoded_list(logprob_fields(one, rule) for one in sampler.logprobs)
    return result


def logprob_fields(one: TokenLogprob, rule: Rule) -> dict[str, Any]:
    """The log-probability of a token and the most probable tokens of its step, as an answer has them."""
    texts = rule.vocabulary
    top = [
        {"token": token, **({} if texts is None else {"text": texts[token]}), "logprob": logprob}
        for token, logprob in one.top
    ]
    return {"logprob": one.logprob, "top": top}


def rule_of(served: ServedModel, request: GenerateRequest[Any]) -> Rule:
    """The sampling rule of a request. Start and condition tokens are never drawn."""
    spec, decoder = served.model.spec.generation or GenerationSpec(), served.model.spec.decoder
    ids = served.format.token_ids or {}
    stop = [request.stop] if isinstance(request.stop, str) else request.stop
    start_tokens = [*spec.conditions.values(), *([spec.start] if spec.start is not None else [])]
    return Rule(
        temperature=request.temperature,
        top_k=request.top_k,
        top_p=request.top_p,
        seed=secrets.randbits(32) if request.seed is None else request.seed,
        max_steps=request.max_steps,
        end=None if spec.end is None else ids[spec.end],
        stop=StopStrings(tuple(map(served.format.normalised, stop))) if stop else None,
        vocabulary=served.format.vocabulary,
        banned=tuple(sorted({ids[token] for token in start_tokens} - {ids.get(spec.end or "", -1)})),
        logprobs=request.logprobs,
        probabilities=decoder is not None and decoder.scores == "probabilities",
    )


def _check(served: ServedModel) -> None:
    reason = why_no_generation(served.model)
    if reason is not None:
        raise CannotGenerate(f"{served.model.name} cannot generate: {reason}")
