"""What the faults happen to: a Redis with replicas, each behind a link watched by Sentinels, and servers."""

import contextlib
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import redis
from redis.exceptions import RedisError

from tests.redis_links import Link
from tests.redis_servers import RedisServer, program, running_redis
from tests.running import RunningServer, running_server

_NUM_SENTINELS = 3
_LIMIT = 120.0
# Seconds by which a replica has become the primary, unless the machine is very busy.
_PATIENCE = 15.0
# What a node has acknowledged is in its file, so that it has it when it starts again.
_NODE_OPTIONS = (
    *("--appendonly", "yes", "--appendfsync", "always"),
    *("--repl-diskless-sync-delay", "0", "--replica-announce-ip", "127.0.0.1"),
)
# Sentinel holds a server for lost that has not answered for so many milliseconds.
_DOWN_AFTER = 500
_SENTINEL = f"""\
sentinel monitor main 127.0.0.1 {{port}} 2
sentinel down-after-milliseconds main {_DOWN_AFTER}
sentinel failover-timeout main 3000
"""


class WatchedRedis:
    """A primary, its replicas, and Sentinels. They know each other by the ports of their links."""

    def __init__(self, nodes: Sequence[RedisServer], links: Sequence[Link], sentinels: Sequence[RedisServer]) -> None:
        self.nodes, self.links, self.sentinels = nodes, links, sentinels

    @property
    def url(self) -> str:
        return f"redis+sentinel://{','.join(f'127.0.0.1:{one.port}' for one in self.sentinels)}/main"

    def primary(self) -> int:
        """The node that the first Sentinel holds for the primary."""
        return self._named_by(self.sentinels[0])

    def epoch(self) -> int:
        """A number that grows when another node becomes the primary."""
        return int(_client(self.sentinels[0]).sentinel_master("main")["config-epoch"])

    def start_as_replica(self, index: int) -> None:
        """Start a node that was killed, and have it follow the primary at once, and not when a Sentinel sees it."""
        start(self.nodes[index], "--replicaof", f"127.0.0.1 {self.links[self.primary()].port}")

    def wait_for_another(self, than: int) -> None:
        """Wait until all Sentinels name another primary."""

        def is_named() -> bool:
            return all(self._named_by(one) != than for one in self.sentinels)

        try:
            _wait_for(is_named, "", _PATIENCE)
        except AssertionError:
            # A Sentinel that got no time itself passes over a replica that lost the primary long before it noticed:
            # ten times as long as this.
            self._set_down_after(20 * _DOWN_AFTER)
            _wait_for(is_named, "no replica became the primary")
            self._set_down_after(_DOWN_AFTER)

    def _set_down_after(self, milliseconds: int) -> None:
        for one in self.sentinels:
            _client(one).sentinel_set("main", "down-after-milliseconds", milliseconds)

    def wait_for_writes(self, primary: int, nbytes: int) -> None:
        """Wait until the primary has written so much more for its replicas."""
        least = self._offset(primary) + nbytes
        _wait_for(lambda: self._offset(primary) >= least, "nothing is written")

    def _offset(self, primary: int) -> int:
        facts: Any = _client(self.nodes[primary]).info("replication")
        return int(facts["master_repl_offset"])

    def settle(self) -> None:
        """Wait until the Sentinels agree, and all other nodes follow the primary."""
        _wait_for(self._is_settled, "the servers of Redis do not agree")

    def _is_settled(self) -> bool:
        primary = self.primary()
        for one in self.sentinels:
            state = _client(one).sentinel_master("main")
            if self._named_by(one) != primary or int(state["num-other-sentinels"]) != _NUM_SENTINELS - 1:
                return False
            if int(state["num-slaves"]) != len(self.nodes) - 1 or state["is_sdown"]:
                return False
        for index, node in enumerate(self.nodes):
            role: Any = _client(node).role()
            if index == primary:
                if role[0] != b"master" or len(role[2]) != len(self.nodes) - 1:
                    return False
            elif role[0] != b"slave" or role[2] != self.links[primary].port or role[3] != b"connected":
                return False
        return True

    def _named_by(self, sentinel: RedisServer) -> int:
        address: Any = _client(sentinel).sentinel_get_master_addr_by_name("main")
        return [one.port for one in self.links].index(int(address[1]))


def _client(server: RedisServer) -> redis.Redis:
    return redis.Redis(port=server.port, socket_timeout=5.0)


def _wait_for(condition: Callable[[], bool], otherwise: str, limit: float = _LIMIT) -> None:
    until = time.monotonic() + limit
    while True:
        with contextlib.suppress(RedisError, ValueError):
            if condition():
                return
        assert time.monotonic() < until, otherwise
        time.sleep(0.05)


@contextlib.contextmanager
def watched_redis(kind: str, num_replicas: int, folder: Path) -> Iterator[WatchedRedis]:
    """Runs the servers of Redis or Valkey."""
    with contextlib.ExitStack() as stack:
        nodes: list[RedisServer] = []
        links: list[Link] = []
        for index in range(1 + num_replicas):
            node = RedisServer(program(kind), _made(folder / f"node-{index}"))
            link = stack.enter_context(Link(node.port))
            node.options = (*_NODE_OPTIONS, "--replica-announce-port", str(link.port))
            stack.callback(node.kill)
            nodes.append(node)
            links.append(link)
            follows = ("--replicaof", f"127.0.0.1 {links[0].port}") if index else ()
            start(node, *follows)
        sentinels = []
        for index in range(_NUM_SENTINELS):
            # Each writes to its own what it learns.
            config = folder / f"sentinel-{index}.conf"
            config.write_text(_SENTINEL.format(port=links[0].port))
            sentinels.append(stack.enter_context(running_redis(kind, sentinel_config=config)))
        watched = WatchedRedis(nodes, links, sentinels)
        watched.settle()
        yield watched


def start(node: RedisServer, *options: str) -> None:
    """Start a node with some more options, this once."""
    lasting, node.options = node.options, (*node.options, *options)
    node.start()
    node.options = lasting


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


class Servers:
    """Servers with one store, each of which may be ended and started again, then with another URL."""

    def __init__(self, models: Path, num_servers: int, store: str, **settings: object) -> None:
        self._models, self._store, self._settings = models, store, settings
        self._contexts = [contextlib.ExitStack() for _ in range(num_servers)]
        self._running: list[RunningServer | None] = [None] * num_servers
        self._urls = [""] * num_servers
        # A server ends with the thread that has started it.
        self._threads = ThreadPoolExecutor(num_servers)

    def __enter__(self) -> Self:
        try:
            list(self._threads.map(self.start, range(len(self._running))))
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        list(self._threads.map(contextlib.ExitStack.close, self._contexts))
        self._threads.shutdown()

    def urls(self) -> list[str]:
        return list(self._urls)

    def start(self, index: int) -> None:
        settings = {"store": f"{self._store}?client_name=server-{index}", "poll": 0, **self._settings}
        one = self._contexts[index].enter_context(running_server(self._models, any_exit=True, **settings))
        self._running[index], self._urls[index] = one, one.url

    def __getitem__(self, index: int) -> RunningServer:
        one = self._running[index]
        assert one is not None, "it was started"
        return one

    def __len__(self) -> int:
        return len(self._running)

    def end(self, index: int, number: signal.Signals) -> int:
        """Send a server a signal that ends it, and return its exit code."""
        process = self[index].process
        process.send_signal(number)
        code = process.wait(_LIMIT)
        self._contexts[index].close()
        return code
