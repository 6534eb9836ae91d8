"""What a source yields, what a sink takes, and what both must know of a model."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from elman.cli.jobs.files.errors import UnusableFile
from elman.cli.jobs.files.inputs import NamedInput
from elman.cli.jobs.files.times import Clock, Time

Identity = str | int
Gaps = Literal["refuse", "missing", "ignore"]
"""Where rows are missing between two times: an error, rows of missing values, or nothing is done."""


@dataclass(frozen=True)
class ModelIO:
    """The input and output of a model, as far as files are concerned.

    Attributes:
        kind: what one sequence is: rows of `size` numbers (`features`), one row of samples (`frames`), or token ids
            (`tokens`). With a `size` of 0 there are further inputs alone, as in the future of some forecasts.
        names: the names of the features, if the model has them.
        text: True if tokens may be written as text.
        outputs: how many numbers one output row has.
        decoded: what the field `decoded` of a result holds: a `label`, a `token`, `values`, or None.
        data: the name of the data, and `columns` those that hold it, where the user names them.
        further: the sequence inputs beside the data.
        statics: the static inputs that the file must give.
        given: the static inputs that are the same for every sequence, by name.
        heads: the outputs to return beside the primary one, by name: how many numbers a row has, and their dtype.
        missing: True if the model takes missing values, which are null in a request.
    """

    kind: Literal["features", "frames", "tokens"]
    size: int | None = None
    names: tuple[str, ...] | None = None
    text: bool = False
    outputs: int = 1
    decoded: Literal["label", "token", "values"] | None = None
    data: str = ""
    columns: tuple[str, ...] = ()
    further: tuple[NamedInput, ...] = ()
    statics: tuple[NamedInput, ...] = ()
    given: dict[str, Any] = field(default_factory=dict)
    heads: dict[str, tuple[int, str]] = field(default_factory=dict)
    missing: bool = False

    @property
    def rank(self) -> int:
        """Number of axes of one sequence's array: 2 for (time, features), 1 for (time,)."""
        return 2 if self.kind == "features" else 1


@dataclass(frozen=True)
class TableOptions:
    """What the user says of a table.

    Attributes:
        id_column: rows with the same value in this column are one sequence. None for a column `id` if there is one,
            "" if all rows are one sequence.
        column: the column that holds whole sequences, or the one number of a step.
        header: whether the first row has the names of the columns; None where that must be plain to see.
        time_column: the rows of a sequence are sorted by this column.
        gather: whether the rows of a sequence may stand anywhere, so that the table is read whole.
        gaps: what is done where the times of a sequence leave out rows. None takes the rows as if they followed.
        decimal: the sign before the decimals in CSV; None where that must be plain to see.
        sheet: the sheet of an Excel file, if it has several.
        keep: whether a result is written with the columns that the model does not use.
        row_groups: those of a Parquet file that are read, the first one and the one after the last; None for all.
    """

    id_column: str | None = None
    column: str | None = None
    header: bool | None = None
    time_column: str | None = None
    gather: bool = False
    gaps: Gaps | None = None
    decimal: Literal[".", ","] | None = None
    sheet: str | None = None
    keep: bool = False
    row_groups: tuple[int, int] | None = None

    def find_id(self, names: Sequence[str]) -> str | None:
        """The column of ids among the columns of a table, if there is one. Raises UnusableFile."""
        if self.id_column:
            return self._named(self.id_column, names)
        return "id" if self.id_column is None and "id" in names else None

    def find_time(self, names: Sequence[str]) -> str | None:
        """The column of times among the columns of a table, if there is one. Raises UnusableFile."""
        return None if self.time_column is None else self._named(self.time_column, names)

    def _named(self, name: str, names: Sequence[str]) -> str:
        if name not in names:
            raise UnusableFile(f"there is no column {name!r}; the columns are {', '.join(names)}")
        return name


PLAIN_TABLE = TableOptions()
"""A table of which the user says nothing."""


def scattered_rows(row: int, id: object) -> UnusableFile:
    """The error for a row whose id has ended, in a table that is read in pieces."""
    return UnusableFile(
        f"row {row}: the id {str(id)[:40]!r} has rows further up. The rows of a sequence must follow each other: sort "
        "the file by id, or add --gather, which reads it whole"
    )


def check_ids(column: str | None, ids: Sequence[Any], start: int, faults: Collection[int]) -> None:
    """Raise UnusableFile for a row without an id among rows that have some, unless the row is faulty anyway.

    Args:
        start: the number of the first row.
    """
    for number, id in enumerate(ids, start):
        if column is not None and (id is None or id != id or id == "") and number not in faults:
            raise UnusableFile(f"row {number}: its cell in {column!r} is empty, so that it belongs to no sequence")


def check_all_used(names: Sequence[str], used: Collection[str], id_column: str | None) -> None:
    """Raise UnusableFile if nothing tells sequences apart, and a column that might is left out."""
    rest = [name for name in names if name not in used]
    if rest and id_column is None:
        listed = ", ".join(map(repr, rest[:12]))
        raise UnusableFile(
            f"nothing says what the columns {listed} are: --id-column names the one that tells sequences apart, "
            '--time-column the time; --id-column "" takes all rows for one sequence and leaves the others out'
        )


@dataclass(slots=True)
class InputItem:
    """One sequence of a file, in the JSON that a request carries; or the reason why it cannot be sent.

    Attributes:
        place: its place in the file, such as `line 7` or `rows 12 to 30`.
        content: the sequence in JSON.
        error: why it cannot be sent, or None.
        extra: its other fields of the request, such as its `static` inputs or the `future` of a forecast.
        kept: the columns of its rows that a result is written with, an Arrow table; None if there are none.
        times: of its rows, in order, if its table has them.
        timed: the column of the times.
        clock: how the times go on, if they have an even step.
    """

    place: str
    content: bytes = b""
    id: Identity | None = None
    error: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    kept: Any = None
    times: list[Time] = field(default_factory=list)
    timed: str | None = None
    clock: Clock | None = None

    def kept_cells(self, steps: int | None) -> list[list[Any]]:
        """The cells of the kept columns, for each of some steps, or None for one row for the sequence.

        A row for the sequence has the time of the last step, and of the other columns those that are the same in all.
        """
        if self.kept is None:
            return [[]] * (steps or 1)
        if steps == len(self.kept):
            return [list(cells) for cells in zip(*(column.to_pylist() for column in self.kept.columns), strict=True)]
        return [list(self.same_cells().values())] * (steps or 1)

    def same_cells(self) -> dict[str, Any]:
        """The cell that each kept column has in all rows, or None; of the column of times the last one."""
        columns = (
            {name: self.kept.column(name).to_pylist() for name in self.kept.column_names}
            if self.kept is not None
            else {}
        )
        return {
            name: cells[-1] if name == self.timed or cells.count(cells[0]) == len(cells) else None
            for name, cells in columns.items()
        }


@dataclass(slots=True)
class Outcome:
    """What came of one item: the server's result in JSON, or an error.

    Attributes:
        index: the number of the item in its file, from 0.
    """

    index: int
    item: InputItem
    content: bytes = b""
    error: str | None = None

    @property
    def id(self) -> Identity:
        """The item's own id, or its number if it has none."""
        return self.index if self.item.id is None else self.item.id


class Source(Protocol):
    """Reads sequences from a file, one at a time.

    Attributes:
        total: the size of the file in the unit that `position` counts. None if the size is not known.
        kept: the columns of the file that a result is written with, and their Arrow types.
    """

    total: int | None
    kept: dict[str, Any]

    @property
    def position(self) -> int: ...

    def __iter__(self) -> Iterator[InputItem]:
        """May be called once. The file is closed at the end."""
        ...

    def close(self) -> None:
        """Close a source that was never iterated."""
        ...


class WrappedSource:
    """A source whose sequences get something added. A subclass defines `__iter__`."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.total = source.total
        self.kept = source.kept

    @property
    def position(self) -> int:
        return self.source.position

    def close(self) -> None:
        self.source.close()


class Sink(Protocol):
    """Writes outcomes to a file, in order. The file holds whole outcomes only."""

    done: int
    """Number of outcomes that are safely in the file. A sink that resumes starts with those that were there."""

    def write(self, outcomes: list[Outcome]) -> None: ...

    def close(self, complete: bool) -> None:
        """Pass False for `complete` if the run ended early. The file can then be resumed."""
        ...


def beside(kept: Mapping[str, Any], columns: Collection[str]) -> dict[str, Any]:
    """Kept columns under names that differ from those of a result: `input.label` beside a column `label`."""
    return {f"input.{name}" if name in columns else name: kind for name, kind in kept.items()}


def parts_of(path: Path) -> Path:
    """The folder that collects the parts of a file that can only be written whole."""
    return path.with_name(path.name + ".parts")
