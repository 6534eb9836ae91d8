"""When a call is sent again: only if nothing can happen twice, and never after its timeout."""

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import httpx

from elman.client.calls import Call
from elman.client.config import Retries
from elman.client.deadline import Deadline
from elman.client.errors import (
    Busy,
    Disconnected,
    ElmanError,
    NoAnswer,
    NotConnected,
    PoolTimeout,
    StepConflict,
    TimedOut,
    Unavailable,
)
from elman.proxies import reason_of

# More would not fit a number.
_MOST_DOUBLINGS = 100


def may_be_repeated(call: Call[Any], error: BaseException | None) -> bool:
    """Whether a call that ended with `error` may be sent again.

    It may if the server certainly did nothing: it was not reached, or it refused the call and said when to retry. If
    the response was lost, only a repeatable call may: one that only reads, or steps, which name the step they start at.
    """
    if isinstance(error, NotConnected):
        return True
    if isinstance(error, Disconnected | TimedOut):
        return call.repeatable
    if isinstance(error, Busy):
        return error.retry_after is not None or (call.repeatable and isinstance(error, Unavailable))
    if isinstance(error, StepConflict):
        # The session is still at the step of this call, so an earlier attempt of it is running on the server.
        return call.at is not None and error.expected == call.at
    return False


def pause_before(
    call: Call[Any], error: ElmanError, num_attempts: int, retries: Retries, deadline: Deadline
) -> float | None:
    """How many seconds to wait before a call is sent again. None if it must not be, or not within its deadline.

    num_attempts: how often it was sent. The last time it ended with `error`.
    """
    if num_attempts >= retries.attempts or not may_be_repeated(call, error):
        return None
    backoff = min(retries.longest, retries.first * 2.0 ** min(num_attempts - 1, _MOST_DOUBLINGS))
    # Random, so that clients that failed together do not all retry together.
    pause = (error.retry_after or 0.0) + backoff * random.uniform(0.5, 1.0)
    return pause if pause < deadline.remaining else None


@contextlib.contextmanager
def translated(deadline: Deadline, target: str) -> Iterator[None]:
    """Raise the errors of httpx and of asyncio.timeout as those of this client."""
    try:
        yield
    except ElmanError:  # some of them are TimeoutErrors too
        raise
    except httpx.PoolTimeout:
        raise pool_timeout(deadline) from None
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        raise _no_answer(NotConnected, f"{target} could not be reached", error) from None
    except (httpx.TimeoutException, TimeoutError) as error:
        raise _no_answer(
            TimedOut, f"{target} did not respond in time, {deadline.total:g} s for the whole call", error
        ) from None
    except (httpx.NetworkError, httpx.RemoteProtocolError) as error:
        raise _no_answer(
            Disconnected, f"the connection to {target} broke before the response was complete", error
        ) from None
    except httpx.RequestError as error:
        raise _no_answer(NoAnswer, f"{target} did not respond", error) from None


def turn_timeout(deadline: Deadline) -> TimedOut:
    """The error of a call that waited for those before it."""
    return TimedOut(
        f"the calls before this one took longer than {deadline.total:g} s, the timeout of the call; it was not sent"
    )


def pool_timeout(deadline: Deadline) -> PoolTimeout:
    """The error of a call for which no connection became free."""
    return PoolTimeout(
        f"other calls of this client had all its connections for {deadline.total:g} s, the timeout of the call; it "
        "was not sent"
    )


def _no_answer(kind: type[NoAnswer], detail: str, error: Exception) -> NoAnswer:
    return kind(f"{detail} ({reason_of(error)})" if str(error) else detail)
