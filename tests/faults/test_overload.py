"""A full queue is said to be full, and loses nothing that it took."""

import asyncio
from collections import Counter
from collections.abc import Callable
from itertools import chain

import httpx
import numpy as np
import pytest

from tests.reference import expected, float32, same_bits
from tests.running import RunningServer

pytestmark = pytest.mark.slow

NUM_REQUESTS = 2000
NUM_CALLERS = 40


def test_of_two_thousand_requests_thrown_at_a_small_queue_each_is_answered_or_refused(
    start_server: Callable[..., RunningServer],
) -> None:
    server = start_server(max_queue=8)
    sequence = np.random.default_rng(0).standard_normal((150, 12)).astype(np.float32)
    content = sequence.tobytes()
    headers = {"content-type": "application/octet-stream", "accept": "application/octet-stream"}

    async def throw() -> list[httpx.Response]:
        left = iter(range(NUM_REQUESTS))

        async def keep_sending() -> list[httpx.Response]:
            # A client of its own: one that all share looks through all its connections for each request.
            async with httpx.AsyncClient(base_url=server.url, timeout=300.0, verify=False) as client:
                url = "/v1/models/vowels-gru/predict"
                return [await client.post(url, content=content, headers=headers) for _ in left]

        return list(chain.from_iterable(await asyncio.gather(*(keep_sending() for _ in range(NUM_CALLERS)))))

    responses = asyncio.run(throw())
    by_status = Counter(response.status_code for response in responses)
    assert set(by_status) == {200, 503}, by_status
    assert sum(by_status.values()) == NUM_REQUESTS

    wanted = expected("vowels-gru", sequence)[-1].tobytes()
    for response in responses:
        if response.status_code == 200:
            assert response.content == wanted
        else:
            assert response.headers["content-type"] == "application/problem+json"
            assert response.json()["code"] == "overloaded"
            assert int(response.headers["retry-after"]) >= 1

    figures = server.stats()
    labels = ("vowels-gru", "1")
    assert figures["elman_sequences_total", labels] == by_status[200]
    assert figures["elman_steps_total", labels] == 150 * by_status[200]
    assert figures["elman_errors_total", ("overloaded",)] == by_status[503]
    assert figures["elman_pending_sequences", ()] == 0
    assert server.predict("vowels-gru", sequence=[[0.0] * 12]).status_code == 200


def test_a_request_that_the_queue_has_no_room_for_leaves_none_of_its_sequences_behind(
    start_server: Callable[..., RunningServer],
) -> None:
    server = start_server(max_queue=10)
    content = np.zeros((400_000, 12), "<f4").tobytes()
    headers = {"content-type": "application/octet-stream"}
    url = "/v1/models/vowels-lstm/predict"

    async def both() -> tuple[httpx.Response, httpx.Response, httpx.Response]:
        async with httpx.AsyncClient(base_url=server.url, timeout=300.0) as client:
            running = asyncio.create_task(client.post(url, content=content, headers=headers))
            while server.stats()["elman_pending_sequences", ()] != 1:
                await asyncio.sleep(0.02)
            too_many = await client.post(url, json={"sequences": [[[0.5] * 12]] * 10})
            enough = await client.post(url, json={"sequences": [[[0.5] * 12]] * 9})
            return await running, too_many, enough

    running, too_many, enough = asyncio.run(both())
    assert (running.status_code, too_many.status_code, enough.status_code) == (200, 503, 200)
    wanted = expected("vowels-lstm", np.full((1, 12), 0.5, np.float32))[0]
    assert all(same_bits(float32(one["output"]), wanted) for one in enough.json()["results"])
    assert server.stats()["elman_sequences_total", ("vowels-lstm", "1")] == 10
