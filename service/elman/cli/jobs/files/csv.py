"""CSV: a row a step with an id that rows of one sequence share, a text a row, or one sequence a file."""

import contextlib
import csv
from array import array
from collections.abc import Iterator
from io import StringIO
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import orjson

from elman.cli.jobs.files.json import keep_whole_lines
from elman.cli.jobs.files.record import Answer, Identity, Record, Shape, Unusable

# Headers of a column of whole sequences, in the order in which they are looked for.
TEXT_COLUMNS = ("sequence", "text", "name")
_LONGEST_CELL = 2**31 - 1


class CSVSource:
    """Rows of text; `id_column` groups rows into sequences, `column` holds the text or the samples.

    Raises Unusable where the header does not say what the model needs.
    """

    def __init__(
        self,
        stream: BinaryIO,
        total: int | None,
        shape: Shape,
        id_column: str = "id",
        column: str | None = None,
    ) -> None:
        csv.field_size_limit(_LONGEST_CELL)
        self.stream = stream
        self.total = total
        self.shape = shape
        self._position = 0
        first = self._first_line()
        self._rows = csv.reader(chain([first], self._lines()), delimiter=_delimiter(first))
        self._open(id_column, column)

    @property
    def position(self) -> int:
        return self._position

    def _first_line(self) -> str:
        return next(self._lines(), "").removeprefix("\ufeff")

    def _lines(self) -> Iterator[str]:
        for line in self.stream:
            self._position += len(line)
            # What is not UTF-8 spoils its own sequence and not the rest of the file.
            yield line.decode(errors="surrogateescape")

    def _open(self, id_column: str, column: str | None) -> None:
        header = next(self._rows, [])
        if not header:
            raise Unusable("the file is empty")
        self._first: list[list[str]] = []
        self._id: int | None = None
        self._whole = False
        if self.shape.kind != "tokens" and column is None and all(map(_is_number, header)):
            self._first, self._header = [header], [f"column {i}" for i in range(1, len(header) + 1)]
            self._columns = list(range(len(header)))
        else:
            self._header = [name.strip() for name in header]
            self._id = self._header.index(id_column) if id_column in self._header else None
            self._columns = self._find_columns(column)
        size = self.shape.size if self.shape.kind == "features" else 1
        if not self._whole and size is not None and len(self._columns) != size:
            raise Unusable(wrong_columns(self.shape, [self._header[i] for i in self._columns]))

    def _find_columns(self, column: str | None) -> list[int]:
        header = self._header
        others = [i for i in range(len(header)) if i != self._id]
        if column is not None:
            if column not in header:
                raise Unusable(f"there is no column {column!r}; there are {', '.join(header)}")
            self._whole = self.shape.text
            return [header.index(column)]
        if self.shape.kind == "features" and self.shape.names and set(self.shape.names) <= set(header):
            return [header.index(name) for name in self.shape.names]
        if self.shape.kind != "tokens" or not self.shape.text:
            return others
        self._whole = True
        known = [header.index(name) for name in TEXT_COLUMNS if name in header]
        if known:
            return known[:1]
        if len(header) == 1:
            raise Unusable(
                f"is {header[0]!r} the name of the column, or a sequence? Say --column {header[0]!r}, "
                "or read the file as plain lines with --input-format txt"
            )
        if len(others) == 1:
            return others
        raise Unusable(f"which column holds the sequences? Name it with --column; there are {', '.join(header)}")

    def close(self) -> None:
        self.stream.close()

    def __iter__(self) -> Iterator[Record]:
        with self.stream:
            yield from self._texts() if self._whole else self._steps()

    def _numbered(self) -> Iterator[tuple[int, list[str] | None, str]]:
        """(line, cells, "") of each row that is not blank; (line, None, fault) of one that cannot be read."""
        yield from ((1, row, "") for row in self._first)
        while True:
            try:
                row = next(self._rows, None)
            except csv.Error as error:
                yield self._rows.line_num, None, f"it is not CSV: {error}"
                continue
            if row is None:
                return
            if row:
                yield self._rows.line_num, row, ""

    def _texts(self) -> Iterator[Record]:
        at, width = self._columns[0], len(self._header)
        for line, row, fault in self._numbered():
            place = f"row {line}"
            if row is None or len(row) != width:
                yield Record(place, error=fault or _wrong_width(row or [], width))
                continue
            identity = None if self._id is None else row[self._id]
            try:
                yield Record(place, orjson.dumps(row[at]), identity)
            except TypeError:  # a surrogate, which stands for a byte that is not UTF-8
                yield Record(place, error="it is not UTF-8")

    def _steps(self) -> Iterator[Record]:
        open_one: _Steps | None = None
        width, columns, header = len(self._header), self._columns, self._header
        for line, row, fault in self._numbered():
            identity = None
            if row is not None and self._id is not None and self._id < len(row):
                identity = row[self._id]
            if open_one is None or (row is not None and identity != open_one.id):
                if open_one is not None:
                    yield open_one.record(self.shape)
                open_one = _Steps(line, identity)
            open_one.last = line
            if row is None or len(row) != width:
                open_one.error = open_one.error or f"row {line}: {fault or _wrong_width(row or [], width)}"
                continue
            try:
                open_one.values.extend([float(row[i]) for i in columns])
            except ValueError:
                name = next(header[i] for i in columns if not _is_number(row[i]))
                cell = row[header.index(name)] if name in header else ""
                open_one.error = open_one.error or f"row {line}, {name}: {cell[:40]!r} is no number"
        if open_one is not None:
            yield open_one.record(self.shape)


class _Steps:
    """The rows of one sequence so far."""

    def __init__(self, first: int, identity: str | None) -> None:
        self.first = self.last = first
        self.id = identity
        self.values = array("d")
        self.error: str | None = None

    def record(self, shape: Shape) -> Record:
        place = f"rows {self.first} to {self.last}"
        if self.error is not None:
            return Record(place, id=self.id, error=self.error)
        data: Any = np.frombuffer(self.values, np.float64)
        if not np.isfinite(data).all():
            step = int(np.argwhere(~np.isfinite(data))[0][0]) // (shape.size or 1 if shape.rank == 2 else 1)
            return Record(place, id=self.id, error=f"row {self.first + step}: not a finite number")
        if shape.kind == "tokens":
            data = data.astype(np.int64)
        elif shape.kind == "features":
            data = data.reshape(-1, shape.size or 1)
        return Record(place, orjson.dumps(data, option=orjson.OPT_SERIALIZE_NUMPY), self.id)


def _delimiter(first: str) -> str:
    return max(",;\t", key=first.count)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def wrong_columns(shape: Shape, names: list[str]) -> str:
    """Why a table with these columns, beside its id, is not for a model."""
    wanted = f"{shape.size} features" if shape.kind == "features" else "one number a step"
    listed = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
    return f"the model takes {wanted}, and the file has {len(names)} columns beside the id: {listed or 'none'}"


def _wrong_width(row: list[str], width: int) -> str:
    return f"it has {len(row)} cells, the header has {width}"


class CSVSink:
    """A row an answer, or a row a step; `id` is the sequence's own, or its number from 0."""

    def __init__(self, stream: BinaryIO, shape: Shape, steps: bool, done: int = 0) -> None:
        self.stream = stream
        self.shape = shape
        self.steps = steps
        self.done = done
        self._header = columns(shape, steps)
        if not stream.seekable() or not stream.tell():
            self._write([self._header])

    def write(self, answers: list[Answer]) -> None:
        rows: list[list[Any]] = []
        for answer in answers:
            identity: Identity = answer.index if answer.record.id is None else answer.record.id
            if answer.error is not None:
                rows.append([identity, *[""] * (len(self._header) - 2), answer.error])
            else:
                rows += self._rows(identity, orjson.loads(answer.content))
        self._write(rows)
        self.done += len(answers)

    def _rows(self, identity: Identity, result: dict[str, Any]) -> Iterator[list[Any]]:
        length = result["length"]
        if not self.steps:
            yield [identity, length, *_cells(self.shape, result.get("decoded")), *result["output"], ""]
            return
        decoded = result.get("decoded") or [None] * len(result["outputs"])
        for step, (row, item) in enumerate(zip(result["outputs"], decoded, strict=True)):
            yield [identity, length, step, *_cells(self.shape, item), *row, ""]

    def _write(self, rows: list[list[Any]]) -> None:
        text = StringIO()
        csv.writer(text, lineterminator="\n").writerows(rows)
        self.stream.write(text.getvalue().encode())
        self.stream.flush()

    def close(self, complete: bool) -> None:
        self.stream.close()


def columns(shape: Shape, steps: bool) -> list[str]:
    """The header of a table of answers."""
    head = ["id", "length", "step"] if steps else ["id", "length"]
    if shape.decoded == "values":
        head += [f"value_{i}" for i in range(shape.outputs)]
    elif shape.decoded is not None:
        head += [shape.decoded, "probability"]
    return [*head, *(f"output_{i}" for i in range(shape.outputs)), "error"]


def _cells(shape: Shape, decoded: Any) -> list[Any]:
    if shape.decoded is None:
        return []
    if shape.decoded == "values":
        return [""] * shape.outputs if decoded is None else list(decoded)
    return ["", ""] if decoded is None else [decoded[shape.decoded], decoded["probability"]]


def open_csv_sink(path: Path, shape: Shape, steps: bool, resume: bool) -> CSVSink:
    """Where it resumes, what was cut off is dropped. Raises Unusable where the file has another header."""
    if not resume:
        return CSVSink(path.open("wb"), shape, steps)
    stream = path.open("r+b")
    keep_whole_lines(stream)
    return CSVSink(stream, shape, steps, _keep_whole_answers(stream, columns(shape, steps), steps))


def _keep_whole_answers(stream: BinaryIO, header: list[str], steps: bool) -> int:
    """Cut off an answer whose rows are not all there, leave the stream at the end, and count the answers.

    Rows hold no line breaks but in an id, a label or an error, where CSV quotes them.
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
        raise Unusable(f"it begins with {','.join(found)[:60]!r}, and would now begin with {','.join(header)[:60]!r}")
    done, end = 0, at
    # A row that ends within quotes, or short of cells, is where it was cut off.
    with contextlib.suppress(csv.Error, ValueError):
        for row in rows:
            if len(row) != len(header):
                break
            if not steps or row[-1] or int(row[2]) == int(row[1]) - 1:
                done, end = done + 1, at
    stream.seek(end)
    stream.truncate()
    return done
