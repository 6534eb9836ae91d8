"""The cost of one sequence in each form that a request may have, on one server: processor time a request."""

import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import orjson

from benchmarks.environments import BENCH
from benchmarks.load import Plan, request
from benchmarks.measure import WrongAnswer, generate, machine, say
from benchmarks.models import Shape, write_model
from benchmarks.processes import Process, cores, free_port
from benchmarks.rpc_load import METHOD, RPCPlan
from benchmarks.serving import fetch, serving
from benchmarks.workload import Array, reference, with_lengths
from elman.api.grpc.messages import INFERENCE

MODEL = Shape("protocols", 64, 64)
JSON, OCTETS, OPEN_JSON, OPEN_BINARY = "native JSON", "octets", "v2 JSON", "v2 binary"
UNARY, STREAM = "gRPC", "gRPC stream"
PREDICT, INFER = f"/v1/models/{MODEL.name}/predict", f"/v2/models/{MODEL.name}/infer"
# Different sequences of one length, sent in turn.
_SEQUENCES = 8
_TOLERANCE = 1e-4
# Seconds of a measurement, if shorter ones brought no answer.
_LONGEST = 30.0
_HEADER_LENGTH = "Inference-Header-Content-Length"

_REQUEST, _RESPONSE, _STREAMED = (
    INFERENCE.message(f"Model{name}") for name in ("InferRequest", "InferResponse", "StreamInferResponse")
)

Body = tuple[str, bytes, dict[str, str]]
"""Path, body and header fields."""


@dataclass(frozen=True)
class Settings:
    """Single sequences of some lengths, in a closed loop."""

    rounds: int = 5
    seconds: float = 2.0
    lengths: tuple[int, ...] = (24, 1000)
    connections: int = 8


QUICK = Settings(rounds=2, seconds=0.5)


def native_json(sequence: Array) -> Body:
    content = orjson.dumps({"sequence": sequence, "decode": False}, option=orjson.OPT_SERIALIZE_NUMPY)
    return PREDICT, content, {"Content-Type": "application/json"}


def octets(sequence: Array) -> Body:
    kind = "application/octet-stream"
    return f"{PREDICT}?decode=false", sequence.tobytes(), {"Content-Type": kind, "Accept": kind}


def open_json(sequence: Array) -> Body:
    tensor = {"name": "input", "shape": [1, *sequence.shape], "datatype": "FP32", "data": sequence.reshape(-1)}
    content = orjson.dumps({"inputs": [tensor], "outputs": [{"name": "final"}]}, option=orjson.OPT_SERIALIZE_NUMPY)
    return INFER, content, {"Content-Type": "application/json"}


def open_binary(sequence: Array) -> Body:
    parameters = {"binary_data_size": sequence.nbytes}
    tensor = {"name": "input", "shape": [1, *sequence.shape], "datatype": "FP32", "parameters": parameters}
    outputs = [{"name": "final", "parameters": {"binary_data": True}}]
    head = orjson.dumps({"inputs": [tensor], "outputs": outputs})
    headers = {"Content-Type": "application/octet-stream", _HEADER_LENGTH: str(len(head))}
    return INFER, head + sequence.tobytes(), headers


FORMS: dict[str, Callable[[Array], Body]] = {
    JSON: native_json,
    OCTETS: octets,
    OPEN_JSON: open_json,
    OPEN_BINARY: open_binary,
}


def message(sequence: Array) -> bytes:
    """The same request as a message of gRPC."""
    made = _REQUEST(model_name=MODEL.name, raw_input_contents=[sequence.tobytes()])
    made.inputs.add(name="input", datatype="FP32", shape=[1, *sequence.shape])
    made.outputs.add(name="final")
    return bytes(made.SerializeToString())


RPC_FORMS = {UNARY: False, STREAM: True}
"""The forms of gRPC, and whether the messages are those of a stream."""


def output_in(form: str, headers: dict[str, str], body: bytes) -> Array:
    """The last output in an answer."""
    if form == JSON:
        return np.array(orjson.loads(body)["results"][0]["output"], np.float32)
    if form == OPEN_JSON:
        return np.array(orjson.loads(body)["outputs"][0]["data"], np.float32)
    return np.frombuffer(body[int(headers.get(_HEADER_LENGTH.lower(), 0)) :], "<f4")


def run(settings: Settings, save: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Measure every form in turns, and return the results. `save` gets them after each length."""
    started = time.monotonic()
    results: dict[str, Any] = {"machine": machine(), "settings": asdict(settings), "lengths": {}}
    with tempfile.TemporaryDirectory(prefix="protocols-") as folder:
        path = write_model(MODEL, Path(folder) / "models")
        log, rpc_port = BENCH / "logs" / "protocols.log", free_port()
        with serving(path.parents[2], Path(folder), log, store="memory", grpc_port=rpc_port) as process:
            for length in settings.lengths:
                sequences = with_lengths(MODEL, [length] * _SEQUENCES).sequences
                check(process, rpc_port, sequences, reference(path, sequences))
                cells: dict[str, list[dict[str, float]]] = {form: [] for form in (*FORMS, *RPC_FORMS)}
                for turn in range(settings.rounds):
                    for form, cell in measured(process, rpc_port, sequences, settings, backwards=turn % 2 == 1):
                        cells[form].append(cell)
                results["lengths"][str(length)] = cells
                results["machine"]["minutes"] = (time.monotonic() - started) / 60
                say(
                    f"  {length} steps: "
                    + ", ".join(f"{form} {one[0]['cpu_us']:.0f} µs" for form, one in cells.items())
                )
                save(results)
    return results


def measured(
    process: Process, rpc_port: int, sequences: list[Array], settings: Settings, *, backwards: bool
) -> Iterator[tuple[str, dict[str, float]]]:
    """One round: the processor time of the server for a request of each form, in microseconds, and the rate."""
    forms = [*FORMS, *RPC_FORMS]
    sizes = [len(one) for one in sequences]
    wanted: dict[str, Any] = {"connections": settings.connections, "seconds": settings.seconds, "core": cores()[1]}
    for form in reversed(forms) if backwards else forms:
        wanted["pids"] = process.pids()
        if form in RPC_FORMS:
            messages = [message(one) for one in sequences]
            plan: Plan = RPCPlan(rpc_port, messages, sizes, stream=RPC_FORMS[form], **wanted)
        else:
            plan = Plan(process.port, [_request(form, one) for one in sequences], sizes, **wanted)
        report = generate(plan)
        while not report.num_done and not report.num_lost and plan.seconds < _LONGEST:
            plan.seconds *= 4  # on a busy machine a long sequence may take longer than that
            report = generate(plan)
        if not report.num_done or report.statuses != {"200": report.num_done} or report.num_lost:
            raise WrongAnswer(f"{form}: {report.statuses or 'no answer'}, {report.num_lost} lost")
        yield (
            form,
            {
                "cpu_us": 1e6 * report.server_cpu / report.num_done,
                "rate": report.num_done / report.seconds,
            },
        )


def _request(form: str, sequence: Array) -> bytes:
    path, body, headers = FORMS[form](sequence)
    kind, accept = headers.pop("Content-Type"), headers.pop("Accept", None)
    return request(path, body, kind, accept, [f"{name}: {value}" for name, value in headers.items()])


def check(process: Process, rpc_port: int, sequences: list[Array], expected: list[Array]) -> None:
    """Raise WrongAnswer if a form's answers are not those of ONNX Runtime."""
    with grpc.insecure_channel(f"127.0.0.1:{rpc_port}") as channel:
        unary, stream = (channel.unary_unary(METHOD.format("")), channel.stream_stream(METHOD.format("Stream")))
        messages = [message(one) for one in sequences]
        answers = {
            UNARY: [_RESPONSE.FromString(unary(one)) for one in messages],
            STREAM: [_STREAMED.FromString(one).infer_response for one in stream(iter(messages))],
        }
    for form, found in answers.items():
        for one, right in zip(found, expected, strict=True):
            if not np.allclose(np.frombuffer(one.raw_output_contents[0], "<f4"), right, atol=_TOLERANCE):
                raise WrongAnswer(f"{form} gives other outputs")
    for form, make in FORMS.items():
        for sequence, right in zip(sequences, expected, strict=True):
            path, body, headers = make(sequence)
            status, fields, content = fetch(process.port, "POST", path, body, headers)
            if status != 200 or not np.allclose(output_in(form, fields, content), right, atol=_TOLERANCE):
                raise WrongAnswer(f"{form} answers {status}: {content[:200]!r}")
