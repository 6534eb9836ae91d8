"""Promises 1 and 2: whatever it shares a run with and wherever it is cut, a sequence gives the same bits."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from elman.api.server import policy_of
from elman.engine.queue import ModelQueue
from elman.engine.scheduler import Policy
from elman.engine.sequence import Return, Sequence
from elman.settings import Settings
from tests.reference import BIDIRECTIONAL, CELLS, NAMES, Array, expected, model, same_bits

NUM_FEATURES = 12


@dataclass(frozen=True)
class Arrival:
    """One sequence, and the iteration before which it arrives."""

    length: int
    returns: Return
    at: int
    magnitude: float
    seed: int
    priority: int = 0


@dataclass(frozen=True)
class Traffic:
    """What arrives, and how the engine may batch it."""

    arrivals: list[Arrival]
    max_batch: int
    max_chunk: int


arrivals = st.builds(
    Arrival,
    length=st.one_of(st.integers(1, 12), st.integers(1, 300)),
    returns=st.sampled_from(["final", "steps"]),
    at=st.integers(0, 12),
    magnitude=st.sampled_from([0.0, 1e-3, 1.0, 1.0, 30.0, 1e4]),
    seed=st.integers(0, 2**32 - 1),
    priority=st.integers(0, 1),
)
traffic = st.builds(
    Traffic,
    arrivals=st.lists(arrivals, min_size=1, max_size=20),
    max_batch=st.integers(1, 24),
    max_chunk=st.one_of(st.integers(1, 8), st.integers(1, 128)),
)


def features(one: Arrival) -> Array:
    generator = np.random.default_rng(one.seed)
    return (one.magnitude * generator.standard_normal((one.length, NUM_FEATURES))).astype(np.float32)


def tokens(one: Arrival, name: str) -> Array:
    size = model(name).network.vocabulary_size
    return np.random.default_rng(one.seed).integers(0, size, one.length).astype(np.int64)


def run(queue: ModelQueue, pending: list[tuple[int, Sequence]]) -> None:
    """Let sequences arrive before their iterations, and iterate until all are done."""
    done: list[Sequence] = []
    iteration = 0
    while pending or len(queue.scheduler):
        for _, sequence in [one for one in pending if one[0] <= iteration]:
            queue.scheduler.add(sequence)
        pending = [one for one in pending if one[0] > iteration]
        done += queue.iterate(now=0.0)[0]
        iteration += 1
    assert len(done) == len({id(one) for one in done})
    assert not queue.runner.num_slots, "a slot is still held"


def answer(sequence: Sequence) -> Array:
    assert sequence.error is None, sequence.error
    return np.concatenate(sequence.outputs)


def check(name: str, traffic: Traffic, inputs: list[Array]) -> None:
    served = model(name)
    given_policy = policy_of(served, Settings(max_batch=traffic.max_batch, max_chunk=traffic.max_chunk))
    queue = ModelQueue(served, given_policy)
    sequences = [
        Sequence(data, returns=one.returns, priority=one.priority)
        for one, data in zip(traffic.arrivals, inputs, strict=True)
    ]
    run(queue, [(one.at, sequence) for one, sequence in zip(traffic.arrivals, sequences, strict=True)])
    for sequence in sequences:
        steps = expected(name, sequence.inputs)
        wanted = steps if sequence.returns == "steps" else steps[-1:]
        assert same_bits(answer(sequence), wanted)


@pytest.mark.parametrize("name", [*CELLS, BIDIRECTIONAL])
@given(traffic=traffic)
def test_any_mix_of_lengths_order_and_chunks_gives_the_bits_of_onnx_runtime_alone(name: str, traffic: Traffic) -> None:
    check(name, traffic, [features(one) for one in traffic.arrivals])


@pytest.mark.parametrize("name", NAMES)
@given(traffic=traffic)
def test_any_mix_of_token_sequences_gives_the_bits_of_onnx_runtime_alone(name: str, traffic: Traffic) -> None:
    check(name, traffic, [tokens(one, name) for one in traffic.arrivals])


@pytest.mark.parametrize("name", CELLS)
@given(one=arrivals, cuts=st.sets(st.integers(1, 299), max_size=6), neighbours=st.lists(arrivals, max_size=8))
def test_a_sequence_carried_on_from_its_state_gives_the_bits_of_the_whole(
    name: str, one: Arrival, cuts: set[int], neighbours: list[Arrival]
) -> None:
    inputs = features(one)
    pieces = np.split(inputs, sorted(cut for cut in cuts if cut < len(inputs)))
    queue = ModelQueue(model(name), Policy(max_batch=5, max_chunk=16))
    state, outputs = None, []
    for index, piece in enumerate(pieces):
        sequence = Sequence(piece, returns="steps", state=state, keep_state=True)
        others = [Sequence(features(other)) for other in neighbours[index::2]]
        run(queue, [(0, each) for each in (*others, sequence)])
        outputs.append(answer(sequence))
        state = sequence.final_state
    assert same_bits(np.concatenate(outputs), expected(name, inputs))


@pytest.mark.parametrize("name", CELLS)
def test_sequences_do_share_runs(name: str) -> None:
    queue = ModelQueue(model(name), Policy(max_batch=16, max_chunk=64))
    generator = np.random.default_rng(0)
    run(queue, [(0, Sequence(generator.standard_normal((n, 12), np.float32))) for n in range(1, 33)])
    assert queue.stats.num_rows > 8 * queue.stats.num_runs
    assert queue.stats.num_steps == sum(range(1, 33))


def test_the_bidirectional_network_is_never_cut() -> None:
    served = model(BIDIRECTIONAL)
    queue = ModelQueue(served, policy_of(served, Settings(max_chunk=4)))
    run(queue, [(0, Sequence(np.ones((300, NUM_FEATURES), np.float32)))])
    assert queue.stats.num_runs == 1
