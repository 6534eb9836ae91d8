"""Every step happens once, whatever the network does: the results are those without faults, bit for bit."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from elman.client import AsyncClient, Client, Retries, StepResult, Timeout
from tests.client.proxy import Fault, fault_proxy, seeded
from tests.running import RunningServer, running_server
from tests.waiting import wait_until

Sequences = list[NDArray[np.float32]]

pytestmark = pytest.mark.slow

TIMES = Timeout(total=60.0, read=0.25)
RETRIES = Retries(attempts=100, first=0.01, longest=0.1)
LOSSES = [fault for fault in Fault if fault not in (Fault.PASS, Fault.DRIP, Fault.BUSY)]
SEEDS = [1, 2, 3]
# Some steps alone, some in small chunks.
SIZES = [1, 1, 3, 1, 2, 5, 1, 1, 4, 1, 2, 1, 1, 3, 2, 1, 1, 1, 6, 2]


@pytest.fixture
def pieces(vowels: Sequences) -> list[NDArray[np.float32]]:
    x = np.concatenate(vowels[:4])
    ends = np.cumsum(SIZES)
    assert len(x) >= ends[-1]
    return np.split(x[: ends[-1]], ends[:-1])


@pytest.fixture
def without_faults(elman: Client, pieces: list[NDArray[np.float32]]) -> list[bytes]:
    """The output of each step when nothing goes wrong."""
    with elman.model("vowels-gru").session() as session:
        return [outputs_of(session.step(piece, returns="steps")) for piece in pieces]


def outputs_of(result: StepResult) -> bytes:
    assert result.outputs is not None
    return result.outputs.tobytes()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("decode", [True, False])
def test_every_step_happens_once(
    server: RunningServer, elman: Client, pieces: Sequences, without_faults: list[bytes], seed: int, decode: bool
) -> None:
    found = []
    with elman.model("vowels-gru").session() as direct:
        with (
            fault_proxy(server.port, seeded(seed, LOSSES, 0.5)) as proxy,
            Client(proxy.url, timeout=TIMES, retries=RETRIES) as far,
        ):
            session = far.session(direct.id)
            for piece in pieces:
                found.append(session.step(piece, returns="steps", decode=decode))
                assert direct.refresh().step == session.step_count
    assert [outputs_of(one) for one in found] == without_faults
    assert session.step_count == sum(SIZES)
    # The plan did lose responses that the server had sent.
    assert any(one.replayed for one in found)
    assert sum(fault is not Fault.PASS for fault in proxy.done) >= len(pieces) / 2


@pytest.mark.parametrize("seed", SEEDS)
def test_every_awaited_step_happens_once(
    server: RunningServer, elman: Client, pieces: Sequences, without_faults: list[bytes], seed: int
) -> None:
    async def main(url: str, id: str) -> list[bytes]:
        async with AsyncClient(url, timeout=TIMES, retries=RETRIES) as far:
            session = await far.session(id)
            return [outputs_of(await session.step(piece, returns="steps")) for piece in pieces]

    with elman.model("vowels-gru").session() as direct:
        with fault_proxy(server.port, seeded(seed, LOSSES, 0.5)) as proxy:
            assert asyncio.run(main(proxy.url, direct.id)) == without_faults
        assert direct.refresh().step == sum(SIZES)


@pytest.mark.parametrize("seed", SEEDS)
def test_every_streamed_step_happens_once(
    server: RunningServer, elman: Client, pieces: Sequences, without_faults: list[bytes], seed: int
) -> None:
    faults = [Fault.DELAY, Fault.CUT_BEFORE, Fault.CUT_AFTER, Fault.SWALLOW]
    drawn = seeded(seed, faults, 0.4)
    with elman.model("vowels-gru").session() as direct:
        with (
            fault_proxy(server.port, drawn) as proxy,
            Client(proxy.url, timeout=TIMES, retries=RETRIES) as far,
            far.model("vowels-gru").stream(direct.id, returns="steps") as stream,
        ):
            found = [stream.send(piece) for piece in pieces]
            assert stream.step_count == sum(SIZES)
        assert direct.refresh().step == sum(SIZES)
    assert [outputs_of(one) for one in found] == without_faults
    assert any(one.replayed for one in found)
    assert sum(fault is not Fault.PASS for fault in proxy.done) >= 5


@pytest.mark.parametrize("seed", SEEDS)
def test_every_awaited_streamed_step_happens_once(
    server: RunningServer, elman: Client, pieces: Sequences, without_faults: list[bytes], seed: int
) -> None:
    async def main(url: str, id: str) -> list[bytes]:
        async with (
            AsyncClient(url, timeout=TIMES, retries=RETRIES) as far,
            far.model("vowels-gru").stream(id, returns="steps") as stream,
        ):
            return [outputs_of(await stream.send(piece)) for piece in pieces]

    faults = [Fault.DELAY, Fault.CUT_BEFORE, Fault.CUT_AFTER, Fault.SWALLOW]
    with elman.model("vowels-gru").session() as direct:
        with fault_proxy(server.port, seeded(seed, faults, 0.4)) as proxy:
            assert asyncio.run(main(proxy.url, direct.id)) == without_faults
        assert direct.refresh().step == sum(SIZES)


def test_predictions_through_faults_are_those_without_them(
    server: RunningServer, elman: Client, vowels: Sequences
) -> None:
    expected = elman.model("vowels-gru").predict(vowels[:60])
    with (
        fault_proxy(server.port, seeded(5, LOSSES, 0.4)) as proxy,
        Client(proxy.url, timeout=TIMES, retries=RETRIES) as far,
    ):
        found = [far.model("vowels-gru").predict(x) for x in vowels[:60]]
    assert all(
        a.output is not None and b.output is not None and a.output.tobytes() == b.output.tobytes()
        for a, b in zip(found, expected, strict=True)
    )


def test_a_step_that_timed_out_can_be_called_again(server: RunningServer, elman: Client) -> None:
    """A call may time out after its step was done. Calling the same step again returns its result."""
    with elman.model("names-gru").session() as direct:
        plan = [Fault.PASS, Fault.SWALLOW, Fault.PASS, Fault.PASS].__getitem__
        with fault_proxy(server.port, plan) as proxy, Client(proxy.url) as far:
            session = far.session(direct.id)
            with pytest.raises(TimeoutError):
                session.step("Lindq", timeout=1.0)
            assert session.step_count == 0
            wait_until(lambda: direct.refresh().step == 5)
            assert session.step("Lindq").replayed
            assert session.step("vist").label == "Swedish"
        assert direct.refresh().step == 9


@pytest.mark.slow
def test_no_step_is_lost_or_repeated_when_the_server_is_killed(
    pieces: Sequences, without_faults: list[bytes], small_store: Path, tmp_path: Path
) -> None:
    """Sessions are kept on disk, so the next server continues them, and the client retries until it does."""
    retries = Retries(attempts=1000, first=0.05, longest=0.2)
    with (
        running_server(small_store, any_exit=True, store_dir=tmp_path / "sessions") as first,
        fault_proxy(first.port, lambda _: Fault.PASS) as proxy,
        Client(proxy.url, timeout=60.0, retries=retries) as far,
        far.model("vowels-gru").session(keep=True) as session,
        far.model("vowels-gru").stream(session, returns="steps") as stream,
    ):

        def step(index: int) -> bytes:
            piece = pieces[index]
            return outputs_of(session.step(piece, returns="steps") if index % 2 else stream.send(piece))

        found = [step(index) for index in range(7)]
        with ThreadPoolExecutor() as pool:
            first.process.kill()
            rest = pool.submit(lambda: [step(index) for index in range(7, len(pieces))])
            with running_server(small_store, store_dir=tmp_path / "sessions") as second:
                proxy.port = second.port
                found += rest.result(60)
                stream.close()
                assert session.refresh().step == sum(SIZES)
                session.delete()
    assert found == without_faults
