"""Time that is linear in the length of an input."""

import contextlib
import time
from collections.abc import Iterator

# Seconds of processor time: far above what any input takes, far below what a quadratic one does.
_BASE, _PER_BYTE = 1.0, 50e-6


class TooSlow(Exception):
    """An input takes longer than one of its length should."""


@contextlib.contextmanager
def check_linear(size: int) -> Iterator[None]:
    """Raise TooSlow if the block takes this thread longer than an input of `size` bytes may."""
    started = time.thread_time()
    yield
    seconds = time.thread_time() - started
    if seconds > _BASE + _PER_BYTE * size:
        raise TooSlow(f"{size} bytes took {seconds:.2f} s of processor time")
