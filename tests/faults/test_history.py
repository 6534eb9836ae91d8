"""Steps over several servers while one fault after the other happens: `tests.faults.history` with a few of them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.history import nemesis
from tests.faults.history.run import run
from tests.faults.history.scene import WatchedRedis, watched_redis

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WatchedRedis]:
    with watched_redis("valkey", 1, tmp_path_factory.mktemp("redis")) as one:
        yield one


def test_where_a_replica_must_have_each_step_none_is_lost(redis: WatchedRedis, tmp_path: Path) -> None:
    faults = (
        nemesis.swallow_replies,
        nemesis.kill_server,
        nemesis.kill_primary_after_swallowed_replies,
    )
    report = run(redis, faults, tmp_path, wait=1, num_servers=2, num_between=10)
    assert not report.mistakes and not report.losses, report
    assert all(report.counts[one] for one in ("done", "replayed", "unknown", "refused", "reads")), report


def test_where_none_must_a_lost_step_is_seen_and_nothing_is_built_on_it(redis: WatchedRedis, tmp_path: Path) -> None:
    report = run(redis, [nemesis.kill_primary_whose_replicas_lag], tmp_path, wait=0, num_servers=1, num_between=10)
    assert not report.mistakes and not report.unexplained, report
    assert report.losses and report.counts["conflicts"], report
