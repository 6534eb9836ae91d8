"""Send a held-out person's exercises to a server, at the speed at which they were done, and print its answers.

    elman serve models/store
    python -m models.replay watch-gru --person 9
    python -m models.replay watch-gru --person 9 --arm left --exercise "bent-over row" --speed 4

Each recording is a session of its own. Each sample is posted when it was taken, as one step, together with those that
were taken while the post before was under way. Every post says by `at` which step it follows, so that a post whose
answer was lost can be sent again without being counted twice.
"""

import argparse
import os
import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import httpx
import numpy as np
from rich.console import Console
from rich.live import Live
from rich.text import Text

from models.tasks.watch import EXERCISES, HELD_OUT, RATE, Recording, recordings

URL = "http://127.0.0.1:8000"
TIMEOUT = 10.0
ATTEMPTS = 5


class Refused(Exception):
    """The server answered with a problem. The message is its own."""


@dataclass(frozen=True)
class Answer:
    """The server's answer to one step."""

    label: str
    probability: float


@dataclass
class Tally:
    """How many answers were right, and how long they took."""

    steps: Counter[bool] = field(default_factory=Counter)
    series: Counter[bool] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    """Time of each post from sending to the answer, with all attempts."""
    replayed: int = 0

    def __str__(self) -> str:
        lines = [
            f"{_share(self.steps)} of steps right",
            f"{_share(self.series)} of recordings right at their last step",
        ]
        if self.seconds:
            p50, p99 = (1000 * float(np.quantile(self.seconds, share)) for share in (0.5, 0.99))
            lines.append(f"{len(self.seconds)} posts: {p50:.1f} ms at the median, {p99:.1f} ms at the 99th percentile")
        if self.replayed:
            lines.append(f"{self.replayed} answers were lost and given again")
        return "\n".join(lines)


def _share(counts: Counter[bool]) -> str:
    return f"{counts[True]} of {counts.total()} ({100 * counts[True] / max(counts.total(), 1):.1f} %)"


class Stream:
    """One session of a model, deleted at the end."""

    def __init__(self, client: httpx.Client, model: str) -> None:
        self.client = client
        self.model = model
        self.step = 0
        self.replayed = 0

    def __enter__(self) -> "Stream":
        self.id = str(_checked(self.client.post(f"/v1/models/{self.model}/sessions", json={}))["id"])
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.client.delete(f"/v1/sessions/{self.id}")

    def send(self, rows: Sequence[Sequence[float]]) -> list[Answer]:
        """The answer to each of the next rows."""
        answer = self._post({"sequence": rows, "at": self.step, "return": "steps", "top": 1})
        self.step = int(answer["step"])
        self.replayed += bool(answer["replayed"])
        return [Answer(one["label"], one["probability"]) for one in answer["decoded"]]

    def _post(self, body: dict[str, Any]) -> dict[str, Any]:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return _checked(self.client.post(f"/v1/sessions/{self.id}/steps", json=body))
            except httpx.TransportError:
                if attempt == ATTEMPTS:
                    raise
            time.sleep(random.uniform(0.0, 0.1 * 2**attempt))
        raise AssertionError("the last attempt returns or raises")


def _checked(response: httpx.Response) -> dict[str, Any]:
    answer: dict[str, Any] = response.json()
    if response.is_error:
        raise Refused(f"{answer.get('code', response.status_code)}: {answer.get('detail', response.reason_phrase)}")
    return answer


def arrivals(recording: Recording, speed: float) -> Iterator[list[list[float]]]:
    """The rows that are due since the last ones, at least one at a time.

    speed: how many times as fast as recorded; 0 yields the rows one by one without waiting.
    """
    rows = recording.samples.tolist()
    if not speed:
        yield from ([row] for row in rows)
        return
    started, sent = time.perf_counter(), 0
    while sent < len(rows):
        due = started + (sent + 1) / (RATE * speed)
        time.sleep(max(0.0, due - time.perf_counter()))
        come = min(len(rows), max(sent + 1, int((time.perf_counter() - started) * RATE * speed)))
        yield rows[sent:come]
        sent = come


def replay(
    client: httpx.Client, model: str, recording: Recording, speed: float, tally: Tally, console: Console
) -> None:
    """Send one recording through a session, and print the answer whenever it changes."""
    truth, last = EXERCISES[recording.exercise], ""
    console.print(f"\n[bold]{recording.title}[/] ({len(recording.samples) / RATE:.0f} s)")
    right: Counter[bool] = Counter()
    with Stream(client, model) as stream, live(console) as line:
        for rows in arrivals(recording, speed):
            sent = time.perf_counter()
            answers = stream.send(rows)
            tally.seconds.append(time.perf_counter() - sent)
            first = stream.step - len(answers)
            for step, answer in enumerate(answers, start=first + 1):
                right[answer.label == truth] += 1
                if answer.label != last:
                    line.console.print(said(step, answer, truth))
                    last = answer.label
            line.update(said(stream.step, answers[-1], truth))
        tally.replayed += stream.replayed
    console.print(f"  {_share(right)} of steps right")
    tally.steps += right
    tally.series[last == truth] += 1


def said(step: int, answer: Answer, truth: str) -> Text:
    """One answer as a line: time, label and probability."""
    bar = "█" * round(20 * answer.probability)
    style = "green" if answer.label == truth else "red"
    return Text(f"  {step / RATE:5.1f} s  {answer.label:<20} {100 * answer.probability:3.0f} % {bar}", style=style)


@contextmanager
def live(console: Console) -> Iterator[Live]:
    """A line that is overwritten on a terminal, and not printed elsewhere."""
    with Live(console=console, refresh_per_second=RATE, transient=True, auto_refresh=console.is_terminal) as line:
        yield line


def chosen(person: int, arm: str | None, exercise: str | None) -> list[Recording]:
    return [
        one
        for one in recordings()
        if one.person == person and arm in (None, one.arm) and exercise in (None, EXERCISES[one.exercise])
    ]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m models.replay", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model", nargs="?", default="watch-gru")
    parser.add_argument("--person", type=int, choices=HELD_OUT, default=HELD_OUT[0], help="held out from training")
    parser.add_argument("--arm", choices=("left", "right"), help="both, if left out")
    parser.add_argument("--exercise", choices=EXERCISES, help="all, if left out")
    parser.add_argument("--speed", type=float, default=1.0, help="times as fast as it was done; 0 waits for nothing")
    parser.add_argument("--url", default=URL, help=f"of the server, {URL} if left out")
    parser.add_argument("--key", default=os.environ.get("ELMAN_API_KEY"), help="API key, or ELMAN_API_KEY")
    given = parser.parse_args(arguments)
    headers = {"Authorization": f"Bearer {given.key}"} if given.key else {}
    console, tally = Console(highlight=False), Tally()
    with httpx.Client(base_url=given.url, headers=headers, timeout=TIMEOUT) as client:
        try:
            for recording in chosen(given.person, given.arm, given.exercise):
                replay(client, given.model, recording, given.speed, tally, console)
        except KeyboardInterrupt:
            console.print("\nstopped")
        except (Refused, httpx.TransportError) as error:
            parser.exit(1, f"{given.url}: {error}\n")
    console.print(f"\n{tally}")


if __name__ == "__main__":
    main()
