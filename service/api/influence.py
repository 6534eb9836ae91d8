"""`POST /v1/models/{name}/influence`: how far each step of a sequence reaches into its last output.

Each step is withheld in turn: the sequence goes on from the state before it with the step after it. The prefix is never
read again, since its states were kept.
"""

import asyncio
import time

import numpy as np
from starlette.types import Receive, Scope, Send

from service.api.asgi import respond
from service.api.loop import Loop
from service.api.stretch import Stretch, check_streaming
from service.codec.answer import encode_json, meaning_of, outputs_of, rows_of
from service.codec.loops import InfluenceRequest, LoopDecoder
from service.engine.sequence import Sequence
from service.errors import InvalidField, NotFiniteOutput, TooLong
from service.repository.network import Array
from service.server import Served

# The share of all influence that the last `span` steps hold.
_SPAN = 0.9
# Steps of the longest sequence, and bytes of the states that are kept of one.
_MAX_STEPS = 5_000
_MAX_TRACE_BYTES = 256 * 2**20


class Influence:
    """The influence endpoint, as bare ASGI."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        asked = await self.loop.read(scope, receive, check_streaming, LoopDecoder.influence)
        served, request, start = asked.served, asked.request, asked.start
        inputs, deadline = Stretch(served, request.sequence, start).inputs, asked.deadline
        _check_length(len(inputs), served)
        stem = Sequence(inputs, "steps", start.state, keep_trace=True, deadline=deadline)
        await self.loop.run(asked, [stem], "sequence")
        before = [start.state, *stem.trace]
        forks = [Sequence(inputs[k + 1 :], state=before[k], deadline=deadline) for k in range(len(inputs) - 1)]
        await self.loop.run(asked, forks, "sequence")
        outputs = outputs_of(stem)
        # Without its last step a sequence is its own prefix.
        withheld = np.concatenate([*(fork.outputs[-1] for fork in forks), outputs[-2:-1]])
        content = await asyncio.to_thread(lambda: encode_json(_answer(served, request, outputs[-1:], withheld)))
        await respond(send, content)
        self.loop.metrics.request_done(served.model, time.perf_counter() - started)


def _check_length(length: int, served: Served) -> None:
    """Raise InvalidField and TooLong: the work grows with the square of the length, and every state is kept."""
    if length < 2:
        raise InvalidField("there is nothing left of a single step", where="sequence", expected="two steps or more")
    most = min(_MAX_STEPS, _MAX_TRACE_BYTES // max(1, served.model.network.state_nbytes))
    if length > most:
        raise TooLong(f"the sequence has {length} steps", where="sequence", expected=f"at most {most} for influence")


def _answer(served: Served, request: InfluenceRequest, output: Array, withheld: Array) -> dict[str, object]:
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
