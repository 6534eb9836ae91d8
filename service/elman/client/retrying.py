"""When a call is sent again: only if nothing can happen twice, and never after its timeout."""

import contextlib
import random
from collections.abc import Callable, Iterator
from typing import Any

import httpx
from tenacity import RetryCallState

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


def policy(call: Call[Any], retries: Retries, deadline: Deadline) -> dict[str, Any]:
    """The arguments of tenacity's Retrying and AsyncRetrying for a call."""

    def may_retry(state: RetryCallState) -> bool:
        return may_be_repeated(call, state.outcome.exception() if state.outcome else None)

    def must_stop(state: RetryCallState) -> bool:
        return state.attempt_number >= retries.attempts or state.upcoming_sleep >= deadline.remaining

    return {"retry": may_retry, "wait": _wait(retries), "stop": must_stop, "reraise": True}


def _wait(retries: Retries) -> Callable[[RetryCallState], float]:
    def wait(state: RetryCallState) -> float:
        backoff: float = min(retries.longest, retries.first * 2 ** (state.attempt_number - 1))
        error = state.outcome.exception() if state.outcome else None
        retry_after = error.retry_after if isinstance(error, ElmanError) else None
        # Random, so that clients that failed together do not all retry together.
        return (retry_after or 0.0) + backoff * random.uniform(0.5, 1.0)

    return wait


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
    return kind(f"{detail} ({error})" if str(error) else detail)
