"""The axes of a tensor by what they count: rows of the batch, steps of the sequence, or neither."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import gcd, prod
from typing import Literal, NamedTuple

Kind = Literal["batch", "time", ""]
BATCH: Kind = "batch"
TIME: Kind = "time"


class Factor(NamedTuple):
    """A part of an axis: what it counts, and its extents in the probes. An axis of several, merged by a Reshape, is
    row-major."""

    kind: Kind
    extents: tuple[int, ...]


Axis = tuple[Factor, ...]
"""Factors whose extents multiply to the axis's own; none for an axis of extent 1."""

NOTHING: frozenset[Kind] = frozenset()


@dataclass(frozen=True)
class Traced:
    """What is known of a tensor.

    Attributes:
        axes: one a dimension.
        reads: its values depend on those of an input.
        mixes: the first node on its way that combines steps other than by recurrence; None where none does.
        strangers: the first node on its way that combines rows of the batch; None where none does.
        ahead: the first node on its way that reads the sequence from its end; None where none does.
        edge: it belongs to one end of the sequence: the last step, the final or the initial state, or the lengths.
        sized: the extents that its values are made from.
        elements: the same for each element of a vector, where that is known, as of a Shape.
        carried: the state inputs of which it is nothing but a move.
        loose: how large it is may depend on the values of an input.
    """

    axes: tuple[Axis, ...] = ()
    reads: bool = False
    mixes: str | None = None
    strangers: str | None = None
    ahead: str | None = None
    edge: bool = False
    sized: frozenset[Kind] = NOTHING
    elements: tuple[frozenset[Kind], ...] | None = None
    carried: frozenset[str] = frozenset()
    loose: bool = False

    @property
    def kinds(self) -> frozenset[Kind]:
        """What its axes count."""
        return kinds_of(*self.axes)


class Scrambled(Exception):
    """The axes of a result cannot be told from those of what it is made from."""


def kinds_of(*axes: Axis) -> frozenset[Kind]:
    """What some axes count, beside their own numbers."""
    return frozenset(factor.kind for axis in axes for factor in axis if factor.kind)


def extents_of(axis: Axis, probes: int) -> tuple[int, ...]:
    """The extents of an axis in each probe."""
    return tuple(prod(factor.extents[probe] for factor in axis) for probe in range(probes))


def plain_axis(extents: tuple[int, ...]) -> Axis:
    """An axis that counts neither rows nor steps."""
    return () if set(extents) == {1} else (Factor("", extents),)


def is_steps(axis: Axis) -> bool:
    """Whether an axis counts the steps of the sequence, on whatever clock, and nothing else."""
    return len(axis) == 1 and axis[0].kind == TIME


def joined(axes: Iterable[Axis]) -> Axis:
    """Several axes as one, row-major."""
    factors: list[Factor] = []
    for factor in (factor for axis in axes for factor in axis):
        if factors and not factor.kind and not factors[-1].kind:
            extents = tuple(a * b for a, b in zip(factors[-1].extents, factor.extents, strict=True))
            factors[-1] = Factor("", extents)
        else:
            factors.append(factor)
    return tuple(factors)


def reshaped(axes: Sequence[Axis], shapes: Sequence[tuple[int, ...]]) -> tuple[Axis, ...]:
    """The axes after a row-major reshape to `shapes`, one for each probe.

    Raises Scrambled where rows or steps would be cut up, so that a dimension counts neither one nor the other.
    """
    left = list(joined(axes))
    result = []
    for extents in zip(*shapes, strict=True):
        taken: list[Factor] = []
        while (done := extents_of(tuple(taken), len(extents))) != extents:
            if not left or 0 in done:
                raise Scrambled
            rest = [extent // have for extent, have in zip(extents, done, strict=True)]
            factor = left.pop(0)
            if all(r % e == 0 for r, e in zip(rest, factor.extents, strict=True)):
                taken.append(factor)
                continue
            shared = gcd(*rest, *factor.extents)
            if factor.kind or shared == 1:
                raise Scrambled
            taken.append(Factor("", (shared,) * len(extents)))
            left.insert(0, Factor("", tuple(extent // shared for extent in factor.extents)))
        result.append(joined([tuple(taken)]))
    if any(set(factor.extents) != {1} for factor in left):
        raise Scrambled
    return tuple(result)


def aligned(axes: Sequence[Axis]) -> tuple[Axis, frozenset[Kind]]:
    """The axis that several make by broadcasting, and what is combined with something else on the way.

    Rows that meet numbers of their own, such as a table by position, are told from one another; so are steps.
    """
    there = [axis for axis in dict.fromkeys(axes) if axis]
    if len(there) < 2:
        return (there[0] if there else ()), NOTHING
    return max(there, key=lambda axis: bool(kinds_of(axis))), kinds_of(*there)
