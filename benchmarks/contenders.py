"""The contenders: Elman, servers that answer a constant, and the peers."""

import json
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from struct import pack
from typing import Any, Literal

import numpy as np
import onnx
import orjson

from benchmarks.environments import ROOT, Environment
from benchmarks.load import request
from benchmarks.models import Shape
from benchmarks.processes import Process, StartFailure, free_port
from benchmarks.workload import CONTENT_TYPES, Array, Format, Workload

Role = Literal["elman", "peer", "floor"]
Tuning = dict[str, float]

_PEERS = Path(__file__).parent / "peers"


def _answer_row(answer: Any) -> Any:
    return answer["output"]


def _body_as_it_is(body: bytes) -> bytes:
    return body


def _as_is(model: Path) -> Path:
    return model


def _in_eight_bits(model: Path) -> Path:
    """The same network with 8-bit weights, in a repository of its own."""
    try:
        from elman.exporter.quantising import quantised
    except ImportError as failure:
        raise StartFailure(f"writing 8-bit weights needs torch: {failure}") from failure
    repository = model.parents[2]
    path = repository.with_name(f"{repository.name}-int8") / model.relative_to(repository)
    if not path.is_file() or path.stat().st_mtime < model.stat().st_mtime:
        path.parent.mkdir(parents=True, exist_ok=True)
        onnx.save(quantised(onnx.load(model)), path)
    return path


@dataclass(frozen=True)
class Framing:
    """How a protocol puts binary data into a body with its own description.

    Attributes:
        wrap: from the octets to the body and the headers of a request.
        unwrap: from the body of an answer to its octets.
    """

    wrap: Callable[[bytes], tuple[bytes, list[str]]] = lambda octets: (octets, [])
    unwrap: Callable[[bytes], bytes] = _body_as_it_is


@dataclass(frozen=True)
class Contender:
    """A server: how to start it, send it requests and read its answers.

    Attributes:
        role: a `floor` answers a constant. It shows the highest possible throughput and is not a peer.
        script: in `peers/`; None for Elman.
        environment: the environment that runs the script; None for the Python of this process.
        paths: by format; a format without a path is not served.
        tunings: settings to choose from, by throughput at 64 connections.
        reshape: turns the common JSON body into the one that this server takes.
        row: gets o_n from its decoded JSON answer.
        framing: for binary requests and answers.
        file: makes the model that it serves from the file in float32, and returns its path. Raises StartFailure.
    """

    name: str
    title: str
    role: Role = "peer"
    script: str | None = None
    environment: Environment | None = None
    paths: dict[Format, str] = field(default_factory=dict)
    tunings: tuple[Tuning, ...] = ({},)
    reshape: Callable[[bytes], bytes] = _body_as_it_is
    row: Callable[[Any], Any] = _answer_row
    framing: Framing = field(default_factory=Framing)
    file: Callable[[Path], Path] = _as_is

    def process(self, shape: Shape, model: Path, core: int, tuning: Tuning, logs: Path) -> Process:
        """The server process of one model, not started yet."""
        port = free_port()
        log = logs / f"{self.name}-{shape.name}.log"
        if self.script is None:
            repository = model.parents[2]
            command = [sys.executable, "-m", "elman", "serve", str(repository), "--port", str(port)]
            return Process([*command, "--log-level", "warning"], port, core, log, {"PYTHONPATH": str(ROOT)})
        python = self.environment.python if self.environment else sys.executable
        environment = {"BENCH_MODEL": str(model), "BENCH_FEATURES": str(shape.features), "OMP_NUM_THREADS": "1"}
        environment |= {f"BENCH_{name.upper()}": str(value) for name, value in tuning.items()}
        return Process([str(python), str(_PEERS / self.script), str(port)], port, core, log, environment)

    def requests(self, workload: Workload, form: Format) -> list[bytes]:
        path = self.paths[form].format(name=workload.shape.name)
        kind = CONTENT_TYPES[form]
        bodies = workload.bodies(form)
        if form == "json":
            return [request(path, self.reshape(body), kind, kind) for body in bodies]
        framed = [self.framing.wrap(body) for body in bodies]
        return [request(path, body, kind, kind, headers) for body, headers in framed]

    def read(self, form: Format, answer: bytes) -> Array:
        """o_n from the body of an answer."""
        if form == "octet":
            return np.frombuffer(self.framing.unwrap(answer), "<f4")
        return np.array(self.row(json.loads(answer)), np.float32).reshape(-1)


def _grid(batches: tuple[int, ...], waits: tuple[float, ...]) -> tuple[Tuning, ...]:
    return tuple({"batch": batch, "wait": wait} for batch in batches for wait in waits)


def _as_batch(body: bytes) -> bytes:
    """BentoML batches over the first axis of a list, so one sequence is a list of length 1."""
    return b'{"sequences":[' + body[len(b'{"sequence":') : -1] + b"]}"


def _as_tensor(body: bytes) -> bytes:
    """The JSON of the Open Inference Protocol, with the length as a parameter, which MLServer keeps for each row."""
    rows = orjson.loads(body)["sequence"]
    tensor = {
        "name": "input",
        "shape": [1, len(rows), len(rows[0])],
        "datatype": "FP32",
        "parameters": {"length": len(rows)},
        "data": list(chain.from_iterable(rows)),
    }
    return orjson.dumps({"inputs": [tensor]})


def _tensor_row(answer: Any) -> Any:
    return answer["outputs"][0]["data"]


def _as_element(body: bytes) -> bytes:
    """The common body as the only element of a tensor of the Open Inference Protocol."""
    tensor = {"name": "input", "shape": [1, 1], "datatype": "BYTES", "data": [body.decode()]}
    return orjson.dumps({"inputs": [tensor]})


def _wrap_element(octets: bytes) -> tuple[bytes, list[str]]:
    """The same in the protocol's binary extension, as tritonclient writes it: the length, then the element."""
    size = {"binary_data_size": 4 + len(octets)}
    tensor = {"name": "input", "shape": [1, 1], "datatype": "BYTES", "parameters": size}
    head = orjson.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}})
    return head + pack("<I", len(octets)) + octets, [f"Inference-Header-Content-Length: {len(head)}"]


def _unwrap(body: bytes) -> bytes:
    """The binary data after the JSON; `binary_data_size` gives its length."""
    size = int(re.search(rb'"binary_data_size":(\d+)', body).group(1))  # type: ignore[union-attr]
    return body[-size:]


ELMAN = Contender(
    "elman",
    "Elman",
    "elman",
    paths={"json": "/v1/models/{name}/predict", "octet": "/v1/models/{name}/predict"},
    row=lambda answer: answer["results"][0]["output"],
)

EIGHT_BITS = replace(ELMAN, name="elman8", title="Elman, 8-bit weights", file=_in_eight_bits)

_INFER = "/v2/models/model/infer"
_ROOT_PATHS: dict[Format, str] = {"json": "/predict", "octet": "/predict"}
BARE = Contender("bare", "a constant, bare ASGI under uvicorn", "floor", "bare.py", paths=_ROOT_PATHS)
ENDPOINT = Contender("endpoint", "a constant, FastAPI endpoint", "floor", "endpoint.py", paths=_ROOT_PATHS)
NAIVE = Contender(
    "naive",
    "FastAPI + pydantic + ONNX Runtime",
    script="naive.py",
    paths={"json": "/predict", "octet": "/binary"},
)

PEERS = {
    contender.name: contender
    for contender in (
        NAIVE,
        Contender(
            "mosec",
            "mosec 0.9.8",
            script="mosec_server.py",
            environment=Environment("mosec", ("mosec==0.9.8",)),
            paths={"json": "/inference", "octet": "/inference"},
            # mosec's shortest wait is one millisecond.
            tunings=(*_grid((8, 16, 32, 64), (1.0,)), {"batch": 32, "wait": 3.0}, {"batch": 1, "wait": 1.0}),
        ),
        Contender(
            "litserve",
            "LitServe 0.2.19",
            script="litserve_server.py",
            environment=Environment("litserve", ("litserve==0.2.19",)),
            paths={"json": "/predict"},
            tunings=_grid((16, 64), (0.0, 2.0)),
        ),
        Contender(
            "bentoml",
            "BentoML 1.4.39",
            script="bentoml_server.py",
            environment=Environment("bentoml", ("bentoml==1.4.39",)),
            paths={"json": "/predict"},
            tunings=_grid((16, 64), (0.0,)),
            reshape=_as_batch,
            row=lambda answer: answer[0],
        ),
        Contender(
            "mlserver",
            "MLServer 1.7.1",
            script="mlserver_server.py",
            environment=Environment("mlserver", ("mlserver==1.7.1",)),
            paths={"json": _INFER},
            # Without a wait it does not batch.
            tunings=({"batch": 1, "wait": 0.0}, *_grid((16, 64), (0.1, 2.0))),
            reshape=_as_tensor,
            row=_tensor_row,
        ),
        Contender(
            "pytriton",
            "PyTriton 0.7.0",
            script="pytriton_server.py",
            environment=Environment("pytriton", ("nvidia-pytriton==0.7.0", "numpy<2"), own=("numpy",)),
            paths={"json": _INFER, "octet": _INFER},
            tunings=_grid((16, 64), (0.0, 2.0)),
            reshape=_as_element,
            row=_tensor_row,
            framing=Framing(_wrap_element, _unwrap),
        ),
        Contender(
            "ray",
            "Ray Serve 2.60.0",
            script="ray_server.py",
            environment=Environment("ray", ("ray[serve]==2.60.0",)),
            paths=_ROOT_PATHS,
            tunings=_grid((16, 64), (0.0, 2.0)),
        ),
    )
}
