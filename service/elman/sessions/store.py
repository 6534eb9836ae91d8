"""What a session store is: records by id, with compare-and-set. It knows nothing of models or HTTP."""

import os
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from msgspec import Struct

from elman.errors import Quota, StoreUnavailable

MARK_NBYTES = 8
# Marks that are made at once. Each of them alone would be a system call a step.
_NUM_AHEAD = 256
_marks: list[bytes] = []
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_marks.clear)  # so that no two processes have the same
# By then, most expired sessions of a caller have been swept.
_QUOTA_RETRY = 30


# Neither of these holds anything that could refer back to it, so the collector of cyclic garbage need not know them.
class Record(Struct, frozen=True, gc=False):
    """One session.

    Attributes:
        id: at least 128 random bits, as lower-case hexadecimal.
        owner: 16 bytes that identify the caller.
        model, version: the model that the state belongs to.
        digest: of the model's file, 32 bytes.
        created_at, expires_at: seconds since the epoch.
        ttl: seconds that the session lives after its last change.
        mark: 8 random bytes, new with each change. Compare-and-set compares them. A number that counts changes would
            come again where a store has lost some, as in a failover.
        step: number of steps done.
        snapshot: the state after these steps. All sessions of a model have snapshots of one size.
        previous_step, previous: step and snapshot before the last advance; `previous` is None if there is none.
        input_digest: of the input of the last advance, 16 bytes; empty if there was none.
        ended: True after the last advance of a session that has an end. It is kept so that it can be repeated.
    """

    id: str
    owner: bytes
    model: str
    version: int
    digest: bytes
    created_at: float
    expires_at: float
    ttl: float
    mark: bytes
    step: int
    snapshot: bytes
    previous_step: int = 0
    previous: bytes | None = None
    input_digest: bytes = b""
    ended: bool = False


class Advance(Struct, frozen=True, gc=False):
    """The next steps of one session. Its current snapshot becomes the previous one.

    `mark` is the one before the advance, and `next_mark` the one after it, which no other attempt has. `ended` says
    that these were its last steps.
    """

    id: str
    mark: bytes
    next_mark: bytes
    step: int
    snapshot: bytes
    input_digest: bytes
    expires_at: float
    ended: bool = False


@dataclass(frozen=True, slots=True)
class Usage:
    """What a caller holds: sessions, and bytes of their states. Each counts with two, the current and the previous."""

    num_sessions: int
    num_bytes: int


class Store(Protocol):
    """Keeps sessions. Every call may come from any thread, and from several processes at once.

    Every method raises StoreUnavailable if the store does not work (full, read-only, broken, unreachable), and has then
    changed nothing; or OutcomeUnknown if its answer was lost, and nobody knows whether it has. A call that is made
    again with the same marks changes nothing more. A record exists only until its `expires_at`.
    """

    def create(self, record: Record, most: Usage) -> bool:
        """Keep a new session. False if there is one of its id.

        Raises Quota if its owner would hold more than `most`.
        """

    def read(self, id: str) -> Record | None:
        """A session, or None."""

    def advance(self, advances: Sequence[Advance]) -> Sequence[bool | StoreUnavailable]:
        """Advance sessions together. For each, whether it was still at its mark and has advanced, by this call or by an
        earlier one with the same marks; or why that failed or is not known.

        The current state becomes the previous one.
        """

    def replace(self, record: Record, mark: bytes) -> bool:
        """Put `record` in the place of the session of its id, if that is still at `mark`."""

    def delete(self, id: str) -> bool:
        """Delete a session. True if there was one."""

    def list(self, owner: bytes, limit: int, after: str | None = None, model: str | None = None) -> list[Record]:
        """An owner's sessions in the order of their ids, after the id `after`. Their states may be left out (b"")."""

    def usage(self, owner: bytes) -> Usage:
        """What an owner holds, with expired sessions that were not swept yet."""

    def sweep(self, now: float, limit: int) -> int:
        """Delete up to `limit` expired sessions, and return how many. Each call looks at another part of the store."""

    def __len__(self) -> int:
        """Number of sessions of all owners, with expired ones that were not swept yet."""

    def close(self) -> None:
        """Close the store. A store that lasts keeps what it holds."""


def new_id() -> str:
    """A new session's id: 48 bits of the time in milliseconds, so that ids ascend, and 128 random bits."""
    return (time.time_ns() // 1_000_000).to_bytes(6, "big").hex() + secrets.token_hex(16)


def new_mark() -> bytes:
    """8 random bytes."""
    if not _marks:
        ahead = os.urandom(_NUM_AHEAD * MARK_NBYTES)
        _marks.extend(ahead[at : at + MARK_NBYTES] for at in range(0, len(ahead), MARK_NBYTES))
    try:
        return _marks.pop()
    except IndexError:  # another thread took the last one
        return os.urandom(MARK_NBYTES)


def key_of(id: str) -> bytes | None:
    """The bytes of an id; None for a text that cannot be an id."""
    if not 32 <= len(id) <= 128:
        return None
    try:
        key = bytes.fromhex(id)
    except ValueError:
        return None
    # fromhex also takes capitals and spaces. An id has one spelling.
    return key if key.hex() == id else None


def check_quota(held: Usage, snapshot_nbytes: int, most: Usage) -> None:
    """Raises Quota if one more session, with room for its two states, would exceed `most`."""
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
