"""One segment of a sequence: from where it starts to where it will stand."""

import time
from typing import Any

from elman.api.server import ServedModel, Server
from elman.codec.frames import check_cut, cut
from elman.engine.sequence import Sequence
from elman.errors import BadStateToken, ModelChanged, NotStreamable
from elman.repository.network import Array
from elman.sessions.snapshot import Snapshot
from elman.sessions.tokens import State


class Segment:
    """What is read next, and where that leaves the sequence.

    Args:
        served: the model.
        data: as `JSONDecoder.predict` gives it. A signal is cut here.
        start: where the sequence stands.

    Attributes:
        inputs: as the engine takes them; none where a piece of a signal completes no window.
        moves: how far the sequence moves: steps, or samples of a signal.
    """

    def __init__(self, served: ServedModel, data: Array, start: Snapshot) -> None:
        self.served = served
        self.start = start
        self.moves = len(data)
        self.inputs, self._rest = data, None
        if served.format.frames:
            assert start.carry is not None, "a signal has a rest, if only an empty one"
            self.inputs, self._rest = cut(data, start.carry, served.format)

    def sequence(self, **wanted: Any) -> Sequence:
        """Ready to run."""
        return Sequence(self.inputs, state=self.start.state, **wanted)

    def end(self, sequence: Sequence | None) -> Snapshot:
        """Where the sequence stands once its segment ran; None where there was nothing to run."""
        if sequence is None:
            return Snapshot(self.start.state, self.start.output, self._rest)
        assert sequence.final_state is not None, "the sequence was to keep its state"
        output = sequence.outputs[-1][-1] if self.served.snapshots.feeds_on else None
        return Snapshot(sequence.final_state, output, self._rest)


def cut_whole(served: ServedModel, data: Array, where: str) -> Array:
    """A sequence by itself, as the engine takes it. Raises EmptySequence for a signal of no whole window."""
    if not served.format.frames:
        return data
    carry = served.snapshots.first.carry
    assert carry is not None, "a signal has a rest"
    windows, _ = cut(data, carry, served.format)
    check_cut(windows, data, carry, served.format, where)
    return windows


def check_streaming(served: ServedModel) -> None:
    """Raise NotStreamable, saying why, where a model has no state that can be carried."""
    model = served.model
    if model.proof.streaming:
        return
    reason = model.network.look_ahead or model.proof.reason
    raise NotStreamable(
        f"{model.name} has no running state that could be carried on" + (f": {reason}" if reason else ""),
        expected="whole sequences, by predict",
    )


def open_token(server: Server, served: ServedModel, owner: bytes, token: str, where: str) -> tuple[int, Snapshot]:
    """The step and the snapshot that a state token holds. Raises BadStateToken and NotStreamable."""
    check_streaming(served)
    model = served.model
    state = server.tokens.open(token, model.name, model.version, served.digest, owner, time.time(), where)
    try:
        return state.step, served.snapshots.unpack(state.snapshot)
    except ValueError:
        raise BadStateToken("the token holds no state of this model", where=where) from None


def unpacked(served: ServedModel, snapshot: bytes) -> Snapshot:
    """A snapshot of a session. Raises ModelChanged where the model keeps its state otherwise now."""
    try:
        return served.snapshots.unpack(snapshot)
    except ValueError:
        raise ModelChanged(f"the session's state is none that {served.model.name} has now") from None


def seal_token(server: Server, served: ServedModel, owner: bytes, step: int, snapshot: bytes) -> str:
    """A state token, good for `token_ttl` seconds."""
    model = served.model
    expires_at = time.time() + server.settings.token_ttl
    return server.tokens.seal(State(model.name, model.version, served.digest, owner, step, expires_at, snapshot))
