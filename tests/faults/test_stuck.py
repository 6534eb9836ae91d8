"""What holds up one part of the server harms only who asks for that part: a store, a run, a thread."""

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.api.test_grpc import Channel, refused, request
from tests.reference import expected, float32, same_bits
from tests.running import STORE, RunningServer, running_server
from tests.waiting import assert_undisturbed, wait_until

pytestmark = pytest.mark.slow

GOOD = "vowels-gru"
SESSIONS = f"/v1/models/{GOOD}/sessions"
SIZE = 4


def endless() -> onnx.ModelProto:
    """A GRU, and a loop that is run as often as the largest number of the data says."""
    counted = helper.make_graph(
        [helper.make_node("Identity", ["again"], ["on"]), helper.make_node("Add", ["before", "zero"], ["after"])],
        "counted",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("again", TensorProto.BOOL, []),
            helper.make_tensor_value_info("before", TensorProto.FLOAT, [1]),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("after", TensorProto.FLOAT, [1]),
        ],
    )
    rng = np.random.default_rng(0)
    weights: dict[str, Any] = {
        "W": 0.3 * rng.standard_normal((1, 3 * SIZE, 3)).astype(np.float32),
        "R": 0.3 * rng.standard_normal((1, 3 * SIZE, SIZE)).astype(np.float32),
        "zero": np.zeros(1, np.float32),
        "true": np.array(True),
        "direction": np.array([1]),
    }
    nodes = [
        helper.make_node("Transpose", ["x"], ["steps"], perm=[1, 0, 2]),
        helper.make_node("GRU", ["steps", "W", "R"], ["y_all"], hidden_size=SIZE),
        helper.make_node("Squeeze", ["y_all", "direction"], ["y_steps"]),
        helper.make_node("Transpose", ["y_steps"], ["y_rows"], perm=[1, 0, 2]),
        helper.make_node("ReduceMax", ["x"], ["peak"], keepdims=0),
        helper.make_node("Cast", ["peak"], ["turns"], to=TensorProto.INT64),
        helper.make_node("Loop", ["turns", "true", "zero"], ["nothing"], body=counted),
        helper.make_node("Add", ["y_rows", "nothing"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "endless",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", "time", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", "time", SIZE])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


FINE, STUCK = [[0.5, 0.1, 0.2]] * 3, [[1e9, 0.0, 0.0]] * 3


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("repository")
    (root / GOOD).symlink_to(STORE / GOOD)
    (root / "endless" / "1").mkdir(parents=True)
    onnx.save(endless(), root / "endless" / "1" / "model.onnx")
    return root


def predict_well(server: RunningServer) -> None:
    """A control: another model answers right, and soon, and the process says that it is live."""
    data = np.random.default_rng(1).standard_normal((200, 12)).astype(np.float32)

    def seconds() -> float:
        started = time.monotonic()
        (result,) = server.predict(GOOD, sequence=data.tolist()).raise_for_status().json()["results"]
        took = time.monotonic() - started
        assert same_bits(float32(result["output"]), expected(GOOD, data)[-1])
        return took

    assert_undisturbed(seconds, lambda seconds: seconds < 2.0)
    assert server.client.get("/livez").status_code == 200


# A run


def test_a_deadline_is_kept_beside_a_run_that_does_not_end_and_other_models_go_on(repository: Path) -> None:
    with running_server(repository, poll=0, run_timeout=60) as server, ThreadPoolExecutor(4) as pool:
        assert server.predict("endless", sequence=FINE).status_code == 200
        for _ in range(2):
            started = time.monotonic()
            stuck = pool.submit(server.predict, "endless", sequence=STUCK, timeout=1)
            time.sleep(0.3)
            predict_well(server)
            answer = stuck.result()
            assert (answer.status_code, answer.json()["code"]) == (504, "deadline")
            assert 0.9 < time.monotonic() - started < 30.0
        # Nobody waits for the run any more, so it is stopped, and the model serves again.
        started = time.monotonic()
        assert server.predict("endless", sequence=FINE).status_code == 200
        assert time.monotonic() - started < 30.0


def test_a_model_whose_run_takes_too_long_is_suspended_with_its_reason(repository: Path) -> None:
    with running_server(repository, poll=0, run_timeout=1) as server, ThreadPoolExecutor(4) as pool:
        stuck, queued = (pool.submit(server.predict, "endless", sequence=STUCK) for _ in range(2))
        time.sleep(0.5)
        predict_well(server)
        answers = sorted((one.result() for one in (stuck, queued)), key=lambda one: one.status_code)
        assert [(one.status_code, one.json()["code"]) for one in answers] == [
            (500, "model_failed"),
            (503, "model_suspended"),
        ]
        refused = server.predict("endless", sequence=FINE)
        assert (refused.status_code, refused.json()["code"]) == (503, "model_suspended")
        assert 50 <= int(refused.headers["retry-after"]) <= 60
        assert "took more than" in server.client.get("/v1/models/endless").json()["suspended"]
        index = {one["name"]: one for one in server.client.post("/v2/repository/index").json()}
        assert index["endless"]["state"] == "UNAVAILABLE" and "took more than" in index["endless"]["reason"]
        assert index[GOOD]["state"] == "READY"
        predict_well(server)
        # Loaded again, it is served again.
        with (repository / "endless" / "1" / "note.txt").open("a") as file:
            file.write("new\n")
        server.client.post("/v2/repository/models/endless/load").raise_for_status()
        assert server.predict("endless", sequence=FINE).status_code == 200


def test_a_stuck_run_does_not_keep_a_stopping_server_alive(
    repository: Path, start_server: Callable[..., RunningServer]
) -> None:
    server = start_server(repository, run_timeout=600, drain_timeout=1)
    with ThreadPoolExecutor(1) as pool:
        stuck = pool.submit(server.predict, "endless", sequence=STUCK)
        server.wait_for("elman_running_sequences", 1.0, "endless", "1")
        assert server.terminate(timeout=30) == 0
        error = stuck.exception()
        if error is None:
            assert stuck.result().json()["code"] == "draining"
        else:
            assert isinstance(error, httpx.TransportError)


def test_a_second_sigint_cuts_off_a_call_of_grpc_that_the_end_waits_for(
    repository: Path, start_server: Callable[..., RunningServer]
) -> None:
    server = start_server(repository, "--grpc-port", "0", run_timeout=600, drain_timeout=300)
    message = request(np.array([STUCK], np.float32), model="endless")
    message.inputs[0].name = "x"
    stuck = Channel(server, ()).method("ModelInfer").future(message, timeout=120)
    server.wait_for("elman_running_sequences", 1.0, "endless", "1")
    server.client.close()
    server.process.send_signal(signal.SIGINT)
    wait_until(lambda: "Waiting for application shutdown" in server.log.read_text())
    server.process.send_signal(signal.SIGINT)
    assert server.process.wait(60) == 0
    refused(stuck.result, grpc.StatusCode.UNAVAILABLE)
    log = server.log.read_text()
    assert "Traceback" not in log and log.count("Waiting for application shutdown") == 1


# The store

HOLD = """
import sys, time, lmdb
env = lmdb.open(sys.argv[1], max_dbs=4, map_size=2**31)
with env.begin(write=True):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextlib.contextmanager
def locked(store: Path) -> Iterator[None]:
    """Another process holds the store's lock for writing."""
    command = [sys.executable, "-c", HOLD, str(store)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        yield


def sequence(length: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((length, 12)).astype(np.float32)


def create(server: RunningServer) -> str:
    return str(server.client.post(SESSIONS).raise_for_status().json()["id"])


def step(server: RunningServer, id: str, data: np.ndarray, at: int, **more: Any) -> httpx.Response:
    body = {"sequence": data.tolist(), "return": "steps", "decode": False, "at": at, **more}
    return server.client.post(f"/v1/sessions/{id}/steps", json=body)


def check_walk(server: RunningServer, id: str, pieces: list[np.ndarray]) -> None:
    """A session that took some pieces ends where they end, whatever was answered meanwhile."""
    at, rows = 0, []
    for piece in pieces[:-1]:
        at += len(piece)
    answer = step(server, id, pieces[-1], at)
    assert answer.status_code == 200, answer.text
    rows = float32(answer.json()["outputs"])
    assert same_bits(rows, expected(GOOD, np.concatenate(pieces))[at:])


def test_while_the_store_is_locked_predictions_go_on_and_steps_wait(repository: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    with running_server(repository, poll=0, store_dir=store) as server, ThreadPoolExecutor(16) as pool:
        ids = [create(server) for _ in range(8)]
        first = sequence(3)
        assert all(step(server, id, first, 0).status_code == 200 for id in ids)
        with locked(store):
            steps = [pool.submit(step, server, id, sequence(3, 1), 3) for id in ids]
            created = pool.submit(create, server)
            until = time.monotonic() + 4.0
            while time.monotonic() < until:
                predict_well(server)
                time.sleep(0.1)
            assert not any(one.done() for one in steps)
        for one in steps:
            answer = one.result()
            assert answer.status_code == 200 and not answer.json()["replayed"]
        assert server.client.get(f"/v1/sessions/{created.result()}").status_code == 200
        for id in ids:
            check_walk(server, id, [first, sequence(3, 1), sequence(2, 2)])


def test_a_step_that_the_store_does_not_take_in_time_is_told_and_happens_once(repository: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    with running_server(repository, poll=0, store_dir=store, store_timeout=1) as server, ThreadPoolExecutor(16) as pool:
        ids = [create(server) for _ in range(4)]
        with locked(store):
            started = time.monotonic()
            answers = [one.result() for one in [pool.submit(step, server, id, sequence(3), 0) for id in ids]]
            deadline = step(server, ids[0], sequence(3), 0, timeout=0.3)
            refused = [*answers, deadline, server.client.post(f"/v1/models/{GOOD}/sessions")]
            # Nobody knows yet what becomes of them, so that only a step with `at` may be sent again.
            assert [(one.status_code, one.json()["code"]) for one in refused] == [(503, "outcome_unknown")] * 6
            assert not any("retry-after" in one.headers for one in refused)
            assert time.monotonic() - started < 30.0  # as long as the store is locked, nothing else answers them
            predict_well(server)
        # Whatever became of the first, the retry gives the answer of that step, and the next goes on from there.
        for id in ids:
            again = step(server, id, sequence(3), 0)
            assert again.status_code == 200, again.text
            assert same_bits(float32(again.json()["outputs"]), expected(GOOD, sequence(3)))
            assert again.json()["step"] == 3
            check_walk(server, id, [sequence(3), sequence(3, 1)])
        log = server.log.read_text()
        assert log.count("the session store takes no steps") == 1, log


def test_steps_beyond_the_bound_of_the_saver_are_refused_and_predictions_are_not(
    repository: Path, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    with (
        running_server(repository, poll=0, store_dir=store, max_queue=8) as server,
        ThreadPoolExecutor(16) as pool,
    ):
        ids = [create(server) for _ in range(12)]
        with locked(store):
            steps = [pool.submit(step, server, id, sequence(3), 0) for id in ids[:8]]
            server.wait_for("elman_steps_total", 8 * 3.0, GOOD, "1")  # which only have to be saved
            refused = step(server, ids[8], sequence(3), 0)
            assert (refused.status_code, refused.json()["code"]) == (503, "store_unavailable")
            assert refused.headers["retry-after"] == "1"
            predict_well(server)
        assert [one.result().status_code for one in steps] == [200] * 8


def test_a_locked_store_does_not_keep_a_stopping_server_alive(
    repository: Path, tmp_path: Path, start_server: Callable[..., RunningServer]
) -> None:
    server = start_server(repository, store_dir=tmp_path / "store", drain_timeout=1)
    id = create(server)
    with locked(tmp_path / "store"), ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(step, server, id, sequence(3), 0), pool.submit(server.client.post, SESSIONS)]
        time.sleep(0.5)
        assert server.terminate(timeout=10) == 0
        # Each was cut off, not begun, or is with the store, which may still take it: then it says no time to retry.
        for refused in [one.result() for one in waiting if one.exception() is None]:
            assert ("retry-after" in refused.headers) == (refused.json()["code"] != "outcome_unknown"), refused.text
