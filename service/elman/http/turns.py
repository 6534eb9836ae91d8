"""The turns that callers take on the event loop."""

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable

SLICE_SECONDS = 1e-3
"""Seconds of turns in one iteration of the event loop. Between two iterations it looks at the sockets."""

PASSED_OVER_SECONDS = 0.05
"""A party for whom the engine is busy is passed over for at most so long without a break."""

Call = Callable[[], None]


class Turns:
    """Lets callers take turns, once there are several.

    A request is parsed and begun as soon as its bytes are there. Requests of many connections that arrive together
    would hold up all that comes after them. So only the first of each caller begins at once. The others wait in a queue
    for each caller. They begin in turns, one of each caller, as many as fit in a slice of a millisecond. Then the event
    loop looks at the sockets again. Large bodies are read in the same way, a piece a turn, and so are the frames of
    WebSockets.

    A caller for whom the engine has enough to do is passed over for a while. The event loop would only take the core
    away from the engine, which works for others too. If the engine gets on slowly, nothing more is gained by waiting,
    and requests have deadlines, which are not known before they begin. So the while is short.

    A party is a caller with an API key, or without keys an address. It counts as long as it has a connection.

    Args:
        loop: where calls are made; by default the one that runs.
        clock: gives seconds.

    Attributes:
        several: whether several parties have connections. If not, nobody needs to wait for a turn.
        on_several: called when that changes, with what it is now.
        is_busy: whether the engine has enough to do for a party.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.several = False
        self.on_several: Callable[[bool], None] = lambda several: None
        self.is_busy: Callable[[bytes], bool] = lambda party: False
        self._given_loop = loop
        self._clock = clock
        self._connections: Counter[bytes] = Counter()
        # What waits, by party: calls, and the seconds that each causes later. The party whose turn is next comes first.
        self._waiting: dict[bytes, deque[tuple[Call, float]]] = {}
        # Since when the engine is busy for parties that wait.
        self._busy_since: dict[bytes, float] = {}
        # The parties that had a turn since the last slice, or wait for one.
        self._served: set[bytes] = set()
        self._next: asyncio.Handle | None = None
        self._pausing = False

    @property
    def _loop(self) -> asyncio.AbstractEventLoop:
        return self._given_loop or asyncio.get_running_loop()

    def join(self, party: bytes) -> None:
        """Count a connection of a party."""
        self._connections[party] += 1
        self._look_at_parties()

    def leave(self, party: bytes) -> None:
        """A connection that was counted is closed, or belongs to another party from now on."""
        self._connections[party] -= 1
        if not self._connections[party]:
            del self._connections[party]
            self._look_at_parties()

    def _look_at_parties(self) -> None:
        several = len(self._connections) > 1
        if several != self.several:
            self.several = several
            self.on_several(several)

    def take(self, party: bytes, begin: Call, seconds: float = 0.0) -> None:
        """Call `begin` when it is the party's turn, which may be at once.

        seconds: what the call causes later, beside the time that it takes itself.
        """
        at_once = party not in self._served and not self.is_busy(party)
        self._served.add(party)
        if not at_once:
            self._waiting.setdefault(party, deque()).append((begin, seconds))
        if self._next is None:
            self._next = self._loop.call_soon(self._slice)
        if at_once:
            begin()

    def resume(self) -> None:
        """The engine has done something, so it may be no longer busy."""
        if self._pausing:
            self._pausing = False
            assert self._next is not None, "a pause has an end"
            self._next.cancel()
            self._next = self._loop.call_soon(self._slice)

    def _slice(self) -> None:
        """Begin what waits, in turns, until the slice is used up."""
        waiting, now = self._waiting, self._clock()
        self._served, self._next, self._pausing = set(waiting), None, False
        if not waiting:
            return
        self._next = self._loop.call_soon(self._slice)
        until = now + SLICE_SECONDS
        passed_over = 0
        while passed_over < len(waiting) and self._clock() < until:
            party = next(iter(waiting))
            calls = waiting.pop(party)
            if not self.is_busy(party):
                self._busy_since.pop(party, None)
            elif now < self._busy_since.setdefault(party, now) + PASSED_OVER_SECONDS:
                waiting[party] = calls
                passed_over += 1
                continue
            begin, seconds = calls.popleft()
            if calls:
                waiting[party] = calls  # behind the others
            else:
                self._busy_since.pop(party, None)
            until -= seconds
            passed_over = 0
            begin()
        if waiting and passed_over == len(waiting):
            self._pause(now)

    def _pause(self, now: float) -> None:
        """The engine is busy for all that wait: go on when it has done something, or gets on slowly."""
        since = min([self._busy_since[party] for party in self._waiting])
        assert self._next is not None, "the slice has asked for the next"
        self._next.cancel()
        self._next, self._pausing = self._loop.call_later(since + PASSED_OVER_SECONDS - now, self._slice), True
