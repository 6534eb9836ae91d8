"""Who may call each route. Each endpoint declares it by `needs`, and `RouteTable` collects what is declared.

health    anyone, on every port
metrics   anyone, on the admin port if there is one
page      anyone: pages and documents
key       whoever has a valid key
infer     a key with that role: predict, generate, forecast, influence
sessions  a key with that role: sessions, their steps and streams
admin     a key with that role, on the admin port if there is one: load and unload models
"""

from collections.abc import Callable, Iterable
from typing import Any, Literal, TypeVar

from starlette.routing import BaseRoute, Route, WebSocketRoute

Role = Literal["infer", "sessions", "admin"]
Need = Literal["health", "metrics", "page", "key", "infer", "sessions", "admin"]

ROLES: tuple[Role, ...] = ("infer", "sessions", "admin")
OPEN_TO_ALL: frozenset[Need] = frozenset({"health", "metrics", "page"})
"""What needs no key."""

_ADMIN_PORT: frozenset[Need] = frozenset({"health", "metrics", "key", "admin"})
_PUBLIC_PORT: frozenset[Need] = frozenset({"health", "page", "key", "infer", "sessions"})

E = TypeVar("E", bound=Callable[..., Any])


def needs(need: Need) -> Callable[[E], E]:
    """Decorate the function of a route with what it needs."""

    def declare(endpoint: E) -> E:
        endpoint.needs = need  # type: ignore[attr-defined]
        return endpoint

    return declare


def declared(route: BaseRoute) -> Need | None:
    """What the endpoint of a route needs; None if it does not say."""
    return getattr(getattr(route, "endpoint", None), "needs", None)


def served_at(need: Need, *, admin_port: bool) -> bool:
    """Whether a route is served at a port, if there are two."""
    return need in (_ADMIN_PORT if admin_port else _PUBLIC_PORT)


def is_guarded(path: str) -> bool:
    """True if a path needs a key, whatever is behind it."""
    return path.startswith(("/v1/", "/v2/")) or path in ("/v1", "/v2")


class RouteTable:
    """What each route needs, by method and path.

    A guarded route that does not declare anything needs `admin`: whoever forgets it opens nothing.
    """

    def __init__(self, routes: Iterable[BaseRoute]) -> None:
        self._rows: list[tuple[frozenset[str], Any, Need]] = []
        for route in routes:
            if isinstance(route, Route | WebSocketRoute):
                methods = frozenset(route.methods or ()) if isinstance(route, Route) else frozenset({"GET"})
                need = declared(route) or ("admin" if is_guarded(route.path) else "page")
                self._rows.append((methods, route.path_regex, need))

    def need(self, method: str, path: str) -> Need:
        """What a request needs. The handshake of a WebSocket is a GET."""
        for methods, pattern, need in self._rows:
            if method in methods and pattern.match(path):
                return need
        return "key" if is_guarded(path) else "page"
