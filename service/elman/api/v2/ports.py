"""The tensors of a model as the protocol names them, with their axes.

Batch and time are the first two axes: `[batch, time, features]`, token ids `[batch, time]`, a signal
`[batch, samples]`. If the graph has time first, both are swapped, as in the graph. Static inputs and final outputs are
`[batch, ...]`. State is as the graph has it, often `[layers, batch, size]`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from math import prod
from typing import Literal

import numpy as np

from elman.api.v2.messages import RequestedOutput
from elman.codec.datatypes import datatype_of
from elman.codec.faults import echoed
from elman.codec.input_format import InputFormat
from elman.errors import InvalidField
from elman.repository.model import Model
from elman.repository.network import InputTensor, OutputTensor, StateTensor

LENGTHS, FINAL, STATE = "lengths", "final", "state."

# Requests for the same outputs are known again. So many different ones are kept.
_MAX_KNOWN = 64

Shape = tuple[int, ...]
"""Extents of a tensor; -1 where it differs from request to request."""


@dataclass(frozen=True)
class Port:
    """An output that a request may name.

    Attributes:
        kind: `steps`: one row a step. `final`: one row a sequence. `state`: as in the graph. `lengths`: the number of
            rows of each sequence.
        head: its index among the heads; None for the primary output.
        row: the shape of one step, or of one row.
        own_clock: whether it may have another number of steps than the data.
    """

    name: str
    kind: Literal["steps", "final", "state", "lengths"]
    shape: Shape
    datatype: str
    head: int | None = None
    state: StateTensor | None = None
    row: Shape = ()
    own_clock: bool = False


class Wanted:
    """The outputs that a request is to return.

    Attributes:
        ports: each with its number of classes, or 0 for its numbers.
        returns: `steps` if an output of every step is among them, as in `Sequence`.
        heads: the names of the heads among them.
        state: whether a state is among them.
        per_step, per_row: numbers of a response for each step, and for each row beside them.
        classes_per_step, classes_per_row: the same of classes that it lists.
        lists_classes: whether it lists any.
    """

    def __init__(self, ports: Sequence[tuple[Port, int]]) -> None:
        kinds = {port.kind for port, _ in ports}
        sizes = [(port.kind == "steps", prod([max(one, 1) for one in port.shape]), count) for port, count in ports]
        self.per_step, self.per_row = (sum(size for steps, size, _ in sizes if steps is kind) for kind in (True, False))
        self.classes_per_step, self.classes_per_row = (
            sum(min(size, count) for steps, size, count in sizes if steps is kind) for kind in (True, False)
        )
        self.ports = ports
        self.returns: Literal["final", "steps"] = "steps" if kinds & {"steps", "lengths"} else "final"
        self.lists_classes = any([count for _, count in ports])
        self.heads = [port.name for port, _ in ports if port.head is not None]
        self.state = "state" in kinds


class Ports:
    """The inputs and outputs of one model."""

    def __init__(self, model: Model, format: InputFormat) -> None:
        self.model = model
        self.format = format
        self.wanted = lru_cache(_MAX_KNOWN)(self._wanted)
        network = model.network
        self.time_first = network.layout == "time_first"
        # A graph that gives the output of the last step only, run whole.
        self.last_only = network.outputs == "last" and not model.proof.chunked
        # Whether its sequences are nothing but rows of numbers, batch first, that are read as they are.
        self.plain = not (
            format.tokens or format.frames or format.prepares or format.further or format.statics
            or network.window is not None or network.layout != "batch_first"
        )  # fmt: skip
        # A graph of one step that was made for Triton: its clients send one step of each row, without an axis of time.
        self.single_steps = network.layout == "step" and model.triton is not None
        self.takes_state = bool(network.states) and model.proof.streaming and not (format.frames or format.remembers)

    @cached_property
    def inputs(self) -> list[tuple[str, str, Shape]]:
        """Name, datatype and shape of each input that a request must have, the primary one first."""
        network = self.model.network
        data = network.inputs[0]
        first = data.name, self._data_datatype, self._over_time(self._data_shape)
        further = [(one.name, datatype_of(one.dtype), self._over_time(_open(one.shape))) for one in network.further]
        statics = [(one.name, datatype_of(one.dtype), (-1, *_open(one.shape))) for one in network.statics]
        return [first, *further, *statics]

    @cached_property
    def listed(self) -> list[Port]:
        """The outputs that the metadata lists, and that a request without outputs gets."""
        return [self._port(one, None if at == 0 else at - 1) for at, one in enumerate(self.model.network.answering)]

    @cached_property
    def outputs(self) -> dict[str, Port]:
        """Every output that a request may name. The graph's own names come first."""
        network = self.model.network
        primary = network.answering[0]
        further = [
            replace(self._port(primary, None), name=FINAL, kind="final", shape=(-1, *_open(primary.shape))),
            Port(LENGTHS, "lengths", (-1,), "INT64"),
        ]
        if self.takes_state:
            for state in network.states:
                shape = tuple(extent if axis != state.batch_axis else -1 for axis, extent in enumerate(state.shape))
                names = (STATE + state.name, *(one.name for one in network.answers if one.name == state.output))
                further += [Port(name, "state", shape, datatype_of(state.dtype), state=state) for name in names]
        found: dict[str, Port] = {}
        for one in (*self.listed, *further):
            found.setdefault(one.name, one)
        return found

    def _wanted(self, requested: tuple[RequestedOutput, ...]) -> Wanted:
        """The requested outputs; all that are listed if none is requested. Raises InvalidField."""
        if not requested:
            return Wanted([(port, 0) for port in self.listed])
        for index, one in enumerate(requested):
            if one.name not in self.outputs:
                raise InvalidField(
                    f"the model has no output {echoed(one.name)!r}",
                    where=f"outputs[{index}].name",
                    expected=list(self.outputs),
                )
        return Wanted([(self.outputs[one.name], one.classification) for one in requested])

    @cached_property
    def states(self) -> dict[str, int]:
        """The place of each piece of state among `Network.states`, by the names of its input."""
        if not self.takes_state:
            return {}
        states = self.model.network.states
        return {name: at for at, one in enumerate(states) for name in (one.name, STATE + one.name)}

    @cached_property
    def lengths(self) -> frozenset[str]:
        """The names of the input with the number of steps of each row."""
        return frozenset({LENGTHS, *(one.name for one in self.model.network.inputs if one.role == "lengths")})

    @cached_property
    def data(self) -> InputTensor:
        """The primary input."""
        return self.model.network.inputs[0]

    @property
    def _data_datatype(self) -> str:
        dtype = self.model.network.input_dtype
        return datatype_of(np.dtype(np.float32) if self.format.frames else dtype)

    @property
    def _data_shape(self) -> Shape:
        return () if self.format.tokens or self.format.frames else (self.format.features or 1,)

    def _over_time(self, step: Shape) -> Shape:
        if self.single_steps:
            return (-1, *step)
        window = self.model.network.window
        time = -1 if window is None or self.format.frames else window
        return (time, -1, *step) if self.time_first else (-1, time, *step)

    def _port(self, one: OutputTensor, head: int | None) -> Port:
        steps = one.role == "steps" and not self.last_only
        shape = (-1, -1, *_open(one.shape)) if steps and not self.single_steps else (-1, *_open(one.shape))
        kind: Literal["steps", "final"] = "steps" if steps else "final"
        row = tuple(extent or 1 for extent in one.shape)
        return Port(one.name, kind, shape, datatype_of(one.dtype), head, row=row, own_clock=one.own_clock)


def _open(shape: tuple[int | None, ...]) -> Shape:
    return tuple(-1 if extent is None else extent for extent in shape)
