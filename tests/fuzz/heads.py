"""`python -m tests.fuzz.heads`: a head that repeats the last one is read as the parser reads it, in very many cases.

A case is one connection. Its first request is remembered; the others repeat its head, or nearly so. The bytes of the
answers, what the application was given, and whether the server closes, must be as with a server that parses every head.
The cases follow from the seed. A case that differs is printed, and ends the search with another code than 0.
"""

import argparse
import random
import re
import sys
from collections import Counter
from collections.abc import Callable

from elman.http import protocol
from elman.http.repeated import RepeatedHead
from tests.fuzz.connection import Connection

# Turns of the event loop in which a request is answered before the next piece comes.
_TURNS = 3
# Ids that the server makes, for requests whose own it did not read.
_MADE_ID = re.compile(rb"x-request-id: [0-9a-f]{8}-[0-9a-f]+\r\n")

_LINES = [b"POST /echo HTTP/1.1", b"POST /echo?a=1 HTTP/1.1", b"POST /echo HTTP/1.0", b"POST /other HTTP/1.1"]
_NAMES = [b"Content-Length", b"content-length", b"CONTENT-LENGTH", b"Content-length"]
_COLONS = [b": ", b":", b":\t", b":  ", b": \t "]
_FIELDS = [
    b"Content-Type: a/b", b"Accept: */*", b"X-A:", b"X-B: \xe9\xff", b"Connection: keep-alive", b"X-Content-Length: 7",
    b"X-C: content-length: 7", b"Authorization: Bearer k", b"Connection: close", b"Expect: 100-continue",
    b"Transfer-Encoding: chunked", b"Upgrade: h2c", b"X-D: a\r\n b", b"Content-Encoding: gzip",
]  # fmt: skip
_TARGETS = [
    b"/echo", b"/echo/1/steps?at=3", b"/echo/1/steps?at=4", b"/echo?", b"/echo??a", b"/echo?a=b&c=d", b"/echo//x",
    b"//echo", b"/echo/../x", b"/echo%41", b"/echo?a=%41", b"/echo?a=+", b"/echo#a", b"/echo?a#b", b"/other",
    b"/refused", b"/", b"*", b"", b"echo", b"http://t/echo", b"t:80", b"/echo /x", b"/echo\t", b"/echo\xe9", b"/ech\0o",
    b"/echo\r\nX-E: 1",
    b"/v2/models/m/infer", b"/echo/" + b"a" * 300, b"/echo?a=" + b"b" * 5000, b"/echo?" + b"a" * 40_000,
]  # fmt: skip
_LENGTHS = [
    b"", b"0", b"+%d", b"-%d", b"0%d", b"00000000000%d", b"%d ", b" %d", b"\t%d", b"%d\t", b"%d,%d", b"0x%d", b"%d.0",
    b"%d_0", b"%d0", b"1%d", b"99999999999", b"18446744073709551616", b"%d\n", b"%d\r", b"\n%d", b"%d\0", b"\xb2",
    b"\xd9\xa5", b"%d\r\n %d", b"%d\r\n\t", b"%d\r\nContent-Length: %d", b"%d\r\nContent-Length: 1%d", b"%d;a",
    b"%d\r\nTransfer-Encoding: chunked", b"%d\r\nTransfer-Encoding: identity", b"%d\r\nTransfer-Encoding:\x0bchunked",
    b"%d\r\nConnection: close", b"%d\r\nExpect: 100-continue", b"%d\r\nHost: other", b"%d\r\nX: \xff\x80",
    b"%d\r\n\r\n",
]  # fmt: skip
_SLIPS = [b"", b"\r\n", b"\n", b"\r", b" ", b"\t", b":", b"a", b"0", b"5", b"\0", b"\x0b", b"\x7f", b"\xff", b"\r\n "]
_BETWEEN = [b"\r\n", b"\n", b"\r", b"\r\n\r\n", b" ", b"P", b"\0"]
_CHUNKS = b"5\r\nhello\r\n0\r\n\r\n"


class Heads:
    """Makes the cases."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)

    def case(self) -> list[bytes]:
        """The pieces that are sent over one connection."""
        rng = self.rng
        before, after = self._head()
        requests = [self._request(before, after)]
        for _ in range(rng.randint(1, 4)):
            makes = self._request, self._wrong_length, self._changed, self._slipped, self._moved
            requests.append(rng.choices(makes, (4, 4, 2, 4, 4))[0](before, after))
        if rng.random() < 0.1:
            requests.insert(rng.randint(0, len(requests)), rng.choice(_BETWEEN))
        return self._pieces(requests)

    def _head(self) -> tuple[bytes, bytes]:
        """The bytes of a head before and after the number of its content length."""
        rng = self.rng
        fields = [b"Host: t", b"X-Request-ID: one", *rng.sample(_FIELDS[:8] if rng.random() < 0.9 else _FIELDS, 2)]
        rng.shuffle(fields)
        at = rng.randint(0, len(fields))
        name = rng.choice(_NAMES) + rng.choices(_COLONS, (8, 1, 1, 1, 1))[0]
        before = b"\r\n".join([rng.choices(_LINES, (16, 4, 1, 1))[0], *fields[:at], name])
        return before, b"\r\n".join([b"", *fields[at:], b"", b""])

    def _body(self, before: bytes, after: bytes) -> bytes:
        rng = self.rng
        kind = rng.randrange(8)
        if kind == 0:
            return before + b"2" + after + b"ok"  # a request within a request
        return _CHUNKS if kind == 1 else rng.randbytes(rng.choice((0, 1, 5, 5, 9, 10, 12, 100)))

    def _request(self, before: bytes, after: bytes) -> bytes:
        body = self._body(before, after)
        return before + b"%d" % len(body) + after + body

    def _wrong_length(self, before: bytes, after: bytes) -> bytes:
        body = self._body(before, after)
        size = max(0, len(body) + self.rng.choice((0, 0, 0, 1, -1, 10)))
        return before + self.rng.choice(_LENGTHS).replace(b"%d", b"%d" % size) + after + body

    def _changed(self, before: bytes, after: bytes) -> bytes:
        """A head with another field, one less, or letters in another case."""
        rng = self.rng
        kind = rng.randrange(4)
        if kind == 0:
            after = b"\r\n" + rng.choice(_FIELDS) + after
        elif kind == 1:
            before = before.replace(b"\r\n", b"\r\n" + rng.choice(_FIELDS) + b"\r\n", 1)
        elif kind == 2:
            after = b"\r\n" + after.partition(b"\r\n")[2].partition(b"\r\n")[2]
        else:
            before, after = rng.choice(
                ((before.swapcase(), after), (before, after.swapcase()), (before, b"\r\n" + after))
            )
        return self._request(before, after)

    def _moved(self, before: bytes, after: bytes) -> bytes:
        """Another target, and perhaps more that is not as it was."""
        rng = self.rng
        method, _, rest = before.partition(b" ")
        moved = b" ".join((method, rng.choice(_TARGETS), rest.partition(b" ")[2]))
        return rng.choices((self._request, self._wrong_length, self._slipped), (6, 1, 2))[0](moved, after)

    def _slipped(self, before: bytes, after: bytes) -> bytes:
        """A request with some bytes put in, left out or replaced."""
        rng = self.rng
        data = bytearray(self._request(before, after))
        for _ in range(rng.choice((1, 1, 2))):
            at = rng.choice((rng.randint(0, len(data)), len(before) + rng.randint(-4, 8), rng.randint(0, 30)))
            data[at : at + rng.randint(0, 2)] = rng.choice(_SLIPS)
        return bytes(data)

    def _pieces(self, requests: list[bytes]) -> list[bytes]:
        """The requests as they arrive: one by one, several at once, or cut anywhere."""
        rng, kind = self.rng, self.rng.randrange(6)
        if kind == 0:
            at = rng.randint(1, len(requests))
            return [b"".join(requests[:at]), b"".join(requests[at:])]
        if kind == 1:
            rest = b"".join(requests[1:])
            cuts = sorted(rng.randint(0, len(rest)) for _ in range(rng.randint(1, 3)))
            ends = zip([0, *cuts], [*cuts, len(rest)], strict=True)
            return [requests[0], *(rest[begin:end] for begin, end in ends if begin < end)]
        return requests


class Compared:
    """Compares a server that repeats heads with one that parses all of them.

    Attributes:
        counts: of `cases`; of `repeated` heads; and of those that were compared with the last one, and `parsed`.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._connection = Connection()
        self._take = take = protocol.HTTPProtocol._take_repeated
        counts = self.counts

        def counted(self: protocol.HTTPProtocol, data: bytes, last: RepeatedHead) -> bool:
            taken = take(self, data, last)
            counts["repeated" if taken else "parsed"] += 1
            return taken

        self._counted: Callable[..., bool] = counted

    def differ(self, pieces: list[bytes]) -> tuple[object, object] | None:
        """What both servers wrote, and whether they close, if that is not the same."""
        self.counts["cases"] += 1
        found = self._answers(pieces, self._counted)
        parsed = self._answers(pieces, lambda *_: False)
        return None if found == parsed else (found, parsed)

    def _answers(self, pieces: list[bytes], take: Callable[..., bool]) -> tuple[object, ...]:
        protocol.HTTPProtocol._take_repeated = take  # type: ignore[method-assign]
        try:
            written, closes = self._connection.written(pieces, _TURNS)
        finally:
            protocol.HTTPProtocol._take_repeated = self._take  # type: ignore[method-assign]
        app = self._connection.app
        return _MADE_ID.sub(b"x-request-id: made\r\n", written), closes, list(app.methods), list(app.targets)

    def close(self) -> None:
        self._connection.close()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.heads", description=__doc__)
    parser.add_argument("--cases", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    heads, compared = Heads(args.seed), Compared()
    for number in range(1, args.cases + 1):
        pieces = heads.case()
        if (both := compared.differ(pieces)) is not None:
            sys.exit(f"case {number} of seed {args.seed} differs: {pieces}\nrepeated {both[0]}\nparsed {both[1]}")
        if number % 10_000 == 0 or number == args.cases:
            print(f"seed {args.seed}: {dict(compared.counts)}, none differs", flush=True)
    compared.close()


if __name__ == "__main__":
    main()
