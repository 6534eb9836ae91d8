"""Sessions in a file beside the server, by LMDB: shared by the processes of one machine, intact after `kill -9`.

Four tables. `ids`: a session's id to the number under which it is kept; numbers ascend, so that what is new is always
put at the end and pages fill up. `records`: number and part to a piece of the session: facts that change and room for
two states, of a size that never changes, so that a step writes in place. `kinds`: a small number to what many sessions
have in common: owner, model, version, digest. `owners`: what each holds; and, longer keys, owner and id of each
session.

What lasts. A transaction that was acknowledged has been handed to the operating system: killing the server, however
rudely, loses nothing and leaves nothing half-written. Where the machine itself stops (power, kernel), `sync=True` loses
nothing either, at the price of a flush a transaction. With `sync=False` the last seconds may be lost; and, as LMDB says
of it, where the file system does not write in the order it was told to, the file may be damaged. Checksums refuse a
session that is broken, but a page that was never written may still show a session, whole, at an earlier step.
"""

import contextlib
import errno
import os
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import lmdb

from elman.errors import StoreUnavailable
from elman.sessions.store import Advance, Record, Usage, check_quota, key_of

_FORMAT = b"elman sessions/2"
_FORMAT_KEY = b"format"

# Of a session: kind, size of a snapshot, created, ttl, expires, revision, step, previous step, flags, content, and the
# checksums of both snapshots; then the checksum of all that.
_FACTS = struct.Struct("<IIdddQQQB16sII")
_SUM = struct.Struct("<I")
_HEAD_NBYTES = _FACTS.size + _SUM.size
_SLOT, _HAS_PREVIOUS, _HAS_CONTENT = 1, 2, 4
_OWNED = struct.Struct("<QQ")
_NUMBER = struct.Struct(">Q")
_KIND = struct.Struct("<I")
_OWNER_NBYTES = 16

# Records are numbered in steps of so many parts.
_PARTS_BITS = 8
# What LMDB spends: of a page, of a node in it beside key and value, and in a node that only points to pages.
_PAGE_HEADER, _NODE, _POINTER = 16, 10, 8
# What a layout may take beyond one and a half times both states: of 200 bytes what entries elsewhere leave, up to 190.
_MARGIN = 8
_MOST_PIECES = 12
# For each session that a sweep may forget, so many are looked at.
_LOOKED_AT = 4
_SPARE_BYTES = 16 * 2**20
_MAX_READERS = 2048


@dataclass(frozen=True, slots=True)
class _Layout:
    """How the two states of a session are cut, so that little of a page is wasted.

    A record is a head (facts and the rest of the states, in `num_pieces` pieces that fill leaf pages) and bodies that
    fill whole pages: one of both states (`joint`), or one of each, so that a step of a large state writes one only.

    Attributes:
        size: bytes of a state. inside: bytes of a body, 0 where there is none.
        piece: bytes of a piece of the head, the last being shorter.
    """

    size: int
    joint: bool
    inside: int
    num_pieces: int
    piece: int

    def body(self, record: int, slot: int) -> bytes:
        """Key of a body."""
        return _NUMBER.pack(record + self.num_pieces + slot)

    @property
    def num_bodies(self) -> int:
        return 0 if not self.inside else 1 if self.joint else 2


@lru_cache(maxsize=1024)
def _layout(size: int, page: int) -> _Layout:
    """The layout of states of `size` bytes, in pages of `page` bytes: of the fewest parts among those that take less
    than half as much again as both states, and otherwise the one that takes least."""
    room = (page - _PAGE_HEADER) // 2 & ~1
    most = room - 2 - _POINTER - _NUMBER.size
    best: _Layout | None = None
    least: tuple[bool, float, float] = (True, float("inf"), float("inf"))
    for joint in (True, False) if size <= page else (False,):
        whole, count = (2 * size, 1) if joint else (size, 2)
        fits = (whole + _PAGE_HEADER) // page
        for num_pages in (0, fits, fits + 1):
            inside = min(whole, num_pages * page - _PAGE_HEADER) if num_pages else 0
            if num_pages and inside <= most:
                continue
            head = _HEAD_NBYTES + count * (whole - inside)
            fewest = -(-head // most)
            for num_pieces in range(fewest, min(fewest + 3, _MOST_PIECES) + 1):
                piece = -(-head // num_pieces)
                node = _NODE + _NUMBER.size + piece + piece % 2
                nbytes = num_pieces * page / ((page - _PAGE_HEADER) // node) + count * num_pages * page
                num_parts = num_pieces + (count if num_pages else 0)
                rank = (False, num_parts, nbytes) if nbytes <= 3 * size + _MARGIN else (True, nbytes, num_parts)
                if piece >= _HEAD_NBYTES and -(-head // piece) == num_pieces and rank < least:
                    best, least = _Layout(size, joint or not inside, inside, num_pieces, piece), rank
    assert best is not None, "a state in pages of its own is always possible"
    return best


@dataclass(frozen=True, slots=True)
class _Kind:
    """What sessions of one owner and model have in common."""

    owner: bytes
    model: str
    version: int
    digest: bytes

    def pack(self) -> bytes:
        return struct.pack("<16sQ32s", self.owner, self.version, self.digest) + self.model.encode()

    @staticmethod
    def unpack(content: bytes) -> "_Kind":
        owner, version, digest = struct.unpack_from("<16sQ32s", content)
        return _Kind(owner, content[56:].decode(), version, digest)


@dataclass(slots=True)
class _Head:
    """A session's head as it was read."""

    record: int
    layout: _Layout
    kind: int
    created_at: float
    ttl: float
    expires_at: float
    revision: int
    step: int
    previous_step: int
    flags: int
    content: bytes
    checksums: list[int]
    rest: bytes

    def pack(self, rest: bytes | bytearray) -> bytes:
        """The head as bytes, with another rest of the states."""
        facts = _FACTS.pack(
            self.kind,
            self.layout.size,
            self.created_at,
            self.ttl,
            self.expires_at,
            self.revision,
            self.step,
            self.previous_step,
            self.flags,
            self.content,
            *self.checksums,
        )
        return facts + _SUM.pack(zlib.crc32(facts)) + rest


class _Damaged(StoreUnavailable):
    """A part of the store cannot be read; the rest may well be."""


class LMDBStore:
    """A `Store` in a folder.

    Args:
        folder: made where it is missing. One process may open it once at a time; a process that forks opens it after.
        max_bytes: how much the sessions may fill; the file grows as they do.
        sync: whether each transaction reaches the disk before it is acknowledged.
        clock: seconds since the epoch.

    Raises:
        StoreUnavailable: where there can be no store in that folder, and why.
    """

    def __init__(
        self,
        folder: Path,
        max_bytes: int = 64 * 2**30,
        sync: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._clock = clock
        self._max_bytes = max_bytes
        self._gate = threading.Condition()
        self._num_inside = 0
        self._closed = False
        self._kinds_known: dict[int, _Kind] = {}
        self._kind_numbers: dict[_Kind, int] = {}
        self._sweeping = threading.Lock()
        self._swept = b""
        with _told():
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            # The spare room lets sessions be stepped and forgotten where there is no more for new ones.
            map_size = (max_bytes + max(_SPARE_BYTES, max_bytes // 16)) // 2**16 * 2**16
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
            with _told():
                self._open(folder)
        except BaseException:
            self._env.close()
            raise

    def _open(self, folder: Path) -> None:
        self._env.reader_check()
        self._page = self._env.stat()["psize"]
        expected = (self._env.info()["last_pgno"] + 1) * self._page
        file = folder / "data.mdb"
        # Reading past the end of a mapped file kills the process; zeros are found to be no page.
        if file.stat().st_size < expected:
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
            self._ids = self._env.open_db(b"ids", txn)
            self._records = self._env.open_db(b"records", txn)
            self._kinds = self._env.open_db(b"kinds", txn)
            self._owners = self._env.open_db(b"owners", txn)

    def create(self, record: Record, most: Usage) -> None:
        key = key_of(record.id)
        if key is None:
            raise ValueError("a session's id is 128 bits or more in lower-case hexadecimal")
        kind = self._kind_number(_kind_of(record))
        with self._transaction(write=True) as txn:
            if _get(txn, key, self._ids):
                raise ValueError("there is a session of this id")
            check_quota(self._usage(txn, record.owner), len(record.snapshot), most)
            if self._num_pages(txn) * self._page >= self._max_bytes:
                raise StoreUnavailable("the session store is full: sessions fill all the room that it may take")
            self._insert(txn, key, record, kind)

    def read(self, id: str) -> Record | None:
        key = key_of(id)
        if key is None:
            return None
        with self._transaction() as txn:
            head = self._live(txn, key)
            if head is None:
                return None
            kind = self._kind(txn, head.kind)
            slots = self._slots(txn, head)
        slot = head.flags & _SLOT
        snapshot, previous = slots[slot], slots[1 - slot] if head.flags & _HAS_PREVIOUS else None
        if zlib.crc32(snapshot) != head.checksums[slot]:
            raise _Damaged("the state of this session is damaged")
        if previous is not None and zlib.crc32(previous) != head.checksums[1 - slot]:
            raise _Damaged("the state of this session is damaged")
        return _record(id, head, kind, snapshot, previous)

    def advance(self, advances: Sequence[Advance]) -> list[bool]:
        # Outside the transaction, which others wait for.
        sums = [zlib.crc32(one.snapshot) for one in advances]
        now = self._clock()
        try:
            with self._transaction(write=True) as txn:
                return [self._advance(txn, one, sum, now) for one, sum in zip(advances, sums, strict=True)]
        except _Damaged:
            if len(advances) == 1:
                raise
        # One session that is damaged stops no other; whose it is hears of it when it is read.
        return [self._advance_alone(one) for one in advances]

    def replace(self, record: Record, revision: int) -> bool:
        key = key_of(record.id)
        if key is None:
            return False
        kind = self._kind_number(_kind_of(record))
        with self._transaction(write=True) as txn:
            head = self._live(txn, key)
            if head is None or head.revision != revision:
                return False
            if head.kind == kind and head.layout.size == len(record.snapshot):
                self._write(txn, head.record, record, kind)
            else:
                self._remove(txn, key, head)
                self._insert(txn, key, record, kind)
            return True

    def delete(self, id: str) -> bool:
        key = key_of(id)
        if key is None:
            return False
        with self._transaction(write=True) as txn:
            head = self._head(txn, key)
            if head is None:
                return False
            self._remove(txn, key, head)
            return head.expires_at > self._clock()

    def list(self, owner: bytes, limit: int, after: str | None = None, model: str | None = None) -> list[Record]:
        start = b"" if after is None else key_of(after)
        records: list[Record] = []
        if start is None or limit <= 0:
            return records
        now = self._clock()
        with self._transaction() as txn, txn.cursor(self._owners) as cursor:
            # The first that is greater: what `after` names is left out, and so is the owner's own entry.
            found = cursor.set_range(owner + start + b"\0")
            while found and len(records) < limit:
                entry = bytes(cursor.key())
                if entry[:_OWNER_NBYTES] != owner:
                    break
                head = self._intact(txn, entry[_OWNER_NBYTES:])
                if head is not None and head.expires_at > now:
                    kind = self._kind(txn, head.kind)
                    if model is None or kind.model == model:
                        records.append(_record(entry[_OWNER_NBYTES:].hex(), head, kind, b"", None))
                found = cursor.next()
        return records

    def usage(self, owner: bytes) -> Usage:
        with self._transaction() as txn:
            return self._usage(txn, owner)

    def sweep(self, now: float, limit: int) -> int:
        if limit <= 0:
            return 0
        with self._sweeping:
            expired = self._expired(now, limit)
            if not expired:
                return 0
            num_swept = 0
            with self._transaction(write=True) as txn:
                for key in expired:
                    head = self._intact(txn, key)
                    if head is not None and head.expires_at <= now:
                        self._remove(txn, key, head)
                        num_swept += 1
            return num_swept

    def __len__(self) -> int:
        with self._transaction() as txn:
            return int(txn.stat(self._ids)["entries"])

    def close(self) -> None:
        with self._gate:
            if self._closed:
                return
            self._closed = True
            self._gate.wait_for(lambda: not self._num_inside)
        self._env.close()

    @contextlib.contextmanager
    def _transaction(self, write: bool = False) -> Iterator[lmdb.Transaction]:
        """A transaction that is undone by whatever is raised in it. Raises StoreUnavailable."""
        with self._gate:
            if self._closed:
                raise StoreUnavailable("the session store is closed")
            self._num_inside += 1
        try:
            with self._env.begin(write=write) as txn:
                yield txn
        except (lmdb.Error, OSError) as error:
            raise _unavailable(error) from error
        finally:
            with self._gate:
                self._num_inside -= 1
                if self._closed:
                    self._gate.notify_all()

    def _num_pages(self, txn: lmdb.Transaction) -> int:
        """Pages that hold something."""
        tables = [txn.stat(table) for table in (self._ids, self._records, self._kinds, self._owners)]
        return sum(one["branch_pages"] + one["leaf_pages"] + one["overflow_pages"] for one in tables)

    def _expired(self, now: float, limit: int) -> Sequence[bytes]:
        """Ids of expired sessions, from where the last look ended."""
        expired: list[bytes] = []
        with self._transaction() as txn, txn.cursor(self._ids) as cursor:
            # What a killed process was reading is kept for it until somebody looks.
            self._env.reader_check()
            found = cursor.set_range(self._swept) if self._swept else cursor.first()
            for _ in range(_LOOKED_AT * limit):
                if not found:
                    self._swept = b""
                    return expired
                key = bytes(cursor.key())
                self._swept = key
                if len(expired) == limit:
                    return expired
                facts = _get(txn, cursor.value(), self._records)
                if len(facts) >= _HEAD_NBYTES and _FACTS.unpack_from(facts)[4] <= now:
                    expired.append(key)
                found = cursor.next()
        self._swept += b"\0"
        return expired

    def _head(self, txn: lmdb.Transaction, key: bytes) -> _Head | None:
        """A session's head, or None where there is no such session."""
        number = _get(txn, key, self._ids)
        if not number:
            return None
        content = _get(txn, number, self._records)
        if len(content) < _HEAD_NBYTES or _SUM.unpack_from(content, _FACTS.size)[0] != zlib.crc32(
            content[: _FACTS.size]
        ):
            raise _Damaged("the session store is damaged: it lacks the record of this session")
        kind, size, created, ttl, expires, revision, step, before, flags, asked, *sums = _FACTS.unpack_from(content)
        layout = _layout(size, self._page)
        (record,) = _NUMBER.unpack(number)
        for part in range(1, layout.num_pieces):
            content += _get(txn, _NUMBER.pack(record + part), self._records)
        return _Head(
            record,
            layout,
            kind,
            created,
            ttl,
            expires,
            revision,
            step,
            before,
            flags,
            asked,
            sums,
            content[_HEAD_NBYTES:],
        )

    def _intact(self, txn: lmdb.Transaction, key: bytes) -> _Head | None:
        """A session's head where it is not damaged: for what looks at many."""
        try:
            return self._head(txn, key)
        except _Damaged:
            return None

    def _live(self, txn: lmdb.Transaction, key: bytes) -> _Head | None:
        head = self._head(txn, key)
        return head if head is not None and head.expires_at > self._clock() else None

    def _slots(self, txn: lmdb.Transaction, head: _Head) -> tuple[bytes, bytes]:
        """Both states of a session, as they lie."""
        layout, size = head.layout, head.layout.size
        bodies = [_get(txn, layout.body(head.record, slot), self._records) for slot in range(layout.num_bodies)]
        if layout.joint:
            states = b"".join(bodies) + head.rest
            return states[:size], states[size:]
        rest = size - layout.inside
        return bodies[0] + head.rest[:rest], bodies[1] + head.rest[rest:]

    def _advance(self, txn: lmdb.Transaction, one: Advance, checksum: int, now: float) -> bool:
        key = key_of(one.id)
        head = None if key is None else self._head(txn, key)
        if head is None or head.expires_at <= now or head.revision != one.revision:
            return False
        layout, record = head.layout, head.record
        if len(one.snapshot) != layout.size:
            raise ValueError(f"a snapshot of {len(one.snapshot)} bytes, where the session's have {layout.size}")
        slot = 1 - (head.flags & _SLOT)
        if layout.joint:
            body = _get(txn, layout.body(record, 0), self._records) if layout.inside else b""
            states = bytearray(body + head.rest)
            states[slot * layout.size : (slot + 1) * layout.size] = one.snapshot
            rest = states[layout.inside :]
            if layout.inside:
                txn.put(layout.body(record, 0), bytes(states[: layout.inside]), db=self._records)
        else:
            size = layout.size - layout.inside
            rest = bytearray(head.rest)
            rest[slot * size : (slot + 1) * size] = one.snapshot[layout.inside :]
            txn.put(layout.body(record, slot), one.snapshot[: layout.inside], db=self._records)
        head.flags = slot | _HAS_PREVIOUS | (_HAS_CONTENT if one.content else 0)
        head.content, head.checksums[slot] = one.content, checksum
        head.revision, head.previous_step, head.step = head.revision + 1, head.step, one.step
        head.expires_at = one.expires_at
        self._put_head(txn, layout, record, head.pack(rest))
        return True

    def _advance_alone(self, one: Advance) -> bool:
        try:
            return self.advance([one])[0]
        except _Damaged:
            return False

    def _put_head(
        self, txn: lmdb.Transaction, layout: _Layout, record: int, content: bytes, append: bool = False
    ) -> None:
        for part in range(layout.num_pieces):
            piece = content[part * layout.piece : (part + 1) * layout.piece]
            txn.put(_NUMBER.pack(record + part), piece, append=append, db=self._records)

    def _write(self, txn: lmdb.Transaction, number: int, record: Record, kind: int, append: bool = False) -> None:
        """Put all of a record where it belongs."""
        size, previous = len(record.snapshot), record.previous
        layout = _layout(size, self._page)
        if previous is not None and len(previous) != size:
            raise ValueError("the states of a session are of one size")
        if len(record.content) not in (0, 16):
            raise ValueError("what stands for content has 16 bytes")
        flags = (_HAS_PREVIOUS if previous is not None else 0) | (_HAS_CONTENT if record.content else 0)
        head = _Head(
            number,
            layout,
            kind,
            record.created_at,
            record.ttl,
            record.expires_at,
            record.revision,
            record.step,
            record.previous_step,
            flags,
            record.content,
            [zlib.crc32(record.snapshot), 0 if previous is None else zlib.crc32(previous)],
            b"",
        )
        slots = (record.snapshot, bytes(size) if previous is None else previous)
        if layout.joint:
            states = slots[0] + slots[1]
            bodies, rest = [states[: layout.inside]], states[layout.inside :]
        else:
            bodies, rest = [slot[: layout.inside] for slot in slots], b"".join(slot[layout.inside :] for slot in slots)
        self._put_head(txn, layout, number, head.pack(rest), append)
        for slot in range(layout.num_bodies):
            txn.put(layout.body(number, slot), bodies[slot], append=append, db=self._records)

    def _insert(self, txn: lmdb.Transaction, key: bytes, record: Record, kind: int) -> None:
        with txn.cursor(self._records) as cursor:
            last = _NUMBER.unpack(cursor.key())[0] >> _PARTS_BITS if cursor.last() else 0
        number = (last + 1) << _PARTS_BITS
        # Put at the end, a record leaves no gap in the page before it.
        self._write(txn, number, record, kind, append=True)
        txn.put(key, _NUMBER.pack(number), db=self._ids)
        txn.put(record.owner + key, b"", db=self._owners)
        self._count(txn, record.owner, 1, len(record.snapshot))

    def _remove(self, txn: lmdb.Transaction, key: bytes, head: _Head) -> None:
        owner = self._kind(txn, head.kind).owner
        for part in range(head.layout.num_pieces):
            txn.delete(_NUMBER.pack(head.record + part), db=self._records)
        for slot in range(head.layout.num_bodies):
            txn.delete(head.layout.body(head.record, slot), db=self._records)
        txn.delete(key, db=self._ids)
        txn.delete(owner + key, db=self._owners)
        self._count(txn, owner, -1, head.layout.size)

    def _count(self, txn: lmdb.Transaction, owner: bytes, sign: int, size: int) -> None:
        held = self._usage(txn, owner)
        counted = _OWNED.pack(held.num_sessions + sign, held.num_bytes + sign * 2 * size)
        txn.put(owner, counted, db=self._owners)

    def _usage(self, txn: lmdb.Transaction, owner: bytes) -> Usage:
        found = _get(txn, owner, self._owners)
        return Usage(*_OWNED.unpack(found)) if found else Usage(0, 0)

    def _kind(self, txn: lmdb.Transaction, number: int) -> _Kind:
        kind = self._kinds_known.get(number)
        if kind is None:
            found = _get(txn, _KIND.pack(number), self._kinds)
            if not found:
                raise _Damaged("the session store is damaged: it lacks what this session belongs to")
            kind = self._kinds_known[number] = _Kind.unpack(found)
        return kind

    def _kind_number(self, kind: _Kind) -> int:
        """The number of a kind, given one where it is new, in a transaction of its own so that it can be remembered."""
        number = self._kind_numbers.get(kind)
        if number is None:
            content = kind.pack()
            with self._transaction(write=True) as txn, txn.cursor(self._kinds) as cursor:
                number = next((_KIND.unpack(key)[0] for key, value in cursor if value == content), None)
                if number is None:
                    number = int(txn.stat(self._kinds)["entries"])
                    txn.put(_KIND.pack(number), content, db=self._kinds)
            self._kind_numbers[kind] = number
        return number


def _get(txn: lmdb.Transaction, key: bytes | memoryview, table: "lmdb._Database") -> bytes:
    """A value, empty where there is none."""
    found = txn.get(key, b"", db=table)
    return found if isinstance(found, bytes) else bytes(found)


def _kind_of(record: Record) -> _Kind:
    if len(record.owner) != _OWNER_NBYTES or len(record.digest) != 32:
        raise ValueError("an owner has 16 bytes and a digest 32")
    return _Kind(record.owner, record.model, record.version, record.digest)


def _record(id: str, head: _Head, kind: _Kind, snapshot: bytes, previous: bytes | None) -> Record:
    return Record(
        id,
        kind.owner,
        kind.model,
        kind.version,
        kind.digest,
        head.created_at,
        head.expires_at,
        head.ttl,
        head.revision,
        head.step,
        snapshot,
        head.previous_step,
        previous,
        head.content if head.flags & _HAS_CONTENT else b"",
    )


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """What LMDB and the system raise, as StoreUnavailable."""
    try:
        yield
    except (lmdb.Error, OSError) as error:
        raise _unavailable(error) from error


_REASONS: tuple[tuple[type[lmdb.Error], str], ...] = (
    (lmdb.MapFullError, "the session store is full: it has grown as large as it may"),
    (lmdb.TxnFullError, "the session store takes no transaction as large as this"),
    (lmdb.ReadersFullError, "the session store has too many readers"),
    (lmdb.MapResizedError, "the session store was made larger by another process than this one expects"),
    (lmdb.MemoryError, "the session store cannot be mapped into memory: there is too little of it"),
    (lmdb.ReadonlyError, "the session store's folder cannot be written to"),
    (lmdb.VersionMismatchError, "the session store's file is damaged, or of another version of LMDB"),
    (lmdb.InvalidError, "the session store's file is damaged, or no session store at all"),
    (lmdb.CorruptedError, "the session store's file is damaged"),
    (lmdb.PageNotFoundError, "the session store's file is damaged: a page is missing"),
    (lmdb.PanicError, "the session store failed while it wrote, and works again when the server is restarted"),
)

_SYSTEM: tuple[tuple[tuple[int, ...], str], ...] = (
    ((errno.ENOSPC, errno.EDQUOT), "the session store's disk is full"),
    ((errno.EACCES, errno.EPERM, errno.EROFS), "the session store's folder cannot be written to"),
    ((errno.EEXIST, errno.ENOTDIR), "the session store's place is no folder"),
    ((errno.EIO,), "the session store's disk fails"),
)


def _unavailable(error: lmdb.Error | OSError) -> StoreUnavailable:
    """The same for a caller: what is wrong with the store, and not where it is."""
    if isinstance(error, OSError):
        found = next((reason for numbers, reason in _SYSTEM if error.errno in numbers), None)
        return StoreUnavailable(found or f"the session store fails: {os.strerror(error.errno or 0)}")
    # Of errors that are the system's, LMDB keeps only the text.
    text = str(error)
    for numbers, reason in _SYSTEM:
        if any(os.strerror(number) in text for number in numbers):
            return StoreUnavailable(reason)
    found = next((reason for kind, reason in _REASONS if isinstance(error, kind)), None)
    sort = _Damaged if isinstance(error, (lmdb.CorruptedError, lmdb.PageNotFoundError)) else StoreUnavailable
    return sort(found or f"the session store fails: {type(error).__name__}")
