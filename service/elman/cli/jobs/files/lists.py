"""Columns of a table whose cells are lists: each holds a whole sequence."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa


def is_list(kind: Any) -> bool:
    """Whether cells of an Arrow type are lists."""
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def arrays(column: Any) -> Iterator[Any]:
    """The cells of a list column: an array `(time,)` or `(time, features)`, None, or a list if rows differ."""
    inner = column.values if not pa.types.is_fixed_size_list(column.type) else None
    if inner is None or column.null_count:
        yield from (None if cell is None else _array(cell) for cell in column.to_pylist())
        return
    offsets = column.offsets.to_numpy()
    if not is_list(inner.type):
        flat = inner.to_numpy(zero_copy_only=False)
        yield from (flat[begin:end] for begin, end in pairwise(offsets))
        return
    width = _width(inner)
    if width is None:
        yield from map(_array, column.to_pylist())
        return
    rows = inner.flatten().to_numpy(zero_copy_only=False).reshape(-1, width)
    yield from (rows[begin:end] for begin, end in pairwise(offsets))


def _width(rows: Any) -> int | None:
    """The common length of the lists in a column, or None if they differ."""
    if rows.null_count:
        return None
    if pa.types.is_fixed_size_list(rows.type):
        return int(rows.type.list_size)
    widths = np.diff(rows.offsets.to_numpy())
    return int(widths[0]) if len(widths) and (widths == widths[0]).all() and widths[0] else None


def _array(cell: list[Any]) -> Any:
    """A cell as an array. If its rows differ it stays a list, and the server reports the step."""
    try:
        data = np.array(cell, None if any(isinstance(row, list) for row in cell) else np.float64)
    except (ValueError, TypeError):
        return cell
    return data if data.dtype.kind in "fiu" else cell
