"""The engine thread with real lanes: what is submitted is answered once, in the order of its request."""

import asyncio

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.engine.engine import Engine, Lane
from service.engine.scheduler import Policy
from service.engine.sequence import Sequence
from service.errors import DeadlineExceeded, Draining, Overloaded
from tests.reference import Array, expected, model, same_bits

NAME = "vowels-gru"


def features(length: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal((length, 12)).astype(np.float32)


def check_exact(sequence: Sequence, name: str = NAME) -> None:
    assert sequence.error is None
    assert same_bits(np.concatenate(sequence.outputs), expected(name, sequence.inputs)[-1:])


def test_many_callers_at_once_each_get_their_own_answers() -> None:
    lanes = {name: Lane(model(name), Policy()) for name in ("vowels-gru", "vowels-lstm", "vowels-lstm-bidirectional")}
    lanes["vowels-lstm-bidirectional"].scheduler.policy = Policy(chunked=False)

    async def call(engine: Engine, index: int) -> tuple[str, list[Sequence]]:
        await asyncio.sleep(0.0005 * (index % 17))
        name = list(lanes)[index % 3]
        mine = [Sequence(features(1 + (7 * index + 3 * i) % 90, seed=100 * index + i)) for i in range(1 + index % 4)]
        answered = await engine.submit(lanes[name], mine).future
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
    total = sum(lane.figures.num_sequences for lane in lanes.values())
    assert total == sum(1 + i % 4 for i in range(150))


def test_a_short_sequence_is_done_long_before_a_long_one() -> None:
    lane = Lane(model(NAME), Policy(max_batch=4))

    async def run() -> None:
        engine = Engine(100)
        engine.start(asyncio.get_running_loop())
        long = [engine.submit(lane, [Sequence(features(50_000, i))]) for i in range(4)]
        while not lane.figures.num_runs:
            await asyncio.sleep(0.001)
        runs = lane.figures.num_runs
        await engine.submit(lane, [Sequence(features(10))]).future
        assert not any(ticket.future.done() for ticket in long)
        # The one that was under way, its own, and those until the loop here wakes up: time, so a loose bound.
        assert lane.figures.num_runs - runs < 400
        for ticket in long:
            ticket.cancel()
        await engine.drain(10.0)
        engine.close()

    asyncio.run(run())


def test_a_drained_engine_has_answered_all_and_takes_no_more() -> None:
    lane = Lane(model(NAME), Policy())

    async def run() -> None:
        engine = Engine(100)
        engine.start(asyncio.get_running_loop())
        ticket = engine.submit(lane, [Sequence(features(5_000, i)) for i in range(10)])
        await engine.drain(30.0)
        assert ticket.future.done() and engine.num_pending == 0
        with pytest.raises(Draining):
            engine.submit(lane, [Sequence(features(1))])
        engine.close()
        for sequence in ticket.future.result():
            check_exact(sequence)

    asyncio.run(run())


def test_what_is_queued_when_the_engine_closes_is_told() -> None:
    lane = Lane(model(NAME), Policy())

    async def run() -> None:
        engine = Engine(100)
        engine.start(asyncio.get_running_loop())
        tickets = [engine.submit(lane, [Sequence(features(200_000, i))]) for i in range(3)]
        await engine.drain(0.05)
        engine.close()
        assert not engine.alive
        for ticket in tickets:
            with pytest.raises(Draining):
                await asyncio.wait_for(ticket.future, 1.0)

    asyncio.run(run())


def test_a_deadline_is_kept_while_others_go_on() -> None:
    lane = Lane(model(NAME), Policy())

    async def run() -> None:
        engine = Engine(100)
        engine.start(asyncio.get_running_loop())
        late = engine.submit(lane, [Sequence(features(5), deadline=-1.0)])
        fine = engine.submit(lane, [Sequence(features(500, 1))])
        (one,) = await late.future
        assert isinstance(one.error, DeadlineExceeded) and not one.cursor
        (other,) = await fine.future
        check_exact(other)
        engine.close()

    asyncio.run(run())


def test_a_request_that_does_not_fit_the_queue_is_refused_whole() -> None:
    lane = Lane(model(NAME), Policy())

    async def run() -> None:
        engine = Engine(4)
        engine.start(asyncio.get_running_loop())
        with pytest.raises(Overloaded) as refused:
            engine.submit(lane, [Sequence(features(1)) for _ in range(5)])
        assert refused.value.headers == {"retry-after": "1"}
        assert engine.num_pending == 0
        await engine.submit(lane, [Sequence(features(1)) for _ in range(4)]).future
        engine.close()

    asyncio.run(run())
    assert lane.figures.num_sequences == 4


@settings(max_examples=25)
@given(sizes=st.lists(st.lists(st.integers(1, 80), min_size=1, max_size=5), min_size=1, max_size=12))
def test_the_slots_of_state_are_all_given_back(sizes: list[list[int]]) -> None:
    lane = Lane(model(NAME), Policy(max_batch=3, max_chunk=8))
    sequences = [Sequence(features(length)) for each in sizes for length in each]
    for index, sequence in enumerate(sequences):
        sequence.cancelled = index % 5 == 4
        lane.scheduler.add(sequence)
    while len(lane.scheduler):
        lane.iterate(0.0)
        assert lane.runner.num_slots <= len(sequences)
    assert lane.runner.num_slots == 0
    assert lane.figures.num_failed == 0  # nobody waits for what was cancelled, so it is no failure
