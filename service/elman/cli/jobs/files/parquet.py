"""Parquet: a list column of sequences, a text column, or long form as in CSV; answers in row groups."""

import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from elman.cli.jobs.files.csv import TEXT_COLUMNS, wrong_columns
from elman.cli.jobs.files.numpy import record_of
from elman.cli.jobs.files.record import Answer, Record, Shape, Unusable, parts_of

try:
    import pyarrow as pa
    import pyarrow.parquet as pq
except ModuleNotFoundError:
    raise Unusable("Parquet files need one more package: pip install 'elman[parquet]'") from None

# What is read of a file at once, in bytes and rows.
_READ = 8 << 20
_MOST_ROWS = 8192
# A part ends after so many answers, or with the one that brings it to so many bytes of JSON: by what it holds alone,
# so that a run that was interrupted cuts the same parts as one that was not.
_PART_ROWS = 8192
_PART_BYTES = 32 << 20


class ParquetSource:
    """Rows of a Parquet file, read a piece at a time. Raises Unusable."""

    def __init__(self, path: Path, shape: Shape, id_column: str = "id", column: str | None = None) -> None:
        try:
            self._file = pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False)
        except (pa.ArrowException, OSError) as error:
            raise Unusable(f"it is not a Parquet file: {error}") from None
        self.shape = shape
        self.total: int | None = self._file.metadata.num_rows
        self._position = 0
        schema = self._file.schema_arrow
        self._id = id_column if id_column in schema.names else None
        self._column = self._whole_column(schema, column)
        self._features = [] if self._column else self._feature_columns(schema)

    @property
    def position(self) -> int:
        return self._position

    def _whole_column(self, schema: Any, column: str | None) -> str | None:
        """The column whose cells are whole sequences, if there is one."""
        if column is not None and column not in schema.names:
            raise Unusable(f"there is no column {column!r}; there are {', '.join(schema.names)}")
        for name in [column] if column is not None else TEXT_COLUMNS:
            if name in schema.names and self._holds_sequences(schema.field(name).type):
                return name
        return None

    def _holds_sequences(self, kind: Any) -> bool:
        text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
        return _is_list(kind) or (text and self.shape.text)

    def _feature_columns(self, schema: Any) -> list[str]:
        names = [name for name in schema.names if name != self._id]
        if self.shape.names and set(self.shape.names) <= set(names):
            return list(self.shape.names)
        if self.shape.text:
            raise Unusable(f"which column holds the sequences? Name it with --column; there are {', '.join(names)}")
        size = self.shape.size if self.shape.kind == "features" else 1
        if size is not None and len(names) != size:
            raise Unusable(wrong_columns(self.shape, names))
        return names

    def close(self) -> None:
        self._file.close()

    def __iter__(self) -> Iterator[Record]:
        columns = [*filter(None, [self._id, self._column]), *self._features]
        metadata = self._file.metadata
        size = sum(metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups))
        rows = max(1, min(_MOST_ROWS, _READ * max(1, metadata.num_rows) // max(1, size)))
        try:
            batches = self._file.iter_batches(batch_size=rows, columns=columns)
            yield from self._whole(batches) if self._column else self._steps(batches)
        except pa.ArrowException as error:
            raise Unusable(f"it is damaged: {error}") from None
        finally:
            self._file.close()

    def _whole(self, batches: Iterator[Any]) -> Iterator[Record]:
        for batch in batches:
            start = self._position
            ids = batch.column(self._id).to_pylist() if self._id else [None] * len(batch)
            column = batch.column(self._column)
            items = _arrays(column) if _is_list(column.type) else iter(column.to_pylist())
            for index, (identity, item) in enumerate(zip(ids, items, strict=True)):
                self._position = start + index + 1
                yield self._record(item, f"row {start + index}", _identity(identity))

    def _record(self, item: Any, place: str, identity: str | int | None) -> Record:
        if item is None:
            return Record(place, id=identity, error="it is null")
        if isinstance(item, np.ndarray):
            return record_of(item, place, self.shape, identity)
        return Record(place, orjson.dumps(item), identity)

    def _steps(self, batches: Iterator[Any]) -> Iterator[Record]:
        """Consecutive rows of one id, across batches."""
        pieces: list[Any] = []
        first, current = 0, None
        for batch in batches:
            start = self._position
            data = np.stack([_numbers(batch.column(name), name) for name in self._features], axis=1)
            ids = batch.column(self._id).to_pylist() if self._id else [None] * len(batch)
            cuts = [0, *(i for i in range(1, len(ids)) if ids[i] != ids[i - 1]), len(ids)]
            for begin, end in itertools.pairwise(cuts):
                if pieces and ids[begin] != current:
                    yield self._joined(pieces, first, start + begin - 1, current)
                    pieces = []
                if not pieces:
                    first, current = start + begin, ids[begin]
                pieces.append(data[begin:end])
            self._position = start + len(batch)
        if pieces:
            yield self._joined(pieces, first, self._position - 1, current)

    def _joined(self, pieces: list[Any], first: int, last: int, identity: Any) -> Record:
        data = np.concatenate(pieces)
        place = f"rows {first} to {last}"
        if self.shape.rank == 1:
            data = data[:, 0]
        if self.shape.kind == "tokens":
            data = data.astype(np.int64)
        return record_of(data, place, self.shape, _identity(identity))


def _is_list(kind: Any) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _identity(value: Any) -> str | int | None:
    return value if value is None or isinstance(value, str | int) else str(value)


def _numbers(column: Any, name: str) -> Any:
    """A column as numbers, NaN for null, which is then refused where it stands."""
    kind = column.type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        raise Unusable(f"the column {name!r} holds {kind}, and not numbers")
    return column.to_numpy(zero_copy_only=False)


def _arrays(column: Any) -> Iterator[Any]:
    """Each cell of a list column: `(time,)`, `(time, features)`, None for null; plain lists where rows are ragged."""
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
    """The length that all the lists of an array share, or None."""
    if rows.null_count:
        return None
    if pa.types.is_fixed_size_list(rows.type):
        return int(rows.type.list_size)
    widths = np.diff(rows.offsets.to_numpy())
    return int(widths[0]) if len(widths) and (widths == widths[0]).all() and widths[0] else None


def _array(cell: list[Any]) -> Any:
    """A cell as an array where it is one; as it is where its rows differ, for the server to say so."""
    try:
        data = np.array(cell, None if any(isinstance(row, list) for row in cell) else np.float64)
    except (ValueError, TypeError):
        return cell
    return data if data.dtype.kind in "fiu" else cell


class ParquetSink:
    """A row an answer. Parts are written whole beside the file, and joined into it at the end, a row group each."""

    def __init__(self, path: Path, shape: Shape, steps: bool, resume: bool) -> None:
        self._path = path
        self._shape = shape
        self._steps = steps
        self._folder = parts_of(path)
        if not resume:
            shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(exist_ok=True)
        self._parts = sorted(self._folder.glob("*.parquet"))
        self._schema: Any = None
        if self._parts:
            text = pa.types.is_string(pq.read_schema(self._parts[0]).field("id").type)
            self._schema = schema(shape, steps, text)
        self.done = sum(pq.read_metadata(part).num_rows for part in self._parts)
        self._rows: list[dict[str, Any]] = []
        self._weight = 0

    def write(self, answers: list[Answer]) -> None:
        for answer in answers:
            if self._schema is None:
                self._schema = schema(self._shape, self._steps, isinstance(answer.record.id, str))
            self._rows.append(self._row(answer))
            self._weight += len(answer.content)
            if len(self._rows) >= _PART_ROWS or self._weight >= _PART_BYTES:
                self._end_part()

    def _row(self, answer: Answer) -> dict[str, Any]:
        identity = answer.index if answer.record.id is None else answer.record.id
        text = pa.types.is_string(self._schema.field("id").type)
        if not text and isinstance(identity, str):
            raise Unusable(f"{answer.record.place}: the ids were numbers until {identity!r}")
        row: dict[str, Any] = {"id": str(identity) if text else identity, "error": answer.error}
        if answer.error is not None:
            return row
        result = orjson.loads(answer.content)
        row["length"] = result["length"]
        name = "outputs" if self._steps else "output"
        row[name] = result[name]
        decoded, word = result.get("decoded"), self._shape.decoded
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
        with pq.ParquetWriter(joined, self._schema or schema(self._shape, self._steps, False)) as writer:
            for part in self._parts:
                table = pq.read_table(part)
                writer.write_table(table, row_group_size=max(1, len(table)))
        joined.replace(self._path)
        shutil.rmtree(self._folder)


def schema(shape: Shape, steps: bool, text_ids: bool) -> Any:
    """The columns of a table of answers."""

    def column(kind: Any) -> Any:
        return pa.list_(kind) if steps else kind

    fields = [("id", pa.string() if text_ids else pa.int64()), ("length", pa.int32())]
    if shape.decoded == "values":
        fields.append(("value", column(pa.list_(pa.float64()))))
    elif shape.decoded is not None:
        fields += [(shape.decoded, column(pa.string())), ("probability", column(pa.float64()))]
    fields += [("outputs" if steps else "output", column(pa.list_(pa.float32()))), ("error", pa.string())]
    return pa.schema(fields)
