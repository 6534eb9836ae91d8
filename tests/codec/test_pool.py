"""Heavy decoding and encoding: a worker that dies or hangs fails its own call, and the server goes on."""

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from elman.codec.pool import CodecPool
from elman.errors import DeadlineExceeded, Internal, InvalidField, Overloaded
from tests.codec import pooled
from tests.running import PYTHONPATH


@pytest.fixture(autouse=True)
def find_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the workers import the functions of `pooled`."""
    monkeypatch.setenv("PYTHONPATH", PYTHONPATH)


def run(test: Callable[[CodecPool], Awaitable[None]], size: int = 1, seconds: float = 20.0) -> None:
    """Run a test with a pool."""

    async def main() -> None:
        pool = CodecPool(size, seconds)
        try:
            await test(pool)
        finally:
            pool.close()

    asyncio.run(main())


def test_a_call_gives_its_result_or_its_error() -> None:
    async def test(pool: CodecPool) -> None:
        assert await pool.call(pooled.double, 21) == 42
        with pytest.raises(InvalidField) as caught:
            await pool.call(pooled.refuse, "sequence[3]")
        assert caught.value.where == "sequence[3]"
        assert await pool.call(pooled.double, 1) == 2

    run(test)


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
        pool._max_bytes = 100
        only = pool.call(pooled.size, bytes(101))
        with pytest.raises(Overloaded):
            pool.call(pooled.size, bytes(1))
        others = [pool.call(pooled.double, number) for number in range(20)]  # an answer to encode is no body
        assert await only == 101 and len(await asyncio.gather(*others)) == 20
        both = [pool.call(pooled.size, bytes(50)) for _ in range(2)]
        with pytest.raises(Overloaded):
            pool.call(pooled.size, bytes(1))
        assert await asyncio.gather(*both) == [50, 50]

    run(test)


@pytest.mark.slow
def test_a_call_that_takes_too_long_is_given_up() -> None:
    async def test(pool: CodecPool) -> None:
        assert await pool.call(pooled.double, 2) == 4  # the worker has started
        started = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            await pool.call(pooled.sleep, 600.0)
        assert time.monotonic() - started < 20
        assert await pool.call(pooled.double, 3) == 6

    run(test, seconds=5.0)


@pytest.mark.slow
def test_writing_to_a_worker_that_does_not_read_is_limited_too() -> None:
    """A stopped worker reads nothing, and the pipe to it is soon full."""

    async def test(pool: CodecPool) -> None:
        assert await pool.call(pooled.double, 2) == 4
        worker = pool._children[0]._process
        assert worker is not None
        os.kill(worker.pid, 19)
        with pytest.raises(DeadlineExceeded):
            await pool.call(pooled.size, bytes(10_000_000))
        assert await pool.call(pooled.size, bytes(10_000_000)) == 10_000_000

    run(test, seconds=5.0)


@pytest.mark.slow
def test_workers_work_side_by_side() -> None:
    async def test(pool: CodecPool) -> None:
        await asyncio.gather(pool.call(pooled.double, 1), pool.call(pooled.double, 1))
        long = asyncio.ensure_future(pool.call(pooled.sleep, 1.5))
        assert await asyncio.wait_for(pool.call(pooled.double, 5), 1.2) == 10
        assert not long.done()
        await long

    run(test, size=2)
