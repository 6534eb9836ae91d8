"""The driver brings each request through its endpoint once, and turns what goes wrong into one answer."""

import asyncio
import gc
import json
import time
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import orjson
import pytest

from elman.engine.engine import Engine
from elman.engine.queue import ModelQueue
from elman.engine.scheduler import Policy
from elman.engine.sequence import Sequence
from elman.engine.work import Run, Steps, Wait, Work, aside, run, script
from elman.errors import DeadlineExceeded, ElmanError, InvalidField, Overloaded
from elman.http.endpoint import Driver, Exchange, Request, Response, Send, encode_problem
from tests.reference import expected, model, same_bits

NAME = "vowels-gru"


class Counted:
    """What the driver counts."""

    def __init__(self) -> None:
        self.failed: list[str] = []
        self.num_accepted = 0

    def request_ended(self, *arguments: Any) -> None:
        pass

    def request_failed(self, error: ElmanError) -> None:
        self.failed.append(error.code)


class Waiting(Exchange):
    """Who waits for one response."""

    def __init__(self) -> None:
        super().__init__()
        self.responses: list[Response] = []
        self.pieces: list[bytes] = []
        self.slow: asyncio.Future[None] | None = None

    def reply(self, response: Response) -> None:
        self.responses.append(response)

    def send(self, piece: bytes, headers: Any) -> "asyncio.Future[None] | None":
        self.pieces.append(piece)
        return self.slow


class Told:
    """An endpoint that does as it is told."""

    def __init__(self, parse: Callable[[], Any]) -> None:
        self._parse = parse

    def parse(self, request: Request) -> Any:
        return self._parse()


async def settled(check: Callable[[], bool]) -> None:
    for _ in range(500):
        if check():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not come to that")


def driven(test: Callable[[Driver, Counted, ModelQueue], Any], max_queue: int = 100) -> None:
    """Run a test with a driver, what it counts, and the queue of a model."""

    async def main() -> None:
        engine, counted = Engine(max_queue), Counted()
        engine.start(asyncio.get_running_loop())
        try:
            await test(Driver(engine, counted), counted, ModelQueue(model(NAME), Policy()))
        finally:
            engine.close()

    asyncio.run(main())


def start(driver: Driver, parse: Callable[[], Any]) -> Waiting:
    exchange = Waiting()
    driver.start(Told(parse), Request({}, {}, b"", b"", b"", 0.0), exchange)
    return exchange


def features(length: int) -> Any:
    return np.random.default_rng(length).standard_normal((length, 12)).astype(np.float32)


class Doubling(Run):
    """Answers with the bytes of its last output."""

    def respond(self) -> Response | Work:
        self.check()
        return Response(self.sequences[0].outputs[-1].tobytes(), model=(NAME, 1))


def test_what_parse_returns_is_run_and_answered_once() -> None:
    async def test(driver: Driver, counted: Counted, queue: ModelQueue) -> None:
        inputs = features(9)
        exchange = start(driver, lambda: Doubling(queue, [Sequence(inputs)]))
        assert not exchange.responses, "not before the engine ran"
        await settled(lambda: bool(exchange.responses))
        (response,) = exchange.responses
        assert same_bits(np.frombuffer(response.content, np.float32), expected(NAME, inputs)[-1])
        assert response.model == (NAME, 1) and exchange.work is None

    driven(test)


def test_a_response_without_work_is_sent_at_once() -> None:
    async def test(driver: Driver, counted: Counted, queue: ModelQueue) -> None:
        exchange = start(driver, lambda: Response(b"ready"))
        assert [one.content for one in exchange.responses] == [b"ready"]

    driven(test)


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [(Overloaded("full", retry_after=3), 503, "overloaded"), (ZeroDivisionError("a defect"), 500, "internal")],
)
def test_an_error_of_parse_is_answered_and_counted_once(error: Exception, status: int, code: str) -> None:
    async def test(driver: Driver, counted: Counted, queue: ModelQueue) -> None:
        def parse() -> Any:
            raise error

        (response,) = start(driver, parse).responses
        assert response.status == status and orjson.loads(response.content)["code"] == code
        assert counted.failed == [code]
        assert ((b"retry-after", b"3") in list(response.headers)) == (status == 503)

    driven(test)


def test_an_error_of_the_engine_is_answered() -> None:
    async def test(driver: Driver, counted: Counted, queue: ModelQueue) -> None:
        exchange = start(driver, lambda: Doubling(queue, [Sequence(features(3)) for _ in range(5)]))
        assert [one.status for one in exchange.responses] == [503]

    driven(test, max_queue=4)


def test_the_first_error_of_any_sequence_is_told_with_its_place() -> None:
    async def test(driver: Driver, counted: Counted, queue: ModelQueue) -> None:
        sequences = [Sequence(features(3)), Sequence(features(3), deadline=-1.0)]
        exchange = start(driver, lambda: Doubling(queue, sequences))
        await settled(lambda: bool(exchange.responses))
        assert orjson.loads(exchange.responses[0].content)["where"] == "sequence"
        assert counted.failed == ["deadline"]

    driven(test)


def test_a_client_that_is_gone_gets_nothing_and_its_work_is_given_up() -> None:
    async def test(driver: Driver, counted: Counted, queue: ModelQueue) -> None:
        sequence = Sequence(features(1_000_000))
        exchange = start(driver, lambda: Doubling(queue, [sequence]))
        exchange.disconnect()
        await settled(lambda: driver.engine.num_pending == 0)
        assert sequence.cancelled and sequence.cursor < 1_000_000
        assert (exchange.responses, counted.failed) == ([], [])

    driven(test)


def test_a_request_is_gone_with_its_client_whatever_its_deadline() -> None:
    async def test(driver: Driver, counted: Counted, queue: ModelQueue) -> None:
        exchange = start(driver, lambda: Doubling(queue, [Sequence(features(100))], time.monotonic() + 3600))
        exchange.disconnect()
        await settled(lambda: driver.engine.num_pending == 0)
        gone = weakref.ref(exchange)
        del exchange
        assert gone() is None, "a timer or a cycle refers to it"

    gc.disable()
    try:
        driven(test)
    finally:
        gc.enable()


def test_the_event_loop_keeps_a_deadline_that_the_engine_does_not() -> None:
    async def test(driver: Driver, counted: Counted, queue: ModelQueue) -> None:
        work = Doubling(queue, [Sequence(features(400_000))])
        work.deadline = asyncio.get_running_loop().time() + 0.05
        exchange = start(driver, lambda: work)
        await settled(lambda: bool(exchange.responses))
        assert exchange.responses[0].status == 504
        work.cancel()
        await settled(lambda: driver.engine.num_pending == 0)
        assert len(exchange.responses) == 1 and counted.failed == ["deadline"]

    driven(test)


def test_a_script_waits_for_one_work_after_the_other() -> None:
    async def test(driver: Driver, counted: Counted, queue: ModelQueue) -> None:
        def steps() -> Steps[Response]:
            number = yield from aside(lambda: 20)
            first, second = Sequence(features(number)), Sequence(features(7))
            yield from run(queue, [first], "here")
            yield from run(queue, [], "nothing to run")
            yield from run(queue, [second], "there")
            yield Send(b"piece", [])
            return Response(first.outputs[-1].tobytes() + second.outputs[-1].tobytes())

        exchange = start(driver, lambda: script(steps()))
        await settled(lambda: bool(exchange.responses))
        wanted = np.concatenate([expected(NAME, features(20))[-1], expected(NAME, features(7))[-1]])
        assert same_bits(np.frombuffer(exchange.responses[0].content, np.float32), wanted)
        assert exchange.pieces == [b"piece"]

    driven(test)


def test_a_script_may_catch_what_goes_wrong() -> None:
    async def test(driver: Driver, counted: Counted, queue: ModelQueue) -> None:
        def steps() -> Steps[Response]:
            try:
                yield from run(queue, [Sequence(features(3), deadline=-1.0)], "prompt")
            except DeadlineExceeded as error:
                return Response(str(error.where).encode())
            raise AssertionError("the deadline was kept")

        exchange = start(driver, lambda: script(steps()))
        await settled(lambda: bool(exchange.responses))
        assert exchange.responses[0].content == b"prompt"

    driven(test)


def test_a_script_whose_client_is_gone_lets_go_of_what_it_holds() -> None:
    async def test(driver: Driver, counted: Counted, queue: ModelQueue) -> None:
        released = []

        def steps() -> Steps[Response]:
            try:
                yield from run(queue, [Sequence(features(1_000_000))], "sequence")
                raise AssertionError("nobody waits for it")
            finally:
                released.append(True)

        exchange = start(driver, lambda: script(steps()))
        exchange.disconnect()
        await settled(lambda: bool(released))
        assert not exchange.responses

    driven(test)


def test_a_slow_reader_holds_up_the_next_piece() -> None:
    async def test(driver: Driver, counted: Counted, queue: ModelQueue) -> None:
        def steps() -> Steps[Response]:
            yield Send(b"one", [])
            yield Send(b"two", [])
            return Response(b"three")

        exchange = Waiting()
        exchange.slow = asyncio.get_running_loop().create_future()
        driver.start(Told(lambda: script(steps())), Request({}, {}, b"", b"", b"", 0.0), exchange)
        await asyncio.sleep(0.01)
        assert exchange.pieces == [b"one"]
        slow, exchange.slow = exchange.slow, None
        slow.set_result(None)
        await settled(lambda: bool(exchange.responses))
        assert exchange.pieces == [b"one", b"two"]

    driven(test)


def test_a_future_that_fails_fails_its_request() -> None:
    async def test(driver: Driver, counted: Counted, queue: ModelQueue) -> None:
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        exchange = start(driver, lambda: Wait(future, lambda value: Response(b"%d" % value)))
        future.set_exception(Overloaded("the pool is full"))
        await settled(lambda: bool(exchange.responses))
        assert exchange.responses[0].status == 503

    driven(test)


def test_a_task_may_wait_for_a_script() -> None:
    async def test(driver: Driver, counted: Counted, queue: ModelQueue) -> None:
        def failing() -> Steps[int]:
            yield from aside(lambda: None)
            raise Overloaded("full")

        assert await driver.complete(aside(lambda: 7)) == 7
        with pytest.raises(Overloaded):
            await driver.complete(failing())
        assert not counted.failed, "who waits sees the error"

    driven(test)


def test_a_request_that_there_is_no_room_for_is_not_decoded() -> None:
    async def test(driver: Driver, counted: Counted, queue: ModelQueue) -> None:
        waiting = [start(driver, lambda: Doubling(queue, [Sequence(features(20_000))])) for _ in range(2)]
        parsed: list[int] = []
        refused = start(driver, lambda: parsed.append(1))
        assert [one.status for one in refused.responses] == [503] and not parsed
        for one in waiting:
            one.disconnect()

    driven(test, max_queue=2)


@pytest.mark.parametrize("odd", [2**200, -(2**70), "\ud800"])
def test_an_error_is_json_whatever_the_caller_sent(odd: object) -> None:
    problem = json.loads(encode_problem(InvalidField(f"not {odd}", where="data[0]", expected=odd)))
    assert (problem["code"], problem["expected"]) == ("invalid_field", odd)
