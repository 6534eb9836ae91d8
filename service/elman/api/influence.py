"""`POST /v1/models/{name}/influence`: how much each step of a sequence changes the last output.

Each step is left out in turn: the sequence is run from a state before that step, without the step. The state is kept
after every 12 steps, so at most 11 earlier steps are run again. Keeping the state of every step would cost more, as it
takes one run per step.
"""

from typing import Any

import numpy as np

from elman.api.autoregressive import Start, read_start
from elman.api.segment import Segment, check_streaming
from elman.api.server import ServedModel, Server
from elman.codec.answer import OutputFormat, OutputRows, encode_json, meaning_of, outputs_of, rows_of
from elman.codec.autoregressive import AutoregressiveDecoder
from elman.codec.pool import MANY
from elman.codec.requests import InfluenceRequest
from elman.engine.sequence import Inputs, Sequence
from elman.engine.work import Steps, Work, run, script
from elman.errors import InvalidField, NotFiniteOutput, TooLong
from elman.http.endpoint import Request, Response
from elman.http.roles import Need
from elman.repository.network import Array

# `span` is the number of last steps that have this fraction of all influence.
_SPAN = 0.9
# Longest sequence in steps; and bytes that the states of all its steps may have.
_MAX_STEPS = 5_000
_MAX_TRACE_BYTES = 256 * 2**20
# Steps from one kept state to the next. With a larger stride more steps are run again, with a smaller one there are
# more runs.
_STRIDE = 12
# Most bytes of copied inputs at once. Each fork is a copy of the inputs without one step, and the static inputs are
# copied for each row of a run.
_MAX_COPIED_BYTES = 32 * 2**20


class Influence:
    """The influence endpoint."""

    needs: Need = "infer"

    def __init__(self, server: Server) -> None:
        self.server = server

    def parse(self, request: Request) -> Work | Response:
        """The work that runs the whole sequence first. Raises ElmanError."""
        return script(self._influence(request))  # type: ignore[no-any-return]

    def _influence(self, request: Request) -> Steps[Response]:
        start = yield from read_start(self.server, request, check_streaming, AutoregressiveDecoder.influence)
        served, (options, given, target) = start.served, start.decoded
        deadline = request.deadline(options.timeout)
        segment = Segment(served, given, start.snapshot)
        inputs = Inputs(segment.inputs, segment.further, start.snapshot.statics)
        length = len(inputs.data)
        _check_length(length, served)
        kept, outputs = yield from self._read(start, inputs, deadline)
        copied = sum(one.nbytes for one in (inputs.data, *inputs.further, *inputs.statics))
        num_forks = max(1, _MAX_COPIED_BYTES // copied)
        rows: list[Array] = []
        for first in range(0, length - 1, num_forks):
            steps = range(first, min(first + num_forks, length - 1))
            forks = [_without(inputs, step, kept, deadline) for step in steps]
            yield from run(served.queue, forks, "sequence")
            rows += [fork.outputs[-1] for fork in forks]
        # Without the last step, the output is that of the step before.
        withheld = np.concatenate([*rows, outputs[-2:-1]])
        whole = OutputRows(length, outputs[-1:], unknown=given.unknown, memory=segment.memory)
        arguments = served.outputs, options, target, whole, withheld
        content = yield from self.server.pool.offload(withheld.size > MANY, encode_influence, *arguments)
        return Response(content, model=served.key)

    def _read(self, start: Start[Any], inputs: Inputs, deadline: float) -> Steps[tuple[list[bytes], Array]]:
        """The kept states (before step 0, after every `_STRIDE` steps), and the outputs of all steps."""
        kept, outputs = [start.snapshot.state], []
        for at in range(0, len(inputs.data), _STRIDE):
            wanted: dict[str, Any] = {"returns": "steps", "state": kept[-1], "keep_state": True, "deadline": deadline}
            part = _sequence(inputs, slice(at, at + _STRIDE), **wanted)
            yield from run(start.served.queue, [part], "sequence")
            assert part.final_state is not None, "keep_state is set"
            kept.append(part.final_state)
            outputs.append(outputs_of(part))
        return kept, np.concatenate(outputs)


def _without(inputs: Inputs, step: int, kept: list[bytes], deadline: float) -> Sequence:
    """The sequence from the last kept state on, without a step."""
    at = step // _STRIDE
    others = np.delete(np.arange(at * _STRIDE, len(inputs.data)), step - at * _STRIDE)
    return _sequence(inputs, others, state=kept[at], deadline=deadline)


def _sequence(inputs: Inputs, steps: slice | Array, **wanted: Any) -> Sequence:
    """The sequence of some of the steps; `wanted` are further attributes of `Sequence`."""
    further = tuple(one[steps] for one in inputs.further)
    return Sequence(inputs.data[steps], further=further, statics=inputs.statics, **wanted)


def _check_length(length: int, served: ServedModel) -> None:
    """Raise InvalidField or TooLong. The work grows with the square of the length."""
    if length < 2:
        raise InvalidField("the sequence has only one step", where="sequence", expected="two steps or more")
    limit = min(_MAX_STEPS, _MAX_TRACE_BYTES // max(1, served.model.network.state_nbytes))
    if length > limit:
        raise TooLong(f"the sequence has {length} steps", where="sequence", expected=f"at most {limit} for influence")


def encode_influence(
    format: OutputFormat, request: InfluenceRequest[Any, Any], target: int | None, whole: OutputRows, withheld: Array
) -> bytes:
    """The answer as JSON. Raises NotFiniteOutput.

    Args:
        whole: what the whole sequence gave, with its last output.
        withheld: the last output without each step, `(steps, output_size)`.
    """
    if not np.isfinite(withheld).all():
        step = int(np.argwhere(~np.isfinite(withheld))[0][0])
        raise NotFiniteOutput(f"without step {step} the output is not finite", where=f"sequence[{step}]")
    difference = meaning_of(withheld, format, whole.memory) - meaning_of(whole.outputs, format, whole.memory)
    influence = np.linalg.norm(difference, axis=1) if target is None else np.abs(difference[:, target])
    answer = {
        "model": format.name,
        "version": format.version,
        "length": len(withheld),
        **rows_of(format, whole, request, "sequence"),
        "target": target,
        "influence": influence,
        "span": span_of(influence),
    }
    return encode_json(answer)


def span_of(influence: Array) -> int:
    """How many of the last steps have 90 % of all influence; 0 if no step has any."""
    total = influence.sum()
    if not total > 0.0:
        return 0
    return int(np.searchsorted(np.cumsum(influence[::-1]), _SPAN * total)) + 1
