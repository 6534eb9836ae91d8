"""What every store does, and that the one in a file does exactly what the one in memory does."""

import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule
from msgspec.structs import replace

from elman.errors import Quota
from elman.sessions.store import Advance, Record, Store, Usage, key_of, new_id, new_mark
from elman.sessions.stores.lmdb import LMDBStore
from elman.sessions.stores.memory import MemoryStore
from elman.sessions.stores.redis import RedisStore
from tests.redis_servers import MANY
from tests.running import environment
from tests.sessions.records import OTHER, OWNER, PLENTY, START, Clock, advance_of, advanced, new_record, state

# Around every change of how a state is cut: in a head, in pieces, in pages for both, in pages for each.
SIZES = [0, 1, 128, 960, 1000, 1024, 2047, 2048, 2100, 4000, 4081, 5000, 8176, 20_000, 65_536]


@pytest.fixture
def clock() -> Clock:
    return Clock()


def created(store: Store, **facts: object) -> Record:
    record = new_record(**facts)  # type: ignore[arg-type]
    store.create(record, PLENTY)
    return record


@pytest.mark.parametrize("size", SIZES)
def test_what_is_created_is_read(store: Store, size: int) -> None:
    record = created(store, size=size, step=7)
    assert store.read(record.id) == record
    assert len(store) == 1
    assert store.usage(OWNER) == Usage(1, 2 * size)


@pytest.mark.parametrize("size", SIZES)
def test_an_advance_keeps_what_was_before(store: Store, size: int) -> None:
    neighbour = created(store, size=size)
    record = created(store, size=size)
    for _ in range(3):
        one = advance_of(record, steps=5)
        assert store.advance([one]) == [True]
        record = advanced(record, one)
        assert store.read(record.id) == record
    assert store.read(neighbour.id) == neighbour
    assert store.usage(OWNER) == Usage(2, 4 * size)


def test_an_advance_from_another_mark_changes_nothing(store: Store) -> None:
    record, other = created(store), created(store)
    early, late, second = advance_of(record), replace(advance_of(record), mark=new_mark()), advance_of(record, steps=2)
    advances = [late, early, second, advance_of(other), replace(early, id=new_id())]
    assert store.advance(advances) == [False, True, False, True, False]
    assert store.read(record.id) == advanced(record, early)


def test_a_call_that_is_made_again_changes_nothing_more(store: Store) -> None:
    """As after a lost answer: the marks tell that it is the same call."""
    record = created(store)
    assert store.create(record, PLENTY) is True
    one = advance_of(record)
    assert [store.advance([one]), store.advance([one, one])] == [[True], [True, True]]
    assert store.read(record.id) == advanced(record, one)
    after = replace(record, mark=new_mark(), step=40)
    assert [store.replace(after, one.next_mark) for _ in range(2)] == [True, True]
    assert store.advance([one]) == [False]
    assert store.read(record.id) == after and store.usage(OWNER) == Usage(1, 200) and len(store) == 1


def test_a_step_from_a_history_that_the_store_has_lost_is_not_taken(store: Store) -> None:
    """A failover may lose a step that was acknowledged. Who still knows it has as many changes, but other ones."""
    record = created(store)
    lost, kept = advance_of(record, steps=2), advance_of(record, steps=3)
    assert store.advance([kept]) == [True]
    assert store.advance([advance_of(advanced(record, lost))]) == [False]
    assert store.read(record.id) == advanced(record, kept)


def test_an_advance_may_follow_another_in_one_call(store: Store) -> None:
    record = created(store)
    first = advance_of(record)
    second = replace(advance_of(record, steps=2), mark=first.next_mark, input_digest=b"")
    assert store.advance([first, second]) == [True, True]
    stored = store.read(record.id)
    assert stored is not None and stored.previous == first.snapshot and stored.snapshot == second.snapshot
    assert stored.input_digest == b"" and stored.previous_step == 1


def test_a_snapshot_of_another_size_is_refused(store: Store) -> None:
    record = created(store, size=10)
    with pytest.raises(ValueError, match="bytes"):
        store.advance([replace(advance_of(record), snapshot=b"x" * 11)])
    assert store.read(record.id) == record


def test_what_has_expired_does_not_exist(store: Store, clock: Clock) -> None:
    record = created(store, ttl=10.0)
    clock.now += 10.0
    assert store.read(record.id) is None
    assert store.advance([advance_of(record)]) == [False]
    assert store.replace(record, record.mark) is False
    assert store.list(OWNER, 10) == []
    assert store.usage(OWNER) == Usage(1, 200)
    assert store.delete(record.id) is False
    assert len(store) == 0 and store.usage(OWNER) == Usage(0, 0)


def test_sweeping_forgets_the_expired_a_part_at_a_time(store: Store, clock: Clock) -> None:
    expiring = [created(store, ttl=5.0) for _ in range(30)]
    lasting = [created(store, ttl=50.0) for _ in range(30)]
    clock.now += 10.0
    swept = [store.sweep(clock.now, 7) for _ in range(20)]
    assert max(swept) <= 7 and sum(swept) == 30
    assert len(store) == 30
    assert not any(store.read(one.id) for one in expiring)
    assert all(store.read(one.id) == one for one in lasting)
    assert store.usage(OWNER) == Usage(30, 30 * 200)
    assert store.sweep(clock.now, 0) == 0


@pytest.mark.parametrize("size", [100, 3000])
def test_replacing_puts_a_record_as_it_is(store: Store, size: int) -> None:
    record = created(store)
    after = replace(
        record,
        mark=new_mark(),
        step=40,
        snapshot=state(record.id, 40, size),
        previous_step=39,
        previous=state(record.id, 39, size),
        input_digest=b"k" * 16,
        expires_at=START + 99,
    )
    assert store.replace(after, new_mark()) is False
    assert store.read(record.id) == record
    assert store.replace(after, record.mark) is True
    assert store.read(record.id) == after
    assert store.usage(OWNER) == Usage(1, 2 * size) and len(store) == 1
    assert store.replace(replace(after, id=new_id()), after.mark) is False


def test_deleting_forgets(store: Store) -> None:
    record, other = created(store), created(store)
    assert store.delete(record.id) is True
    assert store.delete(record.id) is False
    assert store.read(record.id) is None
    assert store.list(OWNER, 10) == [replace(other, snapshot=b"")]


def test_a_list_is_an_owners_own_in_the_order_of_ids(store: Store) -> None:
    mine = [created(store, model=model) for model in ("watch", "names") * 10]
    for _ in range(5):
        created(store, owner=OTHER)
    expected = [replace(one, snapshot=b"") for one in sorted(mine, key=lambda one: one.id)]
    assert store.list(OWNER, 100) == expected
    assert store.list(OWNER, 4) == expected[:4]
    assert store.list(OWNER, 4, after=expected[3].id) == expected[4:8]
    names = [one for one in expected if one.model == "names"]
    assert store.list(OWNER, 3, model="names") == names[:3]
    assert store.list(OWNER, 100, after=names[2].id, model="names") == names[3:]
    assert store.list(OWNER, 100, after=expected[-1].id) == []
    assert store.list(OWNER, 0) == []
    assert store.list(b"z" * 16, 10) == []
    assert len(store.list(OTHER, 10)) == 5


def test_a_caller_holds_no_more_than_it_may(store: Store) -> None:
    most = Usage(2, 1000)
    store.create(new_record(size=100), most)
    with pytest.raises(Quota, match="200 bytes of state, of at most 1000") as error:
        store.create(new_record(size=401), most)
    assert error.value.retry_after
    record = new_record(size=400)
    store.create(record, most)
    with pytest.raises(Quota, match="2 sessions, of at most 2"):
        store.create(new_record(size=1), most)
    store.create(new_record(owner=OTHER), most)
    assert store.delete(record.id)
    store.create(new_record(size=1), most)
    assert store.usage(OWNER) == Usage(2, 202) and store.usage(OTHER) == Usage(1, 200)


@pytest.mark.parametrize("id", ["", "x", "f" * 31, "F" * 44, "z" * 44, "0" * 22 + " " + "0" * 21, "é" * 44, "0" * 2000])
def test_what_can_be_no_id_is_no_session(store: Store, id: str) -> None:
    created(store)
    assert store.read(id) is None
    assert store.delete(id) is False
    assert store.list(OWNER, 10, after=id) == []
    assert store.advance([Advance(id, new_mark(), new_mark(), 1, b"x" * 100, b"", START + 9)]) == [False]
    assert store.replace(replace(new_record(), id=id), new_mark()) is False
    with pytest.raises(ValueError, match="id"):
        store.create(replace(new_record(), id=id), PLENTY)


def test_an_id_is_taken_once(store: Store) -> None:
    record = created(store)
    assert store.create(replace(record, step=3, mark=new_mark()), PLENTY) is False
    assert store.read(record.id) == record and store.usage(OWNER).num_sessions == 1


@pytest.mark.parametrize("size", [100, 3000])
def test_an_id_may_be_taken_again_once_its_session_has_expired(store: Store, clock: Clock, size: int) -> None:
    record = created(store, ttl=10.0)
    clock.now += 10.0
    again = replace(record, expires_at=clock.now + 10.0, step=3, snapshot=state(record.id, 3, size))
    assert store.create(again, Usage(2, 10_000)) is True
    assert store.read(record.id) == again
    assert store.usage(OWNER) == Usage(1, 2 * size) and len(store) == 1


def test_that_a_session_has_ended_is_kept_and_may_be_taken_back(store: Store) -> None:
    record = created(store)
    assert store.advance([replace(advance_of(record), ended=True)]) == [True]
    stored = store.read(record.id)
    assert stored is not None and stored.ended and stored.previous == record.snapshot
    later = replace(stored, mark=new_mark(), step=9)
    assert store.replace(later, stored.mark) and store.read(record.id) == later
    back = replace(record, mark=new_mark())
    assert store.replace(back, later.mark) and store.read(record.id) == back
    assert store.advance([advance_of(back)]) == [True]
    stored = store.read(record.id)
    assert stored is not None and not stored.ended


def test_new_ids_ascend_with_time_and_differ() -> None:
    ids = [new_id() for _ in range(1000)]
    assert len(set(ids)) == 1000
    assert [id[:12] for id in ids] == sorted(id[:12] for id in ids)
    assert all(len(key_of(id) or b"") == 22 for id in ids)


def test_threads_that_race_win_one_step_each(store: Store) -> None:
    record = created(store)
    won: list[int] = []

    def race() -> None:
        for _ in range(50):
            before = store.read(record.id)
            assert before is not None
            assert before.snapshot == state(record.id, before.step, 100)
            if store.advance([advance_of(before)]) == [True]:
                won.append(before.step)

    threads = [threading.Thread(target=race) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(won) == list(range(len(won)))
    after = store.read(record.id)
    assert after is not None and after.step == len(won)


class BothStores(RuleBasedStateMachine):
    """The same calls to a store and to the one in memory, which answer alike."""

    records = Bundle("records")
    # Whether another owner may take the id of an expired session.
    takes_over = True

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.memory = MemoryStore(self.clock)
        self.ids: set[str] = set()
        self.owners: dict[str, bytes] = {}
        self.begin()
        self.store = self.open()

    def begin(self) -> None:
        """Make an empty place for the store."""
        self.folder = tempfile.TemporaryDirectory()

    def open(self) -> Store:
        return LMDBStore(Path(self.folder.name), clock=self.clock)

    def end(self) -> None:
        self.folder.cleanup()

    def both(self, call: Callable[[Store], object]) -> object:
        """What both answer, or the error that both raise."""
        answers: list[object] = []
        for store in (self.memory, self.store):
            try:
                answers.append(call(store))
            except (Quota, ValueError) as error:
                answers.append((type(error), str(error) if isinstance(error, Quota) else ""))
        assert answers[0] == answers[1]
        return answers[0]

    @rule(
        target=records,
        size=st.sampled_from(SIZES),
        owner=st.sampled_from([OWNER, OTHER]),
        model=st.sampled_from(["watch", "names"]),
        version=st.integers(1, 3),
        ttl=st.sampled_from([5.0, 50.0]),
        most=st.sampled_from([PLENTY, Usage(3, 20_000)]),
    )
    def create(self, size: int, owner: bytes, model: str, version: int, ttl: float, most: Usage) -> str:
        record = new_record(size, owner, model, version, ttl=ttl, now=self.clock.now)
        self.both(lambda store: store.create(record, most))
        self.ids.add(record.id)
        self.owners[record.id] = owner
        return record.id

    @rule(
        ids=st.lists(records, min_size=1, max_size=6),
        off=st.lists(st.sampled_from([0, 0, 0, 0, 1]), min_size=6, max_size=6),
        input_digest=st.sampled_from([b"", b"\0" * 16, b"c" * 16]),
        ended=st.booleans(),
    )
    def advance(self, ids: list[str], off: list[int], input_digest: bytes, ended: bool) -> None:
        advances = []
        for id, more in zip(ids, off, strict=False):
            record = self.memory.read(id)
            if record is not None:
                one = replace(advance_of(record, 3, input_digest), ended=ended)
                advances.append(replace(one, mark=new_mark()) if more else one)
        self.both(lambda store: store.advance(advances))

    @rule(id=records, size=st.sampled_from(SIZES), keep=st.booleans(), off=st.sampled_from([0, 0, 1]))
    def replace(self, id: str, size: int, keep: bool, off: int) -> None:
        record = self.memory.read(id)
        if record is None:
            return
        size = len(record.snapshot) if keep else size
        after = replace(record, mark=new_mark(), step=1, snapshot=state(id, 1, size), previous=None, input_digest=b"")
        self.both(lambda store: store.replace(after, new_mark() if off else record.mark))

    @rule(id=records, size=st.sampled_from(SIZES))
    def create_again(self, id: str, size: int) -> None:
        owner = OWNER if self.takes_over else self.owners[id]
        record = replace(new_record(size, owner, now=self.clock.now), id=id)
        self.both(lambda store: store.create(record, PLENTY))
        self.ids.add(id)

    @rule(id=consumes(records))
    def delete(self, id: str) -> None:
        self.both(lambda store: store.delete(id))
        self.ids.discard(id)

    @rule(seconds=st.sampled_from([1.0, 4.0, 30.0]))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule()
    def sweep(self) -> None:
        # Each begins where it ended; twice is once round for both.
        self.both(lambda store: sum(store.sweep(self.clock.now, 1000) for _ in range(2)))

    @rule()
    def reopen(self) -> None:
        self.store.close()
        self.store = self.open()

    @rule(limit=st.integers(0, 5), after=st.none() | records, model=st.sampled_from([None, "watch"]))
    def list(self, limit: int, after: str | None, model: str | None) -> None:
        self.both(lambda store: store.list(OWNER, limit, after, model))

    @invariant()
    def alike(self) -> None:
        self.both(len)
        for owner in (OWNER, OTHER):
            self.both(lambda store, owner=owner: store.usage(owner))  # type: ignore[misc]
        for id in self.ids:
            self.both(lambda store, id=id: store.read(id))  # type: ignore[misc]

    def teardown(self) -> None:
        self.store.close()
        self.end()


BothStores.TestCase.settings = settings(stateful_step_count=40)
test_both_stores_answer_alike = pytest.mark.slow(BothStores.TestCase)


@pytest.mark.slow
def test_redis_answers_like_the_store_in_memory(shared_url: Callable[[str], str]) -> None:
    class WithRedis(BothStores):
        # An expired session counts until it is swept, also where another owner has taken its id.
        takes_over = False

        def begin(self) -> None:
            self.url = shared_url("redis")

        def open(self) -> Store:
            return RedisStore(self.url, clock=self.clock, spare=3600.0)

        def end(self) -> None:
            pass

    machine = WithRedis.TestCase
    machine.settings = settings(stateful_step_count=40, max_examples=MANY or 20)
    machine().runTest()


@pytest.mark.slow
def test_processes_never_have_the_same_marks() -> None:
    script = """
import os
from elman.sessions.store import new_mark
new_mark()
out, into = os.pipe()
if not os.fork():
    os.write(into, b"".join(new_mark() for _ in range(300)))
    os._exit(0)
theirs = os.read(out, 2400)
marks = [theirs[at:at + 8] for at in range(0, 2400, 8)] + [new_mark() for _ in range(300)]
assert len(theirs) == 2400 and len(set(marks)) == 600
"""
    subprocess.run([sys.executable, "-c", script], check=True, env=environment(), timeout=60)
