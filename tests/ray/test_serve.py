"""Elman on Ray Serve: real replicas, and a real Redis that holds their sessions."""

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from benchmarks.processes import free_port
from elman.app import create_app
from elman.ray import Replica, deployment
from elman.settings import Settings
from tests.redis_servers import redis_server
from tests.reference import Reference
from tests.running import LOADS, STORE

# Ray leaves sockets and files to the garbage collector.
pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore")]

MODEL = "vowels-lstm"
REDIS = "redis://127.0.0.1:1"


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"num_replicas": 2}, "several replicas need a store that they share, and store='lmdb'"),
        ({"num_replicas": "auto"}, "several replicas"),
        ({"autoscaling_config": {"min_replicas": 1, "max_replicas": 3}}, "several replicas"),
        ({"store": "memory", "num_replicas": 2}, "store='memory'"),
        ({"workers": 2}, "leave out workers, and give num_replicas"),
        ({"store": REDIS, "grpc_port": 0, "admin_port": 0}, "leave out admin_port, grpc_port"),
        ({"models": None}, "there is no model repository"),
    ],
)
def test_what_replicas_cannot_do_is_refused(small_store: Path, wrong: dict[str, Any], why: str) -> None:
    given = {name: value for name, value in wrong.items() if name in Settings.model_fields}
    options = {name: value for name, value in wrong.items() if name not in given}
    with pytest.raises(ValueError, match=why):
        deployment(Settings(**{"models": small_store, **given}), **options)


def test_replicas_without_a_shared_store_are_one_and_with_one_they_grow(small_store: Path) -> None:
    alone = deployment(Settings(models=small_store, drain_timeout=20))
    assert (alone.num_replicas, alone.max_ongoing_requests) == (1, 200)
    assert alone._deployment_config.graceful_shutdown_timeout_s > 20
    shared = deployment(Settings(models=small_store, store=REDIS))
    assert shared._deployment_config.autoscaling_config.max_replicas > 1
    fixed = deployment(Settings(models=small_store, store=REDIS), num_replicas=3, name="mine", max_ongoing_requests=7)
    assert (fixed.num_replicas, fixed.name, fixed.max_ongoing_requests) == (3, "mine", 7)


def test_a_replica_whose_engine_does_not_run_is_not_healthy(small_store: Path) -> None:
    async def check() -> None:
        app = replica.app
        async with app.router.lifespan_context(app):
            await replica.check_health()
        with pytest.raises(RuntimeError, match="the engine's threads are not running"):
            await replica.check_health()

    replica = Replica()
    replica.app = create_app(Settings(models=small_store, store="memory", poll=0, load_cache_dir=LOADS))
    asyncio.run(check())


@pytest.fixture(scope="module")
def client(cluster: None, small_store: Path) -> Iterator[httpx.Client]:
    """A client of two replicas."""
    from ray import serve

    with redis_server() as store:
        settings = Settings(models=small_store, store=store, poll=0, load_cache_dir=LOADS, store_timeout=60)
        port = free_port()
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        serve.run(deployment(settings, num_replicas=2, ray_actor_options={"num_cpus": 0.5}).bind())
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as one:
                yield one
        finally:
            serve.shutdown()


def processes(client: httpx.Client) -> set[int]:
    """The replicas that answer."""
    return {client.get("/v1/engine").json()["process"] for _ in range(40)}


def answered(client: httpx.Client, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """The answer to a request that is sent again while a replica is gone, as a client does."""
    until = time.monotonic() + 60
    while True:
        try:
            response = client.post(path, json=body)
            if response.status_code == 200:
                found: dict[str, Any] = response.json()
                return found
            assert response.status_code >= 500, response.text
        except httpx.TransportError:
            pass
        assert time.monotonic() < until, "no replica answers"
        time.sleep(0.1)


def test_answers_are_those_of_the_model(client: httpx.Client) -> None:
    sequence = np.random.default_rng(3).standard_normal((9, 12)).astype(np.float32)
    asked = {"sequence": sequence.tolist(), "return": "steps"}
    (result,) = client.post(f"/v1/models/{MODEL}/predict", json=asked).json()["results"]
    expected = Reference(STORE / MODEL / "1" / "model.onnx").outputs(sequence)
    assert np.array_equal(np.array(result["outputs"], np.float32), expected)
    refused = client.post(f"/v1/models/{MODEL}/predict", json={"sequence": [[1.0]]})
    assert (refused.status_code, refused.headers["content-type"]) == (422, "application/problem+json")


def test_any_replica_steps_a_session_also_after_one_was_killed(client: httpx.Client) -> None:
    replicas = processes(client)
    assert len(replicas) == 2
    sequence = np.random.default_rng(4).standard_normal((30, 12)).astype(np.float32)
    expected = Reference(STORE / MODEL / "1" / "model.onnx").outputs(sequence)
    session = client.post(f"/v1/models/{MODEL}/sessions").json()["id"]
    for at, row in enumerate(sequence):
        if at == 15:
            os.kill(min(replicas), signal.SIGKILL)
        step = answered(client, f"/v1/sessions/{session}/steps", {"sequence": [row.tolist()], "at": at})
        assert np.array_equal(np.array(step["output"], np.float32), expected[at])
    assert client.get(f"/v1/sessions/{session}").json()["step"] == len(sequence)
