"""The normal form of a recurrent graph: what every model becomes before the engine sees it."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any, Literal

import numpy as np

Array = np.ndarray[Any, Any]

# Names that the rewriting adds; the prefix keeps them apart from the author's.
LENGTHS = "elman.lengths"
SELECT = "elman.select"

Layout = Literal["batch_first", "time_first", "step"]

Outputs = Literal["selected", "dense", "last"]
"""`selected`: the graph decodes only the (row, step) pairs that the input `elman.select` lists.
`dense`: it decodes every step, in the layout of its input. `last`: it decodes the last step of each row."""


@dataclass(frozen=True)
class StateTensor:
    """One piece of running state.

    `shape` has 0 where the batch goes; `initial` has that shape with 1 there.
    """

    name: str
    input: str
    output: str
    shape: tuple[int, ...]
    batch_axis: int
    initial: Array

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
        input: the data input, float `(batch, time, features)` or integer `(batch, time)`; axes 0 and 1 are
            swapped when `layout` is `time_first`, and there is no time axis when it is `step`.
        input_dtype: what the graph takes.
        features: features of a step, or None for tokens.
        vocabulary_size: ids are 0 .. vocabulary_size - 1, where the graph says.
        ragged: whether `elman.lengths`, int32 `(batch,)`, masks the padding of each row.
        outputs: how outputs come, see Outputs.
        output: the primary output as the rewritten graph calls it.
        output_names: the per-step outputs as the author calls them, the primary one first.
        output_shape: shape of one step of the primary output.
        states: running state; empty for a network that has none.
        forward: no operator looks ahead, so the state of a prefix can be carried on.
        max_rows: rows that one run takes, where the graph fixes it.
        look_ahead: why it is not `forward`.
        mixes_time: the first node that seems to combine steps, other than the recurrent ones.
    """

    model: bytes
    input: str
    input_dtype: np.dtype[Any]
    layout: Layout
    features: int | None
    vocabulary_size: int | None
    ragged: bool
    outputs: Outputs
    output: str
    output_names: tuple[str, ...]
    output_shape: tuple[int, ...]
    states: tuple[StateTensor, ...]
    forward: bool
    cell: str
    layers: int
    hidden_size: int
    max_rows: int | None = None
    look_ahead: str | None = None
    mixes_time: str | None = None

    @cached_property
    def output_size(self) -> int:
        """Numbers in one step of the primary output."""
        return prod(self.output_shape)

    @cached_property
    def state_nbytes(self) -> int:
        """Bytes of one sequence's running state."""
        return sum(state.nbytes for state in self.states)

    def fetches(self) -> list[str]:
        """Outputs to ask a run for: the primary one, then the state in order."""
        return [self.output, *(state.output for state in self.states)]

    def feeds(self, data: Array, lengths: Array, states: list[Array], select: Array | None) -> Mapping[str, Array]:
        """Name the arrays of one run.

        Args:
            data: `(batch, time, features)` or `(batch, time)`, padded, in `input_dtype`.
            lengths: int32 `(batch,)`, each at least 1.
            states: one array for each of `self.states`, with the batch on its axis.
            select: int64 `(selected, 2)` pairs of row and step; None where outputs are not `selected`.
        """
        feeds = {self.input: self._arrange(data)}
        if self.ragged:
            feeds[LENGTHS] = lengths
        if select is not None and self.outputs == "selected":
            feeds[SELECT] = select
        for state, value in zip(self.states, states, strict=True):
            feeds[state.input] = value
        return feeds

    def rows(self, output: Array, select: Array) -> Array:
        """The steps `select` of a run's primary output, as `(selected, output_size)`."""
        if self.outputs == "dense" and self.layout != "step":
            axes = (select[:, 1], select[:, 0]) if self.layout == "time_first" else (select[:, 0], select[:, 1])
            output = output[axes]
        elif self.outputs == "last" or self.layout == "step":
            output = output[select[:, 0]]
        return output.reshape(len(select), self.output_size)

    def _arrange(self, data: Array) -> Array:
        if self.layout == "step":
            return data[:, 0]
        if self.layout == "time_first":
            return np.ascontiguousarray(data.swapaxes(0, 1))
        return data
