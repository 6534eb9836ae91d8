"""A head that repeats the last one of its connection, but for the target and the content length, is not parsed."""

import re
from collections.abc import Callable, Mapping

from elman.http.endpoint import Route
from elman.http.exchange import Head

# Longer heads are not worth the memory.
_MAX_BYTES = 4096
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d{1,9})\r\n", re.IGNORECASE)
# A request line up to its version, with a target of letters that mean the same to every parser, escaped or not.
_LINE = re.compile(rb"POST ((/[\w/.-]{1,256})(?:\?([\w=&.-]{0,256}))?) ", re.ASCII)
# Requests with these fields are always parsed.
_NOT_REPEATED = frozenset({b"transfer-encoding", b"expect", b"upgrade"})

Find = Callable[[str, Mapping[bytes, bytes]], Route | None]


class RepeatedHead:
    """The last head of a connection that may be repeated.

    Args:
        line: its bytes up to the version.
        before, after: its bytes from there to the content length, and behind that.
        head: the same, parsed.
        party: whose turns its request took. A head with another target has the same key, and so the same caller.
    """

    __slots__ = ("_after", "_before", "_head", "_line", "party")

    def __init__(self, line: bytes, before: bytes, after: bytes, head: Head, party: bytes | None) -> None:
        self._line, self._before, self._after, self._head = line, before, after, head
        self.party = party

    @classmethod
    def of(cls, data: bytes, head: Head, party: bytes | None) -> "RepeatedHead | None":
        """What is to be kept of the first request in `data`; None if it is not exactly one, or is always parsed."""
        end = data.find(b"\r\n\r\n") + 4
        lengths = list(_LENGTH.finditer(data, 0, end))
        if (
            head.route is None
            or end > _MAX_BYTES
            or len(lengths) != 1
            or int(lengths[0][1]) != len(data) - end
            or len(head.fields) != len(head.headers)
            or not head.keep_alive
            or _NOT_REPEATED & head.fields.keys()
        ):
            return None
        start, stop = lengths[0].span(1)
        line = data.find(b" ", data.find(b" ") + 1) + 1
        return cls(data[:line], data[line:start], data[stop:end], head, party)

    def read(self, data: bytes, find: Find, limit: int) -> tuple[Head, bytes] | None:
        """The head and the body of the request that `data` is; None if it is not one that repeats the head.

        find: gives the route of another target.
        limit: bytes of the largest body.
        """
        begin, line = len(self._line), None
        if not data.startswith(self._line):
            line = _LINE.match(data)
            if line is None:
                return None
            begin = line.end()
        if not data.startswith(self._before, begin):
            return None
        begin += len(self._before)
        stop = data.find(b"\r\n", begin, begin + 12)
        digits = data[begin:stop]
        if stop < 0 or not digits.isdigit() or not data.startswith(self._after, stop):
            return None
        begin = stop + len(self._after)
        size = len(data) - begin
        if int(digits) != size or size > limit:
            return None
        if line is not None and not self._move(line, find):
            return None
        return self._head, data[begin:]

    def _move(self, line: "re.Match[bytes]", find: Find) -> bool:
        """Take another target into the head. False if it may be refused, or not be served by an endpoint."""
        head = self._head
        # Which content encodings are taken depends on the target.
        if b"content-encoding" in head.fields:
            return False
        target, raw_path, query = line.groups(b"")
        moved = head.at(target, raw_path, query)
        moved.find_route(find)
        if moved.route is None:
            return False
        self._line, self._head = line[0], moved
        return True
