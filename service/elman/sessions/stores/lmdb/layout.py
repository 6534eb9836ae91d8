"""How the two states of a session are cut into values of LMDB, so that little of a page is wasted."""

import struct
from dataclasses import dataclass
from functools import lru_cache

from elman.sessions.stores.lmdb.fields import HEADER_NBYTES

_NUMBER = struct.Struct(">Q")
# The parts of record n have the keys n << PARTS_BITS and those after it.
PARTS_BITS = 8

# What LMDB spends, in bytes: on a page; on a node beside its key and value; on a node that only points to pages.
_PAGE_HEADER, _NODE, _POINTER = 16, 10, 8
# Maximum overhead of a layout, in bytes, over 1.5 times both states. A session may take 200 bytes more than that in
# all; its entries in the other tables take up to 190.
_MARGIN = 8
_MOST_PIECES = 12


@dataclass(frozen=True, slots=True)
class Layout:
    """How the states of a session are cut.

    A record is a head and bodies. The head has the fields and the rest of the states, in `num_pieces` pieces, several
    of which share a page. Bodies fill whole pages. There is one body for both states (`joint`), or one for each, so
    that a step of a large state writes only one.

    Attributes:
        size: bytes of a state.
        joint: whether one body holds both states.
        inside: bytes of the states that a body holds, 0 where there is no body.
        num_pieces: of the head.
        piece: bytes of a piece of the head. The last one is shorter.
    """

    size: int
    joint: bool
    inside: int
    num_pieces: int
    piece: int

    @property
    def num_bodies(self) -> int:
        return 0 if not self.inside else 1 if self.joint else 2

    def body_key(self, record: int, slot: int) -> bytes:
        """Key of the body that holds the state in `slot`."""
        return _NUMBER.pack(record + self.num_pieces + slot)

    def cut(self, states: tuple[bytes, bytes]) -> tuple[list[bytes], bytes]:
        """The bodies, and what of the states goes into the head."""
        if self.joint:
            both = states[0] + states[1]
            return [both[: self.inside]], both[self.inside :]
        return [one[: self.inside] for one in states], b"".join(one[self.inside :] for one in states)

    def join(self, bodies: list[bytes], rest: bytes) -> tuple[bytes, bytes]:
        """Both states: the inverse of `cut`."""
        if self.joint:
            both = b"".join(bodies) + rest
            return both[: self.size], both[self.size :]
        share = self.size - self.inside
        return bodies[0] + rest[:share], bodies[1] + rest[share:]


@lru_cache(maxsize=1024)
def layout_of(size: int, page: int) -> Layout:
    """The layout of states of `size` bytes in pages of `page` bytes.

    Of the layouts that take at most 1.5 times both states, the one of the fewest parts; if there is none, the one that
    takes the least room.
    """
    room = (page - _PAGE_HEADER) // 2 & ~1
    most = room - 2 - _POINTER - _NUMBER.size
    best: Layout | None = None
    least: tuple[bool, float, float] = (True, float("inf"), float("inf"))
    for joint in (True, False) if size <= page else (False,):
        whole, count = (2 * size, 1) if joint else (size, 2)
        fits = (whole + _PAGE_HEADER) // page
        for num_pages in (0, fits, fits + 1):
            inside = min(whole, num_pages * page - _PAGE_HEADER) if num_pages else 0
            if num_pages and inside <= most:
                continue
            head = HEADER_NBYTES + count * (whole - inside)
            fewest = -(-head // most)
            for num_pieces in range(fewest, min(fewest + 3, _MOST_PIECES) + 1):
                piece = -(-head // num_pieces)
                node = _NODE + _NUMBER.size + piece + piece % 2
                nbytes = num_pieces * page / ((page - _PAGE_HEADER) // node) + count * num_pages * page
                num_parts = num_pieces + (count if num_pages else 0)
                rank = (False, num_parts, nbytes) if nbytes <= 3 * size + _MARGIN else (True, nbytes, num_parts)
                if piece >= HEADER_NBYTES and -(-head // piece) == num_pieces and rank < least:
                    best, least = Layout(size, joint or not inside, inside, num_pieces, piece), rank
    assert best is not None, "a state in pages of its own is always possible"
    return best
