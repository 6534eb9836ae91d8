"""Every kind of store."""

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from elman.sessions.store import Store
from elman.sessions.stores.lmdb import LMDBStore
from elman.sessions.stores.memory import MemoryStore
from elman.sessions.stores.redis import RedisStore
from tests.redis_servers import redis_cluster, redis_server

STORES = ["memory", "lmdb", *(pytest.param(one, marks=pytest.mark.slow) for one in ("redis", "valkey", "cluster"))]


@pytest.fixture(scope="session")
def shared_url() -> Iterator[Callable[[str], str]]:
    """The URL of a server of a kind, empty. It is started when it is first asked for."""
    urls: dict[str, str] = {}
    with contextlib.ExitStack() as stack:

        def url_of(kind: str) -> str:
            if kind not in urls:
                started = redis_cluster() if kind == "cluster" else redis_server(kind)
                # However busy the machine is.
                urls[kind] = f"{stack.enter_context(started)}?socket_timeout=30&socket_connect_timeout=30"
            return emptied(urls[kind])

        yield url_of


def emptied(url: str) -> str:
    with contextlib.closing(RedisStore(url)) as store:
        store._client.flushall()
    return url


@pytest.fixture
def clock() -> Callable[[], float]:
    """What stores take for the time."""
    return time.time


@contextlib.contextmanager
def opened(kind: str, request: pytest.FixtureRequest, folder: Path, clock: Callable[[], float]) -> Iterator[Store]:
    """A store of a kind, empty."""
    if kind == "memory":
        made: Store = MemoryStore(clock)
    elif kind == "lmdb":
        made = LMDBStore(folder / "store", clock=clock)
    else:
        # A clock of a test stands while Redis goes on.
        made = RedisStore(request.getfixturevalue("shared_url")(kind), clock=clock, spare=3600.0)
    with contextlib.closing(made):
        yield made


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest, tmp_path: Path, clock: Callable[[], float]) -> Iterator[Store]:
    """Each kind of store in turn."""
    with opened(request.param, request, tmp_path, clock) as one:
        yield one
