"""Opens the source or sink for a path, by its suffix or by a given format."""

import gzip
import os
import stat
import sys
from collections.abc import Iterator, Mapping
from io import BufferedReader
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO, Literal

from elman.cli.extras import need
from elman.cli.jobs.files.errors import UTF16_MARKS, UnusableFile, reading
from elman.cli.jobs.files.items import PLAIN_TABLE, InputItem, ModelIO, Sink, Source, TableOptions, WrappedSource
from elman.cli.jobs.files.streams import is_stream, open_stream

FileFormat = Literal["jsonl", "csv", "txt", "npy", "npz", "parquet", "arrow", "excel"]

_SUFFIXES: dict[str, FileFormat] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".csv": "csv",
    ".tsv": "csv",
    ".txt": "txt",
    ".npy": "npy",
    ".npz": "npz",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".arrows": "arrow",
    ".feather": "arrow",
    ".xlsx": "excel",
    ".xlsm": "excel",
    ".xlsb": "excel",
    ".xls": "excel",
    ".ods": "excel",
}
STDIN = "-"
_PEEKED = 4096
_COMPRESSIONS = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd"}


def format_of(path: str, option: str) -> FileFormat:
    """The format that a path's suffix names. `option` is that which names it otherwise. Raises UnusableFile."""
    suffix = Path(path).suffix.lower()
    if suffix not in _SUFFIXES:
        if Path(path).is_dir():
            raise UnusableFile("it is a folder; give a file")
        raise UnusableFile(f"its suffix names no known format: give {option}; known are {', '.join(_SUFFIXES)}")
    return _SUFFIXES[suffix]


def open_source(
    path: str, model_io: ModelIO, format: FileFormat | None = None, table: TableOptions = PLAIN_TABLE
) -> Source:
    """Open the sequences in a file, or on standard input for `-`. Raises UnusableFile."""
    try:
        with reading():
            source = _open_source(path, model_io, format, table)
        return _WithStatics(source, model_io) if model_io.given else source
    except UnusableFile as error:
        raise UnusableFile(f"{name_of(path)}: {error}") from None
    except OSError as error:
        raise UnusableFile(f"{name_of(path)} cannot be read: {error.strerror or error}") from None


class _WithStatics(WrappedSource):
    """Sequences, each also with the static inputs that are the same for all of them."""

    def __init__(self, source: Source, model_io: ModelIO) -> None:
        super().__init__(source)
        self._given = model_io.given

    def __iter__(self) -> Iterator[InputItem]:
        for item in self.source:
            item.extra["static"] = {**self._given, **item.extra.get("static", {})}
            yield item


def name_of(path: str) -> str:
    """The name of a path in messages."""
    return "standard input" if path == STDIN else path


def _open_source(path: str, model_io: ModelIO, format: FileFormat | None, table: TableOptions) -> Source:
    if path == STDIN:
        stream: BinaryIO = open(0, "rb", closefd=False)
        format, total = format or _sniff(stream, model_io), None
    else:
        packing = _COMPRESSIONS.get(Path(path).suffix.lower())
        format = format or format_of(path if packing is None else path[: path.rindex(".")], "--input-format")
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            raise UnusableFile("it is a folder; give a file")
        total = status.st_size if stat.S_ISREG(status.st_mode) and packing is None else None
        stream = open(path, "rb", 1 << 18) if packing is None else _unpacked(path, packing)
    if format not in ("csv", "jsonl", "txt"):
        stream.close()
        return _open_binary(path, model_io, format, table)
    try:
        return _open_text(stream, total, model_io, format, table)
    except UnusableFile:
        stream.close()
        raise


def _unpacked(path: str, packing: str) -> BinaryIO:
    if packing == "gzip":
        return gzip.open(path)  # type: ignore[return-value]
    need("tables")
    import pyarrow as pa

    return BufferedReader(pa.input_stream(path, packing))


def _open_text(
    stream: BinaryIO, total: int | None, model_io: ModelIO, format: FileFormat, table: TableOptions
) -> Source:
    if format == "csv":
        need("tables")
        from elman.cli.jobs.files.rows import TableSource
        from elman.cli.jobs.files.tables import CSVTable

        return TableSource(CSVTable(stream, total, model_io, table), model_io, table)
    from elman.cli.jobs.files.json import JSONSource, TextSource

    if format == "jsonl":
        return JSONSource(stream, total, model_io)
    if not model_io.text:
        raise UnusableFile("the model does not read text")
    _check_alone(model_io, format)
    return TextSource(stream, total)


def _check_alone(model_io: ModelIO, format: FileFormat) -> None:
    """Raise UnusableFile if a file that holds the data alone is not enough for the model."""
    if model_io.further:
        name = model_io.further[0].name
        raise UnusableFile(f"{format} holds one input, but the model takes {name!r} too; use .jsonl, .csv or .parquet")
    if model_io.statics:
        name = model_io.statics[0].name
        raise UnusableFile(
            f"{format} has no place for the static input {name!r}: add --static {name}=VALUE, the same for every "
            "sequence, or use .jsonl, .csv or .parquet"
        )


def _open_binary(path: str, model_io: ModelIO, format: FileFormat, table: TableOptions) -> Source:
    if path == STDIN:
        raise UnusableFile(f"{format} cannot be read from a pipe; give the path of a file")
    if format not in ("npy", "npz"):
        need("tables")
        from elman.cli.jobs.files.rows import TableSource
        from elman.cli.jobs.files.tables import ArrowTable, ExcelTable

        file = Path(path)
        found = ExcelTable(file, model_io, table) if format == "excel" else ArrowTable(file, format, table.row_groups)
        return TableSource(found, model_io, table)
    from elman.cli.jobs.files.numpy import NPYSource, NPZSource

    _check_alone(model_io, format)
    return NPYSource(Path(path), model_io) if format == "npy" else NPZSource(Path(path), model_io)


def _sniff(stream: BinaryIO, model_io: ModelIO) -> FileFormat:
    """The format of a pipe, by its first character: JSON lines; otherwise text for models that read it, or CSV."""
    peeked = stream.peek(_PEEKED) if hasattr(stream, "peek") else b""
    text = peeked.decode("utf-16" if peeked.startswith(UTF16_MARKS) else "utf-8-sig", "ignore").lstrip()
    if text[:1] in ("{", "[", '"') and not (model_io.rank == 2 and "," in text and text[:1] == '"'):
        return "jsonl"
    return "txt" if model_io.text else "csv"


def open_sink(
    path: Path | None,
    model_io: ModelIO,
    steps: bool,
    format: FileFormat,
    resume: bool,
    kept: Mapping[str, Any] = MappingProxyType({}),
    for_people: bool = False,
) -> Sink:
    """Open a file or a stream for results, or standard output for None. Raises UnusableFile.

    Args:
        resume: whether the results are added to those in the file.
        kept: the columns of the input that a table of results has too, and their Arrow types.
        for_people: whether standard output is a terminal, for which no format was chosen.
    """
    try:
        return _open_sink(path, model_io, steps, format, resume, kept, for_people)
    except UnusableFile as error:
        raise UnusableFile(f"{path or 'standard output'}: {error}") from None
    except OSError as error:
        raise UnusableFile(f"{path} cannot be written: {error.strerror or error}") from None


def _open_sink(
    path: Path | None,
    model_io: ModelIO,
    steps: bool,
    format: FileFormat,
    resume: bool,
    kept: Mapping[str, Any],
    for_people: bool,
) -> Sink:
    if format in ("txt", "arrow", "excel"):
        raise UnusableFile(f"results cannot be written as {format}; use .jsonl, .csv, .parquet, .npy or .npz")
    if format == "npy" and steps:
        raise UnusableFile(".npy holds final outputs only; for --return steps use .npz, .parquet, .csv or .jsonl")
    if format == "npz" and not steps:
        raise UnusableFile(".npz holds the outputs of every step: add --return steps, or use .npy for final outputs")
    if format in ("npy", "npz") and model_io.heads:
        raise UnusableFile(f".{format} holds one output; for --head use .jsonl, .csv or .parquet")
    if path is None and for_people:
        from elman.cli.jobs.files.terminal import TerminalSink

        return TerminalSink(sys.stdout, model_io, steps)
    if path is None or is_stream(path):
        return _open_stream(path, model_io, steps, format, kept)
    if format == "csv":
        from elman.cli.jobs.files.csv import open_csv_sink

        return open_csv_sink(path, model_io, steps, resume and path.exists(), kept)
    if format == "parquet":
        need("tables")
        from elman.cli.jobs.files.parquet import ParquetSink

        return ParquetSink(path, model_io, steps, resume, kept)
    if format == "jsonl":
        from elman.cli.jobs.files.json import open_json_sink

        return open_json_sink(path, resume and path.exists())
    from elman.cli.jobs.files.numpy import NPYSink, NPZSink

    return NPZSink(path, model_io, resume) if steps else NPYSink(path, model_io, resume and path.exists())


def _open_stream(
    path: Path | None, model_io: ModelIO, steps: bool, format: FileFormat, kept: Mapping[str, Any]
) -> Sink:
    from elman.cli.jobs.files.csv import CSVSink
    from elman.cli.jobs.files.json import JSONSink

    if format == "csv":
        return CSVSink(open_stream(path), model_io, steps, kept=kept)
    if format == "jsonl":
        return JSONSink(open_stream(path))
    raise UnusableFile(f"{format} cannot be written to a pipe; name a file with --output")
