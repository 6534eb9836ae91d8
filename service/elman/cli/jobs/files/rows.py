"""The sequences in the rows of a table: the rows of one id are the steps of a sequence, or a cell holds a whole one.

A table whose rows follow each other by id is read in pieces. Where they may stand anywhere it is read whole.
"""

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from elman.cli.jobs.files.errors import UnusableFile
from elman.cli.jobs.files.inputs import data_columns, named_columns, sequence_json, static_field, whole_numbers
from elman.cli.jobs.files.items import (
    Identity,
    InputItem,
    ModelIO,
    TableOptions,
    check_all_used,
    check_ids,
    scattered_rows,
)
from elman.cli.jobs.files.lists import arrays, is_list
from elman.cli.jobs.files.numpy import item_of
from elman.cli.jobs.files.tables import Piece, Table, is_text, texts_of
from elman.cli.jobs.files.times import Time, clock_of, first_gap, in_time, time_of

# Names of a column that holds whole sequences. The first one that the table has is used.
TEXT_COLUMNS = ("sequence", "text", "name")
_MISSING = ("", "na", "n/a", "nan", "null", "none")
_COMMA = re.compile(r"\s*[+-]?\d+,\d+([eE][+-]?\d+)?\s*")
# What 1,234 is cannot be told: a thousand and some, or one and some.
_THOUSANDS = re.compile(r"\s*[+-]?[1-9]\d{0,2},\d{3}\s*")


class TableSource:
    """Sequences in the rows of a table.

    Args:
        options: what the user says of the table.

    Attributes:
        whole: whether each row is a whole sequence.

    Raises:
        UnusableFile: the columns are not what the model needs.
    """

    def __init__(self, table: Table, model_io: ModelIO, options: TableOptions) -> None:
        self.total = table.total
        self.model_io = model_io
        self.options = options
        self._table = table
        self._names: list[str] = table.schema.names
        self._id, self._time = options.find_id(self._names), options.find_time(self._names)
        lists = {one.name for one in table.schema if is_list(one.type)}
        self._named = named_columns(model_io, self._names, lists)
        chosen = options.column or (model_io.columns[0] if len(model_io.columns) == 1 else None)
        self._whole = self._whole_column(chosen)
        self.whole = self._whole is not None
        lone = [names[0] for names in self._named.further if self._whole and names[0] not in lists]
        if lone:
            raise UnusableFile(f"{self._whole!r} holds whole sequences, so {lone[0]!r} must be a column of lists")
        self._data = [] if self._whole else self._data_columns(chosen)
        single = filter(None, [self._id, self._time, self._whole])
        self._used = list(dict.fromkeys([*single, *self._data, *self._named.all]))
        for name in self._used:
            if self._names.count(name) > 1:
                raise UnusableFile(f"there are several columns {name!r}")
        others = [name for name in dict.fromkeys(self._names) if name not in self._used or name == self._time]
        self.kept = {name: self._type(name) for name in others if options.keep}
        self._decimal = options.decimal or self._find_decimal()
        if not self._whole:
            self._check_order(others)
            if options.id_column is None:
                check_all_used(self._names, self._used, self._id)

    @property
    def position(self) -> int:
        return self._table.position

    def close(self) -> None:
        self._table.close()

    def __iter__(self) -> Iterator[InputItem]:
        pieces = self._table.pieces(list(dict.fromkeys([*self._used, *self.kept])))
        try:
            if self._whole:
                yield from chain.from_iterable(self._cells(piece, self._whole) for piece in pieces)
            else:
                rows = map(self._rows, pieces)
                yield from self._gathered(rows) if self.options.gather else self._following(rows)
        finally:
            self._table.close()

    def _type(self, name: str) -> Any:
        return self._table.schema.types[self._names.index(name)]

    def _column(self, batch: Any, name: str) -> Any:
        # Two columns that nothing uses may have one name, which Arrow does not look up then.
        return batch.column(batch.schema.names.index(name) if not self._table.text else self._names.index(name))

    # The columns

    def _whole_column(self, chosen: str | None) -> str | None:
        """The column whose cells are whole sequences, or None."""
        names = self._names
        if chosen is not None and chosen not in names:
            raise UnusableFile(f"there is no column {chosen!r}; the columns are {', '.join(names)}")
        for name in [chosen] if chosen else TEXT_COLUMNS:
            if name in names and self._holds_sequences(name):
                return name
        if chosen or not self.model_io.text or self.model_io.columns:
            return None
        if len(names) == 1:
            raise UnusableFile(
                f"the first row is {names[0]!r}. If that is the name of the column, add --column {names[0]!r}; "
                "if it is a sequence, read the file as plain lines with --input-format txt"
            )
        others = [name for name in names if name not in {self._id, self._time, *self._named.all}]
        if len(others) == 1 and self._holds_sequences(others[0]):
            return others[0]
        raise UnusableFile(
            f"name the column that holds the sequences with --column; the columns are {', '.join(names)}"
        )

    def _holds_sequences(self, name: str) -> bool:
        return is_list(self._type(name)) or (is_text(self._type(name)) and self.model_io.text)

    def _data_columns(self, chosen: str | None) -> list[str]:
        named = [chosen] if chosen else data_columns(self.model_io, self._names)
        taken = {self._id, self._time, *self._named.all}
        size = self.model_io.size if self.model_io.kind == "features" else 1
        found = named or [name for name in self._names if size and name not in taken]
        if size is not None and len(found) != size:
            raise UnusableFile(_wrong_columns(self.model_io, found))
        return found

    def _check_order(self, others: list[str]) -> None:
        """Raise UnusableFile if a column that nothing uses has dates that are not in order, and no times are named."""
        head = self._table.head
        ids = self._ids(head.batch) if head else []
        first = [index for index, id in enumerate(ids) if id == ids[0]]
        for name in others:
            if head is None or self._time or len(first) < 2:
                continue
            cells = texts_of(self._column(head.batch, name))
            try:
                times = [time_of(cells[index]) for index in first]
            except ValueError:
                continue
            if times[0].when and any(after.value < before.value for before, after in pairwise(times)):
                raise UnusableFile(
                    f"the dates in the column {name!r} are not in order: --time-column {name!r} sorts the rows"
                )

    def _find_decimal(self) -> str:
        """The sign before the decimals, from the first rows. Raises UnusableFile if they do not tell."""
        if not self._table.text or self._whole or self._table.head is None:
            return "."
        columns = [*self._data, *chain(*self._named.further)]
        cells = chain(*(texts_of(self._column(self._table.head.batch, name)) for name in columns))
        commas = [cell for cell in cells if _COMMA.fullmatch(cell)]
        if not commas:
            return "."
        if all(map(_THOUSANDS.fullmatch, commas)):
            raise UnusableFile(
                f"{commas[0]!r} may have a decimal comma or a thousand's: add --decimal , where it is the decimal one; "
                "a thousand's is not read"
            )
        return ","

    # Rows of steps

    def _rows(self, piece: Piece) -> "_Rows":
        """The cells of a piece, as the inputs of the model need them."""
        batch, faults = piece.batch, dict(piece.faults)
        inputs = [self._input(piece, names, faults) for names in (self._data, *self._named.further)]
        statics = [[texts_of(self._column(batch, name)) for name in names] for names in self._named.statics]
        ids = self._ids(batch)
        for number in piece.faults:  # a blank row belongs to the rows before it
            index = number - piece.start
            if index and not ids[index]:
                ids[index] = ids[index - 1]
        check_ids(self._id, ids, piece.start, piece.faults)
        return _Rows(
            ids,
            np.arange(piece.start, piece.start + len(batch)),
            inputs,
            [tuple(cells) for cells in zip(*chain(*statics), strict=True)],
            texts_of(self._valid(batch, self._time)) if self._time else [],
            self._kept(batch),
            faults,
        )

    def _ids(self, batch: Any) -> list[Any]:
        return texts_of(self._valid(batch, self._id)) if self._id else [None] * len(batch)

    def _valid(self, batch: Any, name: str) -> Any:
        """A column that results have too. Raises UnusableFile if it is not UTF-8."""
        column = self._column(batch, name)
        try:
            column.validate(full=True)
        except pa.ArrowInvalid:
            raise UnusableFile(f"the column {name!r} is not UTF-8: save the table in UTF-8") from None
        return column

    def _kept(self, batch: Any) -> Any:
        columns = [self._valid(batch, name) for name in self.kept]
        return pa.table(columns, schema=pa.schema(self.kept)) if columns else None

    def _input(self, piece: Piece, names: list[str], faults: dict[int, str]) -> Any:
        """Columns of numbers as `(rows, columns)`. What is none is NaN, and a fault of its row."""
        columns = [self._numbers(self._column(piece.batch, name), name, piece.start, faults) for name in names]
        values = np.stack(columns, axis=1) if columns else np.zeros((len(piece.batch), 0))
        if values.dtype.kind == "f":
            wrong = np.isinf(values) if self.model_io.missing else ~np.isfinite(values)
            for index, column in np.argwhere(wrong).tolist():
                what = "a value is missing" if np.isnan(values[index, column]) else "not a finite number"
                faults.setdefault(piece.start + index, f"row {piece.start + index}, {names[column]}: {what}")
        return values

    def _numbers(self, column: Any, name: str, start: int, faults: dict[int, str]) -> Any:
        kind = column.type
        if self._table.text:
            return self._parsed(column, name, start, faults)
        if pa.types.is_decimal(kind) or pa.types.is_boolean(kind) or pa.types.is_null(kind):
            column = column.cast(pa.int8() if pa.types.is_boolean(kind) else pa.float64())
        elif not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
            raise UnusableFile(f"the column {name!r} holds {kind}, not numbers")
        values = column.to_numpy()
        return values.astype(np.float32) if values.dtype == np.float16 else values

    def _parsed(self, column: Any, name: str, start: int, faults: dict[int, str]) -> Any:
        """A column of text as numbers."""
        if self._decimal == ",":
            column = pc.replace_substring(pc.replace_substring(column, ".", "·"), ",", ".")
        try:
            return column.cast(pa.float64()).to_numpy()
        except pa.ArrowInvalid:
            cells = texts_of(column)
        values = np.full(len(cells), np.nan)
        for index, cell in enumerate(cells):
            try:
                values[index] = float(cell.replace("_", "?"))
            except ValueError:
                if cell.strip().lower() not in _MISSING:
                    written = cell.replace(".", ",").replace("·", ".") if self._decimal == "," else cell
                    faults.setdefault(
                        start + index,
                        f"row {start + index}, {name}: {written[:40]!r} is not a number{self._hint(cell)}",
                    )
        return values

    def _hint(self, cell: str) -> str:
        return "; --decimal , reads it as one" if self._decimal == "." and _COMMA.fullmatch(cell) else ""

    def _following(self, pieces: Iterator["_Rows"]) -> Iterator[InputItem]:
        """The sequences of a table in which the rows of each follow each other."""
        parts: list[_Rows] = []
        ended = set[Any]()
        for rows in pieces:
            cuts = [i for i in range(1, len(rows.ids)) if rows.ids[i] != rows.ids[i - 1]]
            for begin, end in pairwise([0, *cuts, len(rows.ids)]):
                if parts and rows.ids[begin] != parts[0].ids[0]:
                    yield self._joined(_joined(parts))
                    ended.add(parts[0].ids[0])
                    parts = []
                if not parts and rows.ids[begin] in ended:
                    raise scattered_rows(int(rows.numbers[begin]), rows.ids[begin])
                parts.append(rows[begin:end])
        if parts:
            yield self._joined(_joined(parts))

    def _gathered(self, pieces: Iterator["_Rows"]) -> Iterator[InputItem]:
        """The sequences of a whole table, in the order of their first rows."""
        parts = list(pieces)
        if not parts:
            return
        rows = _joined(parts)
        groups: dict[Any, list[int]] = {}
        for index, id in enumerate(rows.ids):
            groups.setdefault(id, []).append(index)
        for indices in groups.values():
            yield self._joined(rows.take(indices))

    def _joined(self, rows: "_Rows") -> InputItem:
        place = f"rows {rows.numbers[0]} to {rows.numbers[-1]}"
        item = InputItem(place, id=_identity(rows.ids[0]))
        try:
            fault = rows.fault(list(self._named.statics_columns))
            if fault is not None:
                raise ValueError(fault)
            self._fill(item, self._in_order(item, rows) if self._time else rows)
        except ValueError as error:
            item.error = str(error)
        return item

    def _in_order(self, item: InputItem, rows: "_Rows") -> "_Rows":
        """The rows by their times, which the item gets too. Gaps are refused or filled, as the user says."""
        times = list(map(self._time_of, rows.times, rows.numbers.tolist()))
        order = in_time(times, rows.numbers.tolist())
        rows, item.times, item.timed = rows.take(order), [times[index] for index in order], self._time
        gaps = self.options.gaps
        if gaps is None or gaps == "ignore" or len(times) < 2:
            return rows
        clock, missing = clock_of(item.times)
        if not missing.any():
            item.clock = clock
        elif gaps == "refuse" or (missing % 1).any():
            ways = "--gaps missing fills it with missing values, --gaps ignore takes the rows as if they followed"
            raise ValueError(f"{self._time}: {first_gap(item.times, clock, missing)}; {ways}")
        elif gaps == "missing":
            if not self.model_io.missing:
                raise ValueError(
                    f"{self._time}: {first_gap(item.times, clock, missing)}, and the model takes no missing values"
                )
            item.clock = clock
            rows = rows.spread(missing)
        return rows

    def _time_of(self, cell: Any, number: int) -> Time:
        try:
            return time_of(cell)
        except ValueError as error:
            raise ValueError(f"row {number}, {self._time}: {error}") from None

    def _fill(self, item: InputItem, rows: "_Rows") -> None:
        data, *further = rows.inputs
        if self.model_io.kind == "tokens":
            data = whole_numbers(data)
        steps = [one.step_values(values) for one, values in zip(self.model_io.further, further, strict=True)]
        item.extra = static_field(self.model_io, self._static_cells(rows.statics[0]) if rows.statics else [])
        item.kept = rows.kept
        data = np.ascontiguousarray(data if self.model_io.rank == 2 else data[:, 0])
        item.content = sequence_json(self.model_io, data, [np.ascontiguousarray(values) for values in steps])

    def _static_cells(self, cells: tuple[Any, ...]) -> list[list[Any]]:
        """The cells of a row for each static input."""
        rest = iter(cells)
        return [list(itertools.islice(rest, len(names))) for names in self._named.statics]

    # Cells of whole sequences

    def _cells(self, piece: Piece, name: str) -> Iterator[InputItem]:
        batch, ids = piece.batch, self._ids(piece.batch)
        column = self._column(batch, name).combine_chunks()
        items = arrays(column) if is_list(column.type) else iter(texts_of(column))
        further = _across([texts_of(self._column(batch, names[0])) for names in self._named.further], len(batch))
        statics = _across([texts_of(self._column(batch, one)) for one in self._named.statics_columns], len(batch))
        kept = self._kept(batch)
        for index, (id, content) in enumerate(zip(ids, items, strict=True)):
            number = piece.start + index
            item = InputItem(f"row {number}", id=_identity(id), error=piece.faults.get(number))
            if item.error is None:
                item = self._item(content, item, list(further[index]))
                try:
                    item.extra = static_field(self.model_io, self._static_cells(statics[index]))
                except ValueError as error:
                    item.error = item.error or str(error)
            item.kept = None if kept is None else kept.slice(index, 1)
            yield item

    def _item(self, content: Any, item: InputItem, further: list[Any]) -> InputItem:
        if content is None or None in further:
            item.error = "it is null"
        elif isinstance(content, np.ndarray):
            return item_of(content, item.place, self.model_io, item.id, further)
        else:
            try:
                item.content = sequence_json(self.model_io, content, further)
            except TypeError:  # a surrogate, which replaced a byte that is not UTF-8
                item.error = "it is not UTF-8"
        return item


@dataclass
class _Rows:
    """Rows of steps: of a piece of a table, of one sequence, or of all.

    Attributes:
        numbers: `(rows,)`, their numbers in the file.
        inputs: for the data and each further sequence input an array `(rows, columns)`.
        statics: the cells of the static inputs, row by row; empty if there are none.
        times: the cells of the column of times; empty if there is none.
        kept: the columns that a result is written with, an Arrow table, or None.
        faults: what is wrong with a row, by its number.
    """

    ids: list[Any]
    numbers: Any
    inputs: list[Any]
    statics: list[tuple[Any, ...]]
    times: list[Any]
    kept: Any
    faults: dict[int, str]

    def __getitem__(self, part: slice) -> "_Rows":
        kept = None if self.kept is None else self.kept.slice(part.start, part.stop - part.start)
        inputs = [values[part] for values in self.inputs]
        return _Rows(
            self.ids[part], self.numbers[part], inputs, self.statics[part], self.times[part], kept, self.faults
        )

    def take(self, order: list[int]) -> "_Rows":
        """These rows in another order, or some of them."""
        ids, statics, times = (
            [cells[i] for i in order] if cells else [] for cells in (self.ids, self.statics, self.times)
        )
        kept = None if self.kept is None else self.kept.take(order)
        return _Rows(
            ids, self.numbers[order], [values[order] for values in self.inputs], statics, times, kept, self.faults
        )

    def spread(self, missing: Any) -> "_Rows":
        """These rows with rows of missing values among them, so many after each but the last."""
        at = np.concatenate([[0], np.cumsum(missing.astype(int) + 1)])
        inputs = [np.full((at[-1] + 1, values.shape[1]), np.nan) for values in self.inputs]
        for spread, values in zip(inputs, self.inputs, strict=True):
            spread[at] = values
        rows = dict(zip(at.tolist(), range(len(at)), strict=True))
        kept = None if self.kept is None else self.kept.take(pa.array(map(rows.get, range(at[-1] + 1)), pa.int64()))
        return _Rows(self.ids, self.numbers, inputs, self.statics, self.times, kept, self.faults)

    def fault(self, static_names: list[str]) -> str | None:
        """What is wrong with the first row that is not as it should be."""
        if self.faults:
            for number in self.numbers.tolist():
                if number in self.faults:
                    return self.faults[number]
        for number, cells in zip(self.numbers.tolist(), self.statics, strict=False):
            if cells != self.statics[0]:
                cell, held, name = next(
                    one for one in zip(cells, self.statics[0], static_names, strict=True) if one[0] != one[1]
                )
                return (
                    f"row {number}, {name}: {str(cell)[:40]!r}, but {str(held)[:40]!r} in the rows before; "
                    "a static input is the same in all rows of a sequence"
                )
        return None


def _joined(parts: list[_Rows]) -> _Rows:
    if len(parts) == 1:
        return parts[0]
    ids, statics, times = ([*chain(*(getattr(one, name) for one in parts))] for name in ("ids", "statics", "times"))
    kept = None if parts[0].kept is None else pa.concat_tables([one.kept for one in parts])
    inputs = [np.concatenate(blocks) for blocks in zip(*(one.inputs for one in parts), strict=True)]
    faults = {number: fault for one in parts for number, fault in one.faults.items()}
    return _Rows(ids, np.concatenate([one.numbers for one in parts]), inputs, statics, times, kept, faults)


def _wrong_columns(model_io: ModelIO, names: list[str]) -> str:
    """Why a table with these columns does not fit a model. `names` leaves out the id."""
    wanted = f"{model_io.size} features" if model_io.kind == "features" else "one number per step"
    listed = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
    beside = "the id and other inputs" if model_io.further or model_io.statics else "the id"
    return f"the model takes {wanted}, but the file has {len(names)} columns besides {beside}: {listed or 'none'}"


def _across(columns: list[list[Any]], rows: int) -> list[tuple[Any, ...]]:
    """The cells of some columns, row by row."""
    return list(zip(*columns, strict=True)) if columns else [()] * rows


def _identity(value: Any) -> Identity | None:
    return value if value is None or isinstance(value, str | int) else str(value)
