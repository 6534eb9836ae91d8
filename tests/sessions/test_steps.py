"""What a step request does to a session: it moves it on once, is answered again, or is refused by number."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
from msgspec.structs import replace

from elman.engine.sequence import Sequence
from elman.engine.work import Steps, Wait, wait
from elman.errors import ElmanError, OutcomeUnknown, Quota, StepConflict, StepReused, StoreUnavailable, UnknownSession
from elman.sessions.calls import StoreCalls
from elman.sessions.sessions import Sessions, StepIntent, StepWrite
from elman.sessions.store import Record, Store, Usage, new_id
from elman.sessions.stores.lmdb.failures import DiskFull
from elman.sessions.stores.memory import MemoryStore
from tests.sessions.conftest import STORES, opened
from tests.sessions.records import DIGEST, OTHER, OWNER, PLENTY, new_record

T = TypeVar("T")
SIZE = 8
FIRST = bytes(SIZE)


# What is kept on a Valkey or in a cluster is the matter of the stores' own tests.
@pytest.fixture(params=STORES[:3])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    with opened(request.param, request, tmp_path, time.time) as one:
        yield one


@pytest.fixture(params=[1_000_000, 0], ids=["at hand", "read each time"])
def sessions(request: pytest.FixtureRequest, store: Store) -> Sessions:
    return process(store, hot_bytes=request.param)


def process(store: Store, hot_bytes: int = 1_000_000, shared: bool = False, most: Usage = PLENTY) -> Sessions:
    """The sessions of one server process over a store."""
    return Sessions(lambda: store, most, ttl=60.0, hot_bytes=hot_bytes, shared=shared)


async def follow(steps: Steps[T]) -> T:
    """What a script returns, each of its waits waited for as the server's driver does."""
    try:
        while True:
            work = next(steps)
            assert isinstance(work, Wait)
            await asyncio.wait([work.future])
    except StopIteration as end:
        result: T = end.value
        return result


def go(steps: Steps[T]) -> T:
    return asyncio.run(follow(steps))


def pause(seconds: float) -> Steps[None]:
    yield from wait(asyncio.ensure_future(asyncio.sleep(seconds)))


def create(sessions: Sessions, owner: bytes = OWNER, ttl: float | None = None) -> Steps[Record]:
    return sessions.create(owner, "watch", 1, DIGEST, step=0, snapshot=FIRST, ttl=ttl)


@dataclass
class Model:
    """A stand-in for the engine: the state after a step is its content, and what was run from is noted.

    `meanwhile` is followed while a step runs.
    """

    sessions: Sessions
    ran_from: list[bytes] = field(default_factory=list)
    meanwhile: Callable[[], Steps[Any]] | None = None

    def step(
        self,
        id: str,
        content: bytes,
        at: int | None = None,
        length: int = 1,
        owner: bytes = OWNER,
        first: Callable[[], Record] | None = None,
        ended: bool = False,
        named: bool = False,
    ) -> Steps[tuple[bytes, Record, bool]]:
        content = content.ljust(16)

        def run(snapshot: bytes, write: StepWrite | None) -> Steps[bytes]:
            self.ran_from.append(snapshot)
            if self.meanwhile is not None:
                yield from self.meanwhile()
            if write is not None:
                write.snapshot, write.ended = content[:SIZE], ended
                yield from self.sessions.save(write)
            return snapshot

        intent = StepIntent(content, length, at)
        if not (named or first or ended):
            return self.sessions.step(owner, id, intent, run)

        def in_turn() -> Steps[tuple[bytes, Record, bool]]:
            if first is not None:
                record = yield from self.sessions.begin(first(), at is None)
            else:
                record = yield from self.sessions.latest(owner, id)
            return (yield from self.sessions.advance(owner, id, intent, run, record))

        return self.sessions.in_turn(id, in_turn(), inf)


def refused(kind: type[ElmanError], steps: Steps[Any]) -> ElmanError:
    with pytest.raises(kind) as caught:
        go(steps)
    return caught.value


# One process


def test_a_step_moves_the_session_on_and_is_kept(sessions: Sessions, store: Store) -> None:
    model, id = Model(sessions), go(create(sessions)).id
    ran_from, after, replayed = go(model.step(id, b"one", at=0, length=3))
    assert (ran_from, after.step, after.snapshot[:3], replayed) == (FIRST, 3, b"one", False)
    kept = store.read(id)
    assert kept is not None
    assert (kept.step, kept.snapshot, kept.previous_step, kept.previous) == (3, b"one".ljust(SIZE), 0, FIRST)
    assert kept.expires_at > time.time() + 50


def test_the_same_step_again_is_answered_from_the_state_before_it_and_moves_nothing(
    sessions: Sessions, store: Store
) -> None:
    model, id = Model(sessions), go(create(sessions)).id
    go(model.step(id, b"one", at=0))
    before = store.read(id)
    for _ in range(2):
        ran_from, after, replayed = go(model.step(id, b"one", at=0))
        assert (ran_from, after.step, replayed) == (FIRST, 1, True)
    assert store.read(id) == before


def test_the_same_step_with_other_content_is_refused_before_it_runs(sessions: Sessions, store: Store) -> None:
    model, id = Model(sessions), go(create(sessions)).id
    go(model.step(id, b"one", at=0))
    before = store.read(id)
    error = refused(StepReused, model.step(id, b"two", at=0))
    assert (error.where, error.expected) == ("at", 1)
    assert model.ran_from == [FIRST] and store.read(id) == before


@pytest.mark.parametrize(("at", "words"), [(9, "not 9"), (0, "only its last step")])
def test_a_step_from_elsewhere_is_refused_with_where_the_session_stands(
    sessions: Sessions, at: int, words: str
) -> None:
    model, id = Model(sessions), go(create(sessions)).id
    go(model.step(id, b"one", at=0))
    go(model.step(id, b"two", at=1))
    error = refused(StepConflict, model.step(id, b"one", at=at))
    assert error.expected == 2 and words in error.detail
    assert len(model.ran_from) == 2


def test_without_a_place_every_step_moves_on_whatever_it_holds(sessions: Sessions) -> None:
    model, id = Model(sessions), go(create(sessions)).id
    steps = [go(model.step(id, b"same"))[1].step for _ in range(3)]
    assert steps == [1, 2, 3]


def test_a_step_that_fails_leaves_the_session_and_its_turn(sessions: Sessions, store: Store) -> None:
    def fail() -> Steps[None]:
        yield from pause(0.0)
        raise ZeroDivisionError

    model, id = Model(sessions), go(create(sessions)).id
    before = store.read(id)
    model.meanwhile = fail
    with pytest.raises(ZeroDivisionError):
        go(model.step(id, b"one", at=0))
    assert store.read(id) == before
    model.meanwhile = None
    assert go(model.step(id, b"one", at=0))[2] is False


def test_of_two_that_send_a_step_at_once_one_moves_and_one_is_answered_again(sessions: Sessions) -> None:
    async def run() -> None:
        model, id = Model(sessions), (await follow(create(sessions))).id
        model.meanwhile = lambda: pause(0.01)
        answers = await asyncio.gather(*(follow(model.step(id, b"one", at=0)) for _ in range(3)))
        assert sorted(replayed for _, _, replayed in answers) == [False, True, True]
        assert {ran_from for ran_from, _, _ in answers} == {FIRST}
        assert (await follow(sessions.read(OWNER, id))).step == 1

    asyncio.run(run())


def test_a_step_without_a_place_waits_for_no_other(sessions: Sessions) -> None:
    async def run() -> None:
        model, id = Model(sessions), (await follow(create(sessions))).id
        gate: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        model.meanwhile = lambda: wait(gate)
        first = asyncio.create_task(follow(model.step(id, b"one")))
        while not model.ran_from:
            await asyncio.sleep(0.001)
        with pytest.raises(StepConflict, match="under way"):
            await follow(model.step(id, b"two"))
        gate.set_result(None)
        assert (await first)[1].step == 1

    asyncio.run(run())


def test_a_step_without_a_place_may_wait_for_its_turn_in_the_order_of_arrival(sessions: Sessions) -> None:
    async def run() -> None:
        model, id = Model(sessions), (await follow(create(sessions))).id
        model.meanwhile = lambda: pause(0.001)
        contents = [b"%d" % number for number in range(5)]
        await asyncio.gather(*(follow(model.step(id, content, named=True)) for content in contents))
        assert model.ran_from == [FIRST, *(content.ljust(SIZE) for content in contents[:-1])]

    asyncio.run(run())


# Sessions that are begun and ended by their steps, with an id that is used again


def fresh(id: str) -> Callable[[], Record]:
    return lambda: replace(new_record(SIZE, now=time.time()), id=id, snapshot=FIRST)


def test_a_session_begins_with_its_first_steps_and_ends_with_its_last(sessions: Sessions, store: Store) -> None:
    model, id = Model(sessions), new_id()
    assert refused(UnknownSession, model.step(id, b"one", named=True))
    assert go(model.step(id, b"one", first=fresh(id)))[0] == FIRST
    assert go(model.step(id, b"two", at=1, ended=True))[0] == b"one".ljust(SIZE)
    assert go(model.step(id, b"two", at=1, ended=True))[2] is True
    for at in (None, 0, 2):
        for named in (False, True):
            refused(UnknownSession, model.step(id, b"three", at=at, named=named))
    refused(UnknownSession, sessions.read(OWNER, id))
    assert model.ran_from == [FIRST, b"one".ljust(SIZE), b"one".ljust(SIZE)]


@pytest.mark.parametrize("ended", [False, True])
def test_beginning_anew_ends_what_went_on_under_the_same_id(sessions: Sessions, store: Store, ended: bool) -> None:
    model, id = Model(sessions), new_id()
    go(model.step(id, b"one", first=fresh(id)))
    go(model.step(id, b"two", at=1, ended=ended))
    ran_from, after, _ = go(model.step(id, b"three", first=fresh(id)))
    assert ran_from == FIRST and after.step == 1 and not after.ended
    assert go(model.step(id, b"four", named=True))[0] == b"three".ljust(SIZE)
    kept = store.read(id)
    assert kept is not None and kept.step == 2 and kept.previous == b"three".ljust(SIZE)


def test_with_a_place_a_session_begins_once(sessions: Sessions) -> None:
    model, id = Model(sessions), new_id()
    go(model.step(id, b"one", at=0, first=fresh(id)))
    assert go(model.step(id, b"one", at=0, first=fresh(id)))[2] is True
    refused(StepReused, model.step(id, b"two", at=0, first=fresh(id)))
    go(model.step(id, b"two", at=1))
    refused(StepConflict, model.step(id, b"one", at=0, first=fresh(id)))
    go(model.step(id, b"three", at=2, ended=True))
    assert go(model.step(id, b"one", at=0, first=fresh(id)))[1].step == 1


def test_what_another_process_has_at_hand_of_an_earlier_session_of_the_id_is_never_gone_on_with(store: Store) -> None:
    here, there, id = Model(process(store, shared=True)), Model(process(store, shared=True)), new_id()
    go(here.step(id, b"one", at=0, first=fresh(id)))
    assert store.delete(id)
    go(there.step(id, b"other", at=0, first=fresh(id)))
    assert go(here.step(id, b"two", at=1, named=True))[0] == b"other".ljust(SIZE)
    assert store.delete(id)
    go(there.step(id, b"third", at=0, first=fresh(id)))
    assert go(here.step(id, b"two", at=1))[0] == b"third".ljust(SIZE)


def test_who_gives_up_waiting_for_a_turn_hands_it_on(sessions: Sessions) -> None:
    async def run() -> None:
        model, id = Model(sessions), (await follow(create(sessions))).id
        gate: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        model.meanwhile = lambda: wait(gate)
        first = asyncio.create_task(follow(model.step(id, b"one", at=0)))
        while not model.ran_from:
            await asyncio.sleep(0.001)
        gone = model.step(id, b"two", at=1)
        next(gone)
        last = asyncio.create_task(follow(model.step(id, b"two", at=1)))
        await asyncio.sleep(0)
        gate.set_result(None)
        await first
        gone.close()
        assert (await asyncio.wait_for(last, 60))[1].step == 2

    asyncio.run(run())


# Whose sessions are, and for how long


def test_a_session_is_its_owners_alone(sessions: Sessions, store: Store) -> None:
    model, id = Model(sessions), go(create(sessions)).id
    for call in (
        model.step(id, b"one", owner=OTHER),
        sessions.read(OTHER, id),
        sessions.delete(OTHER, id),
        sessions.restore(OTHER, id, 5, FIRST),
    ):
        refused(UnknownSession, call)
    kept = store.read(id)
    assert kept is not None and kept.step == 0 and not model.ran_from


def test_a_session_that_was_deleted_or_has_expired_is_unknown(sessions: Sessions) -> None:
    model, deleted, expired = Model(sessions), go(create(sessions)).id, go(create(sessions, ttl=0.0)).id
    go(sessions.delete(OWNER, deleted))
    for id in (deleted, expired):
        refused(UnknownSession, model.step(id, b"one", at=0))
    assert not model.ran_from


def test_a_step_puts_off_the_end_of_a_session_by_its_own_time_to_live(sessions: Sessions, store: Store) -> None:
    made = go(create(sessions, ttl=500.0))
    time.sleep(0.01)
    _, after, _ = go(Model(sessions).step(made.id, b"one"))
    assert made.expires_at < after.expires_at <= time.time() + 500.0
    kept = store.read(made.id)
    assert kept is not None and kept.expires_at == after.expires_at


@pytest.mark.parametrize(
    ("most", "limit"), [(Usage(2, 10**6), 2), (Usage(9, 5 * SIZE), 5 * SIZE)], ids=["sessions", "bytes"]
)
def test_a_caller_holds_no_more_than_its_quota_and_has_it_back(store: Store, most: Usage, limit: int) -> None:
    sessions = process(store, most=most)
    first, _ = go(create(sessions)), go(create(sessions))
    assert refused(Quota, create(sessions)).expected == limit
    assert go(create(sessions, owner=OTHER)).owner == OTHER
    go(sessions.delete(OWNER, first.id))
    go(create(sessions))


# Putting back


def test_a_restored_session_goes_on_from_there_and_has_no_last_step(sessions: Sessions) -> None:
    model, id = Model(sessions), go(create(sessions)).id
    go(model.step(id, b"one", at=0))
    put = go(sessions.restore(OWNER, id, 7, b"restored"))
    assert (put.step, put.snapshot, put.previous) == (7, b"restored", None)
    refused(StepConflict, model.step(id, b"one", at=0))
    ran_from, after, _ = go(model.step(id, b"two", at=7))
    assert (ran_from, after.step) == (b"restored", 8)


# Two processes on one store


def test_a_process_sees_what_another_did(store: Store) -> None:
    here, there = Model(process(store, shared=True)), Model(process(store, shared=True))
    id = go(create(here.sessions)).id
    for step, model in enumerate((here, there, here, there)):
        assert go(model.step(id, b"same"))[1].step == step + 1
    assert go(here.step(id, b"last", at=4))[1].step == 5
    assert go(there.step(id, b"last", at=4))[2] is True


def test_a_step_that_another_process_did_meanwhile_is_answered_and_moves_nothing(store: Store) -> None:
    here, there = Model(process(store, shared=True)), Model(process(store, shared=True))
    id = go(create(here.sessions)).id

    def overtake() -> Steps[None]:
        here.meanwhile = None
        yield from there.step(id, b"one", at=0)

    here.meanwhile = overtake
    _, after, replayed = go(here.step(id, b"one", at=0))
    assert (after.step, replayed) == (1, True)
    assert here.ran_from == [FIRST, FIRST], "once in vain, and once to answer"


@pytest.mark.parametrize(("at", "kind"), [(0, StepReused), (None, StepConflict)])
def test_a_step_that_lost_to_another_is_refused(store: Store, at: int | None, kind: type[ElmanError]) -> None:
    here, there = Model(process(store, shared=True)), Model(process(store, shared=True))
    id = go(create(here.sessions)).id
    here.meanwhile = lambda: there.step(id, b"theirs")
    assert refused(kind, here.step(id, b"ours", at=at)).expected == 1
    kept = store.read(id)
    assert kept is not None and (kept.step, kept.snapshot) == (1, b"theirs".ljust(SIZE))


# What the engine writes, and a store that does not work


def write(record: Record, snapshot: bytes) -> Sequence:
    """A sequence that ran, with the step that it is to save."""
    save = StepWrite(record.id, record.mark, record.step + 1, b"c" * 16, record.expires_at, lambda _: snapshot)
    return Sequence(np.zeros((1, 2), np.float32), save=save)


def test_the_steps_of_one_iteration_are_written_together_each_for_itself(store: Store) -> None:
    sessions = process(store)
    records = [go(create(sessions)) for _ in range(3)]
    go(Model(sessions).step(records[1].id, b"faster"))
    sequences = [write(record, b"state-%d " % index) for index, record in enumerate(records)]
    sessions.commit(sequences)
    assert [one.save.won for one in sequences] == [True, False, True]  # type: ignore[attr-defined]
    found = [store.read(record.id) for record in records]
    assert [one.snapshot for one in found if one] == [b"state-0 ", b"faster".ljust(SIZE), b"state-2 "]
    assert all(one.error is None for one in sequences)


def test_where_the_store_does_not_work_each_step_says_so(store: Store) -> None:
    sessions = process(store)
    sequences = [write(go(create(sessions)), b"12345678") for _ in range(2)]
    sessions.close()
    sessions.commit(sequences)
    assert all(isinstance(one.error, StoreUnavailable) and "closed" in one.error.detail for one in sequences)


def test_on_a_full_disk_each_step_has_an_error_of_its_own(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    sessions = process(store)
    sequences = [write(go(create(sessions)), b"12345678") for _ in range(2)]

    def advance(advances: object) -> None:
        raise DiskFull

    monkeypatch.setattr(store, "advance", advance)
    sessions.commit(sequences)
    errors = [one.error for one in sequences]
    assert [(type(one), str(one)) for one in errors] == [(DiskFull, "the session store's disk is full")] * 2
    assert errors[0] is not errors[1]


def test_calls_that_wait_while_the_store_is_closed_fail_at_once_and_of_one_under_way_nobody_knows() -> None:
    async def main() -> None:
        calls, begun, go_on = StoreCalls(timeout=600.0), threading.Event(), threading.Event()

        def call() -> None:
            begun.set()
            go_on.wait(60.0)

        under_way, waiting = calls.write_aside(call), calls.write_aside(call)
        assert await asyncio.to_thread(begun.wait, 60.0)
        calls.close()
        with pytest.raises(StoreUnavailable, match="closed"):
            calls.write_aside(call)
        for one, error in ((waiting, StoreUnavailable), (under_way, OutcomeUnknown)):
            with pytest.raises(StoreUnavailable, match="closed") as told:
                await asyncio.wait_for(one, 60.0)
            assert type(told.value) is error
            calls.give_up()
        go_on.set()

    asyncio.run(main())


def test_a_store_that_could_not_be_opened_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = iter([StoreUnavailable("the disk is away"), MemoryStore()])

    def open_store() -> Store:
        found = next(opened)
        if isinstance(found, StoreUnavailable):
            raise found
        return found

    sessions = Sessions(open_store, PLENTY, 60.0, 0, shared=False)
    sessions.open()
    assert refused(StoreUnavailable, create(sessions)).detail == "the disk is away"
    assert len(sessions) == 0
    monkeypatch.setattr(sessions, "_reopen_at", 0.0)
    go(create(sessions))
    assert len(sessions) == 1
