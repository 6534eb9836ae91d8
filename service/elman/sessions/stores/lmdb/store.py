"""The session store in a folder."""

import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import lmdb

from elman.errors import StoreUnavailable
from elman.sessions.store import Advance, Record, Usage, check_quota, key_of
from elman.sessions.stores.lmdb.environment import Environment
from elman.sessions.stores.lmdb.failures import Damaged
from elman.sessions.stores.lmdb.fields import ENDED, HAS_INPUT_DIGEST, HAS_PREVIOUS, OWNER_NBYTES, Kind
from elman.sessions.stores.lmdb.sweeping import Sweeper
from elman.sessions.stores.lmdb.tables import Head, Tables


class LMDBStore:
    """A `Store` in a folder.

    Args:
        folder: made where it is missing. A process may open it once at a time, and may not fork while it is open.
        max_bytes: how much the sessions may fill. The file grows as they do.
        sync: whether each transaction reaches the disk before it is acknowledged.
        clock: seconds since the epoch.

    Raises:
        StoreUnavailable: the folder cannot hold a store, or holds something else.
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
        self._environment = Environment(folder, max_bytes, sync)
        self._tables = Tables(self._environment)
        self._sweeper = Sweeper(self._environment, self._tables)

    def create(self, record: Record, most: Usage) -> bool:
        key = key_of(record.id)
        if key is None:
            raise ValueError("a session's id is 128 bits or more in lower-case hexadecimal")
        kind = self._tables.kind_number(Kind.of(record))
        with self._environment.transaction(write=True) as txn:
            head = self._tables.head(txn, key)
            if head is not None:
                if head.fields.expires_at > self._clock():
                    return head.fields.mark == record.mark
                self._tables.remove(txn, key, head)
            check_quota(self._tables.usage(txn, record.owner), len(record.snapshot), most)
            if self._environment.used_bytes(txn) >= self._max_bytes:
                raise StoreUnavailable("the session store is full: sessions fill all the room that it may take")
            self._environment.check_reserve(txn)
            self._tables.insert(txn, key, record, kind)
            return True

    def read(self, id: str) -> Record | None:
        key = key_of(id)
        if key is None:
            return None
        with self._environment.transaction() as txn:
            head = self._live_head(txn, key)
            if head is None:
                return None
            kind = self._tables.kind(txn, head.fields.kind)
            states = self._tables.states(txn, head)
        current = head.fields.slot
        used = [current, 1 - current] if head.fields.flags & HAS_PREVIOUS else [current]
        if any(zlib.crc32(states[slot]) != head.fields.checksums[slot] for slot in used):
            raise Damaged("the state of this session is damaged")
        return _record(id, head, kind, states[current], states[1 - current] if len(used) > 1 else None)

    def advance(self, advances: Sequence[Advance]) -> list[bool]:
        # Computed before the transaction, because other writers wait for it.
        checksums = [zlib.crc32(one.snapshot) for one in advances]
        now = self._clock()
        try:
            with self._environment.transaction(write=True) as txn:
                return [
                    self._tables.advance(txn, one, checksum, now)
                    for one, checksum in zip(advances, checksums, strict=True)
                ]
        except Damaged:
            if len(advances) == 1:
                raise
        # A damaged session must not stop the others. Its caller is told when it is read.
        return [self._advance_alone(one) for one in advances]

    def _advance_alone(self, one: Advance) -> bool:
        try:
            return self.advance([one])[0]
        except Damaged:
            return False

    def replace(self, record: Record, mark: bytes) -> bool:
        key = key_of(record.id)
        if key is None:
            return False
        kind = self._tables.kind_number(Kind.of(record))
        with self._environment.transaction(write=True) as txn:
            head = self._live_head(txn, key)
            if head is None or head.fields.mark != mark:
                return head is not None and head.fields.mark == record.mark
            if head.fields.kind == kind and head.layout.size == len(record.snapshot):
                self._tables.write(txn, head.number, record, kind)
            else:
                self._tables.remove(txn, key, head)
                self._environment.check_reserve(txn)
                self._tables.insert(txn, key, record, kind)
            return True

    def delete(self, id: str) -> bool:
        key = key_of(id)
        return key is not None and self._environment.delete(lambda _: self._delete(key))

    def _delete(self, key: bytes) -> bool:
        with self._environment.transaction(write=True) as txn:
            head = self._tables.head(txn, key)
            if head is None:
                return False
            self._tables.remove(txn, key, head)
            return head.fields.expires_at > self._clock()

    def list(self, owner: bytes, limit: int, after: str | None = None, model: str | None = None) -> list[Record]:
        start = b"" if after is None else key_of(after)
        records: list[Record] = []
        if start is None or limit <= 0:
            return records
        now = self._clock()
        with self._environment.transaction() as txn, txn.cursor(self._environment.owners) as cursor:
            # The first greater key: neither the session `after` itself nor the entry of what the owner holds.
            found = cursor.set_range(owner + start + b"\0")
            while found and len(records) < limit:
                entry = bytes(cursor.key())
                if entry[:OWNER_NBYTES] != owner:
                    break
                key = entry[OWNER_NBYTES:]
                head = self._tables.intact_head(txn, key)
                if head is not None and head.fields.expires_at > now:
                    kind = self._tables.kind(txn, head.fields.kind)
                    if model is None or kind.model == model:
                        records.append(_record(key.hex(), head, kind, b"", None))
                found = cursor.next()
        return records

    def usage(self, owner: bytes) -> Usage:
        with self._environment.transaction() as txn:
            return self._tables.usage(txn, owner)

    def sweep(self, now: float, limit: int) -> int:
        return self._sweeper.sweep(now, limit)

    def __len__(self) -> int:
        with self._environment.transaction() as txn:
            return int(txn.stat(self._environment.ids)["entries"])

    def close(self) -> None:
        self._environment.close()

    def _live_head(self, txn: lmdb.Transaction, key: bytes) -> Head | None:
        """As `Tables.head`, but None for an expired session."""
        head = self._tables.head(txn, key)
        return head if head is not None and head.fields.expires_at > self._clock() else None


def _record(id: str, head: Head, kind: Kind, snapshot: bytes, previous: bytes | None) -> Record:
    fields = head.fields
    return Record(
        id,
        kind.owner,
        kind.model,
        kind.version,
        kind.digest,
        fields.created_at,
        fields.expires_at,
        fields.ttl,
        fields.mark,
        fields.step,
        snapshot,
        fields.previous_step,
        previous,
        fields.input_digest if fields.flags & HAS_INPUT_DIGEST else b"",
        bool(fields.flags & ENDED),
    )
