"""Model files and folders that the user names: which file is meant, its name and version, a repository around it."""

import contextlib
import re
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from elman.cli.exits import refuse

if TYPE_CHECKING:
    from elman.errors import ModelRefused
    from elman.repository.model import Model

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_VERSION = re.compile(r"[1-9][0-9]{0,8}")


def model_file(path: Path) -> Path:
    """The model.onnx of a path: the file itself, in the folder of a version, or in that of the highest version."""
    if path.is_file():
        return path
    folder = path.resolve()
    named = [folder / _file_name(folder.parent)] * bool(_VERSION.fullmatch(folder.name))
    for candidate in (path / "model.onnx", *named, *(version / _file_name(path) for version in _versions(path))):
        if candidate.is_file():
            return candidate
    models = sorted(one for one in path.iterdir() if _versions(one)) if path.is_dir() else []
    hint = f"; it is a folder of models: give one of them, such as {models[0]}" if models else ""
    raise refuse(f"there is no model.onnx at {path}{hint}")


def _versions(folder: Path) -> list[Path]:
    """The folders of versions with a model file, the highest version first."""
    if not folder.is_dir():
        return []
    name = _file_name(folder)
    found = [one for one in folder.iterdir() if one.name.isdigit() and (one / name).is_file()]
    return sorted(found, key=lambda version: -int(version.name))


def _file_name(folder: Path) -> str:
    """The name of the files of a model, which its config.pbtxt may say: often model.onnx."""
    if not (folder / "config.pbtxt").is_file():
        return "model.onnx"
    from elman.repository.triton import file_name

    return file_name(folder)


def load_file(path: Path) -> "tuple[Path, Model]":
    """Load the model of a path in a child process, as a server does; its file and the model. Raises ModelRefused."""
    from elman.cli.jobs.given_settings import settings_from
    from elman.repository.loading import load_isolated

    settings = settings_from({})
    file = model_file(path).resolve()
    name, version = names_of(file)
    return file, load_isolated(file, name, int(version), settings.load_timeout, settings.load_memory or None)


def files_below(path: Path) -> list[Path]:
    """The files .onnx below a folder of many; none where the path is a single model."""
    if not path.is_dir() or (path / "model.onnx").is_file() or _versions(path):
        return []
    return sorted(path.rglob("*.onnx"))


def load_each(files: Iterable[Path]) -> "Iterator[tuple[Path, Model | ModelRefused]]":
    """Load some files as a server does, one after the other: each with its model, or why it is refused."""
    from elman.cli.jobs.given_settings import settings_from
    from elman.errors import ModelRefused
    from elman.repository.loading import Loader

    settings = settings_from({})
    with Loader(settings.load_timeout, settings.load_memory or None) as loader:
        for file in files:
            name, version = names_of(file.resolve())
            try:
                yield file, loader.load(file.resolve(), name, int(version))
            except ModelRefused as refused:
                yield file, refused


def names_of(file: Path) -> tuple[str, str]:
    """Name and version of a model file, from the folders that it is in or from its own name.

    `tagger/2/model.onnx` is version 2 of `tagger`; `tagger/model.onnx` and `tagger.onnx` are version 1. The name is
    `model` if the folder or file has none that a server takes. A config.pbtxt may give the file another name.
    """
    folder = file.parent
    if file.name not in ("model.onnx", _file_name(folder.parent) if _VERSION.fullmatch(folder.name) else ""):
        return _model_name(file.stem), "1"
    if _VERSION.fullmatch(folder.name):
        return _model_name(folder.parent.name), folder.name
    return _model_name(folder.name), "1"


def _model_name(name: str) -> str:
    return name if _NAME.fullmatch(name) else "model"


def put_in_repository(file: Path, root: Path, name: str | None = None) -> tuple[str, str]:
    """Link a model file into the repository `root`. Returns its name and version there."""
    own_name, version = names_of(file)
    name = name or own_name
    (root / name).mkdir(parents=True)
    if file.name == "model.onnx":
        # The whole folder, so that model.json, examples.json and external data are found too.
        (root / name / version).symlink_to(file.parent, target_is_directory=True)
    else:
        (root / name / version).mkdir()
        (root / name / version / "model.onnx").symlink_to(file)
    return name, version


@contextlib.contextmanager
def repository_for(path: Path, name: str | None = None) -> Iterator[Path]:
    """The repository to serve for a path: a folder of models as it is, or a temporary one around a single model.

    Args:
        path: a repository, a file .onnx, a folder with model.onnx, or a folder with 1/model.onnx.
        name: the name of the single model; by default that in its config.pbtxt, or that of its folder or file. A
            repository of one model may be given a name too.
    """
    if not path.exists():
        raise refuse(f"there is no folder or model file {str(path)!r}")
    if path.is_file() and path.suffix != ".onnx":
        raise refuse(f"{str(path)!r} is not a folder and does not end in .onnx")
    versions = [] if path.is_file() else _versions(path)
    if name is not None and path.is_dir() and not versions and not (path / "model.onnx").is_file():
        path = _only_model(path)
        versions = _versions(path)
    if not (path.is_file() or versions or (path / "model.onnx").is_file()):
        yield path
        return
    if name is not None and not _NAME.fullmatch(name):
        raise refuse(f"--name is {name!r}: a name begins with a letter or digit, then also has '.', '_' and '-'")
    with tempfile.TemporaryDirectory(prefix="elman-") as folder:
        root, path = Path(folder), path.resolve()
        if versions:
            name = name or _configured_name(path) or _model_name(path.name)
            (root / name).symlink_to(path, target_is_directory=True)
        else:
            put_in_repository(model_file(path), root, name or _configured_name(path))
        yield root


def _only_model(folder: Path) -> Path:
    """The model of a repository that has one."""
    found = [model for model in sorted(folder.iterdir()) if model.is_dir() and _versions(model)]
    if len(found) != 1:
        raise refuse(f"--name is for a single model, and {str(folder)!r} is a folder of models: it has {len(found)}")
    return found[0]


def _configured_name(folder: Path) -> str | None:
    """The name in the config.pbtxt of a model's folder; None if there is none. The load says what is wrong with it."""
    from elman.errors import ModelRefused
    from elman.repository.model_config import CONFIG_FILE
    from elman.repository.triton import read_config

    try:
        name = read_config(folder / CONFIG_FILE).message.name if (folder / CONFIG_FILE).is_file() else ""
    except ModelRefused:
        return None
    return name if _NAME.fullmatch(name) else None
