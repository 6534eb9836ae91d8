"""Compressed bodies: as many members as a client may sensibly send, and no more work than their size."""

import gzip
import zlib
from collections.abc import Callable

import pytest

from elman.codec.compression import unpacked
from elman.errors import InvalidField, TooLarge

PACK: dict[bytes, Callable[[bytes], bytes]] = {b"gzip": gzip.compress, b"deflate": zlib.compress}
CONTENT = bytes(range(256)) * 2_000  # longer than a block, also packed


@pytest.mark.parametrize("encoding", PACK)
def test_members_are_read_one_after_the_other(encoding: bytes) -> None:
    pack = PACK[encoding]
    halves = pack(CONTENT[:1000]) + pack(b"") + pack(CONTENT[1000:])
    assert unpacked(halves, encoding, len(CONTENT)) == CONTENT
    assert unpacked(b"", encoding, 0) == b""
    with pytest.raises(TooLarge):
        unpacked(halves, encoding, len(CONTENT) - 1)
    for broken in (halves[:-5], halves + b"x", b"x"):
        with pytest.raises(InvalidField):
            unpacked(broken, encoding, len(CONTENT))


@pytest.mark.parametrize("encoding", PACK)
def test_a_body_of_very_many_members_is_refused(encoding: bytes) -> None:
    """Each would cost a copy of what follows it: four megabytes took fifteen seconds."""
    with pytest.raises(TooLarge, match="members"):
        unpacked(PACK[encoding](b"") * 200_000, encoding, 100)
