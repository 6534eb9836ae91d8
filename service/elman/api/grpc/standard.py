"""gRPC's own services: health checks, and reflection, by which tools find messages and methods."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

import grpc
from google.protobuf import descriptor_pb2

from elman.api.grpc.calls import Calls, Context, Peer
from elman.api.grpc.fields import read_small, small
from elman.api.grpc.messages import HEALTH, INFERENCE, REFLECTION
from elman.api.grpc.schema import Schema
from elman.api.server import Server
from elman.errors import ElmanError

_HEALTH_REQUEST, _HEALTH_RESPONSE = HEALTH.message("HealthCheckRequest"), HEALTH.message("HealthCheckResponse")
_SERVING, _NOT_SERVING, _SERVICE_UNKNOWN = 1, 2, 3
_SCHEMAS = (INFERENCE, HEALTH, *REFLECTION)


class Health:
    """Whether the server takes requests: as a whole, which has an empty name, or one of its services."""

    def __init__(self, server: Server, calls: Calls) -> None:
        self.server = server
        self.calls = calls
        self._changed = asyncio.Event()

    def methods(self) -> Mapping[str, Any]:
        """The handlers, by the names of the methods."""
        return {
            "Check": grpc.unary_unary_rpc_method_handler(self.check, small, _HEALTH_RESPONSE.SerializeToString),
            "Watch": grpc.unary_stream_rpc_method_handler(self.watch, small, _HEALTH_RESPONSE.SerializeToString),
        }

    def end(self) -> None:
        """Tell those who watch that the server stops."""
        self._changed.set()

    async def check(self, content: bytes | None, context: Context) -> Any:
        """The status now."""
        request = await _read(_HEALTH_REQUEST, content, Peer(context, self.calls.driver))
        status = self._status(request.service)
        if status == _SERVICE_UNKNOWN:
            await context.abort(grpc.StatusCode.NOT_FOUND, "there is no such service")
        return _HEALTH_RESPONSE(status=status)

    async def watch(self, content: bytes | None, context: Context) -> AsyncIterator[Any]:
        """The status now, and once more when the server stops."""
        async with self.calls.watching(context) as peer:
            request = await _read(_HEALTH_REQUEST, content, peer)
            yield _HEALTH_RESPONSE(status=self._status(request.service))
            await self._changed.wait()
            yield _HEALTH_RESPONSE(status=self._status(request.service))

    def _status(self, service: str) -> int:
        if service and service not in _services():
            return _SERVICE_UNKNOWN
        return _SERVING if self.server.ready and not self._changed.is_set() else _NOT_SERVING


class Reflection:
    """The files with the messages and services, in one version of the protocol."""

    def __init__(self, schema: Schema, calls: Calls) -> None:
        self.calls = calls
        self._request = schema.message("ServerReflectionRequest")
        self._response = schema.message("ServerReflectionResponse")

    def methods(self) -> Mapping[str, Any]:
        """The handlers, by the names of the methods."""
        return {
            "ServerReflectionInfo": grpc.stream_stream_rpc_method_handler(
                self.answer, small, self._response.SerializeToString
            )
        }

    async def answer(self, contents: AsyncIterator[bytes | None], context: Context) -> AsyncIterator[Any]:
        """An answer to each question of a stream."""
        async with self.calls.watching(context) as peer:
            async for content in contents:
                yield self._found(await _read(self._request, content, peer))

    def _found(self, request: Any) -> Any:
        """The answer to a question."""
        response = self._response(valid_host=request.host, original_request=request)
        asked = request.WhichOneof("message_request")
        file = None
        if asked == "list_services":
            for name in _services():
                response.list_services_response.service.add(name=name)
        elif asked == "file_by_filename":
            file = next((one.file for one in _SCHEMAS if one.file.name == request.file_by_filename), None)
        elif asked == "file_containing_symbol":
            file = next((one.file for one in _SCHEMAS if request.file_containing_symbol in _symbols(one)), None)
        if file is not None:
            response.file_descriptor_response.file_descriptor_proto.append(file.SerializeToString())
        elif asked != "list_services":
            response.error_response.error_code = grpc.StatusCode.NOT_FOUND.value[0]
            response.error_response.error_message = "there is no such file, symbol or extension"
        return response


async def _read(kind: Any, content: bytes | None, peer: Peer) -> Any:
    """A message from its bytes, or the end of the call."""
    try:
        return read_small(kind, content)
    except ElmanError as error:
        failure = error
    await peer.abort(failure)


def _services() -> list[str]:
    return [name for schema in _SCHEMAS for name in schema.services]


def _symbols(schema: Schema) -> Iterator[str]:
    """The full names of what a file declares."""
    package = schema.package
    for message in schema.file.message_type:
        yield from _messages(message, f"{package}.{message.name}")
    for enum in schema.file.enum_type:
        yield f"{package}.{enum.name}"
    for service in schema.file.service:
        yield f"{package}.{service.name}"
        yield from (f"{package}.{service.name}.{method.name}" for method in service.method)


def _messages(message: descriptor_pb2.DescriptorProto, name: str) -> Iterator[str]:
    yield name
    for inner in message.nested_type:
        yield from _messages(inner, f"{name}.{inner.name}")
