"""Runs a request to infer: tensors to sequences of the engine, and their outputs to tensors."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Any

import numpy as np

from elman.api.server import ServedModel, Server
from elman.api.v2.messages import InferRequest, InferResponse, Tensor
from elman.api.v2.ports import Port, Wanted
from elman.api.v2.reading import Given, read_tensors
from elman.api.v2.sequences import Sequences, part_of
from elman.codec.answer import OutputRows, rows_from
from elman.codec.classes import classified
from elman.codec.datatypes import BYTES
from elman.codec.limits import MAX_LISTED
from elman.codec.pool import LARGE
from elman.engine.queue import ModelQueue
from elman.engine.sequence import Inputs, Sequence
from elman.engine.work import Run, Steps, Work, aside, aside_if, script
from elman.errors import InvalidField, TooLong
from elman.repository.network import Array

Encode = Callable[[InferResponse], Any]
"""Makes what a transport sends of a response; or returns Work that makes it, or raises ElmanError."""

_MICROSECOND = 1e-6
# To list more classes takes milliseconds and is done in a thread.
_FEW_CLASSES = 2_000
# Priority 1 is the highest. It is that of requests without a priority too, so that nobody gets before others.
_HIGHEST = 1


@dataclass(slots=True)
class Call:
    """A request that was read and checked.

    Attributes:
        given: its sequences.
        wanted: the outputs to return.
        deadline: on the clock of `time.monotonic`.
        priority: as in `Sequence`.
    """

    served: ServedModel
    request: InferRequest
    given: Given
    wanted: Wanted
    deadline: float
    priority: int

    @property
    def inputs(self) -> list[Inputs]:
        """The sequences, one for each row."""
        return self.given.inputs

    def sequences(self) -> list[Sequence]:
        """The sequences for the engine."""
        wanted, states, deadline, priority = self.wanted, self.given.states, self.deadline, self.priority
        returns, heads, keep_state = wanted.returns, bool(wanted.heads), wanted.state
        return [
            Sequence(
                data, returns, None if states is None else states[row], keep_state,
                deadline=deadline, priority=priority, further=further, statics=statics, heads=heads,
            )
            for row, (data, further, statics, *_) in enumerate(self.inputs)
        ]  # fmt: skip

    @property
    def num_classes(self) -> int:
        """The classes that the response lists, all outputs together."""
        wanted = self.wanted
        if not wanted.lists_classes:
            return 0
        return len(self.inputs) * (wanted.classes_per_step * self.given.time + wanted.classes_per_row)


class TimedRun(Run):
    """The rows of one request, whose reading and answering is timed.

    Args:
        arrived: when the first byte of the request arrived, on the clock of `time.monotonic`.
        where: the place of the rows.
    """

    __slots__ = ("arrived",)

    def __init__(
        self, queue: ModelQueue, sequences: list[Sequence], arrived: float, where: str, deadline: float = inf
    ) -> None:
        super().__init__(queue, sequences, deadline, where)
        self.arrived = arrived

    def place(self, index: int) -> str:
        return f"{self.where}[{index}]"

    def respond(self) -> Any:
        self.check()
        done_at = time.monotonic()
        answer = self.answer()
        self.queue.stats.count_answer(self.arrived, self.sequences[0], done_at, time.monotonic())
        return answer

    def answer(self) -> Any:
        """The response, or the next work. Raises ElmanError."""
        raise NotImplementedError


class Inference(TimedRun):
    """The rows of a request that was read."""

    __slots__ = ("call", "encode", "infer")

    def __init__(self, infer: "Infer", call: Call, encode: Encode) -> None:
        given = call.given
        super().__init__(call.served.queue, call.sequences(), call.request.arrived, given.where, call.deadline)
        self.infer = infer
        self.call = call
        self.encode = encode

    def answer(self) -> Any:
        call = self.call
        network, heads = call.served.model.network, call.wanted.heads
        rows = [rows_from(one, network, heads) for one in self.sequences]
        states = [one.final_state or b"" for one in self.sequences] if call.wanted.state else []
        if call.num_classes > _FEW_CLASSES:
            return script(self._aside(call, rows, states))
        return self.encode(self.infer.answer(call, rows, states))

    def _aside(self, call: Call, rows: list[OutputRows], states: list[bytes]) -> Steps[Any]:
        """Make the response in a thread."""
        return self.encode((yield from aside(self.infer.answer, call, rows, states)))


class Infer:
    """Infers, for every transport."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.sequences = Sequences(server, self)

    def begin(self, request: InferRequest, encode: Encode) -> Work:
        """The work to run; it responds with what `encode` makes of the response. Raises ElmanError."""
        if request.parameters and (part := part_of(request)) is not None:
            return script(self.sequences.run(request, part, encode, _deadline(request)))  # type: ignore[no-any-return]
        if _is_large(request):
            return script(self.steps(request, encode))  # type: ignore[no-any-return]
        return Inference(self, self.read(request), encode)

    def steps(self, request: InferRequest, encode: Encode) -> Steps[Any]:
        """As `begin`, for a script: what `encode` makes of the response."""
        if request.parameters and (part := part_of(request)) is not None:
            return (yield from self.sequences.run(request, part, encode, _deadline(request)))
        call = yield from aside_if(_is_large(request), self.read, request)
        work = Inference(self, call, encode)
        yield work
        outcome = work.respond()
        if isinstance(outcome, Work):
            yield outcome
            outcome = outcome.respond()
        return outcome

    def read(
        self, request: InferRequest, served: ServedModel | None = None, in_sequence: bool = False, begins: bool = False
    ) -> Call:
        """Check a request against its model. Raises UnknownModel, and RequestError with the `where` of the error.

        Args:
            served: the model, if it is not the one that the request names.
            in_sequence: whether the rows are parts of sequences. They are then left as they are given.
            begins: whether they are the first parts, which have the static inputs.
        """
        served = served or self.server.served(request.model, request.version)
        given = read_tensors(served, request.inputs, in_sequence, begins)
        wanted = served.ports.wanted(request.outputs)
        deadline, priority = (_deadline(request), _priority(request)) if request.parameters else (request.deadline, 0)
        call = Call(served, request, given, wanted, deadline, priority)
        _check_size(call)
        return call

    def answer(self, call: Call, rows: list[OutputRows], states: list[bytes]) -> InferResponse:
        """The response, from what each sequence gave.

        Args:
            rows: with the heads of `call.wanted.heads`. With `final` one row each.
            states: the packed state after each sequence, if `call.wanted.state`.
        """
        served = call.served
        values = served.queue.runner.packing.unpack(states) if states else []
        outputs = []
        for port, classes in call.wanted.ports:
            if port.state is not None:
                array = values[served.model.network.states.index(port.state)]
            else:
                array = _output(call, port, rows)
            if classes:
                array = _classified(call, port, array, classes, [len(one.outputs) for one in rows])
            outputs.append(Tensor(port.name, BYTES if classes else port.datatype, array))
        name, version = served.key
        return InferResponse(name, version, call.request.id, outputs)


def _output(call: Call, port: Port, rows: list[OutputRows]) -> Array:
    """One output of all sequences, in the shape of its port. Rows that a sequence does not have are zeros."""
    if port.kind == "lengths":
        return np.array([len(one.outputs) for one in rows], np.int64)
    blocks = [one.outputs if port.head is None else (one.heads or {})[port.name] for one in rows]
    if port.kind == "final" or call.given.single_steps:
        joined = blocks[0] if len(blocks) == 1 else np.concatenate([block[-1:] for block in blocks])
        joined = joined if len(joined) == len(blocks) else joined[-1:]
        return joined if joined.shape[1:] == port.row else joined.reshape(len(joined), *port.row)
    time = max(len(block) for block in blocks) if port.own_clock else call.given.time
    array = blocks[0][None] if len(blocks) == 1 and len(blocks[0]) == time else _padded(blocks, time)
    array = array.reshape(len(blocks), time, *port.row)
    return array.swapaxes(0, 1) if call.served.ports.time_first else array


def _labels(served: ServedModel, port: Port) -> tuple[str, ...]:
    """The labels of an output: the decoder has those of the primary one, a `config.pbtxt` those of others too."""
    if port.kind not in ("steps", "final"):
        return ()
    if port.head is None:
        return served.outputs.names
    return () if served.model.triton is None else served.model.triton.labels.get(port.name, ())


def _classified(call: Call, port: Port, array: Array, classes: int, lengths: list[int]) -> Array:
    """The highest scores of an output. Rows that a sequence does not have are empty texts."""
    axes = (1 if call.given.single_steps else 2) if port.kind == "steps" else array.ndim - 1 if port.state else 1
    found = classified(array, axes, classes, _labels(call.served, port))
    if port.kind == "steps" and not call.given.single_steps:
        rows = found.swapaxes(0, 1) if call.served.ports.time_first else found
        for row, length in zip(rows, lengths, strict=True):
            row[length:] = b""
    return found


def _padded(blocks: list[Array], time: int) -> Array:
    """Blocks of rows as `(blocks, time, size)`, with zeros after the last row of each."""
    padded = np.zeros((len(blocks), time, blocks[0].shape[1]), blocks[0].dtype)
    for place, block in zip(padded, blocks, strict=True):
        place[: len(block)] = block
    return padded


def _deadline(request: InferRequest) -> float:
    timeout = _whole_number(request, "timeout")
    return min(request.deadline, request.arrived + timeout * _MICROSECOND if timeout else inf)


def _priority(request: InferRequest) -> int:
    return max(_HIGHEST, _whole_number(request, "priority")) - _HIGHEST


def _whole_number(request: InferRequest, name: str) -> int:
    """A parameter of the request that is an integer; 0 without it. Raises InvalidField."""
    value = request.parameters.get(name, 0)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**64:
        raise InvalidField(
            f"{name} is no integer of 0 or more", where=f"parameters.{name}", expected="an integer of 0 or more"
        )
    return value


def _is_large(request: InferRequest) -> bool:
    """Whether its tensors take milliseconds to check."""
    size = 0
    for one in request.inputs:
        array = one.array
        size += sum(map(len, array.flat)) if array.dtype.hasobject else array.nbytes
    return size > LARGE


def _check_size(call: Call) -> None:
    """Raise TooLong if the response would have too many numbers or classes."""
    wanted, most = call.wanted, call.request.most_numbers
    numbers = len(call.inputs) * (wanted.per_step * call.given.time + wanted.per_row)
    if numbers > most:
        raise TooLong(f"the response would have {numbers} numbers", where="outputs", expected=f"at most {most} numbers")
    if call.num_classes > MAX_LISTED:
        raise TooLong(
            f"the response would list {call.num_classes} classes", where="outputs", expected=f"at most {MAX_LISTED}"
        )
