"""Two servers that share a Redis: any steps any session, and a Redis that stops harms sessions only, while it does."""

import shutil
import signal
import time
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest

from tests.redis_servers import RedisServer, running_redis
from tests.reference import expected, float32, same_bits
from tests.running import STORE, RunningServer, running_server

pytestmark = pytest.mark.slow

MODEL = "vowels-gru"
# A busy machine may take a while.
PATIENT = "?socket_timeout=1&socket_connect_timeout=1"


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with running_redis() as one:
        yield one


@pytest.fixture(scope="module")
def servers(redis: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[RunningServer]]:
    models = tmp_path_factory.mktemp("models")
    shutil.copytree(STORE / MODEL, models / MODEL)
    settings = {"poll": 0, "store": redis.url.replace("//", "//default:topsecret@") + PATIENT}
    redis.ask("CONFIG", "SET", "requirepass", "topsecret")
    with running_server(models, **settings) as here, running_server(models, **settings) as there:
        yield [here, there]


def sequence(length: int, seed: int) -> Any:
    return np.random.default_rng(seed).standard_normal((length, 12), np.float32)


def step(server: RunningServer, id: str, data: Any, **body: object) -> httpx.Response:
    asked = {"sequence": data.tolist(), "return": "steps", **body}
    return server.client.post(f"/v1/sessions/{id}/steps", json=asked)


def begin(server: RunningServer) -> str:
    return str(server.client.post(f"/v1/models/{MODEL}/sessions", json={}).raise_for_status().json()["id"])


def predict_well(server: RunningServer) -> None:
    data = sequence(5, 9)
    result = server.predict(MODEL, sequence=data.tolist(), **{"return": "steps"}).raise_for_status().json()
    assert same_bits(float32(result["results"][0]["outputs"]), expected(MODEL, data))


def test_any_server_steps_any_session(servers: list[RunningServer]) -> None:
    here, there = servers
    data, id = sequence(12, 1), begin(here)
    rows = []
    for at, server in zip(range(0, 12, 3), (here, there, there, here), strict=True):
        sure = {"at": at} if at % 2 else {}
        answer = step(server, id, data[at : at + 3], **sure).raise_for_status().json()
        assert answer["step"] == at + 3
        rows += answer["outputs"]
    assert same_bits(float32(rows), expected(MODEL, data))
    again = step(there, id, data[9:], at=9).json()
    assert again["replayed"] and same_bits(float32(again["outputs"]), expected(MODEL, data)[9:])
    assert step(there, id, data, at=3).json()["expected"] == 12
    assert id in [one["id"] for one in there.client.get("/v1/sessions").json()["sessions"]]


def test_a_state_token_of_one_server_is_opened_by_the_other(servers: list[RunningServer]) -> None:
    here, there = servers
    data = sequence(6, 2)
    token = here.predict(MODEL, sequence=data[:4].tolist(), return_state=True).json()["results"][0]["state"]
    answer = there.predict(MODEL, sequence=data[4:].tolist(), state=token).raise_for_status().json()["results"][0]
    assert same_bits(float32(answer["output"]), expected(MODEL, data)[-1])


def test_while_redis_stands_still_predictions_go_on_and_afterwards_sessions_do(
    servers: list[RunningServer], redis: RedisServer
) -> None:
    here, there = servers
    data, id = sequence(6, 3), begin(here)
    step(here, id, data[:3], at=0).raise_for_status()
    redis.signal(signal.SIGSTOP)
    try:
        # It was sent and not answered, or not sent, as another call was not answered before.
        first = step(here, id, data[3:], at=3)
        assert first.status_code == 503 and first.json()["code"] in ("outcome_unknown", "store_unavailable")
        assert ("retry-after" in first.headers) == (first.json()["code"] == "store_unavailable")
        for server in servers:
            predict_well(server)
            assert server.client.get("/readyz").status_code == 200
        # The record must be read anew, and what is only read is never unknown.
        refused = step(here, id, data[3:], at=3)
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    finally:
        redis.signal(signal.SIGCONT)
    answer = stepped(there, id, data[3:], at=3)
    assert answer["step"] == 6
    assert same_bits(float32(answer["outputs"]), expected(MODEL, data)[3:])
    again = stepped(here, id, data[3:], at=3)
    assert again["replayed"] and again["outputs"] == answer["outputs"]
    assert stepped(here, id, data, at=6)["step"] == 12
    predict_well(here)


def stepped(server: RunningServer, id: str, data: Any, at: int) -> dict[str, Any]:
    """The answer to a step once the store works again."""
    until = time.monotonic() + 60.0
    while (answer := step(server, id, data, at=at)).status_code == 503:
        assert time.monotonic() < until, answer.text
        time.sleep(0.05)
    return dict(answer.raise_for_status().json())


def test_no_log_line_tells_the_password(servers: list[RunningServer]) -> None:
    for server in servers:
        assert "topsecret" not in server.log.read_text()
    assert "the session store works again" in servers[0].log.read_text()
