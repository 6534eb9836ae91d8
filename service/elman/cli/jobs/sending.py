"""Records to answers: several in a request, and every fault traced back to its own record."""

import asyncio
import random
import re
from dataclasses import dataclass
from typing import Any

import httpx
import msgspec
import orjson

from elman.cli.jobs.files.record import Answer, Record
from elman.cli.jobs.targets import Target, problem_of

# Waits before a request is sent again, where the server does not say; and the most of them.
_FIRST_WAIT = 0.2
_MOST_TRIES = 8
_LONGEST_WAIT = 30.0
_AGAIN = frozenset({429, 502, 503})
# No fault of what was sent: the key is no more, or the model.
_LOST = frozenset({401, 403, 404, 405})


class Unreachable(Exception):
    """The server or the model went away, or stays too busy: nothing is wrong with what was sent."""


class _Results(msgspec.Struct):
    results: list[msgspec.Raw]


_RESULTS = msgspec.json.Decoder(_Results)


@dataclass
class Predictor:
    """Asks a target for predictions. `options` are those of the predict route."""

    target: Target
    options: dict[str, Any]

    async def answer(self, start: int, records: list[Record]) -> list[Answer]:
        """The answers in order; `start` is the number of the first. Raises Unreachable."""
        answers = [Answer(start + i, record, error=record.error) for i, record in enumerate(records)]
        await self._ask([answer for answer in answers if answer.error is None])
        return answers

    async def _ask(self, answers: list[Answer]) -> None:
        """Fill in the answers. What a request is refused for is taken out of it, and the rest sent again."""
        while answers:
            response = await post(self.target, f"{self.target.version_path}/predict", self._body(answers))
            if response.status_code == 200:
                for answer, raw in zip(answers, _RESULTS.decode(response.content).results, strict=True):
                    answer.content = bytes(raw)
                return
            at = _at_fault(response, len(answers))
            if at is None:
                # The whole of it is too much, or nobody can say whose fault it is.
                half = len(answers) // 2
                await self._ask(answers[:half])
                await self._ask(answers[half:])
                return
            answers[at].error = re.sub(r"^sequences\[\d+\]", "sequence", problem_of(response))
            answers = answers[:at] + answers[at + 1 :]

    def _body(self, answers: list[Answer]) -> bytes:
        sequences = b",".join([answer.record.content for answer in answers])
        return b'{"sequences":[' + sequences + b"]," + orjson.dumps(self.options)[1:]


def _at_fault(response: httpx.Response, count: int) -> int | None:
    """Which of the sequences of a refused request is at fault; None where that is not known."""
    try:
        where = response.json().get("where") or ""
    except (ValueError, AttributeError):
        where = ""
    found = re.match(r"sequences\[(\d+)\]", where)
    if found and int(found.group(1)) < count:
        return int(found.group(1))
    return 0 if count == 1 else None


async def post(target: Target, path: str, body: bytes) -> httpx.Response:
    """Send, and send again while the server is busy or away. Raises Unreachable."""
    wait, why = _FIRST_WAIT, ""
    response: httpx.Response | None
    for _ in range(_MOST_TRIES):
        try:
            response = await target.client.post(path, content=body, headers={"content-type": "application/json"})
        except httpx.TimeoutException as error:
            raise Unreachable(f"no answer came in time ({type(error).__name__}); --timeout gives more") from None
        except httpx.TransportError as error:
            if target.local:
                raise
            why, response = str(error) or type(error).__name__, None
        if response is not None and response.status_code in _LOST:
            raise Unreachable(problem_of(response))
        if response is not None and response.status_code not in _AGAIN:
            return response
        if response is not None:
            why = problem_of(response)
        await asyncio.sleep(_patience(response, wait))
        wait = min(2 * wait, _LONGEST_WAIT)
    raise Unreachable(why)


def _patience(response: httpx.Response | None, wait: float) -> float:
    asked = response.headers.get("retry-after", "") if response is not None else ""
    base = float(asked) if asked.isdigit() else wait
    return min(base, _LONGEST_WAIT) * (1 + 0.2 * random.random())
