"""Bodies that are compressed with gzip or deflate, which is zlib."""

import zlib

from elman.errors import InvalidField, TooLarge

ENCODINGS = {b"gzip": 31, b"deflate": 15}
"""The window bits of each encoding."""

# What follows a member is copied with each, so a body is read in blocks.
_BLOCK_BYTES = 64 * 1024
_MOST_MEMBERS = 10_000


def unpacked(content: bytes, encoding: bytes, limit: int) -> bytes:
    """A body without its compression. Raises InvalidField, and TooLarge before more than `limit` bytes are made.

    It may have several members, one after the other.
    """
    view, at, left = memoryview(content), 0, limit
    parts: list[bytes] = []
    num_members = 0
    while at < len(content):
        num_members += 1
        if num_members > _MOST_MEMBERS:
            raise TooLarge(f"the body has more than {_MOST_MEMBERS} compressed members", expected="one")
        stream = zlib.decompressobj(ENCODINGS[encoding])
        while not stream.eof:
            block = view[at : at + _BLOCK_BYTES]
            try:
                part = stream.decompress(block, left + 1)
            except zlib.error:
                raise _broken(encoding) from None
            left -= len(part)
            if left < 0:
                raise TooLarge(f"the body is larger than {limit} bytes unpacked", expected=f"at most {limit} bytes")
            if not block:
                raise _broken(encoding)
            parts.append(part)
            at += len(block) - len(stream.unused_data)
    return b"".join(parts)


def packed(content: bytes, encoding: bytes) -> bytes:
    """A body with compression, fast rather than small."""
    stream = zlib.compressobj(1, zlib.DEFLATED, ENCODINGS[encoding])
    return stream.compress(content) + stream.flush()


def _broken(encoding: bytes) -> InvalidField:
    return InvalidField(
        f"the body is not compressed as {encoding.decode()}",
        where="header Content-Encoding",
        expected=encoding.decode(),
    )
