"""Limits on how much one caller may do in a second, counted in this process or together with other workers."""

import fcntl
import hashlib
import math
import mmap
import os
import time
from collections import Counter
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Protocol

from elman.disk import take_room
from elman.engine.pending import PendingRequest
from elman.engine.work import Admission
from elman.errors import RateLimited
from elman.http.keys import Rates

# Of a file that workers share: room for more names than a file of keys can have.
_SLOTS = 2**16
_DIGEST_BYTES, _SLOT_BYTES = 16, 32
# Workers take microseconds. Longer, in seconds, is one that was stopped in the middle.
_PATIENCE = 0.01


class Numbers(Protocol):
    """A list of numbers, or memory that holds them."""

    def __getitem__(self, at: int, /) -> float: ...

    def __setitem__(self, at: int, number: float, /) -> None: ...


class Bucket:
    """A token bucket that holds what one second brings, and at least one token.

    Its content is one number: when it is full again. More may be taken than it holds. Then it is in debt, and nothing
    can be taken until time has paid that. So a sequence of any length can be run, and the rate holds all the same.

    Args:
        numbers, at: where its content is. 0 is a full bucket.
    """

    def __init__(self, rate: float, numbers: Numbers, at: int) -> None:
        self._rate = rate
        self._burst = max(1.0, rate)
        self._numbers = numbers
        self._at = at

    def wait(self, now: float) -> float:
        """Seconds until there is a token; 0 if there is one."""
        return max(0.0, self._numbers[self._at] - now - (self._burst - 1.0) / self._rate)

    def take(self, amount: float, now: float) -> None:
        """Take tokens, also those that are not there."""
        self._numbers[self._at] = max(self._numbers[self._at], now) + amount / self._rate


class SharedBuckets:
    """The contents of buckets in a file that all workers of a server map into their memory.

    The clock of `time.monotonic` is the same in all processes of a machine. The file is a hash table: a name's digest,
    then two numbers. Nothing is ever removed, as it ends with the server.

    Raises OSError.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        size = _SLOTS * _SLOT_BYTES
        take_room(self._file, size)
        self._slots = mmap.mmap(self._file, size)

    def find(self, name: str) -> Numbers:
        """The two numbers of a name, which are 0 at first. If there is no room, they are not shared."""
        digest = hashlib.sha256(name.encode()).digest()[:_DIGEST_BYTES]
        first = int.from_bytes(digest[:4])
        with self:
            for place in range(first, first + _SLOTS):
                at = place % _SLOTS * _SLOT_BYTES
                numbers = at + _DIGEST_BYTES
                if self._slots[at:numbers] in (digest, bytes(_DIGEST_BYTES)):
                    self._slots[at:numbers] = digest
                    return memoryview(self._slots)[numbers : at + _SLOT_BYTES].cast("d")
        return [0.0, 0.0]

    def __enter__(self) -> None:
        """Keep the other workers out. Goes on without that if one of them was stopped before it could leave."""
        until = time.monotonic() + _PATIENCE
        while True:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > until:
                    return
                os.sched_yield()

    def __exit__(self, *_: object) -> None:
        fcntl.flock(self._file, fcntl.LOCK_UN)


class Meter:
    """Counts what one caller does against its limits.

    Args:
        name: of its key.
        shared: where workers count together; None for a single worker.
    """

    def __init__(self, rates: Rates, name: str = "", shared: SharedBuckets | None = None) -> None:
        self.rates = rates
        self.refused: Counter[str] = Counter()
        # With other limits a caller begins anew.
        numbers: Numbers = [0.0, 0.0] if shared is None else shared.find(f"{name} {rates}")
        self._alone: AbstractContextManager[None] = nullcontext() if shared is None else shared
        self._requests = _bucket(rates.requests_per_second, numbers, 0)
        self._steps = _bucket(rates.steps_per_second, numbers, 1)

    def take_request(self) -> None:
        """Count a request. Raises RateLimited if there were too many."""
        if self._requests is not None:
            with self._alone:
                now = time.monotonic()
                self._check("requests", self._requests.wait(now), self.rates.requests_per_second)
                self._requests.take(1.0, now)

    def check_steps(self) -> None:
        """Raise RateLimited if the steps of earlier requests are more than the limit allows up to now."""
        if self._steps is not None:
            self._check("steps", self._steps.wait(time.monotonic()), self.rates.steps_per_second)

    def take_steps(self, number: int) -> None:
        """Count steps that are to be run."""
        if self._steps is not None:
            with self._alone:
                self._steps.take(number, time.monotonic())

    def _check(self, what: str, wait: float, rate: float | None) -> None:
        if wait > 0.0:
            self.refused[what] += 1
            raise RateLimited(f"this key may use {rate:g} {what} a second", retry_after=math.ceil(wait))


def _bucket(rate: float | None, numbers: Numbers, at: int) -> Bucket | None:
    return None if rate is None else Bucket(rate, numbers, at)


class MeteredEngine:
    """The engine for one caller with limits: what it refuses and counts comes before the engine's own checks."""

    def __init__(self, engine: Admission, meter: Meter) -> None:
        self._engine = engine
        self._meter = meter

    def check_room(self, party: bytes) -> None:
        """As of the engine. Raises RateLimited too."""
        self._meter.take_request()
        self._meter.check_steps()
        self._engine.check_room(party)

    def begin(self, pending: PendingRequest) -> None:
        """As of the engine, which may refuse the sequences. Else their steps count."""
        steps = sum((one.remaining + one.more) * one.rows for one in pending.sequences)
        self._engine.begin(pending)
        self._meter.take_steps(steps)
