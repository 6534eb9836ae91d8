"""Heavy decoding and encoding: a worker that dies or hangs fails its own call, and the server goes on."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from elman.codec.pool import CodecPool
from elman.errors import DeadlineExceeded, Draining, Internal, InvalidField, Overloaded
from tests.codec import pooled
from tests.conftest import StartServer
from tests.running import PYTHONPATH, RunningServer


@pytest.fixture(autouse=True)
def find_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the workers import the functions of `pooled`."""
    monkeypatch.setenv("PYTHONPATH", PYTHONPATH)


def run(test: Callable[[CodecPool], Awaitable[None]], size: int = 1, largest: int = 10**8) -> None:
    """Run a test with a pool."""

    async def main() -> None:
        pool = CodecPool(size, largest=largest)
        try:
            await test(pool)
        finally:
            pool.close()

    asyncio.run(main())


@contextlib.contextmanager
def limited(pool: CodecPool) -> Iterator[None]:
    """Give calls one second. A worker that starts on a busy machine may take longer."""
    before, pool._seconds = pool._seconds, 1.0
    try:
        yield
    finally:
        pool._seconds = before


def test_a_call_gives_its_result_or_its_error() -> None:
    async def test(pool: CodecPool) -> None:
        assert await pool.call(pooled.double, 21) == 42
        with pytest.raises(InvalidField) as caught:
            await pool.call(pooled.refuse, "sequence[3]")
        assert caught.value.where == "sequence[3]"
        assert await pool.call(pooled.double, 1) == 2

    run(test)


@pytest.mark.slow
def test_a_worker_that_dies_fails_its_call_which_is_not_repeated(tmp_path: Path) -> None:
    log = tmp_path / "calls"

    async def test(pool: CodecPool) -> None:
        with pytest.raises(Internal, match="SIGKILL"):
            await pool.call(pooled.die, str(log))
        assert log.read_text() == "called\n"
        assert await pool.call(pooled.double, 4) == 8, "another worker takes its place"

    run(test)


def test_a_signal_to_all_processes_ends_no_worker() -> None:
    """As a terminal sends SIGINT, and a service manager SIGTERM. The server ends its workers once it has answered."""

    async def test(pool: CodecPool) -> None:
        before = await pool.call(os.getpid)
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(before, number)
            assert await pool.call(os.getpid) == before

    run(test)


def test_only_so_many_bytes_wait_for_a_worker() -> None:
    async def test(pool: CodecPool) -> None:
        only = pool.call(pooled.size, bytes(101))
        with pytest.raises(Overloaded):
            pool.call(pooled.size, bytes(1))
        others = [pool.call(pooled.double, number) for number in range(20)]  # an answer to encode is no body
        assert await only == 101 and len(await asyncio.gather(*others)) == 20
        both = [pool.call(pooled.size, bytes(50)) for _ in range(2)]
        with pytest.raises(Overloaded):
            pool.call(pooled.size, bytes(1))
        assert await asyncio.gather(*both) == [50, 50]

    run(test, largest=25)


@pytest.mark.slow
def test_a_call_that_takes_too_long_is_given_up() -> None:
    async def test(pool: CodecPool) -> None:
        assert await pool.call(pooled.double, 2) == 4  # the worker has started
        started = time.monotonic()
        with pytest.raises(DeadlineExceeded), limited(pool):
            await pool.call(pooled.sleep, 600.0)
        assert time.monotonic() - started < 60
        assert await pool.call(pooled.double, 3) == 6

    run(test)


@pytest.mark.slow
def test_writing_to_a_worker_that_does_not_read_is_limited_too() -> None:
    """A stopped worker reads nothing, and the pipe to it is soon full."""

    async def test(pool: CodecPool) -> None:
        assert await pool.call(pooled.double, 2) == 4
        worker = pool._children[0]._process
        assert worker is not None
        os.kill(worker.pid, 19)
        with pytest.raises(DeadlineExceeded), limited(pool):
            await pool.call(pooled.size, bytes(10_000_000))
        assert await pool.call(pooled.size, bytes(10_000_000)) == 10_000_000

    run(test)


@pytest.mark.slow
def test_workers_work_side_by_side(tmp_path: Path) -> None:
    async def test(pool: CodecPool) -> None:
        gate = tmp_path / "gate"
        long = asyncio.ensure_future(pool.call(pooled.wait_for, str(gate)))
        assert await asyncio.wait_for(pool.call(pooled.double, 5), 60) == 10
        assert not long.done()
        gate.touch()
        await long

    run(test, size=2)


@pytest.mark.slow
def test_callers_take_turns_and_none_has_all_workers(tmp_path: Path) -> None:
    async def test(pool: CodecPool) -> None:
        gates = [tmp_path / str(number) for number in range(4)]
        greedy = [pool.call(pooled.wait_for, str(gate), party=b"greedy") for gate in gates]
        light = asyncio.gather(*(pool.call(pooled.double, number, party=b"light") for number in range(3)))
        gates[0].touch()  # one of the greedy one's calls ends; the others wait for their files
        assert await light == [0, 2, 4]
        assert await pool.call(pooled.double, 4, party=b"light") == 8
        assert [call.done() for call in greedy] == [True, False, False, False]
        for gate in gates:
            gate.touch()
        await asyncio.gather(*greedy)

    run(test, size=2)


def test_what_waits_for_a_worker_is_bounded_for_each_caller(tmp_path: Path) -> None:
    async def test(pool: CodecPool) -> None:
        gate = tmp_path / "gate"
        waiting = [pool.call(pooled.wait_for, str(gate), party=b"g")]
        waiting += [pool.call(pooled.size, bytes(1000), party=b"g") for _ in range(4)]
        with pytest.raises(Overloaded):
            pool.call(pooled.size, bytes(1000), party=b"g")
        waiting.append(pool.call(pooled.size, bytes(1000), party=b"l"))
        waiting[1].cancel()
        gate.touch()
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert results[2:] == [1000] * 4
        assert await pool.call(pooled.size, bytes(1000), party=b"g") == 1000
        assert pool._budget.num_held == 0

    run(test, largest=1000)


@pytest.mark.slow
def test_large_arrays_and_bodies_arrive_as_they_were_sent() -> None:
    async def test(pool: CodecPool) -> None:
        arrays = [np.arange(size, dtype=kind).reshape(-1, 2) for size in (2, 20_000, 200_000) for kind in "fdq"]
        back = await pool.call(pooled.echo, arrays, b"x" * 100_000)
        assert all(np.array_equal(one, other) for one, other in zip(arrays, back[0], strict=True))
        assert back[1] == b"x" * 100_000 and type(back[1]) is bytes

    run(test)


@pytest.mark.slow
def test_an_answer_takes_memory_as_it_arrives(tmp_path: Path) -> None:
    """Memory that is filled in advance holds the interpreter's lock for half a millisecond a megabyte."""
    size, log = 2**30, tmp_path / "resident"

    async def test(pool: CodecPool) -> None:
        await pool.call(pooled.double, 1)
        before = pooled.resident(os.getpid())
        with pytest.raises(Internal, match="died"):
            await pool.call(pooled.announce, size, str(log))
        assert int(log.read_text()) - before < size / 4

    run(test)


@pytest.mark.slow
def test_closing_ends_what_waits_for_a_worker(tmp_path: Path) -> None:
    async def test(pool: CodecPool) -> None:
        calls = [pool.call(pooled.wait_for, str(tmp_path / "never")) for _ in range(3)]
        while not pool._children[0]._process:
            await asyncio.sleep(0.01)
        pool.close()
        errors = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(error) for error in errors] == [Draining] * 3
        with pytest.raises(Draining):
            await pool.call(pooled.double, 1)

    run(test)


def workers(server: RunningServer) -> int:
    """The processes that decode and encode for a server."""
    children = Path(f"/proc/{server.process.pid}/task").glob("*/children")
    lines = [Path(f"/proc/{pid}/cmdline") for tasks in children for pid in tasks.read_text().split()]
    return sum(b"elman.codec.pool" in line.read_bytes() for line in lines)


@pytest.mark.slow
def test_few_states_are_encoded_without_starting_a_worker(start_server: StartServer) -> None:
    """Starting one takes a third of a second, which the first answer with states would wait for."""
    server = start_server()
    body = {"return": "steps", "hidden": True}
    few = server.predict("names-gru", sequence="Lindqvist", **body).json()["results"][0]["hidden"]["h"]
    assert np.shape(few) == (9, 128) and workers(server) == 0
    many = server.predict("names-gru", sequence="Lindqvist" * 50, **body).json()["results"][0]["hidden"]["h"]
    assert np.shape(many) == (450, 128) and workers(server) == 1
    assert many[:9] == few
