"""Data frames of pandas or polars, whose columns are matched by name. Neither package is imported."""

from collections.abc import Sequence
from typing import Any

import numpy as np


def is_frame(x: object) -> bool:
    """Whether it is a data frame."""
    return hasattr(x, "columns") and hasattr(x, "to_numpy")


def is_many(x: object) -> bool:
    """Whether it is a list of series, each an array or a data frame, and not one series as nested lists."""
    return isinstance(x, list | tuple) and any(isinstance(one, np.ndarray) or hasattr(one, "to_numpy") for one in x)


def by_name(x: Any, names: Sequence[str] | None, where: str, many: bool = False) -> Any:
    """The columns of a data frame in the order of `names`, as an array; anything else as an array.

    many: True if `x` is a list of those, for a list of arrays.

    Raises ValueError if a name is not a column, or if the columns have no names to be matched with.
    """
    if many:
        return [by_name(one, names, f"{where}[{index}]") for index, one in enumerate(x)]
    if not is_frame(x):
        return np.asanyarray(x)
    frame: Any = x
    columns = [str(name) for name in frame.columns]
    if names is None:
        if len(columns) == 1:
            return np.asarray(frame.to_numpy())
        raise ValueError(
            f"{where} is a data frame with the columns {columns}, and the model does not name its features; pass "
            f"{where}.to_numpy() with the columns in the order of the model's features"
        )
    missing = [name for name in names if name not in columns]
    if missing or len(set(columns)) < len(columns):
        reason = f"has no column {missing[0]!r}" if missing else "names a column twice"
        raise ValueError(f"{where} {reason}; it has {columns}, the model reads {list(names)}")
    return np.asarray(frame.to_numpy())[:, [columns.index(name) for name in names]]
