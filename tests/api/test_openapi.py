"""The OpenAPI document: every route is in it, and it holds together."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.routing import WebSocketRoute

from elman.app import create_app
from elman.settings import Settings
from tests.running import STORE, RunningServer

VERBS = {"get", "put", "post", "delete", "patch", "head", "options", "trace"}
# The document itself, and the page that shows it.
ABOUT_ITSELF = {"/openapi.json", "/docs", "/docs/oauth2-redirect"}


@pytest.fixture
def document(server: RunningServer) -> dict[str, Any]:
    response = server.client.get("/openapi.json")
    assert response.status_code == 200
    return response.json()


def routes(parent: Any) -> Iterator[tuple[str, str]]:
    """(method, path) of every route of an application, those of its routers included."""
    for route in parent.routes:
        router = getattr(route, "original_router", None)
        if router is not None:
            yield from routes(router)
        elif isinstance(route, WebSocketRoute):
            yield "get", route.path  # the request that opens it
        elif getattr(route, "methods", None) and getattr(route, "include_in_schema", True):
            for method in set(route.methods) - {"HEAD"}:
                yield method.lower(), re.sub(r":\w+}", "}", route.path)


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in document["paths"].items():
        for method in VERBS & set(item):
            yield method, path, item[method]


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for child in value.values():
            yield from references(child)
    elif isinstance(value, list):
        for child in value:
            yield from references(child)


def test_every_route_is_in_the_document(document: dict[str, Any]) -> None:
    app = create_app(Settings(models=STORE))
    mounted = {(method, path) for method, path in routes(app) if path not in ABOUT_ITSELF | {"/"}}
    assert ("post", "/v1/models/{name}/predict") in mounted
    assert ("get", "/v1/models/{name}/stream") in mounted
    assert mounted == {(method, path) for method, path, _ in operations(document)}


def test_every_reference_resolves(document: dict[str, Any]) -> None:
    found = set(references(document))
    assert "#/components/schemas/PredictRequest" in found
    for reference in found:
        target: Any = document
        assert reference.startswith("#/")
        for part in reference[2:].split("/"):
            assert part in target, f"{reference} leads nowhere"
            target = target[part]
        assert isinstance(target, dict)


def test_the_document_has_the_shape_of_openapi(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.")
    assert set(document["info"]) >= {"title", "version"}
    names = [operation["operationId"] for _, _, operation in operations(document)]
    assert len(names) == len(set(names))
    for method, path, operation in operations(document):
        assert path.startswith("/")
        declared = {one["name"] for one in operation.get("parameters", []) if one["in"] == "path"}
        assert declared == set(re.findall(r"{(\w+)}", path)), (method, path)
        for parameter in operation.get("parameters", []):
            assert parameter["in"] in {"path", "query", "header"}
            assert "schema" in parameter
            assert parameter["in"] != "path" or parameter["required"] is True
        assert operation["responses"]
        for status, response in operation["responses"].items():
            assert re.fullmatch(r"[1-5]\d\d|default", status)
            assert "description" in response
            assert all("/" in kind for kind in response.get("content", {}))


def test_every_operation_says_what_its_errors_look_like(document: dict[str, Any]) -> None:
    for method, path, operation in operations(document):
        errors = {status: one for status, one in operation["responses"].items() if status[0] in "45d"}
        assert errors, (method, path)
        for status, response in errors.items():
            if path in ("/livez", "/readyz") and status == "503":
                continue  # a health check answers, it does not fail
            assert set(response["content"]) == {"application/problem+json"}, (method, path, status)
    assert set(document["components"]["schemas"]["Problem"]["required"]) == {
        "type", "title", "status", "detail", "code", "error",
    }  # fmt: skip


def test_predict_documents_both_formats_and_its_options(document: dict[str, Any]) -> None:
    for path in ("/v1/models/{name}/predict", "/v1/models/{name}/versions/{version}/predict"):
        predict = document["paths"][path]["post"]
        formats = {"application/json", "application/octet-stream"}
        assert set(predict["requestBody"]["content"]) == formats
        assert set(predict["responses"]["200"]["content"]) == formats
        query = {one["name"] for one in predict["parameters"] if one["in"] == "query"}
        assert query == {"return", "decode", "top", "timeout", "return_state"}
        assert {"400", "404", "406", "408", "413", "415", "422", "500", "503", "504"} <= set(predict["responses"])
    body = document["components"]["schemas"]["PredictRequest"]["properties"]
    assert set(body) >= {"sequence", "sequences", "return", "decode", "top", "timeout"}


def test_the_card_in_the_document_is_the_card_that_is_sent(server: RunningServer, document: dict[str, Any]) -> None:
    schema = document["components"]["schemas"]["ModelCard"]
    card = server.client.get("/v1/models/vowels-lstm").json()
    assert set(card) <= set(schema["properties"])
    assert set(schema["required"]) <= set(card)


def test_the_docs_page_is_served(server: RunningServer) -> None:
    response = server.client.get("/docs")
    assert response.status_code == 200
    assert "/openapi.json" in response.text
