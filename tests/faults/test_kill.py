"""kill -9 at random moments under load: every session is where it said it was, or one step on, with the right bits."""

import os
import random
import signal
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
import pytest

from tests.reference import Array, expected, float32, same_bits
from tests.running import STORE, RunningServer, running_server

pytestmark = pytest.mark.slow

MODEL = "vowels-gru"
NUM_SESSIONS = 6
KILLS = int(os.environ.get("ELMAN_KILLS", "20"))


@dataclass
class Walker:
    """A session that is stepped by a client of its own: what was acknowledged, and what was sent and not answered."""

    id: str
    rng: np.random.Generator
    steps: list[Array] = field(default_factory=list)
    outputs: list[Array] = field(default_factory=list)
    step: int = 0
    pending: Array | None = None
    num_replayed: int = 0

    def walk(self, url: str) -> None:
        """Step until the server is gone."""
        with httpx.Client(base_url=url, timeout=30) as client:
            while self.take(client):
                pass

    def take(self, client: httpx.Client) -> bool:
        """One step, or the retry of the one that was not answered. False where there is no answer now either."""
        if self.pending is None:
            self.pending = self.rng.standard_normal((int(self.rng.integers(1, 6)), 12), np.float32)
        data = self.pending
        body = {"sequence": data.tolist(), "at": self.step, "return": "steps", "decode": False}
        try:
            answer = client.post(f"/v1/sessions/{self.id}/steps", json=body)
        except httpx.TransportError:
            return False
        assert answer.status_code == 200, answer.text
        result = answer.json()
        self.steps.append(data)
        self.outputs.append(float32(result["outputs"]))
        self.step += len(data)
        self.pending = None
        self.num_replayed += result["replayed"]
        assert result["step"] == self.step, "a step happened twice, or not at all"
        return True


def check_steps(server: RunningServer, walkers: list[Walker]) -> None:
    for walker in walkers:
        step = server.client.get(f"/v1/sessions/{walker.id}").raise_for_status().json()["step"]
        ahead = 0 if walker.pending is None else len(walker.pending)
        assert step in (walker.step, walker.step + ahead), f"{walker.step} was acknowledged and {step} found"


def test_nothing_is_lost_and_nothing_happens_twice_when_the_server_is_killed(tmp_path: Path) -> None:
    root, store = tmp_path / "models", tmp_path / "store"
    root.mkdir()
    (root / MODEL).symlink_to(STORE / MODEL)
    moment = random.Random(0)
    walkers: list[Walker] = []
    num_pending = 0
    # That a step was done and its answer lost is a matter of chance: with too few kills it does not happen.
    for life in range(4 * KILLS):
        with running_server(root, store_dir=store, poll=0, any_exit=True) as server:
            if not walkers:
                ids = [server.client.post(f"/v1/models/{MODEL}/sessions").json()["id"] for _ in range(NUM_SESSIONS)]
                walkers = [Walker(id, np.random.default_rng(seed)) for seed, id in enumerate(ids)]
            check_steps(server, walkers)
            if life >= KILLS:
                for walker in walkers:
                    assert walker.take(server.client)
                if any(walker.num_replayed for walker in walkers):
                    break
            threads = [threading.Thread(target=walker.walk, args=(server.url,)) for walker in walkers]
            for thread in threads:
                thread.start()
            time.sleep(moment.uniform(0.02, 0.4))
            server.process.send_signal(signal.SIGKILL)
            for thread in threads:
                thread.join(60)
            num_pending += sum(walker.pending is not None for walker in walkers)
    assert num_pending > KILLS, "no load was on when it was killed"
    assert sum(walker.num_replayed for walker in walkers) > 0, "no step was ever done and not answered"
    for walker in walkers:
        assert walker.step > KILLS
        assert same_bits(np.concatenate(walker.outputs), expected(MODEL, np.concatenate(walker.steps)))
