"""The LMDB environment of a store: opened and checked, used by many threads, closed when the last is done."""

import contextlib
import fcntl
import os
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import lmdb

from elman.disk import take_room
from elman.errors import StoreUnavailable
from elman.sessions.stores.lmdb.failures import DiskFull, translated, unavailable
from elman.sessions.stores.lmdb.reserve import Reserve

T = TypeVar("T")

_FORMAT_KEY, _FORMAT = b"format", b"elman sessions/2"
_SPARE_BYTES = 16 * 2**20
_MAX_READERS = 2048
# Of the file of locks, which every process maps and writes: LMDB has 64 bytes a reader, and some of its own.
_LOCK_BYTES = 64 * _MAX_READERS + 4096
# A store begins with two pages, which have this size or more, and each of which begins with this number.
_LEAST_BYTES = 2 * 4096
_MAGIC = struct.pack("=I", 0xBEEFC0DE)
# Free pages that new sessions leave in the file where the disk is full: many times what one deletion writes.
_RESERVED_PAGES = 256
# Seconds that closing waits for transactions.
_CLOSE_SECONDS = 2.0


class Environment:
    """An open folder, its four tables, and transactions over them.

    Args:
        folder: made where it is missing.
        max_bytes: how much the sessions may fill.
        sync: whether each transaction reaches the disk before it is acknowledged.

    Attributes:
        page: bytes of a page.
        reserve: room on the disk for deletions.

    Raises:
        StoreUnavailable: the folder cannot hold a store, or holds something else.
    """

    def __init__(self, folder: Path, max_bytes: int, sync: bool) -> None:
        self._gate = threading.Condition()
        self._num_inside = 0
        self._closed = False
        self._folder = folder
        with translated(folder):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            # With the spare room, sessions can still be stepped and deleted when new ones are refused.
            map_size = (max_bytes + max(_SPARE_BYTES, max_bytes // 16)) // 2**16 * 2**16
            self.reserve = Reserve(folder)
            with _alone(folder) as alone:
                _prepare(folder, alone)
                self._env = lmdb.open(
                    str(folder),
                    map_size=map_size,
                    mode=0o600,
                    metasync=sync,
                    sync=sync,
                    readahead=False,
                    max_readers=_MAX_READERS,
                    max_dbs=4,
                    max_spare_txns=8,
                )
        try:
            with translated(folder):
                self._open_tables()
        except BaseException:
            self._env.close()
            raise

    def _open_tables(self) -> None:
        self.release_dead_readers()
        self.page = int(self._env.stat()["psize"])
        expected = (self._env.info()["last_pgno"] + 1) * self.page
        file = self._folder / "data.mdb"
        # Reading past the end of a mapped file kills the process. A page of zeros is only found to be damaged.
        # A page that was cut is emptied: half of it would say that its sessions do not exist.
        size = file.stat().st_size
        if size < expected:
            os.truncate(file, size // self.page * self.page)
            os.truncate(file, expected)
        with self._env.begin(write=True) as txn:
            found = txn.get(_FORMAT_KEY)
            if found is None and txn.stat()["entries"]:
                raise StoreUnavailable("the file in the session store's folder holds something else")
            if found not in (None, _FORMAT):
                raise StoreUnavailable(
                    "the session store was written by another version of this server: "
                    "move its folder away, or name another by ELMAN_STORE_DIR"
                )
            if found is None:
                txn.put(_FORMAT_KEY, _FORMAT)
            self.ids = self._env.open_db(b"ids", txn)
            self.records = self._env.open_db(b"records", txn)
            self.kinds = self._env.open_db(b"kinds", txn)
            self.owners = self._env.open_db(b"owners", txn)
        self.reserve.keep()

    @contextlib.contextmanager
    def transaction(self, write: bool = False) -> Iterator[lmdb.Transaction]:
        """A transaction, undone by whatever is raised in it. Raises StoreUnavailable."""
        with self._gate:
            if self._closed:
                raise StoreUnavailable("the session store is closed")
            self._num_inside += 1
        try:
            with self._env.begin(write=write) as txn:
                yield txn
        except (lmdb.Error, OSError) as error:
            raise unavailable(error, self._folder) from error
        finally:
            with self._gate:
                self._num_inside -= 1
                if self._closed:
                    self._gate.notify_all()

    def delete(self, call: Callable[[int], T], most: int = 1) -> T:
        """A call that only deletes. Where the disk is full it is made again with the reserve, and for fewer sessions.

        Args:
            call: deletes up to so many sessions in a transaction of its own.

        Raises what the call raises.
        """
        try:
            return call(most)
        except DiskFull:
            self.reserve.release()
        while most > 1:
            most = -(-most // 8)
            with contextlib.suppress(DiskFull):
                return call(most)
        return call(1)

    def check_reserve(self, txn: lmdb.Transaction) -> None:
        """Raise DiskFull if new sessions would take the pages that deletions need."""
        if self.reserve.is_spent:
            num_free = self._env.info()["last_pgno"] + 1 - self.used_bytes(txn) // self.page
            if num_free < _RESERVED_PAGES:
                raise DiskFull

    def used_bytes(self, txn: lmdb.Transaction) -> int:
        """Bytes of the pages that hold something."""
        tables = [txn.stat(table) for table in (self.ids, self.records, self.kinds, self.owners)]
        return self.page * sum(one["branch_pages"] + one["leaf_pages"] + one["overflow_pages"] for one in tables)

    def release_dead_readers(self) -> None:
        """Let go of the old pages that processes were reading when they were killed."""
        self._env.reader_check()

    def close(self) -> None:
        """Wait for the transactions under way, and close. A second call does nothing.

        If another process holds the lock for too long, the environment is left open. Nothing is lost when the process
        then ends, as nothing is when it is killed.
        """
        with self._gate:
            if self._closed:
                return
            self._closed = True
            if not self._gate.wait_for(lambda: not self._num_inside, _CLOSE_SECONDS):
                return
        self._env.close()


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[bool]:
    """Keep other processes from opening the store of a folder meanwhile.

    Yields False where the file system cannot lock a folder.
    """
    file = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        alone = False
        with contextlib.suppress(OSError):  # some network file systems
            fcntl.flock(file, fcntl.LOCK_EX)
            alone = True
        yield alone
    finally:
        os.close(file)


def _prepare(folder: Path, alone: bool) -> None:
    """Do for LMDB what a full disk needs. Raises OSError.

    LMDB maps its file of locks, but would make it without room on the disk. Where a new store has no room, LMDB leaves
    the first of its two pages, and then takes that for a damaged store. Such a page is removed if this process is
    `alone`: another one may be about to write the second.
    """
    locks, data = folder / "lock.mdb", folder / "data.mdb"
    # A process that closes this file gives up its locks on it. So it is opened only where no store is open yet.
    if not locks.exists() or locks.stat().st_size < _LOCK_BYTES:
        file = os.open(locks, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            take_room(file, _LOCK_BYTES)
        finally:
            os.close(file)
    if alone and data.exists() and data.stat().st_size < _LEAST_BYTES:
        with data.open("r+b") as begun:
            if _MAGIC in begun.read(32):
                begun.truncate(0)
