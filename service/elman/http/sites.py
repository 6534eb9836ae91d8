"""Which web pages may call the server: checks of Host, Origin and Sec-Fetch-Site.

A browser on the same machine or network sends whatever requests a page tells it to. So a server without keys would be
open to each page that somebody there looks at.
"""

from collections.abc import Iterable, Mapping
from ipaddress import ip_address

from elman.errors import Forbidden, UnsupportedMediaType
from elman.http.short import cache_short

HEALTH = frozenset({"/livez", "/readyz", "/v2/health/live", "/v2/health/ready"})
"""Paths of health checks. They are answered under any name, since a probe uses the address of the machine."""

_SAFE_METHODS = frozenset({b"GET", b"HEAD", b"OPTIONS"})
_OWN_SITES = frozenset({b"", b"none"})
_BODY_TYPES = frozenset({b"application/json", b"application/octet-stream"})
_DEFAULT_PORTS = {b"http": b":80", b"https": b":443"}


class Sites:
    """The hosts under whose names the server may be called, and the origins whose pages may call it."""

    def __init__(self, hosts: Iterable[str], origins: Iterable[str]) -> None:
        """Without `hosts`, any host is allowed. Local names always are: a page cannot have one of its own."""
        self._hosts = tuple(host.lower() for host in hosts)
        self.origins = tuple(origin.lower() for origin in origins)
        self._is_allowed_host = cache_short(self._find_host)

    def check(self, method: bytes, path: str, headers: Mapping[bytes, bytes], *, upgrade: bool = False) -> None:
        """Check the head of a request. Raises Forbidden and UnsupportedMediaType."""
        host = headers.get(b"host", b"")
        if self._hosts and host and path not in HEALTH and not self._is_allowed_host(host):
            raise Forbidden(
                "the server is not called by this name; ELMAN_ALLOWED_HOSTS lists those that it answers to",
                where="header Host",
            )
        # Only browsers send these two fields.
        if (b"origin" in headers or b"sec-fetch-site" in headers) and (upgrade or method not in _SAFE_METHODS):
            self._check_page(host, headers, upgrade)

    def _check_page(self, host: bytes, headers: Mapping[bytes, bytes], upgrade: bool) -> None:
        """Check a request that changes something, or a handshake."""
        origin, site = headers.get(b"origin"), headers.get(b"sec-fetch-site", b"").lower()
        if origin is None and not site:
            return
        # The browser itself says same-origin, also behind a proxy that names the server otherwise.
        allowed = site == b"same-origin" or (origin is not None and self._is_allowed_origin(origin))
        if not allowed and (site not in _OWN_SITES or (origin is not None and not _is_same(origin, host))):
            raise Forbidden(
                "a web page of another origin may not call this server; ELMAN_CORS_ORIGINS lists those that may",
                where="header Sec-Fetch-Site" if origin is None else "header Origin",
            )
        kind = headers.get(b"content-type", b"").split(b";")[0].strip().lower()
        if not upgrade and _has_body(headers) and kind not in _BODY_TYPES:
            raise UnsupportedMediaType(
                "a browser sent a body of another type", where="header Content-Type", expected="application/json"
            )

    def _is_allowed_origin(self, origin: bytes) -> bool:
        return "*" in self.origins or origin.decode("latin-1").lower() in self.origins

    def _find_host(self, host: bytes) -> bool:
        """True if a Host, with or without a port, is allowed."""
        name = host.decode("latin-1").lower()
        if ":" in name.rpartition("]")[2]:
            name = name.rpartition(":")[0]
        name = name.removesuffix(".")
        local = is_loopback(name) or not set(".:") & set(name)  # no public name is without a dot
        return local or any(
            one in ("*", name) or (one.startswith("*.") and name.endswith(one[1:])) for one in self._hosts
        )


def is_loopback(host: str) -> bool:
    """True if a name or address can only mean this machine."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ip_address(host.removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:
        return False


def _is_same(origin: bytes, host: bytes) -> bool:
    """True if an Origin, such as `https://example.com`, is that of the Host. A proxy may have ended TLS."""
    scheme, _, address = origin.lower().partition(b"://")
    port = _DEFAULT_PORTS.get(scheme, b"")
    return bool(address) and host.lower() in (address, address + port)


def _has_body(headers: Mapping[bytes, bytes]) -> bool:
    return b"transfer-encoding" in headers or headers.get(b"content-length", b"0").strip(b"0") != b""
