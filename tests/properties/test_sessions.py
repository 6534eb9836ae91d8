"""Whatever is done to sessions, in whatever order, their outputs are those of ONNX Runtime run plainly, to the bit."""

import shutil
import signal
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from tests.redis_servers import MANY, redis_server
from tests.reference import Array, expected, float32, same_bits
from tests.running import STORE, RunningServer, running_server

pytestmark = pytest.mark.slow

MODELS = ("vowels-lstm", "vowels-gru")
# Of the whole run, not of one example: each takes seconds.
MOST_RESTARTS, MOST_EXPIRIES = 14, 10
WANTED_STEPS = 10_000
HAPPENINGS = ("restarts", "races", "replays")

# Long pieces among the short ones make many steps of few requests.
lengths = st.integers(1, 24) | st.integers(25, 200)
seeds = st.integers(0, 2**16)
models = st.sampled_from(MODELS)


@dataclass
class Twin:
    """What a session must be: every input it has read, and those of its last step."""

    id: str
    model: str
    history: Array
    last: Array | None = None
    alive: bool = True

    @property
    def step(self) -> int:
        return len(self.history)


@dataclass
class Kept:
    """A state token, and what was read when it was made."""

    token: str
    model: str
    history: Array


@dataclass
class World:
    """One server for the whole run, restarted over one store."""

    root: Path
    store: str = "lmdb"
    share: float = 1.0
    """Of what takes seconds, the part that may happen."""
    counts: Counter[str] = field(default_factory=Counter)
    server: RunningServer | None = None
    running: Any = None

    @property
    def client(self) -> httpx.Client:
        assert self.server is not None
        return self.server.client

    def start(self) -> None:
        # The exit code is checked by those who stop it: kill -9 leaves none to be proud of.
        self.running = running_server(
            self.root / "models", store=self.store, store_dir=self.root / "store", poll=0, any_exit=True
        )
        self.server = self.running.__enter__()

    def stop(self, how: signal.Signals) -> None:
        assert self.server is not None
        self.server.process.send_signal(how)
        self.server.process.wait(40)
        self.running.__exit__(None, None, None)


def draw(length: int, seed: int) -> Array:
    return np.random.default_rng(seed).standard_normal((length, 12), np.float32)


class SessionMachine(RuleBasedStateMachine):
    world: World
    sessions = Bundle("sessions")
    tokens = Bundle("tokens")

    def __init__(self) -> None:
        super().__init__()
        self.twins: list[Twin] = []

    def post(self, path: str, body: dict[str, Any], status: int = 200) -> dict[str, Any]:
        answer = self.world.client.post(path, json=body)
        assert answer.status_code == status, (answer.status_code, answer.text)
        return dict(answer.json())

    def step_of(self, twin: Twin, data: Array, at: int | None, status: int = 200) -> dict[str, Any]:
        body: dict[str, Any] = {"sequence": data.tolist(), "return": "steps", "decode": False}
        if at is not None:
            body["at"] = at
        return self.post(f"/v1/sessions/{twin.id}/steps", body, status)

    def may(self, what: str, most: int) -> bool:
        """Whether there is time for what takes seconds. No precondition: what is drawn must not depend on it."""
        if self.world.counts[what] >= most * self.world.share:
            return False
        self.world.counts[what] += 1
        return True

    def check(self, twin: Twin, answer: dict[str, Any], data: Array, replayed: bool) -> None:
        assert (answer["step"], answer["replayed"]) == (twin.step, replayed)
        assert same_bits(float32(answer["outputs"]), expected(twin.model, twin.history)[-len(data) :])
        self.world.counts["steps"] += len(data)

    def moved(self, twin: Twin, data: Array) -> None:
        twin.history, twin.last = np.concatenate([twin.history, data]), data

    def born(self, made: dict[str, Any], model: str, history: Array) -> Twin:
        assert (made["model"], made["step"]) == (model, len(history))
        twin = Twin(made["id"], model, history)
        self.twins.append(twin)
        return twin

    @initialize(target=sessions, model=models)
    def first(self, model: str) -> Twin:
        return self.create(model)

    @rule(target=sessions, model=models)
    def create_one(self, model: str) -> Twin:
        return self.create(model)

    def create(self, model: str) -> Twin:
        made = self.post(f"/v1/models/{model}/versions/1/sessions", {}, 201)
        return self.born(made, model, np.zeros((0, 12), np.float32))

    @rule(twin=sessions, length=lengths, seed=seeds, sure=st.booleans())
    def step(self, twin: Twin, length: int, seed: int, sure: bool) -> None:
        if twin.alive:
            data = draw(length, seed)
            answer = self.step_of(twin, data, twin.step if sure else None)
            self.moved(twin, data)
            self.check(twin, answer, data, replayed=False)

    @rule(twin=sessions)
    def retry(self, twin: Twin) -> None:
        if twin.alive and twin.last is not None:
            answer = self.step_of(twin, twin.last, twin.step - len(twin.last))
            self.check(twin, answer, twin.last, replayed=True)
            self.world.counts["replays"] += 1

    @rule(twin=sessions, length=lengths, seed=seeds)
    def reuse(self, twin: Twin, length: int, seed: int) -> None:
        if twin.alive and twin.last is not None:
            other = draw(length, seed + 2**20)
            answer = self.step_of(twin, other, twin.step - len(twin.last), 422)
            assert (answer["code"], answer["expected"]) == ("step_reused", twin.step)

    @rule(twin=sessions, ahead=st.integers(1, 9), seed=seeds)
    def leave_a_gap(self, twin: Twin, ahead: int, seed: int) -> None:
        if twin.alive:
            answer = self.step_of(twin, draw(1, seed), twin.step + ahead, 409)
            assert (answer["code"], answer["expected"]) == ("step_conflict", twin.step)

    @rule(twin=sessions, length=lengths, seed=seeds)
    def race(self, twin: Twin, length: int, seed: int) -> None:
        """Two send the same step at once: it happens once, and both are answered."""
        if not twin.alive:
            return
        data, at, answers = draw(length, seed), twin.step, list[httpx.Response]()
        body = {"sequence": data.tolist(), "return": "steps", "decode": False, "at": at}

        def send() -> None:
            answers.append(self.world.client.post(f"/v1/sessions/{twin.id}/steps", json=body))

        threads = [threading.Thread(target=send) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        self.moved(twin, data)
        replayed = sorted(answers, key=lambda answer: bool(answer.json()["replayed"]))
        for answer, again in zip(replayed, (False, True), strict=True):
            assert answer.status_code == 200, answer.text
            self.check(twin, answer.json(), data, again)
        self.world.counts["races"] += 1

    @rule(target=sessions, twin=sessions)
    def fork(self, twin: Twin) -> Twin:
        if not twin.alive:
            return self.create(twin.model)
        made = self.post(f"/v1/sessions/{twin.id}/fork", {}, 201)
        return self.born(made, twin.model, twin.history)

    @rule(target=tokens, twin=sessions)
    def take_state(self, twin: Twin) -> Kept:
        if not twin.alive:
            twin = self.create(twin.model)
        answer = self.world.client.get(f"/v1/sessions/{twin.id}/state").json()
        assert answer["step"] == twin.step
        return Kept(answer["state"], twin.model, twin.history)

    @rule(twin=sessions, kept=tokens)
    def rewind(self, twin: Twin, kept: Kept) -> None:
        if twin.alive:
            fits = twin.model == kept.model
            answer = self.world.client.put(f"/v1/sessions/{twin.id}/state", json={"state": kept.token})
            assert answer.status_code == (200 if fits else 422), answer.text
            if fits:
                assert answer.json()["step"] == len(kept.history)
                twin.history, twin.last = kept.history, None

    @rule(target=sessions, kept=tokens)
    def begin_at(self, kept: Kept) -> Twin:
        made = self.post(f"/v1/models/{kept.model}/versions/1/sessions", {"state": kept.token}, 201)
        return self.born(made, kept.model, kept.history)

    @rule(target=tokens, kept=tokens, length=lengths, seed=seeds)
    def predict_from(self, kept: Kept, length: int, seed: int) -> Kept:
        data = draw(length, seed)
        body = {"sequence": data.tolist(), "state": kept.token, "return_state": True, "return": "steps"}
        result = self.post(f"/v1/models/{kept.model}/versions/1/predict", body)["results"][0]
        history = np.concatenate([kept.history, data])
        assert result["step"] == len(history)
        assert same_bits(float32(result["outputs"]), expected(kept.model, history)[-length:])
        self.world.counts["steps"] += length
        return Kept(result["state"], kept.model, history)

    @rule(twin=consumes(sessions))
    def delete(self, twin: Twin) -> None:
        if twin.alive:
            assert self.world.client.delete(f"/v1/sessions/{twin.id}").status_code == 204
            twin.alive = False
            self.step_of(twin, draw(1, 0), None, 404)

    @rule(model=models)
    def expire(self, model: str) -> None:
        if not self.may("expiries", MOST_EXPIRIES):
            return
        made = self.post(f"/v1/models/{model}/versions/1/sessions", {"ttl": 0.2}, 201)
        time.sleep(0.3)
        self.step_of(Twin(made["id"], model, draw(0, 0)), draw(1, 0), None, 404)

    @rule(model=models)
    def reload(self, model: str) -> None:
        """The same file again, and another version beside it: a session stays with the one that it began with."""
        if not self.may("reloads", 2 * MOST_RESTARTS):
            return
        folder = self.world.root / "models" / model
        if not (folder / "2").exists():
            shutil.copytree(STORE / "vowels-rnn" / "1", folder / "2")
        (folder / "1" / "model.onnx").touch()
        answer = self.world.client.post(f"/v2/repository/models/{model}/load")
        # Servers that share sessions take models from the folder alone.
        shared = "://" in self.world.store
        assert answer.status_code == (409 if shared else 200), answer.text

    @rule(how=st.sampled_from([signal.SIGKILL, signal.SIGTERM]))
    def restart(self, how: signal.Signals) -> None:
        if self.may("restarts", MOST_RESTARTS):
            self.world.stop(how)
            self.world.start()

    @invariant()
    def every_session_is_where_it_should_be(self) -> None:
        for twin in self.twins[-2:]:
            answer = self.world.client.get(f"/v1/sessions/{twin.id}")
            assert answer.status_code == (200 if twin.alive else 404)
            if twin.alive:
                assert (answer.json()["step"], answer.json()["version"]) == (twin.step, 1)

    def teardown(self) -> None:
        for twin in self.twins:
            if twin.alive:
                self.world.client.delete(f"/v1/sessions/{twin.id}")


def check_world(store: str, max_examples: int, wanted_steps: int, share: float = 1.0) -> None:
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder), store, share)
        for model in MODELS:
            shutil.copytree(STORE / model, world.root / "models" / model)
        world.start()
        try:
            machine = type("Machine", (SessionMachine,), {"world": world})
            test = machine.TestCase
            # Other examples in each round, also in CI. With the same ones the loop might not end.
            test.settings = settings(
                max_examples=max_examples, stateful_step_count=50, deadline=None, database=None, derandomize=False
            )
            while world.counts["steps"] < wanted_steps or not all(world.counts[what] for what in HAPPENINGS):
                test().runTest()
        finally:
            world.stop(signal.SIGTERM)


def test_sessions_are_plain_sequences_whatever_is_done_to_them() -> None:
    check_world("lmdb", 28, WANTED_STEPS)


def test_sessions_in_redis_are_too() -> None:
    """With fewer examples, unless more are asked for: what the store does has a test of its own."""
    with redis_server("redis", "--appendonly", "yes") as url:
        check_world(f"{url}?socket_timeout=30&socket_connect_timeout=30", MANY or 3, 100, 1.0 if MANY else 0.1)
