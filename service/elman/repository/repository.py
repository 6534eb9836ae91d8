"""The model repository: `<root>/<name>/<version>/model.onnx`, found, loaded and looked up."""

import logging
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from elman.errors import ModelRefused, UnknownModel
from elman.repository.load_cache import LoadCache
from elman.repository.loading import Loader
from elman.repository.model import Model
from elman.repository.triton import INITIAL_FOLDER, chosen_versions, config_file, config_in, file_name

_LOG = logging.getLogger("elman")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True)
class Entry:
    """A model file in the repository."""

    name: str
    version: int
    path: Path


@dataclass(frozen=True)
class Refusal:
    """A model file that is not served, and why."""

    name: str
    version: int | None
    reason: ModelRefused


def scan(root: Path) -> tuple[list[Entry], list[Refusal]]:
    """The model files under `root`, and the folders that hold none where they should."""
    entries: list[Entry] = []
    refusals: list[Refusal] = []
    for folder in _folders(root):
        try:
            entries += _entries(folder)
        except ModelRefused as refused:
            refusals.append(Refusal(folder.name, None, refused))
        except OSError as error:
            reason = ModelRefused(f"the folder {folder.name!r} cannot be read: {error.strerror}")
            refusals.append(Refusal(folder.name, None, reason))
    return entries, refusals


def _entries(folder: Path) -> list[Entry]:
    """The versions of one model. Raises ModelRefused where its folder is not what it should be, and OSError."""
    if not _NAME.fullmatch(folder.name):
        raise ModelRefused(
            f"{folder.name!r} is not a model name",
            remedy="Use letters, digits, dots, dashes and underscores, at most 128.",
        )
    versions = [version for version in _folders(folder) if re.fullmatch(r"[1-9][0-9]{0,8}", version.name)]
    config, name = config_in(folder), file_name(folder)
    there = [int(version.name) for version in versions if (version / name).exists()]
    if config is not None:
        there = chosen_versions(config, there)
    found = [Entry(folder.name, version, folder / str(version) / name) for version in there]
    if not found:
        raise ModelRefused(
            f"the folder {folder.name!r} holds no <version>/{name}", remedy=f"Put the file at {folder.name}/1/{name}."
        )
    return sorted(found, key=lambda entry: entry.version)


def _folders(root: Path) -> Iterator[Path]:
    yield from sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))


class Repository:
    """The models of one folder, by name and version. The highest version of a name is its default.

    It knows what is loaded; what requests see is the server's, which follows once a change is whole. `load_seconds`
    tells how long each file took to load.
    """

    def __init__(
        self, root: Path, timeout: float = 60.0, memory: int | None = None, cache: LoadCache | None = None
    ) -> None:
        self.root = root
        self.refusals: list[Refusal] = []
        self.load_seconds: dict[tuple[str, int], float] = {}
        self._loader = Loader(timeout, memory, cache)
        self._closed = False
        self._models: dict[str, dict[int, Model]] = {}
        self._signatures: dict[tuple[str, int], Signature] = {}
        self._unloaded: set[str] = set()

    def load(self) -> None:
        """Bring what is served up to what lies in the folder: new and changed files loaded, removed ones dropped.

        A file that is refused leaves the version that was served before it in place. Refusals are kept in
        `refusals`. Raises FileNotFoundError where the root is not a folder.
        """
        if not self.root.is_dir():
            raise FileNotFoundError(f"the model repository {str(self.root)!r} is not a folder")
        entries, refusals = scan(self.root)
        names = {entry.name for entry in entries} - self._unloaded
        for name in sorted(names):
            self._load_name(name, [entry for entry in entries if entry.name == name])
        self._loader.close()
        for name in set(self._models) - names:
            self._drop(name)
        there = {(entry.name, entry.version) for entry in entries}
        self._signatures = {key: value for key, value in self._signatures.items() if key in there}
        # What was refused for its place in the folder is found anew; what was refused for its content is kept.
        known = [refusal for refusal in self.refusals if refusal.version is not None and refusal.name in names]
        self.refusals = refusals + known

    def load_name(self, name: str) -> None:
        """Load a model by name, or load it again. Raises UnknownModel, and ModelRefused where a file is refused."""
        try:
            entries, _ = scan(self.root)
        except OSError as error:
            raise ModelRefused(f"the model repository cannot be read: {error.strerror}") from None
        mine = [entry for entry in entries if entry.name == name]
        if not mine:
            raise UnknownModel(f"the repository holds no model {name[:80]!r}")
        self._unloaded.discard(name)
        for entry in mine:
            self._signatures.pop((name, entry.version), None)
        self._load_name(name, mine)
        self._loader.close()
        refused = next((refusal for refusal in self.refusals if refusal.name == name), None)
        if refused is not None:
            raise refused.reason

    def unload_name(self, name: str) -> None:
        """Serve a model no more, until it is loaded by name again. Raises UnknownModel."""
        if name not in self._models:
            raise UnknownModel(f"the model {name[:80]!r} is not loaded")
        self._unloaded.add(name)
        self._drop(name)

    def open(self) -> None:
        """Load again after `close`."""
        self._closed = False

    def close(self) -> None:
        """Load nothing more; a load that is under way ends in a refusal."""
        self._closed = True
        self._loader.close()

    def _load_name(self, name: str, entries: list[Entry]) -> None:
        before = self._models.get(name, {})
        after = {}
        refusals = [refusal for refusal in self.refusals if refusal.name != name]
        refused = {refusal.version: refusal for refusal in self.refusals if refusal.name == name}
        for entry in entries:
            key, signature = (name, entry.version), _signature(entry.path)
            if entry.version in before:
                after[entry.version] = before[entry.version]
            known = entry.version in before or entry.version in refused
            if known and self._signatures.get(key) == signature:
                refusals += [refused[entry.version]] if entry.version in refused else []
                continue
            self._signatures[key] = signature
            try:
                if self._closed:
                    raise ModelRefused("the server is stopping")
                began = time.monotonic()
                after[entry.version] = self._loader.load(entry.path, name, entry.version)
                self.load_seconds[key] = time.monotonic() - began
                _tell(after[entry.version])
            except ModelRefused as reason:
                refusals.append(Refusal(name, entry.version, reason))
        if after:
            self._models[name] = after
        self.refusals = refusals

    def _drop(self, name: str) -> None:
        self._models.pop(name, None)
        self.refusals = [refusal for refusal in self.refusals if refusal.name != name]
        for key in [key for key in self._signatures if key[0] == name]:
            del self._signatures[key]

    def __iter__(self) -> Iterator[Model]:
        for versions in list(self._models.values()):
            yield from versions.values()


def _tell(model: Model) -> None:
    """Log what its `config.pbtxt` says that has no meaning here, or that `model.json` says otherwise."""
    if model.triton is not None and model.triton.notes:
        _LOG.warning("model %s, version %d: %s", model.name, model.version, "; ".join(model.triton.notes))


Signature = tuple[tuple[str, int, int], ...]


def _signature(path: Path) -> Signature:
    """Name, size and time of change of every file in a version's folder: what tells a changed model.

    So are those of the files beside its `config.pbtxt`.
    """
    try:
        files = sorted(path.parent.iterdir())
        if (config := config_file(path)) is not None:
            folders = [config.parent, config.parent / INITIAL_FOLDER]
            files += sorted(
                file for folder in folders if folder.is_dir() for file in folder.iterdir() if file.is_file()
            )
        return tuple((file.name, file.lstat().st_size, file.lstat().st_mtime_ns) for file in files)
    except OSError:  # files come and go while they are copied; the next look sees them whole
        return ()
