"""`docker compose --profile scale`: replicas behind HAProxy, with one store. Any of them steps any session."""

import contextlib
import json
import math
import os
import re
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import grpc
import httpx
import numpy as np
import pytest
import yaml

from benchmarks.processes import free_port
from elman import Client
from tests.api.test_grpc import Channel, arrays, request
from tests.containers.conftest import BUILD_TIMEOUT, compose_command, shell
from tests.redis_servers import program
from tests.reference import Array, expected, float32, same_bits
from tests.running import ROOT, STORE, parsed
from tests.waiting import wait_until

pytestmark = pytest.mark.docker

MODEL, GENERATOR = "vowels-gru", "names-gru-generator"
DATA = np.random.default_rng(7).standard_normal((20_000, 12), np.float32)
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
LABEL = "label=com.docker.compose"
# Grafana is not among Debian's packages. What is mounted into it is looked at instead, and its queries are asked.
SERVICES = ("balancer", "prometheus")


@dataclass
class Scaled:
    """The services that run, and a client for the balancer."""

    project: str
    command: list[str]
    variables: dict[str, str]
    client: httpx.Client
    prometheus: httpx.Client
    grpc_port: int

    @property
    def replicas(self) -> dict[str, str]:
        """The containers of the replicas that run, and the address of each."""
        labels = {"project": self.project, "service": "replica"}
        filters = [word for name, value in labels.items() for word in ("--filter", f"{LABEL}.{name}={value}")]
        found = shell("docker", "ps", "--quiet", *filters).split()
        template = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
        addresses = shell("docker", "inspect", "--format", template, *found).split()
        return dict(zip(found, addresses, strict=True))

    def steps(self) -> list[float]:
        """The sequences that each replica has done."""
        done = []
        for address in self.replicas.values():
            samples = parsed(httpx.get(f"http://{address}:8000/metrics", timeout=30).text)
            done.append(sum(value for (name, _), value in samples.items() if name == "elman_sequences_total"))
        return done

    @contextlib.contextmanager
    def all_step(self) -> Iterator[None]:
        """Each replica does some steps meanwhile."""
        before = self.steps()
        yield
        assert all(now > then for now, then in zip(self.steps(), before, strict=True)), "one replica has had no step"

    def query(self, text: str) -> list[Any]:
        """What Prometheus answers."""
        return list(
            self.prometheus.get("/api/v1/query", params={"query": text}).raise_for_status().json()["data"]["result"]
        )

    def has_data(self, query: str) -> bool:
        return any(not math.isnan(float(one["value"][1])) for one in self.query(query))


@pytest.fixture(scope="module")
def scaled(image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scaled]:
    folder = tmp_path_factory.mktemp("models")
    folder.chmod(0o755)
    for name in (MODEL, GENERATOR):
        shell("cp", "-r", str(STORE / name), str(folder / name))
    build_programs(tmp_path_factory.mktemp("programs"))
    ports = [f"127.0.0.1:{free_port()}" for _ in range(3)]
    names = ("ELMAN_SCALE_PUBLISH", "ELMAN_SCALE_PUBLISH_GRPC", "PROMETHEUS_PUBLISH")
    images = dict.fromkeys(("VALKEY_IMAGE", "HAPROXY_IMAGE", "PROMETHEUS_IMAGE"), "elman-programs")
    variables = {**dict(zip(names, ports, strict=True)), **images, "ELMAN_MODELS_DIR": str(folder)}
    project = f"elmanscale{os.getpid()}"
    command = [*compose_command(), "--project-name", project, "--profile", "scale"]
    try:
        shell(*command, "up", "--detach", "--no-build", *SERVICES, timeout=300, variables=variables)
        clients = [httpx.Client(base_url=f"http://{port}", timeout=60) for port in (ports[0], ports[2])]
        with clients[0], clients[1]:
            one = Scaled(project, command, variables, *clients, int(ports[1].rpartition(":")[2]))
            until_all_serve(one)
            yield one
    finally:
        # In a third of the time that Compose takes.
        for kind, remove in (("container", "rm --force"), ("network", "rm"), ("volume", "rm")):
            named = ("--quiet", "--filter", f"{LABEL}.project={project}")
            found = shell("docker", kind, "ls", *(["--all"] if kind == "container" else []), *named).split()
            shell("docker", kind, *remove.split(), *found)


def build_programs(folder: Path) -> None:
    """The image of HAProxy, Prometheus and Valkey."""
    prometheus = shutil.which("prometheus")
    if prometheus is None:
        pytest.skip("prometheus is not installed")
    shutil.copy(prometheus, folder / "prometheus")
    shutil.copy(program("valkey"), folder / "valkey-server")
    dockerfile = ROOT / "tests" / "containers" / "programs.Dockerfile"
    build = ("docker", "build", "--network", "host", "--tag", "elman-programs", "--file", str(dockerfile))
    shell(*build, str(folder), timeout=BUILD_TIMEOUT)


def until_all_serve(scaled: Scaled) -> None:
    """Wait until the balancer gives requests to all three replicas, and each reaches its store."""
    assert len(scaled.replicas) == 3
    until = time.monotonic() + 240
    while True:
        with contextlib.suppress(httpx.HTTPError, AssertionError):
            with scaled.all_step():
                for _ in range(6):
                    id = scaled.client.post(f"/v1/models/{MODEL}/sessions").raise_for_status().json()["id"]
                    scaled.client.post(f"/v1/sessions/{id}/steps", json=step_body(0, 1)).raise_for_status()
            return
        assert time.monotonic() < until, shell(*scaled.command, "logs", "--tail", "20", variables=scaled.variables)
        time.sleep(0.5)


def store_is_busy(answer: httpx.Response) -> bool:
    """Whether the store did not answer in time, as on a busy machine. Clients send it again then."""
    return answer.status_code == 503 and answer.json()["code"] in ("store_unavailable", "outcome_unknown")


def step_body(at: int, number: int) -> dict[str, Any]:
    return {"sequence": DATA[at : at + number].tolist(), "at": at, "return": "steps", "decode": False}


def test_prometheus_has_all_replicas_as_targets_and_each_panel_of_the_dashboard_has_data(scaled: Scaled) -> None:
    until = time.monotonic() + 240
    while missing := [query for query in dashboard_queries() if not scaled.has_data(query)]:
        assert time.monotonic() < until, missing
        use(scaled)
    targets = scaled.prometheus.get("/api/v1/targets").json()["data"]["activeTargets"]
    assert [(one["health"], one["labels"]["job"]) for one in targets] == [("up", "elman")] * 3
    (memory,) = [one for one in dashboard_queries() if "process_resident_memory_bytes" in one]
    assert len(scaled.query(memory)) == 3


def use(scaled: Scaled) -> None:
    """Something of all that the dashboard tells: steps, a prediction, a generation, and a refusal."""
    with Client(str(scaled.client.base_url)) as client:
        with client.model(MODEL).session() as session:
            for at in range(3):
                session.step(DATA[at : at + 1])
        for length in (3, 9):
            client.model(MODEL).predict(DATA[:length])
        with client.model(GENERATOR).generate("Lin", max_steps=8, stream=True) as tokens:
            list(tokens)
    assert scaled.client.post(f"/v1/models/{MODEL}/predict", json={"sequence": [[1.0]]}).status_code == 422


def dashboard_queries() -> list[str]:
    """What the panels of the dashboard ask for, of all models and replicas, where Grafana shows some minutes."""
    dashboard = json.loads((ROOT / "deploy" / "grafana" / "elman.json").read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]
    return [re.sub(r"\$\w+", ".*", query.replace("$__rate_interval", "1m")) for query in queries]


def test_all_replicas_step_one_session_in_turn_over_http_and_websocket(scaled: Scaled) -> None:
    rows: list[Any] = []
    with Client(str(scaled.client.base_url)) as client, client.model(MODEL).session() as session:
        with scaled.all_step():
            for at in range(0, 18, 3):
                rows.append(session.step(DATA[at : at + 3], returns="steps", decode=False).outputs)
        with scaled.all_step():
            for at in range(18, 36, 3):
                with client.model(MODEL).stream(session, returns="steps", decode=False) as stream:
                    rows.append(stream.send(DATA[at : at + 3]).outputs)
    assert same_bits(np.concatenate(rows), expected(MODEL, DATA[:36]))


def test_all_replicas_step_one_sequence_in_turn_over_grpc(scaled: Scaled) -> None:
    channel = Channel(SimpleNamespace(grpc_port=scaled.grpc_port))  # type: ignore[arg-type]
    rows: list[Array] = []
    with scaled.all_step(), channel.channel:
        while (at := len(rows)) < 9:
            parameters = {"sequence_id": 77, "sequence_start": at == 0, "at": at}
            try:
                answer = channel.infer(request(DATA[None, at : at + 1], model=MODEL, parameters=parameters))
            except grpc.RpcError as error:
                assert "session store" in error.details(), error
                continue
            rows.append(arrays(answer)["output"][0])
    assert same_bits(np.concatenate(rows), expected(MODEL, DATA[: len(rows)]))


@dataclass
class Stepping:
    """A client that steps a session. If `sure`, it sends a lost step again, with the same `at`."""

    url: httpx.URL
    sure: bool
    rows: list[Array] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    _ended: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def goes_on(self, number: int = 20) -> None:
        """Wait until it has done some more steps."""
        enough = len(self.rows) + number
        wait_until(lambda: len(self.rows) >= enough or not self._thread.is_alive(), "no step is done")
        assert len(self.rows) >= enough, self.failures

    def _run(self) -> None:
        with httpx.Client(base_url=self.url, timeout=30) as client:
            while store_is_busy(answer := client.post(f"/v1/models/{MODEL}/sessions")):
                time.sleep(0.5)
            id = answer.json()["id"]
            while len(self.rows) < len(DATA) and not self._ended.is_set():
                try:
                    answer = client.post(f"/v1/sessions/{id}/steps", json=step_body(len(self.rows), 1))
                    if store_is_busy(answer):
                        time.sleep(0.5)
                        continue
                    reason = None if answer.status_code == 200 else answer.text
                except httpx.TransportError as error:
                    reason = repr(error)
                if reason is None:
                    self.rows.append(float32(answer.json()["outputs"]))
                else:
                    self.failures.append(reason)
                    if not self.sure:
                        return
                    time.sleep(0.05)


def test_a_rolling_restart_fails_no_request(scaled: Scaled) -> None:
    with Stepping(scaled.client.base_url, sure=False) as client:
        for one in list(scaled.replicas):
            client.goes_on()
            shell("docker", "stop", "--time", "30", one)
            client.goes_on()
            shell("docker", "start", one)
            until_all_serve(scaled)
        client.goes_on()
    assert not client.failures
    assert same_bits(np.concatenate(client.rows), expected(MODEL, DATA[: len(client.rows)]))


@pytest.mark.parametrize(("how", "sure"), [(("stop",), False), (("kill",), True)])
def test_a_replica_that_ends_loses_no_step(scaled: Scaled, how: tuple[str, ...], sure: bool) -> None:
    """One that is told to stop fails no request at all; one that is killed, none for good."""
    with Stepping(scaled.client.base_url, sure) as client:
        client.goes_on()
        shell("docker", *how, next(iter(scaled.replicas)))
        client.goes_on()
    assert sure or not client.failures
    assert same_bits(np.concatenate(client.rows), expected(MODEL, DATA[: len(client.rows)]))


def test_grafana_finds_the_dashboard_and_prometheus_where_they_are_mounted() -> None:
    services = COMPOSE["services"]
    mounts = dict(one.split(":")[:2] for one in services["grafana"]["volumes"])
    provisioning = ROOT / "deploy" / "grafana" / "provisioning"
    assert mounts["./deploy/grafana/provisioning"] == "/etc/grafana/provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text())["datasources"]
    assert source["type"] == "prometheus" and source["url"] == "http://prometheus:9090"
    assert "prometheus" in services and services["prometheus"]["ports"][0].endswith(":9090")
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "elman.yml").read_text())["providers"]
    assert Path(mounts["./deploy/grafana/elman.json"]).parent == Path(provider["options"]["path"])
    dashboard = json.loads((ROOT / "deploy" / "grafana" / "elman.json").read_text())
    (variable,) = [one for one in dashboard["templating"]["list"] if one["type"] == "datasource"]
    assert variable["query"] == source["type"]
