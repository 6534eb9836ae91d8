"""Sequences of the Open Inference Protocol: each is a session, so that its parts give the bits of the whole."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from msgspec.structs import replace
from onnx import helper

from elman.api.v2.sequences import Part
from elman.http.callers import owner_of_key
from elman.sessions.stores.lmdb import LMDBStore
from tests import named
from tests.conftest import StartServer
from tests.reference import Array
from tests.repository import graphs
from tests.running import STORE, RunningServer, running_server

# It starts servers of its own.
pytestmark = pytest.mark.slow

MODEL, WINDOW = "vowels-gru", 6


def windowed() -> onnx.ModelProto:
    """Six steps to two numbers: a session slides over the steps."""
    after = (
        helper.make_node("Reshape", ["steps", "flat"], ["row"]),
        helper.make_node("MatMul", ["row", "dense"], ["output"]),
    )
    dense = np.random.default_rng(3).standard_normal((WINDOW * graphs.HIDDEN, 2))
    tensors = graphs.constant("flat", [-1, WINDOW * graphs.HIDDEN]), graphs.constant("dense", dense, np.float32)
    return graphs.tagger(time=WINDOW, after=after, tensors=tensors)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    root = named.write_models(tmp_path_factory.mktemp("sequences"))
    for name in (MODEL, "names-gru", "vowels-lstm-bidirectional"):
        (root / name).symlink_to(STORE / name)
    graphs.save(windowed(), root / "window" / "1")
    with running_server(root) as one:
        yield one


def rows(length: int, seed: int = 0, batch: int = 1, features: int = 12) -> Array:
    """Numbers for a tensor (batch, length, features)."""
    return np.random.default_rng(seed).standard_normal((batch, length, features)).astype(np.float32)


def tensor(name: str, array: Array) -> dict[str, Any]:
    datatype = {"f": "FP32", "i": "INT64"}[array.dtype.kind]
    return {"name": name, "shape": array.shape, "datatype": datatype, "data": array.ravel().tolist()}


def ask(server: RunningServer, array: Array, *names: str, model: str = MODEL, **parameters: object) -> httpx.Response:
    inputs = [tensor("input", array)]
    body = {"inputs": inputs, "outputs": [{"name": name} for name in names or ("output",)], "parameters": parameters}
    return server.client.post(f"/v2/models/{model}/infer", json=body)


def outputs(response: httpx.Response) -> dict[str, Array]:
    assert response.status_code == 200, response.text
    found = response.json()["outputs"]
    return {one["name"]: np.array(one["data"], np.float32).reshape(one["shape"]) for one in found}


def output(response: httpx.Response) -> Array:
    return outputs(response)["output"]


def refused(response: httpx.Response, status: int, code: str) -> str:
    found = response.json()
    assert (response.status_code, found["code"]) == (status, code), found
    assert response.headers["content-type"] == "application/json"
    return str(found["error"])


def test_the_durations_of_steps_have_one_count(server: RunningServer) -> None:
    def durations() -> dict[str, dict[str, int]]:
        found = server.client.get(f"/v2/models/{MODEL}/stats").json()["model_stats"][0]["inference_stats"]
        return {name: found[name] for name in ("queue", "compute_input", "compute_infer", "compute_output")}

    before, data = durations(), rows(4)
    for step in range(4):
        output(ask(server, data[:, step : step + 1], sequence_id=77, sequence_start=step == 0, sequence_end=step == 3))
    for name, one in durations().items():
        assert one["count"] - before[name]["count"] == 4 and one["ns"] > before[name]["ns"]


@pytest.mark.parametrize("id", [5, "five", 2**64 - 1, "ß"])
def test_the_parts_of_a_sequence_give_the_bits_of_the_whole(server: RunningServer, id: int | str) -> None:
    data = rows(20)
    whole = output(ask(server, data))
    found = []
    for begin, end in ((0, 1), (1, 2), (2, 12), (12, 20)):
        flags = {"sequence_start": begin == 0, "sequence_end": end == 20}
        found.append(output(ask(server, data[:, begin:end], sequence_id=id, **flags)))
    np.testing.assert_array_equal(np.concatenate(found, axis=1), whole)
    refused(ask(server, data, sequence_id=id), 400, "sequence_not_started")


def test_a_sequence_of_one_request_is_as_a_request_without(server: RunningServer) -> None:
    data = rows(7)
    for _ in range(2):
        found = ask(server, data, "output", "final", sequence_id=1, sequence_start=True, sequence_end=True)
        np.testing.assert_array_equal(output(found), output(ask(server, data)))
        np.testing.assert_array_equal(outputs(found)["final"], output(found)[:, -1])


def test_nothing_goes_on_that_was_not_started(server: RunningServer) -> None:
    text = refused(ask(server, rows(1), sequence_id=404), 400, "sequence_not_started")
    expected = (
        "inference request for sequence 404 to model 'vowels-gru' must specify the START flag on the first request"
    )
    assert text.startswith(expected) and "3600 seconds" in text
    text = refused(ask(server, rows(1), sequence_id="x" * 128, sequence_end=True), 400, "sequence_not_started")
    assert "START flag" in text and len(text) < 500


def test_a_start_ends_what_went_on_under_the_same_id(server: RunningServer) -> None:
    data = rows(4)
    first = output(ask(server, data, sequence_id=7, sequence_start=True))
    again = output(ask(server, data, sequence_id=7, sequence_start=True))
    np.testing.assert_array_equal(first, again)
    more = output(ask(server, data, sequence_id=7, sequence_end=True))
    np.testing.assert_array_equal(more, output(ask(server, np.concatenate([data, data], axis=1)))[:, 4:])


@pytest.mark.parametrize("none", [0, ""])
def test_zero_and_no_text_are_no_id(server: RunningServer, none: int | str) -> None:
    whole = output(ask(server, rows(3)))
    np.testing.assert_array_equal(output(ask(server, rows(3), sequence_id=none)), whole)
    flags = {"sequence_start": False, "sequence_end": False}
    np.testing.assert_array_equal(output(ask(server, rows(3), sequence_id=none, **flags)), whole)
    for flag in flags:
        text = refused(ask(server, rows(3), sequence_id=none, **{flag: True}), 422, "invalid_field")
        assert text == "inference request to model 'vowels-gru' must specify a non-zero or non-empty correlation ID"


@pytest.mark.parametrize(
    ("parameters", "where"),
    [
        ({"sequence_id": True}, "sequence_id"),
        ({"sequence_id": 1.5}, "sequence_id"),
        ({"sequence_id": 2**64}, "sequence_id"),
        ({"sequence_id": "x" * 129}, "sequence_id"),
        ({"sequence_id": 1, "sequence_start": 1}, "sequence_start"),
        ({"sequence_id": 1, "sequence_end": "yes"}, "sequence_end"),
        ({"sequence_id": 1, "at": -1}, "at"),
        ({"sequence_id": 1, "at": True}, "at"),
        ({"sequence_id": 1, "sequence_start": True, "at": 3}, "at"),
        ({"at": 3}, "sequence_id"),
    ],
    ids=str,
)
def test_what_is_wrong_with_the_parameters_is_said(
    server: RunningServer, parameters: dict[str, Any], where: str
) -> None:
    response = ask(server, rows(1), **parameters)
    refused(response, 422, "invalid_field")
    assert response.json()["where"] == f"parameters.{where}"


def test_ids_differ_by_type_and_by_model_and_have_64_bits(server: RunningServer) -> None:
    data = rows(2)
    ask(server, data, sequence_id=9, sequence_start=True)
    refused(ask(server, data, sequence_id="9"), 400, "sequence_not_started")
    refused(ask(server, data, model="free", sequence_id=9), 400, "sequence_not_started")
    ask(server, data, sequence_id=-1, sequence_start=True)
    whole = output(ask(server, np.concatenate([data, data], axis=1)))
    np.testing.assert_array_equal(output(ask(server, data, sequence_id=2**64 - 1)), whole[:, 2:])


def test_with_at_each_request_is_done_once_and_may_be_repeated(server: RunningServer) -> None:
    data = rows(9)
    whole = output(ask(server, data))
    parts = ((0, 4), (4, 8), (8, 9))
    for begin, end in parts:
        flags = {"sequence_start": begin == 0, "sequence_end": end == 9}
        for replayed in (False, True, True):
            response = ask(server, data[:, begin:end], sequence_id="once", at=begin, **flags)
            np.testing.assert_array_equal(output(response), whole[:, begin:end])
            assert response.json()["parameters"] == {"step": end, "replayed": replayed}
        if end < 9:
            assert "content" in refused(ask(server, data[:, :2], sequence_id="once", at=begin), 422, "step_reused")
            response = ask(server, data[:, :1], sequence_id="once", at=3)
            assert refused(response, 409, "step_conflict") and response.json()["expected"] == end
    for at in (9, 3, 0, None):
        refused(
            ask(server, data, sequence_id="once", **({} if at is None else {"at": at})), 400, "sequence_not_started"
        )
    assert ask(server, data, sequence_id="once", at=0, sequence_start=True).json()["parameters"]["step"] == 9


def test_with_at_a_start_ends_nothing(server: RunningServer) -> None:
    data = rows(2)
    for begin in (0, 2):
        ask(server, data, sequence_id=11, sequence_start=begin == 0, at=begin)
    refused(ask(server, data, sequence_id=11, sequence_start=True, at=0), 409, "step_conflict")
    whole = output(ask(server, np.concatenate([data] * 3, axis=1)))
    np.testing.assert_array_equal(output(ask(server, data, sequence_id=11, at=4)), whole[:, 4:])


def test_rows_of_a_request_are_sequences_that_move_on_together(server: RunningServer) -> None:
    data = rows(6, batch=3)
    whole = output(ask(server, data))
    for begin, end in ((0, 1), (1, 4), (4, 6)):
        for replayed in (False, True):
            flags = {"sequence_start": begin == 0, "sequence_end": end == 6}
            response = ask(server, data[:, begin:end], sequence_id=12, at=begin, **flags)
            np.testing.assert_array_equal(output(response), whole[:, begin:end])
            assert response.json()["parameters"]["replayed"] is replayed
        if end < 6:
            text = refused(ask(server, data[:2, end:], sequence_id=12), 422, "invalid_field")
            assert text == "the sequence has 3 rows, and the request 2"
    body = {
        "inputs": [tensor("input", data), tensor("lengths", np.array([6, 6, 5]))],
        "parameters": {"sequence_id": 13, "sequence_start": True},
    }
    response = server.client.post(f"/v2/models/{MODEL}/infer", json=body)
    assert "move on together" in refused(response, 422, "invalid_field")


def test_requests_of_one_sequence_that_come_at_once_wait_for_each_other(server: RunningServer) -> None:
    data = rows(1)
    ask(server, data, sequence_id=14, sequence_start=True)
    with ThreadPoolExecutor(12) as pool:
        found = list(pool.map(lambda _: output(ask(server, data, sequence_id=14)), range(12)))
    whole = output(ask(server, np.repeat(data, 13, axis=1)))
    assert {one.tobytes() for one in found} == {whole[:, at : at + 1].tobytes() for at in range(1, 13)}


def test_other_outputs_heads_states_and_texts_go_on_too(server: RunningServer) -> None:
    data = rows(8)
    whole = outputs(ask(server, data, "final", "state.h"))
    ask(server, data[:, :5], sequence_id=15, sequence_start=True)
    found = outputs(ask(server, data[:, 5:], "final", "state.h", sequence_id=15))
    assert sorted(found) == ["final", "state.h"]
    for name, array in found.items():
        np.testing.assert_array_equal(array, whole[name])
    given = {"name": "state.h", "shape": found["state.h"].shape, "datatype": "FP32"}
    body = {
        "inputs": [tensor("input", data), {**given, "data": found["state.h"].ravel().tolist()}],
        "parameters": {"sequence_id": 15},
    }
    response = server.client.post(f"/v2/models/{MODEL}/infer", json=body)
    assert "keeps the state" in refused(response, 422, "invalid_field")

    def spell(text: str, **parameters: object) -> httpx.Response:
        one = {"name": "input", "shape": [1], "datatype": "BYTES", "data": [text]}
        body = {"inputs": [one], "outputs": [{"name": "final"}], "parameters": parameters}
        return server.client.post("/v2/models/names-gru/infer", json=body)

    spell("Lind", sequence_id="name", sequence_start=True)
    found = outputs(spell("qvist", sequence_id="name"))
    np.testing.assert_array_equal(found["final"], outputs(spell("Lindqvist"))["final"])


def test_static_inputs_are_those_that_the_sequence_began_with(server: RunningServer) -> None:
    one, static = named.sequence(9), {"speaker": np.array([3]), "age": np.array([[40.0]], np.float32)}
    truth = named.Truth(named.tagger())(one, {"speaker": 3, "age": [40.0]})

    def step(begin: int, end: int, given: dict[str, Array], **parameters: object) -> httpx.Response:
        inputs = [
            tensor("input", np.array([one["input"][begin:end]], np.float32)),
            tensor("gain", np.array([one["gain"][begin:end]], np.float32)[..., None]),
            *(tensor(name, array) for name, array in given.items()),
        ]
        body = {"inputs": inputs, "outputs": [{"name": "output"}, {"name": "value"}]}
        body["parameters"] = {"sequence_id": "spoken", **parameters}
        return server.client.post("/v2/models/tagger/infer", json=body)

    assert "'speaker' is missing" in refused(step(0, 4, {}, sequence_start=True), 422, "invalid_field")
    found = [outputs(step(0, 4, static, sequence_start=True)), outputs(step(4, 6, {})), outputs(step(6, 9, static))]
    for name in ("output", "value"):
        joined = np.concatenate([one[name] for one in found], axis=1)[0]
        np.testing.assert_allclose(joined, truth[name].reshape(joined.shape), atol=1e-5)
    other = {**static, "speaker": np.array([1])}
    assert "began with" in refused(step(0, 1, other), 422, "invalid_field")
    assert "'age' is missing" in refused(step(0, 1, {"speaker": np.array([3])}), 422, "invalid_field")


def test_a_model_of_windows_slides_over_the_steps(server: RunningServer) -> None:
    data = rows(15, batch=2, features=graphs.FEATURES)
    session = ort.InferenceSession(windowed().SerializeToString(), providers=["CPUExecutionProvider"])
    whole = np.stack(
        [session.run(None, {"input": data[:, end - WINDOW : end]})[0] for end in range(WINDOW, 16)], axis=1
    )
    found = []
    for begin, end in ((0, 4), (4, 5), (5, 6), (6, 12), (12, 15)):
        one = output(ask(server, data[:, begin:end], model="window", sequence_id=3, sequence_start=begin == 0))
        found.append(one)
    # There is no output before the first window is complete, and of each request only the newest one.
    assert [one.shape for one in found] == [(0, 2), (0, 2), (2, 2), (2, 2), (2, 2)]
    np.testing.assert_allclose(np.stack(found[2:], axis=1), whole[:, [0, 6, 9]], atol=1e-5)


def test_a_model_without_running_state_has_no_sequences(server: RunningServer) -> None:
    response = ask(server, rows(3), model="vowels-lstm-bidirectional", sequence_id=1, sequence_start=True)
    refused(response, 409, "not_streamable")


def test_a_sequence_is_a_session_of_its_callers(server: RunningServer) -> None:
    before = {one["id"] for one in server.client.get("/v1/sessions?limit=1000").json()["sessions"]}
    ask(server, rows(2), sequence_id="seen", sequence_start=True)
    (one,) = [one for one in server.client.get("/v1/sessions?limit=1000").json()["sessions"] if one["id"] not in before]
    assert (one["model"], one["step"]) == (MODEL, 2)
    assert server.client.get(f"/v1/sessions/{one['id']}").status_code == 200
    for at in (2, None):
        given = {} if at is None else {"at": at}
        assert ask(
            server, rows(2), sequence_id="seen", sequence_start=at is None, sequence_end=True, **given
        ).is_success
        assert server.client.get(f"/v1/sessions/{one['id']}").status_code == 404
        assert one["id"] not in server.client.get("/v1/sessions?limit=1000").text


def test_sequences_outlive_the_server_on_any_worker_and_rest_only_so_long(
    start_server: StartServer, small_store: Path, tmp_path: Path
) -> None:
    settings = {"store_dir": tmp_path / "store", "api_keys": "a,b"}
    key = {"headers": {"authorization": "Bearer a"}}
    data = rows(16)

    def step(server: RunningServer, begin: int, end: int, id: str, key: Any = key, **more: object) -> httpx.Response:
        # Each request has a connection of its own, which any worker may take.
        body = {"inputs": [tensor("input", data[:, begin:end])], "parameters": {"sequence_id": id, **more}}
        return httpx.post(f"{server.url}/v2/models/{MODEL}/infer", json=body, timeout=60, **key)

    first = start_server(small_store, **settings)
    whole = []
    for id in ("kept", "rested"):
        whole = [output(step(first, 0, 4, id, sequence_start=True))]
    assert first.terminate() == 0
    store = LMDBStore(tmp_path / "store")
    record = store.read(Part("rested", False, False, None).session_id(owner_of_key("a"), MODEL))
    assert record is not None and record.step == 4
    assert store.replace(replace(record, expires_at=record.created_at), record.mark)
    store.close()

    second = start_server(small_store, "--workers", "2", **settings)
    other = {"headers": {"authorization": "Bearer b"}}
    assert "START flag" in refused(step(second, 4, 5, "kept", other), 400, "sequence_not_started")
    assert "rested" in refused(step(second, 4, 5, "rested"), 400, "sequence_not_started")
    for begin in range(4, 16):
        more = {"at": begin} if begin % 2 else {}
        whole.append(output(step(second, begin, begin + 1, "kept", sequence_end=begin == 15, **more)))
    refused(step(second, 0, 1, "kept"), 400, "sequence_not_started")
    np.testing.assert_array_equal(np.concatenate(whole, axis=1), output(step(second, 0, 16, "", key)))
