"""Rows in the data's units, as the network reads them: missing values filled, and each value scaled.

What is kept of a series to read its next rows is its memory: float64 `(3, features)`, mean, std and the last row.
"""

from collections.abc import Sequence

import numpy as np

from elman.codec.finite import finite, first_place
from elman.codec.input_format import InputFormat
from elman.errors import InvalidField, NotFinite, WrongLength
from elman.repository.network import Array

# A feature whose std is a smaller share of its mean does not vary: what is left is rounding.
_CONSTANT = 1e-12


def as_read(rows: Array, format: InputFormat, where: str) -> Array:
    """Rows in the data's units, with NaN for missing values, as the network reads them and in its dtype.

    What is read by the memory of a series is left for `prepared`: it stays in the data's units, float64. Raises
    NotFinite for numbers beyond the network's dtype and for missing values, if the model takes none; and as `prepared`.
    """
    if not format.prepares:
        return finite(rows, format.numpy_dtype, where)
    if not format.remembers:
        return prepared(rows, format, None, where)[0]
    there = rows if format.missing is None else np.where(np.isnan(rows), 0.0, rows)
    finite(there, format.numpy_dtype, where)
    return rows.astype(np.float64, copy=False)


def prepared(
    rows: Array, format: InputFormat, memory: Array | None, where: str, window: int | None = None
) -> tuple[Array, Array | None]:
    """Rows as the network reads them, and the memory after them.

    Args:
        rows: `(length, features)` in the data's units, NaN where a value is missing.
        memory: of the rows before; None for the first ones, whose mean and std are then the scale of the series.
        window: the number of last rows that the first run reads, if that is not all.

    Raises NotFinite, InvalidField for a missing value that cannot be filled, and WrongLength for a series of one row,
    which has no scale.
    """
    missing, mask = np.isnan(rows), format.missing_mask
    if mask is not None:
        _check_mask(rows[:, mask], where, mask)
        missing[:, mask] = False
    rows = rows.astype(np.float64, copy=False)
    scale = format.scale if memory is None else memory[:2]
    if format.scaled and memory is None:
        scale = _scale_of(rows if window is None else rows[-window:], format, where)
    rows = _filled(rows, missing, format, None if memory is None else memory[2], where)
    after = np.concatenate([scale, rows[-1:]]) if format.remembers else None
    read = (rows - scale[0]) / scale[1]
    if mask is not None:
        read[:, mask] = missing.any(axis=1)
    if format.missing != "model":
        return finite(read, format.numpy_dtype, where), after
    # The network reads NaN, and nothing else that is not finite.
    found = finite(np.where(missing, 0.0, read), format.numpy_dtype, where)
    return np.where(missing, np.array(np.nan, found.dtype), found), after


def scaled(values: Array, features: Sequence[int], scale: Array, where: str) -> Array:
    """Values of some features in the data's units as the network reads them, float32 `(rows, features)`.

    Args:
        features: their indices in the input; none if the values are no features of it, and so have no scale.
        scale: mean and std of every feature, `(2, features)`: of the model, or of the memory of a series.

    Raises NotFinite.
    """
    mean, std = scale[:, list(features)] if features else (0.0, 1.0)
    return finite((values - mean) / std, np.dtype(np.float32), where)


def _filled(rows: Array, missing: Array, format: InputFormat, last: Array | None, where: str) -> Array:
    """Rows with their missing values filled. Raises InvalidField."""
    if not missing.any():
        return rows
    if format.missing is None:
        raise NotFinite("a value is missing", where=where + first_place(missing), expected="a number")
    if format.missing == "model":
        return rows
    if format.missing != "forward_fill":
        return np.where(missing, format.missing, rows)
    # For each value the step that it is taken from: the last one that has a value, or none.
    steps = np.where(missing, -1, np.arange(len(rows))[:, None])
    steps = np.maximum.accumulate(steps, axis=0)
    before = np.full((1, rows.shape[1]), np.nan) if last is None else last[None]
    filled = np.take_along_axis(np.concatenate([before, rows]), steps + 1, axis=0)
    if format.missing_mask is not None:
        filled[:, format.missing_mask] = 0.0
    unfilled = np.isnan(filled)
    if unfilled.any():
        place = where + first_place(unfilled)
        raise InvalidField("a value is missing, and none before it", where=place, expected="a number")
    return filled


def _scale_of(rows: Array, format: InputFormat, where: str) -> Array:
    """Mean and std of each feature, `(2, features)`: some are those of the rows. Raises WrongLength, InvalidField."""
    if len(rows) < 2:
        raise WrongLength(
            "a series of one step has no scale of its own", where=where, expected="2 steps or more, or a state"
        )
    columns = list(format.scaled)
    values = rows[:, columns]
    there = ~np.isnan(values)
    count = there.sum(axis=0)
    if not count.all():
        feature = columns[int(np.flatnonzero(count == 0)[0])]
        raise InvalidField(f"feature {feature} has no value in the whole series", where=where, expected="a number")
    mean = np.where(there, values, 0.0).sum(axis=0) / count
    std = np.sqrt((np.where(there, values - mean, 0.0) ** 2).sum(axis=0) / count)
    scale = format.scale.copy()
    scale[:, columns] = mean, np.where(std > _CONSTANT * np.abs(mean), std, 1.0)
    return scale


def _check_mask(values: Array, where: str, mask: int) -> None:
    wrong = ~(np.isnan(values) | (values == 0.0))
    if wrong.any():
        place = f"{where}[{int(np.flatnonzero(wrong)[0])}][{mask}]"
        raise InvalidField(
            "the server fills this feature, which says what is missing", where=place, expected="0 or null"
        )
