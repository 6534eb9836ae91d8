"""The times of the rows of a table: numbers, or dates as ISO 8601 writes them."""

from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import pairwise
from math import isfinite

Time = tuple[str, float]
"""Of which kind it is, `a number` or `a date`, and its value: that of the number, or seconds since 1970."""


def time_of(cell: object) -> Time:
    """The time in a cell. Raises ValueError if it is none."""
    if isinstance(cell, datetime):
        return "a date", cell.replace(tzinfo=cell.tzinfo or UTC).timestamp()
    text = str(cell).strip()
    try:
        number = float(text)
    except ValueError:
        try:
            return time_of(datetime.fromisoformat(text))
        except ValueError:
            raise ValueError(f"{text[:40]!r} is neither a number nor a date such as 2024-01-31") from None
    if not isfinite(number):
        raise ValueError(f"{text[:40]!r} is no time")
    return "a number", number


def in_time(times: Sequence[Time], lines: Sequence[int]) -> list[int]:
    """The order of rows by their times. Raises ValueError if two are the same, or of different kinds."""
    other = next((i for i, (kind, _) in enumerate(times) if kind != times[0][0]), None)
    if other is not None:
        raise ValueError(f"the time of row {lines[0]} is {times[0][0]}, that of row {lines[other]} {times[other][0]}")
    order = sorted(range(len(times)), key=lambda i: times[i][1])
    for before, after in pairwise(order):
        if times[before][1] == times[after][1]:
            raise ValueError(f"the rows {lines[before]} and {lines[after]} have the same time")
    return order
