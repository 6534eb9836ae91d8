"""The normal form of a recurrent graph: what every model becomes before the engine sees it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any, Literal

import numpy as np

from elman.repository.spec import InputRole, OutputRole

Array = np.ndarray[Any, Any]

# Names that the rewriting adds; the prefix keeps them apart from the author's.
LENGTHS = "elman.lengths"
SELECT = "elman.select"
END = "elman.end"

Layout = Literal["batch_first", "time_first", "step"]

Outputs = Literal["selected", "dense", "last"]
"""`selected`: the graph decodes only the (row, step) pairs that the input `elman.select` lists.
`dense`: it decodes every step, in the layout of its input. `last`: it decodes the last step of each row."""


@dataclass(frozen=True)
class InputTensor:
    """An input of the graph as its author made it.

    `shape` is that of one step of a sequence, of one row of a static or a state, and of a whole constant; None stands
    for an extent that may differ from request to request. `found` says how its role was found. `valid` is what a mask
    says of a real step. `vocabulary_size` is the number of rows of the table that it indexes, where the graph shows it.
    """

    name: str
    role: InputRole
    shape: tuple[int | None, ...]
    dtype: np.dtype[Any]
    found: str
    batch_axis: int = 0
    valid: int | None = None
    vocabulary_size: int | None = None


@dataclass(frozen=True)
class OutputTensor:
    """An output of the graph as its author made it.

    `shape` is that of one step where the role is `steps`, of one sequence's where it is `final` or `state`. `tensor` is
    what the rewritten graph calls it, empty where that does not give it; `batch_axis` and `time_axis` are where it has
    them there. `own_clock` is whether it may have another number of steps than the data.
    """

    name: str
    role: OutputRole
    shape: tuple[int | None, ...]
    dtype: np.dtype[Any]
    found: str
    tensor: str = ""
    batch_axis: int | None = None
    time_axis: int | None = None
    own_clock: bool = False

    @cached_property
    def size(self) -> int:
        """Numbers in one step, or in one sequence's answer."""
        return prod(extent or 1 for extent in self.shape)


@dataclass(frozen=True)
class StateTensor:
    """One piece of running state.

    `shape` has 0 where the batch goes; `initial` has that shape with 1 there. The graph cuts off numbers of a larger
    magnitude than `limit`, which it never gives itself; None where it takes any.
    """

    name: str
    input: str
    output: str
    shape: tuple[int, ...]
    batch_axis: int
    initial: Array
    limit: float | None = None

    @classmethod
    def beginning(cls, name: str, input: str, output: str, batch_axis: int, initial: Array) -> "StateTensor":
        """A state that begins with `initial`, of one row."""
        shape = (*initial.shape[:batch_axis], 0, *initial.shape[batch_axis + 1 :])
        return cls(name, input, output, shape, batch_axis, initial)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Element type of the state."""
        return np.dtype(self.initial.dtype)

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Shape of one sequence's state, without the batch axis."""
        return self.shape[: self.batch_axis] + self.shape[self.batch_axis + 1 :]

    @property
    def nbytes(self) -> int:
        return self.initial.nbytes


@dataclass(frozen=True)
class Network:
    """A rewritten graph and how to feed it.

    Attributes:
        model: the serialised graph.
        inputs: every input of the author's graph with its role, the data first.
        answers: every output of the author's graph with its role, the primary one first.
        input: the data input, float `(batch, time, features)` or integer `(batch, time)`; axes 0 and 1 are
            swapped when `layout` is `time_first`, and there is no time axis when it is `step`.
        input_dtype: what the graph takes.
        features: features of a step, or None for tokens.
        vocabulary_size: ids are 0 .. vocabulary_size - 1, where the graph says.
        ragged: whether `elman.lengths`, int32 `(batch,)`, masks the padding of each row.
        outputs: how the primary output comes, see Outputs.
        states: running state; empty for a network that has none.
        forward: no operator looks ahead, so the state of a prefix can be carried on.
        window: the number of steps that it takes, where it takes no other.
        max_rows: rows that one run takes, where the graph fixes it.
        takes_lengths: whether the graph reads `elman.lengths`.
        look_ahead: why it is not `forward`.
        mixes_time: the first node that combines steps, other than the recurrent ones.
        mixes_rows: the first node that combines the rows of a batch.
        open_ended: whether the values of the data may decide how long a run takes, by a `Loop`.
        end: the input, of yes or no, that says which rows end their sequence; None if the graph does not ask.
    """

    model: bytes
    inputs: tuple[InputTensor, ...]
    answers: tuple[OutputTensor, ...]
    input: str
    input_dtype: np.dtype[Any]
    layout: Layout
    features: int | None
    vocabulary_size: int | None
    ragged: bool
    outputs: Outputs
    states: tuple[StateTensor, ...]
    forward: bool
    cell: str
    layers: int
    hidden_size: int
    window: int | None = None
    max_rows: int | None = None
    takes_lengths: bool = False
    look_ahead: str | None = None
    mixes_time: str | None = None
    mixes_rows: str | None = None
    open_ended: bool = False
    end: InputTensor | None = None

    @cached_property
    def output_names(self) -> tuple[str, ...]:
        """The outputs that answer, as the author calls them, the primary one first."""
        return tuple(one.name for one in self.answering)

    @cached_property
    def answering(self) -> tuple[OutputTensor, ...]:
        """The outputs with a row a step or a row a sequence, the primary one first; the others are heads."""
        return tuple(one for one in self.answers if one.role in ("steps", "final"))

    @cached_property
    def output(self) -> str:
        """The primary output as the rewritten graph calls it."""
        return self.answering[0].tensor

    @cached_property
    def own_clock(self) -> bool:
        """Whether an output may have another number of steps than the data. Each sequence then runs alone."""
        return any(one.own_clock for one in self.answering)

    @cached_property
    def heads(self) -> tuple[OutputTensor, ...]:
        """The outputs that answer beside the primary one."""
        return self.answering[1:]

    @cached_property
    def further(self) -> tuple[InputTensor, ...]:
        """The sequence inputs beside the data, as long as it."""
        return tuple(one for one in self.inputs[1:] if one.role == "sequence")

    @cached_property
    def statics(self) -> tuple[InputTensor, ...]:
        """The inputs with one value a sequence."""
        return tuple(one for one in self.inputs if one.role == "static")

    @cached_property
    def others(self) -> tuple[InputTensor, ...]:
        """The inputs beside the data that each run is given, in the order in which `feeds` takes them."""
        return (*self.further, *self.statics, *(() if self.end is None else (self.end,)))

    @cached_property
    def masks(self) -> tuple[InputTensor, ...]:
        """The inputs that say which steps are real."""
        return tuple(one for one in self.inputs if one.role == "mask")

    @cached_property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of one step of the primary output."""
        return tuple(extent or 1 for extent in self.answering[0].shape)

    @cached_property
    def output_size(self) -> int:
        """Numbers in one step of the primary output."""
        return self.answering[0].size

    @cached_property
    def state_nbytes(self) -> int:
        """Bytes of one sequence's running state."""
        return sum(state.nbytes for state in self.states)

    def fetches(self, *, heads: bool = False) -> list[str]:
        """Outputs to ask a run for: the primary one, the heads where they are wanted, then the state in order."""
        answers = self.answering if heads else self.answering[:1]
        return [*(one.tensor for one in answers), *(state.output for state in self.states)]

    def feeds(
        self, data: Array, lengths: Array, states: list[Array], select: Array | None, others: Sequence[Array] = ()
    ) -> Mapping[str, Array]:
        """Name the arrays of one run.

        Args:
            data: `(batch, time, features)` or `(batch, time)`, padded, in `input_dtype`.
            lengths: int32 `(batch,)`, each at least 1.
            states: one array for each of `self.states`, with the batch on its axis.
            select: int64 `(selected, 2)` pairs of row and step; None where outputs are not `selected`.
            others: one for each of `self.others`: of `self.further` `(batch, time, ...)` and padded, of `self.statics`
                and of the end `(batch, ...)`.
        """
        feeds = {self.input: self._arrange(data)}
        if self.takes_lengths:
            feeds[LENGTHS] = lengths
        if select is not None and self.outputs == "selected":
            feeds[SELECT] = select
        for state, value in zip(self.states, states, strict=True):
            feeds[state.input] = value
        for one, value in zip(self.others, others, strict=True):
            value = value[:, 0] if self.layout == "step" and one.role == "sequence" else value
            feeds[one.name] = np.moveaxis(value, 0, one.batch_axis) if one.batch_axis else value
        for mask in self.masks:
            real = np.arange(data.shape[1]) < lengths[:, None]
            value = (real if mask.valid else ~real).astype(mask.dtype)
            feeds[mask.name] = value.T.copy() if mask.batch_axis else value
        return feeds

    def end_values(self, ends: Array) -> Array:
        """Which rows end, bool `(batch,)`, in the shape of the input that says so."""
        assert self.end is not None, "asked for"
        return ends.reshape(-1, *(1 for _ in self.end.shape))

    def rows(self, answer: OutputTensor, output: Array, select: Array) -> Array:
        """The steps `select` of one of a run's outputs, as `(selected, size)`."""
        batch, time = answer.batch_axis, answer.time_axis
        if answer.own_clock:
            return self._own_rows(answer, output, select)
        if self.outputs == "selected":
            output = np.moveaxis(output, batch, 0) if batch else output
        elif time is None or self.layout == "step":
            output = (output[None] if batch is None else np.moveaxis(output, batch, 0))[select[:, 0]]
        elif batch is None:
            output = np.moveaxis(output, time, 0)[select[:, 1]]
        else:
            output = np.moveaxis(output, (batch, time), (0, 1))[select[:, 0], select[:, 1]]
        return output.reshape(len(select), answer.size)

    def _own_rows(self, answer: OutputTensor, output: Array, select: Array) -> Array:
        """The steps of a row that ran alone, however many they are; the last one where one of several is asked for."""
        rows = np.moveaxis(output, answer.time_axis or 0, 0).reshape(-1, answer.size)
        return rows[-1:] if len(select) == 1 and int(select[0, 1]) else rows

    def _arrange(self, data: Array) -> Array:
        if self.layout == "step":
            return data[:, 0]
        if self.layout == "time_first":
            return np.ascontiguousarray(data.swapaxes(0, 1))
        return data
