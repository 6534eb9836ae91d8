"""The progress of a long list: a bar, or a function that is called."""

import contextlib
import importlib
from collections.abc import Callable, Iterator
from typing import Any

Progress = bool | Callable[[int, int], None]
"""True for a bar, if the package rich is installed; or a function that is called with (done, total)."""


@contextlib.contextmanager
def report_progress(progress: Progress, total: int) -> Iterator[Callable[[int], None]]:
    """Yields a function to call with the number of sequences that were just done."""
    done = 0

    def report(number: int) -> None:
        nonlocal done
        done += number
        if callable(progress):
            progress(done, total)

    if progress is not True:
        yield report
        return
    with _bar(total) as advance:
        yield advance


@contextlib.contextmanager
def _bar(total: int) -> Iterator[Callable[[int], None]]:
    try:
        rich: Any = importlib.import_module("rich.progress")
    except ModuleNotFoundError:
        yield lambda number: None
        return
    with rich.Progress(*rich.Progress.get_default_columns(), rich.MofNCompleteColumn()) as bar:
        task = bar.add_task("sequences", total=total)
        yield lambda number: bar.advance(task, number)
