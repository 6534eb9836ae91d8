"""`inference.GRPCInferenceService`: all methods but those that infer."""

from collections.abc import Callable, Mapping
from typing import Any

import grpc
from google.protobuf import json_format

from elman.api.grpc.calls import Call, Calls, Context
from elman.api.grpc.fields import read_small, small
from elman.api.grpc.infer import ROUTE, Inferring
from elman.api.grpc.messages import INFERENCE
from elman.api.metrics import Metrics
from elman.api.server import ServedModel, Server
from elman.api.v2.models import configuration, metadata, named, server_metadata, statistics, sums_of
from elman.api.v2.repository import index_of, load_model
from elman.errors import InvalidField, UnknownModel
from elman.http.endpoint import Response
from elman.http.roles import Need

# Methods of Triton that have no meaning here.
_NOT_OFFERED = {
    **{
        f"{kind}SharedMemory{verb}": "shared memory is"
        for kind in ("System", "Cuda")
        for verb in ("Status", "Register", "Unregister")
    },
    "TraceSetting": "tracing settings are",
    "LogSettings": "log settings are",
}

# What callers must be allowed to. For the other methods, any key will do.
_NEEDS: dict[str, Need] = {
    "ServerLive": "health",
    "ServerReady": "health",
    "RepositoryModelLoad": "admin",
    "RepositoryModelUnload": "admin",
}

Answer = dict[str, Any]
"""An answer as JSON: the fields of its message."""


class InferenceService:
    """The methods of one server."""

    def __init__(self, server: Server, metrics: Metrics, calls: Calls, inferring: Inferring) -> None:
        self.server = server
        self.metrics = metrics
        self.calls = calls
        self.inferring = inferring

    def methods(self) -> Mapping[str, Any]:
        """The handlers, by the names of the methods."""
        calls, found = self.calls, {}
        for name, answer in self._answers().items():
            found[name] = calls.method(f"{ROUTE}/{name}", _NEEDS.get(name, "key"), _serving(name, answer))
        found["ModelInfer"] = calls.method(f"{ROUTE}/ModelInfer", "infer", self.inferring.once)
        found["ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(self.inferring.stream)
        for name, what in _NOT_OFFERED.items():
            found[name] = grpc.unary_unary_rpc_method_handler(_refusing(f"{what} not offered by this server"))
        return found

    def _answers(self) -> dict[str, Callable[[Any], Any]]:
        """What answers each method, from its message. Some are coroutine functions."""
        return {
            "ServerLive": lambda _: {"live": self.server.failure is None},
            "ServerReady": lambda _: {"ready": self.server.ready},
            "ServerMetadata": lambda _: server_metadata(),
            "ModelReady": lambda asked: {"ready": self._is_ready(asked)},
            "ModelMetadata": lambda asked: metadata(self.server, self._served(asked)),
            "ModelConfig": lambda asked: {"config": configuration(self._served(asked))},
            "ModelStatistics": self._statistics,
            "RepositoryIndex": lambda asked: {"models": [dict(one) for one in index_of(self.server, asked.ready)]},
            "RepositoryModelLoad": self._load,
            "RepositoryModelUnload": self._unload,
        }

    def _served(self, asked: Any) -> ServedModel:
        return self.server.served(asked.name, asked.version or None)

    def _is_ready(self, asked: Any) -> bool:
        """Clients of Triton expect no error for a model that is not there."""
        try:
            return self._served(asked).queue.suspension() is None
        except UnknownModel:
            return False

    async def _statistics(self, asked: Any) -> Answer:
        served = named(self.server, asked.name, asked.version) if asked.name else list(self.server)
        sums = sums_of(await self.metrics.families())
        return {"model_stats": [statistics(one, sums) for one in served]}

    async def _load(self, asked: Any) -> Answer:
        await load_model(self.server, _model(asked), {name: None for name in asked.parameters})
        return {"model_name": _model(asked), "isLoaded": True}

    async def _unload(self, asked: Any) -> Answer:
        await self.server.unload(_model(asked))
        return {"model_name": _model(asked), "isUnloaded": True}


def _model(asked: Any) -> str:
    """The model to load or unload. KServe has its name in the field in which Triton has that of the repository."""
    name: str = asked.model_name or asked.repository_name
    if not name:
        raise InvalidField("no model is named", where="model_name", expected="the name of a model")
    return name


def _serving(name: str, answer: Callable[[Any], Any]) -> Any:
    """Serves a method by a function of its message."""
    request, response = INFERENCE.message(f"{name}Request"), INFERENCE.message(f"{name}Response")

    async def serve(call: Call) -> Response:
        found = answer(read_small(request, small(call.content)))
        if not isinstance(found, dict):
            found = await found
        message = response()
        if "config" in found:  # a message of another pool
            message.config.MergeFromString(found["config"].SerializeToString())
        else:
            json_format.ParseDict(found, message)
        return Response(message.SerializeToString())

    return serve


def _refusing(detail: str) -> Any:
    async def refuse(_: bytes, context: Context) -> bytes:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, detail)
        raise AssertionError("abort() raises")

    return refuse
