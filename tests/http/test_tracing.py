"""Spans: which requests are sampled, what their spans say, and that a collector that is away harms nothing."""

import asyncio
import contextlib
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
import typer
from google.protobuf.json_format import ParseDict
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from websockets.sync.client import connect

from elman import create_app
from elman.api.grpc.messages import INFERENCE
from elman.cli.exits import CANNOT_START
from elman.cli.jobs.server import run_server
from elman.http.spans import Sampled
from elman.http.tracing import Served, Tracing
from elman.settings import Settings
from tests.http.collector import Collector, attributes_of
from tests.running import STORE, RunningServer, running_server
from tests.waiting import assert_undisturbed

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PREDICT = "/v1/models/vowels-gru/predict"
INPUTS = [[0.123454321] * 12] * 3


def parent(flags: str, trace: str = TRACE) -> dict[bytes, bytes]:
    return {b"traceparent": f"00-{trace}-{SPAN}-{flags}".encode()}


@pytest.fixture
def tracing(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Tracing]]:
    """Opens a `Tracing` with a sampler of the environment."""

    def open_with(sampler: str, argument: str = "") -> Tracing:
        monkeypatch.setenv("OTEL_TRACES_SAMPLER", sampler)
        monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", argument)
        one = Tracing()
        one.open(InMemorySpanExporter())
        opened.append(one)
        return one

    opened: list[Tracing] = []
    yield open_with
    for one in opened:
        assert one._provider is not None
        one._provider.shutdown()


@pytest.mark.parametrize(
    ("sampler", "argument", "headers", "sampled"),
    [
        ("parentbased_always_on", "", {}, True),
        ("parentbased_always_on", "", parent("00"), False),
        ("parentbased_always_on", "", parent("02"), False),
        ("parentbased_always_off", "", {}, False),
        ("parentbased_always_off", "", parent("01"), True),
        ("parentbased_always_off", "", parent("03"), True),
        # Not valid, so the trace begins here: zeros, capitals, a version that is none, and text.
        ("parentbased_always_on", "", parent("00", "0" * 32), True),
        ("parentbased_always_on", "", parent("00", TRACE.upper()), True),
        ("parentbased_always_on", "", {b"traceparent": f"ff-{TRACE}-{SPAN}-00".encode()}, True),
        ("parentbased_always_on", "", {b"traceparent": b"\xff" * 60}, True),
        ("parentbased_always_on", "", {b"traceparent": f"00-{TRACE}-{SPAN}-00-more".encode()}, True),
        # A later version may have more fields.
        ("parentbased_always_on", "", {b"traceparent": f"cc-{TRACE}-{SPAN}-00-more".encode()}, False),
        # A sampler that does not ask the caller.
        ("always_on", "", parent("00"), True),
        ("always_off", "", parent("01"), False),
        ("traceidratio", "0.0", parent("01"), False),
        ("parentbased_traceidratio", "0.0", {}, False),
        ("parentbased_traceidratio", "1.0", {}, True),
    ],
)
def test_the_sampler_of_the_environment_decides(
    tracing: Callable[..., Tracing], sampler: str, argument: str, headers: dict[bytes, bytes], sampled: bool
) -> None:
    request_id = tracing(sampler, argument).sample(b"mine", headers)
    assert request_id == b"mine"
    assert isinstance(request_id, Sampled) == sampled


def test_a_ratio_of_the_requests_is_sampled_and_each_has_the_trace_that_was_decided_on(
    tracing: Callable[..., Tracing],
) -> None:
    one, exporter = tracing("parentbased_traceidratio", "0.5"), InMemorySpanExporter()
    one.open(exporter)
    taken = [request_id for request_id in (one.sample(b"a", {}) for _ in range(400)) if isinstance(request_id, Sampled)]
    assert 120 < len(taken) < 280
    for request_id in taken:
        one.ended(request_id, Served("GET", "/livez", "/livez", "http", "1.1", 200, "", None), time.monotonic())
    assert one._provider is not None
    one._provider.force_flush()
    contexts = [span.get_span_context() for span in exporter.get_finished_spans()]
    assert {context.trace_id for context in contexts if context} == {request_id.trace for request_id in taken}


@pytest.mark.parametrize(
    ("variable", "value"), [("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"), ("OTEL_TRACES_EXPORTER", "console")]
)
def test_what_the_environment_asks_in_vain_is_an_error(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ValueError, match=f"{variable} is '{value}'"):
        create_app(Settings(models=STORE, store="memory", tracing=True))


def test_without_the_extra_the_server_does_not_start(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "elman.http.tracing", None)
    with pytest.raises(typer.Exit) as exit:
        run_server(Settings(models=STORE, tracing=True), "127.0.0.1", 0)
    assert exit.value.exit_code == CANNOT_START
    assert "pip install 'elman[otel]'" in capsys.readouterr().err


def test_a_method_or_a_path_of_the_clients_own_names_no_span() -> None:
    served = Served("BREW", "none", "/v1/sessions/secret/what", "http", "1.1", 404, "unknown_route", None)
    assert served.name == "HTTP"
    attributes = served.attributes()
    assert attributes["http.request.method"] == "_OTHER" and attributes["http.request.method_original"] == "BREW"
    assert attributes["url.path"] == "/v1/sessions/.../what"
    assert "error.type" not in attributes and "http.route" not in attributes


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with Collector() as one:
        yield one


@pytest.fixture(scope="module")
def vowels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository of one model."""
    folder = tmp_path_factory.mktemp("vowels")
    (folder / "vowels-gru").symlink_to(STORE / "vowels-gru")
    return folder


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, collector: Collector) -> Iterator[RunningServer]:
    models = tmp_path_factory.mktemp("models")
    for name in ("names-gru-generator", "vowels-gru"):
        (models / name).symlink_to(STORE / name)
    with contextlib.ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
            patch.setenv("OTEL_TRACES_SAMPLER", "parentbased_always_off")
            patch.setenv("OTEL_SERVICE_NAME", "vowels")
            patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
            started = running_server(models, "--access-log", "--grpc-port", "0", log_format="json", tracing=True)
            server = stack.enter_context(started)
        yield server


def sampled(trace: int) -> dict[str, str]:
    return {"traceparent": f"00-{trace:032x}-{SPAN}-01", "tracestate": "vendor=here"}


def spans_of(collector: Collector, trace: int, num: int) -> dict[str, dict[str, str | int]]:
    """The attributes of the spans of a trace of one request, by name."""
    (spans,) = trees_of(collector, trace, num)
    return {one.name: attributes_of(one) for one in spans}


def trees_of(collector: Collector, trace: int, num: int) -> list[list[Span]]:
    """The spans of a trace: for each request its own, which is below the caller's, and then those below it."""
    wanted = trace.to_bytes(16)
    spans = [one for one in collector.wait_for(lambda all: sum(s.trace_id == wanted for s in all) >= num)]
    spans = [one for one in spans if one.trace_id == wanted]
    assert len(spans) == num
    roots = sorted((one for one in spans if one.parent_span_id.hex() == SPAN), key=lambda one: one.start_time_unix_nano)
    trees = [[root, *(one for one in spans if one.parent_span_id == root.span_id)] for root in roots]
    assert sum(map(len, trees)) == num
    for root, *below in trees:
        assert root.trace_state == "vendor=here"
        assert abs(root.end_time_unix_nano - time.time_ns()) < 60e9
        for one in below:
            assert root.start_time_unix_nano <= one.start_time_unix_nano <= one.end_time_unix_nano
            assert one.end_time_unix_nano <= root.end_time_unix_nano
    return trees


@pytest.mark.slow
def test_a_sampled_prediction_gives_spans_of_the_request_its_wait_and_its_run(
    server: RunningServer, collector: Collector
) -> None:
    body = {"sequences": [INPUTS, INPUTS]}
    for trace in (1, 2, 3):  # on one connection, where the head of the last request may be repeated
        assert server.client.post(PREDICT, json=body, headers=sampled(trace)).status_code == 200
    assert server.client.post(PREDICT, json=body).status_code == 200
    for trace in (1, 2, 3):
        spans = spans_of(collector, trace, 3)
        root = spans.pop("POST /v1/models/{name}/predict")
        assert root.pop("elman.request_id")
        assert root == {
            "http.request.method": "POST",
            "http.route": "/v1/models/{name}/predict",
            "http.response.status_code": 200,
            "url.path": PREDICT,
            "url.scheme": "http",
            "network.protocol.version": "1.1",
            "elman.model": "vowels-gru",
            "elman.model_version": 1,
        }
        assert spans == {"queue": {}, "run": {"elman.sequences": 2, "elman.steps": 6, "elman.batch_size": 2}}
    assert collector.services == {"vowels"}


@pytest.mark.slow
def test_a_step_of_a_session_gives_a_span_of_its_commit_and_no_span_tells_the_session(
    server: RunningServer, collector: Collector
) -> None:
    made = server.client.post("/v1/models/vowels-gru/sessions", json={}, headers=sampled(11))
    session = made.json()["id"]
    steps = f"/v1/sessions/{session}/steps"
    token = server.client.post(PREDICT, json={"sequence": INPUTS, "return_state": True}).json()["results"][0]["state"]
    assert server.client.post(steps, json={"sequence": INPUTS}, headers=sampled(12)).status_code == 200
    assert server.client.get(f"/v1/sessions/{session}", headers=sampled(13)).status_code == 200
    assert server.client.post(PREDICT, json={"sequence": INPUTS, "state": token}, headers=sampled(14)).is_success
    assert list(spans_of(collector, 11, 1)) == ["POST /v1/models/{name}/sessions"]
    assert set(spans_of(collector, 12, 4)) == {"POST /v1/sessions/{id}/steps", "queue", "run", "store commit"}
    assert spans_of(collector, 13, 1)["GET /v1/sessions/{id}"]["url.path"] == "/v1/sessions/..."
    spans_of(collector, 14, 3)
    text = "".join(map(str, collector.spans))
    assert session not in text and token not in text and "0.1234" not in text


@pytest.mark.slow
def test_errors_and_streams_have_spans_too_and_the_log_has_the_trace(
    server: RunningServer, collector: Collector
) -> None:
    assert server.client.post(PREDICT, json={"sequence": [[1.0]]}, headers=sampled(21)).status_code == 422
    assert server.client.get("/nowhere", headers=sampled(22)).status_code == 404
    generate = {"prompt": "", "stream": True, "max_steps": 5}
    answer = server.client.post("/v1/models/names-gru-generator/generate", json=generate, headers=sampled(23))
    assert b"event: done" in answer.content
    refused = spans_of(collector, 21, 1)["POST /v1/models/{name}/predict"]
    assert refused["http.response.status_code"] == 422 and refused["elman.code"] == "wrong_features"
    assert spans_of(collector, 22, 1)["GET"]["http.response.status_code"] == 404
    streamed = spans_of(collector, 23, 5)
    assert streamed["POST /v1/models/{name}/generate"]["elman.model"] == "names-gru-generator"
    lines = [json.loads(line) for line in server.log.read_text().splitlines()]
    traces = {line["trace_id"]: line["status"] for line in lines if "trace_id" in line}
    assert {trace: traces[f"{trace:032x}"] for trace in (21, 22, 23)} == {21: 422, 22: 404, 23: 200}
    assert any("trace_id" not in line for line in lines if line["logger"] == "uvicorn.access")


@pytest.mark.slow
def test_the_steps_of_samples_that_advance_together_are_those_of_each(
    server: RunningServer, collector: Collector
) -> None:
    body = {"prompt": "", "samples": 20, "seed": 1, "max_steps": 30}
    answer = server.client.post("/v1/models/names-gru-generator/generate", json=body, headers=sampled(24))
    results = answer.json()["results"]
    read = [one["steps"] - (one["reason"] == "length") for one in results]
    assert len(set(read)) > 3, "they end at different steps"
    (tree,) = trees_of(collector, 24, 5)
    steps = [attributes_of(one)["elman.steps"] for one in tree if one.name == "run"]
    assert sorted(steps) == [1, sum(read)]  # the start token, and what follows it


@pytest.mark.slow
def test_each_frame_of_a_websocket_has_spans_below_its_callers(server: RunningServer, collector: Collector) -> None:
    url = f"ws://127.0.0.1:{server.port}/v1/models/vowels-gru/stream"
    frames = [{"sequence": INPUTS}, {"sequence": [[1.0]]}, {"sequence": INPUTS[:1]}]
    with connect(url, additional_headers=sampled(51)) as stream:
        session = json.loads(stream.recv())["session"]
        for frame in frames:
            stream.send(json.dumps(frame))
            stream.recv()
    with connect(url) as stream:  # which is not sampled
        stream.recv()
        stream.send(json.dumps(frames[0]))
        stream.recv()
    trees = trees_of(collector, 51, 9)
    assert [sorted(one.name for one in tree[1:]) for tree in trees] == [
        ["queue", "run", "store commit"],
        [],
        ["queue", "run", "store commit"],
    ]
    assert {tree[0].name for tree in trees} == {"frame /v1/models/{name}/stream"}
    first, second, _ = (attributes_of(tree[0]) for tree in trees)
    assert first.pop("elman.request_id") == second.pop("elman.request_id")
    protocol = {"http.route": "/v1/models/{name}/stream", "network.protocol.name": "websocket"}
    assert first == {**protocol, "elman.model": "vowels-gru", "elman.model_version": 1}
    assert second == {**protocol, "elman.code": "wrong_features"}
    steps = [attributes_of(one)["elman.steps"] for tree in trees for one in tree if one.name == "run"]
    assert steps == [3, 1] and session not in str(collector.spans)


@pytest.mark.slow
def test_calls_over_grpc_and_messages_of_its_streams_have_spans(server: RunningServer, collector: Collector) -> None:
    def metadata(trace: int) -> tuple[tuple[str, str], ...]:
        return tuple(sampled(trace).items())

    tensor = {"name": "input", "datatype": "FP32", "shape": [1, 1, 12], "contents": {"fp32_contents": INPUTS[0]}}
    request, unknown = (
        ParseDict({"model_name": name, "inputs": [tensor]}, INFERENCE.message("ModelInferRequest")())
        for name in ("vowels-gru", "nobody")
    )
    service = "/inference.GRPCInferenceService"
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        infer = channel.unary_unary(f"{service}/ModelInfer", _encoded)
        infer(request, metadata=metadata(61))
        infer(request)
        with pytest.raises(grpc.RpcError):
            infer(unknown, metadata=metadata(62))
        stream = channel.stream_stream(f"{service}/ModelStreamInfer", _encoded)
        assert len(list(stream(iter([request, request]), metadata=metadata(63)))) == 2
    method = {"rpc.system": "grpc", "rpc.service": "inference.GRPCInferenceService", "rpc.method": "ModelInfer"}
    spans = spans_of(collector, 61, 3)
    root = spans.pop("inference.GRPCInferenceService/ModelInfer")
    assert root.pop("elman.request_id")
    assert root == {**method, "rpc.grpc.status_code": 0, "elman.model": "vowels-gru", "elman.model_version": 1}
    assert spans == {"queue": {}, "run": {"elman.sequences": 1, "elman.steps": 1, "elman.batch_size": 1}}
    (refused,) = spans_of(collector, 62, 1).values()
    assert refused.pop("elman.request_id")
    assert refused == {**method, "rpc.grpc.status_code": 5, "elman.code": "unknown_model"}
    for root, *works in trees_of(collector, 63, 6):
        assert root.name == "inference.GRPCInferenceService/ModelStreamInfer"
        assert sorted(one.name for one in works) == ["queue", "run"]


def _encoded(message: Any) -> bytes:
    content: bytes = message.SerializeToString()
    return content


@pytest.mark.slow
@pytest.mark.parametrize("away", ["down", "slow"])
def test_closing_gives_up_on_a_collector_that_does_not_answer(monkeypatch: pytest.MonkeyPatch, away: str) -> None:
    monkeypatch.setattr("elman.http.tracing._CLOSE_SECONDS", 0.2)
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "8")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "8")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "4")

    def seconds() -> float:
        with Collector() as silent:
            silent.answering.clear()
            monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", silent.url if away == "slow" else "http://127.0.0.1:9")
            one = Tracing()
            one.open()
            for _ in range(200):
                served = Served("GET", "/livez", "/livez", "http", "1.1", 200, "", None)
                one.ended(one.sample(b"a", {}), served, time.monotonic())
            since = time.monotonic()
            asyncio.run(one.close())
            took = time.monotonic() - since
            assert one.sample(b"a", {}) == b"a"  # nothing is sampled any more
            return took

    assert_undisturbed(seconds, lambda seconds: seconds < 3.5)  # the exporter itself tries for four seconds
    # What still tries draws random numbers, which would disturb the property tests of this process.
    for thread in threading.enumerate():
        if thread.name == "elman-tracing":
            thread.join(60)


@pytest.mark.slow
def test_a_collector_that_hangs_holds_up_no_answer_and_the_last_spans_are_sent_at_the_end(
    vowels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Collector() as slow:
        slow.answering.clear()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", slow.url)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "3600000")
        monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "16")
        monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "8")
        with running_server(vowels, tracing=True) as server:
            for _ in range(100):
                assert server.predict("vowels-gru", sequence=INPUTS).status_code == 200
            assert server.client.get("/livez").status_code == 200
            slow.answering.set()
            slow.wait_for(lambda all: len(all) >= 24)  # the batch that hung, and all that there was room for
            assert server.client.post(PREDICT, json={"sequence": INPUTS}, headers=sampled(31)).status_code == 200
        spans_of(slow, 31, 3)


@pytest.mark.slow
def test_another_asgi_server_gives_the_same_spans(vowels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = create_app(Settings(models=vowels, store="memory", tracing=True))

    async def predict() -> None:
        client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")
        async with app.router.lifespan_context(app), client:
            assert (await client.post(PREDICT, json={"sequence": INPUTS}, headers=sampled(41))).status_code == 200

    for _ in range(2):  # an application may be started again
        exporter = InMemorySpanExporter()
        monkeypatch.setattr("elman.http.tracing.OTLPSpanExporter", lambda made=exporter: made)
        asyncio.run(predict())
        spans = exporter.get_finished_spans()
        assert [one.name for one in spans] == ["queue", "run", "POST /v1/models/{name}/predict"]
        assert {one.resource.attributes["service.name"] for one in spans} == {"elman"}
        assert spans[-1].attributes is not None and spans[-1].attributes["elman.model"] == "vowels-gru"
