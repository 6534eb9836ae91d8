"""Calls for a server as a whole."""

from typing import Any

from elman.client.calls.call import Call, json_call, part_of_path
from elman.client.calls.session import SessionCalls, read_session
from elman.client.config import Timeout
from elman.client.results import Card, IndexEntry, Refusal, SessionInfo
from elman.client.wire import read_json, to_query


def models() -> Call[list[Card]]:
    return Call("GET", "/v1/models", lambda response: [Card.from_json(one) for one in read_json(response)["models"]])


def refused() -> Call[list[Refusal]]:
    return Call(
        "GET", "/v1/models", lambda response: [Refusal.from_json(one) for one in read_json(response)["refused"]]
    )


def sessions(model: str | None, limit: int | None, after: str | None) -> Call[list[SessionInfo]]:
    return Call(
        "GET",
        "/v1/sessions",
        lambda response: [SessionInfo.from_json(one) for one in read_json(response)["sessions"]],
        query=to_query({"model": model, "limit": limit, "after": after}),
    )


def session(id: str) -> Call[SessionCalls]:
    return Call("GET", f"/v1/sessions/{part_of_path(id, 'the id of a session')}", read_session)


def load(model: str, timeout: Timeout | float | None = None) -> Call[None]:
    path = f"/v2/repository/models/{part_of_path(model, 'the name of a model')}/load"
    return Call("POST", path, lambda response: None, timeout=timeout)


def unload(model: str) -> Call[None]:
    path = f"/v2/repository/models/{part_of_path(model, 'the name of a model')}/unload"
    return Call("POST", path, lambda response: None)


def index(ready: bool) -> Call[list[IndexEntry]]:
    return json_call(
        "POST",
        "/v2/repository/index",
        lambda response: [IndexEntry.from_json(one) for one in read_json(response)],
        {"ready": ready},
    )


def live() -> Call[bool]:
    return Call("GET", "/livez", lambda response: response.is_success, accepts=(503,))


def ready() -> Call[bool]:
    return Call("GET", "/readyz", lambda response: response.is_success, accepts=(503,))


def metrics() -> Call[str]:
    return Call("GET", "/metrics", lambda response: response.text)


def engine() -> Call[dict[str, Any]]:
    return Call("GET", "/v1/engine", read_json)


def openapi() -> Call[dict[str, Any]]:
    return Call("GET", "/openapi.json", read_json)
