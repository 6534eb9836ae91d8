"""The URL of a store, as clients of redis-py."""

from typing import Any
from urllib.parse import urlsplit

import redis
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode, RedisCluster
from redis.connection import parse_url
from redis.retry import Retry
from redis.sentinel import Sentinel

# Seconds to connect, and to wait for a reply. Longer ones may be given in the URL.
TIMEOUT = 0.3
_PORT, _SENTINEL_PORT = 6379, 26379


def connect(url: str) -> "redis.Redis | RedisCluster":
    """A client of the server, of the primary that Sentinel knows, or of the cluster, at a URL.

    `redis://[USER:PASSWORD@]HOST[:PORT][/DB]`, `rediss://` with TLS and `unix://PATH` are redis-py's own.
    `redis+sentinel://...@HOST[:PORT],HOST.../SERVICE[/DB]` and `redis+cluster://...@HOST[:PORT],HOST...` list several
    hosts; with `rediss+` they use TLS. The query has redis-py's options, such as `ssl_ca_certs` and `socket_timeout`,
    and for Sentinel's own user `sentinel_username` and `sentinel_password`.

    Raises ValueError, without the URL, where it is wrong; and what redis-py raises where a cluster cannot be reached.
    """
    scheme, _, rest = url.partition("://")
    transport, _, kind = scheme.partition("+")
    own = {
        "socket_timeout": TIMEOUT,
        "socket_connect_timeout": TIMEOUT,
        # redis-py would send a command again whose reply was lost. Only scripts that know what they have done may be.
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,
    }
    if not kind:
        return redis.Redis(connection_pool=redis.ConnectionPool.from_url(url, **own))
    place, question, query = rest.partition("?")
    netloc, _, path = place.partition("/")
    user, at, hosts = netloc.rpartition("@")
    service, _, db = path.partition("/")
    options = {**own, **parse_url(f"{transport}://{user}{at}host/{db}{question}{query}")}
    options.pop("host")
    if options.pop("connection_class", None) is not None:
        options["ssl"] = True
    if kind == "cluster":
        nodes = [ClusterNode(*_host_of(one, _PORT)) for one in hosts.split(",")]
        return RedisCluster(startup_nodes=nodes, **options)
    sentinel_options: dict[str, Any] = {
        **{name: value for name, value in options.items() if name.startswith(("socket_", "ssl", "retry", "protocol"))},
        "username": options.pop("sentinel_username", None),
        "password": options.pop("sentinel_password", None),
    }
    sentinels = [_host_of(one, _SENTINEL_PORT) for one in hosts.split(",")]
    primary: redis.Redis = Sentinel(sentinels, sentinel_kwargs=sentinel_options, **options).master_for(service)
    return primary


def _host_of(text: str, port: int) -> tuple[str, int]:
    found = urlsplit(f"//{text}")
    if not found.hostname:
        raise ValueError("a host in the URL of the store is empty")
    return found.hostname, found.port or port
