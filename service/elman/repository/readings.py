"""The ways to read the axes of the data: which counts rows and which steps, by their names, extents and order."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from elman.repository.naming import names_batch, names_time
from elman.repository.spec import InputSpec

Dims = Sequence[int | str | None]

Pair = tuple[int, int | None]
"""The axis of rows and the axis of steps; None for a file of one step a run."""


@dataclass(frozen=True)
class Reading:
    """One way to read the axes of the data: which counts rows, which steps (None: one step a run), and what of them is
    fixed: `rows` at 1, steps at `window`. `single` is whether the axis of steps is there for one step a run."""

    batch: int
    time: int | None
    rows: int | None = None
    window: int | None = None
    single: bool = False

    @property
    def stepping(self) -> bool:
        """Whether a run is one step."""
        return self.time is None or self.single


@dataclass(frozen=True)
class Readings:
    """What to try, the likelier first, and of one pair of axes from nothing fixed to all that is declared so.

    `opposed` are the readings that the names of the axes contradict.
    """

    agreeing: tuple[tuple[Reading, ...], ...]
    opposed: tuple[tuple[Reading, ...], ...]

    @classmethod
    def of(cls, dims: Dims, dtype: np.dtype[Any], told: InputSpec, *, carries: bool) -> "Readings":
        """The readings of data that is declared so. `carries`: the graph takes a state."""
        agreeing: list[tuple[Reading, ...]] = []
        opposed: list[tuple[Reading, ...]] = []
        for pair in _pairs(dims, dtype, told, carries):
            readings = tuple(_variants(pair, dims, carries=carries))
            (agreeing if contradicted_axis(pair, dims, told) is None else opposed).append(readings)
        return cls(tuple(agreeing), tuple(opposed))


def _pairs(dims: Dims, dtype: np.dtype[Any], told: InputSpec, carries: bool) -> Iterator[Pair]:
    """The pairs of axes that the extents and the spec allow: what is free comes before what is not."""
    rank = len(dims)
    likely = ((0, 1), (1, 0), (0, 2), (2, 0), (1, 2), (2, 1), *((0, axis) for axis in range(3, rank)))
    pairs: list[Pair] = [pair for pair in likely if max(pair) < rank]
    if rank == 2 and dtype.kind == "f":
        # (batch, features) without time where a state is carried; else (batch, time) of one feature.
        stepping = isinstance(dims[1], int) and (carries or told.size is not None)
        pairs = [(0, None)] if stepping else [*pairs, (0, None)]
    elif rank == 1:
        pairs = [(0, None)]
    free = {axis for axis, dim in enumerate(dims) if not isinstance(dim, int)}
    for batch, time in sorted(pairs, key=lambda pair: (len(free - set(pair)), pairs.index(pair))):
        if told.batch_axis not in (None, batch) or told.time_axis not in (None, time):
            continue
        if len(free) < rank and free - {batch, time}:
            continue
        yield batch, time


def contradicted_axis(pair: Pair, dims: Dims, told: InputSpec) -> int | None:
    """The axis that is named otherwise than a pair reads it; None if there is none. The spec overrules a name."""
    batch, time = pair
    rows = _named(dims, names_batch, told.time_axis)
    steps = _named(dims, names_time, told.batch_axis)
    if time is None and told.size is not None:
        return None  # the spec says that a row is a step of so many features
    if told.batch_axis is None and rows and batch not in rows:
        return time if time in rows else min(rows)
    if told.time_axis is None and steps and time not in steps - {batch}:
        return batch if batch in steps else None if time is None else min(steps)
    return None


def _named(dims: Dims, says: Callable[[object], bool], other: int | None) -> set[int]:
    """The axes that are named so, without the one that the spec says is another."""
    return {axis for axis, dim in enumerate(dims) if says(dim) and axis != other}


def _variants(pair: Pair, dims: Dims, *, carries: bool) -> Iterator[Reading]:
    """What may be fixed. A file that takes one step and a state, and no other number of steps, is one of steps."""
    batch, time = pair
    one = 1 if not dims or dims[batch] == 1 or not isinstance(dims[batch], int) else None
    steps = None if time is None else dims[time]
    for window in dict.fromkeys((None, steps if isinstance(steps, int) and steps > 0 else None)):
        single = window == 1 and carries
        for rows in dict.fromkeys((None, one)):
            yield Reading(batch, time, rows, None if single else window, single)
