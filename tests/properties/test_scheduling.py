"""The scheduler alone: nothing is lost, nothing idles, nothing short waits for something long."""

from dataclasses import dataclass, field, replace
from math import ceil, inf
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elman.engine.scheduler import _SHARED_RUNS, _SHARED_SECONDS, Batch, Policy, Scheduler
from elman.engine.sequence import Sequence
from elman.errors import DeadlineExceeded


def sequence(length: int, **fields: Any) -> Sequence:
    """A sequence whose inputs are only long: the scheduler never looks at them."""
    return Sequence(range(length), **fields)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Arrival:
    length: int
    at: int
    returns: str
    priority: int
    deadline: float
    cancelled_at: float
    rows: int = 1
    party: bytes = b""


@dataclass
class Run:
    """What a simulation saw: each batch, with what was ready before it."""

    batches: list[tuple[float, Batch]] = field(default_factory=list)
    ready: list[list[Sequence]] = field(default_factory=list)
    done: list[Sequence] = field(default_factory=list)
    cursors: dict[int, int] = field(default_factory=dict)


lengths = st.one_of(st.integers(1, 20), st.integers(1, 3000))
arrivals = st.builds(
    Arrival,
    length=lengths,
    at=st.integers(0, 30),
    returns=st.sampled_from(["final", "steps"]),
    priority=st.integers(0, 2),
    deadline=st.just(inf),
    cancelled_at=st.just(inf),
)
hurried = st.builds(
    Arrival,
    length=lengths,
    at=st.integers(0, 30),
    returns=st.sampled_from(["final", "steps"]),
    priority=st.integers(0, 1),
    deadline=st.one_of(st.just(inf), st.floats(1, 80)),
    cancelled_at=st.one_of(st.just(inf), st.floats(0, 60)),
)
blocks = st.builds(replace, st.one_of(arrivals, hurried), rows=st.sampled_from([1, 2, 60]))
shared = st.builds(replace, blocks, party=st.sampled_from([b"a", b"b", b"c"]))
policies = st.builds(
    Policy,
    max_batch=st.integers(1, 20),
    max_chunk=st.integers(1, 100),
    chunked=st.booleans(),
    steps_singly=st.booleans(),
    grouping=st.sampled_from(["ragged", "equal", "alone"]),
)


def simulate(policy: Policy, arriving: list[Arrival]) -> tuple[Run, list[Sequence]]:
    """Run the scheduler as a queue does, one second an iteration, checking what holds of every batch."""
    scheduler, seen = Scheduler(policy), Run()
    fields = "returns", "priority", "deadline", "rows", "party"
    every = [sequence(one.length, **{name: getattr(one, name) for name in fields}) for one in arriving]
    waiting = list(zip(arriving, every, strict=True))
    now = 0.0
    while waiting or len(scheduler):
        for one, each in waiting:
            if one.at <= now:
                scheduler.add(each)
        waiting = [(one, each) for one, each in waiting if one.at > now]
        for one, each in zip(arriving, every, strict=True):
            each.cancelled = one.cancelled_at <= now
        queued = [each for one, each in zip(arriving, every, strict=True) if one.at <= now and each not in seen.done]
        live = [each for each in queued if not each.cancelled and each.deadline > now]
        batch = scheduler.schedule(now)
        assert (batch is not None) == bool(live), "work waits and nothing runs"
        if batch is not None:
            check_batch(policy, batch, live)
        seen.done += scheduler.update(batch)
        now += 1.0
        assert now < 1e6, "the scheduler does not come to an end"
    return seen, every


def check_batch(policy: Policy, batch: Batch, live: list[Sequence]) -> None:
    limit = 1 if policy.grouping == "alone" else policy.max_batch
    assert len(batch.sequences) == len(batch.counts) == len({id(one) for one in batch.sequences})
    assert 1 <= len(batch.sequences) <= limit
    assert all(one in live for one in batch.sequences), "something that was given up, or not there, runs"
    for one, steps in zip(batch.sequences, batch.counts, strict=True):
        assert 1 <= steps <= one.remaining
        if not policy.chunked:
            assert steps == one.remaining, "a sequence that cannot be cut was cut"
        else:
            assert steps <= policy.max_chunk
        if policy.chunked and policy.steps_singly and policy.grouping != "equal" and one.returns == "steps":
            assert steps == 1
    if policy.grouping == "equal":
        assert len(set(batch.counts)) == 1
    if any(one.rows > 1 for one in live):
        assert len(batch.sequences) == 1 or all(one.rows == 1 for one in batch.sequences), "a block runs alone"
    elif policy.chunked and len({one.party for one in live}) == 1:
        check_choice(policy, batch, live, limit)


def check_choice(policy: Policy, batch: Batch, live: list[Sequence], limit: int) -> None:
    """Rows are taken as far as there is room, by priority, service and deadline, but for one that was served most."""
    level = min(rank(one)[:2] for one in live)
    first = [one for one in batch.sequences if rank(one)[:2] == level]
    others = sorted((one for one in batch.sequences if one not in first), key=rank)
    left = [one for one in live if one not in batch.sequences]
    left_first = [one for one in left if rank(one)[:2] == level]
    assert len(first) + bool(others) >= limit or not left_first, "a row is left empty, or taken by one that could wait"
    assert first or limit == 1
    if first and min(map(rank, first))[2] < inf:
        assert all(one.deadline <= another.deadline for one in first for another in left_first), "a deadline waits"
    if others and left:
        last = others.pop()
        if rank(last) > min(map(rank, left)):
            assert last.priority == level[0]
            assert rank(last)[1] > level[1], "a row was kept for one that was not served more"
        assert not others or rank(others[-1]) <= min(map(rank, left))
    if policy.grouping == "ragged" and first:
        assert seconds(policy, batch.chunk, len(batch.sequences)) <= 2 * seconds(
            policy, max(batch.chunk, policy.max_chunk), len(first)
        ) + seconds(policy, batch.chunk, 1)
    if not left_first and policy.grouping != "ragged":
        assert len(batch.sequences) == min(limit, len(live))


def seconds(policy: Policy, chunk: int, rows: int) -> float:
    cost = policy.cost
    return cost.run + cost.row * rows + chunk * (cost.step + cost.row_step * rows)


def rank(one: Sequence) -> tuple[int, int, float]:
    return one.priority, (one.cursor // 256).bit_length(), one.deadline


@given(policy=policies, arriving=st.lists(arrivals, min_size=1, max_size=40))
def test_every_sequence_is_finished_once_and_whole(policy: Policy, arriving: list[Arrival]) -> None:
    seen, every = simulate(policy, arriving)
    assert sorted(map(id, seen.done)) == sorted(map(id, every))
    assert all(one.error is None and one.cursor == one.length for one in every)


@given(policy=policies, arriving=st.lists(hurried, min_size=1, max_size=40))
def test_what_is_late_or_given_up_is_handed_back_once_with_its_error(policy: Policy, arriving: list[Arrival]) -> None:
    seen, every = simulate(policy, arriving)
    assert sorted(map(id, seen.done)) == sorted(map(id, every))
    for one, each in zip(arriving, every, strict=True):
        if each.error is None:
            assert each.cursor == each.length
        else:
            assert isinstance(each.error, DeadlineExceeded)
            assert each.remaining and (one.deadline < inf or one.cancelled_at < inf)


@given(policy=policies, arriving=st.lists(blocks, min_size=1, max_size=40))
def test_blocks_run_alone_and_every_sequence_is_handed_back_once(policy: Policy, arriving: list[Arrival]) -> None:
    seen, every = simulate(policy, arriving)
    assert sorted(map(id, seen.done)) == sorted(map(id, every))
    assert all(one.error is not None or one.cursor == one.length for one in every)


@given(
    policy=policies,
    loads=st.lists(st.integers(1, 500), min_size=1, max_size=40),
)
def test_the_counters_of_waiting_and_running_add_up(policy: Policy, loads: list[int]) -> None:
    scheduler = Scheduler(policy)
    for length in loads:
        scheduler.add(sequence(length))
    assert (scheduler.num_waiting, scheduler.num_running) == (len(loads), 0)
    finished = 0
    while len(scheduler):
        finished += len(scheduler.update(scheduler.schedule(0.0)))
        assert scheduler.num_waiting + scheduler.num_running == len(scheduler) == len(loads) - finished


def iterations_until_done(scheduler: Scheduler, one: Sequence, limit: int = 10_000) -> int:
    for iteration in range(1, limit):
        if one in scheduler.update(scheduler.schedule(0.0)):
            return iteration
    raise AssertionError("never done")


@pytest.mark.parametrize("max_batch", [1, 2, 4, 16])
@pytest.mark.parametrize("returns", ["final", "steps"])
def test_a_short_sequence_does_not_wait_for_long_ones_that_run(max_batch: int, returns: str) -> None:
    scheduler = Scheduler(Policy(max_batch=max_batch, max_chunk=64))
    long = [sequence(10_000, returns=returns) for _ in range(4)]
    for one in long:
        scheduler.add(one)
    while any(one.cursor < 256 for one in long):
        scheduler.update(scheduler.schedule(0.0))
    short = sequence(10)
    scheduler.add(short)
    assert iterations_until_done(scheduler, short) <= 2


@pytest.mark.parametrize("max_batch", [1, 2, 4, 16])
def test_a_short_sequence_that_arrives_right_behind_long_ones_is_soon_done(max_batch: int) -> None:
    policy = Policy(max_batch=max_batch, max_chunk=64)
    scheduler, alone = Scheduler(policy), Scheduler(policy)
    for _ in range(4):
        scheduler.add(sequence(10_000))
        alone.add(sequence(10_000))
    short = sequence(10)
    scheduler.add(short)
    batch = alone.schedule(0.0)
    assert batch is not None
    # Four long ones may take their first 256 steps before it, in runs that are short because they end nothing. One row
    # a run, or every eighth run of a single row, is for what was served most.
    rows = max_batch - 1 if max_batch > 1 else 7 / 8
    assert iterations_until_done(scheduler, short) <= 2 + 4 * ceil(256 / batch.chunk) / rows


@pytest.mark.parametrize("max_batch", [1, 2, 4])
def test_a_long_sequence_goes_on_however_much_that_is_short_arrives(max_batch: int) -> None:
    scheduler = Scheduler(Policy(max_batch=max_batch, max_chunk=64))
    long = sequence(5_000)
    scheduler.add(long)
    for _ in range(2_000):
        while len(scheduler) < 3 * max_batch:
            scheduler.add(sequence(10))
        if long in scheduler.update(scheduler.schedule(0.0)):
            return
    raise AssertionError(f"it stopped at step {long.cursor}")


def test_a_short_sequence_does_not_wait_for_the_blocks_of_a_forecast() -> None:
    scheduler = Scheduler(Policy(max_batch=16, max_chunk=64))
    for number in range(16):
        scheduler.add(sequence(500, rows=64, place=64 * number, keep_trace=True))  # one step a run
    short = sequence(10)
    scheduler.add(short)
    # The first block may take its first 256 steps, in four runs of 64 rows.
    assert iterations_until_done(scheduler, short) <= 5


@pytest.mark.parametrize("first", [60, 1])
def test_of_a_block_and_short_sequences_neither_keeps_the_other_waiting(first: int) -> None:
    scheduler = Scheduler(Policy(max_batch=16, max_chunk=64))
    long = sequence(200, rows=61 - first, keep_trace=True)
    scheduler.add(long)
    for iteration in range(10_000):
        while len(scheduler) < 30:
            scheduler.add(sequence(10, rows=first))
        if long in scheduler.update(scheduler.schedule(0.0)):
            assert iteration <= 8 * long.length + 2
            return
    raise AssertionError(f"it stopped at step {long.cursor}")


@given(remaining=st.lists(st.integers(1, 400), min_size=1, max_size=16), max_chunk=st.integers(1, 128))
def test_a_chunk_ends_where_a_row_ends_and_is_short_where_none_can(remaining: list[int], max_chunk: int) -> None:
    policy = Policy(max_batch=16, max_chunk=max_chunk)
    scheduler = Scheduler(policy)
    for steps in remaining:
        scheduler.add(sequence(steps))
    batch = scheduler.schedule(0.0)
    assert batch is not None
    rows = len(remaining)
    if min(remaining) <= max_chunk:
        assert batch.chunk in remaining or seconds(policy, batch.chunk, rows) <= 2 * seconds(policy, 0, rows)
    elif min(remaining) <= 4 * max_chunk:
        assert batch.chunk == max_chunk
    else:
        assert batch.chunk <= max_chunk
        assert batch.chunk == 1 or seconds(policy, batch.chunk, rows) <= 4 * seconds(policy, 0, rows)


@pytest.mark.parametrize(
    ("lengths", "chosen"),
    [
        ((30, 29, 31, 33, 5, 7, 60, 200), [30, 29, 31, 33]),
        # What is longer and came early, rather than the closest; but not what is much shorter, which would be padded,
        ((30, 5, 90, 29, 7, 200, 31, 33), [30, 90, 29, 200]),
        # unless a row would be empty.
        ((30, 5, 7, 29, 6, 3), [30, 5, 7, 29]),
        ((30, 30, 30, 30, 30, 30, 30, 30), [30, 30, 30, 30]),
    ],
)
def test_a_batch_takes_what_came_early_and_is_not_much_shorter(lengths: tuple[int, ...], chosen: list[int]) -> None:
    scheduler = Scheduler(Policy(max_batch=4))
    every = [sequence(steps) for steps in lengths]
    for one in every:
        scheduler.add(one)
    batch = scheduler.schedule(0.0)
    assert batch is not None
    assert sorted(one.length for one in batch.sequences) == sorted(chosen)
    assert batch.sequences[0] is every[0]
    if len(set(lengths)) == 1:
        assert batch.sequences == every[:4]


def test_the_first_is_never_passed_over() -> None:
    scheduler = Scheduler(Policy(max_batch=2))
    odd = sequence(200)
    scheduler.add(odd)
    for _ in range(200):
        while len(scheduler) < 20:
            scheduler.add(sequence(3))
        if odd in scheduler.update(scheduler.schedule(0.0)):
            return
    raise AssertionError(f"it stopped at step {odd.cursor}")


@pytest.mark.parametrize("served", [0, 1_000])
def test_long_ones_go_along_with_a_short_one_and_do_not_hold_it_up(served: int) -> None:
    policy = Policy(max_batch=64, max_chunk=64)
    scheduler = Scheduler(policy)
    for _ in range(40):
        long = sequence(10_000)
        long.served = served
        scheduler.add(long)
    short = sequence(10)
    scheduler.add(short)
    batch = scheduler.schedule(0.0)
    assert batch is not None
    assert short in batch.sequences
    assert batch.chunk == 10
    if served:
        assert seconds(policy, 10, len(batch.sequences)) <= 2 * seconds(policy, 10, 1) + seconds(policy, 10, 1)
        assert len(batch.sequences) > 1


def test_sequences_run_whole_share_a_batch_with_their_like_only() -> None:
    scheduler = Scheduler(Policy(chunked=False))
    for length in (100, 10, 90, 11, 1000, 95):
        scheduler.add(sequence(length))
    batches = []
    while len(scheduler):
        batch = scheduler.schedule(0.0)
        batches.append(sorted(one.length for one in batch.sequences))
        scheduler.update(batch)
    assert batches == [[90, 95, 100], [10, 11], [1000]]


def test_a_lower_priority_number_and_then_an_earlier_deadline_goes_first() -> None:
    scheduler = Scheduler(Policy(max_batch=1))
    names = {}
    for name, fields in {
        "plain": {},
        "late": {"deadline": 200.0},
        "early": {"deadline": 100.0},
        "background": {"priority": 1, "deadline": 10.0},
        "urgent": {"priority": -1},
    }.items():
        one = sequence(5, **fields)
        names[id(one)] = name
        scheduler.add(one)
    order = []
    while len(scheduler):
        order += [names[id(one)] for one in scheduler.update(scheduler.schedule(0.0))]
    assert order == ["urgent", "early", "late", "plain", "background"]


# Several callers


@given(policy=policies, arriving=st.lists(shared, min_size=1, max_size=40))
def test_callers_share_every_run_that_has_room_and_nothing_is_lost(policy: Policy, arriving: list[Arrival]) -> None:
    seen, every = simulate(policy, arriving)
    assert sorted(map(id, seen.done)) == sorted(map(id, every))
    assert all(one.error is not None or one.cursor == one.length for one in every)


@given(
    policy=policies,
    queued=st.lists(st.builds(replace, blocks, party=st.sampled_from([b"a", b"b", b"c"])), max_size=60),
    num_runs=st.integers(0, 30),
    more=st.booleans(),
)
def test_a_caller_with_one_short_sequence_waits_for_one_run_of_each_other(
    policy: Policy, queued: list[Arrival], num_runs: int, more: bool
) -> None:
    scheduler = Scheduler(policy)
    for one in queued:
        scheduler.add(sequence(one.length, returns=one.returns, rows=one.rows, party=one.party))
    for _ in range(num_runs):
        scheduler.update(scheduler.schedule(0.0))
    others = {one.party for one in queued} | ({b"d"} if more else set())
    # The second time it has been served before, and goes after who was served less.
    for time in range(2):
        light = sequence(1, party=b"light")
        scheduler.add(light)
        most = len(others) + time + 1
        for _ in range(most):
            if more:  # others that come again and again, and go at once
                scheduler.add(sequence(1, party=b"d"))
            if light in scheduler.update(scheduler.schedule(0.0)):
                break
        else:
            raise AssertionError(f"it was passed over {most} times")


@pytest.mark.parametrize("max_batch", [1, 4, 16])
def test_two_callers_with_much_work_get_the_same_however_they_send_it(max_batch: int) -> None:
    policy = Policy(max_batch=max_batch, max_chunk=64)
    scheduler = Scheduler(policy)
    early = [sequence(1_000, party=b"early") for _ in range(2_000)]
    for one in early:
        scheduler.add(one)
    for _ in range(50):
        scheduler.update(scheduler.schedule(0.0))
    used = dict.fromkeys((b"early", b"late"), 0.0)
    for _ in range(400):
        while sum(one.num_queued for party, one in scheduler._lanes.items() if party == b"late") < 2 * max_batch:
            scheduler.add(sequence(100, party=b"late"))
        batch = scheduler.schedule(0.0)
        assert batch is not None
        for one in batch.sequences:
            used[one.party] += seconds(policy, batch.chunk, len(batch.sequences)) / len(batch.sequences)
        scheduler.update(batch)
    assert used[b"late"] == pytest.approx(used[b"early"], rel=0.1)


def test_runs_are_short_once_callers_share_a_model_and_long_again_later() -> None:
    """A caller that comes waits for the run under way."""
    scheduler = Scheduler(Policy(max_batch=64))
    cost = scheduler.policy.cost

    def seconds_of_next() -> float:
        batch = scheduler.schedule(0.0)
        assert batch is not None
        scheduler.update(batch)
        return cost.run_seconds(len(batch.sequences), batch.chunk)

    for _ in range(64):
        scheduler.add(sequence(200, party=b"heavy"))
    assert seconds_of_next() > 2 * _SHARED_SECONDS
    scheduler.add(sequence(3, party=b"light"))
    for _ in range(5):
        assert seconds_of_next() <= 2 * _SHARED_SECONDS
    for _ in range(_SHARED_RUNS):
        scheduler.add(sequence(1, party=b"heavy"))
        seconds_of_next()
    for _ in range(64):
        scheduler.add(sequence(200, party=b"heavy"))
    assert seconds_of_next() > 2 * _SHARED_SECONDS


@given(policies, st.lists(shared, max_size=30), st.integers(0, 300))
def test_sequences_that_are_added_together_are_run_as_if_one_by_one(
    policy: Policy, arriving: list[Arrival], number: int
) -> None:
    fields = "returns", "priority", "deadline", "rows", "party"
    batches: list[list[tuple[list[int], list[int]]]] = []
    for together in (False, True):
        scheduler = Scheduler(policy)
        every = [sequence(one.length, **{name: getattr(one, name) for name in fields}) for one in arriving]
        many = [sequence(1 + place % 7, party=b"a", place=place) for place in range(number)]
        places = {id(one): place for place, one in enumerate([*every, *many])}
        for group in (every, many):
            if together and group:
                scheduler.add_many(group)
            else:
                for each in group:
                    scheduler.add(each)
        seen = []
        while (batch := scheduler.schedule(0.0)) is not None:
            seen.append(([places[id(one)] for one in batch.sequences], batch.counts))
            scheduler.update(batch)
        batches.append(seen)
    assert batches[0] == batches[1]
