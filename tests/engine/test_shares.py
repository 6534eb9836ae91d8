"""No caller fills the queue alone once there are others, and who has much waiting comes after who has little."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from elman.engine.engine import Engine
from elman.engine.pending import AwaitedRequest
from elman.engine.queue import ModelQueue
from elman.engine.scheduler import Policy, Scheduler
from elman.engine.sequence import Sequence
from elman.engine.shares import Shares
from elman.engine.thread import EngineThread
from elman.errors import Overloaded
from tests.reference import model

LENGTH = 3_000


def test_one_caller_alone_may_have_all_of_the_room() -> None:
    shares = Shares(8, 1.0)
    for _ in range(8):
        assert not shares.exceeds(b"a", 1, 0.1, 0, 0.0)
        assert not shares.add(b"a", 1, 0.1), "there is nobody to go before"


def test_once_there_are_several_none_holds_more_than_is_free() -> None:
    shares = Shares(8, 1.0)
    shares.add(b"a", 1, 0.1)
    assert shares.add(b"b", 1, 0.1), "it has no others"
    assert not shares.add(b"a", 3, 0.3)
    assert shares.exceeds(b"a", 1, 0.0, 4, 1.0) and not shares.exceeds(b"a", 1, 0.0, 5, 1.0)
    assert shares.exceeds(b"a", 1, 0.2, 9, 0.5) and not shares.exceeds(b"a", 1, 0.2, 9, 0.7)
    shares.remove(b"b", 1, 0.1)
    shares.remove(b"a", 4, 0.4)
    assert shares.held(b"a") == 0
    # One that is remembered leaves room for the other, and a queue of one place takes somebody.
    assert not shares.exceeds(b"a", 4, 9.0, 8, 0.1) and shares.exceeds(b"a", 5, 0.0, 4, 1.0)
    assert not shares.exceeds(b"a", 1, 0.0, 1, 0.0)


def test_only_who_holds_little_may_exceed_a_full_queue() -> None:
    shares = Shares(320, 32.0)
    assert not shares.extra(b"a", 1, 0.1), "it is alone"
    shares.add(b"a", 100, 0.1)
    shares.add(b"b", 5, 0.1)
    assert not shares.extra(b"a", 1, 0.1)
    assert shares.extra(b"b", 5, 0.1) and not shares.extra(b"b", 6, 0.1) and not shares.extra(b"b", 1, 1.0)


class Asker:
    """Requests of one caller each."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.queue = ModelQueue(model("vowels-gru"), Policy(max_batch=4))

    def ask(self, owner: bytes, num_sequences: int = 1, length: int = LENGTH) -> AwaitedRequest:
        sequences = [Sequence(np.full((length, 12), 0.5, np.float32)) for _ in range(num_sequences)]
        pending = AwaitedRequest(self.queue, sequences, asyncio.get_running_loop().create_future())
        pending.party = owner
        self.engine.begin(pending)
        return pending


def asked(max_queue: int, test: Callable[[Asker], Any]) -> None:
    async def run() -> None:
        engine = Engine(max_queue)
        engine.start(asyncio.get_running_loop())
        try:
            await test(Asker(engine))
        finally:
            engine.close()

    asyncio.run(run())


def test_a_greedy_caller_leaves_room_for_another_and_is_told_early() -> None:
    async def test(asker: Asker) -> None:
        await asker.ask(b"light", length=1).future
        pending = []
        with pytest.raises(Overloaded, match="of your sequences") as refused:
            for _ in range(20):
                pending.append(asker.ask(b"greedy"))
        assert refused.value.headers["retry-after"]
        assert len(pending) == 10
        with pytest.raises(Overloaded):
            asker.engine.check_room(b"greedy")
        asker.engine.check_room(b"light")
        await asyncio.gather(asker.ask(b"light", 5, length=1).future, *(one.future for one in pending))
        asker.engine.check_room(b"greedy")

    asked(20, test)


def test_a_light_caller_is_served_while_a_greedy_one_fills_the_queue() -> None:
    async def test(asker: Asker) -> None:
        greedy = [asker.ask(b"greedy", 40) for _ in range(8)]
        with pytest.raises(Overloaded):
            asker.ask(b"greedy")
        with pytest.raises(Overloaded):
            asker.ask(b"another", 40)
        light = asker.ask(b"light", 2, length=200)
        await light.future
        assert not any(one.future.done() for one in greedy)
        for one in greedy:
            one.cancel()
        await asyncio.gather(*(one.future for one in greedy))

    asked(320, test)


class Waiting:
    """A queue with one sequence. The thread needs no more of a queue."""

    def __init__(self) -> None:
        self.scheduler = [Sequence(np.zeros(1))]

    def add(self, sequences: list[Sequence]) -> None:
        pass


def test_the_model_of_a_light_caller_is_next_whatever_others_are_queued() -> None:
    order: list[Any] = []
    begun, go_on, done = threading.Event(), threading.Event(), threading.Event()

    def iterate(queue: Any) -> tuple[list[Sequence], list[Any]]:
        order.append(queue)
        begun.set()
        go_on.wait(60)
        queue.scheduler.clear()
        if len(order) == 14:
            done.set()
        return [], []

    thread = EngineThread("test", iterate, lambda *_: None)
    queues: list[Any] = [Waiting() for _ in range(14)]
    thread.put([(queue, [], False) for queue in queues[:13]])
    assert begun.wait(60)
    thread.put([(queues[13], [], True)])
    go_on.set()
    assert done.wait(60)
    thread.close()
    thread.join(10.0)
    assert order == [queues[0], queues[13], *queues[1:13]]


def test_the_number_of_queued_sequences_is_read_while_callers_come_and_go() -> None:
    """The metrics ask for it on the event loop, the engine's thread queues meanwhile."""
    scheduler = Scheduler(Policy())

    class Coming:
        @property
        def num_queued(self) -> int:
            sequence = Sequence(np.zeros((1, 12), np.float32))
            sequence.party = b"another"
            scheduler.add(sequence)
            return 1

    scheduler._lanes[b"one"] = Coming()  # type: ignore[assignment]
    assert len(scheduler) == 1
    assert len(scheduler) == 3
