"""Files of forecasts: one row for each step of each, as CSV, Parquet or Arrow."""

import contextlib
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from elman.cli.extras import need
from elman.cli.jobs.files.csv import write_rows
from elman.cli.jobs.files.errors import UnusableFile
from elman.cli.jobs.files.items import Outcome, beside


def header(names: list[str], options: dict[str, Any]) -> list[str]:
    """The columns of a forecast: point, mean and quantiles, each for every value."""
    figures = ["point"]
    if options["samples"]:
        figures += ["mean", *(f"q{level:g}" for level in options["quantiles"])]
    return [f"{figure}_{name}" if name and len(names) > 1 else figure for figure in figures for name in names]


def rows_of(forecast: dict[str, Any]) -> list[list[float]]:
    """One row for each step, in the order of `header`."""
    figures = [forecast["point"]]
    if "mean" in forecast:
        figures += [forecast["mean"], *forecast["quantiles"].values()]
    return [
        [value for cell in step for value in (cell if isinstance(cell, list) else [cell])]
        for step in zip(*figures, strict=True)
    ]


class ForecastTable:
    """The columns of a table of forecasts, and its rows: one for each step of each forecast.

    Args:
        figures: the columns of the forecast itself.
        time: the column of the times, if there is one.
        kept: the columns of the series that each row has too, where they are the same in all rows of a series, and
            their Arrow types.
    """

    def __init__(self, figures: list[str], time: str | None, kept: dict[str, Any]) -> None:
        self.figures, self.time, self.kept = figures, time, kept
        own = ["id", "step", *figures, "error"]
        self.before = beside({**({time: None} if time else {}), **kept}, own)
        self.header = ["id", *self.before, *own[1:]]

    def rows(self, outcome: Outcome) -> list[list[Any]]:
        """The rows of an outcome, None where there is nothing. One that failed has a single row, with its error."""
        if outcome.error is not None:
            return [[outcome.id, *[None] * (len(self.header) - 2), outcome.error]]
        forecast = orjson.loads(outcome.content)
        rows = rows_of(forecast)
        same = outcome.item.same_cells()
        more = [same[name] for name in self.kept]
        times = forecast.get("times") or [None] * len(rows)
        first = [[time] if self.time else [] for time in times]
        return [[outcome.id, *first[i], *more, i + 1, *row, None] for i, row in enumerate(rows)]


class CSVForecastSink:
    """Writes forecasts as CSV."""

    def __init__(self, stream: BinaryIO, table: ForecastTable) -> None:
        self.done = 0
        self._stream = stream
        self._table = table
        write_rows(self._stream, [table.header])

    def write(self, outcomes: list[Outcome]) -> None:
        for outcome in outcomes:
            write_rows(self._stream, self._table.rows(outcome))
        self.done += len(outcomes)

    def close(self, complete: bool) -> None:
        self._stream.close()


class ArrowForecastSink:
    """Writes forecasts as a Parquet or an Arrow file. The first outcome says whether ids are text or numbers."""

    def __init__(self, path: Path, table: ForecastTable, format: str) -> None:
        need("tables")
        self.done = 0
        self._path, self._table, self._format = path, table, format
        self._writer: Any = None
        self._schema: Any = None

    def write(self, outcomes: list[Outcome]) -> None:
        import pyarrow as pa

        if self._writer is None:
            self._open(text=bool(outcomes) and isinstance(outcomes[0].id, str))
        rows = [row for outcome in outcomes for row in self._table.rows(outcome)]
        columns = [list(cells) for cells in zip(*rows, strict=True)] or [[]] * len(self._schema)
        with self._fitting(outcomes):
            if pa.types.is_string(self._schema.field("id").type):
                columns[0] = list(map(str, columns[0]))
            arrays = [pa.array(cells, kind) for cells, kind in zip(columns, self._schema.types, strict=True)]
            self._writer.write_batch(pa.record_batch(arrays, schema=self._schema))
        self.done += len(outcomes)

    @contextlib.contextmanager
    def _fitting(self, outcomes: list[Outcome]) -> Any:
        """Say which id does not fit into the column of ids."""
        try:
            yield
        except (ValueError, TypeError, OverflowError):
            text = next((one for one in outcomes if isinstance(one.id, str)), outcomes[0])
            raise UnusableFile(
                f"{text.item.place}: the id {text.id!r} does not fit the ids before it; use .csv or .jsonl"
            ) from None

    def _open(self, *, text: bool) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = self._table
        of = {name: kind or pa.string() for name, kind in table.before.items()}
        kinds = {"id": pa.string() if text else pa.int64(), **of, "step": pa.int32()}
        kinds |= dict.fromkeys(table.figures, pa.float64()) | {"error": pa.string()}
        self._schema = pa.schema(kinds)
        parquet = self._format == "parquet"
        self._writer = (
            pq.ParquetWriter(self._path, self._schema) if parquet else pa.ipc.new_file(self._path, self._schema)
        )

    def close(self, complete: bool) -> None:
        if self._writer is None and complete:
            self._open(text=False)
        if self._writer is not None:
            self._writer.close()
