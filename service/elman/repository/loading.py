"""Loading in a child process, with a limit on time and memory: a hostile file may take the child, not the server.

What the child answers may be kept, and stands as long as nothing changes that it depends on.
"""

import contextlib
import gc
import hashlib
import json
import resource
import stat
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec
import numpy as np

from elman.child import Child, ChildDied, answer_calls
from elman.errors import ModelRefused
from elman.repository.digest import model_digest
from elman.repository.load_cache import LoadCache, key_of
from elman.repository.model import Model
from elman.repository.spec import ModelSpec

_REMEDY = "Check it with elman check; ELMAN_LOAD_TIMEOUT and ELMAN_LOAD_MEMORY say what loading may take."


class Loader:
    """Loads model files in a child process, which is kept for the next file and replaced when it dies.

    Args:
        timeout: seconds that one file may take.
        memory: bytes of address space that the child may have; None for no limit.
        cache: where answers of the child are kept; None to load every file anew.
    """

    def __init__(self, timeout: float = 60.0, memory: int | None = 8 << 30, cache: LoadCache | None = None) -> None:
        self.timeout = timeout
        self._cache = cache
        self._closing = threading.Event()
        self._child = Child("elman.repository.loading", str(int(timeout) + 1), str(memory or 0))

    def __enter__(self) -> "Loader":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._child.close()

    def close(self) -> None:
        """Stop the child; a load that waits for it ends in a refusal, and the next starts another."""
        self._closing.set()
        self._child.close()

    def load(self, path: Path, name: str, version: int) -> Model:
        """As `load_model`. Raises ModelRefused, also where the child died or took too long."""
        self._closing.clear()
        cache = self._cache
        content = None if cache is None else _digest_of(path, cache.limit)
        if cache is None or content is None:
            return self._load(path, name, version)[0]
        key = key_of(content, name, version)
        model = _kept(cache, key, content, path)
        if model is None:
            with cache.turn(key, self.timeout, self._closing):
                model = _kept(cache, key, content, path)
                if model is None:
                    model, answer = self._load(path, name, version)
                    cache.write(key, answer)
        return model

    def _load(self, path: Path, name: str, version: int) -> tuple[Model, memoryview]:
        """The model, and the answer of the child."""
        try:
            answer = self._child.call(json.dumps([str(path), name, version]).encode(), self.timeout)
        except TimeoutError:
            raise ModelRefused(
                f"loading took longer than {self.timeout:g} seconds and was stopped", remedy=_REMEDY
            ) from None
        except ChildDied as death:
            raise ModelRefused(f"loading crashed: {death}", remedy=_REMEDY) from None
        try:
            return _decode_answer(answer), answer
        except msgspec.MsgspecError as error:
            self._child.close()
            raise ModelRefused(f"loading gave no sensible answer: {error}", remedy=_REMEDY) from None


def load_isolated(path: Path, name: str, version: int, timeout: float = 60.0, memory: int | None = 8 << 30) -> Model:
    """Load one file in a child process of its own. Raises ModelRefused."""
    with Loader(timeout, memory) as loader:
        return loader.load(path, name, version)


# The cache


def _digest_of(path: Path, limit: int) -> "hashlib._Hash | None":
    """SHA-256 of a model file; None for one whose answer is not kept. Why it cannot be read is for the load to say."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > limit:
            return None
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256")
    except OSError:
        return None


def _kept(cache: LoadCache, key: str, content: "hashlib._Hash", path: Path) -> Model | None:
    """The model of a kept answer, if the files beside it are the same too."""
    answer = cache.read(key)
    if answer is None:
        return None
    # The load says what is wrong with a file.
    with contextlib.suppress(OSError, ModelRefused, msgspec.MsgspecError):
        model = _decode_answer(answer)
        external: list[bytes] = []
        if model.external:
            from elman.repository.external import read_pieces  # imports onnx, which few starts need

            external += read_pieces(model.external, path.parent)
        return model if model_digest(content, path, external) == model.digest else None
    return None


# The answer, as MessagePack


class _Refused(msgspec.Struct):
    reason: str
    node: str | None
    remedy: str | None
    template: dict[str, Any] | None


class _Answer(msgspec.Struct):
    model: Model | None = None
    refused: _Refused | None = None


def _decode_answer(answer: memoryview) -> Model:
    decoded = msgspec.msgpack.decode(answer, type=_Answer, dec_hook=_dec_hook)
    if decoded.model is not None:
        return decoded.model
    refused = decoded.refused
    if refused is None:
        raise ModelRefused("loading gave no answer")
    raise ModelRefused(refused.reason, node=refused.node, remedy=refused.remedy, template=refused.template)


def _enc_hook(value: object) -> Any:
    if isinstance(value, np.ndarray):
        return [value.dtype.name, list(value.shape), value.tobytes()]
    if isinstance(value, np.dtype):
        return value.name
    if isinstance(value, ModelSpec):
        return value.model_dump(mode="json")
    raise NotImplementedError(type(value).__name__)


def _dec_hook(kind: Any, value: Any) -> Any:
    origin = getattr(kind, "__origin__", kind)
    if origin is np.ndarray:
        dtype, shape, content = value
        return np.frombuffer(content, np.dtype(dtype)).reshape(shape).copy()
    if origin is np.dtype:
        return np.dtype(value)
    if origin is ModelSpec:
        return ModelSpec.model_validate(value)
    raise NotImplementedError(str(kind))


# The child


def _main(answers: int, seconds: int, memory: int) -> None:
    # Neither importing nor proving makes much garbage, and to look for it takes a tenth of the time of both.
    gc.set_threshold(200_000)
    from elman.repository import model_file  # imports onnx, which the server itself does without

    if memory:
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    def answer(request: bytes) -> bytes:
        # Processor time, so that a child whose server was killed does not spin on.
        used = resource.getrusage(resource.RUSAGE_SELF)
        limit = int(used.ru_utime + used.ru_stime) + seconds
        resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.getrlimit(resource.RLIMIT_CPU)[1]))
        path, name, version = json.loads(request)
        return msgspec.msgpack.encode(_answer(model_file.load_model, Path(path), name, version), enc_hook=_enc_hook)

    answer_calls(answers, answer)


def _answer(load_model: Callable[[Path, str, int], Model], path: Path, name: str, version: int) -> _Answer:
    try:
        model = load_model(path, name, version)
        _check_inputs(model)
        return _Answer(model=model)
    except ModelRefused as refused:
        return _Answer(refused=_Refused(refused.reason, refused.node, refused.remedy, refused.template))


def _check_inputs(model: Model) -> None:
    """Raise ModelRefused if the graph needs what a request cannot carry."""
    further = model.network.further
    if further and model.frames:
        raise ModelRefused(
            f"the data is a signal, which the server cuts into frames, and {further[0].name!r} has a value per frame",
            node=f"input {further[0].name!r}",
            remedy='Make the kind of the data "features" in model.json, and send the frames.',
        )


if __name__ == "__main__":
    _main(*map(int, sys.argv[1:]))
