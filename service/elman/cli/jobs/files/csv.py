"""CSV and TSV.

A row is one step, and the rows of one sequence share an id. Without ids the whole file is one sequence. For models that
read text, a row is one text.
"""

import codecs
import contextlib
import csv
from array import array
from collections.abc import Iterator
from functools import cached_property
from io import StringIO, TextIOWrapper
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import orjson

from elman.cli.jobs.files.errors import UnusableFile
from elman.cli.jobs.files.inputs import (
    NamedColumns,
    data_columns,
    named_columns,
    sequence_json,
    static_field,
    whole_numbers,
)
from elman.cli.jobs.files.items import (
    PLAIN_TABLE,
    Identity,
    InputItem,
    ModelIO,
    Outcome,
    TableOptions,
    check_all_used,
    scattered_rows,
)
from elman.cli.jobs.files.json import keep_whole_lines
from elman.cli.jobs.files.times import Time, in_time, time_of

# Names of a column that holds whole sequences. The first one that the file has is used.
TEXT_COLUMNS = ("sequence", "text", "name")
_LONGEST_CELL = 2**31 - 1


class CSVSource:
    """Sequences in the rows of a table.

    Args:
        table: what the user says of the table.

    Raises:
        UnusableFile: the columns are not what the model needs.
    """

    def __init__(
        self,
        stream: BinaryIO,
        total: int | None,
        model_io: ModelIO,
        table: TableOptions = PLAIN_TABLE,
    ) -> None:
        csv.field_size_limit(_LONGEST_CELL)
        self.stream = stream
        self.total = total
        self.model_io = model_io
        self.table = table
        self._position = 0
        self._encoding = _encoding(stream)
        lines = self._lines()
        first = next(lines, "").removeprefix("\ufeff")
        self._rows = csv.reader(chain([first], lines), delimiter=_delimiter(first))
        self._open()

    @property
    def position(self) -> int:
        return self._position

    def _lines(self) -> Iterator[str]:
        if self._encoding is not None:
            text = TextIOWrapper(self.stream, self._encoding, newline="")
            try:
                yield from text
            finally:
                with contextlib.suppress(ValueError):  # the stream is closed already
                    text.detach()
            return
        for line in self.stream:
            self._position += len(line)
            # Bytes that are not UTF-8 are an error of their own sequence, not of the whole file.
            yield line.decode(errors="surrogateescape")

    def _open(self) -> None:
        header = next(self._rows, [])
        if not header:
            raise UnusableFile("the file is empty")
        self._first: list[list[str]] = []
        self._whole = False
        if self._is_data(header):
            self._first, self._header = [header], [f"column {i}" for i in range(1, len(header) + 1)]
            self._named, identity, time = NamedColumns([], []), None, None
            self._columns = list(range(len(header)))
        else:
            self._header = [name.strip() for name in header]
            identity, time = self.table.find_id(self._header), self.table.find_time(self._header)
            self._named = named_columns(self.model_io, self._header)
            self._columns = self._find_columns({identity, time})
            if not self._whole:
                used = [*self._named.all, *(self._header[i] for i in self._columns), *filter(None, [time])]
                if self.table.id_column is None:
                    check_all_used(self._header, used, identity)
        self._id, self._time = (None if name is None else self._header.index(name) for name in (identity, time))
        self._further = [self._indices(names) for names in self._named.further]
        self._statics = [self._indices(names) for names in self._named.statics]
        size = self.model_io.size if self.model_io.kind == "features" else 1
        if not self._whole and size is not None and len(self._columns) != size:
            raise UnusableFile(wrong_columns(self.model_io, [self._header[i] for i in self._columns]))

    def _is_data(self, first: list[str]) -> bool:
        """Whether the first row is data. Raises UnusableFile if that is not plain to see."""
        model_io = self.model_io
        numbers = all(map(_is_number, first))
        if self.table.header is False and (model_io.further or model_io.statics or not numbers):
            raise UnusableFile("the first row must name the columns, since it does not hold one step of the data alone")
        text = model_io.kind == "tokens" and model_io.text
        if self.table.header is None and numbers and not text:
            raise UnusableFile(
                f"the first row, {', '.join(first[:12])}, may be data or the names of the columns: add --no-header or "
                "--header"
            )
        return self.table.header is False

    def _indices(self, names: list[str]) -> list[int]:
        return [self._header.index(name) for name in names]

    def _find_columns(self, taken: set[str | None]) -> list[int]:
        header, column = self._header, self.table.column
        others = [i for i, name in enumerate(header) if name not in taken and name not in self._named.all]
        if column is not None:
            if column not in header:
                raise UnusableFile(f"there is no column {column!r}; the columns are {', '.join(header)}")
            self._whole = self.model_io.text
            return [header.index(column)]
        named = data_columns(self.model_io, header)
        if named is not None:
            self._whole = self.model_io.text
            return self._indices(named)
        if self.model_io.kind != "tokens" or not self.model_io.text:
            return others
        self._whole = True
        known = [header.index(name) for name in TEXT_COLUMNS if name in header]
        if known:
            return known[:1]
        if len(header) == 1:
            raise UnusableFile(
                f"the first row is {header[0]!r}. If that is the name of the column, add --column {header[0]!r}; "
                "if it is a sequence, read the file as plain lines with --input-format txt"
            )
        if len(others) == 1:
            return others
        raise UnusableFile(
            f"name the column that holds the sequences with --column; the columns are {', '.join(header)}"
        )

    def close(self) -> None:
        self.stream.close()

    def __iter__(self) -> Iterator[InputItem]:
        with self.stream:
            yield from self._texts() if self._whole else self._steps()

    def _numbered(self) -> Iterator[tuple[int, list[str] | None, str]]:
        """Yield (line, cells, "") for each row, or (line, None, fault) if it cannot be read.

        A blank row with rows after it is a missing value. At the end of the file it is nothing.
        """
        yield from ((1, row, "") for row in self._first)
        blank: list[int] = []
        empty = not self._first
        while True:
            try:
                row = next(self._rows, None)
            except csv.Error as error:
                yield self._rows.line_num, None, f"it is not CSV: {error}"
                continue
            except UnicodeError as error:
                raise UnusableFile(f"it is not {self._encoding}: {error}") from None
            if row is None:
                break
            if not row:
                blank.append(self._rows.line_num)
                continue
            yield from ((line, None, "it is blank, and a missing value is no step") for line in blank)
            blank, empty = [], False
            yield self._rows.line_num, row, ""
        if empty:
            raise UnusableFile("the file has a header and no rows")

    def _texts(self) -> Iterator[InputItem]:
        at, width = self._columns[0], len(self._header)
        for line, row, fault in self._numbered():
            place = f"row {line}"
            if row is None or len(row) != width:
                yield InputItem(place, error=fault or _wrong_width(row or [], width))
                continue
            identity = None if self._id is None else row[self._id]
            try:
                static = static_field(self.model_io, self._static_cells(row))
                yield InputItem(place, orjson.dumps(row[at]), identity, extra=static)
            except TypeError:  # a surrogate, which replaced a byte that is not UTF-8
                yield InputItem(place, error="it is not UTF-8")
            except ValueError as error:
                yield InputItem(place, id=identity, error=str(error))

    def _static_cells(self, row: list[str]) -> list[list[str]]:
        return [[row[i] for i in indices] for indices in self._statics]

    def _steps(self) -> Iterator[InputItem]:
        """Join the rows of each sequence: those that follow each other, or with `gather` those of the whole table."""
        sequences: dict[str | None, _Steps] = {}
        ended: set[str | None] = set()
        current: _Steps | None = None
        for line, row, fault in self._numbered():
            identity = current.id if current is not None else None
            if row is not None and self._id is not None:
                identity = row[self._id] if self._id < len(row) else None
            if current is None or identity != current.id:
                if current is not None and not self.table.gather:
                    ended.add(current.id)
                    yield sequences.pop(current.id).item(self.model_io)
                if identity in ended:
                    raise scattered_rows(line, identity)
                current = sequences.setdefault(identity, _Steps(line, identity, self._widths))
            current.last = line
            self._add(current, line, row, fault)
        for one in sequences.values():
            yield one.item(self.model_io)

    @cached_property
    def _widths(self) -> list[int]:
        return [len(self._columns), *map(len, self._further)]

    @cached_property
    def _cells(self) -> list[int]:
        return [*self._columns, *chain(*self._further)]

    @cached_property
    def _static_columns(self) -> list[int]:
        return list(chain(*self._statics))

    def _add(self, steps: "_Steps", line: int, row: list[str] | None, fault: str) -> None:
        """Add a row to a sequence, or note what is wrong with it."""
        width, header = len(self._header), self._header
        if row is None or len(row) != width:
            steps.error = steps.error or f"row {line}: {fault or _wrong_width(row or [], width)}"
            return
        try:
            steps.values.extend([float(row[i]) for i in self._cells])
        except ValueError:
            at = next(i for i in self._cells if not _is_number(row[i]))
            steps.error = steps.error or f"row {line}, {header[at]}: {row[at][:40]!r} is not a number"
        steps.lines.append(line)
        if self._time is not None:
            try:
                steps.times.append(time_of(row[self._time]))
            except ValueError as error:
                steps.error = steps.error or f"row {line}, {header[self._time]}: {error}"
        statics = self._static_columns
        if statics:
            steps.hold(self._static_cells(row), [row[i] for i in statics], line, [header[i] for i in statics])


class _Steps:
    """The rows of one sequence that have been read so far. `widths` are the columns of the data, and of each input."""

    def __init__(self, first: int, identity: str | None, widths: list[int]) -> None:
        self.first = self.last = first
        self.id = identity
        self.values = array("d")
        self.lines = array("q")
        self.times: list[Time] = []
        self.error: str | None = None
        self._widths = widths
        self._statics: list[list[str]] = []
        self._held: list[str] = []

    def hold(self, statics: list[list[str]], cells: list[str], line: int, names: list[str]) -> None:
        """Take the static inputs of a row, which must be those of the first one."""
        if not self._held:
            self._statics, self._held = statics, cells
        elif self._held != cells and self.error is None:
            at = next(i for i, cell in enumerate(cells) if cell != self._held[i])
            self.error = (
                f"row {line}, {names[at]}: {cells[at][:40]!r}, but {self._held[at][:40]!r} in the rows before; "
                "a static input is the same in all rows of a sequence"
            )

    def item(self, model_io: ModelIO) -> InputItem:
        item = InputItem(f"rows {self.first} to {self.last}", id=self.id, error=self.error)
        if self.error is not None:
            return item
        rows: Any = np.frombuffer(self.values, np.float64).reshape(-1, sum(self._widths))
        if not np.isfinite(rows).all():
            step = int(np.argwhere(~np.isfinite(rows))[0][0])
            item.error = f"row {self.lines[step]}: not a finite number"
            return item
        try:
            rows = rows[in_time(self.times, self.lines)] if self.times else rows
        except ValueError as error:
            item.error = str(error)
            return item
        data, *further = np.split(rows, np.cumsum(self._widths)[:-1], axis=1)
        try:
            if model_io.kind == "tokens":
                data = whole_numbers(data)
            steps = [one.step_values(values) for one, values in zip(model_io.further, further, strict=True)]
            item.extra = static_field(model_io, self._statics)
        except ValueError as error:
            item.error = str(error)
            return item
        data = np.ascontiguousarray(data if model_io.rank == 2 else data[:, 0])
        item.content = sequence_json(model_io, data, [np.ascontiguousarray(values) for values in steps])
        return item


def _encoding(stream: BinaryIO) -> str | None:
    """The encoding that a mark at the start of a file names, where it is not UTF-8."""
    peeked = stream.peek(4)[:2] if hasattr(stream, "peek") else b""
    return "utf-16" if peeked in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else None


def _delimiter(first: str) -> str:
    return max(",;\t", key=first.count)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def wrong_columns(model_io: ModelIO, names: list[str]) -> str:
    """Why a table with these columns does not fit a model. `names` leaves out the id."""
    wanted = f"{model_io.size} features" if model_io.kind == "features" else "one number per step"
    listed = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
    beside = "the id and other inputs" if model_io.further or model_io.statics else "the id"
    return f"the model takes {wanted}, but the file has {len(names)} columns besides {beside}: {listed or 'none'}"


def _wrong_width(row: list[str], width: int) -> str:
    return f"it has {len(row)} cells, the header has {width}"


class CSVSink:
    """Writes one row for each outcome, or with `steps` one row for each step."""

    def __init__(self, stream: BinaryIO, model_io: ModelIO, steps: bool, done: int = 0) -> None:
        self.stream = stream
        self.model_io = model_io
        self.steps = steps
        self.done = done
        self._header = columns(model_io, steps)
        if not stream.seekable() or not stream.tell():
            self._write([self._header])

    def write(self, outcomes: list[Outcome]) -> None:
        rows: list[list[Any]] = []
        for outcome in outcomes:
            identity: Identity = outcome.id
            if outcome.error is not None:
                rows.append([identity, *[""] * (len(self._header) - 2), outcome.error])
            else:
                rows += self._rows(identity, orjson.loads(outcome.content))
        self._write(rows)
        self.done += len(outcomes)

    def _rows(self, identity: Identity, result: dict[str, Any]) -> Iterator[list[Any]]:
        length, heads = result["length"], result.get("heads") or {}
        if not self.steps:
            cells = _cells(self.model_io, result.get("decoded"))
            yield [identity, length, *cells, *result["output"], *chain(*heads.values()), ""]
            return
        outputs = result["outputs"]
        decoded = result.get("decoded") or [None] * len(outputs)
        blocks = [_in_each_row(head, len(outputs)) for head in heads.values()]
        for step, (row, item, *of_heads) in enumerate(zip(outputs, decoded, *blocks, strict=True)):
            yield [identity, length, step, *_cells(self.model_io, item), *row, *chain(*of_heads), ""]

    def _write(self, rows: list[list[Any]]) -> None:
        text = StringIO()
        csv.writer(text, lineterminator="\n").writerows(rows)
        self.stream.write(text.getvalue().encode())
        self.stream.flush()

    def close(self, complete: bool) -> None:
        self.stream.close()


def columns(model_io: ModelIO, steps: bool) -> list[str]:
    """The header of a table of results."""
    head = ["id", "length", "step"] if steps else ["id", "length"]
    if model_io.decoded == "values":
        head += [f"value_{i}" for i in range(model_io.outputs)]
    elif model_io.decoded is not None:
        head += [model_io.decoded, "probability"]
    head += [f"output_{i}" for i in range(model_io.outputs)]
    return [*head, *(f"heads.{name}_{i}" for name, (size, _) in model_io.heads.items() for i in range(size)), "error"]


def _in_each_row(head: list[Any], count: int) -> list[Any]:
    """The rows of a head. One that has a single row a sequence has it in each row of the table."""
    rows = head if isinstance(head[0], list) else [head] * count
    if len(rows) != count:
        raise UnusableFile(f"a head has {len(rows)} steps where the output has {count}; use .jsonl or .parquet")
    return rows


def _cells(model_io: ModelIO, decoded: Any) -> list[Any]:
    if model_io.decoded is None:
        return []
    if model_io.decoded == "values":
        return [""] * model_io.outputs if decoded is None else list(decoded)
    return ["", ""] if decoded is None else [decoded[model_io.decoded], decoded["probability"]]


def open_csv_sink(path: Path, model_io: ModelIO, steps: bool, resume: bool) -> CSVSink:
    """Open a CSV file. If it resumes, an unfinished result at its end is dropped.

    Raises UnusableFile if the file has another header.
    """
    if not resume:
        return CSVSink(path.open("wb"), model_io, steps)
    stream = path.open("r+b")
    keep_whole_lines(stream)
    return CSVSink(stream, model_io, steps, _keep_whole_results(stream, columns(model_io, steps), steps))


def _keep_whole_results(stream: BinaryIO, header: list[str], steps: bool) -> int:
    """Cut off an unfinished last result, leave the stream at the end, and return the number of whole results.

    A line break inside a row is in an id, a label or an error, where CSV quotes it.
    """
    stream.seek(0)
    at = 0

    def lines() -> Iterator[str]:
        nonlocal at
        for line in stream:
            at += len(line)
            yield line.decode()

    rows = csv.reader(lines(), strict=True)
    found = next(rows, None)
    if found is None:
        return 0
    if found != header:
        raise UnusableFile(
            f"its header is {','.join(found)[:60]!r}; these results have the header {','.join(header)[:60]!r}"
        )
    done, end = 0, at
    # The file was cut off in a row that ends within quotes or has too few cells.
    with contextlib.suppress(csv.Error, ValueError):
        for row in rows:
            if len(row) != len(header):
                break
            if not steps or row[-1] or int(row[2]) == int(row[1]) - 1:
                done, end = done + 1, at
    stream.seek(end)
    stream.truncate()
    return done
