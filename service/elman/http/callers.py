"""Callers: API keys, and the owner of sessions and tokens that belongs to each."""

import asyncio
import hashlib
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from starlette.types import Scope

from elman.errors import Forbidden, Unauthorized
from elman.http.keys import KeyEntry, KeysFile, Rates, digest_of
from elman.http.limits import Meter, SharedBuckets
from elman.http.roles import ROLES, Need

CALLER = "elman.caller"
"""The key of an ASGI scope that holds the caller."""

ANYONE = bytes(16)
"""The owner of all requests if no keys are set."""

# A header that is longer is looked up by its hash each time. Keys that `elman keys` makes have 49 characters.
_MAX_KNOWN_BYTES = 512
_LOOK_SECONDS = 1.0

_LOG = logging.getLogger("elman")


@dataclass(frozen=True, slots=True)
class Caller:
    """Whoever showed a key.

    Attributes:
        owner: 16 bytes that sessions and state tokens belong to.
        may: what routes may need for this caller to call them.
        digest: of the key, 32 bytes.
        name: of the key; empty for one without a name.
        meter: counts requests and steps, if they have limits.
    """

    owner: bytes
    may: frozenset[Need]
    digest: bytes = b""
    name: str = ""
    meter: Meter | None = None


_EVERYBODY = Caller(ANYONE, frozenset({"key", *ROLES}))


class Callers:
    """The callers with a valid key. Without any keys, everybody is the same caller and may do everything.

    A key is found by the SHA-256 of what is shown. A fast hash is enough, since keys are long and random: nobody can
    try them all. The time of a look-up tells how the hash of a guess compares with the hashes of keys. As nobody can
    make a text whose hash begins as wanted, that is no help in finding a key.

    Args:
        keys: may infer and use sessions.
        admin_keys: may do everything.
        file: named keys. It is read by `watch` when it changes. A key that is in `keys` too is as the file says.
        shared: counts what keys with limits do together with the other workers.
    """

    def __init__(
        self,
        keys: Iterable[str],
        admin_keys: Iterable[str] = (),
        file: KeysFile | None = None,
        shared: SharedBuckets | None = None,
    ) -> None:
        plain = {**{key: ("infer", "sessions") for key in keys}, **{key: ROLES for key in admin_keys}}
        self._plain = [_plain_caller(key, roles) for key, roles in plain.items()]
        self.file = file
        self._shared = shared
        self.open = not plain and file is None
        """True if no key is needed."""
        self.meters: dict[str, Meter] = {}
        self.max_sessions: dict[bytes, int] = {}
        """Most sessions of the owners that have a limit of their own."""
        self.on_change: Callable[[], None] = lambda: None
        """Called when keys have changed."""
        # Callers by the digest of their key, and by the header of their last requests. Only valid keys are remembered,
        # in one way of writing them, so that the second is no larger than the first.
        self._by_digest: dict[bytes, Caller] = {}
        self._known: dict[bytes, Caller] = {}
        self._next_expiry = float("inf")
        self._apply()

    def __len__(self) -> int:
        """Number of keys in force."""
        return len(self._by_digest)

    def admit(self, headers: Mapping[bytes, bytes], need: Need) -> Caller:
        """The caller of a request. Raises Unauthorized, and Forbidden if its key does not have the role."""
        if self.open:
            return _EVERYBODY
        caller = self._known.get(headers.get(b"authorization", b"")) or self._identify(headers)
        if need not in caller.may:
            raise Forbidden(
                f"this needs a key with the role {need}; yours has {', '.join(sorted(caller.may - {'key'}))}",
                where="header Authorization",
                expected=f"a key with the role {need}",
            )
        return caller

    def owner(self, headers: Mapping[bytes, bytes]) -> bytes:
        """The owner that a valid key belongs to; empty without one, and if no key is needed."""
        try:
            return b"" if self.open else self._identify(headers).owner
        except Unauthorized:
            return b""

    def holds(self, caller: Caller) -> bool:
        """False if the key of a caller has been revoked since, or may do less."""
        now = _EVERYBODY if self.open else self._by_digest.get(caller.digest)
        return now is not None and caller.may <= now.may

    def _identify(self, headers: Mapping[bytes, bytes]) -> Caller:
        shown = headers.get(b"authorization", b"")
        kind, _, key = shown.partition(b" ")
        key = key.strip()
        caller = self._by_digest.get(digest_of(key)) if key and kind.lower() == b"bearer" else None
        if caller is None:
            detail = "the API key is not known" if shown else "an API key is needed"
            raise Unauthorized(detail, where="header Authorization", expected="Bearer <key>")
        if shown == b"Bearer " + key and len(shown) <= _MAX_KNOWN_BYTES:
            self._known[shown] = caller
        return caller

    async def watch(self) -> None:
        """Read the file again when it has changed, and drop keys that expire, until cancelled."""
        if self.file is None:
            return
        while True:
            await asyncio.sleep(max(0.0, min(_LOOK_SECONDS, self._next_expiry - time.time())))
            try:
                changed = await asyncio.to_thread(self.file.refresh)
                if changed or time.time() >= self._next_expiry:
                    self._apply()
                    self.on_change()
            except Exception:  # looking goes on after any error
                _LOG.exception("looking at the file of keys failed")

    def _apply(self) -> None:
        """Take over the keys that are valid now."""
        now, listed = time.time(), () if self.file is None else self.file.entries
        entries = [one for one in listed if one.expires_at > now]
        self.meters = {one.name: self._meter(one) for one in entries if one.rates != Rates()}
        self.max_sessions = {one.owner_bytes: one.max_sessions for one in entries if one.max_sessions is not None}
        named = {digest for entry in listed for digest in entry.digests}
        callers = [one for one in self._plain if one.digest not in named]
        callers += [one for entry in entries for one in self._named_callers(entry)]
        self._by_digest = {one.digest: one for one in callers}
        self._known = {}
        self._next_expiry = min((one.expires_at for one in entries), default=float("inf"))

    def _meter(self, entry: KeyEntry) -> Meter:
        """The meter of a key. It goes on counting if the limits are as before."""
        meter = self.meters.get(entry.name)
        if meter is not None and meter.rates == entry.rates:
            return meter
        return Meter(entry.rates, entry.name, self._shared)

    def _named_callers(self, entry: KeyEntry) -> Iterable[Caller]:
        may, meter = frozenset[Need]({"key", *entry.roles}), self.meters.get(entry.name)
        return [Caller(entry.owner_bytes, may, digest, entry.name, meter) for digest in entry.digests]


def _plain_caller(key: str, roles: Iterable[Need]) -> Caller:
    return Caller(owner_of_key(key), frozenset({"key", *roles}), digest_of(key.encode()))


def owner_of_key(key: str) -> bytes:
    """The owner of the sessions of a key without a name."""
    return hashlib.sha256(b"owner " + key.encode()).digest()[:16]


def caller_of(scope: Scope) -> Caller:
    """The caller of a request, as `Callers` found it."""
    caller: Caller = scope.get(CALLER, _EVERYBODY)
    return caller


def owner_of(scope: Scope) -> bytes:
    """The owner of a request's sessions."""
    return caller_of(scope).owner
