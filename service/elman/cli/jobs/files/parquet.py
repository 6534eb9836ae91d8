"""Writes results as Parquet: one row for each sequence, with lists for the steps."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from elman.cli.jobs.files.errors import UnusableFile
from elman.cli.jobs.files.items import ModelIO, Outcome, beside, parts_of

# A part ends after this many results or bytes of JSON. It depends on the results alone, so that an interrupted run
# writes the same parts as one that was not.
_PART_ROWS = 8192
_PART_BYTES = 32 << 20


class ParquetSink:
    """Writes one row for each outcome. Parts are files of their own, and become row groups of one file at the end."""

    def __init__(
        self, path: Path, model_io: ModelIO, steps: bool, resume: bool, kept: Mapping[str, Any] = MappingProxyType({})
    ) -> None:
        self._path = path
        self._model_io = model_io
        self._steps = steps
        own = schema(model_io, steps, False).names
        self._kept = beside(kept, own)
        self._folder = parts_of(path)
        if not resume:
            shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(exist_ok=True)
        self._parts = sorted(self._folder.glob("*.parquet"))
        self._schema: Any = None
        if self._parts:
            text = pa.types.is_string(pq.read_schema(self._parts[0]).field("id").type)
            self._schema = schema(model_io, steps, text, self._kept)
        self.done = sum(pq.read_metadata(part).num_rows for part in self._parts)
        self._rows: list[dict[str, Any]] = []
        self._weight = 0

    def write(self, outcomes: list[Outcome]) -> None:
        for outcome in outcomes:
            if self._schema is None:
                self._schema = schema(self._model_io, self._steps, isinstance(outcome.item.id, str), self._kept)
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
        cells = outcome.item.kept_cells(len(result["outputs"]) if self._steps else None)
        columns = zip(*cells, strict=True) if self._steps else cells[0]
        row.update(zip(self._kept, columns, strict=True))
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
        with pq.ParquetWriter(joined, self._schema or schema(self._model_io, self._steps, False, self._kept)) as writer:
            for part in self._parts:
                table = pq.read_table(part)
                writer.write_table(table, row_group_size=max(1, len(table)))
        joined.replace(self._path)
        shutil.rmtree(self._folder)


def schema(model_io: ModelIO, steps: bool, text_ids: bool, kept: Mapping[str, Any] = MappingProxyType({})) -> Any:
    """The columns of a table of results. `kept` are the columns of the sequences that it has too, with their types."""

    def column(kind: Any) -> Any:
        return pa.list_(kind) if steps else kind

    fields = [("id", pa.string() if text_ids else pa.int64()), ("length", pa.int32())]
    fields += [(name, column(kind)) for name, kind in kept.items()]
    if model_io.decoded == "values":
        fields.append(("value", column(pa.list_(pa.float64()))))
    elif model_io.decoded is not None:
        fields += [(model_io.decoded, column(pa.string())), ("probability", column(pa.float64()))]
    fields.append(("outputs" if steps else "output", column(pa.list_(pa.float32()))))
    for name, (_, dtype) in model_io.heads.items():
        kind = {"f": pa.float32(), "b": pa.bool_()}.get(np.dtype(dtype).kind, pa.int64())
        fields.append((f"heads.{name}", column(pa.list_(kind))))
    return pa.schema([*fields, ("error", pa.string())])
