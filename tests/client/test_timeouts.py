"""Every call ends within its timeout, whatever the network does, and no call that creates is sent twice."""

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from elman.client import (
    AsyncClient,
    Batching,
    Client,
    Disconnected,
    ElmanError,
    NoAnswer,
    NotConnected,
    Retries,
    TimedOut,
    Timeout,
    Unavailable,
)
from tests.client.proxy import Fault, FaultProxy, fault_proxy
from tests.running import RunningServer
from tests.waiting import assert_undisturbed

pytestmark = pytest.mark.slow

TOTAL = 0.6
# Seconds. A call may end a little late.
SLACK = 0.4
NAME = "Lindqvist"
SILENT = [Fault.SWALLOW, Fault.DRIP]
CUTS = [Fault.CUT_BEFORE, Fault.CUT_AFTER, Fault.CUT_WITHIN, Fault.ABANDON]

CALLS: dict[str, Callable[[Client, Timeout], object]] = {
    "card": lambda elman, _: elman.model("names-gru").card(),
    "models": lambda elman, _: elman.models(),
    "metrics": lambda elman, _: elman.metrics(),
    "ready": lambda elman, _: elman.ready(),
    "index": lambda elman, _: elman.index(),
    "load": lambda elman, _: elman.load("nobody"),
    "predict": lambda elman, timeout: elman.model("names-gru").predict(NAME, timeout=timeout),
    "predict many": lambda elman, timeout: elman.model("names-gru").predict([NAME] * 20, timeout=timeout),
    "session": lambda elman, _: elman.model("names-gru").session(),
    "generate": lambda elman, _: elman.model("names-gru").generate("Mc"),
    "generate stream": lambda elman, _: list(elman.model("names-gru").generate("Mc", stream=True)),
}


def assert_ends_in_time(
    call: Callable[[], object], error: type[Exception] = TimedOut, total: float = TOTAL
) -> list[Any]:
    """The errors that the call raises: it is repeated if other processes held it up."""
    found: list[Any] = []

    def seconds() -> float:
        began = time.monotonic()
        with pytest.raises(error) as raised:
            call()
        found.append(raised.value)
        return time.monotonic() - began

    assert_undisturbed(seconds, lambda seconds: seconds < total + SLACK)
    return found


@pytest.mark.parametrize("fault", SILENT)
@pytest.mark.parametrize("name", CALLS)
def test_a_blocking_call_ends_in_time(server: RunningServer, name: str, fault: Fault) -> None:
    timeout = Timeout(total=TOTAL)
    with (
        fault_proxy(server.port, lambda _: fault) as proxy,
        Client(proxy.url, timeout=timeout, batching=Batching(sequences=5)) as elman,
    ):
        assert_ends_in_time(lambda: CALLS[name](elman, timeout))


@pytest.mark.parametrize("fault", SILENT)
def test_an_awaited_call_ends_in_time(server: RunningServer, fault: Fault) -> None:
    calls: list[Callable[[AsyncClient], Any]] = [
        lambda elman: elman.models(),
        lambda elman: elman.model("names-gru").predict(NAME),
        lambda elman: elman.model("names-gru").predict([NAME] * 20),
        lambda elman: elman.model("names-gru").generate("Mc"),
        lambda elman: anext(elman.model("names-gru").generate("Mc", stream=True)),
        lambda elman: elman.model("names-gru").session().__aenter__(),
    ]

    with fault_proxy(server.port, lambda _: fault) as proxy, asyncio.Runner() as runner:
        elman = AsyncClient(proxy.url, timeout=TOTAL, batching=Batching(sequences=5))
        for call in calls:
            assert_ends_in_time(lambda call=call: runner.run(call(elman)))  # type: ignore[misc]
        runner.run(elman.close())


@pytest.mark.parametrize("fault", CUTS)
def test_retries_end_in_time_too(server: RunningServer, fault: Fault) -> None:
    retries = Retries(attempts=1000, first=0.01, longest=0.05)
    with (
        fault_proxy(server.port, lambda _: fault) as proxy,
        Client(proxy.url, timeout=TOTAL, retries=retries) as elman,
    ):

        def num_attempts() -> int:
            before = len(proxy.done)
            errors = assert_ends_in_time(lambda: elman.model("names-gru").predict(NAME), NoAnswer)
            return (len(proxy.done) - before) // len(errors)

        assert_undisturbed(num_attempts, lambda number: number > 3)


def test_a_silent_attempt_is_given_up_and_the_next_one_succeeds(server: RunningServer) -> None:
    faults = [Fault.SWALLOW, Fault.CUT_AFTER]
    with (
        fault_proxy(server.port, lambda number: faults[number] if number < 2 else Fault.PASS) as proxy,
        Client(proxy.url, timeout=Timeout(total=60.0, read=1.0)) as elman,
    ):
        assert elman.model("names-gru").predict(NAME).label == "Swedish"
    # A busy server may also be silent for a second.
    assert proxy.done[:3] == [*faults, Fault.PASS]


def test_a_host_that_accepts_no_connection_ends_in_time() -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        port = full.getsockname()[1]
        with contextlib.ExitStack() as stack:
            for _ in range(4):  # fills the backlog, which the kernel accepts by itself
                waiting = stack.enter_context(socket.socket())
                waiting.setblocking(False)
                waiting.connect_ex(("127.0.0.1", port))
            time.sleep(0.05)
            with Client(f"http://127.0.0.1:{port}", timeout=TOTAL) as elman:
                assert_ends_in_time(elman.models, NoAnswer)


def test_a_request_that_is_not_read_ends_in_time() -> None:
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(5)
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        big = np.ones((400_000, 12), np.float32)  # more than the buffers of the kernel
        with Client(url, timeout=TOTAL) as elman:
            model = elman.model("vowels-gru")
            model._calls._shapes.add(big)
            assert_ends_in_time(lambda: model.predict(big))


def test_a_server_that_starts_late_is_waited_for() -> None:
    with socket.socket() as late:
        late.bind(("127.0.0.1", 0))

        def start() -> None:
            time.sleep(0.4)
            late.listen()
            connection, _ = late.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")

        starting = threading.Thread(target=start)
        starting.start()
        retries = Retries(attempts=100, first=0.05, longest=0.1)
        with Client(f"http://127.0.0.1:{late.getsockname()[1]}", timeout=60.0, retries=retries) as elman:
            assert elman.live()
        starting.join(60)


@pytest.mark.parametrize("fault", CUTS)
def test_a_call_that_creates_is_sent_once(server: RunningServer, fault: Fault) -> None:
    with fault_proxy(server.port, lambda _: fault) as proxy, Client(proxy.url) as elman, pytest.raises(Disconnected):
        elman.model("names-gru").session()
    assert len(proxy.done) == 1


def test_retry_after_is_waited_for(server: RunningServer) -> None:
    plan = [Fault.BUSY, Fault.BUSY, Fault.PASS].__getitem__
    with fault_proxy(server.port, plan) as proxy, Client(proxy.url) as elman:
        elman.model("names-gru").predict(NAME)
    assert [later - sooner >= 1.0 for sooner, later in zip(proxy.times, proxy.times[1:], strict=False)] == [True, True]


def test_retry_after_beyond_the_timeout_is_not_waited_for(server: RunningServer) -> None:
    with fault_proxy(server.port, lambda _: Fault.BUSY) as proxy, Client(proxy.url, timeout=TOTAL) as elman:
        errors = assert_ends_in_time(lambda: elman.model("names-gru").predict(NAME), Unavailable, total=0.1)
    assert [one.retry_after for one in errors] == [1.0] * len(proxy.done)


def test_connections_are_used_again(server: RunningServer) -> None:
    counted: list[FaultProxy] = []
    with fault_proxy(server.port, lambda _: Fault.PASS) as proxy, Client(proxy.url) as elman:
        counted.append(proxy)
        for _ in range(5):
            elman.model("names-gru").predict(NAME)
        pool = elman._sender._connections._pool  # type: ignore[attr-defined]
        assert len(pool.connections) == 1


def test_one_attempt_means_no_retries() -> None:
    with Client("http://127.0.0.1:1", retries=Retries(attempts=1)) as elman, pytest.raises(NotConnected):
        elman.models()


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan")])
def test_a_timeout_has_to_be_more_than_0(value: float) -> None:
    with pytest.raises(ValueError, match="more than 0"):
        Timeout(total=value)
    with pytest.raises((ValueError, ElmanError)):
        Client("http://localhost", timeout=value)
