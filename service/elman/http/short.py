"""A cache for functions of a client's text, bounded in bytes."""

from collections.abc import Callable
from typing import TypeVar

K = TypeVar("K", bytes, str)
T = TypeVar("T")

MAX_LENGTH = 256
"""Texts of this length, or longer ones, are not kept."""

_MAX_RESULTS = 1024


class Results(dict[K, T]):
    """The results so far, by text: of at most 1024 texts of fewer than 256 characters."""

    def keep(self, text: K, result: T) -> T:
        """Keep a result, and return it."""
        if len(text) < MAX_LENGTH:
            if len(self) >= _MAX_RESULTS:
                self.clear()
            self[text] = result
        return result


class _Computed(Results[K, T]):
    """Results of a function. Looking one up is no call of a Python function."""

    def __init__(self, function: Callable[[K], T]) -> None:
        super().__init__()
        self._function: Callable[[K], T] = function

    def __missing__(self, text: K) -> T:
        return self.keep(text, self._function(text))


def cache_short(function: Callable[[K], T]) -> Callable[[K], T]:
    """Keep the results for texts of fewer than 256 characters. A longer text is computed anew each time.

    So whatever clients send, the cache holds at most 1024 short texts. Errors are not kept.
    """
    return _Computed(function).__getitem__
