"""Sessions in the memory of one process: for tests, and for servers whose sessions may end with them."""

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence

from msgspec.structs import replace

from elman.sessions.store import Advance, Record, Usage, check_quota, key_of

# Sessions that a sweep looks at, for each that it may delete.
_LOOKED_AT = 4


class MemoryStore:
    """A `Store` that lasts as long as the process.

    Args:
        clock: seconds since the epoch.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._records: dict[str, Record] = {}
        self._owned: defaultdict[bytes, set[str]] = defaultdict(set)
        self._num_bytes: defaultdict[bytes, int] = defaultdict(int)
        self._unswept: list[str] = []

    def create(self, record: Record, most: Usage) -> bool:
        if key_of(record.id) is None:
            raise ValueError("a session's id is 128 bits or more in lower-case hexadecimal")
        with self._lock:
            live = self._live(record.id)
            if live is not None:
                return live.mark == record.mark
            if record.id in self._records:
                self._remove(self._records[record.id])
            check_quota(self._usage(record.owner), len(record.snapshot), most)
            self._insert(record)
            return True

    def read(self, id: str) -> Record | None:
        with self._lock:
            return self._live(id)

    def advance(self, advances: Sequence[Advance]) -> list[bool]:
        with self._lock:
            return [self._advance(one) for one in advances]

    def replace(self, record: Record, mark: bytes) -> bool:
        with self._lock:
            before = self._live(record.id)
            if before is None or before.mark != mark:
                return before is not None and before.mark == record.mark
            self._remove(before)
            self._insert(record)
            return True

    def delete(self, id: str) -> bool:
        with self._lock:
            live = self._live(id) is not None
            if id in self._records:
                self._remove(self._records[id])
            return live

    def list(self, owner: bytes, limit: int, after: str | None = None, model: str | None = None) -> list[Record]:
        if after is not None and key_of(after) is None:
            return []
        now = self._clock()
        with self._lock:
            records = [self._records[id] for id in sorted(self._owned.get(owner, ())) if after is None or id > after]
        kept = [one for one in records if one.expires_at > now and model in (None, one.model)]
        return [replace(one, snapshot=b"", previous=None) for one in kept[: max(limit, 0)]]

    def usage(self, owner: bytes) -> Usage:
        with self._lock:
            return self._usage(owner)

    def sweep(self, now: float, limit: int) -> int:
        num_swept = 0
        with self._lock:
            if not self._unswept:
                self._unswept = list(self._records)
            for _ in range(min(len(self._unswept), _LOOKED_AT * limit)):
                if num_swept == limit:
                    break
                record = self._records.get(self._unswept.pop())
                if record is not None and record.expires_at <= now:
                    self._remove(record)
                    num_swept += 1
        return num_swept

    def __len__(self) -> int:
        return len(self._records)

    def close(self) -> None:
        with self._lock:
            self._records.clear()
            self._owned.clear()
            self._num_bytes.clear()

    def _live(self, id: str) -> Record | None:
        record = self._records.get(id)
        return record if record is not None and record.expires_at > self._clock() else None

    def _advance(self, one: Advance) -> bool:
        before = self._live(one.id)
        if before is None or before.mark != one.mark:
            return before is not None and before.mark == one.next_mark
        if len(one.snapshot) != len(before.snapshot):
            raise ValueError(
                f"a snapshot of {len(one.snapshot)} bytes, where the session's have {len(before.snapshot)}"
            )
        after = replace(
            before,
            mark=one.next_mark,
            step=one.step,
            snapshot=one.snapshot,
            previous_step=before.step,
            previous=before.snapshot,
            input_digest=one.input_digest,
            expires_at=one.expires_at,
            ended=one.ended,
        )
        self._records[one.id] = after
        return True

    def _usage(self, owner: bytes) -> Usage:
        return Usage(len(self._owned.get(owner, ())), self._num_bytes.get(owner, 0))

    def _insert(self, record: Record) -> None:
        self._records[record.id] = record
        self._owned[record.owner].add(record.id)
        self._num_bytes[record.owner] += 2 * len(record.snapshot)

    def _remove(self, record: Record) -> None:
        del self._records[record.id]
        self._owned[record.owner].discard(record.id)
        self._num_bytes[record.owner] -= 2 * len(record.snapshot)
        if not self._owned[record.owner]:
            del self._owned[record.owner], self._num_bytes[record.owner]
