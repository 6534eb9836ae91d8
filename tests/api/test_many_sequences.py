"""A request with thousands of short sequences, or with a long text, does not hold the event loop."""

import asyncio
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from elman.app import create_app
from elman.settings import Settings
from tests.running import STORE
from tests.waiting import assert_undisturbed

pytestmark = pytest.mark.slow

NUM_SEQUENCES = 18_000
# Processor time of the event loop's thread between two of its turns, which depends little on other processes.
MOST_SECONDS = 0.05


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("many")
    for name in ("names-gru", "vowels-gru", "sunspots-gru"):
        (folder / name).symlink_to(STORE / name)
    return folder


async def ask(models: Path, path: str, body: Any) -> tuple[Any, float]:
    """The answer, and the longest turn of the event loop meanwhile, in its processor time."""
    app = create_app(Settings(models=models, store="memory", poll=0, run_timeout=60))
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
        await asyncio.sleep(0)  # it has begun
        response = await client.send(content)
        watching.cancel()
        assert response.status_code == 200, response.text[:300]
        last = {name: value[-1:] if isinstance(value, list) else value for name, value in body.items()}
        alone = await client.post(path, json=last)
        return (response.json()["results"], alone.json()["results"][0]), longest


TEXTS = ["Ab"] * (NUM_SEQUENCES - 1) + ["Zoe"]
LONG = ["~" * 500_000]  # not so long that the codec pool decodes it


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("names-gru/predict", {"sequences": TEXTS}),
        ("names-gru/predict", {"sequences": TEXTS, "return_state": True}),
        ("names-gru/predict", {"sequences": TEXTS, "hidden": True}),
        ("vowels-gru/predict", {"sequences": [[[0.5] * 12]] * (NUM_SEQUENCES - 1) + [np.eye(12).tolist()]}),
        ("names-gru/predict", {"sequences": LONG}),
        ("sunspots-gru/forecast", {"series_list": [[1.0, 2.0]] * NUM_SEQUENCES, "horizon": 2}),
    ],
    ids=["texts", "texts with states", "texts with traces", "rows", "one long text", "series"],
)
def test_what_a_request_of_megabytes_needs_does_not_hold_the_event_loop(
    models: Path, path: str, body: dict[str, Any]
) -> None:
    many = body.get("sequences") or body["series_list"]

    def longest_turn() -> float:
        (results, alone), longest = asyncio.run(ask(models, f"/v1/models/{path}", body))
        assert len(results) == len(many)
        for name in ("output", "point", "length"):
            assert results[-1].get(name) == alone.get(name)
        return longest

    assert_undisturbed(longest_turn, lambda seconds: seconds < MOST_SECONDS)
