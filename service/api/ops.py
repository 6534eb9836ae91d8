"""For operators: liveness, readiness, metrics."""

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST

from service.api.metrics import Metrics
from service.api.schemas import Health
from service.server import Server


def ops_router(server: Server, metrics: Metrics) -> APIRouter:
    """`/livez`, `/readyz` and `/metrics`."""
    router = APIRouter(tags=["operations"])

    @router.get("/livez", responses={503: {"model": Health}}, response_model_exclude_none=True)
    async def livez(response: Response) -> Health:
        """Whether the process works; if it does not, restart it."""
        if server.engine.alive:
            return Health(status="live")
        response.status_code = 503
        return Health(status="dead", detail="the engine thread is not running")

    @router.get("/readyz", responses={503: {"model": Health}}, response_model_exclude_none=True)
    async def readyz(response: Response) -> Health:
        """Whether to send requests here: the models are loaded, and the server is not stopping."""
        if server.ready:
            return Health(status="ready")
        response.status_code = 503
        return Health(status="not ready", detail="stopping")

    @router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def read_metrics() -> Response:
        """Prometheus metrics."""
        return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)

    return router
