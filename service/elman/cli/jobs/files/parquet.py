"""Parquet: a list column of sequences, a text column, or one row per step as in CSV."""

import itertools
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from elman.cli.jobs.files.csv import TEXT_COLUMNS, wrong_columns
from elman.cli.jobs.files.errors import UnusableFile
from elman.cli.jobs.files.inputs import data_columns, named_columns, sequence_json, static_field, whole_numbers
from elman.cli.jobs.files.items import (
    PLAIN_TABLE,
    InputItem,
    ModelIO,
    Outcome,
    TableOptions,
    check_all_used,
    parts_of,
    scattered_rows,
)
from elman.cli.jobs.files.numpy import item_of
from elman.cli.jobs.files.times import in_time, time_of

# Most bytes and rows that are read of a file at once.
_READ = 8 << 20
_MOST_ROWS = 8192
# A part ends after this many results or bytes of JSON. It depends on the results alone, so that an interrupted run
# writes the same parts as one that was not.
_PART_ROWS = 8192
_PART_BYTES = 32 << 20


class ParquetSource:
    """Sequences in the rows of a Parquet file, which is read in pieces. Raises UnusableFile."""

    def __init__(self, path: Path, model_io: ModelIO, table: TableOptions = PLAIN_TABLE) -> None:
        try:
            self._file = pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False)
        except (pa.ArrowException, OSError) as error:
            raise UnusableFile(f"it is not a Parquet file: {error}") from None
        self.model_io = model_io
        self.total: int | None = self._file.metadata.num_rows
        self._position = 0
        schema = self._file.schema_arrow
        self.table = table
        self._id, self._time = table.find_id(schema.names), table.find_time(schema.names)
        lists = {field.name for field in schema if _is_list(field.type)}
        self._named = named_columns(model_io, schema.names, lists)
        column = table.column
        if column is None and len(model_io.columns) == 1:
            column = model_io.columns[0]
        self._column = self._whole_column(schema, column)
        whole = [names[0] for names in self._named.further if self._column and names[0] not in lists]
        if whole:
            raise UnusableFile(f"{self._column!r} holds whole sequences, so {whole[0]!r} must be a column of lists")
        self._features = [] if self._column else self._feature_columns(schema, column)

    @property
    def position(self) -> int:
        return self._position

    def _whole_column(self, schema: Any, column: str | None) -> str | None:
        """The column whose cells are whole sequences, or None."""
        if column is not None and column not in schema.names:
            raise UnusableFile(f"there is no column {column!r}; the columns are {', '.join(schema.names)}")
        for name in [column] if column is not None else TEXT_COLUMNS:
            if name in schema.names and self._holds_sequences(schema.field(name).type):
                return name
        return None

    def _holds_sequences(self, kind: Any) -> bool:
        text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
        return _is_list(kind) or (text and self.model_io.text)

    def _feature_columns(self, schema: Any, column: str | None) -> list[str]:
        named = [column] if column is not None else data_columns(self.model_io, schema.names)
        taken = {self._id, self._time, *self._named.all}
        names = named or [name for name in schema.names if name not in taken]
        if self.model_io.text and named is None:
            raise UnusableFile(
                f"name the column that holds the sequences with --column; the columns are {', '.join(names)}"
            )
        size = self.model_io.size if self.model_io.kind == "features" else 1
        if size is not None and len(names) != size:
            raise UnusableFile(wrong_columns(self.model_io, names))
        if self.table.id_column is None:
            check_all_used(schema.names, [*names, *filter(None, taken)], self._id)
        return names

    def close(self) -> None:
        self._file.close()

    def __iter__(self) -> Iterator[InputItem]:
        single = filter(None, [self._id, self._time, self._column])
        columns = list(dict.fromkeys([*single, *self._features, *self._named.all]))
        metadata = self._file.metadata
        size = sum(metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups))
        rows = max(1, min(_MOST_ROWS, _READ * max(1, metadata.num_rows) // max(1, size)))
        try:
            batches = self._file.iter_batches(batch_size=rows, columns=columns)
            if self._column:
                yield from self._whole(batches)
            else:
                read_whole = self.table.gather or self._time is not None
                yield from self._steps(self._in_order(batches) if read_whole else batches)
        except pa.ArrowException as error:
            raise UnusableFile(f"it is damaged: {error}") from None
        finally:
            self._file.close()

    def _whole(self, batches: Iterator[Any]) -> Iterator[InputItem]:
        for batch in batches:
            start = self._position
            ids = batch.column(self._id).to_pylist() if self._id else [None] * len(batch)
            column = batch.column(self._column)
            items = _arrays(column) if _is_list(column.type) else iter(column.to_pylist())
            further = _rows(batch, [names[0] for names in self._named.further])
            statics = [_rows(batch, names) for names in self._named.statics]
            for index, (identity, item) in enumerate(zip(ids, items, strict=True)):
                self._position = start + index + 1
                place, others = f"row {start + index}", further[index]
                found = self._item(item, place, _identity(identity), others)
                yield self._with_statics(found, [rows[index] for rows in statics])

    def _item(self, item: Any, place: str, identity: str | int | None, further: list[Any]) -> InputItem:
        if item is None or None in further:
            return InputItem(place, id=identity, error="it is null")
        if isinstance(item, np.ndarray):
            return item_of(item, place, self.model_io, identity, further)
        return InputItem(place, sequence_json(self.model_io, item, further), identity)

    def _with_statics(self, item: InputItem, cells: list[list[Any]]) -> InputItem:
        try:
            item.extra = static_field(self.model_io, cells)
        except ValueError as error:
            item.error = item.error or str(error)
        return item

    def _steps(self, batches: Iterator[Any]) -> Iterator[InputItem]:
        """Join consecutive rows of one id, across batches."""
        rows, ended = _Rows(0, None), set[Any]()
        for batch in batches:
            start = self._position
            inputs = [_numbers_of(batch, names) for names in (self._features, *self._named.further)]
            statics = list(zip(*(_rows(batch, names) for names in self._named.statics), strict=True))
            ids = batch.column(self._id).to_pylist() if self._id else [None] * len(batch)
            cuts = [0, *(i for i in range(1, len(ids)) if ids[i] != ids[i - 1]), len(ids)]
            for begin, end in itertools.pairwise(cuts):
                if rows.pieces and ids[begin] != rows.id:
                    yield self._joined(rows, start + begin - 1)
                    ended.add(rows.id)
                    rows.pieces = []
                    if ids[begin] in ended:
                        raise scattered_rows(start + begin, ids[begin])
                if not rows.pieces:
                    rows = _Rows(start + begin, ids[begin], statics=statics[begin] if statics else ())
                rows.pieces.append([values[begin:end] for values in inputs])
                rows.compare(statics[begin:end], start + begin)
            self._position = start + len(batch)
        if rows.pieces:
            yield self._joined(rows, self._position - 1)

    def _in_order(self, batches: Iterator[Any]) -> Iterator[Any]:
        """The rows of each id together, in the order of the ids' first rows, and by time where there is one."""
        if not self.total:
            return
        table = pa.Table.from_batches(list(batches))
        ids = table.column(self._id).to_pylist() if self._id else [None] * len(table)
        groups: dict[Any, list[int]] = {}
        for index, identity in enumerate(ids):
            groups.setdefault(identity, []).append(index)
        if self._time is not None:
            times = table.column(self._time).to_pylist()
            groups = {identity: self._by_time(rows, times) for identity, rows in groups.items()}
        order = np.array([row for rows in groups.values() for row in rows])
        yield from table.take(order).to_batches(max_chunksize=_MOST_ROWS)

    def _by_time(self, rows: list[int], times: list[Any]) -> list[int]:
        try:
            return [rows[at] for at in in_time([time_of(times[row]) for row in rows], rows)]
        except ValueError as error:
            raise UnusableFile(f"{self._time}: {error}") from None

    def _joined(self, rows: "_Rows", last: int) -> InputItem:
        data, *further = (np.concatenate(blocks) for blocks in zip(*rows.pieces, strict=True))
        item = InputItem(f"rows {rows.first} to {last}", id=_identity(rows.id), error=rows.fault)
        if item.error is not None:
            return item
        try:
            if self.model_io.kind == "tokens":
                data = whole_numbers(data)
            others = [one.step_values(values) for one, values in zip(self.model_io.further, further, strict=True)]
        except ValueError as error:
            item.error = str(error)
            return item
        found = item_of(data if self.model_io.rank == 2 else data[:, 0], item.place, self.model_io, item.id, others)
        return self._with_statics(found, list(rows.statics))


@dataclass
class _Rows:
    """The rows of one sequence that have been read so far: from each batch a block for each input.

    Attributes:
        statics: the cells of each static input in the first row.
    """

    first: int
    id: Any
    pieces: list[list[Any]] = field(default_factory=list)
    statics: tuple[list[Any], ...] = ()
    fault: str | None = None

    def compare(self, statics: list[tuple[list[Any], ...]], start: int) -> None:
        """Note the first row whose static inputs are not those of the first one."""
        at = next((index for index, cells in enumerate(statics) if cells != self.statics), None)
        if at is not None and self.fault is None:
            cell, held = next((a, b) for a, b in zip(statics[at], self.statics, strict=True) if a != b)
            self.fault = (
                f"row {start + at}: a static input is {cell}, but {held} in the rows before; it is the same in all "
                "rows of a sequence"
            )


def _rows(batch: Any, names: list[str]) -> list[list[Any]]:
    """The cells of some columns, row by row."""
    if not names:
        return [[] for _ in range(len(batch))]
    return [list(cells) for cells in zip(*(batch.column(name).to_pylist() for name in names), strict=True)]


def _numbers_of(batch: Any, names: list[str]) -> Any:
    """Columns of numbers as `(rows, columns)`."""
    return np.stack([_numbers(batch.column(name), name) for name in names], axis=1)


def _is_list(kind: Any) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _identity(value: Any) -> str | int | None:
    return value if value is None or isinstance(value, str | int) else str(value)


def _numbers(column: Any, name: str) -> Any:
    """A column as numbers. Null becomes NaN, which is then reported with its place."""
    kind = column.type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        raise UnusableFile(f"the column {name!r} holds {kind}, not numbers")
    return column.to_numpy(zero_copy_only=False)


def _arrays(column: Any) -> Iterator[Any]:
    """The cells of a list column: an array `(time,)` or `(time, features)`, None, or a list if rows differ."""
    inner = column.values if not pa.types.is_fixed_size_list(column.type) else None
    if inner is None or column.null_count:
        yield from (None if cell is None else _array(cell) for cell in column.to_pylist())
        return
    offsets = column.offsets.to_numpy()
    if not _is_list(inner.type):
        flat = inner.to_numpy(zero_copy_only=False)
        yield from (flat[begin:end] for begin, end in itertools.pairwise(offsets))
        return
    width = _width(inner)
    if width is None:
        yield from map(_array, column.to_pylist())
        return
    rows = inner.flatten().to_numpy(zero_copy_only=False).reshape(-1, width)
    yield from (rows[begin:end] for begin, end in itertools.pairwise(offsets))


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


class ParquetSink:
    """Writes one row for each outcome. Parts are files of their own, and become row groups of one file at the end."""

    def __init__(self, path: Path, model_io: ModelIO, steps: bool, resume: bool) -> None:
        self._path = path
        self._model_io = model_io
        self._steps = steps
        self._folder = parts_of(path)
        if not resume:
            shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(exist_ok=True)
        self._parts = sorted(self._folder.glob("*.parquet"))
        self._schema: Any = None
        if self._parts:
            text = pa.types.is_string(pq.read_schema(self._parts[0]).field("id").type)
            self._schema = schema(model_io, steps, text)
        self.done = sum(pq.read_metadata(part).num_rows for part in self._parts)
        self._rows: list[dict[str, Any]] = []
        self._weight = 0

    def write(self, outcomes: list[Outcome]) -> None:
        for outcome in outcomes:
            if self._schema is None:
                self._schema = schema(self._model_io, self._steps, isinstance(outcome.item.id, str))
            self._rows.append(self._row(outcome))
            self._weight += len(outcome.content)
            if len(self._rows) >= _PART_ROWS or self._weight >= _PART_BYTES:
                self._end_part()

    def _row(self, outcome: Outcome) -> dict[str, Any]:
        identity = outcome.id
        text = pa.types.is_string(self._schema.field("id").type)
        if not text and isinstance(identity, str):
            raise UnusableFile(f"{outcome.item.place}: the id {identity!r} is text, but the ids before it are numbers")
        row: dict[str, Any] = {"id": str(identity) if text else identity, "error": outcome.error}
        if outcome.error is not None:
            return row
        result = orjson.loads(outcome.content)
        row["length"] = result["length"]
        name = "outputs" if self._steps else "output"
        row[name] = result[name]
        for head, values in (result.get("heads") or {}).items():
            # One that has a single row a sequence is a list of one row among the steps.
            row[f"heads.{head}"] = [values] if self._steps and not isinstance(values[0], list) else values
        decoded, word = result.get("decoded"), self._model_io.decoded
        if decoded is not None and word == "values":
            row["value"] = decoded
        elif decoded is not None and word is not None:
            row[word] = [one[word] for one in decoded] if self._steps else decoded[word]
            row["probability"] = [one["probability"] for one in decoded] if self._steps else decoded["probability"]
        return row

    def _end_part(self) -> None:
        if not self._rows:
            return
        part = self._folder / f"{len(self._parts):08d}.parquet"
        written = part.with_suffix(".half")
        pq.write_table(pa.Table.from_pylist(self._rows, self._schema), written)
        written.replace(part)
        self._parts.append(part)
        self.done += len(self._rows)
        self._rows, self._weight = [], 0

    def close(self, complete: bool) -> None:
        if not complete:
            return
        self._end_part()
        joined = self._folder / "whole"
        with pq.ParquetWriter(joined, self._schema or schema(self._model_io, self._steps, False)) as writer:
            for part in self._parts:
                table = pq.read_table(part)
                writer.write_table(table, row_group_size=max(1, len(table)))
        joined.replace(self._path)
        shutil.rmtree(self._folder)


def schema(model_io: ModelIO, steps: bool, text_ids: bool) -> Any:
    """The columns of a table of results."""

    def column(kind: Any) -> Any:
        return pa.list_(kind) if steps else kind

    fields = [("id", pa.string() if text_ids else pa.int64()), ("length", pa.int32())]
    if model_io.decoded == "values":
        fields.append(("value", column(pa.list_(pa.float64()))))
    elif model_io.decoded is not None:
        fields += [(model_io.decoded, column(pa.string())), ("probability", column(pa.float64()))]
    fields.append(("outputs" if steps else "output", column(pa.list_(pa.float32()))))
    for name, (_, dtype) in model_io.heads.items():
        kind = {"f": pa.float32(), "b": pa.bool_()}.get(np.dtype(dtype).kind, pa.int64())
        fields.append((f"heads.{name}", column(pa.list_(kind))))
    return pa.schema([*fields, ("error", pa.string())])
