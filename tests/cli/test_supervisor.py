"""The supervisor keeps its number of workers, however deaths and restarts cross."""

from types import SimpleNamespace
from typing import Any

import pytest
import typer

from elman.cli.exits import CANNOT_START
from elman.cli.jobs.workers import Supervisor, Worker
from elman.settings import Settings


class Told(Supervisor):
    """A supervisor of workers that are and end as the test says."""

    def __init__(self, number: int) -> None:
        super().__init__(Settings(workers=number, drain_timeout=0), None, [], {})
        self.ended: list[Worker] = []
        self.turn()

    def _start(self) -> Worker:
        process: Any = SimpleNamespace(exitcode=None, pid=None, join=lambda seconds=None: None, close=lambda: None)
        worker = Worker(process, SimpleNamespace(close=lambda: None), 0.0, 0)  # type: ignore[arg-type]
        worker.end = lambda number=15: self.ended.append(worker)  # type: ignore[method-assign, misc, assignment]
        return worker

    def turn(self, restart: bool = False) -> list[Worker]:
        self._restarting = restart
        self._start_again_at = 0.0
        self._remove_dead()
        self._hand_over()
        self._fill()
        return list(self._workers)

    def ready(self) -> list[Worker]:
        for worker in self._workers:
            worker.ready, worker.heard = True, float("inf")
        return self.turn()

    def close(self) -> None:
        self._woken.close()
        self._wake.close()


@pytest.fixture
def pair() -> Any:
    supervisor = Told(2)
    supervisor.ready()
    yield supervisor
    supervisor.close()


def die(worker: Worker, code: int = -9) -> None:
    worker.process.exitcode = code  # type: ignore[misc]


def test_a_worker_that_dies_is_replaced(pair: Told) -> None:
    dead, other = pair.turn()
    die(dead)
    workers = pair.turn()
    assert len(workers) == 2 and dead not in workers and other in workers


def test_a_restart_during_a_restart_leaves_the_number_as_it_is_and_no_worker_from_before(pair: Told) -> None:
    before = pair.turn()
    coming = pair.turn(restart=True)[-1]
    assert coming.replaces is before[0]
    pair.turn(restart=True)
    for _ in range(6):
        workers = pair.ready()
    assert len(workers) == 2 and not {coming, *before} & set(workers)
    assert {coming, *before} <= set(pair.ended)


def test_where_a_worker_dies_that_is_being_replaced_the_new_one_takes_its_place(pair: Told) -> None:
    first, second = pair.turn()
    coming = pair.turn(restart=True)[-1]
    die(first)
    workers = pair.turn()
    assert workers[:2] == [second, coming] and workers[2].replaces is second  # the restart goes on
    for _ in range(4):
        workers = pair.ready()
    assert len(workers) == 2 and coming in workers and not {first, second} & set(workers)


def test_a_new_worker_that_does_not_start_ends_the_restart_and_the_others_serve(pair: Told) -> None:
    before = pair.turn()
    die(pair.turn(restart=True)[-1], CANNOT_START)
    assert pair.turn() == before and not pair.ended


def test_a_worker_that_cannot_be_replaced_for_a_while_stops_no_other(pair: Told) -> None:
    dead, other = pair.turn()
    die(dead)
    die(next(one for one in pair.turn() if one is not other), CANNOT_START)
    assert pair.turn() == [other]  # a crash in a loop is not to take a processor
    workers = pair.turn()
    assert len(workers) == 2 and other in workers and not pair.ended


def test_where_none_can_start_the_server_ends() -> None:
    supervisor = Told(2)
    die(supervisor.turn()[0], CANNOT_START)
    with pytest.raises(typer.Exit) as exit:
        supervisor.turn()
    assert exit.value.exit_code == CANNOT_START and len(supervisor.ended) == 2
    supervisor.close()
