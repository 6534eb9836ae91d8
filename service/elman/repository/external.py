"""External data: tensors that an ONNX file keeps in files beside it, read only from its own folder."""

import stat
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

import onnx
from onnx import TensorProto
from onnx.external_data_helper import ExternalDataInfo, uses_external_data

from elman.errors import ModelRefused
from elman.repository.digest import Piece
from elman.repository.graph import all_graphs


def embed_external_data(model: onnx.ModelProto, folder: Path) -> tuple[list[Piece], list[bytes]]:
    """Read every external tensor into `model`, and return where they lay and the bytes read.

    Raises ModelRefused for a location that is absolute, leaves the folder, is a link of either kind or is no
    ordinary file, and for data that is missing or short.
    """
    files: dict[str, bytes] = {}
    pieces, read = [], []
    for tensor in _tensors(model):
        if not uses_external_data(tensor):
            continue
        info = ExternalDataInfo(tensor)
        if info.location not in files:
            files[info.location] = _file(folder, info.location, tensor.name).read_bytes()
        offset, content = info.offset or 0, files[info.location]
        length = info.length if info.length is not None else len(content) - offset
        if offset < 0 or length < 0 or offset + length > len(content):
            raise _refused(f"external data of {tensor.name!r} ends beyond its file", info.location)
        tensor.raw_data = content[offset : offset + length]
        tensor.data_location = TensorProto.DEFAULT
        del tensor.external_data[:]
        pieces.append(Piece(info.location, offset, -1 if info.length is None else length))
        read.append(tensor.raw_data)
    return pieces, read


def read_pieces(pieces: Iterable[Piece], folder: Path) -> Iterator[bytes]:
    """What lies there now, less where a file has become short. Raises OSError, and ModelRefused as above."""
    for location, offset, length in pieces:
        with _file(folder, location, location).open("rb") as file:
            file.seek(offset)
            yield file.read(length)


def _tensors(model: onnx.ModelProto) -> Iterator[TensorProto]:
    for graph in all_graphs(model.graph):
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield sparse.values
            yield sparse.indices
        for node in graph.node:
            for item in node.attribute:
                if item.HasField("t"):
                    yield item.t
                yield from item.tensors


def _file(folder: Path, location: str, name: str) -> Path:
    pure = PurePosixPath(location.replace("\\", "/"))
    if not location or pure.is_absolute() or ".." in pure.parts or ":" in pure.parts[0]:
        raise _refused(f"external data of {name!r} lies outside the model's folder", location)
    path = folder
    for part in pure.parts:
        path = path / part
        try:
            status = path.lstat()
        except OSError:
            raise _refused(f"external data of {name!r} is missing", location) from None
        if stat.S_ISLNK(status.st_mode):
            raise _refused(f"external data of {name!r} is reached through a symbolic link", location)
    if not stat.S_ISREG(status.st_mode):
        raise _refused(f"external data of {name!r} is not an ordinary file", location)
    if status.st_nlink > 1:
        raise _refused(f"external data of {name!r} is a hard link", location)
    return path


def _refused(reason: str, location: str) -> ModelRefused:
    return ModelRefused(
        reason,
        node=f"location {location!r}",
        remedy="Put the data in an ordinary file in the folder of the model, under the name that it was exported with.",
    )
