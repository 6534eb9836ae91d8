"""What generate, forecast and influence have in common: JSON bodies, where a request starts, and runs from there."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from elman.api.predict import sends_octets
from elman.api.segment import open_token, unpacked
from elman.api.server import ServedModel, Server
from elman.codec.autoregressive import AutoregressiveDecoder, session_in
from elman.codec.octets import check_no_query
from elman.codec.pool import LARGE
from elman.engine.sequence import Sequence
from elman.engine.work import Steps, run
from elman.errors import EmptySequence, InvalidField, NotFiniteOutput, UnsupportedMediaType
from elman.http.endpoint import Request
from elman.repository.network import Array
from elman.sessions.snapshot import Snapshot
from elman.sessions.store import Record

T = TypeVar("T")


@dataclass(slots=True)
class Start(Generic[T]):
    """A decoded request, the model that it is for, and where it starts.

    Attributes:
        served: the model; a session's own, where the request goes on from a session.
        decoded: what the decoder made of the body.
        step, snapshot: where it starts: a session, which is not moved, a state token, or the initial state.
        owner: whose request it is.
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
    state_of: Callable[[T], str | None],
) -> Steps[Start[T]]:
    """Decode a request and find where it starts. Raises ElmanError."""
    served, owner, body = server.served_in(request.parameters), request.owner, request.body
    if sends_octets(request.headers.get(b"content-type", b"")):
        raise UnsupportedMediaType("the body is octets", expected="application/json")
    check_no_query(request.query)
    session, record = session_in(body), None
    if session is not None:
        record = yield from server.sessions.read(owner, session)
        served = _of_session(server, request, served, record)
    check(served)
    decoder = served.autoregressive
    decoded = yield from server.pool.offload(len(body) > LARGE, decode, decoder, body)
    step, snapshot = 0, served.snapshots.first
    state = state_of(decoded)
    if record is not None:
        step, snapshot = record.step, unpacked(served, record.snapshot)
    elif state is not None:
        step, snapshot = open_token(server, served, owner, state, "state")
    return Start(served, decoded, step, snapshot, owner)


def _of_session(server: Server, request: Request, served: ServedModel, record: Record) -> ServedModel:
    """The model that a session began with. Raises InvalidField where the path names another."""
    version = request.parameters.get("version")
    if record.model != served.model.name or version not in (None, str(record.version)):
        raise InvalidField(
            f"the session is one of {record.model!r}, version {record.version}",
            where="session",
            expected=f"one of {served.model.name!r}" + (f", version {version}" if version else ""),
        )
    return server.served_to(record)


def read_prompt(
    served: ServedModel, snapshot: Snapshot, prompt: Array | None, deadline: float, where: str
) -> Steps[tuple[Snapshot, Array]]:
    """Read a prompt from where a request starts: the state after it, and its last output `(output_size,)`.

    Without a prompt the state must have given an output already. Raises EmptySequence where it has not, and
    NotFiniteOutput.
    """
    if prompt is not None and len(prompt):
        (snapshot,) = yield from advance(served, [prompt], [snapshot], deadline, where)
    output = snapshot.output
    if output is None:
        raise EmptySequence("the state has given no output yet to go on from", where=where, expected="steps")
    if np.isnan(output).any() or np.isposinf(output).any():
        raise NotFiniteOutput("the output to go on from is not finite", where=where)
    return snapshot, output


def advance(
    served: ServedModel, inputs: list[Array], starts: list[Snapshot], deadline: float, where: str
) -> Steps[list[Snapshot]]:
    """Where some sequences stand after some steps each."""
    sequences = [
        Sequence(data, state=start.state, keep_state=True, deadline=deadline)
        for data, start in zip(inputs, starts, strict=True)
    ]
    yield from run(served.queue, sequences, where)
    return [Snapshot(one.final_state or b"", np.array(one.outputs[-1][-1])) for one in sequences]
