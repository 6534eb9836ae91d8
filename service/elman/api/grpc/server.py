"""The gRPC server: its port, limits, start and end."""

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

import grpc
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from elman.api.grpc.calls import Calls
from elman.api.grpc.infer import Inferring
from elman.api.grpc.messages import HEALTH, INFERENCE, REFLECTION
from elman.api.grpc.schema import Schema
from elman.api.grpc.service import InferenceService
from elman.api.grpc.standard import Health, Reflection
from elman.api.metrics import Metrics
from elman.api.server import Server
from elman.api.v2.infer import Infer
from elman.http.bodies import Bodies
from elman.http.callers import Callers
from elman.http.endpoint import Driver
from elman.http.protocol import HEAD_SECONDS
from elman.settings import Settings

# A peer that is silent for so long is asked whether it is there.
_KEEPALIVE_SECONDS = 60.0
# A connection without calls is closed after so long. Clients open another for their next call.
_IDLE_SECONDS = 300.0
# Most calls at once on one connection.
_MOST_CALLS = 128
# Seconds between two looks whether the library's server still listens.
_LOOK_SECONDS = 0.2

_LOG = logging.getLogger("elman")


class GRPCServer:
    """Serves the Open Inference Protocol over gRPC, on the event loop on which it is started."""

    def __init__(
        self, server: Server, metrics: Metrics, driver: Driver, callers: Callers, infer: Infer, bodies: Bodies
    ) -> None:
        self.server = server
        settings = server.settings
        self.calls = Calls(
            driver, callers, bodies.budget, settings.admin_port is not None, most=settings.max_connections
        )
        self.metrics = metrics
        self.infer = infer
        self._stopping: asyncio.Future[Any] | None = None
        # The library's servers that are ending, each with the task that waits for its end.
        self._retiring: dict[Any, asyncio.Task[None]] = {}

    async def start(self) -> int:
        """Listen, and return the port. Raises OSError if the port is taken."""
        self._stopping = None
        self._inferring = Inferring(self.server, self.infer, self.calls)
        self._health = Health(self.server, self.calls)
        self._credentials = _credentials(self.server.settings)
        port = await self._listen(self.server.settings.grpc_port)
        self._listening = asyncio.create_task(self._listen_again(port))
        return port

    async def _listen(self, port: int | None) -> int:
        settings = self.server.settings
        options = {
            # Several workers listen on one port, and the kernel gives each connection to one of them. A single one has
            # the port for itself: otherwise a second server would take a share of the connections without a word.
            "grpc.so_reuseport": int(settings.workers > 1),
            "grpc.max_receive_message_length": settings.max_body,
            "grpc.max_send_message_length": -1,
            "grpc.max_concurrent_streams": _MOST_CALLS,
            "grpc.max_allowed_incoming_connections": settings.max_connections,
            "grpc.server_handshake_timeout_ms": int(HEAD_SECONDS * 1e3),
            "grpc.max_connection_idle_ms": int(_IDLE_SECONDS * 1e3),
            "grpc.keepalive_time_ms": int(_KEEPALIVE_SECONDS * 1e3),
            "grpc.keepalive_timeout_ms": int(settings.stream_timeout * 1e3),
        }
        server = grpc.aio.server(options=list(options.items()), maximum_concurrent_rpcs=settings.max_connections)
        inference = InferenceService(self.server, self.metrics, self.calls, self._inferring)
        _add(server, INFERENCE, inference.methods())
        _add(server, HEALTH, self._health.methods())
        for schema in REFLECTION:
            _add(server, schema, Reflection(schema, self.calls).methods())
        host = f"[{settings.grpc_host}]" if ":" in settings.grpc_host else settings.grpc_host
        address = f"{host}:{port}"
        try:
            taken: int
            if self._credentials is None:
                taken = server.add_insecure_port(address)
            else:
                taken = server.add_secure_port(address, self._credentials)
        except RuntimeError:
            raise OSError(f"gRPC cannot listen on {host}, port {port}") from None
        self._server = server
        await server.start()
        return taken

    async def _listen_again(self, port: int) -> None:
        """Listen anew each time the library's server has ended by itself, until cancelled.

        A call whose path is not UTF-8 ends it. Calls that are under way then are finished.
        """
        while True:
            try:
                await self._server.wait_for_termination(_LOOK_SECONDS)
                continue
            except Exception as error:
                _LOG.error("gRPC listens anew at port %d: its server was ended by: %s", port, error)
            self._retire()
            while True:
                try:
                    await self._listen(port)
                    break
                except OSError:
                    await asyncio.sleep(_LOOK_SECONDS)

    def _retire(self) -> None:
        """Finish the calls under way of the library's server, which takes no new ones."""
        server = self._server
        self._retiring[server] = ending = asyncio.create_task(server.stop(self.server.settings.drain_timeout))
        ending.add_done_callback(lambda _: self._retiring.pop(server))

    def end(self, at_once: bool = False) -> None:
        """Take no new calls, and finish those under way; with `at_once` they are cut off. Called on the event loop."""
        if self._stopping is None:
            self._health.end()
            self._inferring.end()
            self._listening.cancel()
            self._retire()
            self._stopping = asyncio.gather(*self._retiring.values())
        if at_once:
            self._stopping = asyncio.gather(self._stopping, *[server.stop(None) for server in self._retiring])

    async def stop(self) -> None:
        """End, and wait until all calls are finished."""
        self.end()
        assert self._stopping is not None, "set by end()"
        await self._stopping


def _add(server: Any, schema: Schema, methods: Mapping[str, Any]) -> None:
    (name,) = schema.services
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, methods),))


def _credentials(settings: Settings) -> Any:
    """The certificate of the server, and whom it lets in; None without TLS. Raises OSError and ValueError."""
    if settings.ssl_certfile is None:
        return None
    pem = (settings.ssl_keyfile or settings.ssl_certfile).read_bytes()
    password = (settings.ssl_keyfile_password or "").encode() if b"ENCRYPTED" in pem else None
    key = load_pem_private_key(pem, password)
    # The library takes no password.
    opened = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    authorities = None if settings.ssl_ca_certs is None else settings.ssl_ca_certs.read_bytes()
    pairs = [(opened, settings.ssl_certfile.read_bytes())]
    return grpc.ssl_server_credentials(pairs, authorities, authorities is not None)
