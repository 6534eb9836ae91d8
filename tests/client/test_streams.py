"""A session over one open WebSocket."""

import asyncio

import numpy as np
import pytest
from numpy.typing import NDArray

from elman.client import AsyncClient, BadAnswer, Client, RequestError, Unable, UnknownModel, UnknownSession
from tests.client.proxy import Fault, fault_proxy
from tests.client.test_timeouts import assert_ends_in_time
from tests.running import RunningServer

Sequences = list[NDArray[np.float32]]


def test_a_stream_gives_the_bits_of_the_whole(elman: Client, vowels: Sequences) -> None:
    model, x = elman.model("vowels-gru"), vowels[0]
    whole = model.predict(x, returns="steps")
    assert whole.outputs is not None
    with model.stream(ttl=60) as stream:
        for i, row in enumerate(x):
            result = stream.send(row[None])
            assert result.output is not None and result.output.tobytes() == whole.outputs[i].tobytes()
            assert result.label == whole.labels[i] and result.step == stream.step_count == i + 1
        id = stream.session.id
        assert elman.session(id).step_count == len(x)
    with pytest.raises(UnknownSession):
        elman.session(id)


def test_a_stream_continues_a_session_and_leaves_it(elman: Client, vowels: Sequences) -> None:
    model, x = elman.model("vowels-gru"), vowels[0]
    with model.session() as session:
        session.step(x[:2])
        with model.stream(session) as stream:
            stream.send(x[2:4])
            assert stream.step_count == session.step_count == 4
        result = session.step(x[4:])
    expected = model.predict(x).output
    assert result.output is not None and expected is not None and result.output.tobytes() == expected.tobytes()


def test_options_hold_for_every_message(elman: Client, vowels: Sequences) -> None:
    with elman.model("vowels-gru").stream(returns="steps", decode=False) as stream:
        for x in vowels[:3]:
            result = stream.send(x)
            assert result.outputs is not None and result.outputs.shape == (len(x), 9) and result.decoded is None
    with elman.model("vowels-gru").stream(top=1) as stream:
        assert len(stream.send(vowels[0]).top) == 1


def test_a_refused_message_moves_nothing_and_the_stream_continues(elman: Client, vowels: Sequences) -> None:
    with elman.model("vowels-gru").stream() as stream:
        stream.send(vowels[0])
        with pytest.raises(RequestError) as raised:
            stream.send(np.zeros((4, 3), np.float32))
        assert raised.value.code == "wrong_features"
        with pytest.raises(RequestError) as raised:
            stream.send(np.full((1, 12), np.nan, np.float32))
        assert (raised.value.code, raised.value.where) == ("not_finite", "sequence[0][0]")
        assert stream.send(vowels[1]).step == len(vowels[0]) + len(vowels[1])


def test_opening_a_stream_raises_the_reason(elman: Client) -> None:
    with pytest.raises(UnknownModel), elman.model("nobody").stream():
        pass
    with pytest.raises(UnknownSession), elman.model("vowels-gru").stream("0" * 44):
        pass
    with pytest.raises(Unable), elman.model("vowels-lstm-bidirectional").stream():
        pass


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_silent_stream_ends_in_time(server: RunningServer, asynchronous: bool) -> None:
    def silent(index: int) -> Fault:
        return Fault.PASS if index == 0 else Fault.SWALLOW

    def awaited(url: str) -> None:
        with asyncio.Runner() as runner:
            elman = AsyncClient(url)
            stream = elman.model("names-gru").stream(keep=True)
            runner.run(stream.__aenter__())
            assert_ends_in_time(lambda: runner.run(stream.send("Mc", timeout=0.5)), TimeoutError, total=0.5)
            runner.run(elman.close())

    with fault_proxy(server.port, silent) as proxy:
        if asynchronous:
            return awaited(proxy.url)
        with Client(proxy.url) as elman:
            stream = elman.model("names-gru").stream(keep=True)
            stream.__enter__()
            assert_ends_in_time(lambda: stream.send("Mc", timeout=0.5), TimeoutError, total=0.5)


def test_the_asynchronous_stream_does_the_same(server: RunningServer, elman: Client, vowels: Sequences) -> None:
    expected = elman.model("vowels-gru").predict(vowels[0]).output

    async def main() -> NDArray[np.float32] | None:
        async with AsyncClient(server.url) as other, other.model("vowels-gru").stream() as stream:
            for row in vowels[0]:
                result = await stream.send(row[None])
            assert stream.step_count == len(vowels[0]) == (await stream.session.refresh()).step
            return result.output

    found = asyncio.run(main())
    assert found is not None and expected is not None and found.tobytes() == expected.tobytes()


def test_a_stream_at_a_wrong_address_is_told_and_one_in_use_is_shown(elman: Client) -> None:
    wrong = f"{elman.url}/elsewhere"
    with Client(wrong) as client, pytest.raises(BadAnswer, match=f"{wrong} opens no stream: .* 403; check the address"):
        client.model("vowels-gru").stream().__enter__()
    stream = elman.model("vowels-gru").stream()
    assert repr(stream) == "Stream(model='vowels-gru')"
    with stream:
        shown = f"Stream(model='vowels-gru', session={stream.session.id!r}, step_count=0)"
        assert repr(stream) == shown
