"""Bodies that are compressed with gzip or deflate, which is zlib."""

import zlib

from elman.errors import InvalidField, TooLarge

ENCODINGS = {b"gzip": 31, b"deflate": 15}
"""The window bits of each encoding."""


def unpacked(content: bytes, encoding: bytes, limit: int) -> bytes:
    """A body without its compression. Raises InvalidField, and TooLarge before more than `limit` bytes are made."""
    parts, left = [], limit
    while content:
        stream = zlib.decompressobj(ENCODINGS[encoding])
        try:
            part = stream.decompress(content, left + 1)
        except zlib.error:
            raise _broken(encoding) from None
        left -= len(part)
        if left < 0:
            raise TooLarge(f"the body is larger than {limit} bytes unpacked", expected=f"at most {limit} bytes")
        if not stream.eof:
            raise _broken(encoding)
        parts.append(part)
        content = stream.unused_data
    return parts[0] if len(parts) == 1 else b"".join(parts)


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
