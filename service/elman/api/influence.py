"""`POST /v1/models/{name}/influence`: how far each step of a sequence reaches into its last output.

Each step is withheld in turn: the sequence goes on from a state at hand before it, without that step. The state of
every few steps is kept, so that of the prefix no more than those few are read again: a run of one step costs nearly as
much as one of several, and to keep every state would take a run for each.
"""

import asyncio
import time
from typing import Literal

import numpy as np
from starlette.types import Receive, Scope, Send

from elman.api.autoregressive import Asked, Loop
from elman.api.segment import Segment, check_streaming
from elman.api.server import ServedModel
from elman.codec.answer import encode_json, meaning_of, outputs_of, rows_of
from elman.codec.autoregressive import InfluenceRequest, LoopDecoder
from elman.engine.sequence import Sequence
from elman.errors import InvalidField, NotFiniteOutput, TooLong
from elman.http.asgi import respond
from elman.repository.network import Array

# The share of all influence that the last `span` steps hold.
_SPAN = 0.9
# Steps of the longest sequence, and bytes of the states that are kept of one.
_MAX_STEPS = 5_000
_MAX_TRACE_BYTES = 256 * 2**20
# Steps from one state that is kept to the next: with more, too much is read again; with fewer, there are too many runs.
_STRIDE = 12
# Bytes of the inputs that are copied at once, each without its step.
_COPIED = 32 * 2**20


class Influence:
    """The influence endpoint, as bare ASGI."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        asked = await self.loop.read(scope, receive, check_streaming, LoopDecoder.influence)
        served, request, start = asked.served, asked.request, asked.start
        inputs, deadline = Segment(served, request.sequence, start).inputs, asked.deadline
        _check_length(len(inputs), served)
        kept, outputs = await self._read(asked, inputs)
        together = max(1, _COPIED // inputs.nbytes)
        rows: list[Array] = []
        for first in range(0, len(inputs) - 1, together):
            steps = range(first, min(first + together, len(inputs) - 1))
            forks = [Sequence(*_without(inputs, step, kept), deadline=deadline) for step in steps]
            await self.loop.run(asked, forks, "sequence")
            rows += [fork.outputs[-1] for fork in forks]
        # Without its last step a sequence is its own prefix.
        withheld = np.concatenate([*rows, outputs[-2:-1]])
        content = await asyncio.to_thread(lambda: encode_json(_answer(served, request, outputs[-1:], withheld)))
        await respond(send, content)
        self.loop.metrics.request_done(served.model, time.perf_counter() - started)

    async def _read(self, asked: Asked[InfluenceRequest], inputs: Array) -> tuple[list[bytes], Array]:
        """The states before every so many steps, from the first on, and the outputs of all steps."""
        kept, outputs = [asked.start.state], []
        for at in range(0, len(inputs), _STRIDE):
            segment = Sequence(inputs[at : at + _STRIDE], "steps", kept[-1], keep_state=True, deadline=asked.deadline)
            await self.loop.run(asked, [segment], "sequence")
            assert segment.final_state is not None, "it was to be kept"
            kept.append(segment.final_state)
            outputs.append(outputs_of(segment))
        return kept, np.concatenate(outputs)


def _without(inputs: Array, step: int, kept: list[bytes]) -> tuple[Array, Literal["final"], bytes]:
    """What is left of a sequence that goes on without a step, as the first arguments of `Sequence`."""
    at = step // _STRIDE
    return np.concatenate([inputs[at * _STRIDE : step], inputs[step + 1 :]]), "final", kept[at]


def _check_length(length: int, served: ServedModel) -> None:
    """Raise InvalidField and TooLong: the work grows with the square of the length, and every state is kept."""
    if length < 2:
        raise InvalidField("there is nothing left of a single step", where="sequence", expected="two steps or more")
    most = min(_MAX_STEPS, _MAX_TRACE_BYTES // max(1, served.model.network.state_nbytes))
    if length > most:
        raise TooLong(f"the sequence has {length} steps", where="sequence", expected=f"at most {most} for influence")


def _answer(served: ServedModel, request: InfluenceRequest, output: Array, withheld: Array) -> dict[str, object]:
    model = served.model
    if not np.isfinite(withheld).all():
        step = int(np.argwhere(~np.isfinite(withheld))[0][0])
        raise NotFiniteOutput(f"without step {step} the output is not finite", where=f"sequence[{step}]")
    moved = meaning_of(withheld, model) - meaning_of(output, model)  # (steps, outputs)
    influence = np.linalg.norm(moved, axis=1) if request.target is None else np.abs(moved[:, request.target])
    return {
        "model": model.name,
        "version": model.version,
        "length": len(withheld),
        **rows_of(model, output, "final", request.decode, request.top, "sequence"),
        "target": request.target,
        "influence": influence,
        "span": span_of(influence),
    }


def span_of(influence: Array) -> int:
    """How many of the last steps hold 90 % of all influence; 0 where there is none."""
    total = influence.sum()
    if not total > 0.0:
        return 0
    return int(np.searchsorted(np.cumsum(influence[::-1]), _SPAN * total)) + 1
