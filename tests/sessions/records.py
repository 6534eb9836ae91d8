"""Records to put into stores, a clock that stands until it is moved, and states that say which they are."""

import hashlib
from dataclasses import dataclass

from msgspec.structs import replace

from elman.sessions.store import Advance, Record, Usage, new_id, new_mark

OWNER, OTHER = b"a" * 16, b"b" * 16
DIGEST = bytes(range(32))
PLENTY = Usage(10**9, 10**15)
START = 1_700_000_000.0


@dataclass
class Clock:
    """Seconds since the epoch, as a test has them."""

    now: float = START

    def __call__(self) -> float:
        return self.now


def state(id: str, step: int, size: int) -> bytes:
    """A state that no other session or step has."""
    return hashlib.shake_128(f"{id} {step}".encode()).digest(size)


def new_record(
    size: int = 100,
    owner: bytes = OWNER,
    model: str = "watch",
    version: int = 1,
    digest: bytes = DIGEST,
    ttl: float = 60.0,
    now: float = START,
    step: int = 0,
) -> Record:
    id = new_id()
    return Record(id, owner, model, version, digest, now, now + ttl, ttl, new_mark(), step, state(id, step, size))


def advance_of(record: Record, steps: int = 1, input_digest: bytes = b"c" * 16) -> Advance:
    """An advance that a record may make."""
    step = record.step + steps
    snapshot = state(record.id, step, len(record.snapshot))
    return Advance(record.id, record.mark, new_mark(), step, snapshot, input_digest, record.expires_at + steps)


def advanced(record: Record, one: Advance) -> Record:
    """A record after an advance."""
    return replace(
        record,
        mark=one.next_mark,
        step=one.step,
        snapshot=one.snapshot,
        previous_step=record.step,
        previous=record.snapshot,
        input_digest=one.input_digest,
        expires_at=one.expires_at,
        ended=one.ended,
    )
