"""A store on a full disk: sessions are refused or go on, nothing is lost, and everything else is served."""

import subprocess
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from elman.cli.exits import USAGE
from elman.http.keys import KeyEntry, hash_of, written
from tests.cli.command import COMMAND
from tests.disks import MAY_MOUNT, fill_up, mounted
from tests.reference import Array, expected, float32, same_bits
from tests.running import LOADS, STORE, RunningServer, environment, running_server
from tests.waiting import wait_until

pytestmark = pytest.mark.slow

MODEL = "vowels-gru"
KEY = {"authorization": "Bearer alice-key"}


@pytest.fixture
def models(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / MODEL).symlink_to(STORE / MODEL)
    return folder


def sequence(length: int, seed: int) -> Array:
    return np.random.default_rng(seed).standard_normal((length, 12), np.float32)


def predict_well(server: RunningServer) -> None:
    data = sequence(5, 9)
    answer = httpx.post(
        f"{server.url}/v1/models/{MODEL}/predict", json={"sequence": data.tolist()}, headers=KEY, timeout=60
    )
    (result,) = answer.raise_for_status().json()["results"]
    assert same_bits(float32(result["output"]), expected(MODEL, data)[-1])


@pytest.mark.skipif(not MAY_MOUNT, reason="only root mounts a small disk")
def test_a_server_starts_on_a_full_disk_and_has_sessions_once_there_is_room(models: Path, tmp_path: Path) -> None:
    keys, disk = tmp_path / "keys.json", tmp_path / "disk"
    keys.touch(mode=0o600)
    keys.write_bytes(
        written(
            [KeyEntry(name="alice", hashes=(hash_of("alice-key"),), roles=("infer", "sessions"), steps_per_second=1e6)]
        )
    )
    settings = {"workers": 2, "api_keys_file": keys, "poll": 0, "load_cache_dir": LOADS}
    with mounted(disk, "8m"):
        others = fill_up(disk)
        with running_server(models, store_dir=disk / "store", **settings) as server:
            begun: list[str] = []

            def taken(path: str, **body: object) -> dict[str, Any] | None:
                """What is answered on a connection of its own. None where that worker has no store yet."""
                answer = httpx.post(f"{server.url}{path}", json=body, headers=KEY, timeout=60)
                if answer.is_success:
                    return dict(answer.json())
                assert (answer.status_code, answer.json()["code"]) == (503, "store_unavailable")
                return None

            def begins() -> bool:
                answer = taken(f"/v1/models/{MODEL}/sessions")
                begun.extend([answer["id"]] if answer else [])
                return bool(answer)

            def goes_on() -> bool:
                answer = taken(f"/v1/sessions/{begun[0]}/steps", sequence=sequence(3, 1).tolist(), at=0)
                assert answer is None or answer["step"] == 3
                return bool(answer)

            for _ in range(10):
                predict_well(server)
                assert not begins()
            assert "ended with" not in server.log.read_text()
            others.unlink()
            wait_until(begins, "no session begins")
            predict_well(server)
            wait_until(goes_on, "the session does not go on")


class Walker:
    """A session that is stepped, and all that was acknowledged of it."""

    def __init__(self, server: RunningServer) -> None:
        self.id = server.client.post(f"/v1/models/{MODEL}/sessions").raise_for_status().json()["id"]
        self.steps = [sequence(2, 0)]
        self.outputs: list[Array] = []

    def walk(self, server: RunningServer) -> bool:
        """One request of two steps, the last one again if it was refused. False if it is refused."""
        body = {"sequence": self.steps[-1].tolist(), "at": 2 * len(self.outputs), "return": "steps"}
        answer = server.client.post(f"/v1/sessions/{self.id}/steps", json=body)
        if answer.status_code != 200:
            assert (answer.status_code, answer.json()["code"]) == (503, "store_unavailable")
            return False
        self.outputs.append(float32(answer.json()["outputs"]))
        self.steps.append(sequence(2, len(self.outputs)))
        return True

    def is_where_it_was(self, server: RunningServer) -> bool:
        found = server.client.get(f"/v1/sessions/{self.id}").raise_for_status().json()["step"]
        return bool(found == 2 * len(self.outputs))


@pytest.mark.skipif(not MAY_MOUNT, reason="only root mounts a small disk")
def test_what_was_acknowledged_outlives_a_kill_on_a_full_disk(models: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    settings = {"store_dir": disk / "store", "poll": 0, "load_cache_dir": LOADS}
    with mounted(disk, "8m"), ThreadPoolExecutor(20) as pool:
        with running_server(models, any_exit=True, **settings) as server:
            walkers = [Walker(server) for _ in range(20)]
            others = fill_up(disk)
            for _ in range(10):
                list(pool.map(lambda one: one.walk(server), walkers))
            predict_well(server)
            server.process.kill()
        with running_server(models, **settings) as server:
            predict_well(server)
            assert all(one.is_where_it_was(server) for one in walkers)
            gone, kept = walkers[:5], walkers[5:]
            for one in gone:
                assert server.client.delete(f"/v1/sessions/{one.id}").status_code == 204
            others.unlink()
            for one in kept:
                wait_until(partial(one.walk, server), "a session does not go on")
                assert same_bits(np.concatenate(one.outputs), expected(MODEL, np.concatenate(one.steps[:-1])))


def test_a_command_that_cannot_say_why_it_ends_has_its_own_exit_code(tmp_path: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [*COMMAND, "serve"], cwd=tmp_path, env=environment(), stdout=full, stderr=full, timeout=60
        )
    assert done.returncode == USAGE
