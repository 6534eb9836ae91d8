"""The tensors of models of every layout, in the Open Inference Protocol."""

import asyncio
import gzip
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnxruntime as ort
import pytest
from onnx import ModelProto, TensorProto, helper

from elman.app import create_app
from elman.settings import Settings
from tests import named
from tests.api.test_grpc import Channel, request
from tests.api.test_v2 import HEADER_LENGTH, NUMPY, binary, outputs, rows, tensor
from tests.reference import STORE, Array, expected, same_bits
from tests.repository import graphs
from tests.running import RunningServer, running_server

pytestmark = pytest.mark.slow

FEATURES, HIDDEN = graphs.FEATURES, graphs.HIDDEN


def time_first() -> ModelProto:
    """(time, batch, features) to (time, batch, hidden), with its state."""
    nodes = [
        graphs.recurrent("GRU", "input", ("h",), ("h_out",)),
        helper.make_node("Squeeze", ["y4", "one"], ["output"]),
    ]
    inputs = [graphs.value("input", ["time", "batch", FEATURES]), graphs.value("h", [1, "batch", HIDDEN])]
    found = [graphs.value("output", ["time", "batch", HIDDEN]), graphs.value("h_out", [1, "batch", HIDDEN])]
    return graphs.model(nodes, inputs, found, [*graphs.weights("GRU"), graphs.constant("one", [1])])


def one_step() -> ModelProto:
    """(batch, features) and a state to (batch, hidden) and the next state."""
    nodes = [
        helper.make_node("Unsqueeze", ["input", "zero"], ["step"]),
        graphs.recurrent("GRU", "step", ("h",), ("h_out",)),
        helper.make_node("Squeeze", ["h_out", "zero"], ["output"]),
    ]
    inputs = [graphs.value("input", ["batch", FEATURES]), graphs.value("h", [1, "batch", HIDDEN])]
    found = [graphs.value("output", ["batch", HIDDEN]), graphs.value("h_out", [1, "batch", HIDDEN])]
    return graphs.model(nodes, inputs, found, [*graphs.weights("GRU"), graphs.constant("zero", [0])])


def window() -> ModelProto:
    """(batch, 5, features) to 2 numbers, by a layer over the flattened outputs of all steps."""
    after = (
        helper.make_node("Reshape", ["steps", "flat"], ["row"]),
        helper.make_node("MatMul", ["row", "dense"], ["output"]),
    )
    dense = np.random.default_rng(3).standard_normal((5 * HIDDEN, 2))
    tensors = (graphs.constant("flat", [-1, 5 * HIDDEN]), graphs.constant("dense", dense, np.float32))
    return graphs.tagger("GRU", time=5, after=after, tensors=tensors)


KINDS = {
    "BOOL": TensorProto.BOOL, "INT8": TensorProto.INT8, "INT16": TensorProto.INT16, "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64, "UINT8": TensorProto.UINT8, "UINT16": TensorProto.UINT16, "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64,
}  # fmt: skip


def kinds() -> ModelProto:
    """The output of each step a hundredfold, as numbers of each kind that has no point."""
    casts = [
        helper.make_node("Cast", ["large" if kind[0] == "U" else "hundred"], [kind], to=to)
        for kind, to in KINDS.items()
    ]
    after = (
        helper.make_node("Identity", ["steps"], ["output"]),
        helper.make_node("Mul", ["steps", "by"], ["hundred"]),
        helper.make_node("Abs", ["hundred"], ["large"]),
        *casts,
    )
    proto = graphs.tagger("GRU", after=after, tensors=(graphs.constant("by", [100], np.float32),))
    shape = ["batch", "time", HIDDEN]
    proto.graph.output.extend(helper.make_tensor_value_info(kind, to, shape) for kind, to in KINDS.items())
    return proto


PROTOS = {
    "kinds": kinds(),
    "tagger": named.tagger(),
    "time-first": time_first(),
    "one-step": one_step(),
    "window": window(),
}


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    root = tmp_path_factory.mktemp("odd")
    for name, proto in PROTOS.items():
        graphs.save(proto, root / name / "1")
    graphs.save(PROTOS["window"], root / "window" / "2")
    (root / "vowels").symlink_to(STORE / "vowels-lstm-bidirectional")
    with running_server(root, "--grpc-port", "0", store="memory") as one:
        models = one.client.get("/v1/models").json()
        assert not models["refused"], models["refused"]
        yield one


def alone(name: str, **feeds: Array) -> dict[str, Array]:
    """What ONNX Runtime answers."""
    session = ort.InferenceSession(PROTOS[name].SerializeToString(), providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_outputs()]
    return dict(zip(names, session.run(None, feeds), strict=True))


def ask(server: RunningServer, model: str, *tensors: dict[str, Any], **rest: Any) -> httpx.Response:
    return server.client.post(f"/v2/models/{model}/infer", json={"inputs": list(tensors), **rest})


def test_named_inputs_and_heads(odd: RunningServer) -> None:
    truth = named.Truth(PROTOS["tagger"])
    lengths, statics = [4, 2], [named.static(3, 0.4), named.static(1, 0.6)]
    sequences = [named.sequence(length, seed) for seed, length in enumerate(lengths)]
    data, gain = np.zeros((2, 4, FEATURES), np.float32), np.ones((2, 4, 1), np.float32)
    for row, (length, one) in enumerate(zip(lengths, sequences, strict=True)):
        data[row, :length], gain[row, :length, 0] = one["input"], one["gain"]
    tensors = [
        tensor(data), tensor(gain, "gain"), tensor(np.array([3, 1]), "speaker", "INT64"),
        tensor(np.array([[0.4], [0.6]], np.float32), "age"), tensor(np.array(lengths), "lengths", "INT64"),
    ]  # fmt: skip
    described = odd.client.get("/v2/models/tagger").json()
    assert {one["name"]: one["shape"] for one in described["inputs"]} == {
        "input": [-1, -1, FEATURES], "gain": [-1, -1, 1], "speaker": [-1], "age": [-1, 1],
    }  # fmt: skip
    found = outputs(ask(odd, "tagger", *tensors))
    assert list(found) == [one["name"] for one in described["outputs"]] == ["output", "value", "best", "level"]
    assert {one["name"]: one["datatype"] for one in described["outputs"]}["best"] == "INT64"
    for row, (length, one, static) in enumerate(zip(lengths, sequences, statics, strict=True)):
        right = truth(one, static)
        for name in ("output", "value", "best"):
            assert same_bits(found[name][row, :length], right[name]), name
            assert not found[name][row, length:].any()
        assert same_bits(found["level"][row], right["level"])
    missing = ask(odd, "tagger", *tensors[:2], *tensors[3:])
    assert missing.status_code == 422 and "'speaker' is missing" in missing.json()["error"]
    wrong = ask(odd, "tagger", tensors[0], {**tensors[1], "shape": [2, 1, 4]}, *tensors[2:])
    assert wrong.json()["where"] == "inputs[1].shape"


def test_time_stands_first_where_it_does_in_the_graph(odd: RunningServer) -> None:
    data, start = rows(6, 2, FEATURES), np.zeros((1, 2, HIDDEN), np.float32)
    right = alone("time-first", input=data, h=start)
    found = outputs(
        ask(odd, "time-first", tensor(data), outputs=[{"name": name} for name in ("output", "final", "h_out")])
    )
    assert same_bits(found["output"], right["output"])
    assert same_bits(found["final"], right["output"][-1])
    assert same_bits(found["h_out"], right["h_out"])
    described = odd.client.get("/v2/models/time-first").json()
    assert described["outputs"][0]["shape"] == [-1, -1, HIDDEN]
    assert odd.client.get("/v2/models/time-first/config").json()["max_batch_size"] == 0
    # The author's own loop over chunks, with the names of the graph.
    first = outputs(ask(odd, "time-first", tensor(data[:2]), tensor(start, "h"), outputs=[{"name": "h_out"}]))
    second = outputs(ask(odd, "time-first", tensor(data[2:]), tensor(first["h_out"], "h")))
    assert same_bits(second["output"], right["output"][2:])


def test_a_graph_of_one_step_takes_one_or_many(odd: RunningServer) -> None:
    data, state, steps = rows(2, 3, FEATURES), np.zeros((1, 2, HIDDEN), np.float32), []
    for step in range(3):
        right = alone("one-step", input=data[:, step], h=state)
        wanted = [{"name": "output"}, {"name": "h_out"}]
        found = outputs(ask(odd, "one-step", tensor(data[:, step]), tensor(state, "h"), outputs=wanted))
        assert same_bits(found["output"], right["output"])
        state = found["h_out"]
        steps.append(right["output"])
    found = outputs(ask(odd, "one-step", tensor(data), outputs=[{"name": "output"}]))
    assert same_bits(found["output"], np.stack(steps, axis=1))


def test_a_window_is_taken_whole(odd: RunningServer) -> None:
    data = rows(2, 5, FEATURES)
    found = outputs(ask(odd, "window", tensor(data)))
    assert all(
        same_bits(row, alone("window", input=one[None])["output"][0])
        for row, one in zip(found["output"], data, strict=True)
    )
    described = odd.client.get("/v2/models/window").json()
    assert described["inputs"][0]["shape"] == [-1, 5, FEATURES] and described["outputs"][0]["shape"] == [-1, 2]
    refused = ask(odd, "window", tensor(rows(1, 4, FEATURES)))
    assert (refused.status_code, refused.json()["code"]) == (422, "wrong_length")


@pytest.mark.parametrize("model", ["time-first", "window", "vowels"])
def test_bytes_alone_are_one_row_of_the_only_input(odd: RunningServer, model: str) -> None:
    """Triton calls it a raw binary request: the length of the JSON is 0."""
    (described,) = odd.client.get(f"/v2/models/{model}").json()["inputs"]
    shape = [5, 1, FEATURES] if model == "time-first" else [1, 5, described["shape"][2]]
    data, path = rows(*shape), f"/v2/models/{model}/infer"
    headers = {HEADER_LENGTH: "0", "content-encoding": "gzip"}
    right = outputs(odd.client.post(path, **binary([("input", "FP32", shape, data.tobytes())])))
    for content, sent in ((data.tobytes(), {HEADER_LENGTH: "0"}), (gzip.compress(data.tobytes()), headers)):
        response = odd.client.post(path, content=content, headers=sent)
        assert response.headers["content-type"] == "application/octet-stream"
        found = outputs(response)
        assert list(found) == list(right) and all(same_bits(found[name], right[name]) for name in right)
    odd_size = odd.client.post(path, content=data.tobytes()[:-1], headers={HEADER_LENGTH: "0"})
    assert (odd_size.status_code, odd_size.json()["where"]) == (422, "inputs[0]")
    empty = odd.client.post(path, content=b"", headers={HEADER_LENGTH: "0"})
    assert empty.status_code == 422


def test_many_bytes_alone_are_one_long_row(odd: RunningServer) -> None:
    data = rows(20_000, 1, FEATURES)
    response = odd.client.post("/v2/models/time-first/infer", content=data.tobytes(), headers={HEADER_LENGTH: "0"})
    right = alone("time-first", input=data, h=np.zeros((1, 1, HIDDEN), np.float32))
    assert same_bits(outputs(response)["output"], right["output"])


def test_outputs_of_every_kind_are_those_of_the_graph_in_each_form(odd: RunningServer) -> None:
    data = rows(2, 4, FEATURES)
    right = alone("kinds", input=data)
    sent = binary([("input", "FP32", [*data.shape], data.tobytes())], parameters={"binary_data_output": True})
    answer = Channel(odd, ()).infer(request(data, model="kinds"))
    over_grpc = {
        one.name: np.frombuffer(content, NUMPY[one.datatype]).reshape(one.shape)
        for one, content in zip(answer.outputs, answer.raw_output_contents, strict=True)
    }
    forms = [
        outputs(ask(odd, "kinds", tensor(data))),
        outputs(odd.client.post("/v2/models/kinds/infer", **sent)),
        over_grpc,
    ]
    for found in forms:
        assert list(found) == ["output", *KINDS]
        for kind in KINDS:
            assert found[kind].dtype == right[kind].dtype == np.dtype(NUMPY[kind])
            assert found[kind].tobytes() == right[kind].tobytes(), kind
    wanted = [{"name": kind, "parameters": {"classification": 1}} for kind in ("BOOL", "UINT64")]
    classes = outputs(ask(odd, "kinds", tensor(data), outputs=wanted))
    for kind, texts in classes.items():
        best = right[kind].argmax(axis=2)
        values = np.take_along_axis(right[kind], best[..., None], 2).astype(int)[..., 0]
        assert texts[..., 0].tolist() == [
            [f"{value}:{index}" for value, index in zip(*row, strict=True)] for row in zip(values, best, strict=True)
        ]


def test_bytes_alone_need_one_input(odd: RunningServer) -> None:
    response = odd.client.post("/v2/models/tagger/infer", content=bytes(48), headers={HEADER_LENGTH: "0"})
    assert response.status_code == 422 and response.json()["where"] == f"header {HEADER_LENGTH}"


def test_statistics_are_those_of_all_versions_or_of_one(odd: RunningServer) -> None:
    before = time.time()
    for _ in range(2):
        outputs(odd.client.post("/v2/models/window/versions/1/infer", json={"inputs": [tensor(rows(3, 5, FEATURES))]}))
    get = lambda path: odd.client.get(path).raise_for_status().json()["model_stats"]  # noqa: E731
    first, second = get("/v2/models/window/stats")
    assert (first["name"], first["version"], second["version"]) == ("window", "1", "2")
    assert first["inference_count"] >= 6 and 1e3 * before - 1 <= first["last_inference"] <= 1e3 * time.time() + 1
    assert [one["version"] for one in get("/v2/models/window/versions/2/stats")] == ["2"]
    assert odd.client.get("/v2/models/none/stats").status_code == 404
    found = Channel(odd, ()).ask("ModelStatistics", name="window").model_stats
    assert [(one.version, one.last_inference) for one in found] == [
        ("1", first["last_inference"]),
        ("2", second["last_inference"]),
    ]


def test_a_model_without_running_state_takes_none(odd: RunningServer) -> None:
    data = rows(1, 4, 12)
    (right,) = [expected("vowels-lstm-bidirectional", one) for one in data]
    assert same_bits(outputs(ask(odd, "vowels", tensor(data)))["output"][0], right)
    refused = ask(odd, "vowels", tensor(data), tensor(np.zeros((1, 1, 4)), "state.h"))
    assert refused.json()["where"] == "inputs[1].name"
    assert ask(odd, "vowels", tensor(data), outputs=[{"name": "state.h"}]).json()["where"] == "outputs[0].name"


def test_any_asgi_server_gives_the_same_answer(tmp_path: Path) -> None:
    """Also of an output that is large enough to be sent in pieces."""
    (tmp_path / "vowels").symlink_to(STORE / "vowels-gru")
    data = rows(8, 400, 12)
    request = binary([("input", "FP32", [8, 400, 12], data.tobytes())], parameters={"binary_data_output": True})

    async def answer() -> httpx.Response:
        app = create_app(Settings(models=tmp_path, store="memory", poll=0))
        async with app.router.lifespan_context(app):
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
                failed = await client.post("/v2/models/none/infer", json={"inputs": []})
                assert failed.headers["content-type"] == "application/json" and json.loads(failed.content)["error"]
                return await client.post("/v2/models/vowels/infer", **request)

    found = outputs(asyncio.run(answer()))["output"]
    assert found.nbytes > 64 * 1024
    assert all(same_bits(row, expected("vowels-gru", one)) for row, one in zip(found, data, strict=True))
