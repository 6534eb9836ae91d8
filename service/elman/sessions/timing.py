"""Times the calls of a session store."""

import threading
import time
from collections import defaultdict
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from elman.engine.histogram import Histogram
from elman.sessions.store import Store

P = ParamSpec("P")
T = TypeVar("T")


class StoreTimes:
    """How long the calls of a store took, by the name of the call. Filled from any thread.

    Attributes:
        seconds: of all calls, failed ones included.
        num_failed: calls that raised.
    """

    def __init__(self) -> None:
        self.seconds: defaultdict[str, Histogram] = defaultdict(Histogram)
        self.num_failed: defaultdict[str, int] = defaultdict(int)
        self._lock = threading.Lock()

    def timed(self, name: str, call: Callable[P, T]) -> Callable[P, T]:
        """The same call, timed."""

        def timed(*arguments: P.args, **options: P.kwargs) -> T:
            began, failed = time.monotonic(), True
            try:
                result = call(*arguments, **options)
                failed = False
                return result
            finally:
                with self._lock:
                    self.seconds[name].observe(time.monotonic() - began)
                    self.num_failed[name] += failed

        return timed


class TimedStore:
    """A store whose calls are timed."""

    def __init__(self, store: Store, times: StoreTimes) -> None:
        self._store = store
        self.create = times.timed("create", store.create)
        self.read = times.timed("read", store.read)
        self.advance = times.timed("advance", store.advance)
        self.replace = times.timed("replace", store.replace)
        self.delete = times.timed("delete", store.delete)
        self.list = times.timed("list", store.list)
        self.usage = store.usage
        self.sweep = times.timed("sweep", store.sweep)
        self.close = store.close

    def __len__(self) -> int:
        return len(self._store)
