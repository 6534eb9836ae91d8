"""`docker compose --profile scale`: replicas behind HAProxy, with one store. Any of them steps any session."""

import contextlib
import json
import os
import re
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
import yaml
from websockets.sync.client import connect

from benchmarks.processes import free_port
from tests.api.test_grpc import Channel, arrays, request
from tests.containers.conftest import BUILD_TIMEOUT, compose_command, shell
from tests.redis_servers import program
from tests.reference import Array, expected, float32, same_bits
from tests.running import ROOT, STORE, parsed

pytestmark = pytest.mark.docker

MODEL = "vowels-gru"
DATA = np.random.default_rng(7).standard_normal((300, 12), np.float32)
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
# Grafana is not among Debian's packages. What is mounted into it is looked at instead, and its queries are asked.
SERVICES = ("balancer", "prometheus")


@dataclass
class Scaled:
    """The services that run, and a client for the balancer."""

    command: list[str]
    variables: dict[str, str]
    client: httpx.Client
    prometheus: httpx.Client
    grpc_port: int

    @cached_property
    def replicas(self) -> dict[str, str]:
        """The containers of the replicas that run, and the address of each."""
        found = shell(*self.command, "ps", "--quiet", "replica", variables=self.variables).split()
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

    def end(self, *how: str) -> None:
        """End a replica with `docker kill` or `docker stop`."""
        one, _ = self.replicas.popitem()
        shell("docker", *how, one)


@pytest.fixture(scope="module")
def scaled(image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scaled]:
    folder = tmp_path_factory.mktemp("models")
    folder.chmod(0o755)
    shell("cp", "-r", str(STORE / MODEL), str(folder / MODEL))
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
            one = Scaled(command, variables, *clients, int(ports[1].rpartition(":")[2]))
            until_all_serve(one)
            yield one
    finally:
        # In a third of the time that Compose takes.
        for kind, remove in (("container", "rm --force"), ("network", "rm"), ("volume", "rm")):
            named = ("--quiet", "--filter", f"label=com.docker.compose.project={project}")
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


def step_body(at: int, number: int) -> dict[str, Any]:
    return {"sequence": DATA[at : at + number].tolist(), "at": at, "return": "steps", "decode": False}


def test_prometheus_has_all_replicas_as_targets_and_answers_the_queries_of_the_dashboard(scaled: Scaled) -> None:
    (memory,) = [one for one in dashboard_queries() if "process_resident_memory_bytes" in one]
    until = time.monotonic() + 60
    while len(scaled.query(memory)) != 3:
        assert time.monotonic() < until, scaled.prometheus.get("/api/v1/targets").text
        time.sleep(0.5)
    targets = scaled.prometheus.get("/api/v1/targets").json()["data"]["activeTargets"]
    assert [(one["health"], one["labels"]["job"]) for one in targets] == [("up", "elman")] * 3
    for query in dashboard_queries():
        scaled.query(query)


def dashboard_queries() -> list[str]:
    """What the panels of the dashboard ask for, of all models and replicas, where Grafana shows some minutes."""
    dashboard = json.loads((ROOT / "deploy" / "grafana" / "elman.json").read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]
    return [re.sub(r"\$\w+", ".*", query.replace("$__rate_interval", "1m")) for query in queries]


def test_all_replicas_step_one_session_in_turn_over_http_and_websocket(scaled: Scaled) -> None:
    id, rows = scaled.client.post(f"/v1/models/{MODEL}/sessions").json()["id"], []
    with scaled.all_step():
        for at in range(0, 18, 3):
            answer = scaled.client.post(f"/v1/sessions/{id}/steps", json=step_body(at, 3))
            rows.append(float32(answer.raise_for_status().json()["outputs"]))
    address = scaled.client.base_url.netloc.decode()
    with scaled.all_step():
        for at in range(18, 36, 3):
            with connect(f"ws://{address}/v1/models/{MODEL}/stream?session={id}&return=steps&decode=false") as socket:
                assert json.loads(socket.recv(timeout=30))["session"] == id
                socket.send(json.dumps({"sequence": DATA[at : at + 3].tolist(), "at": at}))
                rows.append(float32(json.loads(socket.recv(timeout=30))["outputs"]))
    assert same_bits(np.concatenate(rows), expected(MODEL, DATA[:36]))


def test_all_replicas_step_one_sequence_in_turn_over_grpc(scaled: Scaled) -> None:
    channel, rows = Channel(SimpleNamespace(grpc_port=scaled.grpc_port)), []  # type: ignore[arg-type]
    with scaled.all_step(), channel.channel:
        for at in range(9):
            parameters = {"sequence_id": 77, "sequence_start": at == 0, "at": at}
            answer = channel.infer(request(DATA[None, at : at + 1], model=MODEL, parameters=parameters))
            rows.append(arrays(answer)["output"][0])
    assert same_bits(np.concatenate(rows), expected(MODEL, DATA[: len(rows)]))


def stepping(scaled: Scaled, sure: bool) -> tuple[threading.Event, threading.Thread, list[Array], list[str]]:
    """A client that steps a session until told to end. With `sure`, it sends a lost step again, with the same `at`."""
    ended, rows, failures = threading.Event(), [], []  # type: ignore[var-annotated]

    def run() -> None:
        with httpx.Client(base_url=scaled.client.base_url, timeout=30) as client:
            id = client.post(f"/v1/models/{MODEL}/sessions").json()["id"]
            at = 0
            while at < len(DATA) and not (ended.is_set() and at > 40):
                try:
                    answer = client.post(f"/v1/sessions/{id}/steps", json=step_body(at, 1))
                    reason = None if answer.status_code == 200 else answer.text
                except httpx.TransportError as error:
                    reason = repr(error)
                if reason is None:
                    rows.append(float32(answer.json()["outputs"]))
                    at += 1
                else:
                    failures.append(reason)
                    if not sure:
                        return
                    time.sleep(0.05)

    thread = threading.Thread(target=run)
    thread.start()
    return ended, thread, rows, failures


@pytest.mark.parametrize(("how", "sure"), [(("stop",), False), (("kill",), True)])
def test_a_replica_that_ends_loses_no_step(scaled: Scaled, how: tuple[str, ...], sure: bool) -> None:
    """One that is told to stop fails no request at all; one that is killed, none for good."""
    ended, thread, rows, failures = stepping(scaled, sure)
    until = time.monotonic() + 60
    while len(rows) < 20:
        assert thread.is_alive() and time.monotonic() < until, failures
        time.sleep(0.01)
    scaled.end(*how)
    ended.set()
    thread.join()
    assert sure or not failures, failures
    assert len(rows) > 40
    assert same_bits(np.concatenate(rows), expected(MODEL, DATA[: len(rows)]))


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
