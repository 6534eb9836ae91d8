"""The figures of `/metrics`: they add up, and each moves with what it tells of."""

import contextlib
import itertools
import json
import os
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random

import httpx
import numpy as np
import pytest
from websockets.sync.client import connect

from tests.running import STORE, RunningServer, parsed, running_server
from tests.waiting import assert_undisturbed, wait_until

# They start servers of their own.
pytestmark = pytest.mark.slow

PREDICT = "/v1/models/vowels-gru/predict"
STREAM = "/v1/models/{name}/stream"
SHORT = {"sequence": [[0.5] * 12] * 3}
LONG = np.full((60_000, 12), 0.5, np.float32).tobytes()  # (time, features); runs for a good part of a second
OCTETS = {"content-type": "application/octet-stream", "accept": "application/octet-stream"}
NOBODY = 0
"""The status of a request whose client left."""


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server with room for few sequences and small bodies."""
    store = tmp_path_factory.mktemp("metrics")
    for name in ("names-gru-generator", "vowels-gru"):
        (store / name).symlink_to(STORE / name)
    with running_server(store, max_queue=6, max_body=4 * 2**20) as one:
        yield one


def outcomes(server: RunningServer) -> Counter[str]:
    """How many requests ended in each way, and how many were accepted."""
    counted: Counter[str] = Counter()
    for (name, labels), value in server.stats().items():
        if name == "elman_requests_total":
            counted[labels[0]] += int(value)
        elif name in ("elman_accepted_requests_total", "elman_active_requests"):
            counted[name] += int(value)
    return counted


def settled(server: RunningServer) -> Counter[str]:
    """The outcomes once no request is active but the one for them."""
    until = time.monotonic() + 90
    while (counted := outcomes(server))["elman_active_requests"] != 1:
        assert time.monotonic() < until, f"requests are still active: {counted}"
        time.sleep(0.05)
    return counted


def leave(server: RunningServer) -> int:
    """Send a long request and close the connection before it can be answered."""
    url = httpx.URL(server.url)
    with socket.create_connection((url.host, url.port), timeout=90) as connection:
        head = f"POST {PREDICT} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/octet-stream\r\n"
        connection.sendall(head.encode() + b"content-length: %d\r\n\r\n" % len(LONG) + LONG)
    return NOBODY


def kinds(server: RunningServer) -> dict[str, Callable[[httpx.Client], int]]:
    """Each kind of request, as a function that sends one and returns the status of its answer."""
    return {
        "short": lambda client: client.post(PREDICT, json=SHORT).status_code,
        "many": lambda client: client.post(PREDICT, json={"sequences": [SHORT["sequence"]] * 4}).status_code,
        "late": lambda client: (
            client.post(PREDICT, content=LONG, params={"timeout": "0.001"}, headers=OCTETS).status_code
        ),
        "long": lambda client: client.post(PREDICT, content=LONG, headers=OCTETS).status_code,
        "wrong": lambda client: client.post(PREDICT, json={"sequence": [[1.0]]}).status_code,
        "large": lambda client: client.post(PREDICT, content=b" " * (5 * 2**20)).status_code,
        "nowhere": lambda client: client.get("/nothing").status_code,
        "card": lambda client: client.get("/v1/models/vowels-gru").status_code,
        "session": lambda client: client.post("/v1/models/none/sessions", json={}).status_code,
        "leave": lambda client: leave(server),
    }


def seen_as(status: int) -> str:
    if status == NOBODY:
        return "left"
    return "expired" if status == 504 else "refused" if status >= 400 else "answered"


def moved_outcomes(server: RunningServer, before: Counter[str], num_sent: int) -> Counter[str]:
    """What was counted since `before`, without our own requests for it, once all that was sent is read and has ended.

    A client that left may have sent what the server has still to read.
    """
    until = time.monotonic() + 90
    for num_own in itertools.count(1):
        counted = outcomes(server)
        counted.subtract(before)
        accepted, active = counted.pop("elman_accepted_requests_total"), counted.pop("elman_active_requests")
        if (accepted, active) == (num_sent + num_own, 0):
            break
        assert time.monotonic() < until, f"{accepted} are accepted, {num_sent + num_own} were sent: {counted}"
        time.sleep(0.05)
    counted["answered"] -= num_own
    assert sum(counted.values()) == num_sent
    return counted


def test_under_load_what_is_accepted_is_answered_refused_expired_or_cancelled(small: RunningServer) -> None:
    functions = kinds(small)
    order = sorted(functions) * 12
    Random(0).shuffle(order)
    before = settled(small)
    with httpx.Client(base_url=small.url, timeout=300) as client, ThreadPoolExecutor(12) as threads:
        # The queue has room for this one on any machine. On a slow one, the other late ones may all find it full.
        seen = Counter([seen_as(functions["late"](client))])
        seen.update(map(seen_as, threads.map(lambda kind: functions[kind](client), order)))
    counted = moved_outcomes(small, before, len(order) + 1)
    assert counted["answered"] == seen["answered"] > 12
    assert counted["expired"] == seen["expired"] > 0
    # Who left may have been refused, as the queue was full, or else was cancelled.
    assert counted["refused"] + counted["cancelled"] == seen["refused"] + seen["left"]
    assert counted["refused"] >= seen["refused"] > 48
    assert small.errors()["overloaded"] > 0


def test_a_client_that_leaves_while_there_is_room_is_cancelled(small: RunningServer) -> None:
    for _ in range(3):
        before = settled(small)
        leave(small)
        assert moved_outcomes(small, before, 1) == Counter({"cancelled": 1})


def test_each_reason_is_counted_by_route(small: RunningServer) -> None:
    before = small.stats()
    small.client.post(PREDICT, json={"sequence": [[1.0]]})
    small.client.get("/v1/models/none")
    small.client.get("/no/such/place")
    after = small.stats()
    moved = {key for key in after if key[0] == "elman_requests_total" and after[key] != before.get(key, 0.0)}
    assert moved == {
        ("elman_requests_total", ("refused", "wrong_features", "/v1/models/{name}/predict")),
        ("elman_requests_total", ("refused", "unknown_model", "/v1/models/{name}")),
        ("elman_requests_total", ("refused", "unknown_route", "none")),
        ("elman_requests_total", ("answered", "", "/metrics")),
    }


def moved_by(server: RunningServer, act: Callable[[], object]) -> Callable[..., float]:
    """How much a metric moved: `moved(name, label, ...)`."""
    before = server.stats()
    act()
    after = server.stats()
    return lambda name, *labels: after[name, labels] - before.get((name, labels), 0.0)


def test_time_in_the_queue_is_told_apart_from_time_of_computing(small: RunningServer) -> None:
    model = ("vowels-gru", "1")

    def predict() -> None:
        small.client.post(PREDICT, content=LONG, headers=OCTETS).raise_for_status()

    def share_of_queue() -> float:
        moved = moved_by(small, predict)
        assert moved("elman_queue_seconds_count", *model) == 1
        assert moved("elman_compute_seconds_count", *model) == 1
        runs, compute = moved("elman_run_seconds_total", *model), moved("elman_compute_seconds_sum", *model)
        assert compute >= runs
        return moved("elman_queue_seconds_sum", *model) / runs

    assert_undisturbed(share_of_queue, lambda share: share < 0.1)
    stats = small.stats()
    assert stats["elman_waiting_sequences", model] == stats["elman_running_sequences", model] == 0


def test_a_streamed_generation_counts_its_first_token_and_the_gaps(small: RunningServer) -> None:
    def generate() -> None:
        for seed in range(5):
            body = {"prompt": "", "max_steps": 200, "samples": 6, "stream": True, "seed": seed}
            answer = small.client.post("/v1/models/names-gru-generator/generate", json=body)
            assert answer.text.count("event: done") == 1

    moved = moved_by(small, generate)
    assert moved("elman_first_token_seconds_count", "names-gru-generator", "1") == 5
    assert 0 < moved("elman_first_token_seconds_sum", "names-gru-generator", "1") < 10
    assert moved("elman_token_gap_seconds_count", "names-gru-generator", "1") >= 1


def test_a_session_and_the_frames_of_a_stream_are_counted(small: RunningServer) -> None:
    address = small.url.replace("http", "ws") + STREAM.format(name="vowels-gru")

    def stream() -> None:
        with connect(address) as socket:
            socket.recv()
            assert small.stats()["elman_streams", ()] == 1
            socket.send(json.dumps(SHORT))
            assert "output" in str(socket.recv())
            socket.send("{}")
            assert json.loads(socket.recv())["status"] == 422

    moved = moved_by(small, stream)
    assert moved("elman_sessions") == 1
    assert moved("elman_store_seconds_count", "create") == moved("elman_store_seconds_count", "advance") == 1
    assert moved("elman_store_failures_total", "advance") == 0
    assert moved("elman_response_seconds_count", STREAM, "2xx") == 1
    assert moved("elman_response_seconds_count", STREAM, "4xx") == 1


def test_the_loop_the_models_and_the_build_are_told_of(small: RunningServer) -> None:
    small.wait_for("elman_models", 2)
    stats = small.stats()
    assert stats["elman_model_load_seconds", ("vowels-gru", "1")] > 0
    (build,) = [labels for name, labels in stats if name == "elman_build_info"]
    assert all(version.split(".")[0].isdigit() for version in build)
    wait_until(lambda: small.stats()["elman_loop_lag_seconds_count", ()] > 0)


def wait_for_both(server: RunningServer) -> None:
    for worker in ("0", "1"):
        server.wait_for("elman_worker_up", 1, worker)


def test_a_worker_in_the_place_of_a_dead_one_takes_its_number(small_store: Path) -> None:
    with running_server(small_store, workers=2) as one:
        wait_for_both(one)
        killed = httpx.get(one.url + "/v1/engine").json()["process"]
        before = one.stats()
        os.kill(killed, signal.SIGKILL)
        until = time.monotonic() + 90
        name = "process_start_time_seconds"
        while True:
            with contextlib.suppress(httpx.HTTPError):  # the connection may be one of the killed worker
                after = one.stats()
                changed = [w for w in ("0", "1") if after.get((name, (w,)), 0) not in (0, before[name, (w,)])]
                if len(changed) == 1 and after["elman_worker_up", (changed[0],)] == 1:
                    break
            assert time.monotonic() < until, "no worker has taken the number"
            time.sleep(0.1)
        assert {labels[-1] for _, labels in after} == {"0", "1"}


def test_any_of_several_workers_gives_the_figures_of_all(small_store: Path) -> None:
    with running_server(small_store, workers=2) as one:
        for _ in range(20):
            httpx.post(one.url + PREDICT, json=SHORT).raise_for_status()
        wait_for_both(one)
        for _ in range(5):  # whichever worker answers
            text = httpx.get(one.url + "/metrics").text
            assert text.count("# TYPE elman_steps_total counter") == 1
            stats = parsed(text)
            steps = [stats["elman_steps_total", ("vowels-gru", "1", worker)] for worker in ("0", "1")]
            assert sum(steps) == 20 * len(SHORT["sequence"])
            assert stats["process_start_time_seconds", ("0",)] > 0
        assert all(labels for _, labels in stats)
