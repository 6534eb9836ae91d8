"""Four worker processes on one store: any of them steps any session, and a step still happens once."""

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests.reference import Array, expected, float32, same_bits
from tests.running import STORE, RunningServer, running_server
from tests.waiting import wait_until

pytestmark = pytest.mark.slow

MODEL = "vowels-gru"
NUM_WORKERS = 4


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("workers")
    (folder / "models").mkdir()
    (folder / "models" / MODEL).symlink_to(STORE / MODEL)
    flags = ("--workers", str(NUM_WORKERS), "--store-dir", str(folder / "store"))
    with running_server(folder / "models", *flags, poll=0) as one:
        yield one


@pytest.fixture(scope="module")
def clients(workers: RunningServer) -> Iterator[list[httpx.Client]]:
    """Clients whose kept connections lead to different workers."""
    found: dict[int, httpx.Client] = {}
    made = []
    try:
        for _ in range(400):
            made.append(httpx.Client(base_url=workers.url, timeout=60))
            found.setdefault(made[-1].get("/v1/engine").json()["process"], made[-1])
            if len(found) == NUM_WORKERS:
                break
        assert len(found) >= 2, "one worker takes every connection"
        yield list(found.values())
    finally:
        for client in made:
            client.close()


def sequence(length: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal((length, 12), np.float32)


def create(client: httpx.Client) -> str:
    return str(client.post(f"/v1/models/{MODEL}/sessions").raise_for_status().json()["id"])


def step(client: httpx.Client, id: str, data: Array, at: int | None = None) -> httpx.Response:
    body: dict[str, Any] = {"sequence": data.tolist(), "return": "steps", "decode": False}
    return client.post(f"/v1/sessions/{id}/steps", json=body if at is None else {**body, "at": at})


@pytest.mark.parametrize("sure", [True, False])
def test_a_session_is_stepped_through_any_worker(clients: list[httpx.Client], sure: bool) -> None:
    data = sequence(60)
    id = create(clients[0])
    rows = []
    for at in range(0, 60, 3):
        client = clients[(at // 3) % len(clients)]
        answer = step(client, id, data[at : at + 3], at if sure else None)
        assert answer.status_code == 200, answer.text
        rows.append(float32(answer.json()["outputs"]))
        other = clients[(at // 3 + 1) % len(clients)]
        assert other.get(f"/v1/sessions/{id}").json()["step"] == at + 3
        again = step(other, id, data[at : at + 3], at).json()
        assert again["replayed"] and same_bits(float32(again["outputs"]), rows[-1])
    assert same_bits(np.concatenate(rows), expected(MODEL, data))


def at_once(calls: list[Any]) -> list[httpx.Response]:
    answers: list[httpx.Response | None] = [None] * len(calls)
    ready = threading.Barrier(len(calls))

    def run(index: int) -> None:
        ready.wait(60)
        answers[index] = calls[index]()

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return [answer for answer in answers if answer is not None]


def test_of_racing_steps_one_wins_and_the_others_are_told(clients: list[httpx.Client]) -> None:
    seen: Counter[int] = Counter()
    for turn in range(40):
        id = create(clients[0])
        data = [sequence(8, seed=100 * turn + i) for i in range(len(clients))]
        answers = at_once([partial(step, c, id, d, 0) for c, d in zip(clients, data, strict=True)])
        codes = [answer.status_code for answer in answers]
        seen.update(codes)
        assert codes.count(200) == 1, codes
        won = codes.index(200)
        for answer in answers:
            if answer.status_code != 200:
                assert (answer.status_code, answer.json()["code"], answer.json()["expected"]) == (422, "step_reused", 8)
        whole = np.concatenate([data[won], data[0]])
        rest = step(clients[-1], id, data[0], 8).json()
        assert same_bits(float32(rest["outputs"]), expected(MODEL, whole)[8:]), "steps were interleaved"
    assert seen[200] == 40


def test_racing_steps_without_a_place_are_whole_or_told(clients: list[httpx.Client]) -> None:
    for turn in range(20):
        id = create(clients[0])
        data = [sequence(8, seed=100 * turn + i) for i in range(len(clients))]
        answers = at_once([partial(step, c, id, d) for c, d in zip(clients, data, strict=True)])
        won = [(answer.json(), d) for answer, d in zip(answers, data, strict=True) if answer.status_code == 200]
        assert won
        assert all(a.json()["code"] == "step_conflict" for a in answers if a.status_code != 200)
        read: list[Array] = []
        for answer, piece in sorted(won, key=lambda one: int(one[0]["step"])):
            read.append(piece)
            assert answer["step"] == 8 * len(read)
            assert same_bits(float32(answer["outputs"]), expected(MODEL, np.concatenate(read))[-8:])


def test_the_same_step_sent_to_all_at_once_happens_once(clients: list[httpx.Client]) -> None:
    for turn in range(20):
        id, data = create(clients[0]), sequence(8, seed=turn)
        answers = at_once([partial(step, c, id, data, 0) for c in clients])
        assert [answer.status_code for answer in answers] == [200] * len(clients)
        assert sum(not answer.json()["replayed"] for answer in answers) == 1
        assert all(same_bits(float32(a.json()["outputs"]), expected(MODEL, data)) for a in answers)


def test_without_a_folder_for_the_store_tokens_still_go_round(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / MODEL).symlink_to(STORE / MODEL)
    (tmp_path / "file").write_text("no folder")
    data = sequence(6)
    with running_server(tmp_path / "models", workers=2, store_dir=tmp_path / "file" / "store", poll=0) as server:
        for _ in range(12):
            with httpx.Client(base_url=server.url, timeout=60) as client:
                body: dict[str, Any] = {"sequence": data[:3].tolist(), "return_state": True}
                token = client.post(f"/v1/models/{MODEL}/predict", json=body).json()["results"][0]["state"]
                refused = client.post(f"/v1/models/{MODEL}/sessions")
                assert (refused.status_code, refused.json()["code"]) == (503, "store_unavailable")
            with httpx.Client(base_url=server.url, timeout=60) as client:
                body = {"sequence": data[3:].tolist(), "state": token}
                result = client.post(f"/v1/models/{MODEL}/predict", json=body).raise_for_status().json()["results"][0]
                assert same_bits(float32(result["output"]), expected(MODEL, data)[-1])


def test_a_token_of_one_worker_is_good_at_another(clients: list[httpx.Client]) -> None:
    data = sequence(12)
    body = {"sequence": data[:5].tolist(), "return_state": True}
    token = clients[0].post(f"/v1/models/{MODEL}/predict", json=body).json()["results"][0]["state"]
    body = {"sequence": data[5:].tolist(), "state": token}
    result = clients[-1].post(f"/v1/models/{MODEL}/predict", json=body).json()["results"][0]
    assert same_bits(float32(result["output"]), expected(MODEL, data)[-1])


@pytest.mark.parametrize("verb", ["load", "unload"])
def test_one_of_several_workers_loads_and_unloads_nothing_by_request(clients: list[httpx.Client], verb: str) -> None:
    refused = clients[0].post(f"/v2/repository/models/{MODEL}/{verb}")
    assert (refused.status_code, refused.json()["code"]) == (409, "not_by_request")
    assert "several workers" in refused.json()["detail"]
    assert clients[0].get(f"/v1/models/{MODEL}").status_code == 200


# Their lives


def pids(server: RunningServer, number: int, timeout: float = 180.0) -> set[int]:
    """The processes of the workers, asked for by new connections until that many have answered."""
    found: set[int] = set()
    until = time.monotonic() + timeout
    while len(found) < number:
        assert time.monotonic() < until, f"only {found} answer"
        with httpx.Client(base_url=server.url, timeout=60) as client:
            try:
                found.add(client.get("/v1/engine").json()["process"])
            except httpx.TransportError:
                continue
    return found


def is_gone(pid: int, timeout: float) -> bool:
    until = time.monotonic() + timeout
    while time.monotonic() < until:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.02)
    return False


@pytest.fixture
def pair(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[RunningServer]:
    """Two workers. A parameter is the seconds that they have to end by themselves."""
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / MODEL).symlink_to(STORE / MODEL)
    drain_timeout = getattr(request, "param", 2)
    settings = {"workers": 2, "store_dir": tmp_path / "store", "poll": 0, "drain_timeout": drain_timeout}
    with running_server(tmp_path / "models", any_exit=True, **settings) as one:
        yield one


def predict_well(server: RunningServer) -> None:
    """A control, on a connection of its own."""
    data = sequence(20)
    with httpx.Client(base_url=server.url, timeout=60) as client:
        body = {"sequence": data.tolist()}
        (result,) = client.post(f"/v1/models/{MODEL}/predict", json=body).raise_for_status().json()["results"]
        assert same_bits(float32(result["output"]), expected(MODEL, data)[-1])
        assert client.get("/livez").status_code == 200


def test_a_worker_that_is_killed_or_stopped_dead_is_replaced_and_keeps_nobody_waiting(pair: RunningServer) -> None:
    before = pids(pair, 2)
    killed = min(before)
    os.kill(killed, signal.SIGKILL)
    wait_until(lambda: f"[{killed}] ended with -9" in pair.log.read_text(), "nobody saw that it died")
    predict_well(pair)
    after = pids(pair, 2)
    assert len(after & before) == 1 and killed not in after
    # One that hangs holds up neither the others nor the end.
    hanging = min(after)
    os.kill(hanging, signal.SIGSTOP)
    started = time.monotonic()
    pair.process.send_signal(signal.SIGTERM)
    assert pair.process.wait(40) == 0
    assert time.monotonic() - started < 30
    assert all(is_gone(pid, 60) for pid in after)


@pytest.mark.parametrize("pair", [80], indirect=True)
def test_sigterm_right_after_a_death_ends_the_server(pair: RunningServer) -> None:
    (killed, other) = pids(pair, 2)
    os.kill(killed, signal.SIGKILL)
    assert pair.terminate(timeout=60) == 0  # by force it would end after ninety seconds
    assert is_gone(other, 60)


def test_workers_end_when_their_supervisor_is_killed(pair: RunningServer) -> None:
    workers = pids(pair, 2)
    predict_well(pair)
    pair.process.kill()
    pair.process.wait(40)
    assert all(is_gone(pid, 60) for pid in workers)


def test_all_workers_are_replaced_on_sighup_and_no_request_is_lost(pair: RunningServer) -> None:
    before, failures, answered, ended = pids(pair, 2), [], [0], threading.Event()

    def ask() -> None:
        while not ended.is_set():
            try:
                predict_well(pair)
                answered[0] += 1
            except Exception as error:
                failures.append(error)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    pair.process.send_signal(signal.SIGHUP)
    assert all(is_gone(pid, 240) for pid in before)
    ended.set()
    for thread in threads:
        thread.join(60)
    assert not failures and answered[0] > 10
    assert not pids(pair, 2) & before
