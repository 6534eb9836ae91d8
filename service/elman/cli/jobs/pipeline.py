"""Moves sequences from a source through a model to a sink, in order and in bounded memory."""

import asyncio
import itertools
import time
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Literal

from elman.cli.jobs.files.errors import writing
from elman.cli.jobs.files.items import InputItem, Outcome, Sink, Source
from elman.cli.jobs.prefetch import Prefetcher
from elman.cli.jobs.progress import Counts

OnError = Literal["stop", "skip"]

RunItems = Callable[[int, list[InputItem]], Coroutine[Any, Any, list[Outcome]]]
"""Gives the outcomes of items in order. The first argument is the number of the first item."""

# In the result of a text with unknown characters, as the server writes it.
_UNKNOWN = b'"unknown":[{'

_Pending = asyncio.Future[list[Outcome]]


class ItemFailed(Exception):
    """An item got no result, and errors are not to be skipped."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(f"{outcome.item.place}: {outcome.error}")


class Pipeline:
    """Moves the items of a source through `run_items` to a sink.

    Args:
        concurrency: requests in flight at once.
        batch: most sequences in one request.
        on_progress: called after outcomes were written.
    """

    def __init__(
        self,
        run_items: RunItems,
        source: Source,
        sink: Sink,
        concurrency: int,
        batch: int,
        on_error: OnError,
        on_progress: Callable[[Counts], None],
    ) -> None:
        self.run_items = run_items
        self.source = source
        self.sink = sink
        self.concurrency = concurrency
        self.batch = batch
        self.on_error = on_error
        self.on_progress = on_progress
        self.counts = Counts()

    async def run(self) -> None:
        """Move everything. If it raises, the sink still holds whole outcomes only.

        Raises:
            ItemFailed: an item got no result, and `on_error` is stop.
            UnusableFile: the source or the sink cannot continue.
            UnwritableOutput: the disk of the sink is full, or fails.
            Unreachable: the server went away.
        """
        done = self.sink.done
        self.counts = Counts(before=done, started=time.perf_counter())
        complete = False
        prefetcher = Prefetcher(itertools.islice(self.source, done, None), self.batch)
        try:
            await self._move(prefetcher, done)
            complete = True
        finally:
            prefetcher.close()
            with writing():
                self.sink.close(complete)

    async def _move(self, prefetcher: Prefetcher, start: int) -> None:
        """Write the outcomes in the order of the items, while `_send` keeps requests in flight."""
        sent: asyncio.Queue[_Pending | None] = asyncio.Queue()
        slots = asyncio.Semaphore(self.concurrency)
        tasks: deque[asyncio.Future[Any]] = deque()
        tasks.append(asyncio.ensure_future(self._send(prefetcher, start, sent, slots, tasks)))
        try:
            while (task := await sent.get()) is not None:
                outcomes = await task
                self.counts.read = start + prefetcher.num_read
                self._write(outcomes)
                slots.release()
                tasks.remove(task)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _send(
        self,
        prefetcher: Prefetcher,
        number: int,
        sent: "asyncio.Queue[_Pending | None]",
        slots: asyncio.Semaphore,
        tasks: "deque[asyncio.Future[Any]]",
    ) -> None:
        """Send requests while there are free slots. An error of reading is put in the queue, in its order."""
        while True:
            await slots.acquire()
            try:
                items = await prefetcher.take()
            except Exception as error:
                failed: _Pending = asyncio.get_running_loop().create_future()
                failed.set_exception(error)
                tasks.append(failed)
                sent.put_nowait(failed)
                return
            if not items:
                sent.put_nowait(None)
                return
            task = asyncio.ensure_future(self.run_items(number, items))
            number += len(items)
            tasks.append(task)
            sent.put_nowait(task)

    def _write(self, outcomes: list[Outcome]) -> None:
        failed = next((i for i, outcome in enumerate(outcomes) if outcome.error is not None), None)
        if failed is not None and self.on_error == "stop":
            self._put(outcomes[:failed])
            raise ItemFailed(outcomes[failed])
        self._put(outcomes)

    def _put(self, outcomes: list[Outcome]) -> None:
        if not outcomes:
            return
        with writing():
            self.sink.write(outcomes)
        self.counts.written += len(outcomes)
        self.counts.failed += sum(outcome.error is not None for outcome in outcomes)
        self.counts.unknown += sum(_UNKNOWN in outcome.content for outcome in outcomes)
        self.on_progress(self.counts)
