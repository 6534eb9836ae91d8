"""NPY and NPZ: one sequence, an array of them, or sequences of any lengths in an archive."""

import re
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import orjson
from numpy.lib import format as npy

from elman.cli.jobs.files.record import Answer, Record, Shape, Unusable, parts_of

_PICKLED = (
    "it holds pickled Python objects, which are not loaded for they may run anything; "
    "write sequences of any lengths with np.savez(path, *sequences)"
)
_HEADER = 128


def record_of(data: Any, place: str, shape: Shape, id: str | int | None = None) -> Record:
    """The array of one sequence, `(time, features)` or `(time,)`, as a record."""
    if shape.rank == 2 and shape.size == 1 and data.ndim == 1:
        data = data[:, None]
    if data.ndim != shape.rank:
        return Record(place, id=id, error=f"it has the shape {list(data.shape)}, a sequence here has {_axes(shape)}")
    if data.dtype.kind not in "fiu":
        return Record(place, id=id, error=f"it holds {data.dtype.name}, and not numbers")
    if data.dtype.kind == "f" and not np.isfinite(data).all():
        first = np.argwhere(~np.isfinite(data))[0]
        return Record(place, id=id, error=f"a number is not finite at [{']['.join(map(str, first))}]")
    if shape.kind == "tokens" and data.dtype.kind == "f":
        return Record(place, id=id, error=f"token ids are integers, and it holds {data.dtype.name}")
    if data.dtype.itemsize == 2 and data.dtype.kind == "f":
        data = data.astype(np.float32)
    data = np.ascontiguousarray(data, data.dtype.newbyteorder("="))
    return Record(place, orjson.dumps(data, option=orjson.OPT_SERIALIZE_NUMPY), id)


def _axes(shape: Shape) -> str:
    return f"(time, {shape.size} features)" if shape.rank == 2 else "(time,)"


class NPYSource:
    """One array: a sequence, or a batch of them along the first axis. It is mapped, not read whole."""

    def __init__(self, path: Path, shape: Shape) -> None:
        try:
            data = np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, OSError, EOFError) as error:
            raise Unusable(_PICKLED if "allow_pickle" in str(error) else f"it is not an NPY file: {error}") from None
        self.shape = shape
        single = data.ndim == shape.rank or (shape.size == 1 and data.ndim == 1)
        if shape.text and data.dtype.kind == "U" and data.ndim == 1:
            single = False
        elif not single and data.ndim != shape.rank + 1:
            raise Unusable(f"it has the shape {list(data.shape)}, a sequence has {_axes(shape)}")
        self._data: Any = data[None] if single else data
        self.total: int | None = len(self._data)
        self._position = 0

    @property
    def position(self) -> int:
        return self._position

    def close(self) -> None:
        pass

    def __iter__(self) -> Iterator[Record]:
        for index, item in enumerate(self._data):
            self._position = index + 1
            if isinstance(item, str):
                yield Record(f"item {index}", orjson.dumps(str(item)))
            else:
                yield record_of(item, f"item {index}", self.shape)


class NPZSource:
    """An archive: a sequence a member, or all steps in one member and how many are whose in `lengths`."""

    def __init__(self, path: Path, shape: Shape) -> None:
        try:
            self._archive = zipfile.ZipFile(path)
        except zipfile.BadZipFile as error:
            raise Unusable(f"it is not an NPZ file: {error}") from None
        self.shape = shape
        names = [name.removesuffix(".npy") for name in self._archive.namelist()]
        if not names:
            raise Unusable("the archive is empty")
        self._names = names
        self._lengths = self._read("lengths") if "lengths" in names else None
        self.total: int | None = len(names) if self._lengths is None else len(self._lengths)
        if self._lengths is not None and len(names) != 2:
            raise Unusable(f"beside lengths there is to be one array of all steps, and not {', '.join(names)}")
        self._position = 0

    @property
    def position(self) -> int:
        return self._position

    def _read(self, name: str) -> Any:
        try:
            with self._archive.open(name + ".npy") as stream:
                return npy.read_array(stream, allow_pickle=False)
        except (ValueError, EOFError, zipfile.BadZipFile, KeyError) as error:
            raise Unusable(_PICKLED if "allow_pickle" in str(error) else f"{name} cannot be read: {error}") from None

    def close(self) -> None:
        self._archive.close()

    def __iter__(self) -> Iterator[Record]:
        records = self._members() if self._lengths is None else self._cut(self._lengths)
        with self._archive:
            for index, record in enumerate(records):
                self._position = index + 1
                yield record

    def _members(self) -> Iterator[Record]:
        for name in self._names:
            identity = None if re.fullmatch(r"arr_\d+", name) else name
            try:
                yield record_of(self._read(name), name, self.shape, identity)
            except Unusable as error:
                yield Record(name, id=identity, error=str(error))

    def _cut(self, lengths: Any) -> Iterator[Record]:
        name = next(name for name in self._names if name != "lengths")
        with self._archive.open(name + ".npy") as stream:
            shape, fortran, dtype = _read_header(stream)
            if not shape or int(lengths.sum()) != shape[0]:
                raise Unusable(f"lengths sum to {int(lengths.sum())}, and {name} has the shape {list(shape)}")
            if fortran or dtype.hasobject:
                # Column by column, no step is whole before the last column is read.
                rows = np.split(self._read(name), np.cumsum(lengths.astype(np.int64))[:-1])
                yield from (record_of(data, f"item {index}", self.shape) for index, data in enumerate(rows))
                return
            width = int(np.prod(shape[1:], dtype=np.int64)) * dtype.itemsize
            for index, length in enumerate(lengths.tolist()):
                content = stream.read(length * width)
                if len(content) < length * width:
                    raise Unusable(f"{name} is cut short at item {index}")
                data = np.frombuffer(content, dtype).reshape(length, *shape[1:])
                yield record_of(data, f"item {index}", self.shape)


def _read_header(stream: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    try:
        version = npy.read_magic(stream)
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        return read(stream)
    except ValueError as error:
        raise Unusable(f"it is not an NPY file: {error}") from None


def _header(shape: tuple[int, ...], dtype: str) -> bytes:
    """The head of an NPY file, always of the same size, so that the number of rows can be put right at the end."""
    text = repr({"descr": dtype, "fortran_order": False, "shape": shape}).encode()
    return b"\x93NUMPY\x01\x00" + (_HEADER - 10).to_bytes(2, "little") + text.ljust(_HEADER - 11) + b"\n"


class NPYSink:
    """The output o_n of each sequence, a row each; NaN where there is none."""

    def __init__(self, path: Path, shape: Shape, resume: bool) -> None:
        self._size = shape.outputs
        self._stream: BinaryIO = path.open("r+b" if resume else "w+b")
        row = 4 * self._size
        self.done = max(0, self._stream.seek(0, 2) - _HEADER) // row
        self._write_header()
        self._stream.seek(_HEADER + self.done * row)
        self._stream.truncate()

    def _write_header(self) -> None:
        self._stream.seek(0)
        self._stream.write(_header((self.done, self._size), "<f4"))

    def write(self, answers: list[Answer]) -> None:
        rows = [final_row(answer, self._size) for answer in answers]
        self._stream.write(np.array(rows, "<f4").tobytes())
        self._stream.flush()
        self.done += len(rows)

    def close(self, complete: bool) -> None:
        self._write_header()
        self._stream.close()


def final_row(answer: Answer, size: int) -> list[float]:
    """The output of an answer to `final`."""
    if answer.error is not None:
        return [float("nan")] * size
    row: list[float] = orjson.loads(answer.content)["output"]
    return row


class NPZSink:
    """`outputs`, the rows of all sequences, and `lengths`, how many are whose: gathered apart, joined at the end."""

    def __init__(self, path: Path, shape: Shape, resume: bool) -> None:
        self._path = path
        self._size = shape.outputs
        self._folder = parts_of(path)
        if not resume:
            shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(exist_ok=True)
        self._outputs = _open_raw(self._folder / "outputs")
        self._lengths = _open_raw(self._folder / "lengths")
        self._num_rows, self.done = self._keep_whole()

    def _keep_whole(self) -> tuple[int, int]:
        lengths = np.frombuffer(self._lengths.read(), "<i8", -1) if _whole(self._lengths, 8) else np.empty(0, "<i8")
        ends = np.cumsum(lengths)
        rows = self._outputs.seek(0, 2) // (4 * self._size)
        done = int(np.searchsorted(ends, rows, side="right"))
        kept = int(ends[done - 1]) if done else 0
        for stream, size in ((self._lengths, 8 * done), (self._outputs, 4 * self._size * kept)):
            stream.seek(size)
            stream.truncate()
        return kept, done

    def write(self, answers: list[Answer]) -> None:
        blocks = [[] if answer.error is not None else orjson.loads(answer.content)["outputs"] for answer in answers]
        rows = [row for block in blocks for row in block]
        self._outputs.write(np.array(rows, "<f4").tobytes())
        self._outputs.flush()
        self._lengths.write(np.array([len(block) for block in blocks], "<i8").tobytes())
        self._lengths.flush()
        self._num_rows += len(rows)
        self.done += len(blocks)

    def close(self, complete: bool) -> None:
        self._outputs.close()
        self._lengths.close()
        if not complete:
            return
        heads = {
            "outputs": _header((self._num_rows, self._size), "<f4"),
            "lengths": _header((self.done,), "<i8"),
        }
        whole = self._folder / "whole"
        with zipfile.ZipFile(whole, "w", allowZip64=True) as archive:
            for name, head in heads.items():
                # A time of its own would make every archive another.
                entry = zipfile.ZipInfo(name + ".npy", (1980, 1, 1, 0, 0, 0))
                with archive.open(entry, "w", force_zip64=True) as to, (self._folder / name).open("rb") as read:
                    to.write(head)
                    shutil.copyfileobj(read, to, 1 << 20)
        whole.replace(self._path)
        shutil.rmtree(self._folder)


def _open_raw(path: Path) -> BinaryIO:
    path.touch()
    return path.open("r+b")


def _whole(stream: BinaryIO, size: int) -> bool:
    """Cut off what is less than an item at the end of a stream; whether anything is left, with the stream at 0."""
    count = stream.seek(0, 2) // size
    stream.truncate(count * size)
    stream.seek(0)
    return count > 0
