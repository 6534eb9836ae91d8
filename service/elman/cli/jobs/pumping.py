"""From a source through a model to a sink: in order, in bounded memory, and so that it can be gone on with."""

import asyncio
import itertools
import json
import time
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from elman.cli.jobs.feeding import Feed
from elman.cli.jobs.files.record import Answer, Record, Shape, Sink, Source, Unusable

OnError = Literal["stop", "skip"]


class Ask(Protocol):
    """Whatever answers records, in order; `start` is the number of the first."""

    def __call__(self, start: int, records: list[Record]) -> Coroutine[Any, Any, list[Answer]]: ...


class Stopped(Exception):
    """A record that has no answer, where such are not to be passed over."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(f"{answer.record.place}: {answer.error}")
        self.answer = answer


@dataclass
class Counts:
    """What was done: answers there before, answers written now, and how many of these say that there is none.

    `read` counts the records that were read, which is ahead of what was written.
    """

    before: int = 0
    read: int = 0
    written: int = 0
    failed: int = 0
    started: float = 0.0

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.started


def shape_of(card: dict[str, Any], decode: bool = True) -> Shape:
    """What a sequence of a model is, by its card."""
    given, output = card["input"], card["output"]
    decoded: Literal["label", "token", "values"] | None = None
    if decode and output.get("labels"):
        decoded = "label"
    elif decode and card["task"] == "generation":
        decoded = "token"
    elif decode and card["task"] in ("forecasting", "regression"):
        decoded = "values"
    return Shape(
        kind=given["kind"],
        size=given.get("size"),
        names=tuple(given["names"]) if given.get("names") else None,
        text=bool(given.get("text")),
        outputs=output["size"],
        decoded=decoded,
    )


class Pump:
    """Moves records of a source through `ask` to a sink.

    Args:
        concurrency: requests at once.
        batch: most sequences of a request.
        watch: called whenever answers were written.
    """

    def __init__(
        self,
        ask: Ask,
        source: Source,
        sink: Sink,
        concurrency: int,
        batch: int,
        on_error: OnError,
        watch: Callable[[Counts], None],
    ) -> None:
        self.ask = ask
        self.source = source
        self.sink = sink
        self.concurrency = concurrency
        self.batch = batch
        self.on_error = on_error
        self.watch = watch
        self.counts = Counts()

    async def run(self) -> Counts:
        """All of it. Raises Stopped, Unusable, and what `ask` raises; whatever it raises, the sink is whole."""
        done = self.sink.done
        self.counts = Counts(before=done, started=time.perf_counter())
        complete = False
        feed = Feed(itertools.islice(self.source, done, None), self.batch)
        try:
            await self._move(feed, done)
            complete = True
        finally:
            feed.close()
            self.sink.close(complete)
        return self.counts

    async def _move(self, feed: Feed, start: int) -> None:
        asked: asyncio.Queue[asyncio.Future[list[Answer]] | None] = asyncio.Queue()
        room = asyncio.Semaphore(self.concurrency)
        tasks: deque[asyncio.Future[Any]] = deque()
        tasks.append(asyncio.ensure_future(self._send(feed, start, asked, room, tasks)))
        try:
            while (task := await asked.get()) is not None:
                answers = await task
                self.counts.read = start + feed.num_read
                self._write(answers)
                room.release()
                tasks.remove(task)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _send(
        self,
        feed: Feed,
        number: int,
        asked: "asyncio.Queue[asyncio.Future[list[Answer]] | None]",
        room: asyncio.Semaphore,
        tasks: "deque[asyncio.Future[Any]]",
    ) -> None:
        """Ask for as many at once as there is room for; what reading raises stands in the queue in its turn."""
        while True:
            await room.acquire()
            try:
                records = await feed.take()
            except Exception as error:
                failed: asyncio.Future[list[Answer]] = asyncio.get_running_loop().create_future()
                failed.set_exception(error)
                tasks.append(failed)
                asked.put_nowait(failed)
                return
            if not records:
                asked.put_nowait(None)
                return
            task = asyncio.ensure_future(self.ask(number, records))
            number += len(records)
            tasks.append(task)
            asked.put_nowait(task)

    def _write(self, answers: list[Answer]) -> None:
        at = next((i for i, answer in enumerate(answers) if answer.error is not None), None)
        if at is not None and self.on_error == "stop":
            self._put(answers[:at])
            raise Stopped(answers[at])
        self._put(answers)

    def _put(self, answers: list[Answer]) -> None:
        if not answers:
            return
        self.sink.write(answers)
        self.counts.written += len(answers)
        self.counts.failed += sum(answer.error is not None for answer in answers)
        self.watch(self.counts)


# Going on


def note_of(output: Path) -> Path:
    """The file beside an unfinished output that says what it was begun with."""
    return output.with_name(output.name + ".resume")


def begin(output: Path, made_with: dict[str, Any], resume: bool, overwrite: bool) -> bool:
    """Whether an output is gone on with; notes what it is made with. Raises Unusable where it cannot be."""
    note = note_of(output)
    begun = json.loads(note.read_text()) if note.exists() else None
    if not resume and not overwrite and (output.exists() or begun is not None):
        what = "was begun" if begun is not None else "exists"
        raise Unusable(f"{output} {what}; --resume goes on with it, --overwrite begins anew")
    if resume and begun is not None and begun != made_with:
        was, now = next((begun.get(key), made_with[key]) for key in made_with if begun.get(key) != made_with[key])
        raise Unusable(f"{output} was begun with {was}, and not {now}; --overwrite begins anew")
    note.write_text(json.dumps(made_with))
    return resume


def end(output: Path) -> None:
    """The output is whole."""
    note_of(output).unlink(missing_ok=True)
