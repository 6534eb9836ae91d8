"""What people see while a file is worked through: a progress bar on a terminal, and a line at the end."""

import sys
import time
from dataclasses import dataclass
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from elman.cli.jobs.files.items import Source

_UPDATE_SECONDS = 0.1


@dataclass
class Counts:
    """How far a run is.

    Attributes:
        before: outcomes that the output held at the start.
        read: items that were read. This is ahead of what was written.
        written: outcomes that this run wrote.
        failed: how many of those are errors.
        unknown: how many have characters that were read as the unknown token.
        started: time of the start, by `time.perf_counter`.
    """

    before: int = 0
    read: int = 0
    written: int = 0
    failed: int = 0
    unknown: int = 0
    started: float = 0.0

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.started


class ProgressBar:
    """A progress bar on standard error. It shows nothing if that is not a terminal."""

    def __init__(self, source: Source, quiet: bool) -> None:
        self._source = source
        self._progress = Progress(
            TextColumn("{task.fields[done]:>12,} sequences"),
            BarColumn(),
            TextColumn("{task.fields[rate]:>9,.0f} a second"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
            disable=quiet or not sys.stderr.isatty(),
        )
        self._bar = self._progress.add_task("", total=source.total, done=0, rate=0.0)
        self._next_update = 0.0

    def __enter__(self) -> "ProgressBar":
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._progress.stop()

    def update(self, counts: Counts) -> None:
        """Show `counts`, at most every tenth of a second."""
        now = time.monotonic()
        if now < self._next_update:
            return
        self._next_update = now + _UPDATE_SECONDS
        done = counts.before + counts.written
        # The source's position is that of the items read, which are ahead of those written.
        at = self._source.position * done / max(counts.read, 1)
        rate = counts.written / max(counts.seconds, 1e-9)
        self._progress.update(self._bar, completed=at, done=done, rate=rate)


def summary_line(counts: Counts, output: str) -> str:
    """The line at the end of a run, for people."""
    seconds = counts.seconds
    parts = [f"{counts.written:,} sequences in {seconds:.1f} s ({counts.written / max(seconds, 1e-9):,.0f} a second)"]
    if counts.before:
        parts.append(f"after {counts.before:,} from before")
    if counts.failed:
        parts.append(f"{counts.failed:,} of them without a result")
    return f"{', '.join(parts)}: {output}"
