"""NPY and NPZ: one sequence, a batch of them, or an archive of sequences of any lengths."""

import re
import shutil
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import orjson
from numpy.lib import format as npy

from elman.cli.jobs.files.errors import DAMAGED, UnusableFile, reading
from elman.cli.jobs.files.inputs import sequence_json
from elman.cli.jobs.files.items import InputItem, ModelIO, Outcome, parts_of

_PICKLED = (
    "it holds pickled Python objects. These can run any code, so they are not loaded. "
    "Write sequences of different lengths with np.savez(path, *sequences)"
)
_HEADER = 128


def item_of(
    data: Any, place: str, model_io: ModelIO, id: str | int | None = None, further: Sequence[Any] = ()
) -> InputItem:
    """The array of one sequence, `(time, features)` or `(time,)`, and its further inputs, as an item."""
    if model_io.rank == 2 and model_io.size == 1 and data.ndim == 1:
        data = data[:, None]
    if data.ndim != model_io.rank:
        return InputItem(place, id=id, error=f"its shape is {list(data.shape)}; a sequence has {_axes(model_io)}")
    if data.dtype.kind not in "fiu":
        return InputItem(place, id=id, error=f"it holds {data.dtype.name}, not numbers")
    if data.dtype.kind == "f" and not np.isfinite(data).all():
        first = np.argwhere(~np.isfinite(data))[0]
        return InputItem(place, id=id, error=f"a number is not finite at [{']['.join(map(str, first))}]")
    if model_io.kind == "tokens" and data.dtype.kind == "f":
        return InputItem(place, id=id, error=f"token ids are integers, but it holds {data.dtype.name}")
    if data.dtype.itemsize == 2 and data.dtype.kind == "f":
        data = data.astype(np.float32)
    data = np.ascontiguousarray(data, data.dtype.newbyteorder("="))
    return InputItem(place, sequence_json(model_io, data, further), id)


def _axes(model_io: ModelIO) -> str:
    return f"(time, {model_io.size} features)" if model_io.rank == 2 else "(time,)"


class NPYSource:
    """One array: a sequence, or a batch of sequences along the first axis. The file is memory-mapped."""

    def __init__(self, path: Path, model_io: ModelIO) -> None:
        try:
            data = np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, OSError, EOFError) as error:
            raise UnusableFile(
                _PICKLED if "allow_pickle" in str(error) else f"it is not an NPY file: {error}"
            ) from None
        self.model_io = model_io
        single = data.ndim == model_io.rank or (model_io.size == 1 and data.ndim == 1)
        if model_io.text and data.dtype.kind == "U" and data.ndim == 1:
            single = False
        elif not single and data.ndim != model_io.rank + 1:
            raise UnusableFile(f"its shape is {list(data.shape)}; a sequence has {_axes(model_io)}")
        self._data: Any = data[None] if single else data
        self.total: int | None = len(self._data)
        self.kept: dict[str, Any] = {}
        self._position = 0

    @property
    def position(self) -> int:
        return self._position

    def close(self) -> None:
        pass

    def __iter__(self) -> Iterator[InputItem]:
        for index, item in enumerate(self._data):
            self._position = index + 1
            if isinstance(item, str):
                yield InputItem(f"item {index}", orjson.dumps(str(item)))
            else:
                yield item_of(item, f"item {index}", self.model_io)


class NPZSource:
    """An archive with one sequence in each member; or with all steps in one member, and `lengths`."""

    def __init__(self, path: Path, model_io: ModelIO) -> None:
        try:
            self._archive = zipfile.ZipFile(path)
        except zipfile.BadZipFile as error:
            raise UnusableFile(f"it is not an NPZ file: {error}") from None
        self.model_io = model_io
        names = [name.removesuffix(".npy") for name in self._archive.namelist()]
        if not names:
            raise UnusableFile("the archive is empty")
        self._names = names
        self._lengths = self._read("lengths") if "lengths" in names else None
        if self._lengths is not None:
            _check_lengths(self._lengths)
        self.total: int | None = len(names) if self._lengths is None else len(self._lengths)
        if self._lengths is not None and len(names) != 2:
            raise UnusableFile(
                f"an archive with lengths must hold one other array, with all steps; it holds {', '.join(names)}"
            )
        self.kept: dict[str, Any] = {}
        self._position = 0

    @property
    def position(self) -> int:
        return self._position

    def _read(self, name: str) -> Any:
        try:
            with self._archive.open(name + ".npy") as stream:
                return npy.read_array(stream, allow_pickle=False)
        except (ValueError, *DAMAGED, KeyError, RuntimeError) as error:  # the last if encrypted
            raise UnusableFile(
                _PICKLED if "allow_pickle" in str(error) else f"{name} cannot be read: {error}"
            ) from None

    def close(self) -> None:
        self._archive.close()

    def __iter__(self) -> Iterator[InputItem]:
        items = self._members() if self._lengths is None else self._cut(self._lengths)
        with self._archive, reading():
            for index, item in enumerate(items):
                self._position = index + 1
                yield item

    def _members(self) -> Iterator[InputItem]:
        for name in self._names:
            identity = None if re.fullmatch(r"arr_\d+", name) else name
            try:
                yield item_of(self._read(name), name, self.model_io, identity)
            except UnusableFile as error:
                yield InputItem(name, id=identity, error=str(error))

    def _cut(self, lengths: Any) -> Iterator[InputItem]:
        name = next(name for name in self._names if name != "lengths")
        with self._archive.open(name + ".npy") as stream:
            shape, fortran, dtype = _read_header(stream)
            if not shape or int(lengths.sum()) != shape[0]:
                raise UnusableFile(f"lengths sum to {int(lengths.sum())}, but {name} has the shape {list(shape)}")
            if fortran or dtype.hasobject:
                # The array is stored by columns, so no step is complete until all of it is read.
                rows = np.split(self._read(name), np.cumsum(lengths.astype(np.int64))[:-1])
                yield from (item_of(data, f"item {index}", self.model_io) for index, data in enumerate(rows))
                return
            width = int(np.prod(shape[1:], dtype=np.int64)) * dtype.itemsize
            for index, length in enumerate(lengths.tolist()):
                content = stream.read(length * width)
                if len(content) < length * width:
                    raise UnusableFile(f"{name} is cut short at item {index}")
                data = np.frombuffer(content, dtype).reshape(length, *shape[1:])
                yield item_of(data, f"item {index}", self.model_io)


def _check_lengths(lengths: Any) -> None:
    """Raise UnusableFile if an array does not say how many steps each sequence has."""
    if lengths.ndim != 1 or lengths.dtype.kind not in "iu" or (lengths < 0).any():
        raise UnusableFile("lengths must be a list of whole numbers of 0 or more")


def _read_header(stream: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    try:
        version = npy.read_magic(stream)
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        return read(stream)
    except ValueError as error:
        raise UnusableFile(f"it is not an NPY file: {error}") from None


def _header(shape: tuple[int, ...], dtype: str) -> bytes:
    """The header of an NPY file. Its size is fixed, so that the number of rows can be corrected at the end."""
    text = repr({"descr": dtype, "fortran_order": False, "shape": shape}).encode()
    return b"\x93NUMPY\x01\x00" + (_HEADER - 10).to_bytes(2, "little") + text.ljust(_HEADER - 11) + b"\n"


class NPYSink:
    """Writes one row for each sequence: its output o_n, or NaN if it failed."""

    def __init__(self, path: Path, model_io: ModelIO, resume: bool) -> None:
        self._size = model_io.outputs
        self._stream: BinaryIO = path.open("r+b" if resume else "w+b")
        row = 4 * self._size
        self.done = max(0, self._stream.seek(0, 2) - _HEADER) // row
        self._write_header()
        self._stream.seek(_HEADER + self.done * row)
        self._stream.truncate()

    def _write_header(self) -> None:
        self._stream.seek(0)
        self._stream.write(_header((self.done, self._size), "<f4"))

    def write(self, outcomes: list[Outcome]) -> None:
        rows = [final_row(outcome, self._size) for outcome in outcomes]
        self._stream.write(np.array(rows, "<f4").tobytes())
        self._stream.flush()
        self.done += len(rows)

    def close(self, complete: bool) -> None:
        self._write_header()
        self._stream.close()


def final_row(outcome: Outcome, size: int) -> list[float]:
    """The output of an outcome for `--return final`; NaN if it failed."""
    if outcome.error is not None:
        return [float("nan")] * size
    row: list[float] = orjson.loads(outcome.content)["output"]
    return row


class NPZSink:
    """Writes `outputs`, the rows of all sequences, and `lengths`. At the end these two files become the archive."""

    def __init__(self, path: Path, model_io: ModelIO, resume: bool) -> None:
        self._path = path
        self._size = model_io.outputs
        self._folder = parts_of(path)
        if not resume:
            shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(exist_ok=True)
        self._outputs = _open_raw(self._folder / "outputs")
        self._lengths = _open_raw(self._folder / "lengths")
        self._num_rows, self.done = self._keep_whole()

    def _keep_whole(self) -> tuple[int, int]:
        lengths = (
            np.frombuffer(self._lengths.read(), "<i8", -1) if _drop_unfinished(self._lengths, 8) else np.empty(0, "<i8")
        )
        ends = np.cumsum(lengths)
        rows = self._outputs.seek(0, 2) // (4 * self._size)
        done = int(np.searchsorted(ends, rows, side="right"))
        kept = int(ends[done - 1]) if done else 0
        for stream, size in ((self._lengths, 8 * done), (self._outputs, 4 * self._size * kept)):
            stream.seek(size)
            stream.truncate()
        return kept, done

    def write(self, outcomes: list[Outcome]) -> None:
        blocks = [[] if outcome.error is not None else orjson.loads(outcome.content)["outputs"] for outcome in outcomes]
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
                # A fixed date, so that the same results give the same bytes.
                entry = zipfile.ZipInfo(name + ".npy", (1980, 1, 1, 0, 0, 0))
                with archive.open(entry, "w", force_zip64=True) as to, (self._folder / name).open("rb") as read:
                    to.write(head)
                    shutil.copyfileobj(read, to, 1 << 20)
        whole.replace(self._path)
        shutil.rmtree(self._folder)


def _open_raw(path: Path) -> BinaryIO:
    path.touch()
    return path.open("r+b")


def _drop_unfinished(stream: BinaryIO, size: int) -> bool:
    """Cut off an unfinished item at the end. True if anything is left; the stream is then at its start."""
    count = stream.seek(0, 2) // size
    stream.truncate(count * size)
    stream.seek(0)
    return count > 0
