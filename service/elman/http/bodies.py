"""Limits on request bodies and WebSocket messages: size, time, and the memory of all that are being received."""

import asyncio
import re
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

from elman.codec.budget import Budget
from elman.codec.compression import ENCODINGS
from elman.errors import BodyTimeout, TooLarge, UnsupportedMediaType

# Time for a whole body, in multiples of `timeout`, which is the limit between two pieces.
_MAX_TIMEOUTS = 20
# Larger bodies are joined in a thread, without the interpreter's lock. 60 MB take 50 ms.
_MAX_JOINED_HERE = 2**20
# URLs at which a body may be compressed.
_UNPACKED = re.compile(rb"/v2/models/[^?]*/infer(\?.*)?")


class Held:
    """Bytes of one client that are held until all of them are there, or dealt with.

    Args:
        party: whose share of the memory they take.
        on_stall: called with the error when the client sends no more of them in time.
    """

    __slots__ = ("_bodies", "_size", "_until", "deadline", "on_stall", "overdue", "party")

    def __init__(self, bodies: "Bodies", party: bytes, on_stall: Callable[[BodyTimeout], None]) -> None:
        now = time.monotonic()
        self._bodies = bodies
        self.party = party
        self._size = 0
        self._until = now + _MAX_TIMEOUTS * bodies.timeout
        self.on_stall = on_stall
        self.deadline = now + bodies.timeout
        self.overdue = False
        bodies.waiting.add(self)

    def resize(self, size: int, *, arrived: bool = True) -> None:
        """Hold so many bytes from now on. Raises TooLarge, BodyTimeout and Overloaded.

        arrived: whether the client has just sent some of them.
        """
        bodies = self._bodies
        before, self._size = self._size, size
        if size > before:
            bodies.budget.add(self.party, size - before)
        else:
            bodies.budget.remove(self.party, before - size)
        if size > bodies.limit:
            raise bodies.too_large()
        if arrived:
            now = time.monotonic()
            self.deadline, self.overdue = now + bodies.timeout, False
            if now > self._until:
                raise BodyTimeout(f"the body was not complete after {_MAX_TIMEOUTS * bodies.timeout:g} seconds")

    def release(self) -> None:
        """Hold nothing any more."""
        self._bodies.waiting.discard(self)
        self._bodies.budget.remove(self.party, self._size)
        self._size = 0


class Body(Held):
    """A body that arrives in pieces."""

    __slots__ = ("_pieces",)

    def __init__(self, bodies: "Bodies", party: bytes, on_stall: Callable[[BodyTimeout], None]) -> None:
        super().__init__(bodies, party, on_stall)
        self._pieces: list[bytes] = []

    def add(self, piece: bytes) -> None:
        """Take the next piece. Raises TooLarge, BodyTimeout and Overloaded."""
        self._pieces.append(piece)
        self.resize(self._size + len(piece))

    def close(self) -> bytes:
        """The whole content. Called once, when the body is complete."""
        self.release()
        return self.join()

    def ended_by(self, piece: bytes) -> "bytes | Body":
        """Take the last piece. The whole content, or the body itself, to be joined beside the event loop.

        Raises as `add`. Such a body counts towards the memory until it is released.
        """
        self.add(piece)
        if self._size <= _MAX_JOINED_HERE:
            return self.close()
        self._bodies.waiting.discard(self)
        return self

    def join(self) -> bytes:
        """The whole content. Called once, in any thread."""
        pieces, self._pieces = self._pieces, []
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)


class Bodies:
    """The bodies that one server is receiving.

    A sweep once a second finds the stalled ones. This costs less than a timer per request.
    """

    def __init__(self, limit: int, timeout: float) -> None:
        self.limit = limit
        self.timeout = timeout
        self.budget = Budget(limit)
        self.waiting: set[Held] = set()
        self._joining = ThreadPoolExecutor(1, "elman-bodies")

    def check_declared(self, headers: Mapping[bytes, bytes], url: bytes = b"") -> None:
        """Raise TooLarge by the Content-Length, and UnsupportedMediaType if the body is compressed.

        At some URLs it may be compressed with gzip or deflate: their endpoints unpack it.
        """
        encoding = headers.get(b"content-encoding", b"identity").strip().lower()
        if encoding not in (b"identity", b""):
            unpacks = _UNPACKED.fullmatch(url) is not None
            if not unpacks or encoding not in ENCODINGS:
                raise UnsupportedMediaType(
                    f"the body is encoded as {encoding[:80].decode('latin-1')}",
                    where="header Content-Encoding",
                    expected="gzip or deflate" if unpacks else "a body that is not compressed",
                )
        declared = headers.get(b"content-length", b"").lstrip(b"0")
        if declared.isdigit() and (len(declared) > 18 or int(declared) > self.limit):
            raise self.too_large()

    def join(self, body: Body, then: Callable[[bytes | None], None]) -> None:
        """Join a complete body in a thread, then release it and call `then` with its content on the event loop.

        The content is None if there is no memory for it.
        """

        def joined(call: "asyncio.Future[bytes]") -> None:
            body.release()
            then(None if call.exception() else call.result())

        asyncio.get_running_loop().run_in_executor(self._joining, body.join).add_done_callback(joined)

    def too_large(self) -> TooLarge:
        return TooLarge(f"the body is larger than {self.limit} bytes", expected=f"at most {self.limit} bytes")

    async def sweep(self) -> None:
        """Abandon stalled bodies, until cancelled.

        A body must be overdue in two sweeps: if the event loop itself was blocked, data that arrived is read first.
        """
        while True:
            await asyncio.sleep(min(1.0, self.timeout / 4))
            now = time.monotonic()
            for body in [one for one in self.waiting if now > one.deadline]:
                if body.overdue:
                    body.on_stall(BodyTimeout(f"no piece of the body arrived for {self.timeout:g} seconds"))
                body.overdue = True
