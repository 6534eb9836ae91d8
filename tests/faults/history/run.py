"""Clients, faults and the check of what the clients were answered, together."""

import random
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.history.checker import Attempt, History, Loss, Outcome, losses, mistakes
from tests.faults.history.clients import Client, Work
from tests.faults.history.nemesis import Fault, Scene, happen
from tests.faults.history.scene import Servers, WatchedRedis
from tests.reference import Array, expected
from tests.running import STORE

MODEL = "vowels-gru"
_LIMIT = 120.0
_NUM_SESSIONS = 6


@dataclass
class Report:
    """What the histories of a run show.

    Attributes:
        counts: of answers, by what they say.
        mistakes: answers that must never be.
        losses: acknowledged steps that were lost.
        unexplained: those of them that no change of the primary explains.
    """

    counts: Counter[str] = field(default_factory=Counter)
    mistakes: list[str] = field(default_factory=list)
    losses: list[Loss] = field(default_factory=list)
    unexplained: list[Loss] = field(default_factory=list)

    def add(self, history: History, lossy: Iterable[tuple[float, float]]) -> None:
        """Check one session."""
        self.counts["sessions"] += 1
        for one in history.operations:
            for attempt in one.attempts:
                self.counts[_kind(attempt)] += 1
        self.counts["reads"] += len(history.reads)
        self.mistakes += mistakes(history, _outputs)
        for loss in losses(history):
            self.losses.append(loss)
            if not all(any(began <= when <= ended for began, ended in lossy) for when in loss.acknowledged):
                self.unexplained.append(loss)

    def __str__(self) -> str:
        counts = ", ".join(f"{number} {name}" for name, number in sorted(self.counts.items()))
        lost = sum(one.before - max(one.after, 0) for one in self.losses)
        explained = [one for one in self.losses if one not in self.unexplained]
        found = [
            *self.mistakes,
            *(f"unexplained: {one}" for one in self.unexplained),
            *(f"by a failover: {one}" for one in explained),
        ]
        return "\n".join([counts, f"{len(self.losses)} losses, of {lost} steps; {len(self.mistakes)} mistakes", *found])


def _kind(attempt: Attempt) -> str:
    if attempt.outcome is Outcome.DONE:
        return "replayed" if attempt.replayed else "done"
    if attempt.outcome is Outcome.UNKNOWN:
        return "unknown"
    return "refused" if attempt.stands is None else "conflicts"


def _outputs(sequence: Array) -> Array:
    return expected(MODEL, sequence)


def run(
    redis: WatchedRedis,
    faults: Iterable[Fault],
    folder: Path,
    wait: int,
    num_servers: int = 3,
    num_clients: int = 4,
    num_between: int = 60,
    seed: int = 0,
) -> Report:
    """Step sessions while faults happen, and return what the answers show.

    `num_between` steps are done between two faults. Raises AssertionError if steps do not go on after a fault.
    """
    models = folder / "models"
    models.mkdir()
    (models / MODEL).symlink_to(STORE / MODEL)
    report = Report()
    with Servers(models, num_servers, redis.url, store_replicas=wait) as servers:
        scene = Scene(redis, servers, random.Random(seed))
        scene.settle()
        work = Work(MODEL, servers.urls, _NUM_SESSIONS)
        clients = [Client(work, number + 1000 * seed) for number in range(num_clients)]
        for client in clients:
            client.start()
        try:
            for fault in faults:
                _see_steps(work, num_between)
                ended = work.take_ended()
                happen(fault, scene)
                for history in ended:
                    report.add(history, scene.lossy)
            _see_steps(work, num_between)
            work.ending.set()
            _join(clients)
            scene.settle()
        finally:
            work.ending.set()
            work.given_up.set()
            _join(clients)
        if work.failures:
            raise work.failures[0]
    work.open.clear()
    for history in work.take_ended():
        report.add(history, scene.lossy)
    return report


def _join(clients: Sequence[Client]) -> None:
    until = time.monotonic() + _LIMIT
    for client in clients:
        client.join(max(0.0, until - time.monotonic()))
        assert not client.is_alive(), "a step is not done although nothing fails any more"


def _see_steps(work: Work, number: int) -> None:
    """Wait until some steps more are done."""
    until, before = time.monotonic() + _LIMIT, work.num_done
    while work.num_done < before + number and not work.failures:
        assert time.monotonic() < until, "no step is done although nothing fails any more"
        time.sleep(0.01)
