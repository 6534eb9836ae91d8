"""A cache for functions of a client's text, bounded in bytes."""

from collections.abc import Callable
from functools import lru_cache
from typing import TypeVar

K = TypeVar("K", bytes, str)
T = TypeVar("T")

_MAX_LENGTH = 256
_MAX_RESULTS = 1024


def cache_short(function: Callable[[K], T]) -> Callable[[K], T]:
    """Keep the results for texts of fewer than 256 characters. A longer text is computed anew each time.

    So whatever clients send, the cache holds at most 1024 short texts. Errors are not kept.
    """
    cached = lru_cache(_MAX_RESULTS)(function)

    def call(text: K) -> T:
        return cached(text) if len(text) < _MAX_LENGTH else function(text)

    return call
