"""Loading in a child process, with a limit on time and memory: a hostile file may take the child, not the server."""

import json
import resource
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec
import numpy as np

from elman.child import Child, ChildDied, answer_calls
from elman.errors import ModelRefused
from elman.repository.model import Model, load_model
from elman.repository.spec import ModelSpec

_REMEDY = "Check it with elman check; ELMAN_LOAD_TIMEOUT and ELMAN_LOAD_MEMORY say what loading may take."


class Loader:
    """Loads model files in a child process, which is kept for the next file and replaced when it dies.

    Args:
        timeout: seconds that one file may take.
        memory: bytes of address space that the child may have; None for no limit.
    """

    def __init__(self, timeout: float = 60.0, memory: int | None = 8 << 30) -> None:
        self.timeout = timeout
        self._child = Child("elman.repository.loading", str(int(timeout) + 1), str(memory or 0))

    def __enter__(self) -> "Loader":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._child.close()

    def close(self) -> None:
        """Stop the child; a load that waits for it ends in a refusal, and the next starts another."""
        self._child.close()

    def load(self, path: Path, name: str, version: int) -> Model:
        """As `load_model`. Raises ModelRefused, also where the child died or took too long."""
        try:
            answer = self._child.call(json.dumps([str(path), name, version]).encode(), self.timeout)
        except TimeoutError:
            raise ModelRefused(
                f"loading took longer than {self.timeout:g} seconds and was stopped", remedy=_REMEDY
            ) from None
        except ChildDied as death:
            raise ModelRefused(f"loading crashed: {death}", remedy=_REMEDY) from None
        try:
            return _decode_answer(answer)
        except msgspec.MsgspecError as error:
            self._child.close()
            raise ModelRefused(f"loading gave no sensible answer: {error}", remedy=_REMEDY) from None


def load_isolated(path: Path, name: str, version: int, timeout: float = 60.0, memory: int | None = 8 << 30) -> Model:
    """Load one file in a child process of its own. Raises ModelRefused."""
    with Loader(timeout, memory) as loader:
        return loader.load(path, name, version)


# The answer, as MessagePack


class _Refused(msgspec.Struct):
    reason: str
    node: str | None
    remedy: str | None
    template: dict[str, Any] | None


class _Answer(msgspec.Struct):
    model: Model | None = None
    refused: _Refused | None = None


def _decode_answer(answer: bytearray) -> Model:
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
    if memory:
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    def answer(request: bytes) -> bytes:
        # Processor time, so that a child whose server was killed does not spin on.
        used = resource.getrusage(resource.RUSAGE_SELF)
        limit = int(used.ru_utime + used.ru_stime) + seconds
        resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.getrlimit(resource.RLIMIT_CPU)[1]))
        path, name, version = json.loads(request)
        return msgspec.msgpack.encode(_answer(Path(path), name, version), enc_hook=_enc_hook)

    answer_calls(answers, answer)


def _answer(path: Path, name: str, version: int) -> _Answer:
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
