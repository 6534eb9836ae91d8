"""`POST /v1/models/{name}/influence`: how far each step of a sequence reaches into its last output.

Each step is withheld in turn: the sequence goes on from a kept state before that step, without the step. One state in
every 12 steps is kept, so that at most 11 steps of the prefix are read again. Keeping every state would take one run a
step, which costs more.
"""

from typing import Any, Literal

import numpy as np

from elman.api.autoregressive import Start, read_start
from elman.api.segment import Segment, check_streaming
from elman.api.server import ServedModel, Server
from elman.codec.answer import OutputFormat, encode_json, meaning_of, outputs_of, rows_of
from elman.codec.autoregressive import AutoregressiveDecoder
from elman.codec.pool import MANY
from elman.codec.requests import InfluenceRequest
from elman.engine.sequence import Sequence
from elman.engine.work import Steps, Work, run, script
from elman.errors import InvalidField, NotFiniteOutput, TooLong
from elman.http.endpoint import Request, Response
from elman.repository.network import Array

# The share of all influence that the last `span` steps hold.
_SPAN = 0.9
# Steps of the longest sequence, and bytes of the states that are kept of one.
_MAX_STEPS = 5_000
_MAX_TRACE_BYTES = 256 * 2**20
# Steps from one kept state to the next: with more, too much is read again; with fewer, there are too many runs.
_STRIDE = 12
# Bytes of the inputs that are copied at once, each without its step.
_COPIED = 32 * 2**20


class Influence:
    """The influence endpoint."""

    def __init__(self, server: Server) -> None:
        self.server = server

    def parse(self, request: Request) -> Work | Response:
        """The sequence to read first. Raises ElmanError."""
        return script(self._influence(request))  # type: ignore[no-any-return]

    def _influence(self, request: Request) -> Steps[Response]:
        begun = yield from read_start(
            self.server, request, check_streaming, AutoregressiveDecoder.influence, lambda decoded: decoded[0].state
        )
        served, (asked, data, target) = begun.served, begun.decoded
        deadline = request.deadline(asked.timeout)
        inputs = Segment(served, data, begun.snapshot).inputs
        _check_length(len(inputs), served)
        kept, outputs = yield from self._read(begun, inputs, deadline)
        together = max(1, _COPIED // inputs.nbytes)
        rows: list[Array] = []
        for first in range(0, len(inputs) - 1, together):
            steps = range(first, min(first + together, len(inputs) - 1))
            forks = [Sequence(*_without(inputs, step, kept), deadline=deadline) for step in steps]
            yield from run(served.queue, forks, "sequence")
            rows += [fork.outputs[-1] for fork in forks]
        # Without its last step a sequence is its own prefix.
        withheld = np.concatenate([*rows, outputs[-2:-1]])
        arguments = served.outputs, asked, target, outputs[-1:], withheld
        content = yield from self.server.pool.offload(withheld.size > MANY, encode_influence, *arguments)
        return Response(content, model=served.key)

    def _read(self, begun: Start[Any], inputs: Array, deadline: float) -> Steps[tuple[list[bytes], Array]]:
        """The kept states, the first of them before step 0, and the outputs of all steps."""
        kept, outputs = [begun.snapshot.state], []
        for at in range(0, len(inputs), _STRIDE):
            part = Sequence(inputs[at : at + _STRIDE], "steps", kept[-1], keep_state=True, deadline=deadline)
            yield from run(begun.served.queue, [part], "sequence")
            assert part.final_state is not None, "it was to be kept"
            kept.append(part.final_state)
            outputs.append(outputs_of(part))
        return kept, np.concatenate(outputs)


def _without(inputs: Array, step: int, kept: list[bytes]) -> tuple[Array, Literal["final"], bytes]:
    """What is left of a sequence that goes on without a step, as the first arguments of `Sequence`."""
    at = step // _STRIDE
    return np.concatenate([inputs[at * _STRIDE : step], inputs[step + 1 :]]), "final", kept[at]


def _check_length(length: int, served: ServedModel) -> None:
    """Raise InvalidField and TooLong: the work grows with the square of the length."""
    if length < 2:
        raise InvalidField("there is nothing left of a single step", where="sequence", expected="two steps or more")
    most = min(_MAX_STEPS, _MAX_TRACE_BYTES // max(1, served.model.network.state_nbytes))
    if length > most:
        raise TooLong(f"the sequence has {length} steps", where="sequence", expected=f"at most {most} for influence")


def encode_influence(
    format: OutputFormat, request: InfluenceRequest[Any], target: int | None, output: Array, withheld: Array
) -> bytes:
    """The answer as JSON. Raises NotFiniteOutput.

    Args:
        output: of the whole sequence, `(1, output_size)`.
        withheld: without each step, `(steps, output_size)`.
    """
    if not np.isfinite(withheld).all():
        step = int(np.argwhere(~np.isfinite(withheld))[0][0])
        raise NotFiniteOutput(f"without step {step} the output is not finite", where=f"sequence[{step}]")
    moved = meaning_of(withheld, format) - meaning_of(output, format)  # (steps, outputs)
    influence = np.linalg.norm(moved, axis=1) if target is None else np.abs(moved[:, target])
    answer = {
        "model": format.name,
        "version": format.version,
        "length": len(withheld),
        **rows_of(format, output, request, "sequence"),
        "target": target,
        "influence": influence,
        "span": span_of(influence),
    }
    return encode_json(answer)


def span_of(influence: Array) -> int:
    """How many of the last steps hold 90 % of all influence; 0 where there is none."""
    total = influence.sum()
    if not total > 0.0:
        return 0
    return int(np.searchsorted(np.cumsum(influence[::-1]), _SPAN * total)) + 1
