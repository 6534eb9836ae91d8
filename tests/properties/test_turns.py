"""The turns of callers alone: nothing is lost, and nobody waits for more than one turn of each other."""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elman.http.turns import PASSED_OVER_SECONDS, SLICE_SECONDS, Turns

PARTIES = [b"a", b"b", b"c"]
# What a call takes: more than a slice, or a part of one.
seconds = st.sampled_from([0.0, 0.1, 0.3, 2.0]).map(lambda one: one * SLICE_SECONDS)


@dataclass(frozen=True)
class Call:
    """A call of a party that comes in one iteration of the loop, and what it takes then and later."""

    party: bytes
    at: int
    takes: float
    later: float = 0.0


calls = st.builds(Call, st.sampled_from(PARTIES), st.integers(0, 5), seconds, seconds)


class Handle:
    def __init__(self, call: Callable[[], None], due: float) -> None:
        self.call, self.due, self.cancelled = call, due, False

    def cancel(self) -> None:
        self.cancelled = True


@dataclass
class Loop:
    """An event loop whose time passes only by what is called."""

    now: float = 0.0
    ready: list[Handle] = field(default_factory=list)
    timers: list[Handle] = field(default_factory=list)

    def call_soon(self, call: Callable[[], None]) -> Handle:
        self.ready.append(Handle(call, self.now))
        return self.ready[-1]

    def call_later(self, seconds: float, call: Callable[[], None]) -> Handle:
        self.timers.append(Handle(call, self.now + seconds))
        return self.timers[-1]

    def iterate(self) -> None:
        """One iteration. If there is nothing to do, time passes until the next timer."""
        due = [one for one in self.timers if not one.cancelled]
        if not self.ready and due:
            self.now = max(self.now, min(one.due for one in due))
        handles = self.ready + [one for one in due if one.due <= self.now]
        self.timers = [one for one in due if one.due > self.now]
        self.ready = []
        for handle in handles:
            if not handle.cancelled:
                handle.call()


def new(is_busy: Callable[[bytes], bool] = lambda party: False) -> tuple[Turns, Loop]:
    loop = Loop()
    turns = Turns(loop, clock=lambda: loop.now)  # type: ignore[arg-type]
    turns.is_busy = is_busy
    return turns, loop


@dataclass
class Run:
    """What a simulation saw: the calls in the order in which they began, and the number of the iteration of each."""

    begun: list[Call] = field(default_factory=list)
    iterations: list[int] = field(default_factory=list)


def simulate(arriving: list[Call], is_busy: Callable[[bytes], bool] = lambda party: False) -> Run:
    turns, loop = new(is_busy)
    seen, number = Run(), 0
    waiting = sorted(arriving, key=lambda call: call.at)

    def begin(call: Call) -> None:
        loop.now += call.takes
        seen.begun.append(call)
        seen.iterations.append(number)

    while waiting or loop.ready or any(not one.cancelled for one in loop.timers):
        loop.iterate()
        while waiting and waiting[0].at <= number:  # what the sockets bring, after what was ready
            call = waiting.pop(0)
            turns.take(call.party, lambda call=call: begin(call), call.later)  # type: ignore[misc]
        number += 1
        assert number < 10_000, "the turns do not come to an end"
    return seen


@given(st.lists(calls, max_size=40))
def test_every_call_is_made_once_and_those_of_a_party_in_their_order(arriving: list[Call]) -> None:
    begun = simulate(arriving).begun
    ordered = sorted(arriving, key=lambda call: call.at)
    for party in PARTIES:
        assert [call for call in begun if call.party == party] == [call for call in ordered if call.party == party]
    assert len(begun) == len(arriving)


@given(st.lists(calls, max_size=40), st.integers(0, 5))
def test_a_party_that_has_nothing_else_begins_at_once(others: list[Call], at: int) -> None:
    """However much of others waits, and whatever comes with it."""
    seen = simulate([*others, Call(b"light", at, 0.0)])
    place = [call.party for call in seen.begun].index(b"light")
    assert seen.iterations[place] == at


@given(st.lists(calls, max_size=40), st.integers(1, 4))
def test_nobody_waits_for_more_than_one_turn_of_each_other(others: list[Call], number: int) -> None:
    arriving = [replace(call, at=0) for call in others]
    begun = simulate([*arriving, *[Call(b"light", 0, 0.0)] * number]).begun
    places = [place for place, call in enumerate(begun) if call.party == b"light"]
    for index, (before, after) in enumerate(pairwise(places)):
        between = [call.party for call in begun[before + 1 : after]]
        # At first, each of those that come later may also begin one at once.
        assert all(between.count(party) <= 1 + (not index) for party in PARTIES)


@given(st.lists(calls, max_size=40))
def test_an_iteration_takes_a_slice_and_one_turn_of_each_at_most(arriving: list[Call]) -> None:
    seen = simulate(arriving)
    spent: defaultdict[int, list[Call]] = defaultdict(list)
    for call, number in zip(seen.begun, seen.iterations, strict=True):
        spent[number].append(call)
    for begun in spent.values():
        total = [call.takes + call.later for call in begun]
        # The first of each party begins at once, and the last call of a slice may last beyond it.
        assert sum(total) <= SLICE_SECONDS + sum(sorted(total)[-1 - len(PARTIES) :])


@given(st.lists(st.builds(Call, st.just(b"a"), st.integers(0, 5), seconds), max_size=40))
def test_a_party_alone_is_served_in_its_order_without_a_pause(arriving: list[Call]) -> None:
    seen = simulate(arriving)
    assert seen.begun == sorted(arriving, key=lambda call: call.at)
    last = max((call.at for call in arriving), default=0)
    busy = set(seen.iterations)
    assert all(number in busy for number in range(last + 1, max(busy, default=0))), "something waits and nothing begins"


@given(st.lists(calls, min_size=1, max_size=30))
def test_a_party_for_whom_the_engine_is_busy_is_passed_over_for_a_short_while_only(arriving: list[Call]) -> None:
    turns, loop = new(is_busy=lambda party: party == b"a")
    begun: list[tuple[bytes, float]] = []
    for call in arriving:
        turns.take(call.party, lambda party=call.party: begun.append((party, loop.now)))  # type: ignore[misc]
    while loop.ready or any(not one.cancelled for one in loop.timers):
        loop.iterate()
    assert sorted(party for party, _ in begun) == sorted(call.party for call in arriving)
    for party, since in begun:
        assert since == pytest.approx(PASSED_OVER_SECONDS if party == b"a" else 0.0)


def test_when_the_engine_has_done_something_it_is_asked_again() -> None:
    busy = True
    turns, loop = new(is_busy=lambda party: busy)
    begun: list[float] = []
    turns.take(b"a", lambda: begun.append(loop.now))
    loop.iterate()
    assert not begun
    busy = False
    turns.resume()
    loop.iterate()
    assert begun == [0.0]
    loop.iterate()
    assert not [one for one in loop.timers if not one.cancelled], "the pause is over"


@given(st.lists(st.sampled_from(PARTIES), max_size=20), st.data())
def test_there_are_several_as_long_as_two_parties_have_connections(joining: list[bytes], data: st.DataObject) -> None:
    turns, _ = new()
    present: list[bytes] = []
    told = [False]
    turns.on_several = told.append
    for party in joining:
        turns.join(party)
        present.append(party)
        assert turns.several == (len(set(present)) > 1)
        if data.draw(st.booleans()):
            gone = present.pop(data.draw(st.integers(0, len(present) - 1)))
            turns.leave(gone)
            assert turns.several == (len(set(present)) > 1)
    assert told[-1] == turns.several
    assert all(before != after for before, after in pairwise(told))
