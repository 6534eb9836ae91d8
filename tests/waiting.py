"""Waiting for what happens, and bounds on time, on a machine that may be busy."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

_LIMIT = 60.0
_PAUSE = 0.02


def wait_until(happened: Callable[[], object], otherwise: str = "it does not happen", limit: float = _LIMIT) -> None:
    """Wait until a condition holds. Raises AssertionError after `limit` seconds."""
    until = time.monotonic() + limit
    while not happened():
        assert time.monotonic() < until, otherwise
        time.sleep(_PAUSE)


def assert_undisturbed(measure: Callable[[], T], good: Callable[[T], bool], attempts: int = 10) -> None:
    """One of several measurements of time must be good.

    Other processes may disturb some of them. What is slow by itself is slow each time.
    """
    seen: list[T] = []
    while not seen or not good(seen[-1]):
        assert len(seen) < attempts, f"none is as it should be: {seen}"
        seen.append(measure())
