"""Two servers with one folder of models and one store: a change reaches both, and no session changes its model."""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests.reference import Array, float32, same_bits
from tests.running import STORE, RunningServer, running_server

pytestmark = pytest.mark.slow

DATA = np.random.default_rng(0).standard_normal((9, 12), np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("replicas")
    shutil.copytree(STORE / "vowels-gru", found / "models" / "vowels")
    return found


@pytest.fixture(scope="module")
def pair(folder: Path) -> Iterator[tuple[RunningServer, RunningServer]]:
    """One looks at the folder all the time; the other one would not within a test."""
    shared = {"store_dir": folder / "store"}
    with running_server(folder / "models", poll=0.2, **shared) as first:
        with running_server(folder / "models", poll=600, **shared) as second:
            yield first, second


def ask(server: RunningServer, path: str, **body: Any) -> httpx.Response:
    return server.client.post(path, json=body)


def step(server: RunningServer, id: str, at: int, sequence: Array) -> httpx.Response:
    return ask(
        server, f"/v1/sessions/{id}/steps", at=at, sequence=sequence.tolist(), **{"return": "steps", "decode": False}
    )


def whole(server: RunningServer, version: int) -> Array:
    """The steps of all the data, by one version of the model."""
    body = {"sequence": DATA.tolist(), "return": "steps", "decode": False}
    answer = ask(server, f"/v1/models/vowels/versions/{version}/predict", **body).raise_for_status()
    return float32(answer.json()["results"][0]["outputs"])


def until_versions(server: RunningServer, versions: list[int]) -> None:
    until = time.monotonic() + 60
    while server.client.get("/v1/models/vowels").json()["versions"] != versions:
        assert time.monotonic() < until
        time.sleep(0.05)


def answered(server: RunningServer, id: str, at: int, sequence: Array) -> httpx.Response:
    """A step, sent again for as long as the server says that the model may come."""
    until = time.monotonic() + 60
    while (answer := step(server, id, at, sequence)).status_code == 503:
        assert (answer.json()["code"], answer.headers["retry-after"]) == ("model_loading", "1")
        assert time.monotonic() < until
        time.sleep(0.1)
    return answer


def test_sessions_keep_their_version_on_both_while_a_new_one_comes(
    pair: tuple[RunningServer, RunningServer], folder: Path
) -> None:
    first, second = pair
    old = ask(first, "/v1/models/vowels/sessions").json()["id"]
    rows = float32(step(first, old, 0, DATA[:4]).json()["outputs"])
    shutil.copytree(STORE / "vowels-lstm" / "1", folder / "models" / "vowels" / "2")
    until_versions(first, [1, 2])
    new = ask(first, "/v1/models/vowels/sessions").json()
    assert new["version"] == 2
    # The second server has not seen the version; the session makes it look.
    assert second.client.get("/v1/models/vowels").json()["versions"] == [1]
    assert step(second, new["id"], 0, DATA[:4]).json()["code"] == "model_loading"
    answer = answered(second, new["id"], 0, DATA[:4]).json()
    assert not answer["replayed"]
    assert same_bits(float32(answer["outputs"]), whole(first, 2)[:4])
    # The older session goes on with its own version at either.
    rest = step(second, old, 4, DATA[4:]).json()
    assert same_bits(np.concatenate([rows, float32(rest["outputs"])]), whole(first, 1))


def test_a_session_whose_file_is_gone_is_told_so_after_one_look(
    pair: tuple[RunningServer, RunningServer], folder: Path
) -> None:
    first, second = pair
    shutil.copytree(STORE / "vowels-rnn" / "1", folder / "models" / "vowels" / "3")
    until_versions(first, [1, 2, 3])
    id = ask(first, "/v1/models/vowels/sessions").json()["id"]
    shutil.rmtree(folder / "models" / "vowels" / "3")
    gone = answered(second, id, 0, DATA[:4])
    assert (gone.status_code, gone.json()["code"]) == (404, "unknown_model")
    assert step(second, id, 0, DATA[:4]).status_code == 404
