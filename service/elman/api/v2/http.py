"""`POST /v2/models/{name}/infer`: JSON, binary tensors and compression, to an `InferRequest` and back."""

import asyncio
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from math import prod
from typing import Any

import numpy as np

from elman.api.predict import MAX_JSON_NUMBERS, MAX_NUMBERS
from elman.api.server import ServedModel, Server
from elman.api.v2.infer import Encode, Infer
from elman.api.v2.messages import InferRequest, InferResponse, RequestedOutput, Tensor
from elman.api.v2.reading import is_plain
from elman.api.v2.repeated import Pattern, Repeated, blank_rows
from elman.codec.answer import encode_json
from elman.codec.compression import ENCODINGS, packed, unpacked
from elman.codec.datatypes import NUMPY_DTYPES, raw
from elman.codec.faults import echoed
from elman.codec.finite import all_finite
from elman.codec.infer_json import (
    InferBody,
    InputBody,
    OutputBody,
    Parameters,
    Places,
    decode_infer,
    read_arrays,
    read_head,
)
from elman.codec.pool import LARGE, MANY, is_heavy
from elman.engine.work import Work, aside_if, script, wait
from elman.errors import ElmanError, InvalidField, NotFiniteOutput
from elman.http.bodies import Bodies
from elman.http.endpoint import JSON, OCTETS, Pieces, Request, Response
from elman.http.roles import Need
from elman.http.short import MAX_LENGTH, cache_short
from elman.repository.network import Array

HEADER_LENGTH = b"inference-header-content-length"
# Packing more bytes takes milliseconds and is done in a thread; so is unpacking, which may make a thousand times more.
_MANY_BYTES = 64 * 1024
_FEW_BYTES = 1024
_NEW: Any = object()


class InferHTTP:
    """The endpoint."""

    needs: Need = "infer"

    def __init__(self, server: Server, infer: Infer, bodies: Bodies) -> None:
        self.server = server
        self.infer = infer
        self.bodies = bodies
        # One thread, so that many small bodies do not become large all at once.
        self._unpacking = ThreadPoolExecutor(1, "elman-unpack")

    def parse(self, request: Request) -> Work | Response:
        """The sequences to run. Raises RequestError with the `where` of the first error."""
        if HEADER_LENGTH in request.headers and (repeated := self._repeated(request)) is not None:
            return repeated
        encoding = request.headers.get(b"content-encoding", b"identity").strip().lower()
        if encoding in ENCODINGS or is_heavy(request.body):
            return script(self._slowly(request, encoding))  # type: ignore[no-any-return]
        content, binary = _split(request, request.body)
        head = self._head(request, content, binary)
        return self.infer.begin(*self._call(request, head, head.arrays(binary)))

    def _head(self, request: Request, content: bytes, binary: bytes | memoryview) -> "_Head":
        """What the JSON of a request says; of bytes alone, what follows from the model. Raises RequestError."""
        if content or HEADER_LENGTH not in request.headers:
            return _read_head(content)
        return _blank_head(self.server.served_in(request.parameters), len(binary))

    def _repeated(self, request: Request) -> Repeated | None:
        """The sequences of a request whose JSON came before. None if it is to be read. Raises RequestError."""
        headers, body = request.headers, request.body
        declared = headers[HEADER_LENGTH]
        size = int(declared) if declared.isdigit() and len(declared) < 4 else 0
        if (
            not 0 < size < MAX_LENGTH
            or len(body) > LARGE
            or b"content-encoding" in headers
            or headers.get(b"accept-encoding") in ENCODINGS
        ):
            return None
        content, served = body[:size], self.server.served_in(request.parameters)
        pattern = served.patterns.get(content, _NEW)
        if pattern is _NEW:
            pattern = served.patterns.keep(content, self._pattern(request, served, content))
        if pattern is None or pattern.size != len(body) - size:
            return None
        if len(body) <= _MANY_BYTES:  # a copy is aligned, as in `_split`
            body, size = body[size:], 0
        return Repeated(served, pattern, body, size, request.arrived)

    def _pattern(self, request: Request, served: ServedModel, content: bytes) -> Pattern | None:
        """What requests with this JSON have in common. None if each of them is to be read."""
        try:
            head = _read_head(content)
            if head.body.id is not None or head.body.model_version or head.parameters.keys() - {"binary_data_output"}:
                return None
            if not head.all_binary or not 0 < head.places.size <= LARGE:
                return None
            inferred, _ = self._call(request, head, head.arrays(bytes(head.places.size)))
            call = self.infer.read(inferred, served)
        except ElmanError:
            return None
        rows = blank_rows(call) if is_plain(served, inferred.inputs) else None
        if rows is None:
            return None
        ports, array = [port for port, _ in call.wanted.ports], inferred.inputs[0].array
        parts = encode_infer(self.infer.answer(call, rows, []), None, [True] * len(ports))
        return Pattern(
            array.shape, array.dtype, array.nbytes, call.wanted.returns, tuple([one.kind == "steps" for one in ports]),
            parts[0], ((HEADER_LENGTH, b"%d" % len(parts[0])),), sum(map(len, parts)),
        )  # fmt: skip

    def _slowly(self, request: Request, encoding: bytes) -> Generator[Work, None, Any]:
        """Read a body that is compressed or large. What was unpacked counts as a body until its answer is made."""
        if encoding not in ENCODINGS:
            return (yield from self._read(request, request.body))
        body, limit, budget = request.body, self.bodies.limit, self.bodies.budget
        if len(body) <= _FEW_BYTES:
            body = unpacked(body, encoding, limit)
        else:
            loop = asyncio.get_running_loop()
            body = yield from wait(loop.run_in_executor(self._unpacking, unpacked, body, encoding, limit))
        try:
            budget.add(request.party, len(body))
            return (yield from self._read(request, body))
        finally:
            budget.remove(request.party, len(body))

    def _read(self, request: Request, body: bytes) -> Generator[Work, None, Any]:
        """Infer. The codec pool decodes large JSON."""
        content, binary = _split(request, body)
        if is_heavy(content):
            read, arrays = yield from self.server.pool.offload(True, decode_infer, content, bytes(binary))
            head = _Head(read)
        else:
            head = self._head(request, content, binary)
            arrays = head.arrays(binary)
        return (yield from self.infer.steps(*self._call(request, head, arrays)))

    def _call(self, request: Request, head: "_Head", arrays: list[Array]) -> tuple[InferRequest, Encode]:
        """The request to infer, and how its response is sent. Raises InvalidField."""
        name, body = request.parameters["name"], head.body
        if body.model_name is not None and body.model_name != name:
            raise InvalidField(
                f"the path names the model {echoed(name)!r}, the body another", where="model_name", expected=name
            )
        inputs = [
            Tensor(one.name, one.datatype, array, where)
            for one, where, array in zip(body.inputs, head.where, arrays, strict=True)
        ]
        version, own = request.parameters.get("version"), body.model_version or None
        if version is not None and own not in (None, version):
            raise InvalidField(
                f"the path names the version {echoed(version)!r}, the body another",
                where="model_version",
                expected=version,
            )
        call = InferRequest(
            name, version or own, request.owner, request.arrived, inputs, head.outputs, body.id or "", head.parameters,
            MAX_NUMBERS if head.all_binary else MAX_JSON_NUMBERS,
        )  # fmt: skip
        return call, partial(self._encode, head, request.headers.get(b"accept-encoding", b""))

    def _encode(self, head: "_Head", encoding: bytes, response: InferResponse) -> Response | Work:
        """The response: JSON, and the binary outputs after it. The codec pool encodes JSON of many numbers."""
        binary, id = head.binary or [head.all_binary] * len(response.outputs), head.body.id
        if not head.all_binary:
            numbers = sum([one.array.size for one, is_raw in zip(response.outputs, binary, strict=True) if not is_raw])
            if numbers > MANY:
                return self.server.pool.work(
                    lambda parts: self._packed(response, parts, encoding), encode_infer, response, id, binary
                )
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


class _Head:
    """The JSON of a request, and what follows from it alone.

    Attributes:
        where: the place of each input in the request.
        binary: for each output whether it is sent as bytes; empty if no outputs are named.
        all_binary: whether all are.
    """

    __slots__ = ("all_binary", "binary", "body", "outputs", "parameters", "places", "where")

    def __init__(self, body: InferBody) -> None:
        """Raises InvalidField."""
        outputs = body.outputs or []
        self.body, self.places = body, Places(body)
        self.where = [f"inputs[{index}]" for index in range(len(body.inputs))]
        self.parameters = body.parameters or {}
        self.outputs = tuple([RequestedOutput(one.name, _classes(one, index)) for index, one in enumerate(outputs)])
        usual = _flag(self.parameters, "binary_data_output", False, "parameters")
        self.binary = [
            _flag(one.parameters or {}, "binary_data", usual, f"outputs[{index}].parameters")
            for index, one in enumerate(outputs)
        ]
        self.all_binary = all(self.binary) if outputs else usual

    def arrays(self, binary: bytes | memoryview) -> list[Array]:
        """The array of each input, from what follows the JSON. Raises RequestError."""
        if len(binary) == self.places.size:
            return self.places.arrays(binary)
        return read_arrays(self.body, memoryview(binary))


@cache_short
def _read_head(content: bytes) -> _Head:
    """The JSON of a request. That of binary tensors is often repeated."""
    return _Head(read_head(content))


def _split(request: Request, body: bytes) -> tuple[bytes, bytes | memoryview]:
    """The JSON and the binary tensors of a body. Raises InvalidField."""
    declared = request.headers.get(HEADER_LENGTH)
    if declared is None:
        return body, b""
    if not declared.isdigit() or len(declared) > 18 or int(declared) > len(body):
        raise InvalidField(
            "the header does not say how long the JSON is",
            where="header Inference-Header-Content-Length",
            expected=f"0 to {len(body)}",
        )
    size = int(declared)
    # A copy is aligned in memory. To read a few numbers that are not takes longer than to copy them.
    return body[:size], body[size:] if len(body) <= _MANY_BYTES else memoryview(body)[size:]


def _blank_head(served: ServedModel, size: int) -> _Head:
    """What `size` bytes alone ask for: one row of the only input, and all outputs as bytes. Raises InvalidField."""
    (name, datatype, extents), *further = served.ports.inputs
    shape = list(extents)
    shape[served.ports.time_first] = 1  # the batch
    if further or shape.count(-1) > 1:
        raise InvalidField(
            "the shapes of the model's inputs do not follow from the number of bytes",
            where="header Inference-Header-Content-Length",
            expected="the length of the JSON",
        )
    if -1 in shape:
        shape[shape.index(-1)] = size // (NUMPY_DTYPES[datatype].itemsize * -prod(shape))
    data = InputBody(name, tuple(shape), datatype, {"binary_data_size": size})
    return _Head(InferBody([data], parameters={"binary_data_output": True}))


def _flag(parameters: Parameters, name: str, usual: bool, where: str) -> bool:
    """A parameter that is true or false. Raises InvalidField."""
    value = parameters.get(name, usual)
    if not isinstance(value, bool):
        raise InvalidField(f"{name} is not a boolean", where=f"{where}.{name}", expected="true or false")
    return value


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
