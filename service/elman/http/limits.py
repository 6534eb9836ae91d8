"""Limits on how much one caller may do in a second, counted in this process."""

import math
import time
from collections import Counter

from elman.engine.pending import PendingRequest
from elman.engine.work import Admission
from elman.errors import RateLimited
from elman.http.keys import Rates


class Bucket:
    """A token bucket that holds what one second brings, and at least one token.

    Its content is one number: when it is full again. More may be taken than it holds. Then it is in debt, and nothing
    can be taken until time has paid that. So a sequence of any length can be run, and the rate holds all the same.
    """

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._burst = max(1.0, rate)
        self._full_at = -math.inf

    def wait(self, now: float) -> float:
        """Seconds until there is a token; 0 if there is one."""
        return max(0.0, self._full_at - now - (self._burst - 1.0) / self._rate)

    def take(self, amount: float, now: float) -> None:
        """Take tokens, also those that are not there."""
        self._full_at = max(self._full_at, now) + amount / self._rate


class Meter:
    """Counts what one caller does against its limits."""

    def __init__(self, rates: Rates) -> None:
        self.rates = rates
        self.refused: Counter[str] = Counter()
        self._requests = _bucket(rates.requests_per_second)
        self._steps = _bucket(rates.steps_per_second)

    def take_request(self) -> None:
        """Count a request. Raises RateLimited if there were too many."""
        if self._requests is not None:
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
            self._steps.take(number, time.monotonic())

    def _check(self, what: str, wait: float, rate: float | None) -> None:
        if wait > 0.0:
            self.refused[what] += 1
            raise RateLimited(f"this key may use {rate:g} {what} a second", retry_after=math.ceil(wait))


def _bucket(rate: float | None) -> Bucket | None:
    return None if rate is None else Bucket(rate)


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
