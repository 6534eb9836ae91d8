"""A request with thousands of short sequences does not hold the event loop."""

import asyncio
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from elman.app import create_app
from elman.settings import Settings
from tests.waiting import assert_undisturbed

pytestmark = pytest.mark.slow

NUM_SEQUENCES = 18_000
# Processor time of the event loop's thread between two of its turns, which depends little on other processes.
MOST_SECONDS = 0.06


async def ask(models: Path, path: str, body: Any) -> tuple[Any, float]:
    """The answer, and the longest turn of the event loop meanwhile, in its processor time."""
    app = create_app(Settings(models=models, store="memory", poll=0))
    transport = httpx.ASGITransport(app)
    longest = 0.0

    async def watch() -> None:
        nonlocal longest
        while True:
            before = time.thread_time()
            await asyncio.sleep(0.002)
            longest = max(longest, time.thread_time() - before)

    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=120.0) as client,
    ):
        content = client.build_request("POST", path, json=body)
        watching = asyncio.create_task(watch())
        response = await client.send(content)
        watching.cancel()
        assert response.status_code == 200, response.text[:300]
        alone = await client.post(path, json={**body, "sequences": body["sequences"][-1:]})
        return (response.json()["results"], alone.json()["results"][0]), longest


@pytest.mark.parametrize(
    ("name", "sequences"),
    [
        ("names-gru", ["Ab"] * (NUM_SEQUENCES - 1) + ["Zoe"]),
        ("vowels-gru", [[[0.5] * 12]] * (NUM_SEQUENCES - 1) + [np.eye(12).tolist()]),
    ],
    ids=["texts", "rows"],
)
def test_thousands_of_short_sequences_do_not_hold_the_event_loop(
    small_store: Path, name: str, sequences: list[Any]
) -> None:
    def longest_turn() -> float:
        body = {"sequences": sequences}
        (results, alone), longest = asyncio.run(ask(small_store, f"/v1/models/{name}/predict", body))
        assert len(results) == NUM_SEQUENCES
        assert results[-1] == alone and results[0]["length"] == len(sequences[0])
        return longest

    assert_undisturbed(longest_turn, lambda seconds: seconds < MOST_SECONDS)
