"""Requests, errors and proxies of httpx as httpcore, on which it is built, has them."""

import contextlib
from collections.abc import Iterator

import httpcore
import httpx

# Seconds. The server closes a connection after five idle seconds. The client closes it sooner, so that it never sends a
# request on a connection that is just being closed.
KEEPALIVE = 4.0


def core_url(url: httpx.URL) -> httpcore.URL:
    return httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)


def core_request(request: httpx.Request) -> httpcore.Request:
    return httpcore.Request(
        method=request.method,
        url=core_url(request.url),
        headers=request.headers.raw,
        content=request.stream,
        extensions=request.extensions,
    )


def core_proxy(address: str | None) -> httpcore.Proxy | None:
    if address is None:
        return None
    proxy = httpx.Proxy(address)
    return httpcore.Proxy(core_url(proxy.url), auth=proxy.raw_auth)


@contextlib.contextmanager
def as_httpx() -> Iterator[None]:
    """Raise the errors of httpcore as those of httpx, which have the same names."""
    try:
        yield
    except (httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError) as error:
        kind: type[httpx.TransportError] = getattr(httpx, type(error).__name__)
        raise kind(str(error)) from error
    except httpcore.UnsupportedProtocol as error:
        raise httpx.UnsupportedProtocol(str(error)) from error
