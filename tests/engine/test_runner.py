"""The states of sequences between their runs: where they lie, and that they are given back."""

import numpy as np
import pytest

from benchmarks.overhead import KINDS, PARTS, Bench
from elman.engine.queue import ModelQueue
from elman.engine.scheduler import Policy
from elman.engine.sequence import Sequence
from elman.repository.runtime import RuntimeFailure
from tests.reference import Array, expected, model, same_bits

NAME = "vowels-lstm"
STEPS = 8


def sequences(count: int, length: int = 3 * STEPS) -> list[Sequence]:
    generator = np.random.default_rng(count)
    return [Sequence(generator.standard_normal((length, 12)).astype(np.float32)) for _ in range(count)]


def queue_of(max_batch: int) -> ModelQueue:
    return ModelQueue(model(NAME), Policy(max_batch=max_batch, max_chunk=STEPS))


def run_all(queue: ModelQueue) -> list[Sequence]:
    done = []
    while len(queue.scheduler):
        done += queue.iterate(0.0)[0]
    return done


def test_the_states_of_a_batch_that_stays_together_are_neighbours_also_where_others_were_before() -> None:
    queue = queue_of(16)
    for count in (16, 5, 16):
        together = sequences(count)
        queue.add(together)
        queue.iterate(0.0)
        first = together[0].slot
        assert first and [one.slot for one in together] == list(range(first, first + count))
        assert set(run_all(queue)) == set(together)
        assert not queue.runner.num_slots
        for one in together:
            assert same_bits(np.concatenate(one.outputs), expected(NAME, one.inputs)[-1:])


@pytest.mark.parametrize("count", [1, 63, 64, 65, 200])
def test_more_new_sequences_than_there_are_initial_states_begin_at_the_same(count: int) -> None:
    queue = queue_of(count)
    together = sequences(count)
    queue.add(together)
    run_all(queue)
    for one in together:
        assert same_bits(np.concatenate(one.outputs), expected(NAME, one.inputs)[-1:])


def going_on(queue: ModelQueue, count: int, length: int = STEPS) -> tuple[list[Array], list[Sequence]]:
    """Whole inputs, and sequences of the second part of each, from the state after the first."""
    whole = [one.inputs for one in sequences(count, STEPS + length)]
    first = [Sequence(one[:STEPS], keep_state=True) for one in whole]
    queue.add(first)
    run_all(queue)
    states = [one.final_state for one in first]
    return whole, [Sequence(one[STEPS:], state=state) for one, state in zip(whole, states, strict=True)]


@pytest.mark.parametrize("length", [STEPS, 2 * STEPS + 1])
@pytest.mark.parametrize("num_new", [0, 3])
def test_sequences_go_on_from_given_states_also_beside_new_ones(length: int, num_new: int) -> None:
    queue = queue_of(16)
    whole, later = going_on(queue, 5, length)
    new = sequences(num_new, length)
    queue.add(later[:3] + new + later[3:])
    run_all(queue)
    for inputs, one in zip(whole + [one.inputs for one in new], later + new, strict=True):
        assert one.error is None and same_bits(np.concatenate(one.outputs), expected(NAME, inputs)[-1:])
    assert not queue.runner.num_slots


def test_given_states_are_not_lost_with_a_batch_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    queue = queue_of(16)
    whole, later = going_on(queue, 4)
    run = queue.runner._executor.run

    def one_by_one(data: Array, *arguments: object, **options: object) -> object:
        if len(data) > 1:
            raise RuntimeFailure("too many rows", None)
        return run(data, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(queue.runner._executor, "run", one_by_one)
    queue.add(later)
    run_all(queue)
    for inputs, one in zip(whole, later, strict=True):
        assert one.error is None and same_bits(np.concatenate(one.outputs), expected(NAME, inputs)[-1:])


def inputs(length: int) -> Array:
    return np.zeros((length, 12), np.float32)


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_engine_costs_is_measured_for_each_kind_of_sequence(kind: str) -> None:
    found = Bench(model(NAME), [inputs(length) for length in (3, 9, 30)], kind).measure(12)
    assert all(found[part] > 0 for part in PARTS)
    assert found["rows"] >= 1
