"""Sends sequences to a route, several in a request, and finds the sequence that an error is about."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import httpx
import msgspec
import orjson

from elman.cli.jobs.files.items import InputItem, Outcome
from elman.cli.jobs.retries import post
from elman.cli.jobs.targets import Target, problem_of


class _Results(msgspec.Struct):
    results: list[msgspec.Raw]


_RESULTS = msgspec.json.Decoder(_Results)
# The `where` of one sequence or series of a request, of its static inputs or its future.
_OF_ONE = re.compile(r"^(sequence|series|static|future)(?:s|_list)?\[(\d+)\]")


@dataclass
class Predictor:
    """Asks a target for predictions. `options` are fields of the predict request."""

    route: ClassVar[str] = "predict"

    target: Target
    options: dict[str, Any]

    async def run(self, start: int, items: list[InputItem]) -> list[Outcome]:
        """The outcomes of the items, in order. `start` is the number of the first item. Raises Unreachable."""
        outcomes = [Outcome(start + i, item, error=item.error) for i, item in enumerate(items)]
        await self._fill([outcome for outcome in outcomes if outcome.error is None])
        return outcomes

    async def _fill(self, outcomes: list[Outcome]) -> None:
        """Ask for the results. If a request is refused for one sequence, the others are sent again without it."""
        while outcomes:
            response = await post(self.target, f"{self.target.version_path}/{self.route}", self._body(outcomes))
            if response.status_code == 200:
                for outcome, result in zip(outcomes, self._results(response.content), strict=True):
                    self._take(outcome, result)
                return
            at = _at_fault(response, len(outcomes))
            if at is None:
                # The request is too large as a whole, or the error names no sequence: try each half.
                half = len(outcomes) // 2
                await self._fill(outcomes[:half])
                await self._fill(outcomes[half:])
                return
            outcomes[at].error = re.sub(_OF_ONE, r"\1", problem_of(response))
            outcomes = outcomes[:at] + outcomes[at + 1 :]

    def _results(self, content: bytes) -> Sequence[Any]:
        """The results of an answer, in order."""
        return _RESULTS.decode(content).results

    def _take(self, outcome: Outcome, result: Any) -> None:
        outcome.content = bytes(result)

    def _body(self, outcomes: list[Outcome]) -> bytes:
        sequences = b",".join([outcome.item.content for outcome in outcomes])
        statics = [outcome.item.extra["static"] for outcome in outcomes if "static" in outcome.item.extra]
        options = {**self.options, "static": statics} if statics else self.options
        return b'{"sequences":[' + sequences + b"]," + orjson.dumps(options)[1:]


def _at_fault(response: httpx.Response, count: int) -> int | None:
    """The index of the sequence for which a request was refused, or None if the response does not say."""
    try:
        where = response.json().get("where") or ""
    except (ValueError, AttributeError):
        where = ""
    found = _OF_ONE.match(where)
    if found and int(found.group(2)) < count:
        return int(found.group(2))
    return 0 if count == 1 else None
