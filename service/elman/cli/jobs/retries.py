"""Requests that are sent again while the server is busy or away."""

import asyncio
import random

import httpx

from elman.cli.jobs.targets import Target, problem_of

_MAX_TRIES = 8
# Seconds between two tries, if the server does not say. The first wait is doubled up to the longest.
_FIRST_WAIT = 0.2
_LONGEST_WAIT = 30.0
_RETRIED = frozenset({429, 502, 503})
# The key or the model is gone. Nothing is wrong with the sequences.
_GONE = frozenset({401, 403, 404, 405})


class Unreachable(Exception):
    """The server or the model went away or stays too busy. Nothing is wrong with what was sent."""


async def post(target: Target, path: str, body: bytes) -> httpx.Response:
    """Send a request, and again while the server is busy or away. Raises Unreachable."""
    wait, why = _FIRST_WAIT, ""
    response: httpx.Response | None
    for _ in range(_MAX_TRIES):
        try:
            response = await target.client.post(path, content=body, headers={"content-type": "application/json"})
        except httpx.TimeoutException as error:
            raise Unreachable(f"no answer came in time ({type(error).__name__}); --timeout allows more") from None
        except httpx.TransportError as error:
            if target.local:
                raise
            why, response = str(error) or type(error).__name__, None
        if response is not None and response.status_code in _GONE:
            raise Unreachable(problem_of(response))
        if response is not None and response.status_code not in _RETRIED:
            return response
        if response is not None:
            why = problem_of(response)
        await asyncio.sleep(_seconds_to_wait(response, wait))
        wait = min(2 * wait, _LONGEST_WAIT)
    raise Unreachable(why)


def _seconds_to_wait(response: httpx.Response | None, wait: float) -> float:
    """What the server asks for, otherwise `wait`; up to a fifth more, so that clients do not return together."""
    asked = response.headers.get("retry-after", "") if response is not None else ""
    base = float(asked) if asked.isdigit() else wait
    return min(base, _LONGEST_WAIT) * (1 + 0.2 * random.random())
