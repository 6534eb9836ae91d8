"""The fuzz target of gRPC: what a message to infer is read as, up to the engine."""

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from elman.api.grpc.fields import check_fields
from elman.api.grpc.infer import read_listed
from elman.api.grpc.messages import INFERENCE
from elman.api.grpc.tensors import read_request
from elman.api.v2.sequences import part_of
from elman.errors import ElmanError
from tests.fuzz.bodies import Bodies
from tests.fuzz.linear import check_linear


class Messages:
    """The target. The first byte says whether the call has a deadline."""

    def __init__(self, folder: Path) -> None:
        self._bodies = Bodies(folder)
        self._infer = self._bodies.app.endpoints["infer"].endpoint.infer

    def close(self) -> None:
        self._bodies.close()

    def __call__(self, data: bytes) -> None:
        if data:
            with check_linear(len(data)):
                self._read(data[1:], 60.0 if data[0] % 2 else None)

    def _read(self, content: bytes, remaining: float | None) -> None:
        try:
            check_fields(content)
            request = read_request(read_listed(content), b"", time.monotonic(), remaining)
            part = part_of(request)
            call = self._infer.read(request, in_sequence=part is not None, begins=part is not None and part.start)
            assert call.sequences()
        except ElmanError as error:
            assert 400 <= error.status < 500 and str(error.problem()["error"]), error


def messages() -> Iterator[bytes]:
    """Messages with tensors of each kind, and parameters of each."""
    data = np.linspace(-1, 1, 72).reshape(2, 3, 12)
    for datatype, dtype in (("FP32", "<f4"), ("FP64", "<f8"), ("FP16", "<f2"), ("INT16", "<i2"), ("UINT64", "<u8")):
        yield _message("vowels-gru", datatype, data.shape, np.abs(9 * data).astype(dtype).tobytes())
    yield _message("vowels-gru", "BF16", (1, 1, 12), bytes(24))
    yield _message("names-gru", "BYTES", (1,), b"\x04\0\0\0Lind")
    yield _message("names-gru", "INT64", (1, 2), bytes([3, *bytes(7), 4, *bytes(7)]))
    kinds = {"bool": True, "int64": 5, "uint64": 5, "string": "5", "double": 5.0}
    for name in ("sequence_id", "sequence_start", "sequence_end", "at", "timeout", "priority", "other"):
        for kind, value in kinds.items():
            message = INFERENCE.message("ModelInferRequest")(model_name="vowels-gru", model_version="1", id="a")
            message.inputs.add(name="input", datatype="FP32", shape=[1, 1, 12]).contents.fp32_contents.extend(
                [0.5] * 12
            )
            message.inputs.add(name="lengths", datatype="INT32", shape=[1]).contents.int_contents.append(1)
            message.outputs.add(name="final").parameters["classification"].int64_param = 2
            message.outputs.add(name="state.h")
            message.parameters["sequence_id"].string_param = "one"
            setattr(message.parameters[name], f"{kind}_param", value)
            yield message.SerializeToString()


def _message(model: str, datatype: str, shape: tuple[int, ...], content: bytes) -> bytes:
    message = INFERENCE.message("ModelInferRequest")(model_name=model, raw_input_contents=[content])
    message.inputs.add(name="input", datatype=datatype, shape=shape)
    return bytes(message.SerializeToString())
