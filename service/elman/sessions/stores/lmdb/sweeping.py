"""Deleting expired sessions, a part of the store at a time."""

import threading
from collections.abc import Sequence

from elman.sessions.stores.lmdb.environment import Environment
from elman.sessions.stores.lmdb.fields import expiry_of
from elman.sessions.stores.lmdb.tables import Tables, value_of

# Sessions that a sweep looks at, for each that it may delete.
_LOOKED_AT = 4


class Sweeper:
    """Walks over the sessions by id, call by call, and begins again at the end."""

    def __init__(self, environment: Environment, tables: Tables) -> None:
        self._environment = environment
        self._tables = tables
        self._lock = threading.Lock()
        self._next = b""

    def sweep(self, now: float, limit: int) -> int:
        """Delete up to `limit` sessions that are expired at `now`, and return how many."""
        if limit <= 0:
            return 0
        with self._lock:
            self._environment.reserve.keep()
            expired = self._expired(now, limit)
            if not expired:
                return 0
            return self._environment.delete(lambda most: self._remove(expired[:most], now), len(expired))

    def _remove(self, keys: Sequence[bytes], now: float) -> int:
        num_swept = 0
        with self._environment.transaction(write=True) as txn:
            for key in keys:
                head = self._tables.intact_head(txn, key)
                if head is not None and head.fields.expires_at <= now:
                    self._tables.remove(txn, key, head)
                    num_swept += 1
        return num_swept

    def _expired(self, now: float, limit: int) -> Sequence[bytes]:
        """Ids of expired sessions, from where the last call ended."""
        expired: list[bytes] = []
        with self._environment.transaction() as txn, txn.cursor(self._environment.ids) as cursor:
            self._environment.release_dead_readers()
            found = cursor.set_range(self._next) if self._next else cursor.first()
            for _ in range(_LOOKED_AT * limit):
                if not found:
                    self._next = b""
                    return expired
                key = bytes(cursor.key())
                self._next = key
                if len(expired) == limit:
                    return expired
                expiry = expiry_of(value_of(txn, cursor.value(), self._environment.records))
                if expiry is not None and expiry <= now:
                    expired.append(key)
                found = cursor.next()
        self._next += b"\0"
        return expired
