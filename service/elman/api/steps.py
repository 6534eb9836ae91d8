"""`POST /v1/sessions/{id}/steps`: the next steps of a session."""

import hashlib
from collections.abc import Mapping
from typing import Any

from elman.api.predict import (
    check_returns,
    check_rows,
    octets_response,
    sends_octets,
    wants_octets,
)
from elman.api.segment import Segment, check_scale, unpacked
from elman.api.server import ServedModel, Server
from elman.codec.answer import OutputFormat, OutputRows, encode_json, joined_rows, rows_of
from elman.codec.limits import check_statics
from elman.codec.octets import check_no_query, decode_octets, parse_query
from elman.codec.pool import LARGE, MANY, is_heavy
from elman.codec.requests import StepsQuery, StepsRequest
from elman.engine.sequence import Inputs
from elman.engine.work import Run, Steps, Work, aside, script
from elman.errors import TooLong
from elman.http.endpoint import Request, Response
from elman.http.roles import Need
from elman.sessions.sessions import Sessions, StepIntent, StepWrite
from elman.sessions.store import Record


class _Steps:
    """The steps of one request to a session."""

    __slots__ = ("deadline", "inputs", "octets", "request", "served", "sessions")

    def __init__(
        self,
        sessions: Sessions,
        served: ServedModel,
        request: StepsRequest[Any],
        inputs: Inputs,
        deadline: float,
        octets: bool,
    ) -> None:
        self.sessions = sessions
        self.served = served
        self.request = request
        self.inputs = inputs
        self.deadline = deadline
        self.octets = octets

    def run(self, snapshot: bytes, write: StepWrite | None) -> Steps[OutputRows]:
        """The outputs of the steps after a snapshot. Does the write, if there is one."""
        served, request, deadline = self.served, self.request, self.deadline
        start = unpacked(served, snapshot)
        check_scale(served, start)
        segment = Segment(served, self.inputs, start)
        slides, heads, returns = served.model.slides, request.heads, request.returns
        length = len(segment.windows) if slides else len(segment.inputs)
        if slides:
            _check_windows(served, length)
        check_rows(served, request, max(1, length) if returns == "steps" else 1, self.octets, heads)
        sequences = segment.sequences(returns, deadline, bool(heads))
        if start.statics:
            check_statics([one.statics for one in sequences], "sequence")
        moves = bool(sequences) and not slides
        if write is not None and moves:
            write.compose = segment.packed
            sequences[0].save = write
        if sequences:
            work = Run(served.queue, sequences, deadline)
            yield work
            work.check()
        if write is not None and not moves:
            # No state comes out of a run: what was received is all that is kept.
            write.snapshot = segment.packed(None)
            yield from self.sessions.save(write)
        outputs = joined_rows(sequences, served.model.network, heads)
        return OutputRows(length, *outputs, self.inputs.unknown, segment.memory)


class Stepper:
    """Runs steps of sessions, for the route and for the streams."""

    def __init__(self, server: Server) -> None:
        self.server = server

    def step(
        self,
        owner: bytes,
        id: str,
        served: ServedModel,
        request: StepsRequest[Any],
        inputs: Inputs,
        deadline: float,
        octets: bool,
    ) -> Steps[tuple[OutputRows, Record, bool]]:
        """Run steps of a session, exactly once.

        Returns their outputs, without rows if a piece of a signal completed no window; the session after them; and
        whether an earlier request had done them already. Raises what `Sessions.step` and the engine raise.
        """
        if request.returns == "steps" and not served.model.slides:
            check_returns(served, request.returns)
        sessions = self.server.sessions
        intent = StepIntent(input_digest(inputs), len(inputs.data), request.at, deadline)
        steps = _Steps(sessions, served, request, inputs, deadline, octets)
        return sessions.step(owner, id, intent, steps.run)

    def encoded(
        self, served: ServedModel, request: StepsRequest[Any], rows: OutputRows, record: Record, replayed: bool
    ) -> Steps[bytes]:
        """The answer as JSON. The codec pool encodes it if that takes milliseconds. Raises NotFiniteOutput."""
        heavy = rows.outputs.size + sum(one.size for one in (rows.heads or {}).values()) > MANY
        # Only the last step is replayed, so `record.step` holds for it too.
        done = {"id": record.id, "step": record.step, "length": rows.length}, rows, {"replayed": replayed}
        return (yield from self.server.pool.offload(heavy, encode_steps, served.outputs, request, *done))

    def decoded(
        self, served: ServedModel, body: bytes, defaults: Mapping[str, Any]
    ) -> Steps[tuple[StepsRequest[Any], Inputs]]:
        """A decoded JSON body. The codec pool decodes it if that takes milliseconds. Raises RequestError."""
        return (yield from self.server.pool.offload(is_heavy(body), served.decoder.steps, body, defaults))


class SessionSteps:
    """The steps endpoint."""

    needs: Need = "sessions"

    def __init__(self, server: Server, stepper: Stepper) -> None:
        self.server = server
        self.stepper = stepper

    def parse(self, request: Request) -> Work | Response:
        """The steps to run. Raises RequestError with the `where` of the first error."""
        return script(self._steps(request))  # type: ignore[no-any-return]

    def _steps(self, request: Request) -> Steps[Response]:
        owner, id = request.owner, request.parameters["id"]
        octets = wants_octets(request.headers.get(b"accept", b""))
        sessions = self.server.sessions
        served = self.server.served_to(sessions.known(owner, id) or (yield from sessions.find(owner, id)))
        body = request.body
        if sends_octets(request.headers.get(b"content-type", b"")):
            options: StepsRequest[Any] = parse_query(request.query, StepsQuery, StepsRequest, sequence=None)
            arguments = body, served.format, served.decoder.limits, True
            inputs = (yield from aside(decode_octets, *arguments)) if len(body) > LARGE else decode_octets(*arguments)
        else:
            check_no_query(request.query)
            options, inputs = yield from self.stepper.decoded(served, body, {})
        deadline = request.deadline(options.timeout)
        done = yield from self.stepper.step(owner, id, served, options, inputs, deadline, octets)
        if octets:
            rows, record, replayed = done
            fields = [(b"elman-step", b"%d" % record.step), (b"elman-replayed", b"true" if replayed else b"false")]
            return octets_response(served, rows.outputs, options.returns if rows.length else "steps", fields)
        return Response((yield from self.stepper.encoded(served, options, *done)), model=served.key)


def encode_steps(
    format: OutputFormat, request: StepsRequest[Any], before: dict[str, Any], rows: OutputRows, after: dict[str, Any]
) -> bytes:
    """The answer to a steps request as JSON: the fields of its rows between others. Raises NotFiniteOutput."""
    fields: dict[str, Any]
    if rows.length:
        fields = rows_of(format, rows, request, "sequence")
    else:
        names = ("outputs", "decoded") if request.returns == "steps" else ("output", "decoded")
        fields = {name: [] if request.returns == "steps" else None for name in names[: 1 + request.decode]}
    return encode_json(before | fields | after)


def _check_windows(served: ServedModel, num_windows: int) -> None:
    """Raise TooLong if the steps of a session complete more windows than a request may have sequences."""
    limit = served.decoder.limits.max_sequences
    if num_windows > limit:
        raise TooLong(
            f"the steps complete {num_windows} windows", where="sequence", expected=f"at most {limit} windows"
        )


def input_digest(inputs: Inputs) -> bytes:
    """A digest of the inputs of a step, 16 bytes. It tells a repeated request from a different one."""
    digest = hashlib.blake2b(inputs.data.tobytes(), digest_size=16)
    for one in inputs.further:
        digest.update(one.tobytes())
    return digest.digest()
