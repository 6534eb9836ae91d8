"""`POST /v2/models/{name}/infer`: JSON, binary tensors and compression, to an `InferRequest` and back."""

from collections.abc import Generator
from functools import partial
from typing import Any

import numpy as np

from elman.api.predict import MAX_JSON_NUMBERS, MAX_NUMBERS
from elman.api.server import Server
from elman.api.v2.infer import Encode, Infer
from elman.api.v2.messages import InferRequest, InferResponse, RequestedOutput, Tensor
from elman.codec.answer import encode_json
from elman.codec.compression import ENCODINGS, packed, unpacked
from elman.codec.datatypes import raw
from elman.codec.faults import echoed
from elman.codec.finite import all_finite
from elman.codec.infer_json import InferBody, OutputBody, decode_infer, read_arrays, read_head
from elman.codec.pool import MANY, is_heavy
from elman.engine.work import Wait, Work, aside_if, script, wait
from elman.errors import InvalidField, NotFiniteOutput
from elman.http.endpoint import JSON, OCTETS, Pieces, Request, Response
from elman.http.roles import Need
from elman.http.short import cache_short
from elman.repository.network import Array

HEADER_LENGTH = b"inference-header-content-length"
# Packing or unpacking more bytes takes milliseconds and is done in a thread.
_MANY_BYTES = 64 * 1024
# Requests with binary tensors often repeat their JSON.
_read_head = cache_short(read_head)


class InferHTTP:
    """The endpoint."""

    needs: Need = "infer"

    def __init__(self, server: Server, infer: Infer, max_body: int) -> None:
        self.server = server
        self.infer = infer
        self.max_body = max_body

    def parse(self, request: Request) -> Work | Response:
        """The sequences to run. Raises RequestError with the `where` of the first error."""
        encoding = request.headers.get(b"content-encoding", b"identity").strip().lower()
        if encoding in ENCODINGS or is_heavy(request.body):
            return script(self._slowly(request, encoding))  # type: ignore[no-any-return]
        content, binary = _split(request, request.body)
        body = _read_head(content)
        return self.infer.begin(*self._call(request, body, read_arrays(body, binary)))

    def _slowly(self, request: Request, encoding: bytes) -> Generator[Work, None, Any]:
        """Read a body that is compressed or large: in a thread, and large JSON in the codec pool."""
        body = request.body
        if encoding in ENCODINGS:
            body = yield from aside_if(len(body) > _MANY_BYTES, unpacked, body, encoding, self.max_body)
        content, binary = _split(request, body)
        if is_heavy(content):
            decoded = yield from wait(self.server.pool.call(decode_infer, content, binary.tobytes()))
        else:
            head = read_head(content)
            decoded = head, read_arrays(head, binary)
        return (yield from self.infer.steps(*self._call(request, *decoded)))

    def _call(self, request: Request, body: InferBody, arrays: list[Array]) -> tuple[InferRequest, Encode]:
        """The request to infer, and how its response is sent. Raises InvalidField."""
        name = request.parameters["name"]
        if body.model_name is not None and body.model_name != name:
            raise InvalidField(
                f"the path names the model {echoed(name)!r}, the body another", where="model_name", expected=name
            )
        given = body.parameters or {}
        outputs = body.outputs or []
        all_binary = given.get("binary_data_output") is True
        binary = [one.parameters is not None and one.parameters.get("binary_data") is True for one in outputs]
        inputs = [
            Tensor(one.name, one.datatype, array, f"inputs[{index}]")
            for index, (one, array) in enumerate(zip(body.inputs, arrays, strict=True))
        ]
        call = InferRequest(
            name,
            request.parameters.get("version"),
            request.owner,
            request.arrived,
            inputs,
            tuple([RequestedOutput(one.name, _classes(one, index)) for index, one in enumerate(outputs)]),
            body.id or "",
            given,
            MAX_NUMBERS if (all(binary) if outputs else all_binary) else MAX_JSON_NUMBERS,
        )
        accepted = request.headers.get(b"accept-encoding", b"")
        encode = partial(self._encode, id=body.id, binary=binary or None, all_binary=all_binary, encoding=accepted)
        return call, encode

    def _encode(
        self, response: InferResponse, id: str | None, binary: list[bool] | None, all_binary: bool, encoding: bytes
    ) -> Response | Work:
        """The response: JSON, and the binary outputs after it. The codec pool encodes JSON of many numbers."""
        binary = binary or [all_binary] * len(response.outputs)
        numbers = sum([one.array.size for one, raw in zip(response.outputs, binary, strict=True) if not raw])
        if numbers > MANY:
            written = self.server.pool.call(encode_infer, response, id, binary)
            return Wait(written, lambda parts: self._packed(response, parts, encoding))
        return self._packed(response, encode_infer(response, id, binary), encoding)

    def _packed(self, response: InferResponse, parts: list[Any], encoding: bytes) -> Response | Work:
        key = response.model, response.version
        kind, headers = JSON, []
        if len(parts) > 1:
            kind, headers = OCTETS, [(HEADER_LENGTH, b"%d" % len(parts[0]))]
        content = Pieces.joined(parts)
        if encoding not in ENCODINGS:
            return Response(content, kind, headers, model=key)
        headers.append((b"content-encoding", encoding))

        def pack() -> Generator[Work, None, Response]:
            small = yield from aside_if(len(content) > _MANY_BYTES, packed, bytes(content), encoding)
            return Response(small, kind, headers, model=key)

        return script(pack())  # type: ignore[no-any-return]


def _split(request: Request, body: bytes) -> tuple[bytes, memoryview]:
    """The JSON and the binary tensors of a body. Raises InvalidField."""
    declared = request.headers.get(HEADER_LENGTH)
    if declared is None:
        return body, memoryview(b"")
    if not declared.isdigit() or len(declared) > 18 or not 0 < int(declared) <= len(body):
        raise InvalidField(
            "the header does not say how long the JSON is",
            where="header Inference-Header-Content-Length",
            expected=f"1 to {len(body)}",
        )
    size = int(declared)
    return body[:size], memoryview(body)[size:]


def _classes(one: OutputBody, index: int) -> int:
    """The number of classes that an output is to have; 0 for its numbers. Raises InvalidField."""
    count = (one.parameters or {}).get("classification", 0)
    if isinstance(count, bool) or not isinstance(count, int) or not 0 <= count < 2**31:
        raise InvalidField(
            "classification is the number of classes",
            where=f"outputs[{index}].parameters.classification",
            expected="an integer of 0 or more",
        )
    if one.parameters and "shared_memory_region" in one.parameters:
        raise InvalidField(
            "shared memory is not offered",
            where=f"outputs[{index}].parameters.shared_memory_region",
            expected="binary_data",
        )
    return count


def encode_infer(response: InferResponse, id: str | None, binary: list[bool]) -> list[Any]:
    """The JSON of a response, and the bytes of each output that is `binary`. Raises NotFiniteOutput."""
    buffers, outputs = [], []
    for one, is_binary in zip(response.outputs, binary, strict=True):
        described: dict[str, Any] = {"name": one.name, "datatype": one.datatype, "shape": one.array.shape}
        if is_binary:
            buffers.append(raw(one.array))
            described["parameters"] = {"binary_data_size": len(buffers[-1])}
        else:
            described["data"] = _json_data(one)
        outputs.append(described)
    body: dict[str, Any] = {"model_name": response.model, "model_version": str(response.version), "outputs": outputs}
    if id is not None:
        body["id"] = id
    if response.parameters:
        body["parameters"] = dict(response.parameters)
    return [encode_json(body), *buffers]


def _json_data(one: Tensor) -> Any:
    """The elements of an output in one list."""
    array = one.array
    if array.dtype == object:
        return [text.decode() for text in array.flat]
    if array.dtype.kind == "f" and not all_finite(array):
        raise NotFiniteOutput(f"the output {one.name!r} is not finite, which JSON cannot carry; binary_data can")
    flat = np.ascontiguousarray(array).reshape(-1)
    return flat.astype(np.float32) if flat.dtype == np.float16 else flat
