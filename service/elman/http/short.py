"""A cache for functions of a client's text, bounded in bytes."""

from collections.abc import Callable
from typing import TypeVar

K = TypeVar("K", bytes, str)
T = TypeVar("T")

_MAX_LENGTH = 256
_MAX_RESULTS = 1024


class _Results(dict[K, T]):
    """The results so far, by text. Looking one up is no call of a Python function."""

    def __init__(self, function: Callable[[K], T]) -> None:
        super().__init__()
        self._function: Callable[[K], T] = function

    def __missing__(self, text: K) -> T:
        result = self._function(text)
        if len(text) < _MAX_LENGTH:
            if len(self) >= _MAX_RESULTS:
                self.clear()
            self[text] = result
        return result


def cache_short(function: Callable[[K], T]) -> Callable[[K], T]:
    """Keep the results for texts of fewer than 256 characters. A longer text is computed anew each time.

    So whatever clients send, the cache holds at most 1024 short texts. Errors are not kept.
    """
    return _Results(function).__getitem__
