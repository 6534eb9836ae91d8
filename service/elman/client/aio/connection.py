"""One connection of the asynchronous client."""

import ssl
from collections.abc import AsyncIterable, AsyncIterator
from typing import Any, cast

import httpcore
import httpx

from elman.client.bridge import KEEPALIVE, as_httpx, core_proxy, core_request


class Connection(httpx.AsyncBaseTransport):
    """A connection, as a transport of httpx for one request at a time. It is opened when it is needed.

    It is used again only if the request before was answered to the end, and replaced otherwise. A pool of httpcore
    would keep a connection that a cancelled call had not opened yet, and wait for it forever.
    """

    def __init__(self, tls: ssl.SSLContext, proxy: str | None) -> None:
        # It holds no connection: it only knows how one is made, with and without a proxy.
        self._maker = httpcore.AsyncConnectionPool(ssl_context=tls, proxy=core_proxy(proxy), keepalive_expiry=KEEPALIVE)
        self._current: httpcore.AsyncConnectionInterface | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        sent = core_request(request)
        with as_httpx():
            response = await (await self._usable(sent.url.origin)).handle_async_request(sent)
        return httpx.Response(
            response.status, headers=response.headers, stream=_Body(response), extensions=response.extensions
        )

    async def _usable(self, origin: httpcore.Origin) -> httpcore.AsyncConnectionInterface:
        """The connection of the request before, or a new one."""
        if self._current is None or not self._current.is_idle() or self._current.has_expired():
            await self.aclose()
            self._current = self._maker.create_connection(origin)
        return self._current

    async def aclose(self) -> None:
        closed, self._current = self._current, None
        if closed is not None:
            await closed.aclose()


class _Body(httpx.AsyncByteStream):
    def __init__(self, response: httpcore.Response) -> None:
        self._response = response

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with as_httpx():
            async for part in cast(AsyncIterable[Any], self._response.stream):
                yield part

    async def aclose(self) -> None:
        await self._response.aclose()
