"""Named keys of a server: what each may do, how they are changed while it serves, and what they may use."""

import contextlib
import json
import threading
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from elman.client import Client, RateLimited
from elman.http.keys import KeyEntry, hash_of, written
from tests.running import RunningServer, running_server
from tests.waiting import wait_until

pytestmark = pytest.mark.slow

MODEL = "vowels-gru"
STEP = {"sequence": [[0.5] * 12]}
KEYS = {name: f"key-of-{name}" for name in ("infer", "sessions", "admin", "all", "slow", "few", "stepper", "moving")}


def entry(name: str, *roles: Any, **fields: Any) -> KeyEntry:
    return KeyEntry(**{"name": name, "hashes": (hash_of(KEYS[name]),), "roles": roles, **fields})


ENTRIES = {
    "infer": entry("infer", "infer"),
    "sessions": entry("sessions", "sessions"),
    "admin": entry("admin", "admin"),
    "all": entry("all", "infer", "sessions", "admin"),
    "slow": entry("slow", "infer", "sessions", requests_per_second=0.01),
    "few": entry("few", "sessions", max_sessions=2),
    "stepper": entry("stepper", "infer", "sessions", steps_per_second=100.0),
    "moving": entry("moving", "infer", "sessions"),
}


class Keyed:
    """A server with a file of keys, and the file."""

    def __init__(self, server: RunningServer, path: Path) -> None:
        self.server = server
        self.path = path

    def ask(self, key: str, method: str, path: str, body: object = None) -> httpx.Response:
        headers = {"authorization": f"Bearer {key}"}
        return self.server.client.request(method, path, json=body, headers=headers)

    def write(self, *entries: KeyEntry) -> None:
        new = self.path.with_suffix(".new")
        new.write_bytes(written(entries))
        new.chmod(0o600)
        new.rename(self.path)


@pytest.fixture(scope="module")
def keyed(small_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keyed]:
    path = tmp_path_factory.mktemp("keys") / "keys.json"
    path.write_bytes(written(ENTRIES.values()))
    path.chmod(0o600)
    settings = {"api_keys": "plain", "admin_api_keys": "root", "api_keys_file": path, "log_format": "json"}
    with running_server(small_store, "--access-log", **settings) as server:
        yield Keyed(server, path)


# What each may do

PLACES = {
    "key": [
        ("GET", "/v1/models"),
        ("GET", f"/v1/models/{MODEL}"),
        ("GET", "/v1/engine"),
        ("POST", "/v2/repository/index"),
    ],
    "infer": [("POST", f"/v1/models/{MODEL}/{verb}") for verb in ("predict", "generate", "forecast", "influence")]
    + [("POST", f"/v1/models/{MODEL}/versions/1/predict"), ("POST", "/v1/timeseries/forecast")]
    + [("POST", f"/v2/models/{MODEL}/infer")],
    "sessions": [
        ("POST", f"/v1/models/{MODEL}/sessions"),
        ("GET", "/v1/sessions"),
        ("GET", "/v1/sessions/0"),
        ("DELETE", "/v1/sessions/0"),
        ("POST", "/v1/sessions/0/steps"),
        ("GET", "/v1/sessions/0/state"),
        ("PUT", "/v1/sessions/0/state"),
        ("POST", "/v1/sessions/0/fork"),
    ],
    "admin": [("POST", "/v2/repository/models/nobody/load"), ("POST", "/v2/repository/models/nobody/unload")],
}
MAY = {
    "infer": {"infer"},
    "sessions": {"sessions"},
    "admin": {"admin"},
    "all": {"infer", "sessions", "admin"},
    "plain": {"infer", "sessions"},
    "root": {"infer", "sessions", "admin"},
}


@pytest.mark.parametrize("who", MAY)
def test_a_key_may_do_what_its_roles_say_and_nothing_else(keyed: Keyed, who: str) -> None:
    for need, places in PLACES.items():
        for method, path in places:
            answer = keyed.ask(KEYS.get(who, who), method, path, {})
            if need in MAY[who] | {"key"}:
                assert answer.status_code not in (401, 403), (path, answer.text)
                continue
            kind = "application/json" if path.startswith("/v2/") else "application/problem+json"
            assert answer.status_code == 403 and answer.headers["content-type"] == kind, path
            problem = answer.json()
            assert (problem["code"], problem["expected"]) == ("forbidden", f"a key with the role {need}")
            assert f"the role {need}; yours has {', '.join(sorted(MAY[who]))}" in problem["detail"]


def test_no_route_but_the_health_checks_and_pages_is_open_without_a_key(keyed: Keyed) -> None:
    document = keyed.server.client.get("/openapi.json").json()
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            answer = keyed.server.client.request(method, path.replace("{path}", "index.html"))
            assert (answer.status_code == 401) is ("security" in operation), path


def test_a_stream_needs_the_role_too(keyed: Keyed) -> None:
    url = f"ws://127.0.0.1:{keyed.server.port}/v1/models/{MODEL}/stream"
    with pytest.raises(InvalidStatus) as refused:
        connect(url, additional_headers={"authorization": f"Bearer {KEYS['infer']}"}).close()
    assert refused.value.response.status_code == 403
    assert json.loads(refused.value.response.body or b"")["code"] == "forbidden"
    with connect(url, additional_headers={"authorization": f"Bearer {KEYS['sessions']}"}) as stream:
        assert json.loads(stream.recv())["step"] == 0


# Limits


def test_too_many_requests_get_429_with_the_time_to_wait(keyed: Keyed) -> None:
    assert keyed.ask(KEYS["slow"], "POST", f"/v1/models/{MODEL}/predict", STEP).status_code == 200
    for method, path in (("POST", f"/v1/models/{MODEL}/predict"), ("GET", "/v1/models")):
        for _ in range(2):  # on one connection, with a head as before
            answer = keyed.ask(KEYS["slow"], method, path, STEP)
            assert (answer.status_code, answer.json()["code"]) == (429, "rate_limited")
            assert 1 <= int(answer.headers["retry-after"]) <= 100
    with Client(keyed.server.url, api_key=KEYS["slow"], timeout=20.0) as client, pytest.raises(RateLimited):
        client.models()
    assert keyed.server.stats()["elman_limited_requests_total", ("slow", "requests")] >= 5
    assert keyed.ask(KEYS["all"], "GET", "/v1/models").status_code == 200


def test_a_long_sequence_is_run_and_the_next_waits_until_its_steps_are_paid(keyed: Keyed) -> None:
    key, path = KEYS["stepper"], f"/v1/models/{MODEL}/predict"
    sequences = {"sequences": [STEP["sequence"] * 10_000, STEP["sequence"] * 10_000]}
    assert keyed.ask(key, "POST", path, sequences).status_code == 200
    for method, place in (("POST", path), ("POST", f"/v1/models/{MODEL}/generate")):
        answer = keyed.ask(key, method, place, STEP)
        assert (answer.status_code, answer.json()["code"]) == (429, "rate_limited"), "19,900 steps at 100 a second"
        assert 100 < int(answer.headers["retry-after"]) <= 200
    url = f"ws://127.0.0.1:{keyed.server.port}/v1/models/{MODEL}/stream"
    with connect(url, additional_headers={"authorization": f"Bearer {key}"}) as stream:
        stream.recv()
        stream.send(json.dumps(STEP))
        assert json.loads(stream.recv())["code"] == "rate_limited"
    assert keyed.ask(key, "GET", "/v1/models").status_code == 200, "which runs no steps"


def test_a_key_has_at_most_its_sessions(keyed: Keyed) -> None:
    made = [keyed.ask(KEYS["few"], "POST", f"/v1/models/{MODEL}/sessions", {}) for _ in range(3)]
    assert [one.status_code for one in made] == [201, 201, 429]
    assert made[2].json()["code"] == "quota" and int(made[2].headers["retry-after"]) > 0


# Changes while it serves


def test_keys_are_changed_under_load_without_a_lost_request(keyed: Keyed) -> None:
    """Replaced with a time in which both are valid, then taken away. Requests of all other keys go on."""
    first, second = KEYS["moving"], "second-key-of-moving"
    others = [one for one in ENTRIES.values() if one.name != "moving"]
    session = keyed.ask(first, "POST", f"/v1/models/{MODEL}/sessions", {}).json()["id"]
    stop, seen = threading.Event(), Counter[tuple[str, int]]()

    def load(who: str, key: str) -> None:
        with httpx.Client(base_url=keyed.server.url, headers={"authorization": f"Bearer {key}"}) as client:
            while not stop.is_set():
                seen[who, client.post(f"/v1/models/{MODEL}/predict", json=STEP).status_code] += 1

    def is_valid(key: str) -> bool:
        return keyed.ask(key, "GET", "/v1/sessions").status_code == 200

    threads = [threading.Thread(target=load, args=pair) for pair in (("all", KEYS["all"]), ("moving", first))]
    with contextlib.ExitStack() as stack:
        for thread in threads:
            thread.start()
            stack.callback(thread.join)
        stack.callback(stop.set)
        url = f"ws://127.0.0.1:{keyed.server.port}/v1/models/{MODEL}/stream"
        stream = stack.enter_context(connect(url, additional_headers={"authorization": f"Bearer {first}"}))
        stream.recv()
        both = entry("moving", "infer", "sessions", hashes=(hash_of(second), hash_of(first)))
        keyed.write(*others, both)
        wait_until(lambda: is_valid(second))
        assert is_valid(first) and seen["moving", 401] == 0
        assert keyed.ask(second, "POST", f"/v1/sessions/{session}/steps", STEP).json()["step"] == 1
        stream.send(json.dumps(STEP))
        assert json.loads(stream.recv())["step"] == 1
        keyed.write(*others, entry("moving", "infer", "sessions", hashes=(hash_of(second),)))
        # The connection of the load repeats its heads, which must not keep the key alive.
        wait_until(lambda: seen["moving", 401] > 0)
        assert not is_valid(first) and is_valid(second)
        stream.send(json.dumps(STEP))
        assert json.loads(stream.recv())["code"] == "unauthorized"
        with pytest.raises(ConnectionClosed):
            stream.recv()
        assert keyed.ask(second, "GET", f"/v1/sessions/{session}").json()["step"] == 1
        before = seen["all", 200]
        keyed.path.write_bytes(b"{")
        wait_until(lambda: keyed.server.stats()["elman_keys_stale", ()] == 1)
        assert is_valid(second), "a file that is broken changes nothing"
        keyed.write(*ENTRIES.values())
        wait_until(lambda: keyed.server.stats()["elman_keys_stale", ()] == 0)
        wait_until(lambda: seen["all", 200] > before)
    assert {status for who, status in seen if who == "all"} == {200}
    assert {status for who, status in seen if who == "moving"} == {200, 401}
    log = keyed.server.log.read_text()
    assert "the keys read before stay in force" in log
    lines = [json.loads(line) for line in log.splitlines()]
    assert {"all", "moving"} <= {line.get("key") for line in lines}
    assert not [line for line in lines if "key-of-" in str(line) or hash_of(first) in str(line)]


def test_a_key_ends_at_its_time(keyed: Keyed) -> None:
    def named(seconds: float) -> KeyEntry:
        return entry("moving", "infer", expires=datetime.now(UTC) + timedelta(seconds=seconds))

    others = [one for one in ENTRIES.values() if one.name != "moving"]
    keyed.write(*others, named(3600))
    assert keyed.ask(KEYS["moving"], "GET", "/v1/models").status_code == 200
    keyed.write(*others, named(1.5))
    wait_until(lambda: keyed.ask(KEYS["moving"], "GET", "/v1/models").status_code == 401)
    keyed.write(*ENTRIES.values())
    wait_until(lambda: keyed.ask(KEYS["moving"], "GET", "/v1/models").status_code == 200)
