"""What loading found of model files, kept on disk, so that a start need not prove again what was proved before.

A file of the cache is one answer of the process that loads, and its name is a digest of what decides that answer: the
model file, the code of this room, the libraries and the processor. It begins with a digest of its name and its content.
A file without the right one is passed over, as is one that another user owns or that everybody may write.
"""

import contextlib
import fcntl
import hashlib
import logging
import os
import platform
import re
import stat
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from functools import cache
from importlib.metadata import version
from pathlib import Path

import msgspec
import numpy as np
import pydantic
from google.protobuf import __version__ as protobuf_version

import elman.errors
from elman import __version__
from elman.repository.runtime import RUNTIME_BUILD

# What /proc/cpuinfo says of the kind of a processor; the rest differs from moment to moment and from core to core.
_PROCESSOR = re.compile(r"(vendor_id|cpu family|model|model name|stepping|cache size|flags|Features|CPU \w+)\s*:")
_FILE = re.compile(r"[0-9a-f]{64}\.(load|lock|draft\w+)")
_DIGEST_NBYTES = 32
# Seconds between two looks at whether another process has finished a load.
_LOOK_AGAIN = 0.02

_LOG = logging.getLogger("elman")


class LoadCache:
    """A folder of answers. Several processes may share it. Whatever the disk does costs the cache and nothing else.

    Args:
        folder: made when it is first written to, for its owner alone.
        limit: bytes of all files together. Those that were not used for longest are removed.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.limit = limit
        self._folder = folder
        self._warned = False

    def read(self, key: str) -> memoryview | None:
        """The answer that is kept; None if there is none to be trusted."""
        path = self._folder / f"{key}.load"
        try:
            with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
                status = os.fstat(file.fileno())
                owned = stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid()
                if not owned or status.st_mode & stat.S_IWOTH or status.st_size > self.limit:
                    return None
                content = memoryview(file.read())
        except OSError:
            return None
        if content[:_DIGEST_NBYTES] != _seal(key, content[_DIGEST_NBYTES:]):
            return None
        with contextlib.suppress(OSError):
            os.utime(path)  # so that it is not the first to be removed
        return content[_DIGEST_NBYTES:]

    def write(self, key: str, answer: bytes | memoryview) -> None:
        """Keep an answer, if there is room for it."""
        if len(answer) + _DIGEST_NBYTES > self.limit:
            return
        draft = None
        try:
            self._make_folder()
            with tempfile.NamedTemporaryFile(dir=self._folder, prefix=f"{key}.draft", delete=False) as file:
                draft = Path(file.name)
                file.write(_seal(key, answer))
                file.write(answer)
            draft.replace(self._folder / f"{key}.load")
            self._remove_oldest()
        except OSError as error:
            self._warn(error)
            if draft is not None:
                with contextlib.suppress(OSError):
                    draft.unlink(missing_ok=True)

    @contextlib.contextmanager
    def turn(self, key: str, timeout: float, stopped: threading.Event) -> Iterator[None]:
        """Wait while another process loads the same file: `timeout` seconds at most, or until `stopped`."""
        path = self._folder / f"{key}.lock"
        try:
            self._make_folder()
            lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            self._warn(error)
            yield
            return
        until, mine = time.monotonic() + timeout, False
        try:
            while not (mine := _take(lock)) and time.monotonic() < until and not stopped.wait(_LOOK_AGAIN):
                pass
            yield
        finally:
            if mine:
                # A third process may now lock a new file of that name. Two then load at once, which is only slower.
                with contextlib.suppress(OSError):
                    path.unlink()
            os.close(lock)

    def _make_folder(self) -> None:
        for folder in (self._folder.parent, self._folder):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def _remove_oldest(self) -> None:
        found = []
        for path in self._folder.iterdir():
            with contextlib.suppress(FileNotFoundError):  # another process removes them too
                if _FILE.fullmatch(path.name):
                    found.append((path.stat(), path))
        left = self.limit
        for status, path in sorted(found, key=lambda one: -one[0].st_mtime_ns):
            left -= status.st_size
            if left < 0:
                path.unlink(missing_ok=True)

    def _warn(self, error: OSError) -> None:
        if not self._warned:
            self._warned = True
            _LOG.warning("what loading finds cannot be kept in %s: %s", self._folder, error.strerror)


def key_of(content: "hashlib._Hash", name: str, version: int) -> str:
    """The name of what is kept of a model file.

    content: SHA-256 of the file.
    """
    parts = [_surroundings(), content.hexdigest(), name, str(version)]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


@cache
def _surroundings() -> str:
    """A digest of what decides a load beside the model: this code, Python, the libraries and the processor."""
    digest = hashlib.sha256()
    for source in [Path(elman.errors.__file__), *sorted(Path(__file__).parent.glob("*.py*"))]:
        digest.update(source.name.encode() + b"\0" + source.read_bytes())
    # onnx alone does not say it without being imported, which takes long.
    libraries = [np.__version__, msgspec.__version__, pydantic.VERSION, protobuf_version, version("onnx")]
    digest.update("\0".join([__version__, sys.version, RUNTIME_BUILD, *libraries, _processor()]).encode())
    return digest.hexdigest()


def _processor() -> str:
    """The processor and what it can do, by which ONNX Runtime and NumPy choose their kernels."""
    try:
        with Path("/proc/cpuinfo").open("rb", buffering=0) as file:
            text = file.read(2**14).decode(errors="replace").split("\n\n")[0]
    except OSError:
        text = ""
    found = [line for line in text.splitlines() if _PROCESSOR.match(line)]
    return "\n".join([platform.machine(), *found])


def _seal(key: str, answer: bytes | memoryview) -> bytes:
    digest = hashlib.sha256(key.encode())
    digest.update(answer)
    return digest.digest()


def _take(lock: int) -> bool:
    """Take a lock, if it is free."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
