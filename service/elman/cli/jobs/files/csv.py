"""Writes results as CSV: one row for each sequence, or for each step."""

import contextlib
import csv
from collections.abc import Collection, Iterator
from io import StringIO
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from elman.cli.jobs.files.errors import UnusableFile
from elman.cli.jobs.files.items import ModelIO, Outcome, beside
from elman.cli.jobs.files.json import keep_whole_lines


class CSVSink:
    """Writes one row for each outcome, or with `steps` one row for each step."""

    def __init__(
        self, stream: BinaryIO, model_io: ModelIO, steps: bool, done: int = 0, kept: Collection[str] = ()
    ) -> None:
        self.stream = stream
        self.model_io = model_io
        self.steps = steps
        self.done = done
        self._header = columns(model_io, steps, kept)
        if not stream.seekable() or not stream.tell():
            write_rows(self.stream, [self._header])

    def write(self, outcomes: list[Outcome]) -> None:
        rows: list[list[Any]] = []
        for outcome in outcomes:
            if outcome.error is not None:
                rows.append([outcome.id, *[""] * (len(self._header) - 2), outcome.error])
            else:
                rows += self._rows(outcome, orjson.loads(outcome.content))
        write_rows(self.stream, rows)
        self.done += len(outcomes)

    def _rows(self, outcome: Outcome, result: dict[str, Any]) -> Iterator[list[Any]]:
        identity, length, heads = outcome.id, result["length"], result.get("heads") or {}
        if not self.steps:
            cells = _cells(self.model_io, result.get("decoded"))
            yield [
                identity,
                length,
                *outcome.item.kept_cells(None)[0],
                *cells,
                *result["output"],
                *chain(*heads.values()),
                "",
            ]
            return
        outputs = result["outputs"]
        decoded = result.get("decoded") or [None] * len(outputs)
        blocks = [_in_each_row(head, len(outputs)) for head in heads.values()]
        kept = outcome.item.kept_cells(len(outputs))
        for step, (row, item, more, *of_heads) in enumerate(zip(outputs, decoded, kept, *blocks, strict=True)):
            yield [identity, length, step, *more, *_cells(self.model_io, item), *row, *chain(*of_heads), ""]

    def close(self, complete: bool) -> None:
        self.stream.close()


def write_rows(stream: BinaryIO, rows: list[list[Any]]) -> None:
    """Write rows of cells as CSV, and flush."""
    text = StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    stream.write(text.getvalue().encode())
    stream.flush()


def columns(model_io: ModelIO, steps: bool, kept: Collection[str] = ()) -> list[str]:
    """The header of a table of results. `kept` are the columns of the sequences that it has too."""
    first = ["id", "length", "step"] if steps else ["id", "length"]
    head = []
    if model_io.decoded == "values":
        head += [f"value_{i}" for i in range(model_io.outputs)]
    elif model_io.decoded is not None:
        head += [model_io.decoded, "probability"]
    head += [f"output_{i}" for i in range(model_io.outputs)]
    head += [*(f"heads.{name}_{i}" for name, (size, _) in model_io.heads.items() for i in range(size)), "error"]
    return [*first, *beside(dict.fromkeys(kept), [*first, *head]), *head]


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


def open_csv_sink(path: Path, model_io: ModelIO, steps: bool, resume: bool, kept: Collection[str] = ()) -> CSVSink:
    """Open a CSV file. If it resumes, an unfinished result at its end is dropped.

    Raises UnusableFile if the file has another header.
    """
    if not resume:
        return CSVSink(path.open("wb"), model_io, steps, kept=kept)
    stream = path.open("r+b")
    keep_whole_lines(stream)
    done = _keep_whole_results(stream, columns(model_io, steps, kept), steps)
    return CSVSink(stream, model_io, steps, done, kept)


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
