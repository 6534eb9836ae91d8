"""The OpenAPI document: FastAPI's own routes, and the endpoints that FastAPI does not route.

Bodies and query options come from `elman.codec.requests`, with their bounds.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import Any

import msgspec
from fastapi import FastAPI
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from elman.api.schemas import (
    ForecastAnswer,
    GenerateAnswer,
    InferAnswer,
    InfluenceAnswer,
    PredictAnswer,
    Problem,
    StepsAnswer,
    TimeSeriesAnswer,
    TokenEvent,
)
from elman.codec.infer_json import InferBody
from elman.codec.requests import (
    AnySequence,
    AnySeries,
    AnyStatics,
    ForecastRequest,
    GenerateRequest,
    InfluenceRequest,
    NewSession,
    PredictQuery,
    PredictRequest,
    StepsQuery,
    StepsRequest,
    StreamQuery,
    Together,
    TwoSteps,
)
from elman.codec.timeseries import SERIES_ROWS, TimeSeriesRequest
from elman.http.roles import OPEN_TO_ALL, RouteTable
from elman.settings import Settings

_REF = "#/components/schemas/{model}"
_NAMED = _REF.format(model="{name}")
_JSON = "application/json"
_OCTETS = "application/octet-stream"
_EVENTS = "text/event-stream"
_PROBLEM = "application/problem+json"

_BINARY = {"type": "string", "format": "binary", "contentMediaType": _OCTETS}
_STRING = {"type": "string"}
_VERSION = {"type": "integer", "minimum": 1}
# What the data of each kind of server-sent event is. An event without a name is a message.
_EVENT: dict[str, Any] = {
    "type": "object",
    "required": ["data"],
    "oneOf": [
        {
            "properties": {
                "event": {"enum": [name]},
                "data": {
                    "type": "string",
                    "contentMediaType": _JSON,
                    "contentSchema": {"$ref": _REF.format(model=model.__name__)},
                },
            }
        }
        for name, model in (("message", TokenEvent), ("done", GenerateAnswer), ("error", Problem))
    ],
}

_EXAMPLES: dict[str, dict[str, Any]] = {
    "PredictRequest": {"sequence": [[0.1, 0.2], [0.3, 0.4]], "return": "final"},
    "StepsRequest": {"sequence": [[0.1, 0.2], [0.3, 0.4]], "at": 0},
    "GenerateRequest": {"prompt": "Mc", "max_steps": 20, "seed": 1},
    "ForecastRequest": {"series": [5.0, 11.0, 16.0], "horizon": 10},
    "InferBody": {
        "inputs": [{"name": "input", "shape": [1, 2, 2], "datatype": "FP32", "data": [0.1, 0.2, 0.3, 0.4]}],
        "outputs": [{"name": "final"}],
    },
}

_ERRORS = {
    "400": "Not JSON: `invalid_json`",
    "401": "`unauthorized`",
    "404": "`unknown_model`",
    "406": "`not_acceptable`",
    "408": "`body_timeout`",
    "409": "`not_streamable`",
    "413": "`too_large`, `too_long`",
    "415": "`unsupported_media_type`",
    "422": "`not_finite`, `ragged_features`, `wrong_features`, `unknown_token`, `empty_sequence`, `invalid_field`, "
    "`bad_state_token`",
    "500": "`model_failed`, `not_finite_output`, `internal`",
    "503": "`overloaded` or `draining`, with Retry-After",
    "504": "`deadline`",
}
_SESSION_ERRORS = {
    "404": "`unknown_session`, `unknown_model`",
    "409": "`step_conflict` with the session's step in `expected`, `model_changed`",
    "422": "As for predict, and `step_reused`",
    "503": "`overloaded`, `draining` or `model_loading`, with Retry-After; `store_unavailable`, `outcome_unknown`",
}

_SEQUENCE_ERRORS = {
    "400": "Not JSON: `invalid_json`; for a part of a sequence, `sequence_not_started`",
    "409": "For a part of a sequence: `not_streamable`, `step_conflict`, `model_changed`",
    "422": _ERRORS["422"] + ", `step_reused`",
    "503": _SESSION_ERRORS["503"],
}

_PREDICT = (
    "Run one sequence, or many of any lengths, and return the output after the last step (`final`) or after each step "
    "(`steps`). One sequence may also be sent as little-endian float32, row-major (int32 for token ids), with the "
    "options in the query string and a state token in the header `Elman-State`; with `Accept: "
    "application/octet-stream` the outputs come back as float32, `Elman-Shape` gives their shape, and `Elman-State` "
    "the next state token."
)
_STEPS = (
    "Run the next step or steps of a session. With `at`, the step that the client expects the session to be at, a "
    "request can be repeated safely: the same content gets the same answer, with `replayed` true, and the session does "
    "not move again. Binary bodies and answers are as for predict, with the headers `Elman-Step` and `Elman-Replayed`."
)
_GENERATE = (
    "Generate tokens from a prompt, a session or a state token. With `stream`, the answer is server-sent events: one "
    "for each token, `{sample, token, text}`, then `done` with the whole answer, or `error` with a problem."
)
_FORECAST = (
    "Continue a series, or many in one request: the model's output is its next input. Sampled paths give the mean and "
    "quantiles of each step."
)
_INFER = (
    "Infer, as the Open Inference Protocol has it. Tensors are JSON, or bytes after the JSON, whose length is then in "
    "the header `Inference-Header-Content-Length`. If that is 0, the body is one row of the model's only input. "
    "Bodies may be compressed with gzip or deflate."
)
_TIME_SERIES = "Forecast many series, in the words of KServe's time series protocol."
_INFLUENCE = "Leave out each step in turn, and report how far the last output changes."


@dataclass(frozen=True)
class _Operation:
    """One endpoint: the types of its JSON body, of its answer, and of its query string."""

    path: str
    verb: str
    tag: str
    description: str
    body: Any
    answer: type[BaseModel]
    query: type[msgspec.Struct] | None = None
    octets: bool = False
    events: bool = False
    errors: tuple[tuple[str, str], ...] = ()

    def describe(self, versioned: bool) -> dict[str, Any]:
        formats = {_JSON: {"schema": {"$ref": _REF.format(model=_name(self.body))}}}
        answers = {_JSON: {"schema": {"$ref": _REF.format(model=self.answer.__name__)}}}
        if self.octets:
            formats[_OCTETS] = answers[_OCTETS] = {"schema": _BINARY}
        if self.events:
            answers[_EVENTS] = {"schema": _EVENT}
        errors = {**_ERRORS, **dict(self.errors)}
        return {
            "tags": [self.tag],
            "summary": self.verb.capitalize(),
            "operationId": f"{self.verb}_version" if versioned else self.verb,
            "description": self.description,
            "parameters": self._parameters(versioned),
            "requestBody": {"required": True, "content": formats},
            "responses": {
                "200": {"description": "The answer", "content": answers},
                **{code: {"description": text, "content": _problem_content()} for code, text in errors.items()},
            },
        }

    def _parameters(self, versioned: bool) -> list[dict[str, Any]]:
        path: list[tuple[str, dict[str, Any]]] = [
            (name, _STRING) for name in ("name", "id") if f"{{{name}}}" in self.path
        ]
        path += [("version", _VERSION)] if versioned else []
        note = {"description": f"For {_OCTETS} bodies"}
        return [
            *({"name": name, "in": "path", "required": True, "schema": schema} for name, schema in path),
            *({**one, **note} for one in _query(self.query)),
        ]


_OPERATIONS = (
    _Operation(
        "/v1/models/{name}/predict",
        "predict",
        "predict",
        _PREDICT,
        PredictRequest[AnySequence, AnyStatics],
        PredictAnswer,
        PredictQuery,
        octets=True,
    ),
    _Operation(
        "/v1/models/{name}/generate",
        "generate",
        "autoregressive",
        _GENERATE,
        GenerateRequest[AnyStatics],
        GenerateAnswer,
        events=True,
        errors=(("409", "`cannot_generate`"), ("404", "`unknown_model`, `unknown_session`")),
    ),
    _Operation(
        "/v1/models/{name}/forecast",
        "forecast",
        "autoregressive",
        _FORECAST,
        ForecastRequest[AnySeries, AnyStatics],
        ForecastAnswer,
        errors=(("409", "`cannot_forecast`"), ("404", "`unknown_model`, `unknown_session`")),
    ),
    _Operation(
        "/v1/timeseries/forecast",
        "time_series",
        "autoregressive",
        _TIME_SERIES,
        TimeSeriesRequest,
        TimeSeriesAnswer,
        errors=(("409", "`cannot_forecast`"), ("404", "`unknown_model`")),
    ),
    _Operation(
        "/v1/models/{name}/influence",
        "influence",
        "autoregressive",
        _INFLUENCE,
        InfluenceRequest[TwoSteps, AnyStatics],
        InfluenceAnswer,
    ),
    _Operation(
        "/v2/models/{name}/infer",
        "infer",
        "open inference protocol",
        _INFER,
        InferBody,
        InferAnswer,
        octets=True,
        errors=tuple(_SEQUENCE_ERRORS.items()),
    ),
    _Operation(
        "/v1/sessions/{id}/steps",
        "step",
        "sessions",
        _STEPS,
        StepsRequest[AnySequence],
        StepsAnswer,
        StepsQuery,
        octets=True,
        errors=tuple(_SESSION_ERRORS.items()),
    ),
)
_STREAM = (
    "A WebSocket for one session; each frame is a steps request. The server first sends `{session, model, version, "
    "step}`. A text frame holds a body as for the steps route, and its answer is a text frame. A binary frame holds "
    "float32 steps (int32 for token ids), and its answer is float32 outputs. A refused frame is answered with a "
    "problem. If the client does not read its answers, the server stops reading and later closes with 1008. It closes "
    "with 1001 when it stops, and with 1013 if too many streams are open."
)


def document(app: FastAPI, table: RouteTable, settings: Settings) -> Callable[[], dict[str, Any]]:
    """A function that makes the application's document at its first call and then returns the same one."""
    original = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _complete(original(), table, settings)
        return app.openapi_schema

    return openapi


def _complete(schema: dict[str, Any], table: RouteTable, settings: Settings) -> dict[str, Any]:
    """Add the endpoints, the streams, the scheme of API keys, and the role that each route needs."""
    components = schema.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    _, answers = models_json_schema(
        [(one, "serialization") for one in (*(one.answer for one in _OPERATIONS), TokenEvent, Problem)],  # type: ignore[misc]
        by_alias=True,
        ref_template=_REF,
    )
    for name, definition in (*answers["$defs"].items(), *_bodies().items()):
        schemas.setdefault(name, definition)
    for one in _OPERATIONS:
        schema["paths"][one.path] = {"post": one.describe(versioned=False)}
        if "{name}" in one.path:
            schema["paths"][_versioned(one.path)] = {"post": one.describe(versioned=True)}
    for path, item in schema["paths"].items():
        if path.startswith("/v2"):
            _describe_errors(item)
    path = "/v1/models/{name}/stream"
    schema["paths"][path] = {"get": _stream(versioned=False)}
    schema["paths"][_versioned(path)] = {"get": _stream(versioned=True)}
    for body in ("NewSession", "ForkBody"):
        for kind in schemas[body]["properties"]["ttl"]["anyOf"]:
            if kind["type"] == "number":
                kind |= {"exclusiveMinimum": 0, "maximum": settings.max_session_ttl}
    # Keys are optional: a server without any needs none.
    components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    for path, item in schema["paths"].items():
        for method, operation in item.items():
            need = table.need(method.upper(), path)
            if need not in OPEN_TO_ALL:
                operation["security"] = [{"key": [] if need == "key" else [need]}, {}]
    return schema


def _name(kind: Any) -> str:
    """The name of a body in the document: its class, without the type of its sequences."""
    name: str = getattr(kind, "__origin__", kind).__name__
    return name


@lru_cache(1)
def _bodies() -> dict[str, dict[str, Any]]:
    """The JSON schema of each body."""
    bodies: dict[str, dict[str, Any]] = {}
    kinds = [*(one.body for one in _OPERATIONS), NewSession[AnyStatics]]
    for body in kinds:
        _, parts = msgspec.json.schema_components([body], ref_template=_NAMED)
        name = _name(body)
        # msgspec adds the types of a generic class to its name.
        own = next(part for part in parts if part.startswith(name))
        bodies[name] = {**parts.pop(own), "title": name}
        bodies |= parts
        if name in _EXAMPLES:
            bodies[name]["example"] = _EXAMPLES[name]
    for body in (getattr(kind, "__origin__", kind) for kind in kinds):
        rules = [*_together(body, bodies[body.__name__]), *_beams(body)]
        if rules:
            bodies[body.__name__]["allOf"] = rules
    by_type = [
        {"properties": {"type": {"enum": [name]}, "series": {"items": row}}} for name, row in SERIES_ROWS.items()
    ]
    bodies["TimeSeriesInput"]["anyOf"] = by_type
    bodies["TimeSeriesOptions"]["anyOf"] = [
        {"properties": {"quantiles": {"enum": [None, []]}}},
        {"properties": {"samples": {"not": {"enum": [0]}}}},
    ]
    bodies["ForecastRequest"]["anyOf"] = [
        {"properties": {"quantiles": {"enum": [None, []]}}},
        {"properties": {"samples": {"minimum": 1}}, "required": ["samples"]},
    ]
    # Binary tensors are not described by the JSON alone.
    bodies["InputBody"]["required"].append("data")
    return bodies


def _together(kind: Any, schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Which fields a request gives together."""
    choices: Together = getattr(kind, "together", ())
    if not choices:
        return
    null = {"type": "null"}
    nullable = {name: null in schema["properties"][name].get("anyOf", ()) for name in chain(*choices)}
    absent = {name: null if may_be else False for name, may_be in nullable.items()}
    given = {name: {"not": null} if may_be else True for name, may_be in nullable.items()}
    yield {
        "anyOf": [
            {"required": list(names), "properties": absent | {name: given[name] for name in names}} for names in choices
        ]
    }


def _beams(kind: Any) -> Iterator[dict[str, Any]]:
    """The fields that have a meaning with beams only, or without them only."""
    if kind is not GenerateRequest:
        return
    defaults: GenerateRequest[Any] = GenerateRequest()
    drawing, searching = (
        {name: {"enum": [getattr(defaults, name)]} for name in names} for names in (kind.drawing, kind.searching)
    )
    yield {
        "anyOf": [
            {"properties": {"num_beams": {"maximum": 1}, **searching}},
            {"required": ["num_beams"], "properties": {"num_beams": {"minimum": 2}, **drawing}},
        ]
    }


def _query(kind: type[msgspec.Struct] | None) -> list[dict[str, Any]]:
    """The options of a query string, as parameters."""
    if kind is None:
        return []
    (definition,) = msgspec.json.schema_components([kind], ref_template=_NAMED)[1].values()
    parameters = []
    for name, one in definition["properties"].items():
        # A query string has no null.
        options = [part for part in one.pop("anyOf", []) if part.get("type") != "null"]
        schema = {**one, **(options[0] if options else {})}
        if schema.get("default", 0) is None:
            del schema["default"]
        parameters.append({"name": name, "in": "query", "required": False, "schema": schema})
    return parameters


def _versioned(path: str) -> str:
    return path.replace("{name}/", "{name}/versions/{version}/")


def _stream(versioned: bool) -> dict[str, Any]:
    path: list[tuple[str, dict[str, Any]]] = [("name", _STRING)]
    path += [("version", _VERSION)] if versioned else []
    return {
        "tags": ["sessions"],
        "summary": "Stream",
        "operationId": "stream_version" if versioned else "stream",
        "description": _STREAM,
        "parameters": [
            *({"name": name, "in": "path", "required": True, "schema": schema} for name, schema in path),
            *_query(StreamQuery),
        ],
        "responses": {
            "101": {"description": "The connection is a WebSocket from here on"},
            "default": {"description": "Error", "content": _problem_content()},
        },
    }


def json_body(name: str) -> dict[str, Any]:
    """For a route that FastAPI serves and that decodes its body itself: what the document says of the body."""
    return {"requestBody": {"content": {_JSON: {"schema": {"$ref": _REF.format(model=name)}}}}}


def problem_responses() -> dict[int | str, dict[str, Any]]:
    """The error responses of the routes that FastAPI serves."""
    return {"default": {"description": "Error", "content": _problem_content()}}


def _describe_errors(item: dict[str, Any]) -> None:
    """Errors of the Open Inference Protocol are plain JSON."""
    for operation in item.values():
        for response in operation["responses"].values():
            content = response.get("content", {})
            if _PROBLEM in content:
                response["content"] = {_JSON: content[_PROBLEM]}


def _problem_content() -> dict[str, Any]:
    return {_PROBLEM: {"schema": {"$ref": _REF.format(model="Problem")}}}
