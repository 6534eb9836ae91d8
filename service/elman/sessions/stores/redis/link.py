"""Commands sent to Redis in pipelines, and what became of them."""

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from hiredis import pack_command
from redis.cluster import ClusterNode, RedisCluster, get_node_name
from redis.connection import ConnectionPool
from redis.exceptions import (
    AskError,
    AuthenticationError,
    ClusterDownError,
    ConnectionError,
    MovedError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisClusterException,
    RedisError,
    ResponseError,
    TimeoutError,
    TryAgainError,
)

from elman.errors import OutcomeUnknown, StoreUnavailable
from elman.sessions.stores.redis.scripts import BY_SHA

# Seconds for which no call is made after one that was not answered.
_PAUSE_SECONDS = 1.0
# Of the time-out of a reply, the part that WAIT may take on the server.
_WAIT_SHARE = 0.7

_LOG = logging.getLogger("elman")


class Command(NamedTuple):
    """A command, and the key by which a cluster finds the node that it is for.

    `compares` says that a 0 in its reply means: there was something else than the command expects to change.
    """

    key: bytes
    words: tuple[Any, ...]
    compares: bool = False


Reply = Any
"""What Redis has replied, or a StoreUnavailable: the command was refused or not sent; or an OutcomeUnknown."""


class Breaker:
    """Refuses calls for a moment after one that was not answered, so that they do not all wait for a time-out.

    Then one call is let through, and the others once that was answered.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._open_until: float | None = None
        self._reason = ""

    def check(self) -> None:
        """Raise StoreUnavailable if no call may be made."""
        if self._open_until is None:
            return
        with self._lock:
            if self._open_until is not None:
                now = self._clock()
                if now < self._open_until:
                    raise StoreUnavailable(self._reason, retry_after=1)
                self._open_until = now + _PAUSE_SECONDS

    def answered(self) -> None:
        self._open_until = None

    def failed(self, reason: str) -> None:
        with self._lock:
            self._reason, self._open_until = reason, self._clock() + _PAUSE_SECONDS


class Server:
    """One primary. Commands must be such that they may be sent again.

    Args:
        replicas: that must have what was written before it counts.
    """

    def __init__(self, pool: ConnectionPool, replicas: int = 0) -> None:
        self._pool = pool
        # Connections that are free, as the pool would have them: asking it takes longer than sending a step.
        self._free: deque[Any] = deque()
        self._breaker = Breaker()
        self._replicas = replicas
        seconds = float(pool.connection_kwargs.get("socket_timeout") or 1.0)
        self._wait = ("WAIT", replicas, max(1, int(_WAIT_SHARE * seconds * 1000)))

    def run(self, commands: Sequence[Command], written: bool = True) -> list[Reply]:
        """The reply of each command.

        Args:
            written: whether the commands write. What they have written must then be on the replicas.
        """
        try:
            self._breaker.check()
        except StoreUnavailable as refused:
            return [refused] * len(commands)
        waits = bool(self._replicas and written)
        words = [one.words for one in commands] + ([self._wait] if waits else [])
        sent = lost = False
        # An answer may be lost with a connection that was idle for long, or with a primary that has been replaced.
        for _ in range(2):
            try:
                connection = self._connection()
                sent = True
                try:
                    replies = _exchange(connection, words)
                except BaseException:
                    # Replies that were not read must not be taken for those of the next commands.
                    connection.disconnect()
                    self._pool.release(connection)
                    self._give_back()
                    raise
                self._free.append(connection)
            except (ConnectionError, TimeoutError, OSError) as error:
                reason, lost = _reason_of(error), sent
                continue
            except RedisError as error:
                refusal = _refusal(error)
                return [OutcomeUnknown(refusal.detail) if sent and written else refusal] * len(commands)
            self._breaker.answered()
            acknowledged = replies.pop() if waits else self._replicas
            if lost and written:
                replies = list(map(_doubted, commands, replies))
            if isinstance(acknowledged, StoreUnavailable) or acknowledged < self._replicas:
                return [_unreplicated(one, acknowledged, self._replicas) for one in replies]
            return replies
        self._breaker.failed(reason)
        failure = OutcomeUnknown(reason) if sent and written else StoreUnavailable(reason, retry_after=1)
        return [failure] * len(commands)

    def _connection(self) -> Any:
        """A connection that nobody uses. Raises what redis-py raises if there is none and none can be made."""
        try:
            return self._free.pop()
        except IndexError:
            return self._pool.get_connection()

    def _give_back(self) -> None:
        """Give free connections to the pool, which looks whether each is still open before it gives it again."""
        with contextlib.suppress(IndexError):
            while True:
                self._pool.release(self._free.pop())

    def close(self) -> None:
        self._give_back()
        self._pool.disconnect()


class Cluster:
    """The primaries of a cluster. Each command goes to the one that has its key."""

    def __init__(self, client: RedisCluster, replicas: int = 0) -> None:
        self._client = client
        self._replicas = replicas
        self._servers: dict[str, Server] = {}
        self._looked_at = time.monotonic()

    def run(self, commands: Sequence[Command], written: bool = True) -> list[Reply]:
        """As `Server.run`."""
        replies = self._run(commands, written)
        redirected = {index: one for index, one in enumerate(replies) if isinstance(one, Redirected)}
        followed = {
            index: self._ask(one, commands[index], written) for index, one in redirected.items() if one.node is not None
        }
        moved = [index for index in redirected if index not in followed]
        failed = any(isinstance(one, StoreUnavailable) for one in replies)
        # Another node may have taken the place of one that is not there.
        if moved or (failed and time.monotonic() > self._looked_at + _PAUSE_SECONDS):
            self._look()
        # The node that was looked at may not have heard yet what another one says.
        for error in [redirected[index].moved for index in moved]:
            if error is not None and error.host:
                self._client.nodes_manager.move_slot(error)
        followed.update(zip(moved, self._run([commands[index] for index in moved], written), strict=True))
        for index, reply in followed.items():
            in_doubt = isinstance(replies[index], OutcomeUnknown)
            replies[index] = _doubted(commands[index], reply) if in_doubt else reply
        return replies

    def _run(self, commands: Sequence[Command], written: bool) -> list[Reply]:
        groups: dict[str, tuple[ClusterNode, list[int]]] = {}
        replies: list[Reply] = [None] * len(commands)
        for index, one in enumerate(commands):
            try:
                node = self._client.get_node_from_key(one.key)
            except (RedisError, RedisClusterException):
                replies[index] = StoreUnavailable("no node of the session store's cluster has this session")
                continue
            groups.setdefault(node.name, (node, []))[1].append(index)
        for node, indices in groups.values():
            answers = self._server(node).run([commands[index] for index in indices], written)
            for index, answer in zip(indices, answers, strict=True):
                replies[index] = answer
        return replies

    def _ask(self, redirected: "Redirected", command: Command, written: bool) -> Reply:
        """The reply of the node to which a key is moving. It takes such a command only after the word ASKING."""
        if self._client.get_node(node_name=redirected.node) is None:
            self._look()
        node = self._client.get_node(node_name=redirected.node)
        if node is None:
            return redirected
        return self._server(node).run([Command(command.key, ("ASKING",)), command], written)[1]

    def _server(self, node: ClusterNode) -> Server:
        if node.name not in self._servers:
            pool = self._client.get_redis_connection(node).connection_pool
            self._servers.setdefault(node.name, Server(pool, self._replicas))
        return self._servers[node.name]

    def close(self) -> None:
        for server in self._servers.values():
            server.close()
        self._client.close()

    def _look(self) -> None:
        """Learn anew which node has what."""
        self._looked_at = time.monotonic()
        try:
            self._client.nodes_manager.initialize()
        except (RedisError, RedisClusterException) as error:
            _LOG.warning("the nodes of the session store's cluster are not known: %s", _reason_of(error))


class Redirected(StoreUnavailable):
    """The key of a command is on another node, or will be made there.

    Attributes:
        node: its name, if the key is moving, and None if it has moved.
        moved: what the server said, if the key has moved.
    """

    node: str | None = None
    moved: MovedError | None = None


class RedirectedInDoubt(Redirected, OutcomeUnknown):
    """As above, for a command that may have been done before."""


def _exchange(connection: Any, commands: list[tuple[Any, ...]]) -> list[Reply]:
    """Send commands and read their replies. Scripts that the server does not know are sent to it first."""
    replies = _send(connection, commands)
    unknown = {words[1] for words, one in zip(commands, replies, strict=True) if isinstance(one, _NoScript)}
    if unknown:
        _send(connection, [("SCRIPT", "LOAD", BY_SHA[sha].text) for sha in unknown])
        # All of them, as an ASKING must precede what it is for, and a WAIT must follow. What was done stays done.
        again = _send(connection, commands)
        replies = [
            new if isinstance(one, _NoScript) or words[0] == "WAIT" else one
            for words, one, new in zip(commands, replies, again, strict=True)
        ]
    return replies


def _send(connection: Any, commands: list[tuple[Any, ...]]) -> list[Reply]:
    # Not by the connection, which looks at each word first.
    connection.send_packed_command([b"".join(map(pack_command, commands))])
    return [_reply(connection) for _ in commands]


def _reply(connection: Any) -> Reply:
    try:
        return connection.read_response(disconnect_on_error=True)
    except NoScriptError:
        return _NoScript("the session store does not keep scripts", retry_after=1)
    except ReadOnlyError:
        # A primary that has become a replica. Its name may lead to another one by now.
        raise ConnectionError("a replica takes no writes") from None
    except ResponseError as error:
        return _refusal(error)


class _NoScript(StoreUnavailable):
    """The server does not know a script."""


# By the class that redis-py has for a refusal, or else by its code.
_REFUSALS: dict[type[RedisError] | str, str] = {
    OutOfMemoryError: "the session store is full: Redis has reached its maxmemory",
    NoPermissionError: "the session store's user may not do this",
    ClusterDownError: "the session store's cluster is down",
    TryAgainError: "the session is moving to another node of the store's cluster",
    "NOREPLICAS": "the session store takes no writes: too few of its replicas are there",
    "MISCONF": "the session store takes no writes: it cannot write to its disk",
}


def _refusal(error: RedisError) -> StoreUnavailable:
    """What the server has refused. Of its text only the code is told, which is its first word."""
    if isinstance(error, AskError):
        redirected = Redirected("the session is on another node of the store's cluster", retry_after=1)
        # For redis-py, a MovedError is an AskError.
        if isinstance(error, MovedError):
            redirected.moved = error
        else:
            redirected.node = get_node_name(error.host, error.port)
        return redirected
    code = str(error).partition(" ")[0]
    detail = _REFUSALS.get(type(error)) or _REFUSALS.get(code) or f"the session store refuses a command: {code}"
    return StoreUnavailable(detail, retry_after=1)


def _reason_of(error: Exception) -> str:
    if isinstance(error, AuthenticationError):
        return "the session store does not take the user and password that it is given"
    if isinstance(error, TimeoutError):
        return "the session store does not answer in time"
    return "the session store cannot be reached"


def failure_of(error: RedisError) -> StoreUnavailable:
    """What is told of an error that redis-py raises."""
    if isinstance(error, (ConnectionError, TimeoutError)):
        return StoreUnavailable(_reason_of(error), retry_after=1)
    return _refusal(error)


def _doubted(command: Command, reply: Reply) -> Reply:
    """The reply to a command that may have been done before, when its first reply was lost."""
    if isinstance(reply, Redirected):
        redirected = RedirectedInDoubt(reply.detail, retry_after=1)
        redirected.node, redirected.moved = reply.node, reply.moved
        return redirected
    if isinstance(reply, StoreUnavailable):
        return OutcomeUnknown(reply.detail)
    if not command.compares:
        return reply
    overtaken = OutcomeUnknown("the session has been changed after the reply of its store was lost", retry_after=1)
    if isinstance(reply, list):
        return [overtaken if one == 0 else one for one in reply]
    return overtaken if reply == 0 else reply


def _unreplicated(reply: Reply, num_replicas: Any, wanted: int) -> Reply:
    if isinstance(reply, StoreUnavailable):
        return reply
    if isinstance(num_replicas, StoreUnavailable):
        return OutcomeUnknown(num_replicas.detail)
    return OutcomeUnknown(f"{num_replicas} replicas of the session store have the write in time, of {wanted} that must")


def raised(replies: Iterable[Reply]) -> list[Reply]:
    """The replies, or the first failure raised."""
    checked = list(replies)
    for one in checked:
        if isinstance(one, StoreUnavailable):
            raise one
    return checked
