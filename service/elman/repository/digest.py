"""The digest of a model: of its file, and of the files beside it that say more of it."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from elman.repository.triton import config_file, files_of, read_config


class Piece(NamedTuple):
    """A part of a file beside the model, in bytes: a tensor that the model file keeps there.

    A length of -1 is the rest of the file.
    """

    location: str
    offset: int
    length: int


def model_digest(content: "hashlib._Hash", path: Path, external: Iterable[bytes]) -> str:
    """The digest of the model file at `path`, as `sha256:` and hexadecimal digits.

    What is said beside the file is part of the model: a state belongs to both.

    Args:
        content: SHA-256 of the file itself.
        external: what the file keeps in other files.

    Raises:
        OSError: a file beside it cannot be read.
        ModelRefused: its `config.pbtxt` cannot be read.
    """
    digest = content.copy()
    for data in external:
        digest.update(data)
    beside = path.with_name("model.json")
    if beside.is_file():
        digest.update(b"model.json\0" + beside.read_bytes())
    if (config := config_file(path)) is not None:
        for file in (config, *files_of(config, read_config(config).message)):
            digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return f"sha256:{digest.hexdigest()}"
