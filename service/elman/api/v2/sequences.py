"""The sequence extension: requests with a `sequence_id` are steps of a session.

A request with `sequence_start` begins a sequence, and one with `sequence_end` ends it. What is between goes on where
the one before ended. Several rows of a request are several sequences that move on together, under one id: row i goes on
with row i. They are one session, so that all of them move or none.

With the parameter `at`, the number of steps that the caller believes the sequence has done, each request is done once
and may be repeated, as in `elman.sessions.sessions`.
"""

import hashlib
import hmac
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from elman.api.segment import Segment, check_scale, check_sessions
from elman.api.server import ServedModel, Server
from elman.api.sessions import own_ttl
from elman.api.steps import input_digest
from elman.api.v2.messages import InferRequest, InferResponse
from elman.codec.answer import OutputRows, joined_rows
from elman.codec.faults import echoed
from elman.engine.sequence import Inputs, Sequence
from elman.engine.work import Run, Steps
from elman.errors import (
    InvalidField,
    ModelChanged,
    SequenceNotStarted,
    StepConflict,
    TooLong,
    UnknownModel,
    UnknownSession,
)
from elman.sessions.sessions import StepIntent, StepWrite
from elman.sessions.snapshot import Snapshot
from elman.sessions.store import Record, new_mark

if TYPE_CHECKING:
    from elman.api.v2.infer import Call, Infer

# For so many seconds the last answer of a sequence can be had again.
_REPEATABLE_SECONDS = 60.0
_NAMES = frozenset({"sequence_id", "sequence_start", "sequence_end", "at"})


@dataclass(frozen=True, slots=True)
class Part:
    """What a request says of its sequence.

    Attributes:
        id: chosen by the caller, an integer or text.
        start, end: whether the sequence begins or ends with this request.
        at: the number of steps that the caller believes the sequence has done; None if it does not say.
    """

    id: int | str
    start: bool
    end: bool
    at: int | None

    def session_id(self, owner: bytes, model: str) -> str:
        """The id of the session. Nobody else's sequences have it, nor those of another model."""
        kind = "text" if isinstance(self.id, str) else "number"
        named = f"{len(model)} {model} {kind} {self.id}".encode("utf-8", "surrogatepass")
        return hmac.digest(owner, b"sequence " + named, hashlib.sha256)[:22].hex()


def part_of(request: InferRequest) -> Part | None:
    """The part of a sequence that a request is; None if it is none. Raises InvalidField."""
    given = request.parameters
    if not given or not _NAMES & given.keys():
        return None
    id, at = given.get("sequence_id", 0), given.get("at")
    if isinstance(id, bool) or not isinstance(id, int | str):
        raise _wrong("sequence_id", "is neither an integer nor text", "an integer or text")
    if isinstance(id, int):
        if not -(2**63) <= id < 2**64:
            raise _wrong("sequence_id", "has more than 64 bits", "an integer of 64 bits, or text")
        # The protocols have it with and without a sign, and mean the same 64 bits.
        id %= 2**64
    elif len(id) > 128:
        raise _wrong("sequence_id", f"has {len(id)} characters", "at most 128 characters")
    flags = {name: given.get(name, False) for name in ("sequence_start", "sequence_end")}
    for name, value in flags.items():
        if not isinstance(value, bool):
            raise _wrong(name, "is not a boolean", "true or false")
    if at is not None and (isinstance(at, bool) or not isinstance(at, int) or not 0 <= at < 2**63):
        raise _wrong("at", "is no number of steps", "an integer of 0 or more")
    start, end = flags.values()
    if not id:
        if start or end or at is not None:
            raise _wrong(
                "sequence_id",
                f"inference request to model '{echoed(request.model)}' must specify a non-zero or non-empty "
                "correlation ID",
                "an integer other than 0, or text",
                whole=True,
            )
        return None
    if start and at:
        raise _wrong("at", f"is {at} in a request that begins its sequence", 0)
    return Part(id, start, end, at)


def _wrong(name: str, what: str, expected: object, whole: bool = False) -> InvalidField:
    return InvalidField(what if whole else f"{name} {what}", where=f"parameters.{name}", expected=expected)


class Sequences:
    """Runs requests that are parts of sequences."""

    def __init__(self, server: Server, infer: "Infer") -> None:
        self.server = server
        self.infer = infer

    def run(
        self, request: InferRequest, part: Part, encode: Callable[[InferResponse], Any], deadline: float
    ) -> Steps[Any]:
        """Do the steps of a request once those before it are done. Returns what `encode` makes of the response.

        Raises SequenceNotStarted, StepConflict, StepReused, NotStreamable, Quota, StoreUnavailable, and what reading
        and running raise.
        """
        id = part.session_id(request.owner, request.model)
        try:
            return encode((yield from self.server.sessions.in_turn(id, self._run(request, part, id), deadline)))
        except UnknownSession:
            raise SequenceNotStarted(
                f"inference request for sequence {echoed(str(part.id))} to model '{request.model}' must specify the "
                "START flag on the first request of the sequence; no sequence of this id goes on: none was begun, or "
                f"it has ended, or it rested for more than {self._ttl(self.server.served(request.model)):g} seconds",
                where="parameters.sequence_start",
                expected=True,
            ) from None

    def _run(self, request: InferRequest, part: Part, id: str) -> Steps[InferResponse]:
        server, sessions = self.server, self.server.sessions
        record = yield from self._going_on(request, part, id)
        if record is None:
            served = server.served(request.model, request.version)
        else:
            served = server.served_to(record)
            _check_version(request, record)
        check_sessions(served)
        call = self.infer.read(request, served, in_sequence=True, begins=part.start)
        _check_rows(call)
        if record is None:
            record = yield from sessions.begin(self._new(request, served, call, part, id), always=part.at is None)
            if record.digest != served.digest:
                raise StepConflict("another request began this sequence", expected=record.step)
        steps = _SequenceSteps(server, call, part)
        intent = StepIntent(steps.digest, len(call.inputs[0].data), part.at, call.deadline)
        (rows, states), record, replayed = yield from sessions.advance(record.owner, id, intent, steps.run, record)
        call.given.time = max(len(one.outputs) for one in rows)
        response = self.infer.answer(call, rows, states)
        if part.at is not None:
            response.parameters = {"step": record.step, "replayed": replayed}
        return response

    def _going_on(self, request: InferRequest, part: Part, id: str) -> Steps[Record | None]:
        """The session that the request goes on with, or repeats the beginning of; None if it begins one.

        Raises UnknownSession.
        """
        if part.start and part.at is None:
            return None
        try:
            record = yield from self.server.sessions.latest(request.owner, id)
        except UnknownSession:
            if part.start:
                return None
            raise
        return None if part.start and record.ended else record

    def _new(self, request: InferRequest, served: ServedModel, call: "Call", part: Part, id: str) -> Record:
        """The session of a new sequence. Raises InvalidField if its graph is told ids, and takes no such id."""
        try:
            pack, first = served.snapshots.pack, served.snapshots.first_of(part.id)
        except ValueError as error:
            raise _wrong("sequence_id", f"does not fit the model: {error}", "a number of that type") from None
        snapshot = b"".join(pack(replace(first, statics=one.statics)) for one in call.inputs)
        now, ttl = time.time(), self._ttl(served)
        name, version = served.key
        return Record(id, request.owner, name, version, served.digest, now, now + ttl, ttl, new_mark(), 0, snapshot)

    def _ttl(self, served: ServedModel) -> float:
        """Seconds that a sequence may rest between two requests."""
        return own_ttl(self.server, served) or self.server.settings.session_ttl


class _SequenceSteps:
    """Runs the steps of one request, from the states of its rows."""

    def __init__(self, server: Server, call: "Call", part: Part) -> None:
        self.server = server
        self.call = call
        self.part = part

    @property
    def digest(self) -> bytes:
        """Tells a repeated request from another one, 16 bytes."""
        digests = [input_digest(one) for one in self.call.inputs]
        if len(digests) == 1 and not self.part.end:
            return digests[0]
        return hashlib.blake2b(b"".join(digests) + bytes([self.part.end]), digest_size=16).digest()

    def run(self, snapshot: bytes, write: StepWrite | None) -> Steps[tuple[list[OutputRows], list[bytes]]]:
        """The outputs and the states of each row. Writes the states after them, if there is a `write`."""
        call, served = self.call, self.call.served
        segments = self._segments(snapshot)
        wanted = call.wanted.returns, call.deadline, bool(call.wanted.heads)
        parts = [one.sequences(*wanted, ends=self.part.end, priority=call.priority) for one in segments]
        sequences = [sequence for part in parts for sequence in part]
        most = self.server.limits.max_sequences
        if len(sequences) > most:
            detail = f"the steps complete {len(sequences)} windows"
            raise TooLong(detail, where=call.given.where, expected=f"at most {most} windows")
        if write is not None and self.part.end:
            # Without `at` nothing can be repeated, so that nothing has to be kept.
            write.ended, write.expires_at = True, time.time() + (_REPEATABLE_SECONDS if self.part.at is not None else 0)
        moves = bool(sequences) and not served.model.slides
        alone = write is not None and moves and len(segments) == 1
        if write is not None and alone:
            write.compose = segments[0].packed
            sequences[0].save = write
        if sequences:
            where = [f"{call.given.where}[{row}]" for row, part in enumerate(parts) for _ in part]
            work = Run(served.queue, sequences, call.deadline, where)
            yield work
            work.check()
            done_at = time.monotonic()
        if write is not None and not alone:
            ends = [one.end(part[0] if moves else None) for one, part in zip(segments, parts, strict=True)]
            write.snapshot = b"".join(map(served.snapshots.pack, ends))
            yield from self.server.sessions.save(write)
        rows = [self._rows(part) for part in parts]
        states = [part[-1].final_state or b"" for part in parts] if call.wanted.state else []
        if sequences:
            served.queue.stats.count_answer(call.request.arrived, sequences[0], done_at, time.monotonic())
        return rows, states

    def _rows(self, sequences: list[Sequence]) -> OutputRows:
        """The outputs of one row of the request. There are none while its first window is not complete."""
        network, heads = self.call.served.model.network, self.call.wanted.heads
        outputs, named = joined_rows(sequences, network, heads)
        if heads and named is None:
            named = {one.name: np.zeros((0, one.size), np.float32) for one in network.heads if one.name in heads}
        return OutputRows(len(outputs), outputs, named)

    def _segments(self, snapshot: bytes) -> list[Segment]:
        """The rows of the request, each from where it stands. Raises InvalidField, ModelChanged, NotStreamable."""
        call, served = self.call, self.call.served
        try:
            starts = served.snapshots.unpack_all(snapshot)
        except ValueError:
            raise ModelChanged(
                f"the state of the sequence does not fit {served.model.name} as it is served now"
            ) from None
        if len(starts) != len(call.inputs):
            raise InvalidField(
                f"the sequence has {len(starts)} rows, and the request {len(call.inputs)}",
                where=f"{call.given.where}.shape",
                expected=len(starts),
            )
        return [
            self._segment(inputs, start, f"{call.given.where}[{row}]")
            for row, (inputs, start) in enumerate(zip(call.inputs, starts, strict=True))
        ]

    def _segment(self, inputs: Inputs, start: Snapshot, where: str) -> Segment:
        check_scale(self.call.served, start)
        if inputs.statics and not all(
            given.tobytes() == kept.tobytes() for given, kept in zip(inputs.statics, start.statics, strict=True)
        ):
            raise InvalidField(
                "static inputs are those that the sequence began with", where=where, expected="the same values, or none"
            )
        return Segment(self.call.served, inputs, start, where)


def _check_version(request: InferRequest, record: Record) -> None:
    """Raise UnknownModel if a request is for another version than its sequence began with."""
    asked = request.version
    if asked is not None and asked != str(record.version):
        raise UnknownModel(
            f"the sequence began with version {record.version} of {record.model!r}, the request is for version "
            f"{echoed(asked)}",
            expected=record.version,
        )


def _check_rows(call: "Call") -> None:
    """Raise InvalidField if the rows of a request do not move on by the same number of steps, or state is given."""
    if len({len(one.data) for one in call.inputs}) > 1:
        raise InvalidField(
            "the rows of a sequence move on together", where="lengths", expected="the same length for each row"
        )
    if call.given.states is not None:
        raise InvalidField("the server keeps the state of a sequence", where="inputs", expected="no state")
