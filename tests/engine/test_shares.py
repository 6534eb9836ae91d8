"""No caller fills the queue alone once there are others, and who has much waiting comes after who has little."""

import asyncio
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from elman.engine.engine import Engine
from elman.engine.pending import AwaitedRequest
from elman.engine.queue import ModelQueue
from elman.engine.scheduler import Policy
from elman.engine.sequence import Sequence
from elman.engine.shares import Shares
from elman.errors import Overloaded
from tests.reference import model

LENGTH = 3_000


def test_one_caller_alone_may_have_all_of_the_room() -> None:
    shares = Shares()
    assert shares.add(b"a", 7) == 0
    assert shares.add(b"a", 1) == 0
    assert not shares.exceeds(b"a", 2, 2)


def test_once_there_are_several_none_holds_more_than_is_free() -> None:
    shares = Shares()
    shares.add(b"a", 1)
    shares.add(b"b", 1)
    assert shares.add(b"a", 3) == 1, "what it held before"
    assert shares.exceeds(b"a", 1, 4) and not shares.exceeds(b"a", 1, 5)
    shares.remove(b"b", 1)
    shares.remove(b"a", 4)
    assert shares.held(b"a") == 0
    # One that is remembered leaves room for the other, and a queue of one place takes somebody.
    assert not shares.exceeds(b"a", 4, 8) and shares.exceeds(b"a", 5, 4) and not shares.exceeds(b"a", 1, 1)


class Asker:
    """Requests of one caller each."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.queue = ModelQueue(model("vowels-gru"), Policy(max_batch=4))

    def ask(self, owner: bytes, num_sequences: int = 1, length: int = LENGTH) -> AwaitedRequest:
        sequences = [Sequence(np.full((length, 12), 0.5, np.float32)) for _ in range(num_sequences)]
        pending = AwaitedRequest(self.queue, sequences, asyncio.get_running_loop().create_future())
        pending.owner = owner
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


def test_a_light_caller_does_not_wait_for_all_of_a_greedy_one() -> None:
    async def test(asker: Asker) -> None:
        await asker.ask(b"light", length=1).future
        greedy = [asker.ask(b"greedy", 40, length=200) for _ in range(20)]
        light = asker.ask(b"light", 2, length=200)
        await light.future
        done = sum(one.future.done() for one in greedy)
        assert done < 10, f"{done} of 20 greedy requests went before"
        for one in greedy:
            one.cancel()
        await asyncio.gather(*(one.future for one in greedy))

    asked(10_000, test)
