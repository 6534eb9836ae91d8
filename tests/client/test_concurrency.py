"""Many calls at once: they are sent in their order, a session runs them one by one, and nothing is mixed up."""

import asyncio
import contextlib
import gc
import pickle
import subprocess
import sys
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pytest

from elman.client import AsyncClient, Client, PoolTimeout, StepReused, TimedOut, Timeout
from elman.client.aio import connection, sender
from elman.client.bridge import KEEPALIVE
from elman.client.calls import PredictOptions
from elman.client.deadline import Deadline
from tests.running import ROOT, RunningServer

pytestmark = pytest.mark.slow

ROWS = np.random.default_rng(0).standard_normal((40, 12)).astype(np.float32)


class Held(httpx.AsyncBaseTransport):
    """A transport that answers nothing until it is let go, and notes what was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.open = asyncio.Event()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request.url.path)
        await self.open.wait()
        return httpx.Response(200, json={"examples": []})


def test_calls_wait_in_their_order_and_until_their_own_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sender, "_MAX_CALLS", 2)

    async def run() -> None:
        held = Held()
        async with AsyncClient("http://localhost", transport=held) as client:
            calls = [asyncio.create_task(client.model(f"m{number}").examples()) for number in range(20)]
            while len(held.asked) < 2:
                await asyncio.sleep(0)
            hurried = client.model("hurried").predict("x", timeout=0.05)
            with pytest.raises(PoolTimeout, match="not sent") as raised:
                await hurried
            assert isinstance(raised.value, TimeoutError) and len(held.asked) == 2
            held.open.set()
            await asyncio.gather(*calls)
        assert held.asked == [f"/v1/models/m{number}/examples" for number in range(20)]

    asyncio.run(run())


def test_a_call_that_is_cancelled_gives_its_place_on() -> None:
    async def run() -> None:
        gate, deadline = sender._Gate(1), Deadline(60.0)
        await gate.enter(deadline)
        left, given_up, next_one = (asyncio.create_task(gate.enter(deadline)) for _ in range(3))
        await asyncio.sleep(0)
        given_up.cancel()
        gate.leave()  # to the first
        left.cancel()  # before it knows
        await asyncio.wait([left, given_up], timeout=60.0)
        assert left.cancelled() and given_up.cancelled()
        await asyncio.wait_for(next_one, 60.0)
        gate.leave()
        await asyncio.wait_for(gate.enter(deadline), 60.0)

    asyncio.run(run())


def test_what_a_call_asks_beside_its_request_ends_at_its_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = ROWS.tolist()  # a nested list: how many axes a sequence has is on the card

    async def run() -> None:
        async with AsyncClient("http://localhost", transport=Held(), timeout=3600.0) as client:
            model = client.model("m")
            for call in (model.predict, model.influence):
                with pytest.raises(TimedOut, match=r"0\.05 s"):
                    await asyncio.wait_for(call(rows, timeout=0.05), 60.0)

    asyncio.run(run())


def test_calls_that_are_not_sent_cost_little() -> None:
    """At their deadline thousands may end at once. The work of that comes on top of it, however short it was."""
    number, functions = 1000, 0

    def count(frame: Any, event: str, argument: Any) -> None:
        nonlocal functions
        functions += event in ("call", "c_call")

    async def run() -> list[Any]:
        async with AsyncClient("http://localhost", transport=Held()) as client:
            model = client.model("vowels-gru")
            deadline = Deadline(2.0)  # one for all, so that it does not matter how long it takes to start them
            call = model._calls.predict(ROWS, None, PredictOptions())
            calls = [client._sender.send(call, deadline) for _ in range(number)]
            return await asyncio.gather(*calls, return_exceptions=True)

    sys.setprofile(count)
    try:
        found = asyncio.run(run())
    finally:
        sys.setprofile(None)
    assert all(isinstance(one, TimedOut) for one in found)
    assert functions / number < 500, "calls of functions for each"


class Noting(httpx.AsyncHTTPTransport):
    """A transport that notes the forms of the bodies."""

    def __init__(self) -> None:
        super().__init__(limits=httpx.Limits(max_connections=None))
        self.forms: list[str] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.forms.append(request.headers["content-type"])
        return await super().handle_async_request(request)


def test_calls_that_wait_are_sent_as_bytes_once_the_first_was_accepted(server: RunningServer) -> None:
    noting = Noting()

    async def run() -> None:
        async with AsyncClient(server.url, transport=noting) as client:
            model = client.model("vowels-gru")
            await asyncio.gather(*[model.predict(ROWS) for _ in range(200)])

    asyncio.run(run())
    num_first = noting.forms.count("application/json")
    assert num_first == sender._MAX_CALLS and noting.forms[num_first:] == ["application/octet-stream"] * 168


def test_hundreds_of_calls_at_once_are_all_answered(server: RunningServer) -> None:
    async def run() -> list[Any]:
        async with AsyncClient(server.url) as client:
            model = client.model("vowels-gru")
            return await asyncio.gather(*[model.predict(ROWS[: 1 + number % 40]) for number in range(300)])

    assert [one.length for one in asyncio.run(run())] == [1 + number % 40 for number in range(300)]


def test_the_steps_of_a_session_run_in_the_order_of_their_calls(server: RunningServer) -> None:
    async def run() -> None:
        async with AsyncClient(server.url) as client:
            model = client.model("vowels-gru")
            whole = await model.predict(ROWS, returns="steps")
            async with model.session() as session:
                calls = [session.step(row[None]) for row in ROWS[:20]]
                results = await asyncio.gather(*calls, session.refresh())
                assert results[-1].step == session.step_count == 20
                assert all((one.output == right).all() for one, right in zip(results, whole.outputs[:20], strict=False))
            async with model.stream() as stream:
                results = await asyncio.gather(*[stream.send(row[None]) for row in ROWS])
                assert all((one.output == right).all() for one, right in zip(results, whole.outputs, strict=True))

    asyncio.run(run())


def test_threads_may_share_a_session(server: RunningServer) -> None:
    with Client(server.url) as client, client.model("vowels-gru").session() as session:
        with ThreadPoolExecutor(8) as pool:
            results = list(pool.map(lambda row: session.step(row[None]), ROWS))
        assert sorted(one.step for one in results) == list(range(1, 41))


def test_a_call_waits_for_those_before_it_until_its_timeout(server: RunningServer) -> None:
    with Client(server.url) as client, client.model("vowels-gru").session() as session:
        with session._turns.turn(session._sender.deadline(None)):
            with pytest.raises(TimedOut, match="not sent"):
                session.step(ROWS[:1], timeout=0.05)
            with pytest.raises(TimedOut, match="not sent"):
                session.step(ROWS[:1], timeout=Timeout(0.05))
        assert session.step(ROWS[:1]).step == 1


def test_streams_of_tokens_that_are_left_end_without_a_word(server: RunningServer) -> None:
    complaints: list[Any] = []

    async def run() -> str:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        async with AsyncClient(server.url) as client:
            model = client.model("names-lstm-generator")
            for _ in range(110):
                async for _ in model.generate("Mc", max_steps=100, stream=True):
                    break
            for _ in range(200):  # what is left is closed by tasks of the loop
                await asyncio.sleep(0)
            return (await model.generate("Mc", seed=1, timeout=30)).text

    assert asyncio.run(run())
    assert complaints == []
    server.wait_for("elman_pending_sequences", 0.0)


def test_a_client_works_in_one_event_loop_after_another(server: RunningServer) -> None:
    client = AsyncClient(server.url)

    async def run(close: bool) -> str | None:
        label = (await client.model("vowels-gru").predict(ROWS)).label
        if close:
            await client.close()
        return label

    first = asyncio.run(run(False))
    assert first and asyncio.run(run(True)) == first
    with warnings.catch_warnings():  # nothing can close the connections of the first loop, since it has ended
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


def test_clients_and_models_are_pickled_with_their_settings(server: RunningServer) -> None:
    with Client(server.url, timeout=7.0) as client:
        model = pickle.loads(pickle.dumps(client.model("vowels-gru")))
        assert model.predict(ROWS).label == client.model("vowels-gru").predict(ROWS).label
        model._sender.close()
        again = pickle.loads(pickle.dumps(client))
        assert (again.url, again._sender.timeout) == (client.url, Timeout(7.0))
        again.close()
    remade = pickle.loads(pickle.dumps(AsyncClient(server.url, api_key="k")))
    assert remade._sender.headers["authorization"] == "Bearer k"
    with pytest.raises(TypeError, match="transport cannot be pickled"):
        pickle.dumps(Client(server.url, transport=httpx.HTTPTransport()))


def test_a_session_that_is_pickled_goes_on_where_it_was(server: RunningServer) -> None:
    with Client(server.url, timeout=50.0) as client:
        model = client.model("vowels-gru")
        right = model.predict(ROWS[:3]).output.tolist()
        with model.session() as session, model.stream() as stream:
            session.step(ROWS[:2])
            stream.send(ROWS[:2])
            other, again = pickle.loads(pickle.dumps((session, stream)))
            with contextlib.closing(other._sender):
                assert (other.id, other.step_count, other._sender.timeout) == (session.id, 2, Timeout(50.0))
                assert other.step(ROWS[2:3]).output.tolist() == right
                assert again.send(ROWS[2:3]).output.tolist() == right and again.session.id == stream.session.id
                again.close()
            with pytest.raises(StepReused):
                session.step(ROWS[5:])
        with model.session(keep=True) as session:
            copied = pickle.loads(pickle.dumps(session))
            with contextlib.closing(copied._sender), copied:
                pass
            session.delete()  # the copy kept it
        tokens = client.model("names-lstm-generator").generate("Mc", stream=True)
        with pytest.raises(TypeError, match="pickle `generation`"):
            pickle.dumps(tokens)

    async def run() -> bytes:
        async with AsyncClient(server.url) as client:
            opening = client.model("vowels-gru").session()
            with pytest.raises(TypeError, match="await it"):
                pickle.dumps(opening)
            session = await opening
            await session.step(ROWS[:2])
            stream = client.model("vowels-gru").stream(session)
            async with stream:
                return pickle.dumps((session, stream))

    async def go_on(pickled: bytes) -> None:
        session, stream = pickle.loads(pickled)
        async with session:
            assert (await session.step(ROWS[2:3])).output.tolist() == right
            async with stream:
                assert (await stream.send(ROWS[3:4])).step == 4
        await session._sender.close()

    asyncio.run(go_on(asyncio.run(run())))


@pytest.mark.parametrize("calls", [1, 40])
@pytest.mark.parametrize("keepalive", [KEEPALIVE, -1.0], ids=["kept", "expired"])
def test_a_call_works_after_others_were_cancelled_at_any_point(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch, keepalive: float, calls: int
) -> None:
    """Whatever they waited for: a turn, a place, the end of a connection, a new one that was not opened, an answer."""
    monkeypatch.setattr(connection, "KEEPALIVE", keepalive)

    async def run() -> None:
        async with AsyncClient(server.url) as client:
            model = client.model("vowels-gru")
            async with model.session() as session:
                for turns in range(60):
                    steps = [session.step(ROWS[:1])] if calls == 1 else [model.predict(ROWS) for _ in range(calls)]
                    tasks = [asyncio.ensure_future(step) for step in steps]
                    for _ in range(turns):
                        await asyncio.sleep(0)
                    for task in tasks:
                        task.cancel()
                    await asyncio.wait(tasks)
                    if turns % 10 == 9:
                        assert (await model.predict(ROWS, timeout=50.0)).length == len(ROWS)
                if calls == 1:  # the steps that were cancelled may have been done
                    assert (await session.step(ROWS[:1], timeout=50.0)).step == session.step_count

    asyncio.run(run())


def test_connections_of_many_streams_are_closed_when_they_are_done(server: RunningServer) -> None:
    async def run() -> None:
        async with AsyncClient(server.url) as client:
            model = client.model("names-lstm-generator")
            streams = [model.generate("Mc", max_steps=2, seed=1, stream=True) for _ in range(50)]
            await asyncio.gather(*map(anext, streams))  # all are open at once
            for stream in streams:
                async for _ in stream:
                    pass
                assert stream.generation is not None
            pool = client._sender._pools.get()
            assert len(pool._all) == len(pool._free) == sender._MAX_CALLS

    asyncio.run(run())


FORKED = """
import os, sys
import numpy as np
from elman import Client

client = Client(sys.argv[1])
model = client.model("vowels-gru")
data = np.random.default_rng(0).standard_normal((4, 30, 3, 12)).astype(np.float32)
right = [[model.predict(rows, decode=False).output for rows in part] for part in data]
children = []
for part, expected in zip(data, right):
    child = os.fork()
    if not child:
        same = all((model.predict(rows, decode=False).output == one).all() for rows, one in zip(part, expected))
        os._exit(0 if same else 3)
    children.append(child)
print([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children])
"""


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="there are no forks here")
def test_forked_processes_do_not_get_the_answers_of_each_other(server: RunningServer) -> None:
    command = [sys.executable, "-c", FORKED, server.url]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert ran.stdout.strip() == "[0, 0, 0, 0]", ran.stderr


HELD = """
import os, sys, threading
import numpy as np
from elman import Client

client = Client(sys.argv[1], timeout=50)
model, rows = client.model("vowels-gru"), np.zeros((1, 12), np.float32)
session, stream = model.session(), model.stream()
with stream:
    stream.send(rows)
    with session._turns.turn(client._sender.deadline(None)):  # as if another thread was in the middle of a call
        child = os.fork()
        if not child:
            os._exit(0 if session.step(rows).step == 1 and stream.send(rows).step == 2 else 3)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    again = stream.send(rows)  # over its own connection; the step is that of the child
    print(code, again.step, again.replayed)
"""


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="there are no forks here")
def test_a_forked_process_waits_for_no_thread_and_shares_no_stream(server: RunningServer) -> None:
    command = [sys.executable, "-c", HELD, server.url]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert ran.stdout.strip() == "0 2 True", ran.stderr


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_the_address_and_the_key_come_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, kind: Callable[..., Client | AsyncClient]
) -> None:
    for name in ("ELMAN_URL", "ELMAN_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    assert kind().url == "http://localhost:8000" and "authorization" not in kind()._sender.headers
    monkeypatch.setenv("ELMAN_URL", "http://elsewhere:1/below/")
    monkeypatch.setenv("ELMAN_API_KEY", "secret")
    assert kind().url == "http://elsewhere:1/below" and kind()._sender.headers["authorization"] == "Bearer secret"
    assert kind("http://here:2", api_key="own")._sender.headers["authorization"] == "Bearer own"
    assert kind("http://here:2", api_key="")._sender.api_key is None


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_the_password_of_an_address_is_sent_and_not_shown(kind: Callable[..., Client | AsyncClient]) -> None:
    client = kind("http://a:b%20@here:2/below/")
    for one in (client, pickle.loads(pickle.dumps(client))):
        assert one._sender.headers["authorization"] == "Basic YTpiIA=="
        assert one.url == "http://here:2/below" and "b%20" not in repr(one)


@pytest.mark.parametrize(
    "url",
    ["localhost:8000", "http://here:99999", "http://here:x", "http://[::1", "http://here/?a=1", "http://a\x01b", ""],
)
@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_what_is_no_address_or_key_is_refused(kind: Callable[..., Client | AsyncClient], url: str) -> None:
    with pytest.raises(ValueError, match="not the address of a server"):
        kind(url)
    for key in ("geheim\u00e9", "geheim\n", " geheim"):
        with pytest.raises(ValueError, match="the API key has characters") as raised:
            kind("http://here", api_key=key)
        assert "geheim" not in str(raised.value)
