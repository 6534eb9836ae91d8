"""The store in Redis: what becomes of sessions when answers are lost, servers end, and memory is full."""

import contextlib
import functools
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import pytest
import redis
from msgspec.structs import replace

from benchmarks.processes import free_port
from elman.errors import OutcomeUnknown, StoreUnavailable
from elman.sessions.store import Record, new_mark
from elman.sessions.stores.redis import RedisStore
from elman.sessions.stores.redis.fields import pack
from elman.sessions.stores.redis.link import Breaker, Command
from elman.sessions.stores.redis.store import RefusedStore
from tests.certificates import Authority
from tests.redis_links import Link, Lossy, LossyOnce
from tests.redis_servers import RedisServer, redis_cluster, running_redis
from tests.sessions.records import OWNER, PLENTY, Advance, advance_of, advanced, new_record

pytestmark = pytest.mark.slow

T = TypeVar("T")
# However busy the machine is.
PATIENT = "?socket_timeout=30&socket_connect_timeout=30"
_TIMEOUT = 120.0


@pytest.fixture(scope="module")
def shared() -> Iterator[RedisServer]:
    with running_redis() as server:
        yield server


@pytest.fixture
def server(shared: RedisServer) -> RedisServer:
    """A server of default settings, and empty."""
    shared.ask("CONFIG", "SET", "maxmemory", "0", "maxmemory-policy", "noeviction", "min-replicas-to-write", "0")
    shared.ask("FLUSHALL")
    return shared


@contextlib.contextmanager
def opened(url: str, replicas: int = 0) -> Iterator[RedisStore]:
    with contextlib.closing(RedisStore(url + PATIENT, replicas)) as store:
        yield store


def created(store: RedisStore, size: int = 100) -> Record:
    record = new_record(size, now=time.time(), ttl=3600.0)
    assert store.create(record, PLENTY)
    return record


def eventually(call: Callable[[], T]) -> T:
    """What a call returns once the store works again."""
    until = time.monotonic() + _TIMEOUT
    while True:
        try:
            return call()
        except StoreUnavailable:
            assert time.monotonic() < until, "the store does not come back"
            time.sleep(0.05)


def done(store: RedisStore, one: Advance) -> bool:
    """Whether an advance has happened. Raises StoreUnavailable."""
    (outcome,) = store.advance([one])
    if isinstance(outcome, StoreUnavailable):
        raise outcome
    return outcome


@pytest.fixture
def link(server: RedisServer) -> Iterator[Link]:
    with Link(server.port) as one:
        yield one


def test_a_lost_reply_does_not_make_a_step_happen_twice(link: Link) -> None:
    with opened(link.url) as store:
        record = created(store)
        one = advance_of(record)
        link.rule = Lossy(1)
        assert store.advance([one]) == [True]
        assert link.rule == Lossy(0) and store.read(record.id) == advanced(record, one)


def test_the_outcome_of_a_call_is_unknown_if_its_second_reply_is_lost_too(link: Link) -> None:
    with opened(link.url) as store:
        record = created(store)
        first = advance_of(record)
        assert store.advance([first]) == [True]  # the server knows the script from here on
        record = advanced(record, first)
        one = advance_of(record)
        link.rule = Lossy(2)
        (outcome,) = store.advance([one])
        assert isinstance(outcome, OutcomeUnknown)
        assert eventually(lambda: store.read(record.id)) == advanced(record, one)
        assert store.advance([one, advance_of(record)]) == [True, False]


def test_the_outcome_is_unknown_too_if_the_server_refuses_what_it_may_have_done(
    link: Link, server: RedisServer
) -> None:
    with opened(link.url) as store:
        record = created(store)
        first = advance_of(record)
        assert store.advance([first]) == [True]
        record = advanced(record, first)
        one = advance_of(record)
        rule = link.rule = LossyOnce(lambda: server.ask("CONFIG", "SET", "min-replicas-to-write", "1"))
        (outcome,) = store.advance([one])
        assert isinstance(outcome, OutcomeUnknown) and "too few of its replicas" in outcome.detail and rule.is_done
        server.ask("CONFIG", "SET", "min-replicas-to-write", "0")
        assert store.read(record.id) == advanced(record, one)


def test_that_a_step_was_overtaken_after_a_lost_reply_does_not_show_that_it_did_not_happen(
    link: Link, server: RedisServer
) -> None:
    with opened(link.url) as store, opened(server.url) as other:
        record = stepped(store, created(store))
        one = advance_of(record)
        rule = link.rule = LossyOnce(lambda: stepped(other, advanced(record, one)))
        (outcome,) = store.advance([one])
        assert type(outcome) is OutcomeUnknown and rule.is_done, rule.error
        assert store.advance([one]) == [False]


def test_a_lost_reply_makes_no_session_twice(link: Link) -> None:
    with opened(link.url) as store:
        for _ in range(3):
            link.rule = Lossy(1)
            created(store)
        assert len(store) == len(store.list(OWNER, 10)) == 3
        (one, *_) = store.list(OWNER, 10)
        link.rule = Lossy(1)
        assert store.delete(one.id) and len(store) == 2


def test_after_an_unanswered_call_none_is_made_for_a_moment_and_then_one() -> None:
    now = 10.0
    breaker = Breaker(lambda: now)
    breaker.check()
    breaker.failed("it does not answer")
    for later in (0.0, 0.9):
        now = 10.0 + later
        with pytest.raises(StoreUnavailable, match="does not answer") as refused:
            breaker.check()
        assert refused.value.retry_after == 1
    now = 11.1
    breaker.check()
    with pytest.raises(StoreUnavailable):
        breaker.check()
    breaker.answered()
    breaker.check()


def test_scripts_that_the_server_has_forgotten_are_sent_again(server: RedisServer) -> None:
    with opened(server.url) as store:
        records = [created(store) for _ in range(300)]
        assert server.ask("SCRIPT", "FLUSH") == b"+OK"
        moves = [advance_of(one) for one in records]
        assert store.advance(moves) == [True] * 300
        assert [store.read(one.id) for one in records] == list(map(advanced, records, moves))


def test_what_a_command_did_before_scripts_were_sent_is_its_reply(server: RedisServer) -> None:
    with opened(server.url) as store:
        server.ask("SCRIPT", "FLUSH")
        key, record = b"elman:{0}", new_record(now=time.time())
        first = Command(key, ("SETNX", key, b"1"))
        assert store._link.run([first, store._put(record, pack(record), b"")]) == [1, 1]


def test_where_memory_is_full_sessions_go_on_and_end_and_none_begins(server: RedisServer) -> None:
    with opened(server.url) as store:
        records = [created(store, 2000) for _ in range(50)]
        server.ask("CONFIG", "SET", "maxmemory", "1mb")
        with pytest.raises(StoreUnavailable, match="maxmemory"):
            created(store)
        assert len(store) == 50
        for _ in range(2):
            moves = [advance_of(one) for one in records]
            assert store.advance(moves) == [True] * 50
            records = list(map(advanced, records, moves))
        assert all(store.read(one.id) == one for one in records)
        assert all(store.delete(one.id) for one in records) and len(store) == 0
        server.ask("CONFIG", "SET", "maxmemory", "0")
        created(store)


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
def test_a_server_that_may_drop_sessions_is_refused(server: RedisServer, policy: str) -> None:
    server.ask("CONFIG", "SET", "maxmemory-policy", policy)
    with pytest.raises(RefusedStore, match=f"is {policy}. Set it to noeviction"):
        RedisStore(server.url + PATIENT)


def test_sessions_of_another_format_are_left_alone(server: RedisServer) -> None:
    server.ask("SET", "elman:format", "other")
    with pytest.raises(RefusedStore, match="another version"):
        RedisStore(server.url + PATIENT)


def test_all_servers_have_one_key_for_state_tokens(server: RedisServer) -> None:
    with opened(server.url) as here, opened(server.url) as there:
        assert here.state_key == there.state_key and len(here.state_key) >= 32


def test_what_is_said_to_the_server_is_encrypted_and_its_certificate_checked(tmp_path: Path) -> None:
    port, signed = free_port(), Authority(tmp_path).sign("redis")
    files = ("--tls-cert-file", str(signed.cert), "--tls-key-file", str(signed.key))
    others = ("--tls-ca-cert-file", str(signed.authority), "--tls-auth-clients", "no")
    with running_redis("redis", "--tls-port", str(port), *files, *others):
        trusting = f"rediss://127.0.0.1:{port}{PATIENT}&ssl_ca_certs={signed.authority}"
        with contextlib.closing(RedisStore(trusting)) as store:
            record = created(store)
            assert store.read(record.id) == record
        for url in (f"rediss://127.0.0.1:{port}", f"redis://127.0.0.1:{port}"):
            with pytest.raises(StoreUnavailable, match="cannot be reached"):
                RedisStore(url + PATIENT)


def test_no_error_tells_the_password_or_the_place_and_each_says_when_to_try_again(server: RedisServer) -> None:
    for url, reason in (
        (f"redis://:secret@127.0.0.1:{free_port()}", "cannot be reached$"),
        (server.url.replace("//", "//user:secret@"), "does not take the user and password"),
        (f"redis+cluster://:secret@127.0.0.1:{free_port()}", "cannot be reached$"),
    ):
        with pytest.raises(StoreUnavailable, match=reason) as failed:
            RedisStore(url + PATIENT)
        assert failed.value.retry_after == 1
        assert not any(word in str(failed.value) for word in ("secret", "127.0.0.1", "user:"))
        assert failed.value.__cause__ is None and failed.value.__suppress_context__


def test_what_redis_deletes_is_forgotten_by_the_sweep(server: RedisServer) -> None:
    with opened(server.url) as store:
        lasting = created(store)
        brief = new_record(100, now=time.time(), ttl=0.001)
        store.create(brief, PLENTY)
        until = time.monotonic() + _TIMEOUT
        while len(store) > 1:
            assert time.monotonic() < until
            store.sweep(time.time(), 100)
        assert store.read(brief.id) is None and store.read(lasting.id) == lasting
        assert store.usage(OWNER).num_bytes == 200


def test_a_server_that_was_killed_comes_back_with_its_sessions() -> None:
    with running_redis("redis", "--appendonly", "yes", "--appendfsync", "always") as server:
        with opened(server.url) as store:
            record = created(store)
            one = advance_of(record)
            assert store.advance([one]) == [True]
            server.kill()
            with pytest.raises(StoreUnavailable, match="cannot be reached"):
                store.read(record.id)
            server.start()
            assert eventually(lambda: store.read(record.id)) == advanced(record, one)
            assert done(store, advance_of(advanced(record, one)))


def test_a_write_that_too_few_replicas_have_is_not_acknowledged(server: RedisServer) -> None:
    with contextlib.closing(RedisStore(server.url + PATIENT)) as store:
        record = created(store)
    with pytest.raises(OutcomeUnknown, match="0 replicas"):
        RedisStore(f"{server.url}?socket_timeout=1", replicas=1)
    with opened(server.url) as store:
        assert store.read(record.id) == record


def test_a_write_that_was_made_again_is_waited_for_too() -> None:
    """Valkey waits for what the connection itself has written, and the first one has gone."""
    with contextlib.ExitStack() as stack:
        primary = stack.enter_context(running_redis("valkey", "--repl-diskless-sync-delay", "0"))
        replica = stack.enter_context(running_redis("valkey", "--replicaof", f"127.0.0.1 {primary.port}"))
        link = stack.enter_context(Link(primary.port))
        url = f"{link.url}?socket_timeout=1"
        store = stack.enter_context(contextlib.closing(eventually(lambda: RedisStore(url, replicas=1))))
        one, other = eventually(lambda: created(store)), eventually(lambda: created(store))
        first = advance_of(one)
        assert eventually(lambda: done(store, first))  # the server knows the scripts from here on
        replica.signal(signal.SIGSTOP)
        link.rule = Lossy(1)
        (outcome,) = store.advance([advance_of(advanced(one, first))])
        assert isinstance(outcome, OutcomeUnknown) and link.rule == Lossy(0)
        link.rule = Lossy(1)
        with pytest.raises(StoreUnavailable):
            store.replace(replace(other, mark=new_mark()), other.mark)


def test_a_step_that_a_replica_has_outlives_the_primary(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        start = functools.partial(running_redis, "redis", "--repl-diskless-sync-delay", "0")
        primary = stack.enter_context(start())
        stack.enter_context(start("--replicaof", f"127.0.0.1 {primary.port}"))
        config = tmp_path / "sentinel.conf"
        config.write_text(
            f"sentinel monitor main 127.0.0.1 {primary.port} 1\n"
            "sentinel down-after-milliseconds main 500\nsentinel failover-timeout main 2000\n"
        )
        watching = stack.enter_context(running_redis("redis", sentinel_config=config))
        url = f"redis+sentinel://127.0.0.1:{watching.port}/main"
        store = stack.enter_context(opened(url))
        with contextlib.closing(eventually(lambda: RedisStore(url + PATIENT, replicas=1))) as confirmed:
            record = eventually(lambda: created(confirmed))
            one = advance_of(record)
            assert eventually(lambda: done(confirmed, one))
        primary.kill()
        assert eventually(lambda: store.read(record.id)) == advanced(record, one)
        # The script is not on the new primary yet.
        assert eventually(lambda: done(store, advance_of(advanced(record, one))))


@dataclass
class Slot:
    """The part of a cluster that a session is in, and two nodes: it is moved from one to the other."""

    key: bytes
    source: redis.Redis
    target: redis.Redis

    @cached_property
    def number(self) -> int:
        return int(self.source.execute_command("CLUSTER KEYSLOT", self.key))

    def begin(self) -> None:
        """From here on, `source` sends those on to `target` that ask for what it does not have."""
        self.target.execute_command("CLUSTER SETSLOT", self.number, "IMPORTING", _node_id(self.source))
        self.source.execute_command("CLUSTER SETSLOT", self.number, "MIGRATING", _node_id(self.target))

    def move(self) -> None:
        place = self.target.connection_pool.connection_kwargs
        self.source.execute_command("MIGRATE", place["host"], place["port"], self.key, 0, 30_000)

    def end(self) -> None:
        """From here on, `source` says that `target` has it."""
        for node in (self.target, self.source):
            node.execute_command("CLUSTER SETSLOT", self.number, "NODE", _node_id(self.target))


def _node_id(node: redis.Redis) -> str:
    return str(node.execute_command("CLUSTER MYID"), "ascii")


def slot_of(url: str, record: Record) -> Slot:
    """The slot of a session in the cluster at a URL."""
    key = b"elman:{%b}" % record.id.encode()
    nodes = [redis.Redis("127.0.0.1", int(one.rpartition(":")[2])) for one in url.split(",")]
    (source,) = [node for node in nodes if key in node.keys("elman:*")]
    return Slot(key, source, nodes[nodes.index(source) - 1])


@pytest.mark.parametrize("heard", [True, False])
def test_sessions_go_on_while_a_cluster_moves_them_to_another_node(
    heard: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not heard:  # as if the node that is asked for the slots had not heard of the move yet
        monkeypatch.setattr("elman.sessions.stores.redis.link.Cluster._look", lambda cluster: None)
    with redis_cluster() as url, opened(url) as store:
        for _ in range(6):
            record = created(store)
            slot = slot_of(url, record)
            slot.begin()
            record = stepped(store, record)
            slot.move()
            assert slot.key not in slot.source.keys("elman:*")
            record = stepped(store, record)
            slot.end()
            record = stepped(store, record)
            slot.source.config_resetstat()
            record = stepped(store, record)
            assert not slot.source.info("errorstats"), "the old node is asked again"
            assert store.usage(OWNER).num_sessions == 1 and store.delete(record.id)


def refuse_writes(slot: Slot, record: Record) -> None:
    slot.target.config_set("min-replicas-to-write", 1)


def step_on(slot: Slot, record: Record) -> None:
    """Another server does the next step."""
    port = slot.target.connection_pool.connection_kwargs["port"]
    with opened(f"redis+cluster://127.0.0.1:{port}") as other:
        stepped(other, record)


@pytest.mark.parametrize("ends", [True, False], ids=["moved", "moving"])
@pytest.mark.parametrize("happens", [refuse_writes, step_on])
def test_what_another_node_refuses_after_a_lost_reply_may_have_happened(
    ends: bool, happens: Callable[[Slot, Record], None]
) -> None:
    with redis_cluster() as url, opened(url) as direct:
        record = created(direct)
        slot = slot_of(url, record)
        with announced(slot.source, url) as link, opened(url) as store:
            record = stepped(store, record)  # the server knows the script from here on
            one = advance_of(record)
            slot.begin()

            def happen() -> None:
                slot.move()
                if ends:
                    slot.end()
                happens(slot, advanced(record, one))

            rule = link.rule = LossyOnce(happen)
            (outcome,) = store.advance([one])
            assert type(outcome) is OutcomeUnknown and rule.is_done, rule.error


@contextlib.contextmanager
def announced(node: redis.Redis, url: str) -> Iterator[Link]:
    """A link to a node of the cluster at a URL, through which all clients reach it that look from then on."""
    with Link(node.connection_pool.connection_kwargs["port"]) as link:
        node.config_set("cluster-announce-port", link.port)
        until = time.monotonic() + _TIMEOUT
        for one in url.split(","):
            asked = redis.Redis("127.0.0.1", int(one.rpartition(":")[2]))
            while link.port not in [range_[2][1] for range_ in asked.execute_command("CLUSTER SLOTS")]:
                assert time.monotonic() < until, "the cluster does not know the link"
                time.sleep(0.05)
        yield link


def stepped(store: RedisStore, record: Record) -> Record:
    """A session one step on, as the store has it."""
    one = advance_of(record)
    assert store.advance([one]) == [True] and store.read(record.id) == advanced(record, one)
    return advanced(record, one)
