"""What LMDB and the system raise, as StoreUnavailable: what is wrong with the store, and never where it is."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

import lmdb

from elman.errors import StoreUnavailable


class Damaged(StoreUnavailable):
    """One part of the store cannot be read. The rest may be intact."""


class DiskFull(StoreUnavailable):
    """The disk has no room for what is to be written."""

    def __init__(self) -> None:
        super().__init__(_DISK_FULL)


@contextlib.contextmanager
def translated(folder: Path) -> Iterator[None]:
    """Raises StoreUnavailable for the errors of LMDB and the system, of a store in this folder."""
    try:
        yield
    except (lmdb.Error, OSError) as error:
        raise unavailable(error, folder) from error


def unavailable(error: lmdb.Error | OSError, folder: Path) -> StoreUnavailable:
    """The error that a caller of the store in this folder is told."""
    # Of a system error, LMDB passes on only the text.
    text = str(error)
    if any(getattr(error, "errno", None) == number or os.strerror(number) in text for number in _FULL):
        return DiskFull()
    # A write that the disk has no room to finish is an input/output error to LMDB.
    if os.strerror(errno.EIO) in text and _is_full(folder):
        return DiskFull()
    if isinstance(error, OSError):
        found = next((reason for numbers, reason in _SYSTEM_REASONS if error.errno in numbers), None)
        return StoreUnavailable(found or f"the session store fails: {os.strerror(error.errno or 0)}")
    for numbers, reason in _SYSTEM_REASONS:
        if any(os.strerror(number) in text for number in numbers):
            return StoreUnavailable(reason)
    found = next((reason for kind, reason in _REASONS if isinstance(error, kind)), None)
    kind = Damaged if isinstance(error, (lmdb.CorruptedError, lmdb.PageNotFoundError)) else StoreUnavailable
    return kind(found or f"the session store fails: {type(error).__name__}")


def _is_full(folder: Path) -> bool:
    try:
        disk = os.statvfs(folder)
    except OSError:
        return False
    return disk.f_bavail * disk.f_frsize < _FULL_BYTES


_REASONS: tuple[tuple[type[lmdb.Error], str], ...] = (
    (lmdb.MapFullError, "the session store is full: its file has reached its largest size"),
    (lmdb.TxnFullError, "the session store cannot write so many changes at once"),
    (lmdb.ReadersFullError, "the session store has too many readers"),
    (lmdb.MapResizedError, "another process has opened the session store with a larger maximum size"),
    (lmdb.MemoryError, "the session store cannot be mapped into memory: there is too little memory"),
    (lmdb.ReadonlyError, "the session store's folder cannot be written to"),
    (lmdb.VersionMismatchError, "the session store's file is damaged, or of another version of LMDB"),
    (lmdb.InvalidError, "the session store's file is damaged, or no session store at all"),
    (lmdb.CorruptedError, "the session store's file is damaged"),
    (lmdb.PageNotFoundError, "the session store's file is damaged: a page is missing"),
    (lmdb.PanicError, "the session store failed during a write; restart the server to use it again"),
)

_DISK_FULL = "the session store's disk is full"
_FULL = (errno.ENOSPC, errno.EDQUOT)
# A write that was cut short leaves nothing, but another process may have let go of some pages since.
_FULL_BYTES = 2**16

_SYSTEM_REASONS: tuple[tuple[tuple[int, ...], str], ...] = (
    ((errno.EACCES, errno.EPERM, errno.EROFS), "the session store's folder cannot be written to"),
    ((errno.EEXIST, errno.ENOTDIR), "the path of the session store is no folder"),
    ((errno.EIO,), "the session store's disk fails"),
)
