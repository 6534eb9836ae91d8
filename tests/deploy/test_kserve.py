"""KServe's runtime starts a server that answers where the manifest says."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml

from elman.http.sites import HEALTH
from tests.running import ROOT, STORE, RunningServer, running_server

FOLDER = ROOT / "deploy" / "kubernetes" / "kserve"
RUNTIME = yaml.safe_load((FOLDER / "cluster-serving-runtime.yaml").read_text())
SERVICE = yaml.safe_load((FOLDER / "inference-service.yaml").read_text())
(CONTAINER,) = RUNTIME["spec"]["containers"]
ARGS = dict(arg.removeprefix("--").split("=") for arg in CONTAINER["args"] if arg.startswith("--"))
PROBES = {name: probe["httpGet"] for name, probe in CONTAINER.items() if name.endswith("Probe")}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """What the container runs, on a free port, with a mounted folder that has one more folder around the versions."""
    mounted = tmp_path_factory.mktemp("mnt") / "models"
    shutil.copytree(STORE / "vowels-gru", mounted / "vowels-gru")
    flags = [f"--name={ARGS['name'].replace('{{.Name}}', SERVICE['metadata']['name'])}"]
    settings = {one["name"].removeprefix("ELMAN_").lower(): one["value"] for one in CONTAINER["env"]}
    with running_server(mounted, *flags, "--grpc-port=0", **(settings | {"store_dir": str(mounted.parent)})) as one:
        yield one


@pytest.mark.slow
def test_the_model_has_the_name_of_the_service_and_probes_and_metrics_are_where_the_manifest_says(
    server: RunningServer,
) -> None:
    name = SERVICE["metadata"]["name"]
    assert server.client.get(f"/v2/models/{name}/ready").status_code == 200
    assert [one["name"] for one in server.client.get("/v1/models").json()["models"]] == [name]
    for probe in PROBES.values():
        assert server.client.get(probe["path"]).status_code == 200
    metrics = server.client.get(RUNTIME["spec"]["annotations"]["prometheus.kserve.io/path"])
    assert "elman_" in metrics.text


@pytest.mark.slow
def test_grpc_is_ready_too(server: RunningServer) -> None:
    (port,) = re.findall(r"gRPC running on .*, port (\d+)", server.log.read_text())
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        ready = channel.unary_unary("/inference.GRPCInferenceService/ServerReady")
        assert ready(b"", timeout=20) == b"\x08\x01"  # field 1, true


def test_ports_names_and_probes_are_those_that_kserve_looks_for() -> None:
    assert (RUNTIME["kind"], SERVICE["kind"]) == ("ClusterServingRuntime", "InferenceService")
    assert CONTAINER["name"] == "kserve-container" and CONTAINER["args"][0] == "/mnt/models"
    assert RUNTIME["spec"]["protocolVersions"] == ["v2", "grpc-v2"]
    ports = {one["name"]: one["containerPort"] for one in CONTAINER["ports"]}
    assert ports == {"http1": int(ARGS["port"]), "grpc": int(ARGS["grpc-port"])}
    assert RUNTIME["spec"]["annotations"]["prometheus.kserve.io/port"] == ARGS["port"]
    assert PROBES.keys() == {"startupProbe", "readinessProbe", "livenessProbe"}
    for probe in PROBES.values():
        # The address of a pod is no name that ELMAN_ALLOWED_HOSTS would have.
        assert probe["path"] in HEALTH and probe["port"] == int(ARGS["port"])
    predictor = SERVICE["spec"]["predictor"]
    assert predictor["model"]["runtime"] == RUNTIME["metadata"]["name"]
    assert predictor["model"]["protocolVersion"] in RUNTIME["spec"]["protocolVersions"]


def test_the_container_has_no_more_rights_than_it_needs_and_a_place_for_each_file_that_it_writes() -> None:
    security = CONTAINER["securityContext"]
    assert security["runAsNonRoot"] and security["readOnlyRootFilesystem"] and not security["allowPrivilegeEscalation"]
    assert security["capabilities"] == {"drop": ["ALL"]}
    # The user of the image.
    assert f"--uid {security['runAsUser']} " in (ROOT / "Dockerfile").read_text()
    mounts = {one["mountPath"]: one["name"] for one in CONTAINER["volumeMounts"]}
    assert mounts.keys() == {"/state", "/tmp"}
    assert set(mounts.values()) == {one["name"] for one in RUNTIME["spec"]["volumes"]}
    (store,) = [one["value"] for one in CONTAINER["env"] if one["name"] == "ELMAN_STORE_DIR"]
    assert store in mounts


def test_the_kustomization_has_every_manifest() -> None:
    listed: Any = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
    manifests = {path.name for path in Path(FOLDER).glob("*.yaml")} - {"kustomization.yaml"}
    assert set(listed["resources"]) == manifests
    assert [image["name"] for image in listed["images"]] == [CONTAINER["image"]]
