"""What a session store is: records by id, compare-and-set, nothing of models or of HTTP."""

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from elman.errors import Quota

# When expired sessions of a caller have been swept, mostly.
_QUOTA_RETRY = 30


@dataclass(frozen=True, slots=True)
class Record:
    """One session, as it stands.

    Attributes:
        id: 128 random bits at least, as lower-case hexadecimal.
        owner: 16 bytes that stand for the caller.
        model, version, digest: what the state belongs to; the digest is the model's, 32 bytes.
        created_at, expires_at: seconds since the epoch. ttl: seconds that it lives after its last change.
        revision: counts changes of any kind; what compare-and-set compares.
        step: steps done. snapshot: the state after them, of one size for all sessions of a model.
        previous_step, previous: the same before the last advance; None where there is nothing to go back to.
        content: 16 bytes that stand for what the last advance was asked for; empty where there was none.
    """

    id: str
    owner: bytes
    model: str
    version: int
    digest: bytes
    created_at: float
    expires_at: float
    ttl: float
    revision: int
    step: int
    snapshot: bytes
    previous_step: int = 0
    previous: bytes | None = None
    content: bytes = b""


@dataclass(frozen=True, slots=True)
class Advance:
    """One session moved on: what it is now becomes the previous state.

    `revision` is the one it moves on from.
    """

    id: str
    revision: int
    step: int
    snapshot: bytes
    content: bytes
    expires_at: float


@dataclass(frozen=True, slots=True)
class Usage:
    """What a caller holds: sessions, and bytes of their states (current and previous, whose room is kept at once)."""

    num_sessions: int
    num_bytes: int


class Store(Protocol):
    """Where sessions live. Every call may come from any thread, and from several processes at once.

    Every method raises StoreUnavailable where the store does not work (full, read-only, broken, away), having
    changed nothing. A record whose `expires_at` is not after the present does not exist.
    """

    def create(self, record: Record, most: Usage) -> None:
        """Keep a new session. Raises Quota where its owner would hold more than `most`."""

    def read(self, id: str) -> Record | None:
        """A session as it stands, or None."""

    def advance(self, advances: Sequence[Advance]) -> list[bool]:
        """Move sessions on, in one transaction: for each, whether it was still at its revision and is moved.

        The state that was current becomes the previous one, and the revision goes up by one.
        """

    def replace(self, record: Record, revision: int) -> bool:
        """Put `record` in the place of the session of its id, where that is still at `revision`."""

    def delete(self, id: str) -> bool:
        """Forget a session; whether there was one."""

    def list(self, owner: bytes, limit: int, after: str | None = None, model: str | None = None) -> list[Record]:
        """An owner's sessions in the order of their ids, from the one after `after`. States may be left out (b"")."""

    def usage(self, owner: bytes) -> Usage:
        """What an owner holds, expired sessions that were not swept yet included."""

    def sweep(self, now: float, limit: int) -> int:
        """Forget up to `limit` expired sessions, looking at a part of the store each time; how many there were."""

    def __len__(self) -> int:
        """Sessions held, all owners together, expired ones that were not swept yet included."""

    def close(self) -> None:
        """Let go of the store. What it holds stays, where it is one that lasts."""


def new_id() -> str:
    """A new session's id: 48 bits of the time in milliseconds, so that ids ascend, and 128 that nobody guesses."""
    return (time.time_ns() // 1_000_000).to_bytes(6, "big").hex() + secrets.token_hex(16)


def key_of(id: str) -> bytes | None:
    """The bytes that an id stands for; None where it can be no id."""
    if not 32 <= len(id) <= 128:
        return None
    try:
        key = bytes.fromhex(id)
    except ValueError:
        return None
    # Only one spelling: neither capitals nor the spaces that fromhex lets pass.
    return key if key.hex() == id else None


def check_quota(held: Usage, snapshot_nbytes: int, most: Usage) -> None:
    """Raises Quota where one more session, with room for its two states, would be more than `most`."""
    if held.num_sessions + 1 > most.num_sessions:
        raise Quota(
            f"you hold {held.num_sessions} sessions, of at most {most.num_sessions}; delete some, or let them expire",
            expected=most.num_sessions,
            retry_after=_QUOTA_RETRY,
        )
    if held.num_bytes + 2 * snapshot_nbytes > most.num_bytes:
        raise Quota(
            f"your sessions hold {held.num_bytes} bytes of state, of at most {most.num_bytes}, and one more needs "
            f"{2 * snapshot_nbytes}; delete some, or let them expire",
            expected=most.num_bytes,
            retry_after=_QUOTA_RETRY,
        )
