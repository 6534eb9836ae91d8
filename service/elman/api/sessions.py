"""`/v1/sessions`: everything of a session but its steps."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from elman.api.schemas import ForkBody, NewSession, SessionCard, SessionList, StateAnswer, StateBody
from elman.api.segment import check_streaming, open_token, seal_token
from elman.api.server import Server
from elman.errors import InvalidField
from elman.http.callers import owner_of
from elman.http.endpoint import Driver
from elman.sessions.store import Record


def sessions_router(server: Server, driver: Driver) -> APIRouter:
    """The routes that make, show, fork, restore and end sessions."""
    router = APIRouter(prefix="/v1", tags=["sessions"])
    sessions, complete = server.sessions, driver.complete

    @router.post("/models/{name}/sessions", status_code=201)
    async def create_session(request: Request, name: str, body: NewSession | None = None) -> SessionCard:
        """A new session of a model, at its initial state or at that of a token."""
        return await create(request, name, None, body or NewSession())

    @router.post("/models/{name}/versions/{version}/sessions", status_code=201)
    async def create_version_session(
        request: Request, name: str, version: str, body: NewSession | None = None
    ) -> SessionCard:
        """A new session of one version of a model."""
        return await create(request, name, version, body or NewSession())

    async def create(request: Request, name: str, version: str | None, body: NewSession) -> SessionCard:
        served, owner = server.served(name, version), owner_of(request.scope)
        check_streaming(served)
        step, start = 0, served.snapshots.first
        if body.state is not None:
            step, start = open_token(server, served, owner, body.state, "state")
        ttl = check_ttl(server, body.ttl)
        snapshot = served.snapshots.pack(start)
        model = served.model
        making = sessions.create(owner, model.name, model.version, served.digest, step, snapshot, ttl)
        return card(await complete(making))

    @router.get("/sessions")
    async def list_sessions(
        request: Request,
        model: str | None = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
        after: Annotated[str | None, Query(pattern="^[0-9a-f]{1,64}$")] = None,
    ) -> SessionList:
        """The caller's sessions, oldest first."""
        records = await complete(sessions.owned(owner_of(request.scope), limit, after, model))
        following = records[-1].id if len(records) == limit else None
        return SessionList(sessions=[card(record) for record in records], next=following)

    @router.get("/sessions/{id}")
    async def show_session(request: Request, id: str) -> SessionCard:
        """Where a session stands."""
        return card(await complete(sessions.read(owner_of(request.scope), id)))

    @router.delete("/sessions/{id}", status_code=204, response_class=Response)
    async def delete_session(request: Request, id: str) -> Response:
        """End a session."""
        await complete(sessions.delete(owner_of(request.scope), id))
        return Response(status_code=204)

    @router.post("/sessions/{id}/fork", status_code=201)
    async def fork_session(request: Request, id: str, body: ForkBody | None = None) -> SessionCard:
        """A second session that stands where this one does, and goes its own way from here."""
        owner = owner_of(request.scope)
        one = await complete(sessions.read(owner, id))
        ttl = check_ttl(server, body.ttl) if body is not None and body.ttl is not None else one.ttl
        making = sessions.create(owner, one.model, one.version, one.digest, one.step, one.snapshot, ttl)
        return card(await complete(making))

    @router.get("/sessions/{id}/state")
    async def read_state(request: Request, id: str) -> StateAnswer:
        """The session's state as a token, with which anything can go on from here, with or without a session."""
        owner = owner_of(request.scope)
        record = await complete(sessions.read(owner, id))
        served = server.served_to(record)
        return StateAnswer(state=seal_token(server, served, owner, record.step, record.snapshot), step=record.step)

    @router.put("/sessions/{id}/state")
    async def write_state(request: Request, id: str, body: StateBody) -> SessionCard:
        """Put a session at the state of a token: back to an earlier step, or to where another one stands."""
        owner = owner_of(request.scope)
        served = server.served_to(await complete(sessions.read(owner, id)))
        step, start = open_token(server, served, owner, body.state, "state")
        return card(await complete(sessions.restore(owner, id, step, served.snapshots.pack(start))))

    return router


def card(record: Record) -> SessionCard:
    """A session as its owner sees it."""
    return SessionCard(
        id=record.id,
        model=record.model,
        version=record.version,
        step=record.step,
        created_at=record.created_at,
        expires_at=record.expires_at,
        ttl=record.ttl,
    )


def check_ttl(server: Server, ttl: float | None) -> float | None:
    """Raise InvalidField for a time to live that no session may have."""
    most = server.settings.max_session_ttl
    if ttl is not None and not 0 < ttl <= most:
        raise InvalidField(f"ttl is {ttl:g}", where="ttl", expected=f"seconds, more than 0 and at most {most:g}")
    return ttl
