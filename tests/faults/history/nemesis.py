"""The faults, each of which begins, lasts a moment and is mended."""

import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import redis

from tests.faults.history.scene import Servers, WatchedRedis
from tests.redis_links import HELD, Connection, Lossy, Rule, passes

_LIMIT = 60.0
# Seconds by which replicas may lag.
_LEAD = 1.0
# What is written for ten steps or more.
_LAG_BYTES = 10_000


@dataclass
class Scene:
    """What there is to harm.

    Attributes:
        lossy: when acknowledged steps may be lost, if no replica must have them: from shortly before another primary
            took over until all knew it.
    """

    redis: WatchedRedis
    servers: Servers
    random: random.Random
    lossy: list[tuple[float, float]] = field(default_factory=list)
    epoch: int = 0
    settled_at: float = 0.0

    def settle(self) -> None:
        """Wait until Redis is whole, and note whether another primary has taken over meanwhile."""
        self.redis.settle()
        before, self.epoch = self.epoch, self.redis.epoch()
        since, self.settled_at = self.settled_at, time.monotonic()
        if self.epoch != before:
            self.lossy.append((since - _LEAD, self.settled_at))

    def primary_link(self, rule: Rule) -> None:
        self.redis.links[self.redis.primary()].rule = rule

    def kill_with_all_on_its_way(self, index: int) -> None:
        """Kill a node. What its link holds is lost."""
        self.redis.nodes[index].kill()
        self.redis.links[index].rule = lambda one, is_reply: None
        time.sleep(0.1)
        self.redis.links[index].rule = passes

    def some_server(self) -> int:
        return self.random.randrange(len(self.servers))

    def wait(self, least: float, most: float) -> None:
        time.sleep(self.random.uniform(least, most))


def kill_server(scene: Scene) -> None:
    one = scene.some_server()
    scene.servers.end(one, signal.SIGKILL)
    scene.servers.start(one)


def rolling_restart(scene: Scene) -> None:
    for one in range(len(scene.servers)):
        code = scene.servers.end(one, signal.SIGTERM)
        assert code == 0, f"a server that was told to stop ended with {code}"
        scene.servers.start(one)


def kill_primary(scene: Scene) -> None:
    primary = scene.redis.primary()
    scene.redis.nodes[primary].kill()
    scene.redis.wait_for_another(primary)
    scene.redis.start_as_replica(primary)


def kill_primary_that_comes_back_as_it_was(scene: Scene) -> None:
    """It believes to be the primary until a Sentinel tells it otherwise."""
    primary = scene.redis.primary()
    scene.redis.nodes[primary].kill()
    scene.redis.wait_for_another(primary)
    scene.redis.nodes[primary].start()


def restart_primary(scene: Scene) -> None:
    """It may be back before it is missed, with what is on its disk."""
    node = scene.redis.nodes[scene.redis.primary()]
    node.kill()
    node.start()


def pause_primary(scene: Scene) -> None:
    """It stands still until another has taken its place, and then goes on as if nothing had been."""
    primary = scene.redis.primary()
    scene.redis.nodes[primary].signal(signal.SIGSTOP)
    scene.redis.wait_for_another(primary)
    scene.wait(0, 1)
    scene.redis.nodes[primary].signal(signal.SIGCONT)


def pause_primary_for_a_moment(scene: Scene) -> None:
    node = scene.redis.nodes[scene.redis.primary()]
    node.signal(signal.SIGSTOP)
    scene.wait(0.1, 1.0)
    node.signal(signal.SIGCONT)


def isolate_primary(scene: Scene) -> None:
    """Everybody is cut off from it, and what was on the way arrives once it is reached again."""
    primary = scene.redis.primary()
    scene.redis.links[primary].rule = lambda one, is_reply: HELD
    scene.redis.wait_for_another(primary)
    scene.wait(0, 1)
    scene.redis.links[primary].rule = passes


def isolate_primary_from_all_but_one_server(scene: Scene) -> None:
    """That server knows of no fault, and the others go on with another primary."""
    primary, mine = scene.redis.primary(), f"server-{scene.some_server()}"
    scene.redis.links[primary].rule = lambda one, is_reply: 0.0 if one.who == mine else None
    scene.redis.wait_for_another(primary)
    scene.wait(0.5, 1.5)
    scene.redis.links[primary].rule = passes


def kill_primary_whose_replicas_lag(scene: Scene) -> None:
    primary = scene.redis.primary()
    scene.redis.links[primary].rule = lambda one, is_reply: HELD if one.who == "replica" else 0.0
    scene.redis.wait_for_writes(primary, _LAG_BYTES)
    scene.kill_with_all_on_its_way(primary)
    scene.redis.wait_for_another(primary)
    scene.redis.start_as_replica(primary)


def cut_link(scene: Scene) -> None:
    """One server cannot reach the primary."""
    mine = f"server-{scene.some_server()}"
    scene.primary_link(lambda one, is_reply: None if one.who == mine else 0.0)
    scene.wait(0.5, 1.5)


def hold_link(scene: Scene) -> None:
    """What one server sends arrives much later, or what it is replied."""
    mine, way = f"server-{scene.some_server()}", scene.random.random() < 0.5
    scene.primary_link(lambda one, is_reply: HELD if one.who == mine and is_reply == way else 0.0)
    scene.wait(0.5, 1.5)


def delay_links(scene: Scene) -> None:
    """Everything is late, some of it too late."""
    scene.primary_link(lambda one, is_reply: scene.random.expovariate(10.0) if one.who.startswith("server") else 0.0)
    scene.wait(1.0, 2.0)


def delay_replication(scene: Scene) -> None:
    scene.primary_link(lambda one, is_reply: scene.random.uniform(0.05, 0.3) if one.who == "replica" else 0.0)
    scene.wait(1.0, 2.0)


def swallow_replies(scene: Scene) -> None:
    rule = Lossy(scene.random.randrange(1, 8))
    scene.primary_link(rule)
    until = time.monotonic() + _LIMIT
    while rule.num_replies and time.monotonic() < until:
        time.sleep(0.01)


def kill_primary_after_swallowed_replies(scene: Scene) -> None:
    """What was sent again must be on a replica too, and not only what was sent first."""
    primary = scene.redis.primary()

    def rule(one: Connection, is_reply: bool) -> float | None:
        if one.who == "replica":
            return HELD
        loses = is_reply and one.who.startswith("server") and one.begun
        return None if loses and scene.random.random() < 0.5 else 0.0

    scene.redis.links[primary].rule = rule
    scene.wait(0.1, 0.4)
    scene.kill_with_all_on_its_way(primary)
    scene.redis.wait_for_another(primary)
    scene.redis.start_as_replica(primary)


def fill_memory(scene: Scene) -> None:
    nodes = [redis.Redis(port=one.port) for one in scene.redis.nodes]
    for one in nodes:
        one.config_set("maxmemory", 1)
    scene.wait(0.5, 1.0)
    for one in nodes:
        one.config_set("maxmemory", 0)


Fault = Callable[[Scene], None]
FAULTS: dict[str, Fault] = {
    one.__name__: one
    for one in (
        kill_server,
        rolling_restart,
        kill_primary,
        kill_primary_that_comes_back_as_it_was,
        restart_primary,
        pause_primary,
        pause_primary_for_a_moment,
        isolate_primary,
        isolate_primary_from_all_but_one_server,
        kill_primary_whose_replicas_lag,
        cut_link,
        hold_link,
        delay_links,
        delay_replication,
        swallow_replies,
        kill_primary_after_swallowed_replies,
        fill_memory,
    )
}


def happen(fault: Fault, scene: Scene) -> None:
    """Have a fault happen, mend it, and wait until Redis is whole again."""
    scene.wait(0, 0.3)
    fault(scene)
    for link in scene.redis.links:
        link.rule = passes
    scene.settle()
