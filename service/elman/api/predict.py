"""`POST /v1/models/{name}/predict`: runs sequences and returns their outputs, o_1..o_n or only o_n."""

import re
from collections.abc import Generator, Iterable
from dataclasses import replace
from functools import lru_cache, partial
from operator import attrgetter
from typing import Any

from elman.api.segment import (
    Segment,
    check_streaming,
    cut_whole,
    open_token,
    seal_token,
    with_memory,
)
from elman.api.server import ServedModel, Server
from elman.codec.answer import (
    OutputOptions,
    OutputRows,
    bundled,
    encode_answer,
    encode_bundled,
    encode_octets,
    outputs_of,
    rows_from,
)
from elman.codec.frames import check_cut
from elman.codec.json import MANY_SEQUENCES, Bundle, ManySequences, place_of, predict_bundled
from elman.codec.limits import check_listed, check_statics
from elman.codec.octets import check_no_query, decode_octets, parse_query
from elman.codec.pool import LARGE, MANY, SHORT, is_heavy
from elman.codec.requests import PredictQuery, PredictRequest, Return
from elman.codec.text import Unknown
from elman.engine.sequence import Inputs, Sequence
from elman.engine.work import Run, Steps, Wait, Work, aside, aside_if, in_thread, script
from elman.errors import InvalidField, NotAcceptable, TooLong, UnsupportedMediaType, WrongLength
from elman.http.endpoint import JSON, OCTETS, Request, Response
from elman.http.roles import Need
from elman.http.short import cache_short
from elman.repository.network import Array

# The header with the state token of a binary request, and of its answer.
STATE_HEADER = b"elman-state"
# Most numbers in one binary answer: 400 MB of float32.
MAX_NUMBERS = 100_000_000
# Most numbers in one JSON answer.
MAX_JSON_NUMBERS = 20_000_000
# Making ready and answering more sequences takes milliseconds and is done in a thread.
_MANY_ANSWERS = 100
# Opening or sealing more state tokens takes milliseconds and is done in a thread.
_MANY_TOKENS = 100

_UNKNOWN = attrgetter("unknown")


class Prediction(Run):
    """One predict request: its sequences, and what its answer needs."""

    __slots__ = ("endpoint", "memories", "num_numbers", "octets", "options", "owner", "segments", "served", "unknown")

    def __init__(
        self,
        endpoint: "Predict",
        served: ServedModel,
        options: PredictRequest[Any, Any],
        sequences: list[Sequence],
        octets: bool,
        owner: bytes,
        segments: list[tuple[int, Segment]] | None = None,
    ) -> None:
        super().__init__(served.queue, sequences, sequences[0].deadline)
        self.endpoint = endpoint
        self.served = served
        self.options = options
        self.octets = octets
        self.owner = owner
        self.segments = segments
        self.unknown: Iterable[Unknown] = ()
        self.memories: Iterable[Array | None] = ()
        self.num_numbers = _check_size(options, sequences, served, octets)

    def place(self, index: int) -> str:
        return place_of(index, self.options.many)

    def respond(self) -> Response | Work:
        """The answer, once all sequences are done. Raises the first error of any, with its `where`."""
        self.check()
        if self.octets:
            return octets_response(self.served, outputs_of(self.sequences[0]), self.options.returns)
        return self.endpoint.encoded(self)


class Predict:
    """The predict endpoint."""

    needs: Need = "infer"

    def __init__(self, server: Server) -> None:
        self.server = server

    def parse(self, request: Request) -> Work | Response:
        """The sequences to run. Raises RequestError with the `where` of the first error."""
        served = self.server.served_in(request.parameters)
        headers = request.headers
        octets = wants_octets(headers.get(b"accept", b""))
        decoder = served.decoder
        if sends_octets(headers.get(b"content-type", b"")):
            token = headers.get(STATE_HEADER)
            state = None if token is None else token.decode("latin-1")
            options: PredictRequest[Any, Any] = parse_query(
                request.query, PredictQuery, PredictRequest, sequence=None, state=state
            )
            read = partial(decode_octets, request.body, decoder.format, decoder.limits, held=token is not None)
            if len(request.body) > LARGE:
                return Wait(in_thread(read), lambda inputs: self._run(request, served, octets, options, [inputs]))
            return self._run(request, served, octets, options, [read()])
        check_no_query(request.query)
        if len(request.body) <= SHORT or not is_heavy(request.body):
            try:
                decoded = decoder.predict(request.body, MANY_SEQUENCES)
            except ManySequences:
                pass
            else:
                return self._run(request, served, octets, *decoded)
        return self.server.pool.work(
            lambda result: self._run(request, served, octets, *result), predict_bundled, decoder, request.body
        )

    def _run(
        self,
        request: Request,
        served: ServedModel,
        octets: bool,
        options: PredictRequest[Any, Any],
        inputs: list[Inputs] | Bundle,
    ) -> Work | Response:
        """Check a decoded request, and return the work that runs it. Raises RequestError."""
        if options.returns == "steps":
            check_returns(served, options.returns)
        if octets:
            _check_one(options, inputs)
        if options.carries_state:
            steps = self._run_with_state(request, served, octets, options, list(inputs))
            return script(steps)  # type: ignore[no-any-return]
        if len(inputs) > _MANY_ANSWERS:
            return script(self._run_many(request, served, options, inputs))  # type: ignore[no-any-return]
        sequences = list(inputs) if isinstance(inputs, Bundle) else inputs
        return self._prediction(request, served, octets, options, sequences)

    def _run_many(
        self, request: Request, served: ServedModel, options: PredictRequest[Any, Any], inputs: list[Inputs] | Bundle
    ) -> Generator[Work, None, Response]:
        """Run many sequences. What takes a while for each of them is done in a thread or in the codec pool."""
        self.server.engine.check_room(request.party, len(inputs))  # before thousands are made ready
        prediction = yield from aside(lambda: self._prediction(request, served, False, options, list(inputs)))
        yield prediction
        if prediction.num_numbers > MANY and len(prediction.sequences) <= MANY_SEQUENCES:
            prediction.check()
            return (yield from self._response(prediction, None))
        rows, bundle = yield from aside(self._bundled, prediction)
        if bundle is None:
            content = yield from aside(encode_answer, served.outputs, options, rows)
        else:
            content = yield from self.server.pool.offload(True, encode_bundled, served.outputs, options, *bundle)
        return Response(content, model=served.key)

    def _bundled(self, prediction: Prediction) -> tuple[list[OutputRows], Any]:
        """What the sequences gave, in a bundle if it can be."""
        prediction.check()
        rows = self._rows(prediction)
        prediction.sequences = []  # to free thousands of them takes milliseconds too
        bundle = bundled(rows)
        return ([], bundle) if bundle else (rows, None)

    def _prediction(
        self,
        request: Request,
        served: ServedModel,
        octets: bool,
        options: PredictRequest[Any, Any],
        inputs: list[Inputs],
    ) -> Prediction:
        """The work that runs sequences. Raises RequestError."""
        deadline = request.deadline(options.timeout)
        if served.format.frames:
            inputs = [cut_whole(served, one, place_of(i, options.many)) for i, one in enumerate(inputs)]
        if served.model.network.window is not None:
            _check_window(served.model.network.window, options, inputs)
        if served.format.remembers:
            inputs = [with_memory(served, one, None, place_of(i, options.many)) for i, one in enumerate(inputs)]
        returns, heads = options.returns, bool(options.heads)
        sequences = [
            Sequence(data, returns=returns, deadline=deadline, further=further, statics=statics, heads=heads)
            for data, further, statics, *_ in inputs
        ]
        prediction = Prediction(self, served, options, sequences, octets, request.owner)
        if served.format.tokens:
            prediction.unknown = list(map(_UNKNOWN, inputs))
        if served.format.remembers:
            prediction.memories = [one.memory for one in inputs]
        return prediction

    def _run_with_state(
        self,
        request: Request,
        served: ServedModel,
        octets: bool,
        options: PredictRequest[Any, Any],
        inputs: list[Inputs],
    ) -> Generator[Work, None, Response]:
        """Run a request with state: open its tokens, run, and seal new ones. Many tokens are handled in a thread."""
        check_streaming(served)
        many = len(inputs) > _MANY_TOKENS
        prediction = yield from aside_if(many, self._with_state, request, served, octets, options, inputs)
        yield prediction
        prediction.check()
        extras = yield from aside_if(many, self._extras, prediction)
        if octets:
            headers = [(b"elman-" + name.encode(), str(value).encode()) for name, value in extras[0].items()]
            return octets_response(served, outputs_of(prediction.sequences[0]), options.returns, headers)
        return (yield from self._response(prediction, extras))

    def _with_state(
        self,
        request: Request,
        served: ServedModel,
        octets: bool,
        options: PredictRequest[Any, Any],
        inputs: list[Inputs],
    ) -> Prediction:
        """The work that runs sequences from their states. Raises like `open_token`."""
        owner, deadline = request.owner, request.deadline(options.timeout)
        segments = self._segments(options, served, owner, inputs)
        returns, heads = options.returns, bool(options.heads)
        wanted = {"keep_state": options.return_state, "keep_trace": options.hidden}
        sequences = [part.sequence(returns, deadline, heads, **wanted) for _, part in segments]
        prediction = Prediction(self, served, options, sequences, octets, owner, segments)
        prediction.unknown = list(map(_UNKNOWN, inputs))
        prediction.memories = [part.memory for _, part in segments]
        return prediction

    def _response(self, prediction: Prediction, extras: list[dict[str, Any]] | None) -> Steps[Response]:
        """In a script: the response to a request whose sequences are done."""
        rows = yield from aside_if(len(prediction.sequences) > _MANY_ANSWERS, self._rows, prediction)
        outcome = self._encoded(prediction, rows, extras)
        if isinstance(outcome, Wait):
            yield outcome
            outcome = outcome.respond()
        assert isinstance(outcome, Response), "_encoded() gives a response or waits for one"
        return outcome

    def encoded(self, work: Prediction) -> Response | Work:
        """The answer as JSON. The codec pool encodes it if that takes milliseconds."""
        return self._encoded(work, self._rows(work), None)

    def _encoded(
        self, work: Prediction, rows: list[OutputRows], extras: list[dict[str, Any]] | None
    ) -> Response | Work:
        """As `encoded`, with the further fields of each result."""
        served, options = work.served, work.options
        if work.num_numbers > MANY or len(rows) > _MANY_ANSWERS:
            return self.server.pool.work(
                lambda content: Response(content, model=served.key),
                encode_answer,
                served.outputs,
                options,
                rows,
                extras,
            )
        return Response(encode_answer(served.outputs, options, rows, extras), model=served.key)

    def _rows(self, work: Prediction) -> list[OutputRows]:
        """What each sequence gave."""
        network, heads = work.served.model.network, work.options.heads
        rows = [rows_from(one, network, heads) for one in work.sequences]
        if any(work.unknown):
            rows = [one._replace(unknown=unknown) for one, unknown in zip(rows, work.unknown, strict=True)]
        if work.served.format.remembers:
            rows = [one._replace(memory=memory) for one, memory in zip(rows, work.memories, strict=True)]
        return rows

    def _segments(
        self, options: PredictRequest[Any, Any], served: ServedModel, owner: bytes, inputs: list[Inputs]
    ) -> list[tuple[int, Segment]]:
        """For each sequence the step that it starts at, and its segment. Raises like `open_token`."""
        tokens = options.state
        starts = [(0, replace(served.snapshots.first, statics=one.statics)) for one in inputs]
        if isinstance(tokens, str):
            starts = [open_token(self.server, served, owner, tokens, "state")] * len(inputs)
        elif tokens is not None:
            starts = [open_token(self.server, served, owner, token, f"state[{i}]") for i, token in enumerate(tokens)]
        segments = []
        for index, (one, (step, start)) in enumerate(zip(inputs, starts, strict=True)):
            segment = Segment(served, one, start, place_of(index, options.many))
            if start.carry is not None:
                check_cut(segment.inputs, one.data, start.carry, served.format, place_of(index, options.many))
            segments.append((step, segment))
        return segments

    def _extras(self, work: Prediction) -> list[dict[str, Any]]:
        """The further fields of each result: `step`, `state` and `hidden`, as requested."""
        served, options = work.served, work.options
        extras: list[dict[str, Any]] = [{} for _ in work.sequences]
        for extra, sequence, (step, segment) in zip(extras, work.sequences, work.segments or (), strict=True):
            if options.return_state:
                extra["step"] = step + segment.moves
                snapshot = served.snapshots.pack(segment.end(sequence))
                extra["state"] = seal_token(self.server, served, work.owner, extra["step"], snapshot)
            if options.hidden:
                extra["hidden"] = served.queue.runner.packing.trace(sequence.trace or [])
        return extras


@cache_short
def wants_octets(accept: bytes) -> bool:
    """True if an Accept header prefers octets to JSON. Raises NotAcceptable if it accepts neither.

    Of two types with the same weight (`q`) the one that is named first is taken.
    """
    weights: dict[bytes, float] = {}
    for part in accept.split(b","):
        kind, *parameters = (one.strip().lower() for one in part.split(b";"))
        if kind:
            weights.setdefault(kind, _weight(parameters))
    octets, json = (
        next((weights[name] for name in (kind, b"application/*", b"*/*") if name in weights), 0.0)
        for kind in (OCTETS, JSON)
    )
    if not weights or json > octets:
        return False
    if not octets:
        raise NotAcceptable(
            f"the answer cannot be sent as {accept[:80].decode('latin-1')}", expected=[JSON.decode(), OCTETS.decode()]
        )
    named = [kind for kind in weights if kind in (JSON, OCTETS)]
    return octets > json or named[:1] == [OCTETS]


def _weight(parameters: list[bytes]) -> float:
    """The weight among the parameters of a media type: 0 to 1, and 1 without one. A broken one counts as 0."""
    text = next((one[2:] for one in parameters if one.startswith(b"q=")), b"1")
    return float(text) if re.fullmatch(rb"[01](\.[0-9]{0,3})?", text) else 0.0


@cache_short
def sends_octets(content_type: bytes) -> bool:
    """True if a Content-Type is octets, False if it is JSON. Raises UnsupportedMediaType."""
    kind = content_type.split(b";")[0].strip().lower()
    # `curl -d` without a header declares a form. Such a body is decoded as JSON.
    if kind not in (b"", JSON, OCTETS, b"application/x-www-form-urlencoded"):
        raise UnsupportedMediaType(
            f"the body is {kind[:80].decode('latin-1')}", expected=[JSON.decode(), OCTETS.decode()]
        )
    return kind == OCTETS


def check_returns(served: ServedModel, returns: Return) -> None:
    """Raise InvalidField if `steps` is requested of a model that gives only the last output."""
    if returns == "steps" and served.queue.scheduler.policy.steps_singly and not served.model.proof.chunked:
        raise InvalidField(
            f"{served.model.name} gives only the output after the last step", where="return", expected="final"
        )


def _check_window(window: int, options: PredictRequest[Any, Any], inputs: list[Inputs]) -> None:
    """Raise WrongLength if a sequence has not the only length that the model takes."""
    for index, one in enumerate(inputs):
        if len(one.data) != window:
            raise WrongLength(
                f"the sequence has {len(one.data)} steps, the model takes exactly {window}",
                where=place_of(index, options.many),
                expected=window,
            )


def check_rows(served: ServedModel, options: OutputOptions, rows: int, octets: bool, heads: list[str]) -> int:
    """The numbers of an answer with that many output rows, with those of some heads.

    Raises TooLong, InvalidField or NotAcceptable if it cannot be sent.
    """
    if octets and heads:
        raise NotAcceptable("heads cannot be sent as application/octet-stream", expected=JSON.decode())
    network, limit = served.model.network, MAX_NUMBERS if octets else MAX_JSON_NUMBERS
    size = network.output_size
    numbers = rows * (size + sum([one.size for one in network.heads if one.name in heads]) if heads else size)
    if numbers > limit:
        raise TooLong(
            f"the answer would have {numbers} numbers",
            where="return" if options.returns == "steps" else "sequences",
            expected=f"at most {limit} numbers" + ("" if octets else ", more as application/octet-stream"),
        )
    if rows > 1 and options.decode and not octets:
        check_listed(rows, min(options.top, size))
    return numbers


def _check_size(options: PredictRequest[Any, Any], sequences: list[Sequence], served: ServedModel, octets: bool) -> int:
    """The numbers of all output rows and states. Raises as `check_rows` and `check_statics` do."""
    rows = _num_steps(sequences) if options.returns == "steps" else len(sequences)
    if served.format.statics:
        check_statics([one.statics for one in sequences], "sequences")
    numbers = check_rows(served, options, rows, octets, options.heads)
    if not options.hidden:
        return numbers
    states = _num_steps(sequences) * served.model.network.state_nbytes // 4
    if states + rows * served.model.network.output_size > MAX_JSON_NUMBERS:
        raise TooLong(
            f"the answer would have {states} numbers of state",
            where="hidden",
            expected=f"at most {MAX_JSON_NUMBERS} numbers",
        )
    return numbers + states


def _num_steps(sequences: list[Sequence]) -> int:
    return sum([len(sequence.inputs) for sequence in sequences])


def _check_one(options: PredictRequest[Any, Any], inputs: list[Inputs] | Bundle) -> None:
    if len(inputs) > 1:
        raise NotAcceptable(
            "an answer for several sequences cannot be sent as application/octet-stream", expected=JSON.decode()
        )
    if options.hidden:
        raise NotAcceptable("hidden cannot be sent as application/octet-stream", expected=JSON.decode())


def octets_response(
    served: ServedModel, outputs: Array, returns: Return, headers: Iterable[tuple[bytes, bytes]] = ()
) -> Response:
    """Output rows as octets."""
    content, shape = encode_octets(outputs, returns)
    return Response(content, OCTETS, (*_described(*served.key, shape), *headers), model=served.key)


@lru_cache(256)
def _described(model: str, version: int, shape: tuple[int, ...]) -> tuple[tuple[bytes, bytes], ...]:
    return (
        (b"elman-shape", ",".join(map(str, shape)).encode()),
        (b"elman-model", model.encode()),
        (b"elman-version", str(version).encode()),
    )
