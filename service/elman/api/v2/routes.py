"""The routes of the Open Inference Protocol beside infer: health, metadata, configuration and statistics."""

from typing import Any

from fastapi import APIRouter, Response

from elman.api.metrics import Metrics
from elman.api.schemas import Live, ModelMetadata, ModelReady, ModelStatistics, OpenServer, Ready
from elman.api.server import Server
from elman.api.v2.models import configuration, metadata, named, server_metadata, statistics, sums_of
from elman.http.roles import needs
from elman.repository.model_config import as_json

_MODEL = "/models/{name}"
_VERSION = f"{_MODEL}/versions/{{version}}"
_NOT_OFFERED = {
    "trace": "tracing settings are",
    "logging": "log settings are",
    "systemsharedmemory": "shared memory is",
    "cudasharedmemory": "shared memory is",
}


def not_offered(path: str) -> str | None:
    """What a path of the protocol asks for that this server does not have; None for any other path."""
    parts = path.split("/")
    if parts[:2] != ["", "v2"]:
        return None
    what = next((_NOT_OFFERED[part] for part in parts[2:] if part in _NOT_OFFERED), None)
    return None if what is None else f"{what} not offered by this server"


def open_router(server: Server, metrics: Metrics) -> APIRouter:
    """The routes."""
    router = APIRouter(prefix="/v2", tags=["open inference protocol"])

    @router.get("")
    @router.get("/", include_in_schema=False)
    @needs("key")
    async def show_server() -> OpenServer:
        """Name, version and extensions of the server."""
        return OpenServer(**server_metadata())

    @router.get("/health/live", responses={503: {"model": Live}}, response_model_exclude_none=True)
    @needs("health")
    async def show_live(response: Response) -> Live:
        """200 if the process works."""
        why = server.failure
        response.status_code = 200 if why is None else 503
        return Live(live=why is None, error=why)

    @router.get("/health/ready", responses={503: {"model": Ready}}, response_model_exclude_none=True)
    @needs("health")
    async def show_ready(response: Response) -> Ready:
        """200 if the server takes requests."""
        response.status_code = 200 if server.ready else 503
        return Ready(ready=server.ready, error=None if server.ready else "the server is stopping")

    @router.get("/models/stats")
    @needs("key")
    async def show_all_statistics() -> ModelStatistics:
        """The statistics of every model, of all workers."""
        sums = sums_of(await metrics.families())
        return ModelStatistics(model_stats=[statistics(one, sums) for one in server])

    @router.get(f"{_VERSION}/stats", operation_id="show_version_statistics")
    @router.get(f"{_MODEL}/stats")
    @needs("key")
    async def show_statistics(name: str, version: str | None = None) -> ModelStatistics:
        """The statistics of one model, of all its versions or of one, and of all workers."""
        served = named(server, name, version)
        sums = sums_of(await metrics.families())
        return ModelStatistics(model_stats=[statistics(one, sums) for one in served])

    @router.get(f"{_VERSION}/config", operation_id="show_version_configuration")
    @router.get(f"{_MODEL}/config")
    @needs("key")
    async def show_configuration(name: str, version: str | None = None) -> dict[str, Any]:
        """The configuration of a model, in Triton's form."""
        return as_json(configuration(server.served(name, version)))

    ready: Any = {"responses": {503: {"model": ModelReady}}, "response_model_exclude_none": True}

    @router.get(f"{_VERSION}/ready", operation_id="show_version_ready", **ready)
    @router.get(f"{_MODEL}/ready", **ready)
    @needs("key")
    async def show_model_ready(response: Response, name: str, version: str | None = None) -> ModelReady:
        """200 if a model takes requests."""
        suspension = server.served(name, version).queue.suspension()
        if suspension is None:
            return ModelReady(name=name, ready=True)
        response.status_code = 503
        return ModelReady(name=name, ready=False, error=suspension.detail)

    @router.get(_VERSION, operation_id="show_version_metadata")
    @router.get(_MODEL)
    @needs("key")
    async def show_metadata(name: str, version: str | None = None) -> ModelMetadata:
        """The inputs and outputs of a model. The configuration describes further ones, which may be left out."""
        return ModelMetadata(**metadata(server, server.served(name, version)))

    return router
