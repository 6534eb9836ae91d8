"""What Triton's `config.pbtxt` says of a model, and the configuration of a model that has none."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from elman.errors import ModelRefused
from elman.repository.model_config import (
    CONFIG_FILE,
    ConfigText,
    data_type_of,
    model_config,
    parse_config,
    refused,
)
from elman.repository.network import InputTensor, Network, OutputTensor

INITIAL_FOLDER = "initial_state"
"""The folder beside `config.pbtxt` with what states begin with."""


@dataclass(frozen=True)
class TritonConfig:
    """What the `config.pbtxt` of a model says.

    Attributes:
        content: the message `ModelConfig`, serialised, without what has no meaning here.
        notes: what an operator should know: settings that have no meaning here, and what `model.json` says otherwise.
        names: the inputs whose roles come from it.
        labels: the labels of each output that has some.
    """

    content: bytes
    notes: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def idle_seconds(self) -> float | None:
        """How long the state of a resting sequence is kept; None if it does not say."""
        return (model_config(self.content).sequence_batching.max_sequence_idle_microseconds / 1e6) or None


def config_of(name: str, network: Network, triton: TritonConfig | None, max_batch_size: int) -> Any:
    """The message `ModelConfig` of a model: its own, or one that says what the server found.

    max_batch_size: rows of a request, for a model without a `config.pbtxt`. If it is 0, the dims begin with the rows.
    """
    if triton is not None:
        config = model_config(triton.content)
        config.name = name
        config.backend, config.platform = "onnxruntime", "onnxruntime_onnx"
        return config
    config = model_config()
    config.name, config.backend, config.platform = name, "onnxruntime", "onnxruntime_onnx"
    config.max_batch_size = max_batch_size
    given = [one for one in network.inputs if one.role in ("sequence", "static")]
    tensors: list[InputTensor | OutputTensor] = [*given, *network.answering]
    for tensor in tensors:
        declared = config.input.add() if isinstance(tensor, InputTensor) else config.output.add()
        declared.name, declared.data_type = tensor.name, data_type_of(tensor.dtype)
        has_time = tensor.role in ("sequence", "steps") and network.layout != "step"
        free = (max_batch_size == 0) + has_time
        declared.dims.extend([-1] * free + [-1 if extent is None else extent for extent in tensor.shape])
    return config


# Files


def config_file(model: Path) -> Path | None:
    """The `config.pbtxt` of a model file: beside its version, or beside the file itself; None if there is none."""
    folders = [model.parent.parent] * model.parent.name.isdigit() + [model.parent]
    return next((folder / CONFIG_FILE for folder in folders if (folder / CONFIG_FILE).is_file()), None)


def read_config(path: Path) -> ConfigText:
    """The configuration in a file. Raises ModelRefused if it cannot be read."""
    try:
        status = path.stat()
        return _read(path, status.st_size, status.st_mtime_ns)
    except OSError as error:
        raise refused(f"it cannot be read: {error.strerror}") from None


@lru_cache(256)
def _read(path: Path, size: int, changed_at: int) -> ConfigText:
    # Size and time tell a file that was replaced. What is refused is read again.
    with path.open("rb") as file:
        return parse_config(file.read(2**20))


def config_in(folder: Path) -> Any:
    """The configuration of the model in a folder.

    None if there is none, or none that can be followed: the load of the model says why.
    """
    try:
        config = read_config(folder / CONFIG_FILE).message if (folder / CONFIG_FILE).is_file() else None
        return config if config is None or plain_name(config.default_model_filename or "model.onnx") else None
    except ModelRefused:
        return None


def file_name(folder: Path) -> str:
    """The name of the file in each version of the model in a folder."""
    config = config_in(folder)
    return (config and config.default_model_filename) or "model.onnx"


def files_of(path: Path, config: Any) -> Iterator[Path]:
    """The files beside `config.pbtxt` that belong to the model: labels, and what states begin with.

    Raises ModelRefused for a name that leads out of the folder.
    """
    for output in config.output:
        if output.label_filename:
            yield path.parent / plain_name(output.label_filename)
    for state in config.sequence_batching.state:
        for initial in state.initial_state:
            if initial.data_file:
                yield path.parent / INITIAL_FOLDER / plain_name(initial.data_file)


def plain_name(name: str) -> str:
    """A name of a file. Raises ModelRefused for one that leads out of its folder."""
    if not re.fullmatch(r"[^/\\\0]{1,255}", name) or name in (".", ".."):
        raise refused(f"{name[:80]!r} is not the name of a file in the model's folder")
    return name


# Versions


def chosen_versions(config: Any, versions: list[int]) -> list[int]:
    """The versions that the version policy serves, in order; without one it is the latest, as in Triton.

    versions: those that are there. A policy may name others too.
    """
    policy, ordered = config.version_policy, sorted(versions)
    chosen = policy.WhichOneof("choice")
    if chosen == "specific":
        return sorted({version for version in policy.specific.versions if version > 0})
    return ordered if chosen == "all" else ordered[-max(policy.latest.num_versions, 1) :]
