"""Web pages of others drive no server: names, origins, types, and what is allowed."""

import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from elman.errors import ElmanError
from elman.http.sites import Sites, is_loopback
from tests.running import RunningServer, running_server

# They start servers of their own.
pytestmark = pytest.mark.slow

MODEL = "vowels-gru"
BODY = {"sequence": [[0.25] * 12]}
PAGE, FRIEND = "https://page.example", "https://app.example.com"

# Everything that a request can change, and predictions.
CHANGES = [
    ("POST", f"/v1/models/{MODEL}/predict"),
    ("POST", f"/v1/models/{MODEL}/sessions"),
    ("POST", "/v1/sessions/0/steps"),
    ("POST", "/v1/sessions/0/fork"),
    ("PUT", "/v1/sessions/0/state"),
    ("DELETE", "/v1/sessions/0"),
    ("POST", "/v2/repository/index"),
    ("POST", f"/v2/repository/models/{MODEL}/load"),
    ("POST", f"/v2/repository/models/{MODEL}/unload"),
]


@pytest.fixture(scope="module")
def local(small_store: Path) -> Iterator[RunningServer]:
    with running_server(small_store) as one:
        yield one


@pytest.fixture(scope="module")
def shared(small_store: Path) -> Iterator[RunningServer]:
    """A server with keys, a name, and a page of another origin that may call it."""
    settings = {"api_keys": "alice", "cors_origins": FRIEND, "allowed_hosts": "models.example,*.inner.example"}
    with running_server(small_store, **settings) as one:
        yield one


def forbidden(response: httpx.Response) -> bool:
    return response.status_code == 403 and response.json()["code"] == "forbidden"


def upgrade(server: RunningServer, host: str = "", **headers: str) -> int:
    """The status of a handshake."""
    try:
        url = f"ws://{host or f'127.0.0.1:{server.port}'}/v1/models/{MODEL}/stream"
        sock = socket.create_connection(("127.0.0.1", server.port))
        with connect(url, sock=sock, additional_headers=headers, compression=None):
            return 101
    except InvalidStatus as refused:
        return refused.response.status_code


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": PAGE},
        {"origin": "null"},
        {"origin": "http://localhost:3000"},
        {"origin": "http://127.0.0.1"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"origin": PAGE, "sec-fetch-site": "cross-site"},
    ],
)
def test_a_page_of_another_origin_changes_nothing(local: RunningServer, headers: dict[str, str]) -> None:
    for method, path in CHANGES:
        for kind in ("application/json", "text/plain"):
            response = local.client.request(method, path, json=BODY, headers={**headers, "content-type": kind})
            assert forbidden(response), (method, path)
    assert upgrade(local, **headers) == 403
    assert local.predict(MODEL, **BODY).status_code == 200


@pytest.mark.parametrize(
    "host", ["page.example", "page.example:8000", "127.0.0.1.page.example", "localhost.page.example"]
)
def test_a_name_that_leads_here_from_elsewhere_is_refused(local: RunningServer, host: str) -> None:
    for method, path in [*CHANGES, ("GET", "/v1/models"), ("GET", "/v1/sessions"), ("GET", "/"), ("GET", "/metrics")]:
        assert forbidden(local.client.request(method, path, headers={"host": host})), (method, path)
    assert upgrade(local, host=host) == 403
    for path in ("/livez", "/readyz"):
        assert local.client.get(path, headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:9", "127.0.0.1:80", "[::1]:8000", "a.localhost", "elman", "[::1]"]
)
def test_the_servers_own_page_may_do_everything(local: RunningServer, host: str) -> None:
    for origin in (f"http://{host}", f"https://{host}"):
        headers = {"host": host, "origin": origin, "sec-fetch-site": "same-origin"}
        assert local.client.post(f"/v1/models/{MODEL}/predict", json=BODY, headers=headers).status_code == 200
        load = local.client.post(f"/v2/repository/models/{MODEL}/load", headers=headers)
        assert load.status_code == 200
    assert upgrade(local, origin=f"http://127.0.0.1:{local.port}") == 101


def test_a_proxy_may_call_the_server_by_another_name(local: RunningServer) -> None:
    """The browser knows that the page and the server have one origin; the Host is that of the server behind."""
    headers = {"origin": "https://models.example", "sec-fetch-site": "same-origin"}
    answer = local.client.post("/v1/models/names-gru/predict", json={"sequence": "Li"}, headers=headers)
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
def test_a_browser_says_that_it_sends_json(local: RunningServer, kind: str) -> None:
    headers = {"sec-fetch-site": "same-origin", "content-type": kind}
    for path in (f"/v1/models/{MODEL}/predict", f"/v1/models/{MODEL}/sessions", "/v2/repository/index"):
        assert local.client.post(path, content=b"{}", headers=headers).status_code == 415
    # `curl -d` is no browser.
    form = {"content-type": "application/x-www-form-urlencoded"}
    assert local.client.post("/v2/repository/index", content=b"{}", headers=form).status_code == 200


def test_a_page_that_is_allowed_may_call_and_read(shared: RunningServer) -> None:
    path = f"/v1/models/{MODEL}/predict"
    asks = {"access-control-request-method": "POST", "access-control-request-headers": "authorization,content-type"}
    preflight = shared.client.options(path, headers={"origin": FRIEND, **asks})
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == FRIEND
    assert "POST" in preflight.headers["access-control-allow-methods"]
    assert "authorization" in preflight.headers["access-control-allow-headers"].lower()
    for key, status in (("alice", 200), ("eve", 401)):
        headers = {"origin": FRIEND, "authorization": f"Bearer {key}"}
        response = shared.client.post(path, json=BODY, headers=headers)
        assert response.status_code == status
        assert response.headers["access-control-allow-origin"] == FRIEND
        assert "origin" in response.headers["vary"].lower()
    assert "access-control-allow-origin" not in shared.client.options(path, headers={"origin": PAGE, **asks}).headers
    denied = shared.client.post(path, json=BODY, headers={"origin": PAGE, "authorization": "Bearer alice"})
    assert forbidden(denied) and "access-control-allow-origin" not in denied.headers
    assert upgrade(shared, origin=FRIEND) == 101
    assert upgrade(shared, origin=PAGE) == 403


def test_names_that_are_listed_are_answered(shared: RunningServer) -> None:
    for host, status in (
        ("models.example", 200),
        ("a.inner.example:80", 200),
        ("inner.example", 403),
        ("x.example", 403),
    ):
        headers = {"host": host, "authorization": "Bearer alice"}
        assert shared.client.get("/v1/models", headers=headers).status_code == status


def test_without_a_list_any_name_is_answered_and_pages_are_checked_all_the_same() -> None:
    sites = Sites((), ())
    sites.check(b"POST", "/v1", {b"host": b"models.example", b"origin": b"https://models.example"})
    sites.check(b"POST", "/v1", {b"host": b"models.example:443", b"origin": b"https://models.example"})
    for host, origin in (
        (b"models.example", b"https://page.example"),
        (b"models.example:80", b"https://models.example"),
    ):
        with pytest.raises(ElmanError):
            sites.check(b"POST", "/v1", {b"host": host, b"origin": origin})


@pytest.mark.parametrize(
    ("host", "is_local"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False),
     ("", False), ("10.0.0.1", False), ("example.com", False), ("localhost.example", False)],
)  # fmt: skip
def test_addresses_that_other_machines_do_not_reach(host: str, is_local: bool) -> None:
    assert is_loopback(host) == is_local
