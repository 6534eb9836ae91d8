"""A segment of a sequence: the steps of one request, and the snapshots before and after them."""

import time
from dataclasses import replace
from typing import Any

from elman.api.server import ServedModel, Server
from elman.codec.frames import check_cut, cut
from elman.codec.rows import prepared
from elman.codec.windows import slide
from elman.engine.sequence import Inputs, Return, Sequence
from elman.errors import BadStateToken, ModelChanged, NotStreamable
from elman.repository.network import Array
from elman.sessions.snapshot import Snapshot
from elman.sessions.tokens import State


class Segment:
    """The steps of a sequence that one request runs.

    Args:
        served: the model.
        inputs: as returned by `JSONDecoder.predict`. A signal is cut into windows here.
        start: the snapshot before these steps, with the static inputs.
        where: the `where` of errors in its rows.

    Attributes:
        inputs: the data for the engine; empty if a piece of a signal completes no window.
        further: the other sequence inputs.
        windows: for a model of windows, those that the steps complete.
        moves: how far the sequence moves: in steps, or in samples of a signal.
        memory: what is kept of the rows, as in `elman.codec.rows`; None if nothing is.
    """

    def __init__(self, served: ServedModel, inputs: Inputs, start: Snapshot, where: str = "sequence") -> None:
        inputs = with_memory(served, inputs, start.memory, where)
        self.memory = inputs.memory
        self.served = served
        self.start = start
        self.moves = len(inputs.data)
        self.inputs, self._rest = inputs.data, None
        self.further = inputs.further
        self.windows: list[Inputs] = []
        self._recent: tuple[Array, ...] = ()
        window = served.model.network.window
        if served.model.slides and window is not None:
            self.windows, self._recent = slide(start.recent, inputs, window)
        if served.format.frames:
            assert start.carry is not None, "the snapshot of a signal has a carry"
            self.inputs, self._rest = cut(inputs.data, start.carry, served.format)

    def sequence(self, returns: Return, deadline: float, heads: bool, **wanted: Any) -> Sequence:
        """The sequence to run; `wanted` are further attributes of `Sequence`."""
        start = self.start
        return Sequence(
            self.inputs,
            returns,
            start.state,
            deadline=deadline,
            further=self.further,
            statics=start.statics,
            heads=heads,
            **wanted,
        )

    def sequences(self, returns: Return, deadline: float, heads: bool, **wanted: Any) -> list[Sequence]:
        """What a session runs: one sequence, or one per window. Of windows only the last one is run for `final`."""
        if not self.served.model.slides:
            if not len(self.inputs):
                return []
            return [self.sequence(returns, deadline, heads, keep_state=True, **wanted)]
        windows = self.windows if returns == "steps" else self.windows[-1:]
        wanted |= {"statics": self.start.statics, "deadline": deadline, "heads": heads}
        return [Sequence(one.data, further=one.further, **wanted) for one in windows]

    def packed(self, sequence: Sequence | None) -> bytes:
        """As `end`, as bytes."""
        return self.served.snapshots.pack(self.end(sequence))

    def end(self, sequence: Sequence | None) -> Snapshot:
        """The snapshot after the segment. `sequence` is the one that ran; None if there were no inputs."""
        if sequence is None:
            return replace(self.start, carry=self._rest, recent=self._recent)
        assert sequence.final_state is not None, "keep_state is set"
        output = sequence.outputs[-1][-1] if self.served.snapshots.feeds_on else None
        return Snapshot(sequence.final_state, output, self._rest, self.start.statics, memory=self.memory)


def with_memory(served: ServedModel, inputs: Inputs, memory: Array | None, where: str) -> Inputs:
    """Decoded inputs as the network reads them, with the memory after them, from the memory before."""
    if not served.format.remembers:
        return inputs
    data, after = prepared(inputs.data, served.format, memory, where)
    return inputs._replace(data=data, memory=after)


def check_scale(served: ServedModel, start: Snapshot) -> None:
    """Raise NotStreamable if a session cannot read rows as the whole series would be read.

    A scale made from the first rows that happen to come would differ from that of the whole, without notice.
    """
    format = served.format
    if format.remembers and served.model.slides:
        raise NotStreamable(
            f"{served.model.name} scales or fills each series, and a session would slide over it",
            expected="whole windows, with predict",
        )
    if format.scaled and start.memory is None:
        raise NotStreamable(
            f"{served.model.name} scales each series by its own rows, and the session has no scale yet",
            expected="a session made with a state token, which predict gives for the first rows",
        )


def cut_whole(served: ServedModel, inputs: Inputs, where: str) -> Inputs:
    """The engine's inputs for a whole sequence. Raises EmptySequence if a signal is shorter than a window."""
    if not served.format.frames:
        return inputs
    data, carry = inputs.data, served.snapshots.first.carry
    assert carry is not None, "the snapshot of a signal has a carry"
    windows, _ = cut(data, carry, served.format)
    check_cut(windows, data, carry, served.format, where)
    return inputs._replace(data=windows)


def check_streaming(served: ServedModel) -> None:
    """Raise NotStreamable if a model has no running state."""
    model = served.model
    if model.proof.streaming:
        return
    reason = model.network.look_ahead or model.proof.reason
    expected = "whole windows, or a session" if model.slides else "whole sequences, with predict"
    raise NotStreamable(
        f"{model.name} has no running state to continue from" + (f": {reason}" if reason else ""), expected=expected
    )


def check_sessions(served: ServedModel) -> None:
    """Raise NotStreamable if a model has no sessions."""
    if not served.model.sessions:
        check_streaming(served)


def open_token(server: Server, served: ServedModel, owner: bytes, token: str, where: str) -> tuple[int, Snapshot]:
    """The step and the snapshot that a state token holds. Raises BadStateToken and NotStreamable."""
    check_sessions(served)
    model = served.model
    state = server.tokens.open(token, model.name, model.version, served.digest, owner, time.time(), where)
    try:
        return state.step, served.snapshots.unpack(state.snapshot)
    except ValueError:
        raise BadStateToken("the state in the token does not fit this model", where=where) from None


def unpacked(served: ServedModel, snapshot: bytes) -> Snapshot:
    """A snapshot of a session. Raises ModelChanged if it does not have the layout of the model."""
    try:
        return served.snapshots.unpack(snapshot)
    except ValueError:
        raise ModelChanged(f"the state of the session does not fit {served.model.name} as it is served now") from None


def seal_token(server: Server, served: ServedModel, owner: bytes, step: int, snapshot: bytes) -> str:
    """A state token, valid for `token_ttl` seconds."""
    model = served.model
    expires_at = time.time() + server.settings.token_ttl
    return server.tokens.seal(State(model.name, model.version, served.digest, owner, step, expires_at, snapshot))
