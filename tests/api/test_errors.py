"""Every error has the one body, and none tells what is not the caller's to know."""

import re

import httpx
import pytest

from tests.running import ROOT, RunningServer

PREDICT = "/v1/models/vowels-gru/predict"
GOOD = {"sequence": [[0.0] * 12]}

FIELDS = {"type", "title", "status", "detail", "code", "error"}

# (method, path, options of httpx, status, code)
ERRORS = [
    ("GET", "/nothing", {}, 404, "unknown_route"),
    ("POST", "/v1/models/vowels-gru/nothing", {}, 404, "unknown_route"),
    ("GET", "/v1/models/none", {}, 404, "unknown_model"),
    ("POST", "/v1/models/none/predict", {"json": GOOD}, 404, "unknown_model"),
    ("POST", "/v1/models/vowels-gru/versions/7/predict", {"json": GOOD}, 404, "unknown_model"),
    ("POST", "/v1/models/..%2F..%2Fetc/predict", {"json": GOOD}, 404, None),
    ("GET", "/v1/models/%00", {}, 404, "unknown_model"),
    ("GET", "/v1/models/" + "a" * 3000, {}, 404, "unknown_model"),
    ("GET", PREDICT, {}, 405, "method_not_allowed"),
    ("DELETE", "/v1/models", {}, 405, "method_not_allowed"),
    ("POST", "/metrics", {}, 405, "method_not_allowed"),
    ("PUT", PREDICT, {"json": GOOD}, 405, "method_not_allowed"),
    ("POST", PREDICT, {"json": GOOD, "headers": {"accept": "text/html"}}, 406, "not_acceptable"),
    ("POST", PREDICT, {"json": GOOD, "headers": {"accept": "image/*"}}, 406, "not_acceptable"),
    (
        "POST",
        PREDICT,
        {"json": {"sequences": [[[0.0] * 12]] * 2}, "headers": {"accept": "application/octet-stream"}},
        406,
        "not_acceptable",
    ),
    ("POST", PREDICT, {"content": b"a", "headers": {"content-type": "text/plain"}}, 415, "unsupported_media_type"),
    ("POST", PREDICT, {"content": b"a", "headers": {"content-type": "image/png"}}, 415, "unsupported_media_type"),
    ("POST", PREDICT, {"content": b"{"}, 400, "invalid_json"),
    ("POST", PREDICT, {"json": {}}, 422, "invalid_field"),
    ("POST", PREDICT, {"json": {**GOOD, "timeout": 1e-9}}, 504, "deadline"),
    ("POST", "/v2/repository/models/none/load", {}, 404, "unknown_model"),
    ("POST", "/v2/repository/models/none/unload", {}, 404, "unknown_model"),
]


@pytest.mark.parametrize(("method", "path", "options", "status", "code"), ERRORS)
def test_an_error_is_a_problem_with_all_its_fields(
    server: RunningServer, method: str, path: str, options: dict, status: int, code: str | None
) -> None:
    response = server.client.request(method, path, **options)
    problem = check_problem(response, status)
    assert code is None or problem["code"] == code
    assert_tells_nothing(response)


def check_problem(response: httpx.Response, status: int) -> dict:
    assert response.status_code == status, response.text[:300]
    # Clients of the Open Inference Protocol read nothing but plain JSON.
    kind = "json" if response.request.url.path.startswith("/v2") else "problem+json"
    assert response.headers["content-type"] == f"application/{kind}"
    problem = response.json()
    assert set(problem) - {"where", "expected"} == FIELDS
    assert problem["status"] == status
    assert problem["type"] == f"urn:elman:error:{problem['code']}"
    assert re.fullmatch(r"[a-z_]+", problem["code"])
    assert problem["error"] == problem["detail"]
    assert problem["title"] and problem["detail"]
    return problem


def assert_tells_nothing(response: httpx.Response) -> None:
    for secret in ("Traceback", 'File "', ".py", str(ROOT), "site-packages", "onnxruntime", "msgspec", "0x"):
        assert secret not in response.text, response.text


def test_405_says_what_is_allowed(server: RunningServer) -> None:
    assert server.client.get(PREDICT).headers["allow"] == "POST"
    assert "GET" in server.client.post("/metrics").headers["allow"]


def test_415_and_406_say_what_is_taken_and_given(server: RunningServer) -> None:
    kinds = ["application/json", "application/octet-stream"]
    wrong = server.client.post(PREDICT, content=b"a", headers={"content-type": "text/plain"})
    assert wrong.json()["expected"] == kinds
    wrong = server.client.post(PREDICT, json=GOOD, headers={"accept": "text/html"})
    assert wrong.json()["expected"] == kinds


@pytest.mark.parametrize(
    ("accept", "given"),
    [
        ("*/*", "application/json"),
        ("", "application/json"),
        ("application/json", "application/json"),
        ("Application/JSON", "application/json"),
        ("application/*", "application/json"),
        ("text/html, application/json;q=0.9", "application/json"),
        ("application/octet-stream", "application/octet-stream"),
        ("application/octet-stream;q=0.9", "application/octet-stream"),
        ("application/octet-stream, */*;q=0.1", "application/octet-stream"),
        ("application/json, application/octet-stream;q=0.5", "application/json"),
    ],
)
def test_accept_chooses_the_format(server: RunningServer, accept: str, given: str) -> None:
    response = server.client.post(PREDICT, json=GOOD, headers={"accept": accept})
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == given


def test_an_unknown_model_says_which_there_are(server: RunningServer) -> None:
    problem = server.client.post("/v1/models/none/predict", json=GOOD).json()
    assert "vowels-gru" in problem["expected"]
    problem = server.client.post("/v1/models/vowels-gru/versions/7/predict", json=GOOD).json()
    assert problem["expected"] == [1]


def test_the_server_names_neither_itself_nor_its_version(server: RunningServer) -> None:
    assert "server" not in server.client.get("/livez").headers


def test_nothing_was_logged_as_a_defect(server: RunningServer) -> None:
    """Whatever the tests before this one have sent."""
    assert "Traceback" not in server.log.read_text()


def test_a_method_that_is_not_allowed_is_told_all_that_are(server: RunningServer) -> None:
    for path, allowed in (("/v1/sessions/x", "DELETE, GET, HEAD"), ("/v1/sessions/x/state", "GET, HEAD, PUT")):
        response = server.client.patch(path)
        assert (response.status_code, response.headers["allow"]) == (405, allowed)
