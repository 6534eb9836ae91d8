"""Sessions through the client: chunks give the bits of the whole, and state can be read, restored and forked."""

import asyncio
from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from elman.client import (
    AsyncClient,
    BadStateToken,
    Client,
    ElmanError,
    RequestError,
    StepConflict,
    StepReused,
    Unable,
    UnknownSession,
)
from elman.client.calls import Returns, SessionCalls
from tests.codec.test_odd_models import gru, put
from tests.running import RunningServer, running_server

Sequences = list[NDArray[np.float32]]


def chunks(x: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
    """One step, then two, then three, and so on."""
    begin, size = 0, 1
    while begin < len(x):
        yield x[begin : begin + size]
        begin, size = begin + size, size + 1


@pytest.fixture
def x(vowels: Sequences) -> NDArray[np.float32]:
    return np.concatenate(vowels[:3])


@pytest.mark.parametrize("decode", [True, False])
def test_chunks_give_the_bits_of_the_whole(elman: Client, x: NDArray[np.float32], decode: bool) -> None:
    model = elman.model("vowels-gru")
    whole = model.predict(x, returns="steps").outputs
    rows = []
    with model.session() as session:
        for chunk in chunks(x):
            result = session.step(chunk, returns="steps", decode=decode)
            assert result.id == session.id and result.step == session.step_count and not result.replayed
            assert result.length == len(chunk) and (result.label is not None) is decode
            rows.append(result.outputs)
        assert session.step_count == len(x)
    assert whole is not None and np.concatenate(rows).tobytes() == whole.tobytes()  # type: ignore[arg-type]


def test_a_session_is_deleted_at_the_end_unless_it_is_kept(elman: Client) -> None:
    model = elman.model("names-gru")
    with model.session() as gone, model.session(keep=True, ttl=60) as kept:
        gone.step("Mc")
        kept.step("Mc")
    with pytest.raises(UnknownSession):
        elman.session(gone.id)
    again = elman.session(kept.id)
    assert (again.step_count, again.model, again.version, again.info.ttl) == (2, "names-gru", 1, 60)
    assert kept.id in [one.id for one in elman.sessions("names-gru")]
    with elman.session(kept.id, keep=False):
        pass
    with pytest.raises(UnknownSession):
        kept.step("x")
    kept.delete()  # deleting it again is no error


def test_a_fork_and_its_session_are_independent(elman: Client, x: NDArray[np.float32]) -> None:
    with elman.model("vowels-gru").session() as session:
        session.step(x[:10])
        with session.fork() as fork:
            one, other = session.step(x[10:20]).output, fork.step(x[10:20]).output
            assert one is not None and other is not None and one.tobytes() == other.tobytes()
            fork.step(x[:5])
            assert (session.step_count, fork.step_count) == (20, 25)
        assert session.refresh().step == 20


def test_a_state_token_rewinds_a_session_and_continues_a_prediction(elman: Client, x: NDArray[np.float32]) -> None:
    model = elman.model("vowels-gru")
    with model.session() as session:
        session.step(x[:10])
        token = session.state()
        expected = session.step(x[10:]).output
        assert expected is not None
        assert session.restore(token).step == session.step_count == 10
        again = session.step(x[10:]).output
        assert again is not None and again.tobytes() == expected.tobytes()
    for _ in range(2):  # as JSON, and as bytes with the token in a header
        alone = model.predict(x[10:], state=token, return_state=True)
        assert alone.output is not None and alone.output.tobytes() == expected.tobytes()
        assert alone.step == len(x) and alone.state
    many = model.predict([x[10:]] * 3, state=[token] * 3)
    assert all(one.output is not None and one.output.tobytes() == expected.tobytes() for one in many)
    with model.session(state=token) as other:
        assert other.step_count == 10
    with pytest.raises(ValueError, match="2 states for 3"):
        model.predict([x] * 3, state=[token] * 2)
    broken = token[:-3] + "abc"
    with pytest.raises(BadStateToken):
        model.predict(x, state=broken)
    with pytest.raises(BadStateToken) as raised:
        model.predict([x[:1]] * 600, state=[token] * 599 + [broken])
    assert raised.value.where == "state[599]"


def test_bytes_carry_state_both_ways(elman: Client, x: NDArray[np.float32]) -> None:
    model = elman.model("vowels-gru")
    model.predict(x)
    half = model.predict(x[:10], decode=False, return_state=True)
    assert half.step == 10 and half.state
    rest = model.predict(x[10:], decode=False, state=half.state)
    whole = model.predict(x, decode=False)
    assert rest.output is not None and whole.output is not None
    assert rest.output.tobytes() == whole.output.tobytes()


def test_hidden_states_come_by_name(elman: Client, x: NDArray[np.float32]) -> None:
    model = elman.model("vowels-lstm")
    result = model.predict(x, hidden=True)
    tensors = {tensor["name"]: int(np.prod(tensor["shape"])) for tensor in model.card().state["tensors"]}
    assert result.hidden is not None
    assert {name: rows.shape for name, rows in result.hidden.items()} == {
        name: (len(x), width) for name, width in tensors.items()
    }


def test_two_clients_of_one_session_conflict(elman: Client, x: NDArray[np.float32]) -> None:
    with elman.model("vowels-gru").session() as mine:
        theirs = elman.session(mine.id)
        mine.step(x[:4])
        assert theirs.step(x[:4]).replayed  # the same steps are a repetition
        mine.step(x[4:6])
        with pytest.raises(StepReused):
            theirs.step(x[4:7])
        mine.step(x[6:7])
        with pytest.raises(StepConflict) as raised:
            theirs.step(x[4:6])
        assert raised.value.expected == 7
        theirs.refresh()
        assert theirs.step(x[7:8]).step == 8


def test_a_refused_step_moves_nothing(elman: Client, x: NDArray[np.float32]) -> None:
    with elman.model("vowels-gru").session() as session:
        session.step(x[:2])
        for bad in (np.zeros((4, 3), np.float32), np.full((1, 12), np.nan, np.float32), np.zeros((0, 12), np.float32)):
            with pytest.raises(RequestError):
                session.step(bad)
        assert session.step_count == session.refresh().step == 2


def test_a_model_without_a_running_state_says_so(elman: Client) -> None:
    with pytest.raises(Unable) as raised:
        elman.model("vowels-lstm-bidirectional").session()
    assert raised.value.code == "not_streamable"


def test_an_error_in_the_block_is_not_replaced_by_one_of_the_deletion(server: RunningServer) -> None:
    with pytest.raises(KeyError), Client(server.url) as elman, elman.model("names-gru").session() as session:
        session._calls.path = "/nowhere"
        raise KeyError
    with pytest.raises(ElmanError), Client(server.url) as elman, elman.model("names-gru").session() as session:
        session._calls.path = "/nowhere"


def test_sessions_are_listed_page_by_page(elman: Client) -> None:
    model = elman.model("names-rnn")
    made = [model.session(keep=True) for _ in range(5)]
    first = elman.sessions("names-rnn", limit=3)
    rest = elman.sessions("names-rnn", limit=3, after=first[-1].id)
    assert [one.id for one in first + rest] == sorted(one.id for one in made)
    for one in made:
        one.delete()


def test_the_asynchronous_session_does_the_same(server: RunningServer, elman: Client, x: NDArray[np.float32]) -> None:
    whole = elman.model("vowels-gru").predict(x, returns="steps").outputs
    assert whole is not None

    async def main() -> None:
        async with AsyncClient(server.url) as other:
            model = other.model("vowels-gru")
            async with model.session() as session:
                rows = [(await session.step(chunk, returns="steps")).outputs for chunk in chunks(x)]
                assert np.concatenate(rows).tobytes() == whole.tobytes()  # type: ignore[arg-type]
                async with session.fork() as fork:
                    assert fork.step_count == session.step_count == len(x)
                token = await session.state()
                kept = await other.session(session.id)
                assert (await kept.restore(token)).step == len(x)
                await session.refresh()
            with pytest.raises(UnknownSession):
                await other.session(session.id)
            opened = await model.session()
            await opened.delete()

    asyncio.run(main())


def test_the_repr_of_a_session_needs_no_request(elman: Client) -> None:
    with elman.model("names-gru").session() as session:
        assert isinstance(session._calls, SessionCalls)
        assert session.id in repr(session) and "names-gru" in repr(session)


SIZE, STRIDE, LEFT_PAD = 8, 5, 3


@pytest.fixture(scope="module")
def signals(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    root = tmp_path_factory.mktemp("signals")
    frames = {"kind": "frames", "name": "input", "size": SIZE, "stride": STRIDE, "left_pad": LEFT_PAD}
    put(root, "signal", gru(SIZE), {"input": frames})
    with running_server(root) as one:
        yield one


@pytest.mark.slow
@pytest.mark.parametrize("decode", [True, False])
@pytest.mark.parametrize("returns", ["final", "steps"])
def test_a_signal_may_come_in_pieces_of_any_size(signals: RunningServer, decode: bool, returns: Returns) -> None:
    chance = np.random.default_rng(3)
    signal = chance.standard_normal(120).astype(np.float32)
    pieces = np.split(signal, np.sort(chance.choice(120, 40, replace=False)))
    with Client(signals.url) as elman, elman.model("signal").session() as session:
        whole = elman.model("signal").predict(signal, returns="steps").outputs
        assert whole is not None
        done = 0
        for piece in (one for one in pieces if len(one)):
            result = session.step(piece, decode=decode, returns=returns)
            rows = result.outputs if returns == "steps" else result.output
            expected = whole[done : done + result.length]
            done += result.length
            if returns == "final":
                assert (rows is None) is (result.length == 0)
                expected = expected[-1] if result.length else expected
            assert result.length == 0 or (rows is not None and rows.tobytes() == expected.tobytes())
        assert done == len(whole) and session.step_count == 120
