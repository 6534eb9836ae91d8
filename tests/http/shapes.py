"""A thousand ways to frame a request, most of them wrong.

Each request has an `X-Request-ID` of its own, which its answer repeats: so it is seen what was taken for a request.
"""

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Shape:
    """Bytes that are sent over one connection."""

    name: str
    data: bytes


CRLF = b"\r\n"
HOST = b"Host: t\r\n"
BODY = b"hello"
CHUNKS = b"5\r\nhello\r\n0\r\n\r\n"


def head(fields: bytes = b"", line: bytes = b"POST /echo HTTP/1.1", id: bytes = b"first", host: bytes = HOST) -> bytes:
    return line + CRLF + host + b"X-Request-ID: " + id + CRLF + fields + CRLF


# What comes after the shape itself. It is a request, unless the shape has swallowed it.
NEXT = head(b"Content-Length: 2\r\n", id=b"next") + b"ok"
# The same, as a body of a request that is longer than it looks.
HIDDEN = head(line=b"GET /hidden HTTP/1.1", id=b"hidden")


def _lengths() -> Iterator[tuple[str, bytes]]:
    values = (
        b"5 05 00000000000000000005 +5 -5 5,5 5,6 5;5 0x5 5.0 5e0 1e1 5_0 five 5a a5 \xd9\xa5 18446744073709551621 "
        b"4294967301 9223372036854775808"
    ).split()
    values += [b"", b"5, 5", b"5 5", b"5\t", b" 5", b"5 ", b"\x0b5", b"5\x0c", b"5\x00", b"9" * 300, b"0" * 300 + b"5"]
    for value in values:
        yield f"length {value!r:.40}", head(b"Content-Length: " + value + CRLF) + BODY
    for several in itertools.product([b"5", b"05", b"6", b"0", b""], repeat=2):
        fields = b"".join(b"Content-Length: " + one + CRLF for one in several)
        yield f"lengths {several}", head(fields) + BODY
    for name in (b"Content-Length ", b"Content-Length\t", b" Content-Length", b"Content_Length", b"CONTENT-LENGTH",
                 b"Content-Length\x00", b"Content-Length\x0b", b"\x00Content-Length"):  # fmt: skip
        yield f"a length as {name!r}", head(name + b": 5\r\n") + BODY
    for method, length in itertools.product((b"GET", b"HEAD", b"DELETE", b"OPTIONS", b"TRACE"), (b"5", b"0", b"-1")):
        line = method + b" / HTTP/1.1"
        yield f"{method!r} of length {length!r}", head(b"Content-Length: " + length + CRLF, line) + BODY


def _encodings() -> Iterator[tuple[str, bytes]]:
    values = (
        b"chunked Chunked CHUNKED xchunked chunkedx chunk identity gzip chunked;q=1 chunked, ,chunked chunked,chunked "
        b'gzip,chunked chunked,gzip chunked,identity identity,chunked "chunked"'
    ).split()
    values += [b"", b" chunked", b"chunked ", b"\tchunked", b"\x0bchunked", b"chunked\x0b", b"chun ked", b"chunked\x00",
               b"\xa0chunked", b"chunked, chunked", b"gzip, chunked"]  # fmt: skip
    lengths = (b"", b"Content-Length: 5\r\n", b"Content-Length: 0\r\n", b"Content-Length: 15\r\n")
    for value, length, before in itertools.product(values, lengths, (False, True)):
        if length or not before:
            field = b"Transfer-Encoding: " + value + CRLF
            yield f"{value!r} and {length!r}", head(length + field if before else field + length) + CHUNKS + HIDDEN
    names = (b"Transfer-Encoding ", b"Transfer-Encoding\t", b" Transfer-Encoding", b"Transfer_Encoding",
             b"transfer-encoding", b"Transfer-Encoding\x00", b"X: y\nTransfer-Encoding", b"X: y\rTransfer-Encoding",
             b"X:\r\n Transfer-Encoding")  # fmt: skip
    for name, length in itertools.product(names, lengths):
        yield f"an encoding as {name!r}, {length!r}", head(length + name + b": chunked\r\n") + CHUNKS + HIDDEN
    for one, other in itertools.product((b"chunked", b"identity", b"gzip", b"x"), repeat=2):
        fields = b"Transfer-Encoding: %b\r\nTransfer-Encoding: %b\r\n" % (one, other)
        yield f"encodings {one!r} and {other!r}", head(fields) + CHUNKS + HIDDEN
    for line in (b"POST /echo HTTP/1.0", b"GET / HTTP/1.1", b"GET / HTTP/1.0", b"HEAD / HTTP/1.1"):
        for length in lengths:
            yield f"chunks for {line!r}, {length!r}", head(b"Transfer-Encoding: chunked\r\n" + length, line) + CHUNKS


def _chunks() -> Iterator[tuple[str, bytes]]:
    start = head(b"Transfer-Encoding: chunked\r\n")
    sizes = (b"5 05 " + b"0" * 17 + b"5 +5 -5 0x5 5h g 5;a 5;a=b 5;a=\"b\" 5;;a 5;=b fffffffffffffffff "
             b"7fffffffffffffff ffffffff 10000000000000005").split()  # fmt: skip
    sizes += [
        b"",
        b"5 ",
        b" 5",
        b"5\t",
        b"5 5",
        b"5;a\x00",
        b"5 ;a",
        b"5;" + b"a" * 20_000,
        b"5;a\r",
        b"5;a\nx",
        b"\n5",
    ]
    for size in sizes:
        yield f"a chunk of size {size!r:.40}", start + size + b"\r\nhello\r\n0\r\n\r\n"
    ends = ((b"\r\n", b"\n"), (b"\n", b"\r\n"), (b"\r", b"\r\n"), (b"\r\n", b"\r"), (b"\r\n", b""), (b"", b"\r\n"),
            (b"\r\r\n", b"\r\n"), (b"\r\n", b"x\r\n"), (b"\r\n", b"\r\n\r\n"))  # fmt: skip
    for after_size, after_data in ends:
        yield f"line ends {after_size!r}, {after_data!r}", start + b"5" + after_size + BODY + after_data + b"0\r\n\r\n"
    for content in (b"hell", b"hello!", b"", b"hello\n", b"hel\r\n0\r\n"):
        yield f"a chunk of other content {content!r}", start + b"5\r\n" + content + b"\r\n0\r\n\r\n"
    for last in (b"0", b"00", b"0" * 40, b"0;a", b"0 ", b"-0", b"+0", b"0x0", b"", b"\r\n0"):
        yield f"a last chunk {last!r}", start + b"5\r\nhello\r\n" + last + b"\r\n\r\n"
    trailers = (
        b"a: b", b"Content-Length: 3", b"Transfer-Encoding: chunked", b"X-Request-ID: other", b"Host: other", b"a b",
        b": b", b"a : b", b" a: b", b"a: b\r\n c", b"a: \x00", b"a", b"a: " + b"b" * 40_000,
    )  # fmt: skip
    for trailer in (*trailers, b"\r\n".join(b"a%d: b" % number for number in range(200))):
        yield f"a trailer {trailer!r:.40}", start + b"5\r\nhello\r\n0\r\n" + trailer + b"\r\n\r\n"
    for end in (b"\n\r\n", b"\r\n\n", b"\n\n", b"\r\r", b"\r\n\r"):
        yield f"chunks that end with {end!r}", start + b"5\r\nhello\r\n0" + end
    pieces = b"".join(b"1\r\n%c\r\n" % byte for byte in BODY)
    yield "chunks of one byte", start + pieces + b"0\r\n\r\n"
    yield "more than a thousand chunks", start + b"1\r\na\r\n" * 2_000 + b"0\r\n\r\n"


def _fields() -> Iterator[tuple[str, bytes]]:
    length = b"Content-Length: 5\r\n"
    for byte in (*range(0x20), 0x20, 0x22, 0x28, 0x2C, 0x3A, 0x3B, 0x40, 0x7B, 0x7F, 0x80, 0xFF):
        yield f"byte {byte:#x} in a name", head(b"X%cY: a\r\n" % byte + length) + BODY
        yield f"byte {byte:#x} in a value", head(b"X: a%cb\r\n" % byte + length) + BODY
        yield f"byte {byte:#x} before a name", head(b"%cX: a\r\n" % byte + length) + BODY
        yield f"byte {byte:#x} before the colon", head(b"X%c: a\r\n" % byte + length) + BODY
    for fold in (b"\r\n ", b"\r\n\t", b"\r\n  \r\n ", b"\n ", b"\r "):
        yield f"a fold {fold!r}", head(b"X: a" + fold + b"b\r\n" + length) + BODY
        yield f"a length after the fold {fold!r}", head(b"Content-Length:" + fold + b"5\r\n") + BODY
        yield f"a length that is folded {fold!r}", head(b"Content-Length: 5" + fold + b"0\r\n") + BODY
        yield f"a first field that is folded {fold!r}", head(fold[1:] + b"X: a\r\n" + length, host=b"") + BODY
        yield f"a hidden length {fold!r}", head(b"X: a" + fold + b"Content-Length: 99\r\n" + length) + BODY
    for line in (b"", b"X", b":", b": a", b"X:", b"X:a", b"X:\t a \t", b"X: " + b"a" * 30_000, b"X: " + b"a" * 70_000):
        yield f"a line {line!r:.40}", head(line + CRLF + length) + BODY
    for count in (98, 101, 1_000):
        yield f"{count} fields", head(b"X: a\r\n" * count + length) + BODY
    for end in (b"\n\n", b"\n\r\n", b"\r\n\n", b"\r\r", b"\r\n\r", b"\n\r"):
        yield f"a head that ends with {end!r}", head(length)[:-4] + end + BODY
    yield "lines that end with LF", head(length).replace(CRLF, b"\n") + BODY
    yield "lines that end with CR", head(length).replace(CRLF, b"\r") + BODY


def _lines() -> Iterator[tuple[str, bytes]]:
    methods = b"GET POST PUT PATCH DELETE HEAD OPTIONS TRACE CONNECT get Post FOO M-SEARCH PRI PROPFIND G\x00T".split()
    methods += [b"", b"GET,POST", b"A" * 50]
    versions = (
        b"HTTP/1.1 HTTP/1.0 HTTP/0.9 HTTP/2.0 HTTP/1.2 HTTP/1.10 HTTP/11 HTTP/1 http/1.1 HTTPS/1.1 ICE/1.0".split()
    )
    versions += [b"", b"HTTP/1.1 ", b"HTTP/1.1\t", b"HTTP/ 1.1", b"HTTP/1.1 x", b"HTTP/1\xff1"]
    targets = (
        b"/ /echo?x * // //a/b http://t/echo https://t/ http://t http://[::1]/echo http://[::bad/ t:80 echo /%00 /%zz "
        b"/\\ /a#b /a;b /\xc3\xa9 /../.. ?x #x /\x7f /a%0d%0aX:y ftp://t/ http://other/"
    ).split()
    targets += [b"", b"/" + b"a" * 8_000, b"/" + b"a" * 70_000]
    for method, version in itertools.product(methods, versions):
        yield f"{method!r:.20} {version!r}", head(line=method + b" / " + version)
    for method, target in itertools.product((b"GET", b"POST", b"HEAD"), targets):
        yield f"{method!r} {target!r:.40}", head(line=method + b" " + target + b" HTTP/1.1")
    for space in (b"  ", b"\t", b" \t", b"\x0b", b"\x0c", b"\xa0", b"\r", b"\n"):
        yield f"{space!r} before the target", head(line=b"GET" + space + b"/ HTTP/1.1")
        yield f"{space!r} after the target", head(line=b"GET /" + space + b"HTTP/1.1")
    for before in (b"\r\n", b"\r\n\r\n", b"\n", b"\r", b" ", b"\t", b"\x00", b"\xef\xbb\xbf", b"\r\n" * 50):
        yield f"{before!r:.30} before the request", before + head(line=b"GET / HTTP/1.1")
    hosts = (b"", b"Host:\r\n", HOST + HOST, HOST + b"Host: u\r\n", b"Host: t t\r\n", b"Host: t/x\r\n", b"Host : t\r\n",
             b"Host: t:80\r\n", b"Host: u@t\r\n", b"host: [::1]:1\r\n", b"Host: t\r\n u\r\n")  # fmt: skip
    for host, version in itertools.product(hosts, (b"1.1", b"1.0")):
        yield f"host {host!r} in {version!r}", head(line=b"GET / HTTP/" + version, host=host)


def _connections() -> Iterator[tuple[str, bytes]]:
    length = b"Content-Length: 5\r\n"
    wishes = (b"", b"Connection: close\r\n", b"Connection: keep-alive\r\n", b"Connection: Upgrade\r\n",
              b"Connection: close, keep-alive\r\n", b"Connection: upgrade, close\r\n",
              b"Connection: content-length\r\n")  # fmt: skip
    upgrades = (b"", b"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n", b"Upgrade: TLS/1.0\r\n",
                b"Upgrade: a b\r\n", b"Upgrade:\r\n")  # fmt: skip
    lines = (b"POST /echo HTTP/1.1", b"GET / HTTP/1.1", b"POST /echo HTTP/1.0")
    for wish, upgrade, line in itertools.product(wishes, upgrades, lines):
        yield f"{wish!r} {upgrade!r:.20} {line!r}", head(wish + upgrade + length, line) + BODY
    for expected, version in itertools.product(
        (b"100-continue", b"100-Continue", b"200-ok", b"", b"100-continue, x"), (b"1.1", b"1.0")
    ):
        line = b"POST /echo HTTP/" + version
        yield f"expecting {expected!r} in {version!r}", head(b"Expect: " + expected + CRLF + length, line) + BODY
    yield "the preface of HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"
    yield "a handshake of TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200)
    yield "nothing but zeros", bytes(40_000)
    yield "a request of the memcached protocol", b"set a 0 0 5\r\nhello\r\n"
    for count in (2, 10, 99):
        yield f"{count} requests at once", b"".join(
            head(length, id=b"n%d" % number) + BODY for number in range(count)
        )  # fmt: skip


def _cut() -> Iterator[tuple[str, bytes]]:
    """Two good requests, cut after each byte."""
    whole = head(b"Content-Length: 5\r\n") + BODY + head(b"Transfer-Encoding: chunked\r\n", id=b"second") + CHUNKS
    for size in range(1, len(whole)):
        yield f"cut after {size}", whole[:size]


def _changed() -> Iterator[tuple[str, bytes]]:
    """Two good requests, with one byte replaced, left out or put between."""
    whole = head(b"Content-Length: 5\r\n") + BODY + head(b"Transfer-Encoding: chunked\r\n", id=b"second") + CHUNKS
    rng = random.Random(0)
    for number in range(400):
        at, byte = rng.randrange(len(whole)), bytes([rng.choice(b"\0\t\n\r :;,0159afx\x7f\xff")])
        before, after = rng.choice(((whole[:at], whole[at + 1 :]), (whole[:at], whole[at:])))
        yield f"changed {number}", before + (byte if number % 5 else b"") + after


SHAPES = [
    *(
        Shape(f"{group.__name__[1:]}: {name}", data + NEXT)
        for group in (_lengths, _encodings, _chunks, _fields, _lines, _connections, _changed)
        for name, data in group()
    ),
    *(Shape(f"cut: {name}", data) for name, data in _cut()),
]
