"""The session store in Redis or Valkey."""

import contextlib
import secrets
import struct
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import redis
from msgspec.structs import replace
from redis.cluster import RedisCluster
from redis.exceptions import RedisClusterException, RedisError

from elman.errors import OutcomeUnknown, StoreUnavailable
from elman.sessions.store import Advance, Record, Usage, check_quota, key_of
from elman.sessions.stores.redis.address import connect
from elman.sessions.stores.redis.fields import HEAD_NBYTES, pack, pack_change, unpack
from elman.sessions.stores.redis.link import Cluster, Command, Server, failure_of, raised
from elman.sessions.stores.redis.scripts import ADVANCE, CONFIRM, HOLD, PUT, RESERVE, SETTLE, Script

_OWNERS, _FORMAT_KEY, _STATE_KEY = b"elman:owners", b"elman:format", b"elman:state-key"
_FORMAT = b"elman sessions/3"
# Most sessions of one call of a script, for as long as which the server answers nobody else.
_MAX_ROWS = 128
# Sessions whose heads are read at once for a list.
_PAGE = 200
_ALWAYS = b"1e300"
_OLDEST = 7


class RefusedStore(StoreUnavailable):
    """The server is there, and must not be used as it is."""


class RedisStore:
    """A `Store` in Redis or Valkey.

    Args:
        url: as `connect` takes it.
        replicas: that must have a write before it is acknowledged, and what is read.
        clock: seconds since the epoch.
        spare: seconds by which Redis deletes a session later than it must, for a clock that is slower than its own.

    Attributes:
        state_key: a secret that all servers with this store have.

    Raises:
        StoreUnavailable: it cannot be reached.
        RefusedStore: it may drop sessions, is too old, or holds sessions of another format.
    """

    def __init__(self, url: str, replicas: int = 0, clock: Callable[[], float] = time.time, spare: float = 0.0) -> None:
        self._clock, self._spare = clock, spare
        try:
            self._client = connect(url)
        except ValueError:
            # The reason might hold a part of the password.
            raise RefusedStore(
                "the URL of the session store is wrong: see its forms in docs/operating.md. In a password all but "
                "letters and digits are percent-encoded"
            ) from None
        except (RedisError, RedisClusterException):
            raise StoreUnavailable("the session store cannot be reached", retry_after=1) from None
        self._is_cluster = isinstance(self._client, RedisCluster)
        if isinstance(self._client, RedisCluster):
            self._link: Server | Cluster = Cluster(self._client, replicas)
        else:
            self._link = Server(self._client.connection_pool, replicas)
        self._confirms = replicas > 0
        self._sweeping = threading.Lock()
        self._next_owner = b""
        try:
            self._check_servers()
            self.state_key = self._shared()
        except BaseException:
            self.close()
            raise

    def _check_servers(self) -> None:
        client = self._client
        servers: Sequence[redis.Redis]
        if isinstance(client, RedisCluster):
            servers = [client.get_redis_connection(node) for node in client.get_primaries()]
        else:
            servers = [client]
        for one in servers:
            try:
                facts: Any = one.info("server", "memory")
            except RedisError as error:
                raise failure_of(error) from None
            version, policy = str(facts.get("redis_version", "0")), facts.get("maxmemory_policy")
            if int(version.partition(".")[0]) < _OLDEST:
                raise RefusedStore(f"the session store is Redis {version}; {_OLDEST}.0 or later is needed, or Valkey")
            if policy != "noeviction":
                raise RefusedStore(
                    f"Redis may drop sessions when its memory is full: its maxmemory-policy is {policy}. "
                    "Set it to noeviction"
                )

    def _shared(self) -> str:
        """Write what all servers with this store share, unless it is there, and return the key of state tokens."""
        words = [
            (_FORMAT_KEY, ("SET", _FORMAT_KEY, _FORMAT, "NX")),
            (_FORMAT_KEY, ("GET", _FORMAT_KEY)),
            (_STATE_KEY, ("SET", _STATE_KEY, secrets.token_urlsafe(32), "NX")),
            (_STATE_KEY, ("GET", _STATE_KEY)),
        ]
        _, found, _, key = self._run([Command(*one) for one in words])
        if found != _FORMAT:
            raise RefusedStore("the session store was written by another version of this server: name another database")
        return str(key, "ascii")

    def create(self, record: Record, most: Usage) -> bool:
        if key_of(record.id) is None:
            raise ValueError("a session's id is 128 bits or more in lower-case hexadecimal")
        value, nbytes = pack(record), 2 * len(record.snapshot)
        entry = (record.id.encode(), nbytes, _due(record))
        _, found = self._run(
            [
                Command(_OWNERS, ("SADD", _OWNERS, record.owner.hex())),
                self._on_owner(RESERVE, record.owner, *entry, most.num_sessions, most.num_bytes),
            ]
        )
        if isinstance(found, list):
            check_quota(Usage(*found), len(record.snapshot), most)
        (made,) = self._run([self._put(record, value, b"")])
        if made and not found:
            # The entry is left of an earlier session, or of another request that makes this one.
            self._run([self._on_owner(HOLD, record.owner, *entry)])
        elif found and not made:
            # The entry is ours. It stays if another request of this owner has made the session meanwhile.
            if not any(one.owner == record.owner for one in self._heads([record.id])):
                self._run([self._forget(record.owner, record.id)])
        return bool(made)

    def _put(self, record: Record, value: bytes, mark: bytes) -> Command:
        key, now = _key(record.id), self._clock()
        words = PUT.on((key,), _time(now), value, self._lives(record.expires_at, now), mark)
        return Command(key, words, compares=True)

    def read(self, id: str) -> Record | None:
        if key_of(id) is None:
            return None
        key = _key(id)
        # What is read may be told to somebody, as a step that an earlier request has done. So it must last too.
        words = CONFIRM.on((key,)) if self._confirms else ("GET", key)
        try:
            (value,) = self._run([Command(key, words)], written=self._confirms)
        except OutcomeUnknown as unknown:
            # Nothing has changed, whatever the replicas have.
            raise StoreUnavailable(unknown.detail, retry_after=1) from None
        record = None if value is None else unpack(id, value)
        return record if record is not None and record.expires_at > self._clock() else None

    def advance(self, advances: Sequence[Advance]) -> Sequence[bool | StoreUnavailable]:
        ended = {one.id: one for one in advances if one.ended}
        owners = self._owners_of(ended) if ended else {}
        most = 1 if self._is_cluster else _MAX_ROWS
        parts = [advances[at : at + most] for at in range(0, len(advances), most)]
        now = self._clock()
        found: list[int | StoreUnavailable] = []
        for part, reply in zip(parts, self._link.run([self._advance(part, now) for part in parts]), strict=True):
            found += [reply] * len(part) if isinstance(reply, StoreUnavailable) else reply
        if 2 in found:
            raise ValueError("a snapshot has other bytes than those of the session")
        for id, owner in owners.items():
            self._bring_forward(owner, ended[id])
        return [one if isinstance(one, StoreUnavailable) else one == 1 for one in found]

    def _advance(self, rows: Sequence[Advance], now: float) -> Command:
        # What is no id is the key of no session.
        keys = [_key(one.id) for one in rows]
        arguments = [_time(now)]
        for one in rows:
            arguments += (pack_change(one, b"%d" % self._lives(one.expires_at, now)), one.snapshot)
        return Command(keys[0], ADVANCE.on(keys, *arguments), compares=True)

    def _owners_of(self, ids: Iterable[str]) -> dict[str, bytes]:
        """The owners of those sessions that are there."""
        ids = list(ids)
        replies = self._link.run([_head(id) for id in ids], False)
        heads = [(id, one) for id, one in zip(ids, replies, strict=True) if one and isinstance(one, bytes)]
        return {id: unpack(id, head, states=False).owner for id, head in heads}

    def _bring_forward(self, owner: bytes, one: Advance) -> None:
        """Have an ended session swept when it expires, which may be sooner than it would have been."""
        key = _owner_keys(owner)[1]
        # If this fails the session counts for its owner until it would have expired.
        self._link.run([Command(key, ("ZADD", key, "XX", "LT", repr(one.expires_at), one.id))], False)

    def replace(self, record: Record, mark: bytes) -> bool:
        if key_of(record.id) is None:
            return False
        (done,) = self._run([self._put(record, pack(record), mark)])
        if done:
            self._run([self._on_owner(HOLD, record.owner, record.id.encode(), 2 * len(record.snapshot), _due(record))])
        return bool(done)

    def delete(self, id: str) -> bool:
        if key_of(id) is None:
            return False
        record = next(iter(self._heads([id])), None)
        if record is None:
            return False
        key = _key(id)
        self._run([Command(key, ("DEL", key)), self._forget(record.owner, id)])
        return record.expires_at > self._clock()

    def list(self, owner: bytes, limit: int, after: str | None = None, model: str | None = None) -> list[Record]:
        if limit <= 0 or (after is not None and key_of(after) is None):
            return []
        records: list[Record] = []
        start = b"-" if after is None else b"(%b\1" % after.encode()
        index, now = _owner_keys(owner)[0], self._clock()
        while len(records) < limit:
            words = ("ZRANGEBYLEX", index, start, "+", "LIMIT", 0, _PAGE)
            (entries,) = self._run([Command(index, words)], written=False)
            for record in self._heads([entry.partition(b"\0")[0].decode() for entry in entries]):
                if record.owner == owner and record.expires_at > now and model in (None, record.model):
                    records.append(replace(record, snapshot=b"", previous=None))
            if len(entries) < _PAGE:
                break
            start = b"(" + entries[-1]
        return records[:limit]

    def _heads(self, ids: Sequence[str]) -> Iterable[Record]:
        """Those of some sessions that are there, without their states."""
        for id, head in zip(ids, self._run([_head(id) for id in ids], written=False), strict=True):
            if head:
                yield unpack(id, head, states=False)

    def usage(self, owner: bytes) -> Usage:
        index, _, nbytes = _owner_keys(owner)
        number, held = self._run([Command(index, ("ZCARD", index)), Command(nbytes, ("GET", nbytes))], written=False)
        return Usage(number, int(held or 0))

    def sweep(self, now: float, limit: int) -> int:
        if limit <= 0:
            return 0
        num_swept = 0
        with self._sweeping:
            for owner in self._owners_from(self._next_owner):
                self._next_owner = owner
                num_swept += self._sweep(owner, now, limit - num_swept)
                if num_swept == limit:
                    break
        return num_swept

    def _owners_from(self, first: bytes) -> Sequence[bytes]:
        """All owners, beginning with the first that is not before `first`."""
        owners = sorted(bytes.fromhex(one.decode()) for one in self._owners())
        return [one for one in owners if one >= first] + [one for one in owners if one < first]

    def _owners(self) -> Iterable[bytes]:
        found: Iterable[bytes]
        (found,) = self._run([Command(_OWNERS, ("SMEMBERS", _OWNERS))], written=False)
        return found

    def _sweep(self, owner: bytes, now: float, limit: int) -> int:
        """Forget up to `limit` expired sessions of an owner, which Redis deletes, and correct when others are due."""
        due = _owner_keys(owner)[1]
        words = ("ZRANGEBYSCORE", due, "-inf", repr(now), "LIMIT", 0, limit)
        (found,) = self._run([Command(due, words)], written=False)
        if not found:
            return 0
        ids = [one.decode() for one in found]
        lasting = {one.id: one for one in self._heads(ids) if one.owner == owner and one.expires_at > now}
        arguments = [part for id in ids for part in (id, _due(lasting[id]) if id in lasting else b"")]
        (num_removed,) = self._run([self._on_owner(SETTLE, owner, repr(now).encode(), *arguments)])
        return int(num_removed)

    def __len__(self) -> int:
        indices = [_owner_keys(bytes.fromhex(one.decode()))[0] for one in self._owners()]
        return sum(self._run([Command(index, ("ZCARD", index)) for index in indices], written=False))

    def close(self) -> None:
        with contextlib.suppress(RedisError):
            self._link.close()

    def _run(self, commands: Sequence[Command], written: bool = True) -> Sequence[Any]:
        """The replies. Raises StoreUnavailable, OutcomeUnknown."""
        return raised(self._link.run(commands, written))

    def _on_owner(self, script: Script, owner: bytes, *arguments: "bytes | str | int") -> Command:
        keys = _owner_keys(owner)
        return Command(keys[0], script.on(keys, *arguments))

    def _forget(self, owner: bytes, id: str) -> Command:
        """Removes the entry that an owner has of a session, whenever it is due."""
        return self._on_owner(SETTLE, owner, _ALWAYS, id.encode(), b"")

    def _lives(self, expires_at: float, now: float) -> int:
        """Milliseconds to live: a time that clocks which differ agree on."""
        return max(1, int((expires_at - now + self._spare) * 1000))


def _key(id: str) -> bytes:
    return b"elman:{%b}" % id.encode()


def _head(id: str) -> Command:
    """Reads a session without its states."""
    key = _key(id)
    return Command(key, ("GETRANGE", key, 0, HEAD_NBYTES - 1))


def _owner_keys(owner: bytes) -> tuple[bytes, bytes, bytes]:
    """Those of an owner's ids, dues and bytes."""
    tag = b"elman:{%b}" % owner.hex().encode()
    return tag + b":ids", tag + b":due", tag + b":bytes"


def _time(seconds: float) -> bytes:
    return struct.pack("<d", seconds)


def _due(record: Record) -> bytes:
    return repr(record.expires_at).encode()
