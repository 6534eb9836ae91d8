"""When a call is tried again: only where nothing can happen twice, and never past its timeout."""

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
    StepConflict,
    TimedOut,
    Unavailable,
)


def may_be_repeated(call: Call[Any], error: BaseException | None) -> bool:
    """Whether a call that ended with `error` may be sent again.

    What certainly was not done always may: the server was not reached, or refused and said when to come again. Where
    the answer was lost, only what is the same done twice may: what only reads, and steps, which carry `at`.
    """
    if isinstance(error, NotConnected):
        return True
    if isinstance(error, Disconnected | TimedOut):
        return call.repeatable
    if isinstance(error, Busy):
        return error.retry_after is not None or (call.repeatable and isinstance(error, Unavailable))
    if isinstance(error, StepConflict):
        # Still at our step: an attempt of ours whose answer was lost is on its way.
        return call.at is not None and error.expected == call.at
    return False


def policy(call: Call[Any], retries: Retries, deadline: Deadline) -> dict[str, Any]:
    """The arguments of tenacity's Retrying and AsyncRetrying for a call."""

    def worth_another(state: RetryCallState) -> bool:
        return may_be_repeated(call, state.outcome.exception() if state.outcome else None)

    def over(state: RetryCallState) -> bool:
        return state.attempt_number >= retries.attempts or state.upcoming_sleep >= deadline.remaining

    return {"retry": worth_another, "wait": _wait(retries), "stop": over, "reraise": True}


def _wait(retries: Retries) -> Callable[[RetryCallState], float]:
    def wait(state: RetryCallState) -> float:
        backoff: float = min(retries.longest, retries.first * 2 ** (state.attempt_number - 1))
        error = state.outcome.exception() if state.outcome else None
        asked = error.retry_after if isinstance(error, ElmanError) else None
        # A random part, so that callers who failed together do not come again together.
        return (asked or 0.0) + backoff * random.uniform(0.5, 1.0)

    return wait


@contextlib.contextmanager
def translated(deadline: Deadline, target: str) -> Iterator[None]:
    """Raise what httpx and the clock raise as errors of ours."""
    try:
        yield
    except ElmanError:  # some are TimeoutErrors too
        raise
    except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
        raise _no_answer(NotConnected, f"{target} was not reached", error) from error
    except (httpx.TimeoutException, TimeoutError) as error:
        raise _no_answer(TimedOut, f"no answer from {target} in time, of {deadline.total:g} s in all", error) from error
    except (httpx.NetworkError, httpx.RemoteProtocolError) as error:
        raise _no_answer(Disconnected, f"the connection to {target} was cut before its answer", error) from error
    except httpx.RequestError as error:
        raise _no_answer(NoAnswer, f"no answer from {target}", error) from error


def _no_answer(kind: type[NoAnswer], detail: str, error: Exception) -> NoAnswer:
    return kind(f"{detail} ({error})" if str(error) else detail)
