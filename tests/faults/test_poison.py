"""One sequence that the graph fails on fails alone."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import numpy as np
import pytest

from elman.engine.engine import Engine
from elman.engine.queue import ModelQueue
from elman.engine.scheduler import Policy
from elman.engine.sequence import Sequence
from elman.engine.work import run
from elman.errors import Internal, ModelFailed, Overloaded
from elman.http.endpoint import Driver
from tests.reference import NAMES, Array, expected, model, same_bits

NUM_ROWS = 16
OUT_OF_RANGE = 10**6


@contextlib.asynccontextmanager
async def running_engine(max_queue: int = 1000) -> AsyncIterator[Engine]:
    engine = Engine(max_queue)
    engine.start(asyncio.get_running_loop())
    try:
        yield engine
        await engine.drain(20.0)
    finally:
        engine.close()
    assert not engine.alive


def tokens(name: str, length: int, seed: int) -> Array:
    size = model(name).network.vocabulary_size
    return np.random.default_rng(seed).integers(0, size, length).astype(np.int64)


def check_exact(name: str, sequence: Sequence) -> None:
    assert sequence.error is None
    steps = expected(name, sequence.inputs)
    wanted = steps if sequence.returns == "steps" else steps[-1:]
    assert same_bits(np.concatenate(sequence.outputs), wanted)


@pytest.mark.parametrize("at", [0, 30, 99])
@pytest.mark.parametrize("name", NAMES)
def test_one_poisoned_sequence_of_sixteen_fails_alone(name: str, at: int) -> None:
    queue = ModelQueue(model(name), Policy(max_batch=NUM_ROWS, max_chunk=16))
    sequences = [
        Sequence(tokens(name, 100 + i, seed=i), returns="steps" if i % 2 else "final") for i in range(NUM_ROWS)
    ]
    poisoned = sequences[5]
    poisoned.inputs[at] = OUT_OF_RANGE

    async def run() -> None:
        async with running_engine() as engine:
            await engine.submit(queue, sequences).future

    asyncio.run(run())
    assert isinstance(poisoned.error, ModelFailed)
    assert "Gather" in poisoned.error.detail
    for sequence in sequences:
        if sequence is not poisoned:
            check_exact(name, sequence)
    # They did share runs with it up to the fault, and with one another after it.
    assert queue.stats.num_rows > 12 * queue.stats.num_runs
    assert (queue.stats.num_sequences, queue.stats.num_failed) == (NUM_ROWS, 1)
    assert queue.runner.num_slots == 0


def test_what_follows_a_poisoned_batch_is_exact() -> None:
    name = "names-gru"
    queue = ModelQueue(model(name), Policy())

    async def run() -> list[Sequence]:
        async with running_engine() as engine:
            await engine.submit(queue, [Sequence(np.full(9, OUT_OF_RANGE))]).future
            return await engine.submit(queue, [Sequence(tokens(name, 50, i)) for i in range(20)]).future

    for sequence in asyncio.run(run()):
        check_exact(name, sequence)


def test_two_models_do_not_share_a_fault() -> None:
    good, bad = ModelQueue(model("names-lstm"), Policy()), ModelQueue(model("names-gru"), Policy())

    async def run() -> list[Sequence]:
        async with running_engine() as engine:
            poisoned = [engine.submit(bad, [Sequence(np.full(500, OUT_OF_RANGE))]) for _ in range(20)]
            fine = engine.submit(good, [Sequence(tokens("names-lstm", 300, i)) for i in range(20)])
            for ticket in poisoned:
                (one,) = await ticket.future
                assert isinstance(one.error, ModelFailed)
            return await fine.future

    for sequence in asyncio.run(run()):
        check_exact("names-lstm", sequence)


def test_a_defect_of_the_runner_fails_its_batch_and_not_the_engine() -> None:
    name = "names-gru"
    queue = ModelQueue(model(name), Policy())

    async def run() -> tuple[Sequence, Sequence]:
        async with running_engine() as engine:
            # Inputs of a shape that no validated request has: what fails is the gathering, not the graph.
            (broken,) = await engine.submit(queue, [Sequence(np.zeros((5, 7, 3), np.int64))]).future
            (fine,) = await engine.submit(queue, [Sequence(tokens(name, 40, 1))]).future
            assert engine.alive
            return broken, fine

    broken, fine = asyncio.run(run())
    assert isinstance(broken.error, ModelFailed | Internal)
    check_exact(name, fine)


@pytest.mark.parametrize("gives_up", [True, False])
def test_a_cancelled_caller_does_not_strand_those_it_shares_a_batch_with(gives_up: bool) -> None:
    """Whether its work is given up, or is done to the end and finds nobody there."""
    name = "names-gru"
    queue = ModelQueue(model(name), Policy(max_batch=16, max_chunk=8))

    async def run() -> list[Sequence]:
        async with running_engine() as engine:
            tickets = [engine.submit(queue, [Sequence(tokens(name, 400, i))]) for i in range(12)]

            async def wait(index: int) -> list[Sequence]:
                try:
                    return await tickets[index].future
                except asyncio.CancelledError:
                    if gives_up:
                        tickets[index].cancel()
                    raise

            callers = [asyncio.create_task(wait(i)) for i in range(12)]
            await asyncio.sleep(0)
            for caller in callers[::3]:
                caller.cancel()
            answers = await asyncio.wait_for(asyncio.gather(*callers, return_exceptions=True), 20.0)
            assert all(isinstance(one, asyncio.CancelledError) for one in answers[::3])
            return [one[0] for i, one in enumerate(answers) if i % 3]

    answered = asyncio.run(run())
    assert len(answered) == 8
    for sequence in answered:
        check_exact(name, sequence)
    assert queue.runner.num_slots == 0


def test_a_cancelled_ticket_frees_its_place_in_the_queue() -> None:
    queue = ModelQueue(model("names-gru"), Policy())

    async def run() -> None:
        async with running_engine(max_queue=4) as engine:
            ticket = engine.submit(queue, [Sequence(tokens("names-gru", 200_000, i)) for i in range(4)])
            with pytest.raises(Overloaded):
                engine.submit(queue, [Sequence(tokens("names-gru", 5, 0))])
            ticket.cancel()
            await asyncio.wait_for(ticket.future, 10.0)
            assert engine.num_pending == 0
            (one,) = await engine.submit(queue, [Sequence(tokens("names-gru", 5, 0))]).future
            check_exact("names-gru", one)

    asyncio.run(run())


@pytest.mark.parametrize("place", ["runner", "feedback", "scheduler"])
def test_the_traceback_of_a_defect_names_the_requests_that_it_failed(
    place: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    queue = ModelQueue(model("names-gru"), Policy())

    def fail(*_: object) -> None:
        raise ZeroDivisionError("a defect")

    async def ask(engine: Engine, request_id: bytes, feedback: bool = False) -> Sequence:
        one = Sequence(tokens("names-gru", 40, 1), feedback=queue if feedback else None)  # type: ignore[arg-type]
        await Driver(engine, None).complete(run(queue, [one], "sequence"), request_id=request_id)  # type: ignore[arg-type]
        return one

    async def both() -> None:
        async with running_engine() as engine:
            with monkeypatch.context() as patched, pytest.raises(Internal):
                if place == "runner":
                    patched.setattr(queue.runner, "run", fail)
                elif place == "scheduler":
                    patched.setattr(queue.scheduler, "schedule", fail)
                await ask(engine, b"unlucky", feedback=place == "feedback")
            check_exact("names-gru", await ask(engine, b"control"))

    asyncio.run(both())
    (record,) = caplog.records
    assert record.exc_info and record.fields["request_ids"] == ["unlucky"]  # type: ignore[attr-defined]
    assert record.getMessage().endswith("; requests: unlucky")
