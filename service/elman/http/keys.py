"""The file of named keys. It holds the hashes of keys, not the keys.

    {"keys": [{"name": "alice", "hashes": ["sha256:..."], "roles": ["infer", "sessions"]}]}

It is JSON and not TOML since a command writes it, which would lose the comments of TOML.
"""

import hashlib
import logging
import math
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from elman.http.roles import Role

_LOG = logging.getLogger("elman")

MOST_HASHES = 16
"""Most keys of one name."""

_MAX_BYTES = 4 * 2**20
_HASH = "sha256:"

# A name stands in log lines and in the labels of metrics.
Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")]
_Hash = Annotated[str, Meta(pattern=r"^sha256:[0-9a-f]{64}\Z")]
_Owner = Annotated[str, Meta(pattern=r"^[0-9a-f]{32}\Z")]
Rate = Annotated[float, Meta(gt=0, le=1e12)]
_Time = Annotated[datetime, Meta(tz=True)]


@dataclass(frozen=True, slots=True)
class Rates:
    """Limits on what is done in a second; None for no limit."""

    requests_per_second: float | None = None
    steps_per_second: float | None = None


class KeyEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """One name, and the keys of its holder.

    Attributes:
        name: sessions belong to it, whichever key is shown.
        hashes: of its keys, `sha256:` and 64 hexadecimal digits each. While a key is replaced there are two.
        roles: what its keys may do.
        expires: when they end; without it, never.
        requests_per_second, steps_per_second, max_sessions: limits; without them, those of the server.
        owner: the owner of its sessions, 32 hexadecimal digits, if they began under a key without a name.
    """

    name: Name
    hashes: Annotated[tuple[_Hash, ...], Meta(min_length=1, max_length=MOST_HASHES)]
    roles: Annotated[tuple[Role, ...], Meta(min_length=1)]
    expires: _Time | None = None
    requests_per_second: Rate | None = None
    steps_per_second: Rate | None = None
    max_sessions: Annotated[int, Meta(ge=0)] | None = None
    owner: _Owner | None = None

    @property
    def digests(self) -> list[bytes]:
        """The SHA-256 of each key, 32 bytes."""
        return [bytes.fromhex(one.removeprefix(_HASH)) for one in self.hashes]

    @property
    def expires_at(self) -> float:
        """Seconds since the epoch; infinity if its keys do not expire."""
        return math.inf if self.expires is None else self.expires.timestamp()

    @property
    def rates(self) -> Rates:
        """Its limits on requests and steps."""
        return Rates(self.requests_per_second, self.steps_per_second)

    @property
    def owner_bytes(self) -> bytes:
        """The owner of its sessions, 16 bytes."""
        return bytes.fromhex(self.owner) if self.owner else hashlib.sha256(b"name " + self.name.encode()).digest()[:16]


class _Content(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    keys: tuple[KeyEntry, ...]


class KeysRefused(ValueError):
    """A file of keys that cannot be used, and why."""


class KeysFile:
    """A file of keys, as it was read last. A file that cannot be used changes nothing.

    Raises KeysRefused if it cannot be used in the beginning.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.failure: str | None = None
        """Why the file as it is now cannot be used; None if it can."""
        self._seen = _seen(path)
        self.entries = read_keys(path)

    def refresh(self) -> bool:
        """Read the file if it has changed. Returns True if its keys have."""
        seen = _seen(self.path)
        if seen == self._seen:
            return False
        self._seen = seen
        try:
            before, self.entries = self.entries, read_keys(self.path)
        except KeysRefused as refused:
            self.failure = str(refused)
            _LOG.error("%s; the keys read before stay in force", refused)
            return False
        self.failure = None
        _LOG.info("%s is read again: %d names", self.path, len(self.entries))
        return self.entries != before


def _seen(path: Path) -> Any:
    """What differs once a file has changed."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_mode


def read_keys(path: Path) -> tuple[KeyEntry, ...]:
    """The entries of a file. Raises KeysRefused."""
    try:
        content, mode = _content(path)
    except OSError as error:
        raise KeysRefused(f"the keys file {path} cannot be read: {error.strerror}") from None
    if len(content) > _MAX_BYTES:
        raise KeysRefused(f"the keys file {path} has more than {_MAX_BYTES} bytes")
    if os.name == "posix" and mode & 0o022:
        # Whoever can write to it can give themselves a key.
        raise KeysRefused(f"the keys file {path} can be written by others: chmod go-w {path}")
    if os.name == "posix" and mode & 0o004:
        _LOG.warning("the keys file %s can be read by others. It holds names and hashes: chmod o-r %s", path, path)
    try:
        entries = msgspec.json.decode(content, type=_Content).keys
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise KeysRefused(f"the keys file {path} is not valid: {error}") from None
    for what in (_repeated(one.name for one in entries), _repeated(one for entry in entries for one in entry.hashes)):
        if what is not None:
            raise KeysRefused(f"the keys file {path} has {what} twice")
    return entries


def _content(path: Path) -> tuple[bytes, int]:
    """The bytes of a file, or one more than is allowed, and its mode. Raises OSError."""
    # A pipe without a writer would block.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    with open(descriptor, "rb") as file:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            raise OSError(0, "it is not a regular file")
        return file.read(_MAX_BYTES + 1), stat.S_IMODE(mode)


def _repeated(texts: Iterable[str]) -> str | None:
    """The first text that was there before."""
    before: set[str] = set()
    return next((one for one in texts if one in before or before.add(one)), None)  # type: ignore[func-returns-value]


def written(entries: Iterable[KeyEntry]) -> bytes:
    """The content of a file with these entries. `read_keys` reads it."""
    return msgspec.json.format(msgspec.json.encode(_Content(tuple(entries)))) + b"\n"


def digest_of(key: bytes) -> bytes:
    """The SHA-256 of a key."""
    return hashlib.sha256(key).digest()


def hash_of(key: str) -> str:
    """The hash of a key, as the file has it."""
    return _HASH + digest_of(key.encode()).hex()
