"""The page at `/`, its files, and the charting library from where its Python package is installed."""

import asyncio
import gzip
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from importlib import resources
from importlib.resources.abc import Traversable
from importlib.util import find_spec
from pathlib import Path

from fastapi import APIRouter, Request, Response

from elman.errors import UnknownRoute

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}

_POLICY = "; ".join(
    (
        "default-src 'self'",
        # The charting library writes its rules into a <style> element, and draws heatmaps as data: and blob: images.
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "object-src 'none'",
        "base-uri 'none'",
        "form-action 'self'",
        "frame-ancestors 'self'",
    )
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Vary": "Accept-Encoding",
}

# The page's own files change with the server, under the same names: they are asked for again, and answered by 304.
_REVALIDATE = "no-cache"
# The charting library is megabytes, and changes when its package does: 30 days.
_KEEP = "public, max-age=2592000"
# Bytes below which compressing is not worth a header.
_SMALL = 1024


@dataclass(frozen=True)
class Asset:
    """One file as it is sent: its bytes, the same compressed, and the tag of its content."""

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
    """`/` and `/playground/...`; nothing is read before it is asked for."""
    router = APIRouter(tags=["playground"])

    @router.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
    async def page(request: Request) -> Response:
        return _send(request, _assets()["index.html"], _REVALIDATE)

    @router.get("/playground/vendor/plotly.min.js", response_class=Response)
    async def charting_library(request: Request) -> Response:
        """The charting library of the page, from its Python package."""
        asset = await asyncio.to_thread(_plotly)
        if asset is None:
            raise UnknownRoute("the Python package plotly is not installed", expected="pip install 'elman[server]'")
        return _send(request, asset, _KEEP)

    @router.get("/playground/{path:path}", response_class=Response)
    async def page_file(request: Request, path: str) -> Response:
        """A file of the page."""
        asset = _assets().get(path)
        if asset is None:
            raise UnknownRoute("the page has no such file", expected=sorted(_assets()))
        return _send(request, asset, _REVALIDATE)

    return router


def _send(request: Request, asset: Asset, caching: str) -> Response:
    """The file, compressed for those who take it so, or 304 where the browser has it already."""
    compressed = asset.compressed if "gzip" in request.headers.get("accept-encoding", "") else None
    tag = f'"{asset.tag}-gzip"' if compressed else f'"{asset.tag}"'
    headers = {**_HEADERS, "Cache-Control": caching, "ETag": tag}
    if tag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    if compressed is None:
        return Response(asset.content, headers=headers, media_type=asset.media_type)
    return Response(compressed, headers={**headers, "Content-Encoding": "gzip"}, media_type=asset.media_type)


@lru_cache(1)
def _assets() -> dict[str, Asset]:
    """The page's files by name. A name that is not among them is no file of the page, whatever it leads to."""
    files: list[Traversable] = list(resources.files("elman.playground").iterdir())
    return {
        one.name: Asset.of(one.name, one.read_bytes()) for one in files if one.name[one.name.rfind(".") :] in _TYPES
    }


@lru_cache(1)
def _plotly() -> Asset | None:
    # Found without being imported, which would take a second and tens of megabytes.
    found = find_spec("plotly")
    for folder in found.submodule_search_locations or () if found is not None else ():
        path = Path(folder) / "package_data" / "plotly.min.js"
        if path.is_file():
            return Asset.of(path.name, path.read_bytes())
    return None
