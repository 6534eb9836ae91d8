"""The engine thread with real queues: what is submitted is answered once, in the order of its request."""

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from elman.engine.engine import Engine
from elman.engine.pending import AwaitedRequest, PendingRequest
from elman.engine.queue import ModelQueue
from elman.engine.scheduler import Policy
from elman.engine.sequence import Sequence
from elman.errors import DeadlineExceeded, Draining, ElmanError, Internal, OutcomeUnknown, Overloaded
from elman.repository.calibration import Calibration
from tests.reference import Array, expected, model, same_bits
from tests.waiting import assert_undisturbed

NAME = "vowels-gru"


def features(length: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal((length, 12)).astype(np.float32)


def check_exact(sequence: Sequence, name: str = NAME) -> None:
    assert sequence.error is None
    assert same_bits(np.concatenate(sequence.outputs), expected(name, sequence.inputs)[-1:])


def test_many_callers_at_once_each_get_their_own_answers() -> None:
    queues = {
        name: ModelQueue(model(name), Policy()) for name in ("vowels-gru", "vowels-lstm", "vowels-lstm-bidirectional")
    }
    queues["vowels-lstm-bidirectional"].scheduler.policy = Policy(chunked=False)

    async def call(engine: Engine, index: int) -> tuple[str, list[Sequence]]:
        await asyncio.sleep(0.0005 * (index % 17))
        name = list(queues)[index % 3]
        mine = [Sequence(features(1 + (7 * index + 3 * i) % 90, seed=100 * index + i)) for i in range(1 + index % 4)]
        answered = await engine.submit(queues[name], mine).future
        assert all(one is other for one, other in zip(answered, mine, strict=True))
        return name, answered

    async def run() -> list[tuple[str, list[Sequence]]]:
        engine = Engine(10_000)
        engine.start(asyncio.get_running_loop())
        try:
            return await asyncio.gather(*(call(engine, i) for i in range(150)))
        finally:
            assert engine.num_pending == 0
            engine.close()

    for name, answered in asyncio.run(run()):
        for sequence in answered:
            check_exact(sequence, name)
    total = sum(queue.stats.num_sequences for queue in queues.values())
    assert total == sum(1 + i % 4 for i in range(150))


def test_a_short_sequence_is_done_long_before_a_long_one() -> None:
    async def num_runs() -> int:
        queue, engine = ModelQueue(model(NAME), Policy(max_batch=4)), Engine(100)
        engine.start(asyncio.get_running_loop())
        long = [engine.submit(queue, [Sequence(features(50_000, i))]) for i in range(4)]
        while not queue.stats.num_runs:
            await asyncio.sleep(0.001)
        runs = queue.stats.num_runs
        await engine.submit(queue, [Sequence(features(10))]).future
        assert not any(ticket.future.done() for ticket in long)
        runs = queue.stats.num_runs - runs
        for ticket in long:
            ticket.cancel()
        await engine.drain(60.0)
        engine.close()
        return runs

    # The one that was under way, its own, and those until the loop here wakes up: time, so a loose bound.
    assert_undisturbed(lambda: asyncio.run(num_runs()), lambda number: number < 400)


def test_a_drained_engine_has_answered_all_and_takes_no_more() -> None:
    queue = ModelQueue(model(NAME), Policy())

    async def run() -> None:
        engine = Engine(100)
        engine.start(asyncio.get_running_loop())
        ticket = engine.submit(queue, [Sequence(features(5_000, i)) for i in range(10)])
        await engine.drain(60.0)
        assert ticket.future.done() and engine.num_pending == 0
        with pytest.raises(Draining):
            engine.submit(queue, [Sequence(features(1))])
        engine.close()
        for sequence in ticket.future.result():
            check_exact(sequence)

    asyncio.run(run())


def test_what_is_queued_when_the_engine_closes_is_told() -> None:
    queue = ModelQueue(model(NAME), Policy())

    async def run() -> None:
        engine = Engine(100)
        engine.start(asyncio.get_running_loop())
        tickets = [engine.submit(queue, [Sequence(features(200_000, i))]) for i in range(3)]
        await engine.drain(0.05)
        engine.close()
        assert not engine.alive
        for ticket in tickets:
            # One whose run was stopped is done, with that error.
            with pytest.raises(Draining):
                (sequence,) = await asyncio.wait_for(ticket.future, 60.0)
                raise sequence.error or AssertionError("200,000 steps are done")

    asyncio.run(run())


async def with_a_step_at_the_store() -> tuple[Engine, AwaitedRequest, threading.Event]:
    """An engine, a step that its store has begun to write, and what lets the store go on."""
    begun, go_on = threading.Event(), threading.Event()

    def commit(sequences: list[Sequence]) -> None:
        begun.set()
        assert go_on.wait(60.0)

    engine = Engine(100, commit=commit)
    engine.start(asyncio.get_running_loop())
    ticket = engine.submit(ModelQueue(model(NAME), Policy()), [Sequence(features(5), save=object())])
    assert await asyncio.to_thread(begun.wait, 60.0)
    return engine, ticket, go_on


@pytest.mark.parametrize("written", [True, False])
def test_a_step_that_is_with_the_store_when_the_engine_closes_is_never_told_to_be_undone(
    written: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        engine, ticket, go_on = await with_a_step_at_the_store()
        await engine.drain(0.0)
        if written:
            monkeypatch.setattr("elman.engine.engine._JOIN_SECONDS", 60.0)
            go_on.set()
        engine.close()
        answer = asyncio.wait_for(ticket.future, 60.0)
        if written:
            check_exact(*(await answer))
        else:
            with pytest.raises(OutcomeUnknown):
                await answer
        go_on.set()

    asyncio.run(run())


def test_a_step_that_is_written_just_after_the_engine_closed_is_not_told_to_be_undone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def run() -> None:
        engine, ticket, go_on = await with_a_step_at_the_store()
        monkeypatch.setattr("elman.engine.engine._JOIN_SECONDS", 0.01)
        saver = engine._saver
        assert saver is not None
        engine.close()
        go_on.set()
        for thread in saver._threads:  # all is written before the next turn of the event loop
            thread.join(60.0)
        assert not saver.held
        with pytest.raises(OutcomeUnknown):
            await asyncio.wait_for(ticket.future, 60.0)

    asyncio.run(run())


@pytest.mark.parametrize("served", [0, 1])
def test_an_engine_that_is_closed_takes_nothing_also_not_what_goes_on(served: int) -> None:
    queue = Watched()

    async def run() -> None:
        engine = Engine(100)
        engine.start(asyncio.get_running_loop())
        engine.close()
        with pytest.raises(Draining):
            engine.submit(queue, [Sequence(features(5), served=served)])

    asyncio.run(run())


def test_a_deadline_is_kept_while_others_go_on() -> None:
    queue = ModelQueue(model(NAME), Policy())

    async def run() -> None:
        engine = Engine(100)
        engine.start(asyncio.get_running_loop())
        late = engine.submit(queue, [Sequence(features(5), deadline=-1.0)])
        fine = engine.submit(queue, [Sequence(features(500, 1))])
        (one,) = await late.future
        assert isinstance(one.error, DeadlineExceeded) and not one.cursor
        (other,) = await fine.future
        check_exact(other)
        engine.close()

    asyncio.run(run())


def test_a_request_that_does_not_fit_the_queue_is_refused_whole() -> None:
    queue = ModelQueue(model(NAME), Policy())

    async def run() -> None:
        engine = Engine(4)
        engine.start(asyncio.get_running_loop())
        with pytest.raises(Overloaded) as refused:
            engine.submit(queue, [Sequence(features(1)) for _ in range(5)])
        assert refused.value.headers == {"retry-after": "1"}
        assert engine.num_pending == 0
        await engine.submit(queue, [Sequence(features(1)) for _ in range(4)]).future
        engine.close()

    asyncio.run(run())
    assert queue.stats.num_sequences == 4


def test_what_goes_on_is_let_in_where_the_queue_is_full() -> None:
    """Such as the next step of a beam search, of which all counted when it began."""
    queue = ModelQueue(model(NAME), Policy())

    async def run() -> None:
        engine = Engine(2)
        engine.start(asyncio.get_running_loop())
        others = engine.submit(queue, [Sequence(features(1)) for _ in range(2)])
        with pytest.raises(Overloaded):
            engine.submit(queue, [Sequence(features(1))])
        (one,) = await engine.submit(queue, [Sequence(features(1), served=3)]).future
        check_exact(one)
        await others.future
        engine.close()

    asyncio.run(run())


def test_work_is_refused_by_what_it_costs_and_let_in_where_there_is_nothing_else() -> None:
    queue = ModelQueue(model(NAME), Policy())
    seconds = queue.seconds([Sequence(features(1_000))])

    async def run() -> None:
        engine = Engine(100, max_queue_seconds=1.5 * seconds)
        engine.start(asyncio.get_running_loop())
        first = engine.submit(queue, [Sequence(features(2_000))])
        assert engine.pending_seconds > 1.5 * seconds
        with pytest.raises(Overloaded, match="seconds of work"):
            engine.submit(queue, [Sequence(features(1))])
        check_exact((await first.future)[0])
        assert engine.pending_seconds == 0.0
        await engine.submit(queue, [Sequence(features(1_000))]).future
        engine.close()

    asyncio.run(run())


@given(sizes=st.lists(st.lists(st.integers(1, 80), min_size=1, max_size=5), min_size=1, max_size=12))
def test_the_slots_of_state_are_all_given_back(sizes: list[list[int]]) -> None:
    queue = ModelQueue(model(NAME), Policy(max_batch=3, max_chunk=8))
    sequences = [Sequence(features(length)) for each in sizes for length in each]
    for index, sequence in enumerate(sequences):
        sequence.cancelled = index % 5 == 4
        queue.scheduler.add(sequence)
    while len(queue.scheduler):
        queue.iterate(0.0)
        assert queue.runner.num_slots <= len(sequences)
    assert queue.runner.num_slots == 0
    assert queue.stats.num_failed == 0  # nobody waits for what was cancelled, so it is no failure


# Where a run is made


class Watched(ModelQueue):
    """A queue that notes on which thread it iterates."""

    def __init__(self, policy: Policy | None = None) -> None:
        super().__init__(model(NAME), policy or Policy(cost=model(NAME).calibration))
        self.threads: list[str] = []

    def iterate(self, now: float) -> tuple[list[Sequence], list[Sequence]]:
        self.threads.append(threading.current_thread().name)
        return super().iterate(now)


HERE, THERE = threading.main_thread().name, "elman-engine"


def served_by(queue: Watched, *requests: list[Sequence], **options: Any) -> list[list[Sequence]]:
    """The answers to requests that arrive together, whose errors stay on the sequences."""

    async def run() -> list[list[Sequence]]:
        engine = Engine(1_000, **options)
        engine.start(asyncio.get_running_loop())
        try:
            tickets = [engine.submit(queue, request) for request in requests]
            return await asyncio.gather(*(ticket.future for ticket in tickets))
        finally:
            assert engine.num_pending == 0
            engine.close()

    return asyncio.run(run())


def test_what_is_light_runs_where_it_arrived() -> None:
    queue = Watched()
    for sequences in served_by(queue, [Sequence(features(5))], [Sequence(features(5, 1))]):
        check_exact(sequences[0])
    assert set(queue.threads) == {HERE}


HEAVY: dict[str, Callable[[], list[list[Sequence]]]] = {
    "many requests": lambda: [[Sequence(features(3, i))] for i in range(9)],
    "a long sequence": lambda: [[Sequence(features(65))]],
    "every step": lambda: [[Sequence(features(5), returns="steps")]],
    "a trace": lambda: [[Sequence(features(5), keep_trace=True)]],
}


@pytest.mark.parametrize("what", HEAVY)
def test_what_is_not_light_runs_on_the_engine_thread(what: str) -> None:
    queue = Watched()
    served_by(queue, *HEAVY[what]())
    assert set(queue.threads) == {THERE}


def test_what_takes_long_by_its_calibration_runs_on_the_engine_thread() -> None:
    queue = Watched(Policy(cost=Calibration(run=1e-3)))
    served_by(queue, [Sequence(features(5))])
    assert set(queue.threads) == {THERE}


def test_what_a_light_run_leaves_is_handed_over() -> None:
    # One of them can end in a run that is worth its while, and the run ends with it.
    queue = Watched(Policy(max_chunk=64, cost=Calibration(run=1e-7, row=1e-7, step=1e-6, row_step=1e-6)))
    short, long = served_by(queue, [Sequence(features(2))], [Sequence(features(60, 1))])
    check_exact(short[0])
    check_exact(long[0])
    assert queue.threads[0] == HERE and THERE in queue.threads


@pytest.mark.parametrize(("num_savers", "thread"), [(2, "elman-saver"), (1, "elman-saver"), (0, HERE)])
def test_what_a_light_run_saves_is_written_where_nothing_waits_for_it(num_savers: int, thread: str) -> None:
    queue, saved = Watched(), []

    def commit(sequences: list[Sequence]) -> None:
        saved.append((threading.current_thread().name, sequences))

    ((sequence,),) = served_by(queue, [Sequence(features(5), save=object())], commit=commit, num_savers=num_savers)
    assert saved == [(thread, [sequence])] and set(queue.threads) == {HERE}


def test_a_light_run_that_cannot_save_fails_alone() -> None:
    def commit(sequences: list[Sequence]) -> None:
        raise RuntimeError("no room")

    saving, plain = served_by(
        Watched(), [Sequence(features(5), save=object())], [Sequence(features(5))], commit=commit, num_savers=0
    )
    assert isinstance(saving[0].error, Internal)
    check_exact(plain[0])


def test_what_is_cancelled_or_late_before_it_is_passed_on_is_given_up() -> None:
    late, cancelled, live = (
        Sequence(features(5), deadline=0.0),
        Sequence(features(5), cancelled=True),
        Sequence(features(5)),
    )
    served_by(Watched(), [late], [cancelled], [live])
    assert isinstance(late.error, DeadlineExceeded) and isinstance(cancelled.error, DeadlineExceeded)
    check_exact(live)


def test_what_arrives_as_the_engine_closes_is_told() -> None:
    queue = Watched()

    async def run() -> None:
        engine = Engine(100)
        engine.start(asyncio.get_running_loop())
        ticket = engine.submit(queue, [Sequence(features(5))])
        engine.close()
        await asyncio.sleep(0.01)
        with pytest.raises(Draining):
            await ticket.future
        assert not queue.threads

    asyncio.run(run())


@pytest.mark.parametrize("length", [5, 500])
def test_a_request_is_let_go_without_a_search_for_cycles(length: int) -> None:
    gc.disable()
    try:
        inputs = features(length)
        gone = weakref.ref(inputs)
        served_by(Watched(), [Sequence(inputs)])
        del inputs
        assert gone() is None
    finally:
        gc.enable()


class Noted(PendingRequest):
    """A request that notes its party when it is answered."""

    def __init__(self, queue: ModelQueue, sequence: Sequence, party: bytes, note: Callable[[bytes], None]) -> None:
        super().__init__(queue, [sequence])
        self.party, self._note = party, note

    def finish(self, error: ElmanError | None) -> None:
        assert error is None
        self._note(self.party)


def test_with_several_parties_a_few_answers_leave_at_a_time_and_first_those_of_parties_with_few() -> None:
    queue = ModelQueue(model(NAME), Policy(max_batch=64))
    # The parties that were answered, by the iteration of the event loop.
    answered: list[list[bytes]] = [[]]

    async def run() -> None:
        engine = Engine(1_000)
        engine.start(asyncio.get_running_loop())
        for index, party in enumerate([b"heavy"] * 40 + [b"light"]):
            engine.begin(Noted(queue, Sequence(features(9, index)), party, lambda party: answered[-1].append(party)))
        while sum(map(len, answered)) < 41:
            await asyncio.sleep(0)
            answered.append([])
        engine.close()

    asyncio.run(run())
    assert 1 <= max(map(len, answered)) <= 8
    first = next(group for group in answered if group)
    assert b"light" in first


class Unanswered(Noted):
    """A request whose engine is closed before it could answer."""

    def __init__(self, queue: ModelQueue, sequence: Sequence, party: bytes) -> None:
        super().__init__(queue, sequence, party, lambda party: None)

    def finish(self, error: ElmanError | None) -> None:
        assert isinstance(error, Draining)


def test_one_of_several_parties_with_nothing_else_to_run_does_not_wait_for_the_event_loop() -> None:
    queue = ModelQueue(model(NAME), Policy(max_batch=4))

    async def run() -> bool:
        engine = Engine(1_000)
        engine.start(asyncio.get_running_loop())
        engine.begin(Unanswered(queue, Sequence(features(200_000)), b"heavy"))
        while not queue.stats.num_runs:
            await asyncio.sleep(0.001)
        light = Sequence(features(9))
        until = time.monotonic() + 60
        while not any(thread.running for thread in engine._threads) and time.monotonic() < until:
            pass  # the thread is between two runs
        engine.begin(Unanswered(queue, light, b"light"))
        while light.remaining and time.monotonic() < until:
            time.sleep(0.001)  # the event loop does nothing meanwhile
        engine.close()
        return not light.remaining

    assert asyncio.run(run())
