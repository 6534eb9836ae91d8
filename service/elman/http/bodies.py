"""Limits on request bodies: size, time, and the memory of all bodies that are being received."""

import asyncio
import time
from collections.abc import Callable, Mapping

from elman.errors import BodyTimeout, Overloaded, TooLarge

# Memory for bodies that are being received, from all clients, in multiples of the largest body.
_MAX_BODIES = 4
# Time for a whole body, in multiples of `timeout`, which is the limit between two pieces.
_MAX_TIMEOUTS = 20


class Body:
    """A body that arrives in pieces. `on_stall` is called with the error when no piece comes in time."""

    __slots__ = ("_bodies", "_pieces", "_size", "_until", "deadline", "on_stall", "overdue")

    def __init__(self, bodies: "Bodies", on_stall: Callable[[BodyTimeout], None]) -> None:
        now = time.monotonic()
        self._bodies = bodies
        self._pieces: list[bytes] = []
        self._size = 0
        self._until = now + _MAX_TIMEOUTS * bodies.timeout
        self.on_stall = on_stall
        self.deadline = now + bodies.timeout
        self.overdue = False
        bodies.waiting.add(self)

    def add(self, piece: bytes) -> None:
        """Take the next piece. Raises TooLarge, BodyTimeout and Overloaded."""
        bodies, now = self._bodies, time.monotonic()
        self._size += len(piece)
        bodies.num_held += len(piece)
        self._pieces.append(piece)
        self.deadline, self.overdue = now + bodies.timeout, False
        if self._size > bodies.limit:
            raise bodies.too_large()
        if bodies.num_held > _MAX_BODIES * bodies.limit:
            raise Overloaded(f"bodies that are being received take {bodies.num_held} bytes", retry_after=1)
        if now > self._until:
            raise BodyTimeout(f"the body was not complete after {_MAX_TIMEOUTS * bodies.timeout:g} seconds")

    def close(self) -> bytes:
        """The whole content. Called once, when the body is complete or abandoned."""
        self._bodies.waiting.discard(self)
        self._bodies.num_held -= self._size
        pieces, self._pieces, self._size = self._pieces, [], 0
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)


class Bodies:
    """The bodies that one server is receiving.

    A sweep once a second finds the stalled ones. This costs less than a timer per request.
    """

    def __init__(self, limit: int, timeout: float) -> None:
        self.limit = limit
        self.timeout = timeout
        self.num_held = 0
        self.waiting: set[Body] = set()

    def check_declared(self, headers: Mapping[bytes, bytes]) -> None:
        """Raise TooLarge if the Content-Length is over the limit."""
        declared = headers.get(b"content-length", b"")
        if declared.isdigit() and (len(declared) > 18 or int(declared) > self.limit):
            raise self.too_large()

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
