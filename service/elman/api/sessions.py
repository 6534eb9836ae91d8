"""`/v1/sessions`: all routes of sessions but the steps."""

from dataclasses import replace
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from elman.api.openapi import json_body
from elman.api.predict import sends_octets
from elman.api.schemas import SessionCard, SessionList, StateAnswer
from elman.api.segment import check_sessions, open_token, seal_token
from elman.api.server import ServedModel, Server
from elman.codec.pool import is_heavy
from elman.errors import InvalidField, UnsupportedMediaType
from elman.http.asgi import party_of
from elman.http.callers import owner_of
from elman.http.endpoint import Driver
from elman.http.roles import needs
from elman.sessions.store import Record


class ForkBody(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    ttl: float | None = Field(default=None, description="As for a new session; without it that of the forked session")


class StateBody(BaseModel):
    model_config = ConfigDict(extra="forbid")

    state: str = Field(description="A state token")


def sessions_router(server: Server, driver: Driver) -> APIRouter:
    """The routes that create, show, fork, restore and delete sessions."""
    router = APIRouter(prefix="/v1", tags=["sessions"])
    sessions, complete = server.sessions, driver.complete

    @router.post("/models/{name}/sessions", status_code=201, openapi_extra=json_body("NewSession"))
    @needs("sessions")
    async def create_session(request: Request, name: str) -> SessionCard:
        """Create a session of a model. It starts from the initial state or from a state token."""
        return await create(request, name, None)

    @router.post("/models/{name}/versions/{version}/sessions", status_code=201, openapi_extra=json_body("NewSession"))
    @needs("sessions")
    async def create_version_session(request: Request, name: str, version: str) -> SessionCard:
        """Create a session of one version of a model."""
        return await create(request, name, version)

    async def create(request: Request, name: str, version: str | None) -> SessionCard:
        served, owner = server.served(name, version), owner_of(request.scope)
        check_sessions(served)
        if sends_octets(request.headers.get("content-type", "").encode("latin-1")):
            raise UnsupportedMediaType("the body is application/octet-stream", expected="application/json")
        content = await request.body()
        # A block of static inputs may be large. FastAPI would decode it on the event loop.
        decoding = server.pool.offload(is_heavy(content), served.decoder.session, content)
        body, statics = await complete(decoding, party_of(request.scope))
        step, start = 0, served.snapshots.first
        if body.state is not None:
            step, start = open_token(server, served, owner, body.state, "state")
        start = replace(start, statics=statics or start.statics)
        ttl = own_ttl(server, served) if body.ttl is None else check_ttl(server, body.ttl)
        snapshot = served.snapshots.pack(start)
        model = served.model
        steps = sessions.create(owner, model.name, model.version, served.digest, step, snapshot, ttl)
        return card(await complete(steps))

    @router.get("/sessions")
    @needs("sessions")
    async def list_sessions(
        request: Request,
        model: str | None = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
        after: Annotated[str | None, Query(pattern="^[0-9a-f]{1,64}$")] = None,
    ) -> SessionList:
        """The caller's sessions, oldest first."""
        records = await complete(sessions.owned(owner_of(request.scope), limit, after, model))
        next_after = records[-1].id if len(records) == limit else None
        return SessionList(sessions=[card(record) for record in records if not record.ended], next=next_after)

    @router.get("/sessions/{id}")
    @needs("sessions")
    async def show_session(request: Request, id: str) -> SessionCard:
        """Show a session, and the step that it is at."""
        return card(await complete(sessions.read(owner_of(request.scope), id)))

    @router.delete("/sessions/{id}", status_code=204, response_class=Response)
    @needs("sessions")
    async def delete_session(request: Request, id: str) -> Response:
        """Delete a session."""
        await complete(sessions.delete(owner_of(request.scope), id))
        return Response(status_code=204)

    @router.post("/sessions/{id}/fork", status_code=201)
    @needs("sessions")
    async def fork_session(request: Request, id: str, body: ForkBody | None = None) -> SessionCard:
        """Create a second session with the state of this one. The two are independent from then on."""
        owner = owner_of(request.scope)
        first = await complete(sessions.read(owner, id))
        ttl = first.ttl if body is None or body.ttl is None else check_ttl(server, body.ttl)
        steps = sessions.create(owner, first.model, first.version, first.digest, first.step, first.snapshot, ttl)
        return card(await complete(steps))

    @router.get("/sessions/{id}/state")
    @needs("sessions")
    async def read_state(request: Request, id: str) -> StateAnswer:
        """The session's state as a token. Predict, a new session and others can start from it."""
        owner = owner_of(request.scope)
        record = await complete(sessions.read(owner, id))
        served = server.served_to(record)
        return StateAnswer(state=seal_token(server, served, owner, record.step, record.snapshot), step=record.step)

    @router.put("/sessions/{id}/state")
    @needs("sessions")
    async def write_state(request: Request, id: str, body: StateBody) -> SessionCard:
        """Set a session to the state of a token, for example of an earlier step or of another session."""
        owner = owner_of(request.scope)
        served = server.served_to(await complete(sessions.read(owner, id)))
        step, start = open_token(server, served, owner, body.state, "state")
        return card(await complete(sessions.restore(owner, id, step, served.snapshots.pack(start))))

    return router


def card(record: Record) -> SessionCard:
    """The session's fields that its owner sees."""
    return SessionCard(
        id=record.id,
        model=record.model,
        version=record.version,
        step=record.step,
        created_at=record.created_at,
        expires_at=record.expires_at,
        ttl=record.ttl,
    )


def own_ttl(server: Server, served: ServedModel) -> float | None:
    """How long a session of a model rests if its caller does not say, by its `config.pbtxt`; None if that does not say.

    It is no longer than `max_session_ttl`.
    """
    triton = served.model.triton
    idle = None if triton is None else triton.idle_seconds
    return idle and min(idle, server.settings.max_session_ttl)


def check_ttl(server: Server, ttl: float) -> float:
    """Returns `ttl`. Raises InvalidField if it is not above 0 and at most `max_session_ttl`."""
    limit = server.settings.max_session_ttl
    if not 0 < ttl <= limit:
        raise InvalidField(f"ttl is {ttl:g}", where="ttl", expected=f"seconds, more than 0 and at most {limit:g}")
    return ttl
