"""URLs of stores: what they mean, which are refused, and that none of them is told to anybody."""

from typing import Any

import pytest
import redis
import typer
from pydantic import ValidationError
from redis.connection import SSLConnection
from redis.exceptions import ConnectionError
from redis.sentinel import SentinelConnectionPool, SentinelManagedSSLConnection

from elman.cli.jobs.given_settings import settings_from
from elman.sessions.stores.redis import RedisStore
from elman.sessions.stores.redis.address import connect
from elman.sessions.stores.redis.store import RefusedStore
from elman.settings import Settings


def pool_of(url: str) -> Any:
    client = connect(url)
    assert isinstance(client, redis.Redis)
    return client.connection_pool


def test_a_url_is_one_of_redis_py_with_short_time_outs_and_without_its_retries() -> None:
    pool = pool_of("redis://user:p%40ss@here:7000/3")
    options = pool.connection_kwargs
    assert (options["host"], options["port"], options["db"]) == ("here", 7000, 3)
    assert (options["username"], options["password"]) == ("user", "p@ss")
    assert options["socket_timeout"] == options["socket_connect_timeout"] == 0.3
    assert options["retry"].get_retries() == 0


def test_the_query_changes_what_redis_py_takes() -> None:
    pool = pool_of("rediss://here?socket_timeout=2&ssl_ca_certs=/ca.pem")
    assert issubclass(pool.connection_class, SSLConnection)
    assert (pool.connection_kwargs["socket_timeout"], pool.connection_kwargs["ssl_ca_certs"]) == (2.0, "/ca.pem")


def test_sentinel_is_several_hosts_and_a_service() -> None:
    url = "rediss+sentinel://user:secret@one:1,[::1]:2,three/main/4?sentinel_password=other&socket_timeout=1"
    pool = pool_of(url)
    assert isinstance(pool, SentinelConnectionPool) and issubclass(pool.connection_class, SentinelManagedSSLConnection)
    options = pool.connection_kwargs
    assert (pool.service_name, options["db"], options["password"], options["socket_timeout"]) == (
        "main",
        4,
        "secret",
        1,
    )
    known = [one.connection_pool.connection_kwargs for one in pool.sentinel_manager.sentinels]
    assert [(one["host"], one["port"]) for one in known] == [("one", 1), ("::1", 2), ("three", 26379)]
    assert all((one["password"], one["username"], one["socket_timeout"]) == ("other", None, 1) for one in known)
    assert all(one["retry"].get_retries() == 0 for one in known)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("lmbd", "a store is lmdb, memory, or a URL"),
        ("http://:secret@here", "no store is reached by http://"),
        ("redis://:secret@", "names no host"),
        ("unix://", "names no host"),
        ("redis+sentinel://:secret@here", "name of its service"),
    ],
)
def test_what_is_no_store_is_refused_without_its_password(
    url: str, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ValidationError, match=reason) as refused:
        Settings(store=url)
    assert "secret" not in str(refused.value)
    with pytest.raises(typer.Exit):
        settings_from({"store": url})
    told = capsys.readouterr().err
    assert reason in told and "secret" not in told


def test_settings_do_not_show_the_url_of_their_store() -> None:
    settings = Settings(store="redis://:secret@here")
    assert settings.is_remote and "secret" not in repr(settings)
    assert settings.environment()["ELMAN_STORE"] == "redis://:secret@here"


@pytest.mark.parametrize(
    "url", ["redis://:secret/half@here", "redis://:secret@here:port", "redis://:secret@here?socket_timeout=soon"]
)
def test_a_url_that_redis_py_does_not_take_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(RefusedStore, match="URL of the session store is wrong") as refused:
        RedisStore(url)
    assert "secret" not in str(refused.value) and not isinstance(refused.value.__context__, ConnectionError)
