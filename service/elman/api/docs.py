"""The page at `/docs`: the OpenAPI document as plain HTML, without scripts and without anything from elsewhere."""

import json
import re
from collections.abc import Callable, Iterator
from html import escape
from typing import Any

from fastapi import APIRouter, Response

from elman.http.roles import needs

_POLICY = "default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'"
_HEADERS = {"Content-Security-Policy": _POLICY, "Referrer-Policy": "no-referrer", "Cache-Control": "no-cache"}
_HEAD = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Elman API</title>
<link rel="icon" href="playground/icon.svg">
<link rel="stylesheet" href="playground/docs.css">
</head>
<body>
"""
_REFERENCE = re.compile(r"&quot;#/components/schemas/([\w.-]+)&quot;")


def docs_router(document: Callable[[], dict[str, Any]]) -> APIRouter:
    """The route `/docs`.

    Args:
        document: gives the OpenAPI document.
    """
    router = APIRouter()

    @router.get("/docs", include_in_schema=False)
    @needs("page")
    async def docs() -> Response:
        return Response(_HEAD + "\n".join(_page(document())), headers=_HEADERS, media_type="text/html")

    return router


def _page(document: dict[str, Any]) -> Iterator[str]:
    info = document["info"]
    yield f"<h1>{escape(info['title'])} {escape(info['version'])}</h1>"
    yield f'<p>{escape(info.get("description", ""))} For programs: <a href="openapi.json">/openapi.json</a>.</p>'
    operations = [(path, *one) for path, item in document["paths"].items() for one in item.items()]
    for tag in dict.fromkeys(operation["tags"][0] for _, _, operation in operations):
        yield f"<h2>{escape(tag)}</h2>"
        for path, method, operation in operations:
            if operation["tags"][0] == tag:
                yield from _operation(path, method, operation)
    yield "<h2>Schemas</h2>"
    for name, schema in sorted(document["components"]["schemas"].items()):
        yield f'<details id="{escape(name)}"><summary>{escape(name)}</summary>{_schema(schema)}</details>'
    yield "</body></html>"


def _operation(path: str, method: str, operation: dict[str, Any]) -> Iterator[str]:
    summary = f"<b>{method.upper()}</b> <code>{escape(path)}</code> {escape(operation.get('summary', ''))}"
    yield f"<details><summary>{summary}</summary>"
    yield f"<p>{escape(operation.get('description', ''))}</p>"
    for one in operation.get("parameters", ()):
        about = escape(one.get("description") or one["schema"].get("description", ""))
        yield f"<h3><code>{escape(one['name'])}</code> in the {one['in']}</h3><p>{about}</p>{_schema(one['schema'])}"
    for kind, content in operation.get("requestBody", {}).get("content", {}).items():
        yield f"<h3>Body: {escape(kind)}</h3>{_schema(content.get('schema', {}))}"
    for status, response in operation["responses"].items():
        yield f"<h3>Answer: {escape(status)}</h3><p>{escape(response['description'])}</p>"
        for kind, content in response.get("content", {}).items():
            yield f"<p>{escape(kind)}</p>{_schema(content.get('schema', {}))}"
    yield "</details>"


def _schema(schema: dict[str, Any]) -> str:
    """A schema as JSON, with links to those that it refers to."""
    text = _REFERENCE.sub(r'<a href="#\1">\1</a>', escape(json.dumps(schema, indent=2)))
    return f"<pre>{text}</pre>"
