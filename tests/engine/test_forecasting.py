"""What a forecast feeds back: the last output in the data's units, on the features that it is, beside what is known."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elman.engine.forecasting import ForecastPlan, PathBlock, path_blocks
from elman.engine.queue import ModelQueue
from elman.engine.scheduler import Policy
from elman.engine.sequence import Sequence
from tests.looping import Mix
from tests.reference import Array, expected, model, same_bits

NAME = "vowels-gru"


def plan(horizon: int = 3, **options: Any) -> ForecastPlan:
    fields: dict[str, Any] = {
        "future": np.full((horizon - 1, 4), -1.0, np.float32),
        "target": (2, 0),
        "mean": np.array([10.0, 20.0]),
        "std": np.array([2.0, 0.5]),
        "input_mean": np.zeros(2),
        "input_std": np.ones(2),
        "residuals": np.zeros((0, 2)),
        "minimum": None,
        "seed": 5,
    }
    return ForecastPlan(horizon, **fields | options)


def one_path(plan: ForecastPlan, number: int | None = None) -> PathBlock:
    """A block of one path; without a number of the point forecast."""
    numbers = np.array([number or 0], np.uint64)
    return PathBlock(plan, numbers, np.zeros((1, plan.horizon, len(plan.mean))), number is None)


def feed(block: PathBlock, outputs: list[list[float]]) -> Array | None:
    return block.take(np.array(outputs, np.float32))


def test_a_value_is_read_next_on_its_own_features_and_what_is_known_stands_beside_it() -> None:
    future = np.arange(8, dtype=np.float32).reshape(2, 4)
    path = one_path(plan(future=future))
    first = feed(path, [[1.0, 2.0]])
    assert first is not None and first.tolist() == [[21.0, 1.0, 12.0, 3.0]]
    second = feed(path, [[0.0, 0.0]])
    assert second is not None and second.tolist() == [[20.0, 5.0, 10.0, 7.0]]
    assert feed(path, [[-1.0, -2.0]]) is None
    assert path.values[0].tolist() == [[12.0, 21.0], [10.0, 20.0], [8.0, 19.0]]
    assert future.tolist() == np.arange(8).reshape(2, 4).tolist(), "the plan is shared by all paths"


def test_a_path_adds_the_residuals_that_its_seed_draws_and_the_point_forecast_none() -> None:
    residuals = np.array([[1.0, -1.0], [2.0, -2.0], [4.0, -4.0]])
    shared, values = plan(horizon=4, residuals=residuals), np.zeros((4, 4, 2))
    for block in path_blocks(shared, 7, values, 3):
        for _ in range(4):
            feed(block, [[0.0, 0.0]] * len(block.numbers))
    assert values[0].tolist() == [[10.0, 20.0]] * 4
    for path in range(3):
        drawn = [residuals[int(3 * Mix(5).uniform(7 + path, step))] for step in range(4)]
        assert values[1 + path].tolist() == [[10.0 + up, 20.0 + down] for up, down in drawn]


def test_values_are_held_at_the_minimum_before_they_are_read_again() -> None:
    path = one_path(plan(minimum=9.0, residuals=np.array([[-50.0, -50.0]])), 1)
    inputs = feed(path, [[0.0, 0.0]])
    assert inputs is not None and inputs[0, [2, 0]].tolist() == [9.0, 9.0]
    assert path.values[0, 0].tolist() == [9.0, 9.0]


@pytest.mark.parametrize("rows, max_rows, sizes", [(1, 64, [1]), (1001, 512, [501, 500]), (3, 1, [1, 1, 1])])
def test_blocks_are_of_about_the_same_size(rows: int, max_rows: int, sizes: list[int]) -> None:
    values = np.zeros((rows, 3, 2))
    blocks = path_blocks(plan(), 5, values, max_rows)
    assert [len(block.numbers) for block in blocks] == sizes
    assert [block.has_point for block in blocks] == [True] + [False] * (len(sizes) - 1)
    assert np.concatenate([block.numbers for block in blocks])[1:].tolist() == list(range(5, 4 + rows))
    assert all(np.shares_memory(block.values, values) for block in blocks)


@settings(deadline=None, max_examples=20)
@given(
    paths=st.integers(0, 70),
    max_rows=st.integers(1, 70),
    window=st.booleans(),
    company=st.lists(st.integers(1, 60), max_size=6),
    max_batch=st.integers(1, 16),
)
def test_a_path_has_the_same_bits_in_any_block_and_in_any_company(
    paths: int, max_rows: int, window: bool, company: list[int], max_batch: int
) -> None:
    policy = Policy(max_batch=max_batch, max_chunk=7)
    others = [Sequence(features(length, seed=length)) for length in company]
    together = forecast(paths, max_rows, window, policy, others)
    assert same_bits(together, forecast(paths, 1, window, Policy(max_batch=1), []))
    for other in others:
        assert same_bits(other.outputs[-1], expected(NAME, other.inputs)[-1:])


def features(length: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal((length, 12)).astype(np.float32)


def forecast(paths: int, max_rows: int, window: bool, policy: Policy, others: list[Sequence]) -> Array:
    """The values of a forecast of 5 steps, with others in the same queue, from a state and 3 rows."""
    queue = ModelQueue(model(NAME), policy)
    size = model(NAME).network.output_size
    rng = np.random.default_rng(3)
    start = Sequence(features(9), keep_state=True)
    queue.add([start])
    run(queue)
    shared = ForecastPlan(
        horizon=5,
        future=features(4, seed=1),
        target=tuple(range(size)),
        mean=np.zeros(size),
        std=np.ones(size),
        input_mean=np.full(size, 0.5),
        input_std=np.full(size, 2.0),
        residuals=rng.standard_normal((20, size)),
        minimum=-3.0,
        seed=11,
        window=features(3, seed=2) if window else None,
    )
    values = np.zeros((1 + paths, 5, size))
    state = None if window else start.final_state
    sequences = []
    for block in path_blocks(shared, 0, values, max_rows):
        inputs = block.take(np.tile(start.outputs[-1], (len(block.numbers), 1)))
        assert inputs is not None, "there are more steps"
        sequences.append(Sequence(inputs, feedback=block, rows=len(block.numbers), state=state, anew=window))
    queue.add(others + sequences)
    run(queue)
    assert not queue.runner.num_slots and not any(one.error or one.block for one in sequences + others)
    return values


def run(queue: ModelQueue) -> None:
    while len(queue.scheduler):
        queue.iterate(0.0)
