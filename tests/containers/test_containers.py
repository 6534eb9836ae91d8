"""The image and docker-compose.yml, built and run for real."""

import contextlib
import json
import os
import re
import subprocess
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from packaging.utils import canonicalize_name

import elman
from benchmarks.processes import free_port
from tests.containers.conftest import Container, shell
from tests.running import ROOT, RunningServer

pytestmark = pytest.mark.docker

VOWEL = [[0.5 * ((7 * step + 3 * feature) % 11 - 5) for feature in range(12)] for step in range(23)]
REQUESTS = (
    ("names-gru", {"sequences": ["Li", "Lindqvist", "Ó Briain"], "return": "steps"}),
    ("names-lstm", {"sequence": "Esposito"}),
    ("names-rnn", {"sequences": ["García", "Mäkinen"]}),
    ("vowels-rnn", {"sequence": VOWEL, "return": "steps"}),
    ("vowels-lstm-bidirectional", {"sequences": [VOWEL, VOWEL[:7], VOWEL[:1]]}),
)


def test_a_container_gives_the_bits_that_a_local_server_gives(container: Container, server: RunningServer) -> None:
    for model, body in REQUESTS:
        inside = container.client.post(f"/v1/models/{model}/predict", json=body)
        assert inside.status_code == 200, inside.text
        assert inside.content == server.predict(model, **body).content


def test_every_shipped_model_is_served(container: Container, server: RunningServer) -> None:
    assert container.client.get("/v1/models").json() == server.client.get("/v1/models").json()


@pytest.mark.parametrize("package", ["torch", "onnxscript", "matplotlib", "pytest", "pip"])
def test_the_image_holds_nothing_that_serving_does_not_need(container: Container, package: str) -> None:
    found = container.run(
        "python", "-c", f"import importlib.metadata as m; print([d.name for d in m.distributions(name={package!r}, "
        "path=[__import__('site').getsitepackages()[0]])])"
    )  # fmt: skip
    assert found == "[]"


def test_the_bill_of_materials_lists_the_locked_versions(container: Container) -> None:
    script = "import importlib.metadata as m; print(*(f'{d.name}=={d.version}' for d in m.distributions()))"
    installed = {canonical(one) for one in container.run("/opt/elman/bin/python", "-c", script).split()}
    bill = json.loads((ROOT / "dist" / "sbom.cdx.json").read_text())
    assert bill["bomFormat"] == "CycloneDX"
    assert {canonical(f"{one['name']}=={one['version']}") for one in bill["components"]} == installed
    locked = re.findall(r"^[\w.-]+==[^\s;\\]+", (ROOT / "requirements-image.txt").read_text(), re.MULTILINE)
    assert installed - set(map(canonical, locked)) == {f"elman=={elman.__version__}"}
    assert container.inspect('{{index .Config.Labels "org.opencontainers.image.version"}}') == elman.__version__


def canonical(pin: str) -> str:
    name, _, version = pin.partition("==")
    return f"{canonicalize_name(name)}=={version}"


def test_the_server_is_the_first_process_and_not_root(container: Container) -> None:
    assert container.inspect("{{.Config.User}}") == "10001:10001"
    assert container.run("id", "-u") == "10001"
    assert "elman" in container.run("cat", "/proc/1/cmdline")


def test_the_page_is_served_with_its_charts(container: Container) -> None:
    assert "<title>" in container.client.get("/").text
    assert "function chart(" in container.client.get("/playground/charts.js").text


def test_a_session_outlives_its_container(image: str, server: RunningServer) -> None:
    """The first container is killed; the second one on its volume goes on."""
    volume = f"elman-{os.getpid()}-kept"
    whole = server.predict("names-gru", sequence="Lindqvist", decode=False).json()["results"][0]["output"]
    try:
        with on_volume(f"{volume}-first", volume) as first:
            id = ask(first, "/v1/models/names-gru/sessions", {})["id"]
            ask(first, f"/v1/sessions/{id}/steps", {"sequence": "Lind", "at": 0})
            shell("docker", "kill", first.name)
        with on_volume(f"{volume}-second", volume) as second:
            rest = ask(second, f"/v1/sessions/{id}/steps", {"sequence": "qvist", "at": 4, "decode": False})
    finally:
        subprocess.run(["docker", "volume", "rm", "--force", volume], capture_output=True, timeout=120, check=False)
    assert rest["output"] == whole


@contextlib.contextmanager
def on_volume(name: str, volume: str) -> Iterator[Container]:
    """A container whose sessions are in a volume."""
    port = free_port()
    command = ["docker", "run", "--detach", "--name", name, "--read-only", "--volume", f"{volume}:/state"]
    try:
        shell(*command, "--publish", f"127.0.0.1:{port}:8000", "elman")
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            started = Container(name, client)
            started.wait_until_healthy()
            yield started
    finally:
        subprocess.run(["docker", "rm", "--force", name], capture_output=True, timeout=120, check=False)


def ask(container: Container, path: str, body: dict[str, Any]) -> dict[str, Any]:
    return dict(container.client.post(path, json=body).raise_for_status().json())


def test_nothing_in_the_container_can_be_written(container: Container) -> None:
    for folder in ("/models", "/opt/elman", "/tmp"):
        done = subprocess.run(
            ["docker", "exec", container.name, "touch", f"{folder}/mine"], capture_output=True, timeout=120, check=False
        )
        assert done.returncode != 0, folder


def test_a_composed_server_answers_within_its_limits_and_stops_clean(
    composed: Container, server: RunningServer
) -> None:
    model, body = REQUESTS[0]
    answer = composed.client.post(f"/v1/models/{model}/predict", json=body)
    assert answer.content == server.predict(model, **body).content
    assert composed.inspect("{{.HostConfig.ReadonlyRootfs}} {{.HostConfig.CapDrop}}") == "true [ALL]"
    assert composed.inspect("{{.RestartCount}} {{.State.OOMKilled}}") == "0 false"
    code, seconds = composed.stop()
    assert code == 0
    assert seconds < 25


def test_the_image_is_slim(image: str) -> None:
    """What is put on top of the base image, in bytes. gRPC takes 28 MB of them."""
    layers = shell("docker", "history", "--human=false", "--format", "{{.Size}} {{.CreatedBy}}", image).splitlines()
    ours = [int(line.split()[0]) for line in layers if "COPY" in line or "useradd" in line]
    assert sum(ours) < 270e6


# The last one: the container is gone after it.
def test_docker_stop_ends_with_success_within_the_grace_time(container: Container) -> None:
    code, seconds = container.stop()
    assert code == 0
    assert seconds < 25
