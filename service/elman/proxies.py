"""Which proxy a request to a server goes through, as the environment says."""

from ipaddress import ip_address
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass


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
