"""Files of named keys, limits, and what each route needs. No server is started here."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.routing import BaseRoute, Route, WebSocketRoute

from elman.app import Elman, create_app
from elman.errors import Forbidden, RateLimited, Unauthorized
from elman.http.callers import Callers, owner_of_key
from elman.http.keys import KeyEntry, KeysFile, KeysRefused, Rates, hash_of, read_keys, written
from elman.http.limits import Bucket, Meter, SharedBuckets
from elman.http.roles import ROLES, RouteTable, declared
from elman.settings import Settings
from tests.running import STORE, environment

HASH = hash_of("alice-key")
ENTRY = {"name": "alice", "hashes": [HASH], "roles": ["infer"]}


def write(path: Path, content: object, mode: int = 0o600) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    path.chmod(mode)
    return path


def keys_of(*entries: dict[str, Any]) -> dict[str, Any]:
    return {"keys": [{**ENTRY, **one} for one in entries]}


def showing(key: str) -> dict[bytes, bytes]:
    return {b"authorization": f"Bearer {key}".encode()}


# What is in a file


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "truncated"),
        (b"\x00\xff\xfe" * 100, "not valid"),
        (b'{"keys": [' + b"[" * 100_000, "not valid"),
        (b" " * (4 * 2**20 + 1), "more than 4194304 bytes"),
        ([], "Expected `object`"),
        ({}, "missing required field `keys`"),
        (keys_of({"name": "Zoë"}), r"\$.keys\[0\].name"),
        (keys_of({"name": "al ice"}), r"\$.keys\[0\].name"),
        (keys_of({"name": "alice\n"}), r"\$.keys\[0\].name"),
        (keys_of({"name": "x" * 65}), r"\$.keys\[0\].name"),
        (keys_of({"name": 'a"} 1\nelman'}), r"\$.keys\[0\].name"),
        (keys_of({"roles": ["root"]}), r"'root'.*\$.keys\[0\].roles\[0\]"),
        (keys_of({"roles": []}), r"\$.keys\[0\].roles"),
        (keys_of({"hashes": []}), r"\$.keys\[0\].hashes"),
        (keys_of({"hashes": ["alice-key"]}), r"\$.keys\[0\].hashes\[0\]"),
        (keys_of({"hashes": [HASH.upper()]}), r"\$.keys\[0\].hashes\[0\]"),
        (keys_of({"role": ["infer"]}), "unknown field `role`"),
        (keys_of({"expires": "2030-01-01T00:00:00"}), r"\$.keys\[0\].expires"),
        (keys_of({"expires": "soon"}), r"\$.keys\[0\].expires"),
        (keys_of({"requests_per_second": 0}), r"\$.keys\[0\].requests_per_second"),
        (keys_of({"max_sessions": -1}), r"\$.keys\[0\].max_sessions"),
        (keys_of({}, {}), "alice twice"),
        (keys_of({}, {"name": "bob"}), f"{HASH} twice"),
        ({"keys": [{"name": "alice", "roles": ["infer"]}]}, "missing required field `hashes`"),
    ],
)
def test_a_file_that_is_not_valid_is_refused_with_the_place(tmp_path: Path, content: object, words: str) -> None:
    path = write(tmp_path / "keys.json", content)
    with pytest.raises(KeysRefused, match=words) as refused:
        read_keys(path)
    assert str(path) in str(refused.value) and "alice-key" not in str(refused.value)


def test_what_is_no_file_is_refused_and_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", "nothing", "."):
        with pytest.raises(KeysRefused, match="cannot be read"):
            read_keys(tmp_path / name)


def test_a_file_that_others_can_write_is_refused_and_one_that_they_can_read_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path / "keys.json", keys_of({}), 0o640)
    assert len(read_keys(path)) == 1 and not caplog.messages
    path.chmod(0o644)
    assert len(read_keys(path)) == 1 and "can be read by others" in caplog.messages[0]
    for mode in (0o620, 0o602):
        path.chmod(mode)
        with pytest.raises(KeysRefused, match="can be written by others: chmod go-w"):
            read_keys(path)


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    entries = (
        KeyEntry(name="alice", hashes=(HASH,), roles=ROLES, requests_per_second=0.5, max_sessions=0),
        KeyEntry(name="bob", hashes=(hash_of("1"), hash_of("2")), roles=("infer",), owner="0f" * 16),
    )
    assert read_keys(write(tmp_path / "keys.json", written(entries))) == entries


# Who calls


def test_a_file_that_breaks_leaves_the_keys_in_force(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = KeysFile(write(tmp_path / "keys.json", keys_of({})))
    before = file.entries
    assert not file.refresh(), "it has not changed"
    write(file.path, b'{"keys": [')
    assert not file.refresh() and file.entries == before
    assert file.failure is not None and "stay in force" in caplog.text
    file.path.unlink()
    assert not file.refresh() and file.entries == before and "cannot be read" in file.failure
    write(file.path, keys_of({}, {"name": "bob", "hashes": [hash_of("bob-key")]}))
    assert file.refresh() and len(file.entries) == 2 and file.failure is None


def test_a_caller_has_the_roles_of_its_key(tmp_path: Path) -> None:
    file = KeysFile(
        write(
            tmp_path / "keys.json",
            keys_of({"hashes": [HASH, hash_of("second")]}, {"name": "bob", "hashes": [hash_of("b")]}),
        )
    )
    callers = Callers(["plain", "both"], ["both", "root"], file)
    alice, again, bob = (callers.admit(showing(key), "infer") for key in ("alice-key", "second", "b"))
    assert alice.owner == again.owner != bob.owner, "sessions belong to the name"
    with pytest.raises(Forbidden, match="needs a key with the role sessions; yours has infer"):
        callers.admit(showing("alice-key"), "sessions")
    for key, wanted in (("plain", {"infer", "sessions"}), ("both", set(ROLES)), ("root", set(ROLES))):
        caller = callers.admit(showing(key), "key")
        assert caller.may == wanted | {"key"} and caller.owner == owner_of_key(key)
    for shown in (
        "Bearer",
        "Bearer ",
        "Bearer alice-key ",
        "Basic alice-key",
        "bearer\talice-key",
        HASH,
        f"Bearer {HASH}",
    ):
        headers = {b"authorization": shown.encode()}
        if shown.strip() == "Bearer alice-key":
            assert callers.admit(headers, "infer") is alice
        else:
            with pytest.raises(Unauthorized):
                callers.admit(headers, "infer")


def test_without_keys_everybody_may_do_everything_but_an_empty_file_lets_nobody_in(tmp_path: Path) -> None:
    anybody = Callers([]).admit({}, "admin")
    assert anybody.may >= set(ROLES)
    closed = Callers([], [], KeysFile(write(tmp_path / "keys.json", {"keys": []})))
    careless = Callers([], [], KeysFile(write(tmp_path / "careless.json", keys_of({"hashes": [hash_of("")]}))))
    for callers in (closed, careless):
        for headers in ({}, showing(""), showing(" ")):
            with pytest.raises(Unauthorized):
                callers.admit(headers, "key")


def test_a_key_of_before_names_keeps_its_sessions(tmp_path: Path) -> None:
    """Also if it is given a name, and replaced later."""
    owner = owner_of_key("alice-key")
    renamed = keys_of({"owner": owner.hex(), "hashes": [hash_of("new"), HASH]})
    callers = Callers(["alice-key"], [], KeysFile(write(tmp_path / "keys.json", renamed)))
    assert callers.admit(showing("new"), "infer").owner == callers.admit(showing("alice-key"), "infer").owner == owner
    with pytest.raises(Forbidden):
        callers.admit(showing("alice-key"), "sessions")  # the file says so


def test_what_clients_show_is_not_kept_without_bound() -> None:
    callers = Callers(["k" * 10, "long" * 1000])
    for spaces in range(300):
        callers.admit({b"authorization": b"Bearer " + b" " * spaces + b"k" * 10}, "infer")
        callers.admit({b"authorization": b"beaRer " + b" " * spaces + b"long" * 1000}, "infer")
        with pytest.raises(Unauthorized):
            callers.admit(showing(f"guess-{spaces}"), "infer")
    assert list(callers._known) == [b"Bearer " + b"k" * 10]


def test_a_key_ends_when_it_expires_or_is_taken_away(tmp_path: Path) -> None:
    later, past = ("2999-01-01T00:00:00Z", "2020-01-01T00:00:00+02:00")
    names = ({"name": "later", "expires": later}, {"name": "past", "expires": past, "hashes": [hash_of("p")]})
    file = KeysFile(write(tmp_path / "keys.json", keys_of(*names)))
    callers = Callers(["p"], [], file)
    caller = callers.admit(showing("alice-key"), "infer")
    with pytest.raises(Unauthorized):
        callers.admit(showing("p"), "infer")  # although it is a key without a name too
    assert callers.holds(caller)
    write(file.path, keys_of({"roles": ["admin"]}))
    assert file.refresh()
    callers._apply()
    assert not callers.holds(caller), "it may do less"
    with pytest.raises(Forbidden):
        callers.admit(showing("alice-key"), "infer")


# Limits


def test_a_bucket_gives_its_rate_and_can_be_overdrawn() -> None:
    bucket = Bucket(10.0, [0.0], 0)
    for _ in range(10):
        assert bucket.wait(0.0) == 0.0
        bucket.take(1, 0.0)
    assert bucket.wait(0.0) == pytest.approx(0.1) and bucket.wait(0.1) == pytest.approx(0.0)
    bucket.take(100, 0.1)
    assert bucket.wait(0.1) == pytest.approx(10.0), "the debt is paid at the rate"
    assert bucket.wait(1e6) == 0.0
    taken = 0
    for tick in range(1000):  # in hundredths of a second from where it is full
        if bucket.wait(1e6 + tick / 100) < 1e-9:
            bucket.take(1, 1e6 + tick / 100)
            taken += 1
    assert 108 <= taken <= 110, "what it held and what came in ten seconds"


def test_a_slow_bucket_holds_one_token() -> None:
    bucket = Bucket(0.5, [0.0], 0)
    bucket.take(1, 0.0)
    assert bucket.wait(0.5) == pytest.approx(1.5) and bucket.wait(2.0) == 0.0


def test_a_meter_counts_what_it_refuses() -> None:
    meter = Meter(Rates(requests_per_second=0.1))
    meter.take_request()
    with pytest.raises(RateLimited, match=r"0\.1 requests a second") as refused:
        meter.take_request()
    assert refused.value.retry_after == 10 and meter.refused == {"requests": 1}
    meter.take_steps(10**9)
    meter.check_steps()  # which have no limit


def test_limits_go_on_over_a_change_of_other_keys(tmp_path: Path) -> None:
    slow = {"requests_per_second": 0.01}
    file = KeysFile(write(tmp_path / "keys.json", keys_of(slow)))
    callers = Callers([], [], file)

    def meter() -> Meter:
        found = callers.admit(showing("alice-key"), "infer").meter
        assert found is not None
        return found

    first = meter()
    write(file.path, keys_of(slow, {"name": "bob", "hashes": [hash_of("b")]}))
    assert file.refresh()
    callers._apply()
    assert meter() is first
    assert callers.admit(showing("b"), "infer").meter is None
    write(file.path, keys_of({"requests_per_second": 5}))
    assert file.refresh()
    callers._apply()
    assert meter() is not first


# What each route needs


@pytest.fixture(scope="module")
def app() -> Elman:
    app = create_app(Settings(models=STORE, store="memory"))
    assert isinstance(app, Elman)
    return app


def all_routes(routes: list[BaseRoute]) -> Iterator[Route | WebSocketRoute]:
    """Every route, also those of routers that are included."""
    for route in routes:
        if isinstance(route, Route | WebSocketRoute):
            yield route
        else:
            yield from all_routes(route.original_router.routes)  # type: ignore[attr-defined]


def test_every_route_declares_what_it_needs(app: Elman) -> None:
    routes = list(all_routes(app.routes))
    assert len(routes) > 35
    undeclared = [one.path for one in routes if declared(one) is None]
    assert undeclared == ["/openapi.json"], "which the framework makes"
    for route in routes:
        method = next(iter(route.methods or ())) if isinstance(route, Route) else "GET"
        path = route.path.replace("{path:path}", "app.js")
        assert app.table.need(method, path) == (declared(route) or "page"), path


def test_what_needs_no_key_is_a_short_list(app: Elman) -> None:
    free = {one.path for one in all_routes(app.routes) if declared(one) in ("health", "metrics", "page")}
    health = {"/livez", "/readyz", "/v2/health/live", "/v2/health/ready"}
    assert free == {"/", "/docs", "/metrics", "/playground/{path:path}", *health}


def test_a_guarded_route_that_declares_nothing_is_for_admins() -> None:
    def endpoint() -> None: ...

    table = RouteTable([Route("/v1/new", endpoint), Route("/new", endpoint)])
    assert (table.need("GET", "/v1/new"), table.need("GET", "/new")) == ("admin", "page")
    assert table.need("POST", "/v1/new") == table.need("GET", "/v2") == "key", "which the router refuses"


def test_the_document_tells_the_role_that_each_route_needs(app: Elman) -> None:
    paths = app.openapi()["paths"]
    told = {
        path: operation.get("security", [{}])[0].get("key") for path, one in paths.items() for operation in one.values()
    }
    assert told["/v2/repository/models/{name}/load"] == ["admin"]
    assert told["/v1/models/{name}/versions/{version}/predict"] == ["infer"]
    assert told["/v1/models/{name}/stream"] == told["/v1/sessions/{id}/steps"] == ["sessions"]
    assert told["/v1/models"] == [] and told["/livez"] is None


def test_a_look_up_of_a_known_key_hashes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    callers = Callers(["alice-key"])
    callers.admit(showing("alice-key"), "infer")
    monkeypatch.setattr("elman.http.callers.digest_of", lambda key: pytest.fail("it is hashed again"))
    for _ in range(1000):
        callers.admit(showing("alice-key"), "infer")


# Workers count together. On a busy machine one of them may be interrupted for long before it can leave.
_WORKER = """
import sys
from pathlib import Path
from elman.http import limits
from elman.http.keys import Rates

limits._PATIENCE = 60.0
meter = limits.Meter(Rates(steps_per_second=1.0), "alice", limits.SharedBuckets(Path(sys.argv[1])))
for _ in range(5_000):
    meter.take_steps(1)
"""


def test_two_workers_hold_a_key_to_one_limit(tmp_path: Path) -> None:
    first, second = (SharedBuckets(tmp_path / "workers" / "limits") for _ in range(2))
    rates = Rates(requests_per_second=0.1, steps_per_second=0.1)
    Meter(rates, "alice", first).take_request()
    meter = Meter(rates, "alice", second)
    with pytest.raises(RateLimited, match=r"0\.1 requests a second"):
        meter.take_request()
    Meter(rates, "alice", first).take_steps(1)
    with pytest.raises(RateLimited, match=r"0\.1 steps a second"):
        meter.check_steps()
    Meter(rates, "bob", second).take_request()
    Meter(Rates(requests_per_second=0.2), "alice", second).take_request()  # other limits begin anew


def test_a_worker_that_is_stopped_while_it_counts_does_not_hold_up_the_others(tmp_path: Path) -> None:
    stopped, other = (SharedBuckets(tmp_path / "limits") for _ in range(2))
    meter = Meter(Rates(requests_per_second=0.1), "alice", other)
    with stopped:
        meter.take_request()
    with pytest.raises(RateLimited):
        meter.take_request()


def test_names_that_find_no_room_are_counted_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("elman.http.limits._SLOTS", 2)
    first, second = (SharedBuckets(tmp_path / "limits") for _ in range(2))
    for name in ("alice", "bob", "carol"):
        for number, shared in enumerate((first, second), 1):
            shared.find(name)[0] += 1.0
            assert shared.find(name)[0] == (number if name != "carol" else 0.0)


@pytest.mark.slow
def test_nothing_that_workers_count_at_once_is_lost(tmp_path: Path) -> None:
    command, since = [sys.executable, "-c", _WORKER, str(tmp_path / "limits")], time.monotonic()
    running = [subprocess.Popen(command, env=environment()) for _ in range(4)]
    assert [one.wait(120) for one in running] == [0] * 4
    paid_at = SharedBuckets(tmp_path / "limits").find(f"alice {Rates(steps_per_second=1.0)}")[1]
    assert since < paid_at - 4 * 5_000 < time.monotonic()
