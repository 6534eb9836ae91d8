"""A session as one string: what a step changes, what it does not, and two states."""

import struct

from elman.errors import StoreUnavailable
from elman.sessions.store import MARK_NBYTES, Advance, Record

# Flags, previous step, mark, step, expiry, digest of the last input.
_CHANGING = struct.Struct("<BQ8sQd16s")
# Bytes of a state, and where the first one begins; created, ttl, version, owner, digest of the model file. The name of
# the model follows.
_LASTING = struct.Struct("<IHddQ16s32s")
_FIXED_NBYTES = _CHANGING.size + _LASTING.size
# A model's name has at most 128 characters of one byte.
HEAD_NBYTES = _FIXED_NBYTES + 128
# The expected mark, flags, and then what the script copies: mark, step, expiry, digest.
_CHANGE = struct.Struct("<8sB8sQd16s")
_OWNER_NBYTES, _DIGEST_NBYTES, _INPUT_DIGEST_NBYTES = 16, 32, 16

# Flags, as in the LMDB store: which slot holds the current state, and what else there is.
_SLOT, _HAS_PREVIOUS, _HAS_INPUT_DIGEST, _ENDED = 1, 2, 4, 8


def pack(record: Record) -> bytes:
    """A session's value. Raises ValueError where a field has another length than it must."""
    name, size, previous = record.model.encode(), len(record.snapshot), record.previous
    wrong = (
        len(record.owner) != _OWNER_NBYTES
        or len(record.digest) != _DIGEST_NBYTES
        or len(record.mark) != MARK_NBYTES
        or len(record.input_digest) not in (0, _INPUT_DIGEST_NBYTES)
        or len(name) > HEAD_NBYTES - _FIXED_NBYTES
    )
    if wrong or (previous is not None and len(previous) != size):
        raise ValueError("a field of the session has not its length in bytes, or its states are not of one size")
    flags = (
        (_HAS_PREVIOUS if previous is not None else 0)
        | (_HAS_INPUT_DIGEST if record.input_digest else 0)
        | (_ENDED if record.ended else 0)
    )
    return b"".join(
        (
            _CHANGING.pack(
                flags, record.previous_step, record.mark, record.step, record.expires_at, record.input_digest
            ),
            _LASTING.pack(
                size,
                _FIXED_NBYTES + len(name),
                record.created_at,
                record.ttl,
                record.version,
                record.owner,
                record.digest,
            ),
            name,
            record.snapshot,
            bytes(size) if previous is None else previous,
        )
    )


def unpack(id: str, value: bytes, states: bool = True) -> Record:
    """A session from its value, or from the first HEAD_NBYTES of it without the states. Raises StoreUnavailable."""
    try:
        flags, previous_step, mark, step, expires_at, input_digest = _CHANGING.unpack_from(value)
        size, start, created_at, ttl, version, owner, digest = _LASTING.unpack_from(value, _CHANGING.size)
    except struct.error:
        raise StoreUnavailable("the record of this session is damaged") from None
    if states and len(value) != start + 2 * size:
        raise StoreUnavailable("the record of this session is damaged")
    slots = [value[start : start + size], value[start + size :]] if states else [b"", b""]
    slot = flags & _SLOT
    return Record(
        id,
        owner,
        value[_FIXED_NBYTES:start].decode(),
        version,
        digest,
        created_at,
        expires_at,
        ttl,
        mark,
        step,
        slots[slot],
        previous_step,
        slots[1 - slot] if states and flags & _HAS_PREVIOUS else None,
        input_digest if flags & _HAS_INPUT_DIGEST else b"",
        bool(flags & _ENDED),
    )


def pack_change(one: Advance, lives: bytes) -> bytes:
    """An advance as its script takes it; `lives` are the milliseconds to live, as digits."""
    flags = _HAS_PREVIOUS | (_HAS_INPUT_DIGEST if one.input_digest else 0) | (_ENDED if one.ended else 0)
    return _CHANGE.pack(one.mark, flags, one.next_mark, one.step, one.expires_at, one.input_digest) + lives
