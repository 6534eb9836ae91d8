"""Every form of a request, of every protocol, gives the bits of every other."""

import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from websockets.sync.client import connect

from tests.api import test_v2
from tests.api.test_grpc import Channel, request
from tests.reference import Array, expected
from tests.running import RunningServer, running_server

pytestmark = pytest.mark.slow

MODEL, OCTETS = "vowels-gru", "application/octet-stream"
PREDICT, INFER = f"/v1/models/{MODEL}/predict", f"/v2/models/{MODEL}/infer"
# Any number of float32, of which both protocols say that it is finite.
numbers = st.floats(allow_nan=False, allow_infinity=False, width=32)
texts = st.one_of(
    st.text("abcXYZ' é", min_size=1, max_size=12),
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12),
)
sequences = st.integers(1, 12).flatmap(lambda length: arrays(np.float32, (length, 12), elements=numbers))


@pytest.fixture(scope="module")
def serving(small_store: Any) -> Iterator[RunningServer]:
    with running_server(small_store, "--grpc-port", "0", store="memory") as one:
        yield one


def native_json(server: RunningServer, rows: Array) -> Array:
    body = {"sequence": rows.tolist(), "return": "steps"}
    answer = server.client.post(PREDICT, content=orjson.dumps(body)).raise_for_status()
    return np.array(orjson.loads(answer.content)["results"][0]["outputs"], np.float32)


def octets(server: RunningServer, rows: Array) -> Array:
    headers = {"content-type": OCTETS, "accept": f"{OCTETS}, application/json;q=0.5"}
    answer = server.client.post(f"{PREDICT}?return=steps", content=rows.tobytes(), headers=headers).raise_for_status()
    shape = [int(extent) for extent in answer.headers["elman-shape"].split(",")]
    return np.frombuffer(answer.content, "<f4").reshape(shape)


def _infer(server: RunningServer, **sent: Any) -> Array:
    found: Array = test_v2.outputs(server.client.post(INFER, **sent))["output"][0]
    return found


def flat(server: RunningServer, rows: Array) -> Array:
    return _infer(server, content=orjson.dumps({"inputs": [test_v2.tensor(rows[None])]}))


def nested(server: RunningServer, rows: Array) -> Array:
    body = orjson.dumps({"inputs": [test_v2.tensor(rows[None], datatype="FP64", nested=True)]})
    return _infer(server, content=zlib.compress(body), headers={"content-encoding": "deflate"})


def binary(server: RunningServer, rows: Array) -> Array:
    shape, wanted = [1, *rows.shape], {"parameters": {"binary_data_output": True}}
    return _infer(server, **test_v2.binary([("input", "FP32", shape, rows.tobytes())], **wanted))


def padded(server: RunningServer, rows: Array) -> Array:
    """In FP64, among others, with NaN behind its steps."""
    wide = np.full((3, len(rows) + 2, 12), np.nan)
    wide[:, 0], wide[1, : len(rows)] = 0, rows
    tensors = [
        ("input", "FP64", list(wide.shape), wide.tobytes()),
        ("lengths", "UINT16", [3, 1], np.array([1, len(rows), 1], "<u2").tobytes()),
    ]
    sent = test_v2.binary(tensors)
    sent = {"content": gzip.compress(sent["content"]), "headers": {**sent["headers"], "content-encoding": "gzip"}}
    return test_v2.outputs(server.client.post(INFER, **sent))["output"][1, : len(rows)]


def bytes_alone(server: RunningServer, rows: Array) -> Array:
    return _infer(server, content=rows.tobytes(), headers={test_v2.HEADER_LENGTH: "0"})


def raw_contents(server: RunningServer, rows: Array) -> Array:
    return _rpc(server, request(rows[None]))


def listed_contents(server: RunningServer, rows: Array) -> Array:
    message = request(rows[None])
    del message.raw_input_contents[:]
    message.inputs[0].contents.fp32_contents.extend(rows.ravel().tolist())
    return _rpc(server, message)


def _rpc(server: RunningServer, message: Any) -> Array:
    answer = Channel(server, ()).infer(message)
    (content,), (output,) = answer.raw_output_contents, answer.outputs
    found: Array = np.frombuffer(content, "<f4").reshape(output.shape)[0]
    return found


def frames(server: RunningServer, rows: Array) -> Array:
    """Over a WebSocket: the first half as text, the rest as bytes."""
    half = len(rows) // 2
    found = []
    with connect(f"ws://127.0.0.1:{server.port}/v1/models/{MODEL}/stream?return=steps", proxy=None) as socket:
        socket.recv(60)
        if half:
            socket.send(json.dumps({"sequence": rows[:half].tolist()}))
            found.append(np.array(json.loads(socket.recv(60))["outputs"], np.float32))
        socket.send(rows[half:].tobytes())
        found.append(np.frombuffer(socket.recv(60), "<f4").reshape(-1, 9))  # type: ignore[arg-type]
    return np.concatenate(found)


FORMS: list[Callable[[RunningServer, Array], Array]] = [
    native_json, octets, flat, nested, binary, padded, bytes_alone, raw_contents, listed_contents, frames,
]  # fmt: skip


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
@given(rows=sequences)
def test_each_form_gives_the_bits_of_the_model(
    serving: RunningServer, form: Callable[[RunningServer, Array], Array], rows: Array
) -> None:
    assert form(serving, rows).tobytes() == expected(MODEL, rows).tobytes()


@given(text=texts)
def test_texts_are_read_alike_or_refused_alike(serving: RunningServer, text: str) -> None:
    """JSON of both protocols, with and without escapes, and bytes."""
    post, infer = serving.client.post, "/v2/models/names-gru/infer"
    content = text.encode()
    tensor = {"name": "input", "datatype": "BYTES", "shape": [1], "data": [text]}
    wanted = [{"name": "final"}]
    packed = len(content).to_bytes(4, "little") + content
    asked: list[httpx.Response] = [
        post("/v1/models/names-gru/predict", content=orjson.dumps({"sequence": text})),
        post("/v1/models/names-gru/predict", content=json.dumps({"sequences": [text]}).encode()),
        post(infer, content=orjson.dumps({"inputs": [tensor], "outputs": wanted})),
        post(infer, content=json.dumps({"inputs": [tensor], "outputs": wanted}).encode()),
        post(infer, **test_v2.binary([("input", "BYTES", [1], packed)], outputs=wanted)),
    ]
    first, *others = asked
    if first.status_code != 200:
        assert {one.json()["code"] for one in asked} == {first.json()["code"]}
        return
    found = [one.json()["results"][0]["output"] for one in asked[:2]]
    found += [one.json()["outputs"][0]["data"] for one in asked[2:]]
    assert all(one == found[0] for one in found), others
