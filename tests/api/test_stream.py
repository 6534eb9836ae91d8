"""WebSocket streams on a real server: frames of JSON and octets, resuming, signals, clients that do not read."""

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from tests.codec.test_odd_models import HIDDEN, gru, put
from tests.reference import expected, float32, same_bits
from tests.running import STORE, RunningServer, num_connections, running_server
from tests.waiting import wait_until

MODEL = "vowels-gru"
Array = np.ndarray[Any, Any]
SIZE, STRIDE, LEFT_PAD = 8, 5, 3


def sequence(length: int = 9, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal((length, 12), np.float32)


def open_stream(server: RunningServer, model: str = MODEL, query: str = "", **options: Any) -> ClientConnection:
    url = f"ws{server.url.removeprefix('http')}/v1/models/{model}/stream?{query}"
    return connect(url, compression=None, **options)


def ask(stream: ClientConnection, **body: object) -> dict[str, Any]:
    stream.send(json.dumps(body))
    return dict(json.loads(stream.recv(timeout=60)))


def test_frames_of_json_are_steps_of_a_session(server: RunningServer) -> None:
    data = sequence()
    whole = expected(MODEL, data)
    with open_stream(server) as stream:
        hello = json.loads(stream.recv(timeout=60))
        assert (hello["model"], hello["version"], hello["step"]) == (MODEL, 1, 0)
        first = ask(stream, sequence=data[:4].tolist(), at=0, **{"return": "steps"})
        assert same_bits(float32(first["outputs"]), whole[:4])
        refused = ask(stream, sequence=[[1.0]])
        assert (refused["code"], refused["where"]) == ("wrong_features", "sequence[0]")
        again = ask(stream, sequence=data[:4].tolist(), at=0)
        assert (again["replayed"], again["step"]) == (True, 4)
        rest = ask(stream, sequence=data[4:].tolist(), at=4)
        assert same_bits(float32(rest["output"]), whole[-1])
    record = server.client.get(f"/v1/sessions/{hello['session']}").json()
    assert record["step"] == 9


def test_a_cut_stream_is_resumed_by_its_session_in_octets(server: RunningServer) -> None:
    data = sequence(10)
    with open_stream(server, query="return=steps") as stream:
        id = json.loads(stream.recv(timeout=60))["session"]
        stream.send(data[:6].tobytes())
        head = np.frombuffer(stream.recv(timeout=60), "<f4").reshape(6, -1)  # type: ignore[arg-type]
        stream.socket.shutdown(socket.SHUT_RDWR)
    with open_stream(server, query=f"session={id}") as stream:
        assert json.loads(stream.recv(timeout=60))["step"] == 6
        stream.send(data[6:].tobytes())
        tail = np.frombuffer(stream.recv(timeout=60), "<f4")  # type: ignore[arg-type]
    whole = expected(MODEL, data)
    assert same_bits(head, whole[:6]) and same_bits(tail, whole[-1])


@pytest.mark.parametrize(
    ("model", "query", "code"),
    [
        ("nobody", "", "unknown_model"),
        (MODEL, "session=" + "0" * 44, "unknown_session"),
        ("vowels-lstm-bidirectional", "", "not_streamable"),
        (MODEL, "top=many", "invalid_field"),
        (MODEL, "ttl=-3", "invalid_field"),
    ],
)
def test_a_stream_that_cannot_be_says_why(server: RunningServer, model: str, query: str, code: str) -> None:
    with open_stream(server, model, query) as stream:
        assert json.loads(stream.recv(timeout=60))["code"] == code
        with pytest.raises(ConnectionClosed) as closed:
            stream.recv(timeout=60)
    assert closed.value.rcvd is not None and closed.value.rcvd.code == 1008 and closed.value.rcvd.reason


def test_the_query_says_what_frames_leave_out(server: RunningServer) -> None:
    data = sequence(3)
    with open_stream(server, query="return=steps&decode=false&top=1") as stream:
        stream.recv(timeout=60)
        plain = ask(stream, sequence=data.tolist())
        assert len(plain["outputs"]) == 3 and "decoded" not in plain
        final = ask(stream, sequence=data.tolist(), decode=True, **{"return": "final"})
        assert len(final["decoded"]["top"]) == 1 and "outputs" not in final


def test_a_large_frame_is_read_and_answered(server: RunningServer) -> None:
    data = np.random.default_rng(1).standard_normal((4000, 12), np.float32)
    with open_stream(server, query="return=steps&decode=false", max_size=None) as stream:
        stream.recv(timeout=60)
        answer = ask(stream, sequence=data.tolist())
    assert same_bits(float32(answer["outputs"]), expected(MODEL, data))


def test_many_streams_share_batches_and_keep_their_bits(server: RunningServer) -> None:
    before = server.stats()
    inputs = [sequence(40, seed) for seed in range(24)]
    found: list[list[Array]] = [[] for _ in inputs]

    def run(index: int) -> None:
        with open_stream(server, query="return=steps") as stream:
            stream.recv(timeout=60)
            for row in inputs[index]:
                stream.send(row.tobytes())
                found[index].append(np.frombuffer(stream.recv(timeout=60), "<f4"))  # type: ignore[arg-type]

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(inputs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for data, rows in zip(inputs, found, strict=True):
        assert same_bits(np.stack(rows), expected(MODEL, data))
    after = server.stats()
    runs, rows_run = (
        after[name, (MODEL, "1")] - before.get((name, (MODEL, "1")), 0.0)
        for name in ("elman_runs_total", "elman_run_rows_total")
    )
    assert rows_run > 1.2 * runs, "streams were not run together"


@pytest.fixture(scope="module")
def signals(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    root = tmp_path_factory.mktemp("signals")
    frames = {"kind": "frames", "name": "input", "size": SIZE, "stride": STRIDE, "left_pad": LEFT_PAD}
    put(root, "signal", gru(SIZE), {"input": frames})
    (root / "vowels-gru").symlink_to(STORE / "vowels-gru")
    with running_server(root, stream_timeout=1.0, max_streams=3, api_keys="key") as one:
        one.client.headers["authorization"] = "Bearer key"
        yield one


KEY = {"additional_headers": {"authorization": "Bearer key"}}


def windows(signal: Array) -> Array:
    padded = np.concatenate([np.zeros(LEFT_PAD, np.float32), signal])
    return np.lib.stride_tricks.sliding_window_view(padded, SIZE)[::STRIDE].astype(np.float32)


def outputs_alone(signal: Array) -> Array:
    session = ort.InferenceSession(gru(SIZE), providers=["CPUExecutionProvider"])
    feeds = {"input": windows(signal)[None], "h": np.zeros((1, 1, HIDDEN), np.float32)}
    rows: Array = session.run(["output"], feeds)[0][0]
    return rows


@pytest.mark.slow
def test_a_signal_in_pieces_of_any_size_gives_the_outputs_of_the_whole(signals: RunningServer) -> None:
    rng = np.random.default_rng(3)
    signal = rng.standard_normal(233, np.float32)
    whole = outputs_alone(signal)
    rows = []
    with open_stream(signals, "signal", "return=steps", **KEY) as stream:
        id = json.loads(stream.recv(timeout=60))["session"]
        at = 0
        while at < len(signal):
            piece = signal[at : at + int(rng.integers(1, 14))]
            if rng.random() < 0.5:
                stream.send(piece.tobytes())
                rows.append(np.frombuffer(stream.recv(timeout=60), "<f4").reshape(-1, 2))  # type: ignore[arg-type]
            else:
                answer = ask(stream, sequence=piece.tolist(), at=at, **{"return": "steps"})
                again = ask(stream, sequence=piece.tolist(), at=at, **{"return": "steps"})
                assert again == {**answer, "replayed": True}, "a piece counts once, whether it fills a window or not"
                assert answer["step"] == at + len(piece) and answer["length"] == len(answer["outputs"])
                rows.append(float32(answer["outputs"]).reshape(-1, 2))
            at += len(piece)
    assert same_bits(np.concatenate(rows), whole)
    posted = signals.client.post(f"/v1/sessions/{id}/steps", json={"sequence": [0.5]}).raise_for_status().json()
    assert (posted["step"], posted["length"], posted["output"]) == (234, 0, None)
    token = signals.client.get(f"/v1/sessions/{id}/state").json()["state"]
    body = {"sequence": signal[:30].tolist(), "state": token, "return": "steps"}
    rest = signals.client.post("/v1/models/signal/predict", json=body).raise_for_status().json()["results"][0]
    longer = outputs_alone(np.concatenate([signal, [np.float32(0.5)], signal[:30]]))
    assert same_bits(float32(rest["outputs"]), longer[len(whole) :])


@pytest.mark.slow
def test_a_stream_without_a_key_is_told_and_closed(signals: RunningServer) -> None:
    with open_stream(signals) as stream, pytest.raises(ConnectionClosed) as closed:
        stream.recv(timeout=60)
    assert closed.value.rcvd is not None
    assert (closed.value.rcvd.code, "unauthorized" in closed.value.rcvd.reason) == (1008, True)


@pytest.mark.slow
def test_more_streams_than_there_may_be_are_refused(signals: RunningServer) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(open_stream(signals, **KEY)).recv(timeout=60)
        late = stack.enter_context(open_stream(signals, **KEY))
        assert json.loads(late.recv(timeout=60))["code"] == "overloaded"
        with pytest.raises(ConnectionClosed) as closed:
            late.recv(timeout=60)
    assert closed.value.rcvd is not None and closed.value.rcvd.code == 1013


@pytest.mark.slow
def test_a_client_that_does_not_read_is_slowed_and_then_dropped(signals: RunningServer) -> None:
    """What it may hold of the server is what its connection holds; the session stands at a step that was run."""
    data = np.random.default_rng(0).standard_normal((2000, 12), np.float32)
    sent, before = 0, num_connections(signals.port)

    def flood(stream: ClientConnection) -> None:
        nonlocal sent
        with contextlib.suppress(ConnectionClosed, OSError):
            while True:
                stream.send(data.tobytes())
                sent += 1

    with contextlib.suppress(ConnectionClosed), open_stream(signals, query="return=steps", **KEY, max_queue=1) as one:
        id = json.loads(one.recv(timeout=60))["session"]
        thread = threading.Thread(target=flood, args=(one,))
        thread.start()
        wait_until(lambda: not signals.client.get("/v1/engine").json()["streams"], "it was not dropped")
        wait_until(lambda: num_connections(signals.port) <= before, "its connection is held though nobody reads it")
        with contextlib.suppress(OSError):  # the client may have closed it already
            one.socket.shutdown(socket.SHUT_RDWR)
        thread.join(60)
    step = signals.client.get(f"/v1/sessions/{id}").json()["step"]
    assert step % 2000 == 0 and step <= 2000 * (sent + 1)
    with open_stream(signals, query=f"session={id}", **KEY) as again:
        assert json.loads(again.recv(timeout=60))["step"] == step


@pytest.mark.slow
def test_a_stopping_server_ends_its_streams(small_store: Path) -> None:
    with running_server(small_store) as server, open_stream(server) as stream:
        stream.recv(timeout=60)
        assert server.terminate() == 0
        with pytest.raises(ConnectionClosed) as closed:
            stream.recv(timeout=60)
        assert closed.value.rcvd is not None
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1001, "the server is stopping")
