"""For operators: liveness, readiness, metrics."""

import asyncio
import os

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST

from elman.api.metrics import Metrics
from elman.api.schemas import EngineStats, Health, ModelStats
from elman.api.server import ServedModel, Server
from elman.api.stream import Streams
from elman.http.roles import needs


def ops_router(server: Server, metrics: Metrics, streams: Streams) -> APIRouter:
    """`/livez`, `/readyz` and `/metrics`."""
    router = APIRouter(tags=["operations"])

    @router.head("/livez", include_in_schema=False)
    @router.get("/livez", responses={503: {"model": Health}}, response_model_exclude_none=True)
    @needs("health")
    async def livez(response: Response) -> Health:
        """200 if the process works. If it does not, restart it."""
        why = server.failure
        if why is None:
            return Health(status="live")
        response.status_code = 503
        return Health(status="dead", detail=why)

    @router.head("/readyz", include_in_schema=False)
    @router.get("/readyz", responses={503: {"model": Health}}, response_model_exclude_none=True)
    @needs("health")
    async def readyz(response: Response) -> Health:
        """200 if the server takes requests: its models are loaded, and it is not stopping."""
        if server.ready:
            return Health(status="ready", detail=server.warning)
        response.status_code = 503
        return Health(status="not ready", detail="stopping")

    @router.head("/metrics", include_in_schema=False)
    @router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    @needs("metrics")
    async def read_metrics() -> Response:
        """Prometheus metrics, of all workers."""
        return Response(await metrics.text(), media_type=CONTENT_TYPE_LATEST)

    @router.get("/v1/engine")
    @needs("key")
    async def show_engine() -> EngineStats:
        """What the engine does now, and its counters for each model since it was loaded."""
        return EngineStats(
            process=os.getpid(),
            queued=server.engine.num_pending,
            pending_seconds=server.engine.pending_seconds,
            sessions=await asyncio.to_thread(len, server.sessions),
            streams=len(streams),
            models=[_stats(one) for one in server],
        )

    return router


def _stats(served: ServedModel) -> ModelStats:
    stats = served.queue.stats
    return ModelStats(
        model=served.model.name,
        version=served.model.version,
        runs=stats.num_runs,
        rows=stats.num_rows,
        steps=stats.num_steps,
        padded_steps=stats.num_padded_steps,
        sequences=stats.num_sequences,
        queued=len(served.queue.scheduler),
        run_seconds=stats.run_seconds,
        max_batch=served.queue.scheduler.policy.max_batch,
    )
