"""The Open Inference Protocol over HTTP: the same answers as by the native routes, in every form that clients send."""

import gzip
import json
import socket
import zlib
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.reference import Array, expected, float32, same_bits
from tests.running import RunningServer

MODEL, NAMES = "vowels-gru", "names-gru"
INFER = f"/v2/models/{MODEL}/infer"
HEADER_LENGTH = "Inference-Header-Content-Length"
NUMPY = {
    "BOOL": "?", "INT8": "i1", "INT16": "<i2", "INT32": "<i4", "INT64": "<i8", "UINT8": "u1", "UINT16": "<u2",
    "UINT32": "<u4", "UINT64": "<u8", "FP16": "<f2", "FP32": "<f4", "FP64": "<f8",
}  # fmt: skip


def rows(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def tensor(array: Array, name: str = "input", datatype: str = "FP32", nested: bool = False) -> dict[str, Any]:
    data = array.tolist() if nested else array.reshape(-1).tolist()
    return {"name": name, "shape": list(array.shape), "datatype": datatype, "data": data}


def binary(tensors: list[tuple[str, str, list[int], bytes]], **rest: Any) -> dict[str, Any]:
    """The options of a request with binary tensors: name, datatype, shape and bytes of each."""
    inputs = [
        {"name": name, "datatype": datatype, "shape": shape, "parameters": {"binary_data_size": len(content)}}
        for name, datatype, shape, content in tensors
    ]
    head = json.dumps({"inputs": inputs, **rest}).encode()
    content = head + b"".join(content for *_, content in tensors)
    return {"content": content, "headers": {HEADER_LENGTH: str(len(head))}}


def outputs(response: httpx.Response) -> dict[str, Array]:
    """The outputs by name, in the order of the response."""
    assert response.status_code == 200, response.text[:300]
    content, size = response.content, response.headers.get(HEADER_LENGTH)
    at = len(content) if size is None else int(size)
    kind = "application/json" if size is None else "application/octet-stream"
    assert response.headers["content-type"] == kind
    found = {}
    for one in json.loads(content[:at])["outputs"]:
        dtype = object if one["datatype"] == "BYTES" else np.dtype(NUMPY[one["datatype"]])
        if "data" in one:
            assert "parameters" not in one
            array = np.array(one["data"], dtype)
        else:
            size = one["parameters"]["binary_data_size"]
            array = np.frombuffer(content[at : at + size], dtype) if dtype is not object else texts(content[at:][:size])
            at += size
        found[one["name"]] = array.reshape(one["shape"])
    assert at == len(content)
    return found


def texts(content: bytes) -> Array:
    found = []
    while content:
        end = 4 + int.from_bytes(content[:4], "little")
        found.append(content[4:end].decode())
        content = content[end:]
    return np.array(found, object)


def infer(server: RunningServer, *tensors: dict[str, Any], model: str = MODEL, **rest: Any) -> httpx.Response:
    return server.client.post(f"/v2/models/{model}/infer", json={"inputs": list(tensors), **rest})


FORMS = ["flat", "nested", "binary", "gzip", "deflate", "version", "length of JSON alone"]


@pytest.mark.parametrize("form", FORMS)
def test_each_form_gives_the_bits_of_onnx_runtime(server: RunningServer, form: str) -> None:
    data = rows(3, 6, 12)
    path, body = INFER, {"inputs": [tensor(data, nested=form == "nested")]}
    if form == "binary":
        request = binary([("input", "FP32", [3, 6, 12], data.tobytes())], parameters={"binary_data_output": True})
    elif form == "length of JSON alone":  # which the C++ client always sends
        content = json.dumps(body).encode()
        request = {"content": content, "headers": {HEADER_LENGTH: str(len(content))}}
    elif form in ("gzip", "deflate"):
        pack = {"gzip": gzip.compress, "deflate": zlib.compress}[form]
        request = {"content": pack(json.dumps(body).encode()), "headers": {"content-encoding": form}}
    else:
        path, request = (f"/v2/models/{MODEL}/versions/1/infer" if form == "version" else path), {"json": body}
    found = outputs(server.client.post(path, **request))
    assert list(found) == ["output"]
    assert found["output"].dtype == np.float32
    for row, sequence in zip(found["output"], data, strict=True):
        assert same_bits(row, expected(MODEL, sequence))


@given(st.data())
def test_ragged_rows_have_the_bits_of_each_alone(server: RunningServer, data: st.DataObject) -> None:
    lengths = data.draw(st.lists(st.integers(1, 40), min_size=1, max_size=6))
    time = max(lengths) + data.draw(st.integers(0, 5))
    padded = rows(len(lengths), time, 12, seed=data.draw(st.integers(0, 100)))
    for row, length in zip(padded, lengths, strict=True):
        row[length:] = np.nan
    kind = data.draw(st.sampled_from(["INT32", "INT64", "UINT8"]))
    sizes = np.array(lengths, NUMPY[kind])
    request = binary(
        [("input", "FP32", [*padded.shape], padded.tobytes()), ("lengths", kind, [len(lengths)], sizes.tobytes())],
        outputs=[{"name": name, "parameters": {"binary_data": True}} for name in ("lengths", "final", "output")],
    )
    found = outputs(server.client.post(INFER, **request))
    assert list(found) == ["lengths", "final", "output"]
    assert found["lengths"].tolist() == lengths
    sequences = [row[:length] for row, length in zip(padded, lengths, strict=True)]
    native = server.predict(MODEL, sequences=[one.tolist() for one in sequences], **{"return": "steps"}).json()
    for index, sequence in enumerate(sequences):
        right = expected(MODEL, sequence)
        assert same_bits(found["output"][index, : len(sequence)], right)
        assert same_bits(float32(native["results"][index]["outputs"]), right)
        assert same_bits(found["final"][index], right[-1])
        assert not found["output"][index, len(sequence) :].any()


@pytest.mark.parametrize("datatype", sorted(set(NUMPY) - {"BOOL"}))
@pytest.mark.parametrize("form", ["json", "binary"])
def test_numbers_of_every_datatype_are_read_as_what_they_are(server: RunningServer, datatype: str, form: str) -> None:
    data = (10 * np.abs(rows(1, 4, 12))).astype(NUMPY[datatype])
    if form == "json":
        response = infer(server, tensor(data, datatype=datatype))
    else:
        response = server.client.post(INFER, **binary([("input", datatype, [1, 4, 12], data.tobytes())]))
    assert same_bits(outputs(response)["output"][0], expected(MODEL, data[0].astype(np.float32)))


def test_bfloat16_comes_as_bytes_only(server: RunningServer) -> None:
    halves = (rows(1, 3, 12).view("<u4") >> 16).astype("<u2")
    right = expected(MODEL, (halves.astype("<u4") << 16).view("<f4")[0])
    response = server.client.post(INFER, **binary([("input", "BF16", [1, 3, 12], halves.tobytes())]))
    assert same_bits(outputs(response)["output"][0], right)
    refused = infer(server, tensor(rows(1, 3, 12), datatype="BF16"))
    assert refused.status_code == 422 and "binary" in refused.json()["error"]


@pytest.mark.parametrize("datatype", ["INT8", "INT32", "INT64", "UINT16", "BYTES"])
def test_tokens_come_as_ids_or_as_text(server: RunningServer, datatype: str) -> None:
    names = ["Lindqvist", "Rossi"]
    vocabulary = server.client.get(f"/v1/models/{NAMES}").json()["input"]
    assert vocabulary["text"]
    native = server.predict(NAMES, sequences=names).json()["results"]
    if datatype == "BYTES":
        response = infer(
            server,
            {"name": "input", "shape": [2], "datatype": "BYTES", "data": names},
            model=NAMES,
            outputs=[{"name": "final"}],
        )
        found = outputs(response)["final"]
        assert [same_bits(row, float32(one["output"])) for row, one in zip(found, native, strict=True)] == [True] * 2
        return
    ids = np.array([[5, 17, 2, 9]], NUMPY[datatype])
    native = server.predict(NAMES, sequence=ids[0].tolist()).json()["results"]
    found = outputs(infer(server, tensor(ids, datatype=datatype), model=NAMES, outputs=[{"name": "final"}]))["final"]
    assert same_bits(found[0], float32(native[0]["output"]))


def test_a_state_that_is_sent_back_continues_the_sequence(server: RunningServer) -> None:
    data, wanted = rows(2, 9, 12), [{"name": name} for name in ("output", "state.h")]
    first = outputs(infer(server, tensor(data[:, :4]), outputs=wanted))
    state = tensor(first["state.h"], "state.h")
    assert first["state.h"].shape[1] == 2  # as the graph has it: layers, batch, size
    second = outputs(infer(server, tensor(data[:, 4:]), state, outputs=wanted))
    for index in range(2):
        joined = np.concatenate([first["output"][index], second["output"][index]])
        assert same_bits(joined, expected(MODEL, data[index]))


def test_classes_are_listed_best_first_with_their_labels(server: RunningServer) -> None:
    data = rows(2, 5, 12)
    wanted = [{"name": "final"}, {"name": "output", "parameters": {"classification": 2}}]
    wanted.append({"name": "final", "parameters": {"classification": 3, "binary_data": True}})
    response = infer(server, tensor(data), tensor(np.array([5, 2]), "lengths", "INT64"), outputs=wanted)
    content, at = response.content, int(response.headers[HEADER_LENGTH])
    scores, steps, classes = json.loads(content[:at])["outputs"]
    assert classes["datatype"] == "BYTES" and classes["shape"] == [2, 3]
    labels = server.client.get(f"/v1/models/{MODEL}").json()["output"]["labels"]
    found = texts(content[at:]).reshape(2, 3)
    for row, one in zip(float32(scores["data"]).reshape(scores["shape"]), found, strict=True):
        order = np.argsort(-row)[:3]
        assert list(one) == [f"{row[index]:f}:{index}:{labels[index]}" for index in order]
    assert steps["shape"] == [2, 5, 2]
    assert [bool(text) for text in steps["data"]] == [True] * 10 + [True] * 4 + [False] * 6


def test_all_outputs_are_bytes_but_those_that_say_otherwise(server: RunningServer) -> None:
    data = rows(1, 3, 12)
    wanted = [{"name": "final"}, {"name": "output", "parameters": {"binary_data": False}}, {"name": "lengths"}]
    response = infer(server, tensor(data), outputs=wanted, parameters={"binary_data_output": True})
    sent = json.loads(response.content[: int(response.headers[HEADER_LENGTH])])["outputs"]
    assert ["data" in one for one in sent] == [False, True, False]
    found = outputs(response)
    assert same_bits(found["output"][0], expected(MODEL, data[0])) and found["lengths"].tolist() == [3]
    assert same_bits(found["final"][0], found["output"][0, -1])


def test_the_version_may_stand_in_the_body(server: RunningServer) -> None:
    body = {"inputs": [GOOD], "model_version": "1"}
    for path in (INFER, f"/v2/models/{MODEL}/versions/1/infer"):
        assert server.client.post(path, json=body).json()["model_version"] == "1"
    refused = server.client.post(f"/v2/models/{MODEL}/versions/1/infer", json={**body, "model_version": "2"})
    assert (refused.status_code, refused.json()["where"]) == (422, "model_version")
    request = binary([("input", "FP32", [1, 2, 12], rows(1, 2, 12).tobytes())], model_version="7")
    assert [server.client.post(INFER, **request).status_code for _ in range(2)] == [404, 404]


@pytest.mark.parametrize("id", ["", "42", "ä" * 300])
def test_the_id_is_echoed(server: RunningServer, id: str) -> None:
    assert infer(server, tensor(rows(1, 2, 12)), id=id, model_name=MODEL).json()["id"] == id
    assert "id" not in infer(server, tensor(rows(1, 2, 12)), id=None).json()


@pytest.mark.parametrize(
    ("accepted", "packed"),
    [("gzip", "gzip"), ("deflate", "deflate"), ("gzip, deflate, br", None), ("identity", None)],
)
def test_answers_are_compressed_only_if_one_encoding_alone_is_accepted(
    server: RunningServer, accepted: str, packed: str | None
) -> None:
    data = rows(8, 400, 12)
    request = binary([("input", "FP32", [8, 400, 12], data.tobytes())], parameters={"binary_data_output": True})
    request["headers"]["accept-encoding"] = accepted
    response = server.client.post(INFER, **request)
    assert response.headers.get("content-encoding") == packed
    # The length in the header is that of the JSON before compression.
    found = outputs(response)["output"]
    assert found.nbytes > 64 * 1024  # more than is joined with the head
    assert all(same_bits(row, expected(MODEL, one)) for row, one in zip(found, data, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_the_limit_on_bodies_holds_after_unpacking(server: RunningServer, encoding: str) -> None:
    limit = 64 * 2**20
    bomb = zlib.compressobj(9, wbits={"gzip": 31, "deflate": 15}[encoding])
    content = b"".join([bomb.compress(bytes(2**20)) for _ in range(limit // 2**20 + 1)]) + bomb.flush()
    before = server.memory()
    response = server.client.post(INFER, content=content, headers={"content-encoding": encoding})
    assert response.status_code == 413 and response.json()["code"] == "too_large"
    assert server.memory() < before + 4 * limit
    broken = server.client.post(INFER, content=b"not packed", headers={"content-encoding": encoding})
    assert broken.status_code == 422 and encoding in broken.json()["error"]


def test_only_infer_takes_compressed_bodies(server: RunningServer) -> None:
    headers = {"content-encoding": "gzip"}
    for path in (f"/v1/models/{MODEL}/predict", "/v2/repository/index"):
        assert server.client.post(path, content=gzip.compress(b"{}"), headers=headers).status_code == 415
    assert server.client.post(INFER, content=b"{}", headers={"content-encoding": "br"}).status_code == 415


GOOD = tensor(np.zeros((1, 2, 12), np.float32))
BAD: dict[str, tuple[dict[str, Any], str, str]] = {
    "no such input": ({"inputs": [{**GOOD, "name": "x"}]}, "invalid_field", "inputs"),
    "an input twice": ({"inputs": [GOOD, GOOD]}, "invalid_field", "inputs[1]"),
    "one input too many": ({"inputs": [GOOD, {**GOOD, "name": "x"}]}, "invalid_field", "inputs[1].name"),
    "no such output": ({"inputs": [GOOD], "outputs": [{"name": "x"}]}, "invalid_field", "outputs[0].name"),
    "another model": ({"inputs": [GOOD], "model_name": "x"}, "invalid_field", "model_name"),
    "a misspelt field": ({"inputs": [GOOD], "ouputs": []}, "invalid_field", "ouputs"),
    "no such datatype": ({"inputs": [{**GOOD, "datatype": "FP8"}]}, "invalid_field", "inputs[0].datatype"),
    "booleans as features": (
        {"inputs": [{"name": "input", "shape": [1, 1, 12], "datatype": "BOOL", "data": [True] * 12}]},
        "invalid_field",
        "inputs[0].datatype",
    ),
    "a wrong shape": ({"inputs": [tensor(np.zeros((1, 2, 11)))]}, "wrong_features", "inputs[0].shape"),
    "two axes": ({"inputs": [tensor(np.zeros((2, 12)))]}, "wrong_features", "inputs[0].shape"),
    "no rows": ({"inputs": [tensor(np.zeros((0, 2, 12)))]}, "invalid_field", "inputs[0].shape"),
    "no steps": ({"inputs": [tensor(np.zeros((2, 0, 12)))]}, "empty_sequence", "inputs[0]"),
    "too few numbers": ({"inputs": [{**GOOD, "data": [0.0] * 23}]}, "invalid_field", "inputs[0].data"),
    "a ragged list": ({"inputs": [{**GOOD, "data": [[[0.0] * 12, [0.0] * 11]]}]}, "invalid_field", "inputs[0].data"),
    "a missing value": ({"inputs": [{**GOOD, "data": [0.0] * 23 + [None]}]}, "not_finite", "inputs[0][0][1][11]"),
    "beyond float32": ({"inputs": [{**GOOD, "data": [1e39] + [0.0] * 23}]}, "not_finite", "inputs[0][0][0][0]"),
    "text among numbers": ({"inputs": [{**GOOD, "data": [0.0, "1"] * 12}]}, "invalid_field", "inputs[0].data[1]"),
    "a negative extent": ({"inputs": [{**GOOD, "shape": [-1, 2, 12]}]}, "invalid_field", "inputs[0].shape"),
    "a huge shape": ({"inputs": [{**GOOD, "shape": [2**40, 2**40, 12]}]}, "invalid_field", "inputs[0].shape"),
    "very many outputs": ({"inputs": [GOOD], "outputs": [{"name": "final"}] * 1001}, "invalid_field", "outputs"),
    "nothing along a huge axis": (
        {"inputs": [{**GOOD, "shape": [0, 2**62], "data": []}]},
        "invalid_field",
        "inputs[0].shape",
    ),
    "neither data nor bytes": (
        {"inputs": [{"name": "input", "shape": [1, 2, 12], "datatype": "FP32"}]},
        "invalid_field",
        "inputs[0]",
    ),
    "bytes that are not there": (
        {"inputs": [{"name": "input", "shape": [1], "datatype": "FP32", "parameters": {"binary_data_size": 4}}]},
        "invalid_field",
        "inputs[0].parameters.binary_data_size",
    ),
    "shared memory": (
        {"inputs": [{**GOOD, "parameters": {"shared_memory_region": "r"}}]},
        "invalid_field",
        "inputs[0].parameters.shared_memory_region",
    ),
    "lengths beyond the tensor": (
        {"inputs": [GOOD, {"name": "lengths", "shape": [1], "datatype": "INT32", "data": [3]}]},
        "wrong_length",
        "inputs[1][0]",
    ),
    "half a state": (
        {"inputs": [GOOD, {"name": "state.h", "shape": [1, 1, 5], "datatype": "FP32", "data": [0] * 5}]},
        "wrong_features",
        "inputs[1].shape",
    ),
    "a deadline that has passed": ({"inputs": [GOOD], "parameters": {"timeout": 1}}, "deadline", ""),
    "a timeout that is no number": ({"inputs": [GOOD], "parameters": {"timeout": "1"}}, "invalid_field", "parameters"),
    "a negative priority": ({"inputs": [GOOD], "parameters": {"priority": -1}}, "invalid_field", "parameters.priority"),
    "a version that is not there": ({"inputs": [GOOD], "model_version": "7"}, "unknown_model", ""),
    "a parameter that is null": ({"inputs": [GOOD], "parameters": {"a": None}}, "invalid_field", "parameters["),
    "bytes, by a word": (
        {"inputs": [GOOD], "parameters": {"binary_data_output": "yes"}},
        "invalid_field",
        "parameters.b",
    ),
    "bytes, by a number": (
        {"inputs": [GOOD], "outputs": [{"name": "final", "parameters": {"binary_data": 1}}]},
        "invalid_field",
        "outputs[0].parameters.binary_data",
    ),
    "classes that are no number": (
        {"inputs": [GOOD], "outputs": [{"name": "final", "parameters": {"classification": "2"}}]},
        "invalid_field",
        "outputs[0].parameters.classification",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_is_named(server: RunningServer, name: str) -> None:
    body, code, where = BAD[name]
    response = server.client.post(INFER, json=body)
    assert response.headers["content-type"] == "application/json"
    problem = response.json()
    assert problem["error"] and (problem["code"], response.status_code // 100) == (code, 5 if code == "deadline" else 4)
    assert str(problem.get("where") or "").startswith(where), problem


def test_bytes_that_are_not_those_of_the_tensor_are_refused(server: RunningServer) -> None:
    good = rows(1, 2, 12).tobytes()
    for content, shape in ((good[:-1], [1, 2, 12]), (good, [1, 3, 12])):
        response = server.client.post(INFER, **binary([("input", "FP32", shape, content)]))
        assert response.status_code == 422 and "bytes" in response.json()["error"]
    request = binary([("input", "FP32", [1, 2, 12], good)])
    for declared in ("x", "99999", "-1"):
        response = server.client.post(INFER, **{**request, "headers": {HEADER_LENGTH: declared}})
        assert response.status_code == 422 and response.json()["where"].startswith("header")
    response = server.client.post(INFER, content=request["content"] + b"more", headers=request["headers"])
    assert response.status_code == 422 and "belong to no input" in response.json()["error"]
    for content in (b"\xff\xff\xff\xff", b"\x02\0\0\0L", b"\x01\0\0\0Lx"):
        response = server.client.post(f"/v2/models/{NAMES}/infer", **binary([("input", "BYTES", [1], content)]))
        assert response.status_code == 422 and response.json()["code"] == "invalid_field"
    response = server.client.post(f"/v2/models/{NAMES}/infer", **binary([("input", "BYTES", [1], b"\x01\0\0\0\xff")]))
    assert response.status_code == 422 and "UTF-8" in response.json()["error"]


@pytest.mark.parametrize("kind", [None, "application/octet-stream", "text/plain"])
def test_the_type_of_a_body_does_not_matter(server: RunningServer, kind: str | None) -> None:
    headers = {} if kind is None else {"content-type": kind}
    for path, body in ((INFER, {"inputs": [GOOD]}), ("/v2/repository/index", {"ready": True})):
        response = server.client.post(path, content=json.dumps(body), headers=headers)
        assert response.status_code == 200, response.text


def test_priorities_count_from_one_and_change_no_answer(server: RunningServer) -> None:
    data = rows(1, 3, 12)
    for priority in (0, 1, 7, 2**64 - 1):
        found = outputs(infer(server, tensor(data), parameters={"priority": priority, "timeout": 60_000_000}))
        assert same_bits(found["output"][0], expected(MODEL, data[0]))


def test_requests_that_repeat_their_head_on_one_connection(server: RunningServer) -> None:
    answers = []
    with socket.create_connection(("127.0.0.1", server.port), 30) as one, one.makefile("rb") as read:
        for seed in range(3):
            data = rows(1, 4, 12, seed=seed)
            request = binary([("input", "FP32", [1, 4, 12], data.tobytes())], outputs=[{"name": "final"}])
            length = request["headers"][HEADER_LENGTH]
            head = f"POST {INFER} HTTP/1.1\r\nHost: here\r\n{HEADER_LENGTH}: {length}\r\n"
            one.sendall(f"{head}Content-Length: {len(request['content'])}\r\n\r\n".encode() + request["content"])
            assert read.readline() == b"HTTP/1.1 200 OK\r\n"
            size = 0
            while (line := read.readline()) != b"\r\n":
                name, _, value = line.partition(b": ")
                size = int(value) if name == b"content-length" else size
            answers.append(float32(json.loads(read.read(size))["outputs"][0]["data"]))
            assert same_bits(answers[-1], expected(MODEL, data[0])[-1])


def test_a_large_body_of_json_is_answered_alike(server: RunningServer) -> None:
    data = rows(20, 300, 12)
    response = infer(server, tensor(data), outputs=[{"name": "final"}])
    assert len(response.request.content) > 512 * 1024
    found = outputs(response)["final"]
    assert all(same_bits(row, expected(MODEL, one)[-1]) for row, one in zip(found, data, strict=True))


def test_the_server_and_its_models_are_described(server: RunningServer) -> None:
    get = server.client.get
    assert get("/v2").json() == get("/v2/").json()
    assert set(get("/v2").json()) == {"name", "version", "extensions"}
    assert get("/v2/health/live").json() == {"live": True}
    assert get("/v2/health/ready").json() == {"ready": True}
    assert get(f"/v2/models/{MODEL}/ready").json() == {"name": MODEL, "ready": True}
    described = get(f"/v2/models/{MODEL}").json()
    assert described == get(f"/v2/models/{MODEL}/versions/1").json()
    assert described["versions"] == ["1"]
    assert described["inputs"] == [{"name": "input", "datatype": "FP32", "shape": [-1, -1, 12]}]
    assert described["outputs"] == [{"name": "output", "datatype": "FP32", "shape": [-1, -1, 9]}]
    config = get(f"/v2/models/{MODEL}/config").json()
    assert config["max_batch_size"] > 0 and "sequence_batching" not in config
    assert [(one["name"], one["data_type"], one["dims"]) for one in config["input"]] == [
        ("input", "TYPE_FP32", [-1, 12])
    ]
    assert {"input.lengths", "input.state.h", "output.final", "output.state.h"} <= set(config["parameters"])
    for path in ("/v2/models/none", "/v2/models/none/ready", f"/v2/models/{MODEL}/versions/7/config"):
        assert get(path).status_code == 404 and get(path).json()["code"] == "unknown_model"


@pytest.mark.parametrize(
    ("method", "path", "what"),
    [
        ("GET", "/v2/trace/setting", "tracing"),
        ("POST", f"/v2/models/{MODEL}/trace/setting", "tracing"),
        ("GET", "/v2/logging", "log settings"),
        ("POST", "/v2/logging", "log settings"),
        ("GET", "/v2/systemsharedmemory/status", "shared memory"),
        ("POST", "/v2/cudasharedmemory/region/r/register", "shared memory"),
        ("POST", "/v2/systemsharedmemory/unregister", "shared memory"),
    ],
)
def test_what_is_not_offered_says_so(server: RunningServer, method: str, path: str, what: str) -> None:
    response = server.client.request(method, path, json={} if method == "POST" else None)
    assert response.status_code == 404 and what in response.json()["error"]
    assert "not offered" in response.json()["error"]


def test_the_sequence_of_requests_of_perf_analyzer(server: RunningServer) -> None:
    """Its wheel needs a newer C library than Debian 12 has, so what it does is done here."""
    get, name = server.client.get, "vowels-lstm"
    described = get(f"/v2/models/{name}").json()
    config = get(f"/v2/models/{name}/config").json()
    assert "statistics" in get("/v2").json()["extensions"]
    before = get(f"/v2/models/{name}/stats").json()["model_stats"][0]
    batch = 4
    assert batch <= config["max_batch_size"]
    generator = np.random.default_rng(0)
    for number in range(5):
        tensors = []
        for one in described["inputs"]:  # random data for every input that is listed, 20 for each open extent
            shape = [batch, *(20 if extent == -1 else extent for extent in one["shape"][1:])]
            content = generator.standard_normal(shape).astype(NUMPY[one["datatype"]]).tobytes()
            tensors.append((one["name"], one["datatype"], shape, content))
        wanted = [{"name": one["name"], "parameters": {"binary_data": True}} for one in described["outputs"]]
        response = server.client.post(f"/v2/models/{name}/infer", **binary(tensors, outputs=wanted, id=str(number)))
        assert list(outputs(response)) == [one["name"] for one in described["outputs"]]
        assert json.loads(response.content[: int(response.headers[HEADER_LENGTH])])["id"] == str(number)
    after = get("/v2/models/stats").json()["model_stats"]
    after = next(one for one in after if one["name"] == name)
    spent = {key: (after["inference_stats"][key], one) for key, one in before["inference_stats"].items()}
    assert set(spent) == {
        "success", "fail", "queue", "compute_input", "compute_infer", "compute_output", "cache_hit", "cache_miss",
    }  # fmt: skip
    for now, then in spent.values():  # it subtracts them as unsigned numbers
        assert now["count"] >= then["count"] >= 0 and now["ns"] >= then["ns"] >= 0
    # It gives up where these differ.
    parts = ("queue", "compute_input", "compute_infer", "compute_output")
    assert [spent[part][0]["count"] - spent[part][1]["count"] for part in parts] == [5] * 4
    assert spent["success"][0]["count"] >= spent["success"][1]["count"] + 5
    for part in ("input", "infer", "output"):
        assert spent[f"compute_{part}"][0]["ns"] > spent[f"compute_{part}"][1]["ns"]
    assert after["inference_count"] >= before["inference_count"] + 5 * batch
    assert after["execution_count"] > before["execution_count"]


def test_bytes_that_are_no_text_in_json_are_refused(server: RunningServer) -> None:
    one = b'{"inputs": [{"name": "input", "datatype": "BYTES", "shape": [1], "data": ["Li\xbf\xbf"]}]}'
    for content in (one, one.replace(b"\xbf\xbf", b"\\ud800")):
        response = server.client.post("/v2/models/names-gru/infer", content=content)
        assert (response.status_code, response.json()["code"]) == (400, "invalid_json"), response.text
