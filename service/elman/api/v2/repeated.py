"""Requests with binary tensors that repeat the JSON of one before: their numbers alone are read and written.

All but the numbers follows from the JSON: whether the request is right, and the response. It is found out once, in the
general way, with zeros for the numbers.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from elman.api.server import ServedModel
from elman.api.v2.infer import Call, TimedRun
from elman.codec.answer import OutputRows, outputs_of
from elman.codec.datatypes import raw
from elman.codec.finite import finite
from elman.engine.sequence import Return, Sequence
from elman.http.endpoint import OCTETS, Pieces, Response

_WHERE = "inputs[0]"
# The kinds of outputs whose shape follows from that of the input.
_ROWS = ("steps", "final")


@dataclass(frozen=True, slots=True)
class Pattern:
    """What requests with the same JSON have in common.

    Attributes:
        shape, dtype: of the only input, `(batch, time, features)`.
        size: of its numbers, in bytes.
        returns: as in `Sequence`.
        per_step: for each output whether it has a row for each step, or that of the last step alone.
        start: the JSON of the response.
        headers: the header fields of the response.
        length: of the whole response, in bytes.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    size: int
    returns: Return
    per_step: tuple[bool, ...]
    start: bytes
    headers: tuple[tuple[bytes, bytes], ...]
    length: int


class Repeated(TimedRun):
    """The rows of a request that follows a pattern."""

    __slots__ = ("pattern", "served")

    def __init__(self, served: ServedModel, pattern: Pattern, body: bytes, start: int, arrived: float) -> None:
        """The numbers of the input are in `body` from `start` on. Raises NotFinite."""
        data = finite(np.ndarray(pattern.shape, pattern.dtype, body, start), served.format.numpy_dtype, _WHERE)
        returns = pattern.returns
        super().__init__(served.queue, [Sequence(row, returns) for row in data], arrived, _WHERE)
        self.served = served
        self.pattern = pattern

    def answer(self) -> Response:
        pattern = self.pattern
        parts: list[bytes | memoryview] = [pattern.start]
        for per_step in pattern.per_step:
            for sequence in self.sequences:
                rows = outputs_of(sequence)
                parts.append(raw(rows if per_step else rows[-1:]))
        content = Pieces.joined(parts)
        assert len(content) == pattern.length, "sequences of one length have outputs of one length"
        return Response(content, OCTETS, pattern.headers, model=self.served.key)


def blank_rows(call: Call) -> list[OutputRows] | None:
    """Outputs of zeros for each sequence of a plain request. None if other requests like it may get another shape."""
    wanted, rows, time = call.wanted, len(call.inputs), call.given.time
    ports = [port for port, _ in wanted.ports]
    if wanted.lists_classes or wanted.heads or any(one.kind not in _ROWS or one.own_clock for one in ports):
        return None
    network = call.served.model.network
    steps = time if wanted.returns == "steps" else 1
    zeros = np.zeros((steps, network.output_size), network.answering[0].dtype)  # (rows, output_size)
    return [OutputRows(time, zeros)] * rows
