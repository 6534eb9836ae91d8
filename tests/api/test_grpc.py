"""The Open Inference Protocol over gRPC, by a real channel to a real server."""

import asyncio
import contextlib
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from elman.api.grpc.calls import Call, Calls, Peer, network_in
from elman.api.grpc.infer import Inferring
from elman.api.grpc.messages import HEALTH, INFERENCE, REFLECTION
from elman.codec.budget import Budget
from elman.errors import Overloaded, UnknownModel
from elman.http.callers import Callers
from elman.http.endpoint import Driver, Response
from tests.conftest import StartServer
from tests.reference import Array
from tests.running import STORE, RunningServer, environment, running_server
from tests.waiting import wait_until

# It starts servers of its own.
pytestmark = pytest.mark.slow

MODEL, SERVICE = "vowels-gru", "inference.GRPCInferenceService"
KEY = (("authorization", "Bearer a"),)
MAX_BODY = 8_000_000


class Channel:
    """A connection to a server, and its calls."""

    def __init__(self, server: RunningServer, key: Any = KEY) -> None:
        self.port, self.key = server.grpc_port, key
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]
        self.channel = grpc.insecure_channel(f"127.0.0.1:{self.port}", options)

    def method(self, name: str, schema: Any = INFERENCE, response: str | None = None, kind: str = "unary_unary") -> Any:
        """A method of the first service of a schema. It takes messages, or bytes as they are."""
        answer = schema.message(response or f"{name}Response")
        return getattr(self.channel, kind)(
            f"/{schema.services[0]}/{name}",
            request_serializer=lambda one: one if isinstance(one, bytes) else one.SerializeToString(),
            response_deserializer=answer.FromString,
        )

    def ask(self, method: str, /, **fields: Any) -> Any:
        """The answer of a method to a message of some fields."""
        message = INFERENCE.message(f"{method}Request")(**fields)
        return self.method(method)(message, timeout=60, metadata=self.key)

    def infer(self, message: Any, timeout: float = 60.0, **options: Any) -> Any:
        return self.method("ModelInfer")(message, timeout=timeout, metadata=self.key, **options)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    root = tmp_path_factory.mktemp("grpc")
    for name in (MODEL, "names-gru", "vowels-lstm"):
        (root / name).symlink_to(STORE / name)
    with running_server(root, "--grpc-port", "0", admin_api_keys="a", api_keys="b", max_body=MAX_BODY) as one:
        one.client.headers["authorization"] = "Bearer a"
        yield one


@pytest.fixture(scope="module")
def channel(server: RunningServer) -> Channel:
    return Channel(server)


def rows(length: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal((1, length, 12)).astype(np.float32)


def request(*arrays: Array, model: str = MODEL, outputs: tuple[str, ...] = (), **fields: Any) -> Any:
    """A request with raw contents. Parameters are given by name and value."""
    parameters = fields.pop("parameters", {})
    message = INFERENCE.message("ModelInferRequest")(model_name=model, **fields)
    for array in arrays:
        datatype = {"f": "FP", "i": "INT", "u": "UINT"}[array.dtype.kind] + str(8 * array.dtype.itemsize)
        message.inputs.add(name="input", datatype=datatype, shape=array.shape)
        message.raw_input_contents.append(array.tobytes())
    for name in outputs:
        message.outputs.add(name=name)
    for name, value in parameters.items():
        kind = {bool: "bool", int: "int64", str: "string", float: "double"}[type(value)]
        setattr(message.parameters[name], f"{kind}_param", value)
    return message


def listed(datatype: str, shape: list[int], **contents: Any) -> Any:
    """A request with a list of elements."""
    message = INFERENCE.message("ModelInferRequest")(model_name="names-gru")
    one = message.inputs.add(name="input", datatype=datatype, shape=shape)
    for name, values in contents.items():
        getattr(one.contents, name).extend(values)
    message.outputs.add(name="final")
    return message


def arrays(response: Any) -> dict[str, Array]:
    kinds: dict[str, Any] = {"FP32": np.float32, "INT64": np.int64}
    return {
        one.name: np.frombuffer(content, kinds[one.datatype]).reshape(one.shape)
        for one, content in zip(response.outputs, response.raw_output_contents, strict=True)
    }


def over_http(server: RunningServer, array: Array, model: str = MODEL, *names: str) -> dict[str, Array]:
    datatype = {"f": "FP32", "i": "INT64"}[array.dtype.kind]
    body = {"inputs": [{"name": "input", "shape": array.shape, "datatype": datatype, "data": array.ravel().tolist()}]}
    body["outputs"] = [{"name": name} for name in names or ("output",)]
    found = server.client.post(f"/v2/models/{model}/infer", json=body).raise_for_status().json()["outputs"]
    return {one["name"]: np.array(one["data"], np.float32).reshape(one["shape"]) for one in found}


def refused(call: Any, status: grpc.StatusCode, code: str | None = None) -> dict[str, Any]:
    """The error of a call as JSON, which has the text that clients show."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    error: Any = caught.value
    assert error.code() == status, error
    metadata = dict(error.trailing_metadata() or ())
    if code is None:
        return {"error": error.details()}
    problem: dict[str, Any] = json.loads(metadata["elman-problem-bin"])
    assert problem["code"] == code and problem["error"] == error.details() and metadata["x-request-id"]
    return problem


INVALID, NOT_FOUND = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND


# Inference


def test_an_answer_has_the_bits_of_http(server: RunningServer, channel: Channel) -> None:
    data = rows(9)
    response = channel.infer(request(data, id="42", outputs=("output", "final")))
    assert (response.model_name, response.model_version, response.id) == (MODEL, "1", "42")
    assert [(one.name, list(one.shape)) for one in response.outputs] == [("output", [1, 9, 9]), ("final", [1, 9])]
    for name, array in over_http(server, data, MODEL, "output", "final").items():
        np.testing.assert_array_equal(arrays(response)[name], array)
    response = channel.infer(request(data, model_version="1"))
    assert [one.name for one in response.outputs] == ["output"] and response.id == ""


@pytest.mark.parametrize("kind", ["i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"])
def test_every_kind_of_integer_is_read_from_lists_and_from_bytes(
    server: RunningServer, channel: Channel, kind: str
) -> None:
    tokens = np.array([[5, 9, 3, 70]])
    expected = over_http(server, tokens, "names-gru", "final")["final"]
    raw = channel.infer(request(tokens.astype(kind), model="names-gru", outputs=("final",)))
    width = "int64" if kind[1] == "8" else "int"
    name = f"{'u' if kind[0] == 'u' else ''}{width}_contents"
    datatype = {"i": "INT", "u": "UINT"}[kind[0]] + str(8 * int(kind[1]))
    given = channel.infer(listed(datatype, [1, 4], **{name: tokens.ravel().tolist()}))
    for response in (raw, given):
        np.testing.assert_array_equal(arrays(response)["final"], expected)


@pytest.mark.parametrize(("datatype", "name"), [("FP32", "fp32_contents"), ("FP64", "fp64_contents")])
def test_floats_are_read_from_lists(channel: Channel, datatype: str, name: str) -> None:
    data = rows(4)
    message = listed(datatype, [1, 4, 12], **{name: data.ravel().tolist()})
    message.model_name = MODEL
    expected = arrays(channel.infer(request(data, outputs=("final",))))["final"]
    np.testing.assert_array_equal(arrays(channel.infer(message))["final"], expected)


@pytest.mark.parametrize("dtype", [np.float16, np.float64, "BF16"])
def test_other_floats_are_read_from_bytes(channel: Channel, dtype: Any) -> None:
    data = rows(4)
    if dtype == "BF16":
        upper = np.ascontiguousarray(data).view(np.uint16)[..., 1::2]
        message = request(upper)
        message.inputs[0].datatype = "BF16"
        data = (upper.astype(np.uint32) << 16).view(np.float32)
    else:
        message = request(data.astype(dtype))
        data = data.astype(dtype).astype(np.float32)
    np.testing.assert_array_equal(
        arrays(channel.infer(message))["output"], arrays(channel.infer(request(data)))["output"]
    )


def test_texts_are_read_from_lists_and_from_bytes(server: RunningServer, channel: Channel) -> None:
    names = [b"Lind", "Schröder".encode()]
    given = channel.infer(listed("BYTES", [2, 1], bytes_contents=names))
    message = listed("BYTES", [2])
    message.raw_input_contents.append(b"".join(len(one).to_bytes(4, "little") + one for one in names))
    np.testing.assert_array_equal(arrays(channel.infer(message))["final"], arrays(given)["final"])
    answer = server.client.post("/v1/models/names-gru/predict", json={"sequences": ["Lind", "Schröder"]}).json()
    np.testing.assert_array_equal(
        arrays(given)["final"], np.array([one["output"] for one in answer["results"]], np.float32)
    )


def test_classes_are_the_best_with_their_labels(channel: Channel) -> None:
    message = request(rows(5), outputs=("final",))
    message.outputs[0].parameters["classification"].int64_param = 2
    response = channel.infer(message)
    assert response.outputs[0].datatype == "BYTES" and list(response.outputs[0].shape) == [1, 2]
    (content,) = response.raw_output_contents
    size = int.from_bytes(content[:4], "little")
    assert re.fullmatch(rb"-?\d+\.\d+:\d:speaker \d", content[4 : 4 + size])


def _edited(**fields: Any) -> Any:
    message = request(rows(3))
    for name, value in fields.items():
        if name == "shape":
            del message.inputs[0].shape[:]
            message.inputs[0].shape.extend(value)
        elif name in ("name", "datatype"):
            setattr(message.inputs[0], name, value)
        elif name == "raw_input_contents":
            message.raw_input_contents[:] = value
        else:
            setattr(message, name, value)
    return message


def _both() -> Any:
    message = request(rows(3))
    message.inputs[0].contents.fp32_contents.extend([1.0])
    return message


def _without_value() -> Any:
    message = request(rows(3))
    message.parameters["odd"].SetInParent()
    return message


def _in_shared_memory() -> Any:
    message = request(rows(3))
    message.inputs[0].parameters["shared_memory_region"].string_param = "mine"
    return message


@pytest.mark.parametrize(
    ("message", "status", "code", "where"),
    [
        (b"\xff\xff\xff", INVALID, "invalid_field", None),
        (_edited(model_name="nobody"), NOT_FOUND, "unknown_model", None),
        (_edited(model_version="9"), NOT_FOUND, "unknown_model", None),
        (_edited(shape=[1, 3, 11]), INVALID, "invalid_field", "inputs[0]"),
        (_edited(shape=[1, -3, -12]), INVALID, "invalid_field", "inputs[0].shape"),
        (_edited(shape=[1, 2**62, 2**62]), INVALID, "invalid_field", "inputs[0].shape"),
        (_edited(shape=[2**62] * 10_000), INVALID, "invalid_field", "inputs[0].shape"),
        (_edited(shape=[2**62] * 100_000), INVALID, "too_large", None),
        (_edited(id="a" * 200_000), INVALID, "too_large", None),
        (listed("INT32", [1, 2**20 + 1], int_contents=[1] * (2**20 + 1)), INVALID, "too_long", "inputs"),
        (listed("BYTES", [2**20 + 1], bytes_contents=[b""] * (2**20 + 1)), INVALID, "too_long", "inputs"),
        (_edited(shape=[0, 2**62], raw_input_contents=[b""]), INVALID, "invalid_field", "inputs[0].shape"),
        (_edited(shape=[1] * 70), INVALID, "invalid_field", "inputs[0].shape"),
        (b"\x2a\x00" * 500_000, INVALID, "too_large", None),
        (b"\x2a\x90\x4e" + b"\x22\x00" * 5_000, INVALID, "too_large", None),
        (b"\x7b" * 5_000, INVALID, "invalid_field", None),
        (request(rows(100)).SerializeToString()[:-1], INVALID, "invalid_field", None),
        (_edited(name="other"), INVALID, "invalid_field", "inputs"),
        (_edited(datatype="FP33"), INVALID, "invalid_field", "inputs[0].datatype"),
        (request(), INVALID, "invalid_field", "inputs"),
        (request(rows(3), outputs=("nothing",)), INVALID, "invalid_field", "outputs[0].name"),
        (request(np.full((1, 3, 12), np.nan, np.float32)), INVALID, "not_finite", "inputs[0][0][0][0]"),
        (_both(), INVALID, "invalid_field", "inputs[0].contents"),
        (_without_value(), INVALID, "invalid_field", "parameters"),
        (_in_shared_memory(), INVALID, "invalid_field", "inputs[0].parameters"),
        (listed("FP16", [1, 1]), INVALID, "invalid_field", "inputs[0].contents"),
        (listed("INT8", [1, 1], int_contents=[300]), INVALID, "invalid_field", "inputs[0].contents"),
        (listed("INT32", [1, 2], int_contents=[3]), INVALID, "invalid_field", "inputs[0].contents"),
        (listed("INT32", [1, 2], fp32_contents=[3, 3]), INVALID, "invalid_field", "inputs[0].contents"),
        (request(rows(3), parameters={"timeout": -1}), INVALID, "invalid_field", "parameters.timeout"),
        (request(rows(3), parameters={"timeout": "5"}), INVALID, "invalid_field", "parameters.timeout"),
        (request(rows(3), parameters={"timeout": float("nan")}), INVALID, "invalid_field", "parameters.timeout"),
        (request(rows(3), parameters={"sequence_start": True}), INVALID, "invalid_field", "parameters.sequence_id"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_request_is_said(
    channel: Channel, message: Any, status: grpc.StatusCode, code: str, where: str | None
) -> None:
    problem = refused(lambda: channel.infer(message), status, code)
    if where is not None:
        assert problem["where"] == where


def test_a_message_without_tensors_is_small(channel: Channel) -> None:
    """Parsing 100,000 of the parameters of the last one takes a second, on the event loop."""
    large = b"\x0a\x00" * 100_000
    for method in ("ServerLive", "ModelReady", "ModelMetadata", "ModelStatistics", "RepositoryIndex"):
        refused(lambda m=method: channel.method(m)(large, metadata=KEY, timeout=60), INVALID, "too_large")  # type: ignore[misc]
    large = b"\x1a\x00" * 100_000
    refused(lambda: channel.method("RepositoryModelLoad")(large, metadata=KEY, timeout=60), INVALID, "too_large")
    for method, kind in (("Check", "unary_unary"), ("Watch", "unary_stream")):
        call = channel.method(method, HEALTH, "HealthCheckResponse", kind)
        refused(lambda c=call: list(c(large, timeout=60)), INVALID, "too_large")  # type: ignore[misc]
        refused(lambda c=call: list(c(b"\xff", timeout=60)), INVALID, "invalid_field")  # type: ignore[misc]
    ask = channel.method("ServerReflectionInfo", REFLECTION[0], "ServerReflectionResponse", "stream_stream")
    refused(lambda: list(ask(iter([large]), timeout=60)), INVALID, "too_large")


def test_nothing_of_a_refused_message_stays_in_memory(server: RunningServer, channel: Channel) -> None:
    message = request(rows(3))
    message.raw_input_contents[0] = bytes(MAX_BODY - 1000)
    refused(lambda: channel.infer(message), INVALID, "invalid_field")
    before = server.memory()
    for _ in range(30):
        refused(lambda: channel.infer(message), INVALID, "invalid_field")
    (one,) = channel.method("ModelStreamInfer", kind="stream_stream")(iter([message]), metadata=KEY, timeout=60)
    assert one.error_message
    for _ in range(10):
        list(channel.method("ModelStreamInfer", kind="stream_stream")(iter([message]), metadata=KEY, timeout=60))
    assert server.memory() - before < 10 * MAX_BODY, "the messages have 40 times as much"


def test_raw_contents_belong_to_all_inputs_or_to_none(channel: Channel) -> None:
    message = request(rows(3))
    message.raw_input_contents.append(b"")
    assert refused(lambda: channel.infer(message), INVALID, "invalid_field")["where"] == "raw_input_contents"


def test_an_id_of_the_request_is_sent_back_and_logged_with_what_is_counted(channel: Channel) -> None:
    _, call = channel.method("ModelInfer").with_call(request(rows(2)), metadata=(*KEY, ("x-request-id", "mine")))
    assert dict(call.trailing_metadata())["x-request-id"] == "mine"
    _, call = channel.method("ModelInfer").with_call(request(rows(2)), metadata=(*KEY, ("x-request-id", "no good")))
    assert re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]+", dict(call.trailing_metadata())["x-request-id"])


def test_calls_are_counted_as_requests_are(server: RunningServer, channel: Channel) -> None:
    def count(outcome: str, reason: str = "") -> float:
        return server.stats().get(("elman_requests_total", (outcome, reason, f"{SERVICE}/ModelInfer")), 0)

    before = count("answered"), count("refused", "unknown_model"), server.errors().get("unknown_model", 0)
    channel.infer(request(rows(2)))
    refused(lambda: channel.infer(_edited(model_name="nobody")), NOT_FOUND, "unknown_model")
    after = count("answered"), count("refused", "unknown_model"), server.errors()["unknown_model"]
    assert after == tuple(one + 1 for one in before)


def test_a_call_needs_a_key_and_sequences_belong_to_it(server: RunningServer, channel: Channel) -> None:
    nobody, other = Channel(server, ()), Channel(server, (("authorization", "Bearer b"),))
    for method, fields in (("ModelReady", {"name": MODEL}), ("RepositoryModelUnload", {"model_name": MODEL})):
        refused(lambda m=method, f=fields: nobody.ask(m, **f), grpc.StatusCode.UNAUTHENTICATED, "unauthorized")  # type: ignore[misc]
    refused(lambda: nobody.infer(request(rows(1))), grpc.StatusCode.UNAUTHENTICATED, "unauthorized")
    stream = nobody.method("ModelStreamInfer", kind="stream_stream")
    refused(lambda: next(stream(iter([request(rows(1))]))), grpc.StatusCode.UNAUTHENTICATED, "unauthorized")
    assert nobody.ask("ServerLive").live and nobody.ask("ServerReady").ready
    unload = lambda: other.ask("RepositoryModelUnload", model_name=MODEL)  # noqa: E731
    assert "role admin" in refused(unload, grpc.StatusCode.PERMISSION_DENIED, "forbidden")["error"]
    begin = request(rows(2), parameters={"sequence_id": 1, "sequence_start": True})
    channel.infer(begin)
    following = request(rows(2), parameters={"sequence_id": 1})
    assert "START flag" in refused(lambda: other.infer(following), INVALID, "sequence_not_started")["error"]
    channel.infer(following)


def test_sequences_go_on_between_grpc_and_http(server: RunningServer, channel: Channel) -> None:
    data = rows(6)
    whole = arrays(channel.infer(request(data)))["output"]
    channel.infer(request(data[:, :2], parameters={"sequence_id": -5, "sequence_start": True}))
    body = {
        "inputs": [{"name": "input", "shape": [1, 2, 12], "datatype": "FP32", "data": data[:, 2:4].ravel().tolist()}],
        "parameters": {"sequence_id": 2**64 - 5},
    }
    answer = server.client.post(f"/v2/models/{MODEL}/infer", json=body).raise_for_status().json()
    np.testing.assert_array_equal(np.array(answer["outputs"][0]["data"], np.float32), whole[:, 2:4].ravel())
    last = request(data[:, 4:], parameters={"sequence_id": -5, "sequence_end": True, "at": 4})
    for replayed in (False, True):
        response = channel.infer(last)
        np.testing.assert_array_equal(arrays(response)["output"], whole[:, 4:])
        assert response.parameters["step"].int64_param == 6 and response.parameters["replayed"].bool_param is replayed


def failed(error: Exception) -> tuple[Any, list[Any]]:
    """What a client gets where a method raises an error, and what is counted."""

    async def fail(call: Call) -> Response:
        raise error

    async def ask() -> Any:
        counters: Any = SimpleNamespace(num_accepted=0, request_ended=lambda *what: ended.append(what[:3]))
        counters.request_failed = lambda error: None
        calls = Calls(Driver(None, counters), Callers(()), Budget(1000), has_admin_port=False, most=100)  # type: ignore[arg-type]
        server = grpc.aio.server()
        methods = {"Fail": calls.method("Fail", "key", fail)}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test", methods),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            with pytest.raises(grpc.RpcError) as caught:
                await channel.unary_unary("/test/Fail")(b"")
        await server.stop(None)
        return caught.value

    ended: list[Any] = []
    return asyncio.run(ask()), ended


def test_what_a_defect_says_stays_in_the_server(caplog: pytest.LogCaptureFixture) -> None:
    error, ended = failed(RuntimeError("secret"))
    assert (error.code(), error.details()) == (grpc.StatusCode.INTERNAL, "the server failed on this request")
    assert "secret" not in str(error.trailing_metadata()) and "secret" in caplog.text
    assert ended == [("Fail", 500, "internal")]


@pytest.mark.parametrize(
    ("detail", "expected"),
    [("a" * 5000, None), ("\U0001f600" * 5000, None), ("short", [f"the-model-{number}" for number in range(1000)])],
    ids=["ascii", "emoji", "many"],
)
def test_an_error_is_no_larger_than_what_clients_take_as_metadata(detail: str, expected: Any) -> None:
    error, _ = failed(UnknownModel(detail, expected=expected))
    assert error.code() == NOT_FOUND and detail.startswith(error.details()) and error.details()


# Limits


def long_request() -> Any:
    return request(rows(100_000), outputs=("final",))


def test_a_deadline_that_passes_stops_the_work(server: RunningServer, channel: Channel) -> None:
    late = grpc.StatusCode.DEADLINE_EXCEEDED
    microsecond = request(rows(100_000), outputs=("final",), parameters={"timeout": 1})
    refused(lambda: channel.infer(microsecond), late, "deadline")
    refused(lambda: channel.infer(long_request(), timeout=0.05), late)
    server.wait_for("elman_pending_sequences", 0)


def test_cancelling_a_call_stops_the_work(server: RunningServer, channel: Channel) -> None:
    def cancelled() -> float:
        labels = ("cancelled", "disconnected", f"{SERVICE}/ModelInfer")
        return server.stats().get(("elman_requests_total", labels), 0)

    before, until = cancelled(), time.monotonic() + 60
    while cancelled() == before:  # on a busy machine a call may be answered before it is seen
        call = channel.method("ModelInfer").future(long_request(), metadata=KEY)
        while not server.stats()["elman_pending_sequences", ()] and not call.done():
            assert time.monotonic() < until
        call.cancel()
        server.wait_for("elman_pending_sequences", 0)
    server.wait_for("elman_pending_sequences", 0)


def test_a_message_has_at_most_the_bytes_of_a_body_also_once_it_is_unpacked(channel: Channel) -> None:
    data = np.zeros((1, 160_000, 12), np.float32)
    assert data.nbytes < MAX_BODY
    fits = request(data, outputs=("nothing",))
    for compression in (None, grpc.Compression.Gzip, grpc.Compression.Deflate):
        refused(lambda c=compression: channel.infer(fits, compression=c), INVALID, "invalid_field")  # type: ignore[misc]
    larger = request(np.zeros((1, 170_000, 12), np.float32))
    for compression in (None, grpc.Compression.Gzip):
        exhausted = grpc.StatusCode.RESOURCE_EXHAUSTED
        refused(lambda c=compression: channel.infer(larger, compression=c), exhausted)  # type: ignore[misc]


def test_an_answer_may_be_larger_than_a_message_by_default(channel: Channel) -> None:
    (array,) = arrays(channel.infer(request(rows(150_000)))).values()
    assert array.nbytes > 5 * 2**20


def test_messages_that_are_held_share_the_memory_for_bodies() -> None:
    budget, peer = Budget(1000), SimpleNamespace(party=lambda caller: b"one")
    calls = Calls(Driver(None, None), Callers(()), budget, has_admin_port=False, most=100)  # type: ignore[arg-type]
    held: Any = [Call(peer, bytes(size), None, None, 0.0, None) for size in (3000, 900, 200)]  # type: ignore[arg-type]
    with calls.holding(held[0]), calls.holding(held[1]):
        assert budget.num_held == 3900
        with pytest.raises(Overloaded), calls.holding(held[2]):
            raise AssertionError("one alone holds four of the largest bodies at most")
        assert budget.num_held == 3900
    assert budget.num_held == 0


@pytest.mark.parametrize("wanted", ["gzip", "deflate"])
def test_answers_are_compressed_if_a_client_asks_for_it_and_they_are_not_large(channel: Channel, wanted: str) -> None:
    def received(metadata: Any, *lengths: int) -> int:
        """Bytes that come from the server for a stream of some messages."""
        with relayed(channel.port) as (port, counts):
            near = Channel(SimpleNamespace(grpc_port=port), KEY)  # type: ignore[arg-type]
            stream = near.method("ModelStreamInfer", kind="stream_stream")
            zeros = [request(np.zeros((1, length, 12), np.float32)) for length in lengths]
            answers = list(stream(iter(zeros), metadata=(*KEY, *metadata), timeout=60))
            assert [arrays(one.infer_response)["output"].shape[1] for one in answers] == list(lengths)
            near.channel.close()
        return sum(counts)

    asked = (("accept-encoding", wanted),)
    assert received(asked, 2000) < 0.9 * received((), 2000)  # 72,000 bytes of numbers
    assert received(asked, 8000) > 8000 * 9 * 4


@contextlib.contextmanager
def relayed(port: int) -> Iterator[tuple[int, list[int]]]:
    """A port through which one client reaches another port, and the sizes of what comes back."""
    counts: list[int] = []

    def pump(source: socket.socket, target: socket.socket, sizes: list[int]) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sizes.append(len(data))
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    def serve() -> None:
        client, _ = listening.accept()
        with client, socket.create_connection(("127.0.0.1", port)) as server:
            there = threading.Thread(target=pump, args=(client, server, []), daemon=True)
            there.start()
            pump(server, client, counts)
            there.join()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listening.getsockname()[1], counts
        thread.join(60)


@pytest.mark.parametrize(
    ("peer", "network"),
    [("ipv4:10.1.2.3:4000", "10.1.2.3"), ("ipv6:%5B2001:db8:1:2::9%5D:4000", "2001:db8:1:2::"), ("unix:", "")],
)
def test_without_keys_a_call_takes_the_share_of_its_address(peer: str, network: str) -> None:
    assert network_in(peer) == network.encode()


# Streams


def test_a_stream_answers_in_order_and_its_sequences_in_turn(channel: Channel) -> None:
    data = rows(40)
    whole = arrays(channel.infer(request(data)))["output"]

    def messages() -> Iterator[Any]:
        for step in range(40):
            for id in ("one", "two"):
                flags = {"sequence_id": id, "sequence_start": step == 0, "sequence_end": step == 39}
                yield request(data[:, step : step + 1], id=f"{id} {step}", parameters=flags)

    stream = channel.method("ModelStreamInfer", kind="stream_stream")
    answers = list(stream(messages(), metadata=KEY, timeout=60))
    assert [one.infer_response.id for one in answers] == [f"{id} {step}" for step in range(40) for id in ("one", "two")]
    assert all(one.infer_response.parameters["triton_final_response"].bool_param for one in answers)
    for first in (0, 1):
        found = [arrays(one.infer_response)["output"] for one in answers[first::2]]
        np.testing.assert_array_equal(np.concatenate(found, axis=1), whole)


def test_a_stream_may_have_messages_of_any_size(channel: Channel) -> None:
    sizes = [1, 100_000, 2, 150_000, 3, 3, 120_000]
    stream = channel.method("ModelStreamInfer", kind="stream_stream")
    messages = (request(rows(size), id=str(size), outputs=("final",)) for size in sizes)
    answers = [one.infer_response.id for one in stream(messages, metadata=KEY, timeout=120)]
    assert answers == [str(size) for size in sizes]


@pytest.mark.parametrize("as_list", [False, True])
def test_a_small_part_of_a_sequence_does_not_overtake_a_large_one(channel: Channel, as_list: bool) -> None:
    data = rows(20_001 if as_list else 20_004)
    whole = arrays(channel.infer(request(data)))["output"]
    large = len(data[0]) - 4
    for attempt in range(5):
        messages, parts = [], []
        for first, last in ((0, 1), (1, 2), (2, large), (large, large + 3), (large + 3, large + 4)):
            id, part = f"{as_list} {attempt}", data[:, first:last]
            flags = {"sequence_id": id, "sequence_start": not first, "sequence_end": last > large + 3}
            message = request(part, parameters=flags)
            if as_list:
                del message.raw_input_contents[:]
                message.inputs[0].contents.fp32_contents.extend(part.ravel().tolist())
            messages.append(message)
        for one in channel.method("ModelStreamInfer", kind="stream_stream")(iter(messages), metadata=KEY, timeout=60):
            assert not one.error_message
            parts.append(arrays(one.infer_response)["output"])
        np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole)


def test_an_error_in_a_stream_is_one_of_its_answers(channel: Channel) -> None:
    stream = channel.method("ModelStreamInfer", kind="stream_stream")
    messages = [request(rows(2), id="a"), request(id="b"), b"\xff", request(rows(3), id="d")]
    first, second, third, fourth = stream(iter(messages), metadata=KEY, timeout=60)
    assert (first.error_message, fourth.error_message) == ("", "") and fourth.infer_response.id == "d"
    assert (second.error_message, second.infer_response.id) == ("the input 'input' is missing", "b")
    assert "message" in third.error_message

    answers = stream(iter(messages), metadata=(*KEY, ("triton_grpc_error", "true")), timeout=60)
    assert next(answers).infer_response.id == "a"
    assert refused(lambda: next(answers), INVALID, "invalid_field")["where"] == "inputs"


class Busy(Inferring):
    """Its answers never come."""

    def __init__(self) -> None:
        settings = SimpleNamespace(max_body=1000, stream_timeout=60)
        super().__init__(SimpleNamespace(settings=settings), None, None)  # type: ignore[arg-type]

    async def _answer(self, *arguments: Any) -> Any:
        await asyncio.Event().wait()


def test_a_message_that_arrives_as_its_stream_is_cancelled_is_cancelled_too() -> None:
    async def cancel() -> None:
        messages = [b"one"]

        async def read() -> bytes:
            if not messages:
                stream.cancel()  # on the same turn of the event loop as the first message
                await asyncio.Event().wait()
            return messages.pop()

        context = SimpleNamespace(read=read, time_remaining=lambda: None)
        peer: Any = SimpleNamespace(headers={}, request_id=b"", context=context)
        stream = asyncio.create_task(Busy()._answer_all(peer, None))
        await asyncio.wait([stream])
        for _ in range(10):  # turns of the loop, in which what is cancelled ends
            await asyncio.sleep(0)
        assert not messages and asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(cancel())


def test_a_client_is_known_when_its_call_is_over() -> None:
    async def ask() -> bytes:
        peers = []

        async def method(content: bytes, context: Any) -> bytes:
            peers.append(Peer(context, Driver(None, None)))  # type: ignore[arg-type]
            return content

        server = grpc.aio.server()
        methods = {"Ask": grpc.unary_unary_rpc_method_handler(method)}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test", methods),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            await channel.unary_unary("/test/Ask")(b"")
        await server.stop(None)
        return peers[0].party(None)

    assert asyncio.run(ask()) == b"127.0.0.1"


# The other methods


def test_health_is_told_as_grpc_tells_it(server: RunningServer) -> None:
    channel = Channel(server, ())
    check = channel.method("Check", HEALTH, "HealthCheckResponse")
    question = HEALTH.message("HealthCheckRequest")
    for service in ("", SERVICE, "grpc.health.v1.Health"):
        assert check(question(service=service)).status == 1
    refused(lambda: check(question(service="other")), NOT_FOUND)
    watch = channel.method("Watch", HEALTH, "HealthCheckResponse", "unary_stream")
    assert next(watch(question(service="other"))).status == 3


@pytest.mark.parametrize("schema", REFLECTION, ids=["v1", "v1alpha"])
def test_tools_find_the_messages_by_reflection(server: RunningServer, schema: Any) -> None:
    channel = Channel(server, ())
    ask = channel.method("ServerReflectionInfo", schema, "ServerReflectionResponse", "stream_stream")
    question = schema.message("ServerReflectionRequest")
    questions = [
        question(list_services="*"),
        question(file_containing_symbol=f"{SERVICE}.ModelInfer"),
        question(file_containing_symbol="inference.ModelInferRequest.InferInputTensor"),
        question(file_by_filename="inference.proto"),
        question(file_containing_symbol="inference.Nothing"),
        question(all_extension_numbers_of_type="inference.ModelInferRequest"),
    ]
    services, *files, missing, extension = ask(iter(questions), timeout=60)
    names = [one.name for one in services.list_services_response.service]
    assert {SERVICE, "grpc.health.v1.Health", schema.services[0]} <= set(names)
    assert [one.error_response.error_code for one in (missing, extension)] == [5, 5]
    assert len({one.file_descriptor_response.file_descriptor_proto[0] for one in files}) == 1
    pool = descriptor_pool.DescriptorPool()
    pool.Add(descriptor_pb2.FileDescriptorProto.FromString(files[0].file_descriptor_response.file_descriptor_proto[0]))
    kind = message_factory.GetMessageClass(pool.FindMessageTypeByName("inference.ModelInferRequest"))
    message = request(rows(1), parameters={"sequence_id": "x"})
    assert kind.FromString(message.SerializeToString()).raw_input_contents == message.raw_input_contents


def test_metadata_configuration_and_statistics_are_those_of_http(server: RunningServer, channel: Channel) -> None:
    get = lambda path: server.client.get(path).raise_for_status().json()  # noqa: E731
    known = channel.ask("ServerMetadata")
    assert {"name": known.name, "version": known.version, "extensions": list(known.extensions)} == get("/v2")
    assert channel.ask("ModelReady", name=MODEL).ready and not channel.ask("ModelReady", name="nobody").ready
    model, http = channel.ask("ModelMetadata", name=MODEL), get(f"/v2/models/{MODEL}")
    assert [one["shape"] for one in http["inputs"]] == [list(one.shape) for one in model.inputs]
    assert (model.name, list(model.versions), model.platform) == (MODEL, ["1"], http["platform"])
    config, http = channel.ask("ModelConfig", name=MODEL, version="1").config, get(f"/v2/models/{MODEL}/config")
    assert (config.name, config.max_batch_size) == (MODEL, http["max_batch_size"])
    assert [list(one.dims) for one in config.input] == [one["dims"] for one in http["input"]]
    assert {one.key: one.value.string_value for one in config.parameters} == {
        name: one["string_value"] for name, one in http["parameters"].items()
    }
    channel.infer(request(rows(1)))
    (one,) = channel.ask("ModelStatistics", name=MODEL).model_stats
    assert one.name == MODEL and one.inference_count >= 1 and one.inference_stats.success.ns > 0
    times = [getattr(one.inference_stats, f"compute_{part}").ns for part in ("input", "infer", "output")]
    assert all(times)
    assert len(channel.ask("ModelStatistics").model_stats) == 3
    for method in ("ModelMetadata", "ModelConfig", "ModelStatistics"):
        refused(lambda m=method: channel.ask(m, name="nobody"), NOT_FOUND, "unknown_model")  # type: ignore[misc]


def test_models_are_loaded_and_unloaded_by_both_forms_of_the_name(channel: Channel) -> None:
    def index(ready: bool) -> dict[str, str]:
        return {one.name: one.state for one in channel.ask("RepositoryIndex", ready=ready).models}

    for field in ("model_name", "repository_name"):
        assert channel.ask("RepositoryModelUnload", **{field: "vowels-lstm"}).isUnloaded
        assert "vowels-lstm" not in index(ready=True)
        loaded = channel.ask("RepositoryModelLoad", **{field: "vowels-lstm"})
        assert (loaded.model_name, loaded.isLoaded) == ("vowels-lstm", True)
        assert index(ready=False)["vowels-lstm"] == "READY"
    refused(lambda: channel.ask("RepositoryModelLoad", model_name="nobody"), NOT_FOUND, "unknown_model")
    refused(lambda: channel.ask("RepositoryModelLoad"), INVALID, "invalid_field")
    given = {"config": INFERENCE.message("ModelRepositoryParameter")(string_param="{}")}
    refused(lambda: channel.ask("RepositoryModelLoad", model_name=MODEL, parameters=given), INVALID, "invalid_field")


@pytest.mark.parametrize(
    ("method", "text"),
    [
        ("SystemSharedMemoryStatus", "shared memory is not offered by this server"),
        ("CudaSharedMemoryRegister", "shared memory is not offered by this server"),
        ("TraceSetting", "tracing settings are not offered by this server"),
        ("LogSettings", "log settings are not offered by this server"),
    ],
)
def test_what_is_not_offered_says_so(channel: Channel, method: str, text: str) -> None:
    call = channel.method(method, response="ServerLiveResponse")
    assert refused(lambda: call(b""), grpc.StatusCode.UNIMPLEMENTED)["error"] == text


# Ports, workers and stopping


def test_a_stopping_server_finishes_what_is_under_way(start_server: StartServer, small_store: Path) -> None:
    server = start_server(small_store, "--grpc-port", "0", drain_timeout=300)
    channel = Channel(server, ())
    sent = threading.Event()

    def messages() -> Iterator[Any]:
        yield long_request()
        sent.wait(60)

    watch = channel.method("Watch", HEALTH, "HealthCheckResponse", "unary_stream")(
        HEALTH.message("HealthCheckRequest")()
    )
    assert next(watch).status == 1
    call = channel.method("ModelInfer").future(long_request())
    stream = channel.method("ModelStreamInfer", kind="stream_stream")(messages())
    server.wait_until_taken(2)
    server.process.send_signal(signal.SIGTERM)
    assert next(watch).status == 2
    assert call.result(300).outputs[0].name == "final"
    assert next(stream).infer_response.outputs[0].name == "final"
    refused(lambda: next(stream), grpc.StatusCode.UNAVAILABLE, "draining")
    sent.set()
    refused(lambda: channel.ask("ServerLive"), grpc.StatusCode.UNAVAILABLE)
    assert server.process.wait(60) == 0


def test_calls_without_a_key_that_stay_open_leave_room_for_others(start_server: StartServer, small_store: Path) -> None:
    server = start_server(small_store, "--grpc-port", "0", max_connections=64)
    channel = Channel(server, ())
    watch = channel.method("Watch", HEALTH, "HealthCheckResponse", "unary_stream")
    reflect = channel.method("ServerReflectionInfo", REFLECTION[0], "ServerReflectionResponse", "stream_stream")
    question, listed = HEALTH.message("HealthCheckRequest")(), REFLECTION[0].message("ServerReflectionRequest")()
    open_calls = [watch(question) for _ in range(16)]
    assert all(next(one).status == 1 for one in open_calls)
    refused(lambda: next(watch(question)), grpc.StatusCode.UNAVAILABLE, "overloaded")
    refused(lambda: next(reflect(iter([listed]))), grpc.StatusCode.UNAVAILABLE, "overloaded")
    assert channel.infer(request(rows(3))).outputs
    open_calls[0].cancel()

    def answered() -> bool:
        try:
            return bool(next(watch(question)).status == 1)
        except grpc.RpcError:
            return False

    wait_until(answered)


def test_workers_share_a_port_that_nobody_else_gets(start_server: StartServer, tmp_path: Path) -> None:
    root = tmp_path / "models"
    root.mkdir()
    (root / MODEL).symlink_to(STORE / MODEL)
    server = start_server(root, "--grpc-port", "0", "--workers", "2", store_dir=tmp_path / "store")
    channels = [Channel(server, ()) for _ in range(8)]
    data = rows(8)
    whole = arrays(channels[0].infer(request(data)))["output"]
    found = []
    for step, one in enumerate(channels):
        flags = {"sequence_id": 3, "sequence_start": step == 0, "at": step}
        found.append(arrays(one.infer(request(data[:, step : step + 1], parameters=flags)))["output"])
    np.testing.assert_array_equal(np.concatenate(found, axis=1), whole)
    empty = tmp_path / "empty"
    empty.mkdir()
    for workers in ("1", "2"):
        command = [sys.executable, "-m", "elman", "serve", str(empty), "--port", "0", "--workers", workers]
        command += ["--grpc-port", str(channels[0].port)]
        done = subprocess.run(
            command, env=environment(store_dir=tmp_path / workers), capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 3 and f"port {channels[0].port}" in done.stderr, done.stderr
