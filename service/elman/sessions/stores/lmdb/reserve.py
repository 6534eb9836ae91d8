"""Room on the disk that is let go of when the disk is full, so that sessions can still be deleted.

LMDB writes changed pages to free places, so that even a deletion needs some. Once it is done, the pages that it
replaced are free, and the next deletion takes those.
"""

import contextlib
import os
from pathlib import Path

from elman.disk import take_room

_RESERVE_BYTES = 2 * 2**20


class Reserve:
    """A file of zeros beside that of the store. It is empty once it was needed, until the disk has room again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file = folder / "reserve"

    @property
    def is_spent(self) -> bool:
        """True if the room was let go of and not taken again yet."""
        try:
            return self._file.stat().st_size == 0
        except OSError:
            return False

    def keep(self) -> None:
        """Take the room, if it is not held and the disk has twice as much. Else deletions may fail on a full disk."""
        with contextlib.suppress(OSError):
            if self._file.exists() and not self.is_spent:
                return
            disk = os.statvfs(self._folder)
            if disk.f_bavail * disk.f_frsize < 2 * _RESERVE_BYTES:
                return
            file = os.open(self._file, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                take_room(file, _RESERVE_BYTES)
            except OSError:
                os.truncate(file, 0)
            finally:
                os.close(file)

    def release(self) -> bool:
        """Let go of the room. False if there is none."""
        if self.is_spent or not self._file.exists():
            return False
        os.truncate(self._file, 0)
        return True
