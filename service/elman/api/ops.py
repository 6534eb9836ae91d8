"""For operators: liveness, readiness, metrics."""

import asyncio
import os
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from prometheus_client import CONTENT_TYPE_LATEST

from elman.api.engine_stats import EngineStats, worker_stats
from elman.api.metrics import Metrics
from elman.api.schemas import Health
from elman.api.server import Server
from elman.api.stream import Streams
from elman.http.roles import needs


def ops_router(server: Server, metrics: Metrics, streams: Streams) -> APIRouter:
    """`/livez`, `/readyz`, `/metrics` and `/v1/engine`."""
    router = APIRouter(tags=["operations"])

    def own_stats() -> dict[str, Any]:
        return worker_stats(server, os.getpid(), len(streams)).model_dump()

    metrics.workers.offer("engine", own_stats)

    @router.get("/livez", responses={503: {"model": Health}}, response_model_exclude_none=True)
    @needs("health")
    async def livez(response: Response) -> Health:
        """200 if the process works. If it does not, restart it."""
        why = server.failure
        if why is None:
            return Health(status="live")
        response.status_code = 503
        return Health(status="dead", detail=why)

    @router.get("/readyz", responses={503: {"model": Health}}, response_model_exclude_none=True)
    @needs("health")
    async def readyz(response: Response) -> Health:
        """200 if the server takes requests: its models are loaded, and it is not stopping."""
        if server.ready:
            return Health(status="ready", detail=server.warning)
        response.status_code = 503
        return Health(status="not ready", detail="stopping")

    @router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    @needs("metrics")
    async def read_metrics() -> Response:
        """Prometheus metrics, of all workers."""
        return Response(await metrics.text(), media_type=CONTENT_TYPE_LATEST)

    @router.get("/v1/engine")
    @needs("key")
    async def show_engine(
        workers: Annotated[bool, Query(description="Whether to list what each worker does")] = False,
    ) -> EngineStats:
        """What the engine does now, and its counters for each model since it was loaded."""
        return EngineStats(
            **own_stats(),
            sessions=await asyncio.to_thread(len, server.sessions),
            workers=await metrics.workers.ask("engine") if workers else None,
        )

    return router
