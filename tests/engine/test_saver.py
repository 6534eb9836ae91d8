"""The saver: which sequences are written together, and what waits for what."""

import threading
from collections.abc import Callable, Iterator
from queue import Queue

import numpy as np
import pytest

from elman.engine.saver import Commit, Saver
from elman.engine.sequence import Sequence
from tests.waiting import wait_until

_TIMEOUT = 60.0


def sequences(number: int) -> list[Sequence]:
    return [Sequence(np.zeros((1, 3), np.float32)) for _ in range(number)]


class Slow:
    """A commit that lasts until it is let go on. `begun` gets each group as it begins."""

    def __init__(self) -> None:
        self.begun: Queue[list[Sequence]] = Queue()
        self.go_on = threading.Semaphore(0)

    def __call__(self, group: list[Sequence]) -> None:
        self.begun.put(group)
        assert self.go_on.acquire(timeout=_TIMEOUT)

    def next(self) -> list[Sequence]:
        return self.begun.get(timeout=_TIMEOUT)


@pytest.fixture
def slow() -> Slow:
    return Slow()


@pytest.fixture
def saved() -> "Queue[list[Sequence]]":
    """The groups that were acknowledged."""
    return Queue()


Start = Callable[[Commit, int], Saver]


@pytest.fixture
def start(saved: "Queue[list[Sequence]]") -> Iterator[Start]:
    savers: list[Saver] = []

    def start(commit: Commit, num_threads: int) -> Saver:
        savers.append(Saver(commit, saved.put, _TIMEOUT, num_threads))
        return savers[0]

    yield start
    for one in savers:
        one.close(_TIMEOUT)
        assert not one.held


def test_what_comes_during_a_write_is_written_together_and_in_order(
    slow: Slow, start: Start, saved: "Queue[list[Sequence]]"
) -> None:
    saver, (first, *later) = start(slow, 1), sequences(50)
    saver.put([first])
    assert slow.next() == [first]
    for one in later:
        saver.put([one])
    assert len(saver.held) == 50 and slow.begun.empty()
    slow.go_on.release(2)
    assert slow.next() == later
    assert [saved.get(timeout=_TIMEOUT) for _ in range(2)] == [[first], later]


def test_threads_that_are_idle_share_what_has_come(slow: Slow, start: Start, saved: "Queue[list[Sequence]]") -> None:
    saver, all_of_them = start(slow, 2), sequences(40)
    wait_until(lambda: saver._num_idle == 2)
    saver.put(all_of_them)
    groups = [slow.next(), slow.next()]
    assert list(map(len, groups)) == [20, 20] and {*groups[0], *groups[1]} == set(all_of_them)
    slow.go_on.release(2)
    assert {len(saved.get(timeout=_TIMEOUT)) for _ in range(2)} == {20}


def test_a_few_are_not_shared_and_do_not_wait_for_a_write_under_way(
    slow: Slow, start: Start, saved: "Queue[list[Sequence]]"
) -> None:
    saver, few, others = start(slow, 2), sequences(10), sequences(30)
    wait_until(lambda: saver._num_idle == 2)
    saver.put(few)
    assert slow.next() == few
    saver.put(others)
    assert slow.next() == others
    assert saved.empty() and len(saver.held) == 40
    slow.go_on.release(2)
