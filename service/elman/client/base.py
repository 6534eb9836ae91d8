"""What both senders share: the settings of a client, and requests made of calls."""

import os
import ssl
from base64 import b64encode
from functools import lru_cache
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

import httpx

from elman import __version__
from elman.client.calls import Call, CallFactory
from elman.client.config import Batching, Retries, Timeout
from elman.client.deadline import Deadline
from elman.client.errors import TimedOut
from elman.proxies import check_address, check_key, proxy_for, shown, way_to

T = TypeVar("T")


def _tls(url: str, verify: ssl.SSLContext | None) -> ssl.SSLContext:
    """The TLS context to use. For plain http it is empty, since loading certificates takes time."""
    if verify is not None:
        return verify
    return httpx.create_ssl_context() if url.startswith("https") else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


_ACCEPTED = {"accept": "*/*", "accept-encoding": "gzip, deflate"}
# Most calls of a client go to a few addresses.
_url = lru_cache(maxsize=64)(httpx.URL)


class SenderBase:
    """The settings of a client, and how they turn a call into a request."""

    def __init__(
        self,
        url: str | None,
        api_key: str | None,
        timeout: Timeout | float,
        retries: Retries,
        batching: Batching,
        verify: ssl.SSLContext | None,
        transport: httpx.BaseTransport | httpx.AsyncBaseTransport | None,
    ) -> None:
        url = os.environ.get("ELMAN_URL") or "http://localhost:8000" if url is None else url
        api_key = (os.environ.get("ELMAN_API_KEY") if api_key is None else api_key) or None
        check_address(url)
        try:
            base = httpx.URL(url)
        except httpx.InvalidURL as error:
            raise ValueError(f"{shown(url)!r} is not the address of a server: {error}") from None
        # The user and the password in it are sent in a header, and shown nowhere.
        self.url = str(base.copy_with(userinfo=b"")).rstrip("/")
        self._given_url = url
        self.tls = _tls(self.url, verify)
        self.proxy = proxy_for(self.url)
        # What messages call it. A transport of the caller's own goes its own way.
        self.target = self.url if transport is not None else way_to(self.url)
        self.api_key = api_key
        self._verify, self._transport = verify, transport
        self.timeout = Timeout().override(timeout)
        self.retries = retries
        self.batching = batching
        self.headers = {"user-agent": f"elman/{__version__}"}
        if api_key is not None:
            check_key(api_key)
            self.headers["authorization"] = f"Bearer {api_key}"
        if base.userinfo:
            given = f"{base.username}:{base.password}".encode()
            self.headers["authorization"] = f"Basic {b64encode(given).decode()}"

    def __reduce__(self) -> tuple[Any, ...]:
        if self._verify is not None or self._transport is not None:
            raise TypeError(
                "a client with its own TLS context or transport cannot be pickled; make another one with it, and find "
                "sessions there by their ids"
            )
        return type(self), (self._given_url, self.api_key, self.timeout, self.retries, self.batching, None, None)

    def deadline(self, timeout: Timeout | float | None) -> Deadline:
        """The deadline of a call that begins now."""
        return Deadline(self.timeout.override(timeout).total)

    def make(self, factory: CallFactory[T], deadline: Deadline) -> Call[T]:
        """Make one call of a list. Raises TimedOut if the deadline of the list has passed."""
        if not deadline.remaining:
            raise TimedOut(f"the list took longer than {deadline.total:g} s")
        return factory()

    def silence(self, call: Call[Any], deadline: Deadline) -> float:
        """How many seconds an attempt may be silent before it is given up."""
        return self.timeout.override(call.timeout).silence(deadline.remaining)

    def request(self, call: Call[Any], deadline: Deadline) -> httpx.Request:
        """A call as a transport of httpx sends it, with limits for one attempt."""
        timeout, left = self.timeout.override(call.timeout), max(deadline.remaining, 1e-3)
        limits = {
            "connect": min(timeout.connect, left),
            "read": timeout.silence(left),
            "write": min(timeout.write, left),
            "pool": left,
        }
        query = f"?{urlencode(call.query, quote_via=quote)}" if call.query else ""
        return httpx.Request(
            call.method,
            _url(f"{self.url}{call.path}{query}"),
            headers={**_ACCEPTED, **self.headers, **call.headers},
            content=call.content,
            extensions={"timeout": limits},
        )

    def websocket_options(self, deadline: Deadline) -> dict[str, Any]:
        """The arguments of `connect` of the package websockets."""
        return {
            "additional_headers": self.headers,
            "user_agent_header": None,
            "open_timeout": max(1e-3, min(self.timeout.connect, deadline.remaining)),
            "close_timeout": 1.0,
            "max_size": None,
            "compression": None,
            "proxy": self.proxy,
            "ssl": self.tls if self.url.startswith("https") else None,
        }
