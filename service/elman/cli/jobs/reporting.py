"""What people see while files are worked through: a bar on a terminal, and a line at the end."""

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from elman.cli.jobs.files.record import Source
from elman.cli.jobs.pumping import Counts

_EVERY = 0.1


class Watch:
    """A progress bar on standard error where that is a terminal, and nothing elsewhere."""

    def __init__(self, source: Source, quiet: bool) -> None:
        self._source = source
        console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.fields[done]:>12,} sequences"),
            BarColumn(),
            TextColumn("{task.fields[rate]:>9,.0f} a second"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=quiet or not sys.stderr.isatty(),
        )
        self._bar = self._progress.add_task("", total=source.total, done=0, rate=0.0)
        self._next = 0.0

    def __enter__(self) -> "Watch":
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._progress.stop()

    def __call__(self, counts: Counts) -> None:
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + _EVERY
        done = counts.before + counts.written
        # The source is read ahead of what was written.
        at = self._source.position * done / max(counts.read, 1)
        rate = counts.written / max(counts.seconds, 1e-9)
        self._progress.update(self._bar, completed=at, done=done, rate=rate)


def told(counts: Counts, where: str) -> str:
    """The line at the end."""
    seconds = counts.seconds
    parts = [f"{counts.written:,} sequences in {seconds:.1f} s ({counts.written / max(seconds, 1e-9):,.0f} a second)"]
    if counts.before:
        parts.append(f"after {counts.before:,} that were there")
    if counts.failed:
        parts.append(f"{counts.failed:,} of them without an answer")
    return f"{', '.join(parts)}: {where}"
