"""Sessions in the four tables: reading, adding, advancing and removing one within a transaction."""

import struct
import zlib

import lmdb
from msgspec import Struct

from elman.sessions.store import Advance, Record, Usage, key_of
from elman.sessions.stores.lmdb.environment import Environment
from elman.sessions.stores.lmdb.failures import Damaged
from elman.sessions.stores.lmdb.fields import (
    ENDED,
    HAS_INPUT_DIGEST,
    HAS_PREVIOUS,
    HEADER_NBYTES,
    INPUT_DIGEST_NBYTES,
    SLOT,
    Fields,
    Kind,
)
from elman.sessions.stores.lmdb.layout import PARTS_BITS, Layout, layout_of

_NUMBER = struct.Struct(">Q")
_KIND_NUMBER = struct.Struct("<I")
_USAGE = struct.Struct("<QQ")


class Head(Struct, gc=False):
    """The head of a session as it was read.

    Attributes:
        number: its record's.
        rest: the part of the states that lies in the head.
    """

    number: int
    layout: Layout
    fields: Fields
    rest: bytes


class Tables:
    """The sessions of an environment. Every method but `kind_number` works in a transaction of the caller's."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self._ids, self._records = environment.ids, environment.records
        self._kinds, self._owners = environment.kinds, environment.owners
        self._page = environment.page
        self._kinds_known: dict[int, Kind] = {}
        self._kind_numbers: dict[Kind, int] = {}

    def head(self, txn: lmdb.Transaction, key: bytes) -> Head | None:
        """A session's head, or None where there is no such session. Raises Damaged."""
        found = value_of(txn, key, self._ids)
        if not found:
            return None
        value = value_of(txn, found, self._records)
        fields = Fields.unpack(value)
        layout = layout_of(fields.size, self._page)
        (number,) = _NUMBER.unpack(found)
        if layout.num_pieces > 1:
            others = range(number + 1, number + layout.num_pieces)
            value += b"".join([value_of(txn, _NUMBER.pack(one), self._records) for one in others])
        return Head(number, layout, fields, value[HEADER_NBYTES:])

    def intact_head(self, txn: lmdb.Transaction, key: bytes) -> Head | None:
        """As `head`, but None for a damaged session, so that it does not stop a walk over many."""
        try:
            return self.head(txn, key)
        except Damaged:
            return None

    def states(self, txn: lmdb.Transaction, head: Head) -> tuple[bytes, bytes]:
        """The states in both slots of a session, unchecked."""
        return head.layout.join(self._bodies(txn, head), head.rest)

    def _bodies(self, txn: lmdb.Transaction, head: Head) -> list[bytes]:
        layout = head.layout
        return [value_of(txn, layout.body_key(head.number, slot), self._records) for slot in range(layout.num_bodies)]

    def advance(self, txn: lmdb.Transaction, one: Advance, checksum: int, now: float) -> bool:
        """Write a step, if the session lives and is still at the advance's mark.

        Args:
            checksum: of the new state.
            now: seconds since the epoch.

        Raises:
            Damaged: the session cannot be read.
            ValueError: the new state has not the size of the session's.
        """
        key = key_of(one.id)
        head = None if key is None else self.head(txn, key)
        if head is None or head.fields.expires_at <= now:
            return False
        if head.fields.mark != one.mark:
            return head.fields.mark == one.next_mark
        layout, fields = head.layout, head.fields
        if len(one.snapshot) != layout.size:
            raise ValueError(f"a snapshot of {len(one.snapshot)} bytes, where the session's have {layout.size}")
        slot = 1 - (fields.flags & SLOT)
        rest = self._put_state(txn, head, slot, one.snapshot)
        after = Fields(
            fields.kind, fields.size, fields.created_at, fields.ttl, one.expires_at,
            one.next_mark, one.step, fields.step,
            slot | HAS_PREVIOUS | (HAS_INPUT_DIGEST if one.input_digest else 0) | (ENDED if one.ended else 0),
            one.input_digest,
            fields.first_checksum if slot else checksum,
            checksum if slot else fields.second_checksum,
        )  # fmt: skip
        self._put_head(txn, layout, head.number, after.pack() + rest)
        return True

    def _put_state(self, txn: lmdb.Transaction, head: Head, slot: int, state: bytes) -> bytes:
        """Write the body of one state, and return the rest of both for the head."""
        layout, size, inside = head.layout, head.layout.size, head.layout.inside
        if layout.joint:
            states = b"".join([*self._bodies(txn, head), head.rest]) if inside else head.rest
            states = states[:size] + state if slot else state + states[size:]
            if inside:
                txn.put(layout.body_key(head.number, 0), states[:inside], db=self._records)
            return states[inside:]
        share, changed = size - inside, state[inside:]
        txn.put(layout.body_key(head.number, slot), state[:inside], db=self._records)
        return head.rest[:share] + changed if slot else changed + head.rest[share:]

    def insert(self, txn: lmdb.Transaction, key: bytes, record: Record, kind: int) -> None:
        """Add a session after all others."""
        with txn.cursor(self._records) as cursor:
            last = _NUMBER.unpack(cursor.key())[0] >> PARTS_BITS if cursor.last() else 0
        number = (last + 1) << PARTS_BITS
        # Appended, a record leaves no gap in the page before it.
        self.write(txn, number, record, kind, append=True)
        txn.put(key, _NUMBER.pack(number), db=self._ids)
        txn.put(record.owner + key, b"", db=self._owners)
        self._count(txn, record.owner, 1, len(record.snapshot))

    def write(self, txn: lmdb.Transaction, number: int, record: Record, kind: int, append: bool = False) -> None:
        """Write all of a session under a number. Raises ValueError where its states or its input digest do not fit."""
        size, previous = len(record.snapshot), record.previous
        if previous is not None and len(previous) != size:
            raise ValueError("both states of a session must have one size")
        if len(record.input_digest) not in (0, INPUT_DIGEST_NBYTES):
            raise ValueError(f"an input digest has {INPUT_DIGEST_NBYTES} bytes, or none")
        fields = Fields(
            kind=kind,
            size=size,
            created_at=record.created_at,
            ttl=record.ttl,
            expires_at=record.expires_at,
            mark=record.mark,
            step=record.step,
            previous_step=record.previous_step,
            flags=(HAS_PREVIOUS if previous is not None else 0)
            | (HAS_INPUT_DIGEST if record.input_digest else 0)
            | (ENDED if record.ended else 0),
            input_digest=record.input_digest,
            first_checksum=zlib.crc32(record.snapshot),
            second_checksum=0 if previous is None else zlib.crc32(previous),
        )
        layout = layout_of(size, self._page)
        bodies, rest = layout.cut((record.snapshot, bytes(size) if previous is None else previous))
        self._put_head(txn, layout, number, fields.pack() + rest, append)
        for slot, body in enumerate(bodies[: layout.num_bodies]):
            txn.put(layout.body_key(number, slot), body, append=append, db=self._records)

    def _put_head(self, txn: lmdb.Transaction, layout: Layout, number: int, head: bytes, append: bool = False) -> None:
        for at in range(0, len(head), layout.piece):
            txn.put(_NUMBER.pack(number), head[at : at + layout.piece], append=append, db=self._records)
            number += 1

    def remove(self, txn: lmdb.Transaction, key: bytes, head: Head) -> None:
        owner = self.kind(txn, head.fields.kind).owner
        for part in range(head.layout.num_pieces):
            txn.delete(_NUMBER.pack(head.number + part), db=self._records)
        for slot in range(head.layout.num_bodies):
            txn.delete(head.layout.body_key(head.number, slot), db=self._records)
        txn.delete(key, db=self._ids)
        txn.delete(owner + key, db=self._owners)
        self._count(txn, owner, -1, head.layout.size)

    def usage(self, txn: lmdb.Transaction, owner: bytes) -> Usage:
        """What an owner holds."""
        found = value_of(txn, owner, self._owners)
        return Usage(*_USAGE.unpack(found)) if found else Usage(0, 0)

    def _count(self, txn: lmdb.Transaction, owner: bytes, sign: int, size: int) -> None:
        held = self.usage(txn, owner)
        counted = _USAGE.pack(held.num_sessions + sign, held.num_bytes + sign * 2 * size)
        txn.put(owner, counted, db=self._owners)

    def kind(self, txn: lmdb.Transaction, number: int) -> Kind:
        """The kind of this number. Raises Damaged."""
        kind = self._kinds_known.get(number)
        if kind is None:
            found = value_of(txn, _KIND_NUMBER.pack(number), self._kinds)
            if not found:
                raise Damaged("the session store is damaged: the owner and model of this session are missing")
            kind = self._kinds_known[number] = Kind.unpack(found)
        return kind

    def kind_number(self, kind: Kind) -> int:
        """The number of a kind, a new one where it has none.

        In a transaction of its own: were it undone with the caller's, the remembered number would be wrong.
        """
        number = self._kind_numbers.get(kind)
        if number is None:
            packed = kind.pack()
            with self._environment.transaction(write=True) as txn, txn.cursor(self._kinds) as cursor:
                number = next((_KIND_NUMBER.unpack(key)[0] for key, value in cursor if value == packed), None)
                if number is None:
                    number = int(txn.stat(self._kinds)["entries"])
                    txn.put(_KIND_NUMBER.pack(number), packed, db=self._kinds)
            self._kind_numbers[kind] = number
        return number


def value_of(txn: lmdb.Transaction, key: bytes | memoryview, table: "lmdb._Database") -> bytes:
    """The value of a key, empty where there is none."""
    found: bytes = txn.get(key, b"", table)  # type: ignore[assignment]  # no view, unless a transaction has buffers
    return found
