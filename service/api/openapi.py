"""The OpenAPI document: what FastAPI knows of its own routes, and the routes served as bare ASGI."""

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI
from pydantic.json_schema import models_json_schema

from service.api.schemas import PredictAnswer, PredictBody, Problem

_REF = "#/components/schemas/{model}"

_BINARY = {"type": "string", "format": "binary", "contentMediaType": "application/octet-stream"}

_OPTIONS = (
    ("return", {"type": "string", "enum": ["final", "steps"], "default": "final"}),
    ("decode", {"type": "boolean", "default": True}),
    ("top", {"type": "integer", "minimum": 1, "maximum": 1000, "default": 3}),
    ("timeout", {"type": "number", "exclusiveMinimum": 0}),
)

_ERRORS = {
    "400": "Not JSON: `invalid_json`",
    "404": "`unknown_model`",
    "406": "`not_acceptable`",
    "408": "`body_timeout`",
    "413": "`too_large`, `too_long`",
    "415": "`unsupported_media_type`",
    "422": "`not_finite`, `ragged_features`, `wrong_features`, `unknown_token`, `empty_sequence`, `invalid_field`",
    "500": "`model_failed`, `not_finite_output`, `internal`",
    "503": "`overloaded` or `draining`, with Retry-After",
    "504": "`deadline`",
}


def document(app: FastAPI) -> Callable[[], dict[str, Any]]:
    """The function that makes the application's document, once."""
    original = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = original()
            schemas = schema.setdefault("components", {}).setdefault("schemas", {})
            _, ours = models_json_schema(
                [(PredictBody, "validation"), (PredictAnswer, "serialization"), (Problem, "serialization")],
                by_alias=True,
                ref_template=_REF,
            )
            for name, definition in ours["$defs"].items():
                schemas.setdefault(name, definition)
            schema["paths"]["/v1/models/{name}/predict"] = {"post": _predict(versioned=False)}
            schema["paths"]["/v1/models/{name}/versions/{version}/predict"] = {"post": _predict(versioned=True)}
            app.openapi_schema = schema
        return app.openapi_schema

    return openapi


def problem_responses() -> dict[int | str, dict[str, Any]]:
    """The error responses of the routes that FastAPI serves."""
    return {"default": {"description": "Error", "content": _problem_content()}}


def _predict(versioned: bool) -> dict[str, Any]:
    return {
        "tags": ["predict"],
        "summary": "Predict",
        "operationId": "predict_version" if versioned else "predict",
        "description": "Run one sequence, or many of any lengths, and return the output after the last step "
        "(`final`) or after each step (`steps`). One sequence may also be sent as little-endian float32, row-major "
        "(int32 for token ids), with the options in the query string; with `Accept: application/octet-stream` the "
        "outputs come back as float32, and `Elman-Shape` gives their shape.",
        "parameters": _parameters(versioned),
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": {"$ref": _REF.format(model="PredictBody")}},
                "application/octet-stream": {"schema": _BINARY},
            },
        },
        "responses": {
            "200": {
                "description": "Answers, in the order of the request",
                "content": {
                    "application/json": {"schema": {"$ref": _REF.format(model="PredictAnswer")}},
                    "application/octet-stream": {"schema": _BINARY},
                },
            },
            **{code: {"description": text, "content": _problem_content()} for code, text in _ERRORS.items()},
        },
    }


def _parameters(versioned: bool) -> list[dict[str, Any]]:
    path: list[dict[str, Any]] = [{"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}]
    if versioned:
        path.append({"name": "version", "in": "path", "required": True, "schema": {"type": "integer", "minimum": 1}})
    query = [
        {
            "name": name,
            "in": "query",
            "required": False,
            "schema": schema,
            "description": "For application/octet-stream bodies",
        }
        for name, schema in _OPTIONS
    ]
    return path + query


def _problem_content() -> dict[str, Any]:
    return {"application/problem+json": {"schema": {"$ref": _REF.format(model="Problem")}}}
