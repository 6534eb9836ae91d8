"""The OpenAPI document: every route is in it, and it holds together."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.routing import WebSocketRoute

from elman.app import create_app
from elman.settings import Settings
from tests.fuzz import contract
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
            kind = "json" if path.startswith("/v2") else "problem+json"
            assert set(response["content"]) == {f"application/{kind}"}, (method, path, status)
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


# A body of each kind that is served, and the path that takes it. Work is cut short, since only the fields count.
BODIES: dict[str, tuple[str, dict[str, Any]]] = {
    "PredictRequest": ("/v1/models/names-gru/predict", {"sequence": "Lind"}),
    "StepsRequest": ("/v1/sessions/{id}/steps", {"sequence": "Lind"}),
    "GenerateRequest": ("/v1/models/names-lstm-generator/generate", {"prompt": "Mc", "timeout": 0.01}),
    "ForecastRequest": ("/v1/models/sunspots-gru/forecast", {"series": [5.0, 11.0], "timeout": 0.01}),
    "InfluenceRequest": ("/v1/models/names-gru/influence", {"sequence": "Lind"}),
    "NewSession": ("/v1/models/names-gru/sessions", {}),
}
WRONG = {"string": 5, "integer": "five", "number": "five", "boolean": "maybe", "array": 5}


def kinds(schema: dict[str, Any]) -> list[dict[str, Any]]:
    """The alternatives of a field, null left out."""
    return [one for one in schema.get("anyOf", [schema]) if one.get("type") != "null"]


def allowed(kind: dict[str, Any]) -> list[Any]:
    """Values at the bounds of a field."""
    if "enum" in kind:
        return list(kind["enum"])
    if kind.get("type") == "boolean":
        return [True, False]
    step = 1 if kind.get("type") == "integer" else 1e-3
    least = [kind["minimum"]] if "minimum" in kind else []
    least += [kind["exclusiveMinimum"] + step] if "exclusiveMinimum" in kind else []
    most = [kind["maximum"]] if "maximum" in kind else []
    most += [kind["exclusiveMaximum"] - step] if "exclusiveMaximum" in kind else []
    return least + most


def forbidden(kind: dict[str, Any]) -> list[Any]:
    """Values just outside the bounds of a field, and one of another type."""
    values = [WRONG[kind["type"]]] if kind.get("type") in WRONG else []
    values += ["none of these"] if "enum" in kind else []
    step = 1 if kind.get("type") == "integer" else 1e-3
    values += [kind["minimum"] - step] if "minimum" in kind else []
    values += [kind["exclusiveMinimum"]] if "exclusiveMinimum" in kind else []
    # Past int64 the number is refused for its size.
    values += [kind["maximum"] + step] if "maximum" in kind else []
    values += [kind["exclusiveMaximum"]] if "exclusiveMaximum" in kind else []
    if kind.get("type") == "array" and "maxItems" in kind:
        item = (kind["items"].get("minLength") and "a") or 0.5
        values.append([item] * (kind["maxItems"] + 1))
    if kind.get("type") == "string" and "maxLength" in kind:
        values += ["a" * (kind["maxLength"] + 1), ""]
    return values


@pytest.mark.parametrize("name", BODIES)
def test_what_the_document_allows_is_taken_and_what_it_forbids_is_refused(
    server: RunningServer, document: dict[str, Any], name: str
) -> None:
    path, body = BODIES[name]
    if "{id}" in path:
        path = path.format(id=server.client.post("/v1/models/names-gru/sessions", json={}).json()["id"])
    schema = document["components"]["schemas"][name]
    assert schema["additionalProperties"] is False
    tried = 0
    for field, one in schema["properties"].items():
        if field in ("sequence", "sequences", "series", "state", "session", "prompt", "future", "condition", "target"):
            continue  # what a model takes is more than a type
        for kind in kinds(one):
            for value in allowed(kind):
                answer = server.client.post(path, json={**body, field: value})
                refused = answer.status_code in (400, 422)
                assert not (refused and answer.json().get("where") == field), (field, value, answer.text)
                tried += 1
        for value in forbidden(kinds(one)[0]) if len(kinds(one)) == 1 else []:
            answer = server.client.post(path, json={**body, field: value})
            assert answer.status_code == 422, (field, value, answer.text[:200])
            assert str(answer.json()["where"]).startswith(field), (field, value, answer.text[:200])
            tried += 1
    assert tried
    answer = server.client.post(path, json={**body, "retrun": 1})
    assert answer.status_code == 422 and "retrun" in answer.json()["where"]


def test_every_bounded_field_tells_both_of_its_bounds(document: dict[str, Any]) -> None:
    for name in BODIES:
        for field, one in document["components"]["schemas"][name]["properties"].items():
            for kind in kinds(one):
                if kind.get("type") == "integer" and field != "target":
                    assert {"minimum", "maximum"} <= set(kind), (name, field)


def test_the_options_of_octets_are_those_of_json(document: dict[str, Any]) -> None:
    """The bounds of an option are the same in a query string and in a body."""
    for path, name in (("/v1/models/{name}/predict", "PredictRequest"), ("/v1/sessions/{id}/steps", "StepsRequest")):
        body = document["components"]["schemas"][name]["properties"]
        for parameter in document["paths"][path]["post"]["parameters"]:
            if parameter["in"] == "query":
                (kind,) = kinds(body[parameter["name"]])
                told = {key: value for key, value in parameter["schema"].items() if key != "default"}
                assert told == {key: value for key, value in kind.items() if key != "default"}, parameter["name"]


def test_the_page_of_the_document_is_whole_by_itself(server: RunningServer, document: dict[str, Any]) -> None:
    response = server.client.get("/docs")
    assert response.status_code == 200 and response.headers["content-type"].startswith("text/html")
    policy = dict(one.strip().split(" ", 1) for one in response.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'" and "script-src" not in policy
    assert "<script" not in response.text and "//" not in response.text.split("</head>")[0]
    for link in re.findall(r'<link rel="[a-z]+" href="([^"]+)"', response.text):
        assert server.client.get(f"/{link}").status_code == 200
    for path in document["paths"]:
        assert f"<code>{path}</code>" in response.text
    targets = set(re.findall(r'<details id="([^"]+)"', response.text))
    assert targets == set(document["components"]["schemas"])
    assert set(re.findall(r'href="#([^"]+)"', response.text)) <= targets


@pytest.mark.slow
def test_server_and_document_agree_on_what_is_taken_and_what_is_answered(server: RunningServer) -> None:
    """With few requests, the same each time. `python -m tests.fuzz.contract` tries many."""
    models = ("names-lstm-generator", "sunspots-gru", "vowels-gru")
    code, output = contract.run(server.url, "fuzzing", 3, models)
    assert code == 0, output
    assert server.client.get("/livez").status_code == 200
