"""The messages of the Open Inference Protocol, whatever brings them: a request to infer, and its response."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Any, NamedTuple

from elman.codec.datatypes import datatype_of
from elman.repository.network import Array

Parameters = Mapping[str, Any]
"""Parameters by name: booleans, integers, numbers and strings."""


@dataclass(slots=True)
class Tensor:
    """A tensor of a request or of a response.

    Attributes:
        name: as in the model's metadata, or one of those that are taken without being listed there.
        datatype: `FP32`, `BYTES` and so on. BF16 is there for requests only.
        array: of the tensor's shape. Numbers have the dtype of the datatype, those of BF16 float32. The elements of a
            BYTES tensor are `bytes`, in an array of objects.
        where: the place of the tensor in the request, such as `inputs[0]`; empty in a response.
    """

    name: str
    datatype: str
    array: Array
    where: str = ""

    @classmethod
    def of(cls, name: str, array: Array) -> "Tensor":
        """A tensor of a response."""
        return cls(name, datatype_of(array.dtype), array)


class RequestedOutput(NamedTuple):
    """An output that is to be returned.

    Attributes:
        classification: more than 0 for so many classes, best first, in the place of the numbers.
    """

    name: str
    classification: int = 0


@dataclass(slots=True)
class InferRequest:
    """A request to infer.

    Attributes:
        model, version: as the caller names them; without a version the highest one.
        owner: the caller, as `Callers` identified it.
        arrived: when its first byte arrived, on the clock of `time.monotonic`.
        inputs: in the order of the request.
        outputs: in the order of the request; none for all that the metadata lists.
        id: chosen by the caller, and echoed.
        parameters: those of the whole request, such as `timeout`.
        most_numbers: most numbers that the response may have, padding included.
        deadline: that of the call which brings it, on the same clock. Its `timeout` may end it before.
    """

    model: str
    version: str | None
    owner: bytes
    arrived: float
    inputs: list[Tensor]
    outputs: tuple[RequestedOutput, ...] = ()
    id: str = ""
    parameters: Parameters = field(default_factory=dict)
    most_numbers: int = 100_000_000
    deadline: float = inf


@dataclass(slots=True)
class InferResponse:
    """The response to an `InferRequest`: the requested outputs, in order."""

    model: str
    version: int
    id: str
    outputs: list[Tensor]
    parameters: Parameters = field(default_factory=dict)
