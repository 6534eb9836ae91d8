"""The page at `/`, and its files."""

import gzip
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from importlib import resources
from importlib.resources.abc import Traversable

from fastapi import APIRouter, Request, Response

from elman.errors import UnknownRoute
from elman.http.roles import needs

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}

_POLICY = "; ".join(
    (
        "default-src 'self'",
        "object-src 'none'",
        "base-uri 'none'",
        "form-action 'self'",
        "frame-ancestors 'self'",
    )
)
_HEADERS = {
    # The files can change with each version of the server, so browsers ask again and usually get a 304.
    "Cache-Control": "no-cache",
    "Content-Security-Policy": _POLICY,
    "Referrer-Policy": "no-referrer",
    "Vary": "Accept-Encoding",
}

# Files of fewer bytes are not compressed.
_SMALL = 1024


@dataclass(frozen=True)
class Asset:
    """One file: its bytes, the same bytes compressed, and a tag that changes with its content."""

    content: bytes
    compressed: bytes | None
    media_type: str
    tag: str

    @classmethod
    def of(cls, name: str, content: bytes) -> "Asset":
        small = len(content) < _SMALL
        return cls(
            content=content,
            compressed=None if small else gzip.compress(content, mtime=0),
            media_type=_TYPES[name[name.rindex(".") :]],
            tag=sha256(content).hexdigest()[:20],
        )


def playground_router() -> APIRouter:
    """The routes `/` and `/playground/...`. Files are read at the first request."""
    router = APIRouter(tags=["playground"])

    @router.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
    @needs("page")
    async def page(request: Request) -> Response:
        return _send(request, _assets()["index.html"])

    @router.get("/playground/{path:path}", response_class=Response)
    @needs("page")
    async def page_file(request: Request, path: str) -> Response:
        """A file of the page."""
        asset = _assets().get(path)
        if asset is None:
            raise UnknownRoute("the page has no such file", expected=sorted(_assets()))
        return _send(request, asset)

    return router


def _send(request: Request, asset: Asset) -> Response:
    """The file, compressed if the client accepts gzip, or 304 if the browser has it already."""
    compressed = asset.compressed if "gzip" in request.headers.get("accept-encoding", "") else None
    tag = f'"{asset.tag}-gzip"' if compressed else f'"{asset.tag}"'
    headers = {**_HEADERS, "ETag": tag}
    if tag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    if compressed is None:
        return Response(asset.content, headers=headers, media_type=asset.media_type)
    return Response(compressed, headers={**headers, "Content-Encoding": "gzip"}, media_type=asset.media_type)


@lru_cache(1)
def _assets() -> dict[str, Asset]:
    """The page's files by name. Only these names are served, so a path such as `../x` finds nothing."""
    files: list[Traversable] = list(resources.files("elman.playground").iterdir())
    return {
        one.name: Asset.of(one.name, one.read_bytes()) for one in files if one.name[one.name.rfind(".") :] in _TYPES
    }
