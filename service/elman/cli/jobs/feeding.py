"""Records from a source to whoever has room, read ahead in a thread of its own and never far ahead."""

import asyncio
import threading
from collections import deque
from collections.abc import Iterable

from elman.cli.jobs.files.record import Record

# A request holds up to so many bytes of sequences, beside its limit on their number: well below what a server takes,
# and below what it hands to its decoding process.
_REQUEST_BYTES = 400_000
# What is read ahead: so many requests' worth, and no more bytes than that.
_AHEAD = 8
_AHEAD_BYTES = 32 << 20


class Feed:
    """Takes records from a source as fast as they are asked for.

    A request is filled with what there is: from a file it is full, from a pipe it is what came so far.
    """

    def __init__(self, records: Iterable[Record], most: int) -> None:
        self._records = iter(records)
        self._most = most
        self._ready: deque[Record] = deque()
        self._bytes = 0
        self.num_read = 0
        self._ended = False
        self._closed = False
        self._error: Exception | None = None
        self._room = threading.Condition()
        self._loop = asyncio.get_running_loop()
        self._news = asyncio.Event()
        self._thread = threading.Thread(target=self._read, name="elman-reading", daemon=True)
        self._thread.start()

    async def take(self) -> list[Record]:
        """The next records, at least one, or none at the end. Raises what reading raised."""
        while True:
            self._news.clear()
            with self._room:
                taken = self._take()
                if taken or self._ended:
                    break
            await self._news.wait()
        if not taken and self._error is not None:
            raise self._error
        return taken

    def _take(self) -> list[Record]:
        taken: list[Record] = []
        size = 0
        while self._ready and len(taken) < self._most and (not taken or size < _REQUEST_BYTES):
            record = self._ready.popleft()
            size += len(record.content)
            taken.append(record)
        self._bytes -= size
        # Woken when half is used, so that the two threads change places seldom.
        if len(self._ready) <= self._most * _AHEAD // 2 and self._bytes <= _AHEAD_BYTES // 2:
            self._room.notify()
        return taken

    def close(self) -> None:
        """Read no more."""
        with self._room:
            self._closed = True
            self._room.notify()

    # The reading thread

    def _read(self) -> None:
        try:
            for record in self._records:
                if not self._put(record):
                    return
        except Exception as error:  # whatever reading meets is told to whoever asks for the next record
            self._error = error
        with self._room:
            self._ended = True
        self._tell()

    def _put(self, record: Record) -> bool:
        with self._room:
            while len(self._ready) >= self._most * _AHEAD or (self._bytes >= _AHEAD_BYTES and self._ready):
                self._room.wait()
                if self._closed:
                    return False
            first = not self._ready
            self._ready.append(record)
            self.num_read += 1
            self._bytes += len(record.content)
        if first:
            self._tell()
        return not self._closed

    def _tell(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._news.set)
        except RuntimeError:
            pass  # the loop closed while a pipe was waited for
