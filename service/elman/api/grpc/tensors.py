"""Messages to a request to infer, and its response to messages."""

from math import inf, prod
from typing import Any

import numpy as np

from elman.api.grpc.messages import INFERENCE
from elman.api.v2.messages import InferRequest, InferResponse, RequestedOutput, Tensor
from elman.codec.datatypes import BYTES, NUMPY_DTYPES, check_datatype, check_shape, from_raw, raw
from elman.codec.faults import echoed
from elman.errors import InvalidField
from elman.repository.network import Array

_RESPONSE = INFERENCE.message("ModelInferResponse")

# Which list of `InferTensorContents` has the elements of a datatype.
_CONTENTS = {
    "BOOL": "bool_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    "INT64": "int64_contents",
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    BYTES: "bytes_contents",
}


def read_request(message: Any, owner: bytes, arrived: float, remaining: float | None) -> InferRequest:
    """A request to infer from its message. Raises RequestError with the `where` of the first error.

    Args:
        remaining: seconds until the deadline of the call; None without one.
    """
    raws = list(message.raw_input_contents)
    if raws and len(raws) != len(message.inputs):
        raise InvalidField(
            f"there are {len(message.inputs)} inputs and {len(raws)} raw contents",
            where="raw_input_contents",
            expected=len(message.inputs),
        )
    return InferRequest(
        message.model_name,
        message.model_version or None,
        owner,
        arrived,
        [_tensor(one, raws[index] if raws else None, f"inputs[{index}]") for index, one in enumerate(message.inputs)],
        tuple(_requested(one, index) for index, one in enumerate(message.outputs)),
        message.id,
        read_parameters(message.parameters, "parameters"),
        deadline=inf if remaining is None else arrived + remaining,
    )


def read_parameters(parameters: Any, where: str) -> dict[str, Any]:
    """Parameters by name. Raises InvalidField for one without a value."""
    found = {}
    for name, value in parameters.items():
        kind = value.WhichOneof("parameter_choice")
        if kind is None:
            raise InvalidField(f"the parameter {echoed(name)!r} has no value", where=where, expected="one value")
        found[name] = getattr(value, kind)
    return found


def write_response(response: InferResponse) -> Any:
    """The message of a response. Outputs are raw contents, which all clients read."""
    message = _RESPONSE(model_name=response.model, model_version=str(response.version), id=response.id)
    for name, value in response.parameters.items():
        _set_parameter(message.parameters[name], value)
    for one in response.outputs:
        message.outputs.add(name=one.name, datatype=one.datatype, shape=one.array.shape)
        message.raw_output_contents.append(bytes(raw(one.array)))
    return message


def _set_parameter(parameter: Any, value: bool | int | float | str) -> None:
    kind = {bool: "bool", int: "int64", float: "double", str: "string"}[type(value)]
    setattr(parameter, f"{kind}_param", value)


def _tensor(one: Any, content: bytes | None, where: str) -> Tensor:
    """An input, from its raw contents or its list. Raises InvalidField."""
    if "shared_memory_region" in one.parameters:
        raise InvalidField(
            "shared memory is not offered", where=f"{where}.parameters", expected="contents or raw_input_contents"
        )
    check_datatype(one.datatype, f"{where}.datatype")
    check_shape(one.shape, f"{where}.shape")
    shape = tuple(one.shape)
    if content is None:
        return Tensor(one.name, one.datatype, _listed(one, shape, where), where)
    if one.HasField("contents") and one.contents.ByteSize():
        raise InvalidField(
            "there are contents and raw_input_contents", where=f"{where}.contents", expected="one of both"
        )
    return Tensor(one.name, one.datatype, from_raw(content, one.datatype, shape, where), where)


def _listed(one: Any, shape: tuple[int, ...], where: str) -> Array:
    """A tensor from its list of elements. Raises InvalidField."""
    name = _CONTENTS.get(one.datatype)
    if name is None:
        raise InvalidField(
            f"{one.datatype} has no list of elements", where=f"{where}.contents", expected="raw_input_contents"
        )
    elements = getattr(one.contents, name)
    count = len(elements)
    size = prod(shape)
    if count != size:
        raise InvalidField(
            f"a tensor {list(shape)} has {size} elements, and {name} has {count}",
            where=f"{where}.contents",
            expected=size,
        )
    if one.datatype == BYTES:
        array = np.empty(count, object)
        array[:] = list(elements)
        return array.reshape(shape)
    dtype = NUMPY_DTYPES[one.datatype]
    wide = np.fromiter(
        elements, np.float64 if dtype.kind == "f" else np.int64 if dtype.kind in "ib" else np.uint64, count
    )
    array = wide.astype(dtype)
    if dtype.kind in "iu" and not np.array_equal(array, wide):
        raise InvalidField(f"a number does not fit {one.datatype}", where=f"{where}.contents", expected=one.datatype)
    return array.reshape(shape)


def _requested(one: Any, index: int) -> RequestedOutput:
    """A requested output. Raises InvalidField."""
    where = f"outputs[{index}].parameters"
    parameters = read_parameters(one.parameters, where)
    if "shared_memory_region" in parameters:
        raise InvalidField("shared memory is not offered", where=where, expected="raw_output_contents")
    count = parameters.get("classification", 0)
    if isinstance(count, bool) or not isinstance(count, int) or not 0 <= count < 2**31:
        raise InvalidField("classification is the number of classes", where=where, expected="an integer of 0 or more")
    return RequestedOutput(one.name, count)
