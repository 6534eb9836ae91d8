"""Sends sequences to the predict route, several in a request, and finds the sequence that an error is about."""

import re
from dataclasses import dataclass
from typing import Any

import httpx
import msgspec
import orjson

from elman.cli.jobs.files.items import InputItem, Outcome
from elman.cli.jobs.retries import post
from elman.cli.jobs.targets import Target, problem_of


class _Results(msgspec.Struct):
    results: list[msgspec.Raw]


_RESULTS = msgspec.json.Decoder(_Results)


@dataclass
class Predictor:
    """Asks a target for predictions. `options` are fields of the predict request."""

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
            response = await post(self.target, f"{self.target.version_path}/predict", self._body(outcomes))
            if response.status_code == 200:
                for outcome, raw in zip(outcomes, _RESULTS.decode(response.content).results, strict=True):
                    outcome.content = bytes(raw)
                return
            at = _at_fault(response, len(outcomes))
            if at is None:
                # The request is too large as a whole, or the error names no sequence: try each half.
                half = len(outcomes) // 2
                await self._fill(outcomes[:half])
                await self._fill(outcomes[half:])
                return
            outcomes[at].error = re.sub(r"^(sequence|static)s?\[\d+\]", r"\1", problem_of(response))
            outcomes = outcomes[:at] + outcomes[at + 1 :]

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
    found = re.match(r"(?:sequences|static)\[(\d+)\]", where)
    if found and int(found.group(1)) < count:
        return int(found.group(1))
    return 0 if count == 1 else None
