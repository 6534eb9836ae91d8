"""Reads items of a source ahead, in a thread of its own and within a limit."""

import asyncio
import threading
from collections import deque
from collections.abc import Iterable

from elman.cli.jobs.files.items import InputItem

# Most bytes of sequences in one request. Larger bodies would go to the server's decoding process.
_REQUEST_BYTES = 400_000
# Most requests and bytes that are read ahead.
_AHEAD = 8
_AHEAD_BYTES = 32 << 20


class Prefetcher:
    """Gives the items of a source in batches for requests.

    A batch holds what was read so far: from a file it is full, from a pipe it may be a single item.

    Args:
        most: most items in a batch.
    """

    def __init__(self, items: Iterable[InputItem], most: int) -> None:
        self._records = iter(items)
        self._most = most
        self._ready: deque[InputItem] = deque()
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

    async def take(self) -> list[InputItem]:
        """The next items. The list is empty at the end. Raises what reading raised."""
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

    def _take(self) -> list[InputItem]:
        taken: list[InputItem] = []
        size = 0
        while self._ready and len(taken) < self._most and (not taken or size < _REQUEST_BYTES):
            item = self._ready.popleft()
            size += len(item.content)
            taken.append(item)
        self._bytes -= size
        # The reader is woken when half is used, so that the threads do not switch for each item.
        if len(self._ready) <= self._most * _AHEAD // 2 and self._bytes <= _AHEAD_BYTES // 2:
            self._room.notify()
        return taken

    def close(self) -> None:
        """Stop reading."""
        with self._room:
            self._closed = True
            self._room.notify()

    # The reading thread

    def _read(self) -> None:
        try:
            for item in self._records:
                if not self._put(item):
                    return
        except Exception as error:  # raised by the next take()
            self._error = error
        finally:
            # A source closes its file when it is dropped, also before its end.
            self._records = iter(())
        with self._room:
            self._ended = True
        self._tell()

    def _put(self, item: InputItem) -> bool:
        with self._room:
            while len(self._ready) >= self._most * _AHEAD or (self._bytes >= _AHEAD_BYTES and self._ready):
                self._room.wait()
                if self._closed:
                    return False
            first = not self._ready
            self._ready.append(item)
            self.num_read += 1
            self._bytes += len(item.content)
        if first:
            self._tell()
        return not self._closed

    def _tell(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._news.set)
        except RuntimeError:
            pass  # the event loop was closed while this thread waited for a pipe
