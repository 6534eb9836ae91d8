"""Addresses of servers, the keys sent to them, and the proxy on the way, as the environment says."""

import re
from ipaddress import ip_address
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass


def shown(url: str) -> str:
    """An address without the user and the password in it, for messages."""
    return re.sub(r"//[^/?#]*@", "//", url)


def way_to(url: str) -> str:
    """An address, and the proxy on the way to it if there is one, without users and passwords, for messages."""
    proxy = proxy_for(url)
    return shown(url) if proxy is None else f"{shown(url)} through the proxy {shown(proxy)}"


def reason_of(error: Exception) -> str:
    """Why no connection was made, for messages."""
    reason = str(error) or type(error).__name__
    plain = any(words in reason for words in ("WRONG_VERSION_NUMBER", "record layer failure"))
    return f"{reason}; what answers there speaks no TLS: its address may begin with http://" if plain else reason


def check_address(url: str) -> None:
    """Raise ValueError if this is not the address of a server."""
    wrong = f"{shown(url)!r} is not the address of a server, such as http://localhost:8000"
    try:
        address = urlsplit(url)
        _ = address.port
    except ValueError as error:
        raise ValueError(f"{wrong}: {error}") from None
    if address.scheme not in ("http", "https") or not address.hostname:
        raise ValueError(wrong if "://" in url or not url else f"{wrong}; write http://{url}")
    if address.query or address.fragment:
        raise ValueError(f"{wrong}: it has no ? and no #")


def check_key(api_key: str) -> None:
    """Raise ValueError if a header cannot hold this key. The key itself is not shown."""
    if not (api_key.isascii() and api_key.isprintable() and api_key == api_key.strip()):
        raise ValueError("the API key has characters that a header cannot hold; keys are of printable ASCII characters")


def proxy_for(url: str) -> str | None:
    """The proxy of HTTP_PROXY, HTTPS_PROXY or ALL_PROXY for a server, such as `http://proxy:3128`.

    None if there is none, if NO_PROXY names the server, or if it runs on this machine.
    """
    address = urlsplit(url)
    host, found = address.hostname or "", getproxies()
    proxy = found.get(address.scheme) or found.get("all")
    if proxy is None or _is_here(host) or proxy_bypass(address.netloc.rpartition("@")[2]):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def _is_here(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
