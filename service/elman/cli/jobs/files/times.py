"""The times of the rows of a series: their order, the step between them, and the times that follow."""

import calendar
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from math import isfinite
from typing import Any

import numpy as np

# Forms of ISO 8601 without a dash after the year, or with a week.
_BASIC = ("%Y%m%d", "%G-W%V", "%G-W%V-%u", "%GW%V", "%Y%m%dT%H%M", "%Y%m%dT%H%M%S")
_UNITS = ((86_400, "days"), (3600, "hours"), (60, "minutes"), (1, "seconds"))


@dataclass(frozen=True, slots=True)
class Time:
    """The time of a row: a number, or a date.

    Attributes:
        value: the number, or seconds since 1970. A date without a time zone counts as UTC.
        when: the date as it is written, None for a number.
        cell: what the table holds.
    """

    value: float
    when: datetime | None
    cell: object

    @property
    def kind(self) -> str:
        return "a number" if self.when is None else "a date"


def time_of(cell: object) -> Time:
    """The time in a cell: a number, or a date as ISO 8601 writes it. Raises ValueError if it is none."""
    if isinstance(cell, datetime):
        return Time(cell.replace(tzinfo=cell.tzinfo or UTC).timestamp(), cell, cell)
    text = str(cell).strip()
    try:
        number = float(text)
    except ValueError:
        try:
            when = datetime.fromisoformat(f"{text}-01" if text[4:5] == "-" and len(text) == len("2024-01") else text)
        except ValueError:
            raise ValueError(f"{text[:40]!r} is neither a number nor a date such as 2024-01-31") from None
        return Time(time_of(when).value, when, text)
    if _is_day(text):
        when = datetime.fromisoformat(text)
        return Time(time_of(when).value, when, text)
    if not isfinite(number):
        raise ValueError(f"{text[:40]!r} is no time")
    return Time(number, None, text)


def _is_day(text: str) -> bool:
    """Whether a number is written as 20240131 is, which is a date of ISO 8601 in the years of people's data."""
    try:
        return len(text) == 8 and text.isdigit() and 1900 <= datetime.fromisoformat(text).year < 2100
    except ValueError:
        return False


def in_time(times: Sequence[Time], lines: Sequence[int]) -> list[int]:
    """The order of rows by their times. Raises ValueError if two are the same, or of different kinds."""
    other = next((i for i, time in enumerate(times) if time.kind != times[0].kind), None)
    if other is not None:
        raise ValueError(
            f"the time of row {lines[0]} is {times[0].kind}, that of row {lines[other]} {times[other].kind}"
        )
    order = sorted(range(len(times)), key=lambda i: times[i].value)
    for before, after in pairwise(order):
        if times[before].value == times[after].value:
            raise ValueError(f"the rows {lines[before]} and {lines[after]} have the same time, {times[after].cell}")
    return order


@dataclass(frozen=True)
class Clock:
    """How the times of a series go on after its last row.

    Attributes:
        unit: `number`, `months`, `seconds` or `business days`.
        step: so many of the unit lie between two rows.
    """

    last: Time
    unit: str
    step: float

    def after(self, count: int) -> Time:
        """The time so many steps after the last row, written as the times of the series are."""
        count_of_unit, when = count * self.step, self.last.when
        if when is None:
            number = self.last.value + count_of_unit
            return Time(number, None, int(number) if number.is_integer() else float(f"{number:.12g}"))
        if self.unit == "months":
            when = _add_months(when, round(count_of_unit))
        elif self.unit == "seconds":
            when += timedelta(seconds=count_of_unit)
        else:
            day = np.busday_offset(when.date(), round(count_of_unit))
            when = datetime.combine(date.fromisoformat(str(day)), when.timetz())
        return Time(time_of(when).value, when, _written(when, self.last))

    def __str__(self) -> str:
        amount, unit = self.step, self.unit
        if unit == "number":
            return f"{amount:.12g}"
        if unit == "months" and amount % 12 == 0:
            amount, unit = amount / 12, "years"
        elif unit == "seconds":
            amount, unit = next((amount / size, name) for size, name in _UNITS if amount % size == 0 or size == 1)
        return f"{amount:g} {unit if amount != 1 else unit[:-1]}"


def clock_of(times: Sequence[Time]) -> tuple[Clock, Any]:
    """How the sorted times of a series go on, and how many rows are missing after each but the last, `(rows - 1,)`.

    The step is the one that leaves the fewest gaps: of months, of seconds, or of business days.
    Raises ValueError if there are fewer than two rows.
    """
    if len(times) < 2:
        raise ValueError("a single row does not tell the step between two rows")
    found = [(*_step(positions), unit) for unit, positions in _positions(times)]
    step, missing, unit = min(found, key=lambda one: np.count_nonzero(one[1]))
    return Clock(times[-1], unit, step), missing


def first_gap(times: Sequence[Time], clock: Clock, missing: Any) -> str:
    """The first gap in words, for a series that has one."""
    at = int(np.flatnonzero(missing)[0])
    return f"there is a gap between {times[at].cell} and {times[at + 1].cell}, where the step is {clock}"


def _step(positions: Any) -> tuple[float, Any]:
    """The step that most rows have, and how many rows are missing at each."""
    steps = np.diff(positions)
    values, counts = np.unique(np.round(steps, 9), return_counts=True)
    step = float(values[counts.argmax()])
    missing = steps / step - 1
    return step, np.where(np.abs(missing) < 1e-6, 0, missing)


def _positions(times: Sequence[Time]) -> Iterator[tuple[str, Any]]:
    """The place of each time on a scale, for each scale that all of them lie on."""
    values, whens = np.array([time.value for time in times]), [time.when for time in times if time.when is not None]
    if not whens:
        yield "number", values
        return
    same_hour = len({when.timetz() for when in whens}) == 1
    if same_hour and (len({when.day for when in whens}) == 1 or all(map(_ends_month, whens))):
        yield "months", np.array([when.year * 12 + when.month for when in whens])
    yield "seconds", values
    if same_hour and all(when.weekday() < 5 for when in whens):
        days = np.array([when.date() for when in whens], "datetime64[D]")
        yield "business days", np.busday_count(days[0], days)


def _ends_month(when: datetime) -> bool:
    return when.day == calendar.monthrange(when.year, when.month)[1]


def _add_months(when: datetime, count: int) -> datetime:
    year, month = divmod(when.year * 12 + when.month - 1 + count, 12)
    last = calendar.monthrange(year, month + 1)[1]
    return when.replace(year=year, month=month + 1, day=last if _ends_month(when) else min(when.day, last))


def _written(when: datetime, last: Time) -> str:
    """A date in the form of the last one: `2024-01`, `2024-W05`, `2024-01-31`, or with the time of day."""
    text = "" if isinstance(last.cell, datetime) else str(last.cell)
    before = last.when or when
    for form in _BASIC:
        if before.strftime(form) == text:
            return when.strftime(form)
    if text and len(text) <= len("2024-01-31"):
        return when.isoformat()[: len(text)]
    written = when.isoformat(text[10:11] or "T", "minutes" if text.count(":") == 1 and not when.second else "auto")
    return written.replace("+00:00", "Z") if text.endswith("Z") else written
