"""Tables as batches of Arrow: CSV and TSV, Excel, Parquet and Arrow files. A table is read in pieces.

The cells of CSV and Excel are text here, whatever they hold. What a column holds is for the reader of a model to say.
"""

import csv
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, datetime, time
from io import StringIO
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from elman.cli.jobs.files.errors import UTF16_MARKS, UnusableFile, reading
from elman.cli.jobs.files.items import ModelIO, TableOptions

# Most bytes and rows that are read of a file at once. A row of CSV is no longer than that.
_BLOCK = 1 << 20
_MOST_ROWS = 8192


@dataclass
class Piece:
    """Some rows of a table.

    Attributes:
        batch: their cells, an Arrow table.
        start: the number of the first row.
        faults: what is wrong with a row, by its number.
    """

    batch: Any
    start: int
    faults: dict[int, str] = field(default_factory=dict)


class Table(Protocol):
    """A table that is read once. `total` is its size in the unit of `position`, None if it is not known.

    Attributes:
        schema: the names and Arrow types of the columns.
        text: True if every cell is text, as in CSV.
        head: the first rows, which are read before the others.
    """

    schema: Any
    text: bool
    total: int | None
    head: Piece | None

    @property
    def position(self) -> int: ...

    def pieces(self, columns: list[str]) -> Iterator[Piece]:
        """The rows from the first on. The pieces hold at least these columns."""
        ...

    def close(self) -> None: ...


class TextTable:
    """A table whose cells are text, and whose first row names the columns or is data.

    Args:
        blocks: Arrow tables of text.
        unlike: the cells of rows that have another number of cells than the first, by number. Reading adds to it.

    Raises:
        UnusableFile: it has no rows, or the first row may be data or names.
    """

    text = True

    def __init__(
        self, blocks: Iterator[Any], unlike: dict[int, list[str]], model_io: ModelIO, options: TableOptions
    ) -> None:
        self.total: int | None = None
        self._unlike = unlike
        self._may_miss = model_io.missing
        numbered = self._numbered(blocks)
        first = next(numbered, None)
        if first is None:
            raise UnusableFile("the file is empty")
        cells = [texts_of(column)[0] for column in first.batch.columns]
        if _is_data(cells, model_io, options):
            names = [f"column {index}" for index in range(1, len(cells) + 1)]
        else:
            names = [cell.strip().removeprefix("\ufeff") for cell in cells]
            first = Piece(first.batch.slice(1), 2, first.faults)
        if not any(names):
            raise UnusableFile("the first row is blank: it must name the columns")
        self.schema = pa.schema([(name, pa.string()) for name in names])
        self._pieces = self._without_blank_end(itertools.chain([first], numbered))
        self.head = next(self._pieces, None)
        if self.head is None:
            raise UnusableFile("the file has a header and no rows")

    @property
    def position(self) -> int:
        return 0

    def close(self) -> None:
        pass

    def pieces(self, columns: list[str]) -> Iterator[Piece]:
        return itertools.chain([self.head] if self.head else [], self._pieces)

    def _numbered(self, blocks: Iterator[Any]) -> Iterator[Piece]:
        start, block = 1, None
        for block in blocks:
            piece = self._with_unlike(block, start)
            yield piece
            start += len(piece.batch)
        if self._unlike and block is not None:
            yield self._with_unlike(block.slice(0, 0), start)

    def _with_unlike(self, block: Any, start: int) -> Piece:
        """A block with the rows of another width in their places, cut or filled up to the width."""
        faults, parts, at, number = {}, [], 0, start
        for wrong, cells in sorted(self._unlike.items()):
            before = wrong - number
            if at + before > len(block):
                break  # it stands in a later block
            width = block.num_columns
            faults[wrong] = f"row {wrong}: it has {len(cells)} cells, the header has {width}"
            filled = [[cell] for cell in [*cells, *[""] * width][:width]]
            parts += [block.slice(at, before), pa.table(filled, schema=block.schema)]
            at, number = at + before, wrong + 1
            del self._unlike[wrong]
        return Piece(pa.concat_tables([*parts, block.slice(at)]), start, faults)

    def _without_blank_end(self, pieces: Iterator[Piece]) -> Iterator[Piece]:
        """A blank row with rows after it is a missing value. At the end of the file it is nothing."""
        held: Piece | None = None
        for piece in pieces:
            if held is not None:
                piece = Piece(pa.concat_tables([held.batch, piece.batch]), held.start, piece.faults | held.faults)
            blank = _blank_rows(piece.batch)
            full = np.flatnonzero(~blank)
            end = int(full[-1]) + 1 if len(full) else 0
            held = Piece(piece.batch.slice(end), piece.start + end)
            if end == 0:
                continue
            if not self._may_miss or len(self.schema) > 1:
                for number in (piece.start + np.flatnonzero(blank[:end])).tolist():
                    piece.faults[number] = f"row {number}: it is blank, and a missing value is no step"
            yield Piece(piece.batch.slice(0, end), piece.start, piece.faults)


class CSVTable(TextTable):
    """A CSV file, with commas, semicolons or tabs, in UTF-8 or in UTF-16 with its mark."""

    def __init__(self, stream: BinaryIO, total: int | None, model_io: ModelIO, options: TableOptions) -> None:
        self._stream = stream
        head = stream.peek(1 << 16) if hasattr(stream, "peek") else b""  # a pipe gives what it has
        self._encoding = "utf-16" if head[:2] in UTF16_MARKS else "utf8"
        text = head.decode(self._encoding, "ignore")
        if "\0" in text:
            raise UnusableFile("it is not text in UTF-8, nor in UTF-16 with its mark at the start")
        # Where the first row has none of them, a comma is of a second cell, unless it is said to be a decimal one.
        delimiters = ";,\t" if options.decimal == "," else ",;\t"
        self._delimiter = max(delimiters, key=text.partition("\n")[0].count)
        try:
            self._width = len(next(csv.reader(StringIO(text, newline=""), delimiter=self._delimiter), []))
        except csv.Error as error:
            raise UnusableFile(f"its first row is not CSV: {error}") from None
        self._unlike: dict[int, list[str]] = {}
        super().__init__(self._blocks(), self._unlike, model_io, options)
        self.total = total

    @property
    def position(self) -> int:
        return 0 if self._stream.closed or self.total is None else self._stream.tell()

    def close(self) -> None:
        self._stream.close()

    def _blocks(self) -> Iterator[Any]:
        """The file in blocks, in which all columns are text, so that a fault can be told by its row."""
        try:
            reader = pyarrow.csv.open_csv(
                self._stream,
                pyarrow.csv.ReadOptions(
                    block_size=_BLOCK, use_threads=False, autogenerate_column_names=True, encoding=self._encoding
                ),
                pyarrow.csv.ParseOptions(
                    delimiter=self._delimiter,
                    newlines_in_values=True,
                    ignore_empty_lines=False,
                    invalid_row_handler=self._hold,
                ),
                # Bytes that are not UTF-8 are a fault of their row, not of the whole file.
                pyarrow.csv.ConvertOptions(
                    check_utf8=False, column_types={f"f{index}": pa.string() for index in range(self._width)}
                ),
            )
            for batch in _read(reader):
                if batch.num_columns > self._width:
                    blank = "blank: it must name the columns"
                    raise UnusableFile(f"the first row is {'too long' if self._width else blank}")
                yield pa.Table.from_batches([batch])
        except UnicodeDecodeError as error:
            raise UnusableFile(f"it is not {self._encoding}: {error}") from None
        except pa.ArrowInvalid as error:
            if "straddling" in str(error):
                raise UnusableFile(f"it has a row of more than {_BLOCK:,} bytes: use .jsonl or .parquet") from None
            if "Empty CSV file" not in str(error):
                raise UnusableFile(f"it is not CSV: {error}") from None

    def _hold(self, row: Any) -> str:
        self._unlike[row.number] = next(csv.reader([row.text], delimiter=self._delimiter))
        return "skip"


class ExcelTable(TextTable):
    """A sheet of an Excel or OpenDocument file. Dates are written as ISO 8601 has them."""

    def __init__(self, path: Path, model_io: ModelIO, options: TableOptions) -> None:
        from python_calamine import CalamineError, load_workbook

        try:
            with load_workbook(path) as book:
                rows = book.get_sheet_by_name(_sheet(book.sheet_names, options.sheet)).to_python(skip_empty_area=False)
        except (CalamineError, OSError) as error:
            raise UnusableFile(f"it is not an Excel file: {error}") from None
        super().__init__(_text_blocks(rows), {}, model_io, options)


class ArrowTable:
    """A Parquet file, or an Arrow file or stream, in pieces.

    Args:
        row_groups: those of a Parquet file that are read, the first one and the one after the last; None for all.
    """

    text = False

    def __init__(self, path: Path, format: str, row_groups: tuple[int, int] | None = None) -> None:
        try:
            self._file = _Parquet(path, row_groups) if format == "parquet" else _IPC(path)
            self.schema = pa.schema([field.with_type(_decoded(field.type)) for field in self._file.schema])
            first = next(self._file.batches(None), None)
        except (pa.ArrowException, OSError) as error:
            name = "a Parquet" if format == "parquet" else "an Arrow"
            raise UnusableFile(f"it is not {name} file: {error}") from None
        self.head = None if first is None else Piece(self._plain(first), self._file.start)
        self.total: int | None = self._file.total
        self.position = 0

    def close(self) -> None:
        self._file.close()

    def pieces(self, columns: list[str]) -> Iterator[Piece]:
        start = self._file.start
        try:
            for batch in self._file.batches(columns):
                yield Piece(self._plain(batch), start)
                start += len(batch)
                self.position = start - self._file.start
        except pa.ArrowException as error:
            raise UnusableFile(f"it is damaged: {error}") from None
        finally:
            self.close()

    def _plain(self, batch: Any) -> Any:
        """A batch in which a column of categories is one of their values."""
        return pa.Table.from_batches([batch]).cast(pa.schema([self.schema.field(name) for name in batch.schema.names]))


class _Parquet:
    def __init__(self, path: Path, row_groups: tuple[int, int] | None) -> None:
        self._file = pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False)
        self.schema, self.close, metadata = self._file.schema_arrow, self._file.close, self._file.metadata
        first, end = row_groups or (0, metadata.num_row_groups)
        self._groups = list(range(first, end))
        self.start, self.total = (
            sum(metadata.row_group(i).num_rows for i in one) for one in (range(first), self._groups)
        )

    def batches(self, columns: list[str] | None) -> Iterator[Any]:
        size = sum(self._file.metadata.row_group(i).total_byte_size for i in self._groups)
        rows = max(1, min(_MOST_ROWS, _BLOCK * max(1, self.total) // max(1, size)))
        yield from self._file.iter_batches(batch_size=rows, row_groups=self._groups, columns=columns)


class _IPC:
    """An Arrow file, which Feather is too, or an Arrow stream. It is mapped into memory."""

    def __init__(self, path: Path) -> None:
        self._map = pa.memory_map(str(path))
        self.start, self.total, self.close = 0, None, self._map.close
        self.schema = self._open().schema

    def _open(self) -> Any:
        self._map.seek(0)
        try:
            return pa.ipc.open_file(self._map)
        except pa.ArrowInvalid:
            self._map.seek(0)
            return pa.ipc.open_stream(self._map)

    def batches(self, columns: list[str] | None) -> Iterator[Any]:
        reader = self._open()
        stored = map(reader.get_batch, range(reader.num_record_batches)) if hasattr(reader, "get_batch") else reader
        for batch in stored:
            yield from (batch.slice(at, _MOST_ROWS) for at in range(0, len(batch), _MOST_ROWS))


def _read(batches: Any) -> Iterator[Any]:
    """Batches of a text that may have to be unpacked. Raises UnusableFile if it is damaged."""
    with reading():
        yield from batches


def texts_of(column: Any) -> list[Any]:
    """The cells of a column as Python has them. A byte that is not UTF-8 becomes a surrogate."""
    try:
        cells: list[Any] = column.to_pylist()
    except UnicodeDecodeError:
        cells = [cell.decode(errors="surrogateescape") for cell in column.cast(pa.binary()).to_pylist()]
    return cells


def is_text(kind: Any) -> bool:
    """Whether an Arrow type is one of text."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _is_data(first: list[str], model_io: ModelIO, options: TableOptions) -> bool:
    """Whether the first row is data. Raises UnusableFile if that is not plain to see."""
    numbers = all(map(_is_number, first))
    if options.header is False and (model_io.further or model_io.statics or not numbers):
        raise UnusableFile("the first row must name the columns, since it does not hold one step of the data alone")
    if options.header is None and numbers and not (model_io.kind == "tokens" and model_io.text):
        raise UnusableFile(
            f"the first row, {', '.join(first[:12])}, may be data or the names of the columns: add --no-header or "
            "--header"
        )
    return options.header is False


def _is_number(cell: str) -> bool:
    try:
        float(cell.replace(",", "."))
    except ValueError:
        return False
    return True


def _blank_rows(table: Any) -> Any:
    """Which rows have no text in any cell, `(rows,)`."""
    blank = np.ones(len(table), bool)
    for column in table.columns:
        blank &= pc.equal(pc.binary_length(column), 0).to_numpy()
    return blank


def _sheet(names: list[str], wanted: str | None) -> str:
    if wanted is not None and wanted not in names:
        raise UnusableFile(f"there is no sheet {wanted!r}; the sheets are {', '.join(names)}")
    if wanted is None and len(names) != 1:
        raise UnusableFile(f"name the sheet with --sheet; the sheets are {', '.join(names)}")
    return wanted or names[0]


def _text_blocks(rows: list[list[Any]]) -> Iterator[Any]:
    for at in range(0, len(rows), _MOST_ROWS):
        columns = zip(*rows[at : at + _MOST_ROWS], strict=True)
        yield pa.table([pa.array([*map(_text, cells)]) for cells in columns], [str(i) for i in range(len(rows[0]))])


def _text(cell: Any) -> str:
    """A cell of Excel as CSV would have it. Excel knows no integers, so 1 is 1.0 there."""
    if isinstance(cell, date | datetime | time):
        return cell.isoformat()
    whole = isinstance(cell, bool | float) and float(cell).is_integer()
    return str(int(cell)) if whole else str(cell)


def _decoded(kind: Any) -> Any:
    return kind.value_type if pa.types.is_dictionary(kind) else kind
