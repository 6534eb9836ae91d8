"""Which source or sink a path means, by its suffix or by what the caller says."""

import os
import stat
from pathlib import Path
from typing import BinaryIO, Literal

from elman.cli.jobs.files.record import Shape, Sink, Source, Unusable

Format = Literal["jsonl", "csv", "txt", "npy", "npz", "parquet"]

_SUFFIXES: dict[str, Format] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".csv": "csv",
    ".tsv": "csv",
    ".txt": "txt",
    ".npy": "npy",
    ".npz": "npz",
    ".parquet": "parquet",
}
STDIN = "-"
_PEEKED = 4096


def format_of(path: str) -> Format:
    """What a path's suffix says. Raises Unusable."""
    suffix = Path(path).suffix.lower()
    if suffix not in _SUFFIXES:
        raise Unusable(f"what {path!r} holds cannot be told by its suffix; there are {', '.join(_SUFFIXES)}")
    return _SUFFIXES[suffix]


def open_source(
    path: str, shape: Shape, format: Format | None = None, id_column: str = "id", column: str | None = None
) -> Source:
    """The sequences in a file, or on standard input for `-`. Raises Unusable."""
    try:
        return _open_source(path, shape, format, id_column, column)
    except Unusable as error:
        raise Unusable(f"{name_of(path)}: {error}") from None
    except OSError as error:
        raise Unusable(f"{name_of(path)} cannot be read: {error.strerror or error}") from None


def name_of(path: str) -> str:
    """A path as a person is told of it."""
    return "standard input" if path == STDIN else path


def _open_source(path: str, shape: Shape, format: Format | None, id_column: str, column: str | None) -> Source:
    if path == STDIN:
        stream: BinaryIO = open(0, "rb", closefd=False)
        format, total = format or _sniff(stream, shape), None
    else:
        format = format or format_of(path)
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            raise Unusable("it is a folder")
        total = status.st_size if stat.S_ISREG(status.st_mode) else None
        stream = open(path, "rb", 1 << 18)
    if format in ("npy", "npz", "parquet"):
        stream.close()
        return _open_binary(path, shape, format, id_column, column)
    try:
        return _open_text(stream, total, shape, format, id_column, column)
    except Unusable:
        stream.close()
        raise


def _open_text(
    stream: BinaryIO, total: int | None, shape: Shape, format: Format, id_column: str, column: str | None
) -> Source:
    if format == "csv":
        from elman.cli.jobs.files.csv import CSVSource

        return CSVSource(stream, total, shape, id_column, column)
    from elman.cli.jobs.files.json import JSONSource, TextSource

    if format == "txt" and not shape.text:
        raise Unusable("the model reads no text")
    return TextSource(stream, total) if format == "txt" else JSONSource(stream, total)


def _open_binary(path: str, shape: Shape, format: Format, id_column: str, column: str | None) -> Source:
    if path == STDIN:
        raise Unusable(f"{format} cannot be read from a pipe; give a file")
    if format == "parquet":
        from elman.cli.jobs.files.parquet import ParquetSource

        return ParquetSource(Path(path), shape, id_column, column)
    from elman.cli.jobs.files.numpy import NPYSource, NPZSource

    return NPYSource(Path(path), shape) if format == "npy" else NPZSource(Path(path), shape)


def _sniff(stream: BinaryIO, shape: Shape) -> Format:
    """What comes down a pipe, by its first character: JSON lines, or else text for models of it, or else CSV."""
    peeked = stream.peek(_PEEKED).lstrip() if hasattr(stream, "peek") else b""
    if peeked[:1] in (b"{", b"[", b'"') and not (shape.rank == 2 and b"," in peeked and peeked[:1] == b'"'):
        return "jsonl"
    return "txt" if shape.text else "csv"


def open_sink(path: Path | None, shape: Shape, steps: bool, format: Format, resume: bool) -> Sink:
    """Where answers go: a file, or standard output for None. `resume` goes on with what is there. Raises Unusable."""
    try:
        return _open_sink(path, shape, steps, format, resume)
    except Unusable as error:
        raise Unusable(f"{path}: {error}") from None
    except OSError as error:
        raise Unusable(f"{path} cannot be written: {error.strerror or error}") from None


def _open_sink(path: Path | None, shape: Shape, steps: bool, format: Format, resume: bool) -> Sink:
    if format == "txt":
        raise Unusable("answers are no plain text; write .jsonl, .csv, .parquet, .npy or .npz")
    if format == "npy" and steps:
        raise Unusable("outputs of every step differ in number; write .npz, .parquet, .csv or .jsonl")
    if format == "npz" and not steps:
        raise Unusable("an archive is for the outputs of every step (--return steps); write .npy, or another kind")
    if path is None:
        return _open_stdout(shape, steps, format)
    if format == "csv":
        from elman.cli.jobs.files.csv import open_csv_sink

        return open_csv_sink(path, shape, steps, resume and path.exists())
    if format == "parquet":
        from elman.cli.jobs.files.parquet import ParquetSink

        return ParquetSink(path, shape, steps, resume)
    if format == "jsonl":
        from elman.cli.jobs.files.json import open_json_sink

        return open_json_sink(path, resume and path.exists())
    from elman.cli.jobs.files.numpy import NPYSink, NPZSink

    return NPZSink(path, shape, resume) if steps else NPYSink(path, shape, resume and path.exists())


def _open_stdout(shape: Shape, steps: bool, format: Format) -> Sink:
    from elman.cli.jobs.files.csv import CSVSink
    from elman.cli.jobs.files.json import JSONSink

    stream: BinaryIO = open(1, "wb", closefd=False)
    if format == "csv":
        return CSVSink(stream, shape, steps)
    if format == "jsonl":
        return JSONSink(stream)
    raise Unusable(f"{format} cannot be written to a pipe; give --output a file")
