"""What is stored of a session beside its states, as bytes."""

import struct
import zlib
from dataclasses import dataclass

from msgspec import Struct
from msgspec.structs import astuple

from elman.sessions.store import Record
from elman.sessions.stores.lmdb.failures import Damaged

OWNER_NBYTES, DIGEST_NBYTES, INPUT_DIGEST_NBYTES = 16, 32, 16

# Kind, bytes of a state, created, ttl, expires, mark, step, previous step, flags, input digest, and a checksum of
# each state. A checksum of all that follows.
_FIELDS = struct.Struct("<IIddd8sQQB16sII")
_CHECKSUM = struct.Struct("<I")
HEADER_NBYTES = _FIELDS.size + _CHECKSUM.size
_EXPIRES_AT = struct.Struct("<d")
_EXPIRES_OFFSET = struct.calcsize("<IIdd")

# Flags: which of the two slots holds the current state; whether the other holds the previous one; whether there is a
# digest of the last input; whether the session has ended.
SLOT, HAS_PREVIOUS, HAS_INPUT_DIGEST, ENDED = 1, 2, 4, 8


@dataclass(frozen=True, slots=True)
class Kind:
    """What the sessions of one owner and model have in common."""

    owner: bytes
    model: str
    version: int
    digest: bytes

    @staticmethod
    def of(record: Record) -> "Kind":
        """Raises ValueError where the owner or the digest is of another length."""
        if len(record.owner) != OWNER_NBYTES or len(record.digest) != DIGEST_NBYTES:
            raise ValueError(f"an owner has {OWNER_NBYTES} bytes and a digest {DIGEST_NBYTES}")
        return Kind(record.owner, record.model, record.version, record.digest)

    def pack(self) -> bytes:
        return struct.pack("<16sQ32s", self.owner, self.version, self.digest) + self.model.encode()

    @staticmethod
    def unpack(value: bytes) -> "Kind":
        owner, version, digest = struct.unpack_from("<16sQ32s", value)
        return Kind(owner, value[56:].decode(), version, digest)


class Fields(Struct, gc=False):
    """The fields of a session.

    Attributes:
        kind: number of its `Kind`.
        size: bytes of a state.
        first_checksum, second_checksum: of the states in both slots.
    """

    kind: int
    size: int
    created_at: float
    ttl: float
    expires_at: float
    mark: bytes
    step: int
    previous_step: int
    flags: int
    input_digest: bytes
    first_checksum: int
    second_checksum: int

    @property
    def slot(self) -> int:
        """The slot of the current state."""
        return self.flags & SLOT

    @property
    def checksums(self) -> tuple[int, int]:
        """Of the states in both slots."""
        return self.first_checksum, self.second_checksum

    def pack(self) -> bytes:
        packed = _FIELDS.pack(*astuple(self))
        return packed + _CHECKSUM.pack(zlib.crc32(packed))

    @staticmethod
    def unpack(value: bytes) -> "Fields":
        """The fields at the beginning of a value. Raises Damaged."""
        packed = value[: _FIELDS.size]
        if len(value) < HEADER_NBYTES or _CHECKSUM.unpack_from(value, _FIELDS.size)[0] != zlib.crc32(packed):
            raise Damaged("the session store is damaged: the record of this session is missing or broken")
        return Fields(*_FIELDS.unpack(packed))


def expiry_of(value: bytes) -> float | None:
    """When the session expires whose fields begin a value, unchecked; None where the value is too short."""
    return _EXPIRES_AT.unpack_from(value, _EXPIRES_OFFSET)[0] if len(value) >= HEADER_NBYTES else None
