"""What generate, forecast and influence share: reading a JSON body, finding the start state, and running from it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import numpy as np

from elman.api.predict import sends_octets
from elman.api.segment import open_token, unpacked
from elman.api.server import ServedModel, Server
from elman.codec.autoregressive import AutoregressiveDecoder, session_in
from elman.codec.octets import check_no_query
from elman.codec.pool import is_heavy
from elman.engine.sequence import Inputs, Sequence
from elman.engine.work import Steps, aside_if, run
from elman.errors import EmptySequence, InvalidField, NotFiniteOutput, UnsupportedMediaType
from elman.http.endpoint import Request
from elman.repository.network import Array
from elman.sessions.snapshot import Snapshot
from elman.sessions.store import Record

T = TypeVar("T", bound=tuple[Any, ...])

# More sequences than this are made ready in a thread, as that takes milliseconds.
_MANY = 50


@dataclass(slots=True)
class Start(Generic[T]):
    """A decoded request, its model, and the state that it starts from.

    Attributes:
        served: the model. If the request names a session, the model version of that session.
        decoded: the body, as the decoder returns it.
        step, snapshot: the start: of a session (which is only read), a state token, or the initial state.
        owner: the caller.
    """

    served: ServedModel
    decoded: T
    step: int
    snapshot: Snapshot
    owner: bytes


def read_start(
    server: Server,
    request: Request,
    check: Callable[[ServedModel], None],
    decode: Callable[[AutoregressiveDecoder, bytes], T],
) -> Steps[Start[T]]:
    """Decode a request and find the state that it starts from. Raises ElmanError.

    decode: returns the request, its inputs, and what else the endpoint needs. A new start has the static inputs of
        `Inputs`; an endpoint of several series adds them to each itself.
    """
    served, owner, body = server.served_in(request.parameters), request.owner, request.body
    if sends_octets(request.headers.get(b"content-type", b"")):
        raise UnsupportedMediaType("the body is application/octet-stream", expected="application/json")
    check_no_query(request.query)
    heavy, record = is_heavy(body), None
    session = yield from server.pool.offload(heavy, session_in, body)
    if session is not None:
        record = yield from server.sessions.read(owner, session)
        served = _of_session(server, request, served, record)
    check(served)
    decoder = served.autoregressive
    decoded = yield from server.pool.offload(heavy, decode, decoder, body)
    state, given = decoded[0].state, decoded[1]
    statics = given.statics if isinstance(given, Inputs) else ()
    step, snapshot = 0, replace(served.snapshots.first, statics=statics)
    if record is not None:
        step, snapshot = record.step, unpacked(served, record.snapshot)
    elif state is not None:
        step, snapshot = open_token(server, served, owner, state, "state")
    return Start(served, decoded, step, snapshot, owner)


def _of_session(server: Server, request: Request, served: ServedModel, record: Record) -> ServedModel:
    """The model of a session. Raises InvalidField if the path names another model or version."""
    version = request.parameters.get("version")
    if record.model != served.model.name or version not in (None, str(record.version)):
        raise InvalidField(
            f"the session belongs to model {record.model!r}, version {record.version}",
            where="session",
            expected=f"a session of {served.model.name!r}" + (f", version {version}" if version else ""),
        )
    return server.served_to(record)


def read_prompt(
    served: ServedModel, snapshot: Snapshot, prompt: Array | None, deadline: float, where: str
) -> Steps[tuple[Snapshot, Array]]:
    """Run a prompt from a snapshot. Returns the snapshot after it, and the last output `(output_size,)`.

    Without a prompt the last output is that of the snapshot. Raises EmptySequence if there is none, and
    NotFiniteOutput.
    """
    if prompt is not None and len(prompt):
        (snapshot,) = yield from advance(served, [Inputs(prompt)], [snapshot], deadline, where)
    return snapshot, last_output(snapshot.output, where)


def last_output(output: Array | None, where: str) -> Array:
    """The output to continue from, `(output_size,)`. Raises EmptySequence if there is none, and NotFiniteOutput."""
    if output is None:
        raise EmptySequence("the start state has no output yet to continue from", where=where, expected="steps")
    if np.isnan(output).any() or np.isposinf(output).any():
        raise NotFiniteOutput("the output to continue from is not finite", where=where)
    return output


def advance(
    served: ServedModel, inputs: list[Inputs], starts: list[Snapshot], deadline: float, where: str | list[str]
) -> Steps[list[Snapshot]]:
    """Run each sequence from its snapshot, and return the snapshot after it. `where` is as for `run`."""
    many = len(inputs) > _MANY
    sequences = yield from aside_if(many, _continuing, inputs, starts, deadline)
    yield from run(served.queue, sequences, where)
    return (yield from aside_if(many, _snapshots_after, sequences, starts))


def _continuing(inputs: list[Inputs], starts: list[Snapshot], deadline: float) -> list[Sequence]:
    """Sequences that go on from snapshots, and keep their state."""
    return [
        Sequence(
            one.data,
            state=start.state,
            keep_state=True,
            deadline=deadline,
            further=one.further,
            statics=start.statics,
        )
        for one, start in zip(inputs, starts, strict=True)
    ]


def _snapshots_after(sequences: list[Sequence], starts: list[Snapshot]) -> list[Snapshot]:
    return [
        replace(start, state=sequence.final_state or b"", output=np.array(sequence.outputs[-1][-1]))
        for sequence, start in zip(sequences, starts, strict=True)
    ]
