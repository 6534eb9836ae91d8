"""`/v2/repository`: the model repository extension of the Open Inference Protocol."""

from collections.abc import Iterable
from typing import Any, Literal

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field

from elman.api.server import ServedModel, Server
from elman.codec.faults import echoed
from elman.errors import InvalidField, InvalidModel, ModelRefused
from elman.http.roles import needs


class IndexQuery(BaseModel):
    """What to list."""

    model_config = ConfigDict(strict=True)

    ready: bool = False


class RepositoryCall(BaseModel):
    """Parameters of a load or an unload."""

    model_config = ConfigDict(extra="forbid", strict=True)

    parameters: dict[str, Any] | None = None


class LoadCall(RepositoryCall):
    """Parameters of a load, of which there are none."""

    parameters: dict[str, Any] | None = Field(default=None, json_schema_extra={"maxProperties": 0})


class IndexEntry(BaseModel):
    """One model version: READY, or UNAVAILABLE with the reason."""

    name: str
    version: str | None = None
    state: Literal["READY", "UNAVAILABLE"]
    reason: str = ""


def _entry(served: ServedModel) -> IndexEntry:
    suspension = served.queue.suspension()
    return IndexEntry(
        name=served.model.name,
        version=str(served.model.version),
        state="READY" if suspension is None else "UNAVAILABLE",
        reason="" if suspension is None else suspension.detail,
    )


def index_of(server: Server, ready: bool) -> list[IndexEntry]:
    """Every model version in the repository; with `ready` only those that are served."""
    served = [_entry(one) for one in server]
    if ready:
        return [one for one in served if one.state == "READY"]
    return served + [
        IndexEntry(
            name=refusal.name,
            version=None if refusal.version is None else str(refusal.version),
            state="UNAVAILABLE",
            reason=str(refusal.reason),
        )
        for refusal in server.refusals
    ]


async def load_model(server: Server, name: str, parameters: Iterable[str]) -> None:
    """Load a model from the repository, or load it again. Raises UnknownModel, InvalidModel and InvalidField.

    parameters: the names of those of the request. There are none that could be followed.
    """
    for one in parameters:
        raise InvalidField(
            "a model is loaded as it lies in the repository",
            where=f"parameters.{echoed(one)}",
            expected="no parameters",
        )
    try:
        await server.load(name)
    except ModelRefused as refused:
        raise InvalidModel(str(refused), where=refused.node) from None


def repository_router(server: Server) -> APIRouter:
    """The routes that list, load and unload models while serving."""
    router = APIRouter(prefix="/v2/repository", tags=["repository"])

    @router.post("/index")
    @needs("key")
    async def index(query: IndexQuery | None = None) -> list[IndexEntry]:
        """Every model version in the repository, served or refused."""
        return index_of(server, query is not None and query.ready)

    @router.post("/models/{name}/load", response_class=Response)
    @needs("admin")
    async def load(name: str, call: LoadCall | None = None) -> Response:
        """Load a model from the repository, or load it again. If that fails, the model served before stays."""
        await load_model(server, name, () if call is None else call.parameters or ())
        return Response(status_code=200)

    @router.post("/models/{name}/unload", response_class=Response)
    @needs("admin")
    async def unload(name: str, call: RepositoryCall | None = None) -> Response:
        """Stop serving a model. Requests that are queued for it are still answered."""
        await server.unload(name)
        return Response(status_code=200)

    return router
