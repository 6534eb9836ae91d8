"""The manifests render, hold to the schemas of Kubernetes, and fit the server that they start."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from elman.cli.jobs.server import FORCE_SECONDS
from elman.settings import Settings, check_names
from tests.running import ROOT, STORE, RunningServer, running_server

# The packages that render and check them come with the extra test-all.
pytestmark = pytest.mark.slow

FOLDER = ROOT / "deploy" / "kubernetes"
OVERLAYS = ("single", "replicas")
# It comes with a package of the same environment.
KUBECTL = Path(sys.executable).with_name("kubectl")
# The oldest and the newest release of Kubernetes whose schemas they hold to.
RELEASES = ("1.30.0", "1.37.0")

Manifests = dict[tuple[str, str], Any]


def render(folder: Path) -> Manifests:
    """What `kubectl apply --kustomize` would send, by kind and name, without the hash of a generated name."""
    done = subprocess.run([KUBECTL, "kustomize", folder], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    found = list(yaml.safe_load_all(done.stdout))
    return {(one["kind"], re.sub(r"-[a-z0-9]{10}$", "", one["metadata"]["name"])): one for one in found}


@pytest.fixture(scope="module", params=OVERLAYS)
def manifests(request: pytest.FixtureRequest) -> Manifests:
    return render(FOLDER / "overlays" / request.param)


@pytest.fixture(scope="module")
def replicas() -> Manifests:
    return render(FOLDER / "overlays" / "replicas")


def pod(manifests: Manifests, kind: str = "Deployment", name: str = "elman") -> Any:
    return manifests[kind, name]["spec"]["template"]["spec"]


def container(manifests: Manifests) -> Any:
    (one,) = pod(manifests)["containers"]
    return one


def settings(manifests: Manifests) -> dict[str, str]:
    """The settings of the server that the manifests give, but for those from secrets."""
    return dict(manifests["ConfigMap", "elman"]["data"])


@pytest.mark.parametrize("release", RELEASES)
def test_they_hold_to_the_schemas_of_kubernetes(manifests: Manifests, release: str) -> None:
    import kubernetes_validate

    for one in manifests.values():
        kubernetes_validate.validate(one, release, strict=True)
    with pytest.raises(kubernetes_validate.ValidationError):  # a control
        kubernetes_validate.validate({**manifests["Service", "elman"], "port": 1}, release, strict=True)


def test_the_runtime_of_kserve_renders_too() -> None:
    assert {kind for kind, _ in render(FOLDER / "kserve")} == {"ClusterServingRuntime", "InferenceService"}


def test_models_of_a_volume_take_the_place_of_those_in_the_image(tmp_path: Path) -> None:
    above = Path(os.path.relpath(FOLDER, tmp_path))
    listed = {"resources": [str(above / "overlays" / "single")], "components": [str(above / "components" / "models")]}
    (tmp_path / "kustomization.yaml").write_text(json.dumps(listed))
    with_models = render(tmp_path)
    (mount,) = [one for one in container(with_models)["volumeMounts"] if one["name"] == "models"]
    assert f"ELMAN_MODELS={mount['mountPath']} " in (ROOT / "Dockerfile").read_text()
    assert {one["name"] for one in pod(with_models)["volumes"]} == {"models", "keys", "state"}


def test_every_setting_is_one_of_the_server(manifests: Manifests) -> None:
    given = settings(manifests)
    own = [one["name"] for one in container(manifests)["env"]]
    assert given and all(name.startswith("ELMAN_") for name in (*given, *own))
    check_names((*given, *own))


def test_a_pod_has_the_time_that_its_server_takes_to_stop(manifests: Manifests) -> None:
    drain = float(settings(manifests).get("ELMAN_DRAIN_TIMEOUT", Settings().drain_timeout))
    before = int(container(manifests)["lifecycle"]["preStop"]["exec"]["command"][-1])
    grace = pod(manifests)["terminationGracePeriodSeconds"]
    assert before == 5 and grace >= drain + 30 and grace > before + drain + FORCE_SECONDS


def test_ports_and_labels_lead_from_service_and_policies_to_the_container(manifests: Manifests) -> None:
    args = dict(arg.removeprefix("--").split("=") for arg in container(manifests)["args"])
    ports = {one["name"]: one["containerPort"] for one in container(manifests)["ports"]}
    assert ports == {"http": int(args["port"]), "grpc": int(args["grpc-port"])}
    labels = manifests["Deployment", "elman"]["spec"]["template"]["metadata"]["labels"].items()
    for name in ("elman", "elman-pods"):
        service = manifests["Service", name]["spec"]
        assert service["selector"].items() <= labels
        assert {one["targetPort"] for one in service["ports"]} == ports.keys()
    policy = manifests["NetworkPolicy", "elman"]["spec"]
    assert {one["port"] for one in policy["ingress"][0]["ports"]} == ports.keys()
    for kind in ("NetworkPolicy", "PodDisruptionBudget"):
        spec = manifests[kind, "elman"]["spec"]
        assert (spec.get("podSelector") or spec["selector"])["matchLabels"].items() <= labels
    annotations = manifests["Deployment", "elman"]["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/port"] == args["port"]


def test_containers_have_no_more_rights_than_they_need(manifests: Manifests) -> None:
    for kind in ("Deployment", "StatefulSet"):
        for (_, name), one in [(key, one) for key, one in manifests.items() if key[0] == kind]:
            spec = one["spec"]["template"]["spec"]
            assert spec["securityContext"]["runAsNonRoot"] and spec["priorityClassName"] == "elman", name
            assert spec["automountServiceAccountToken"] is False
            security = spec["containers"][0]["securityContext"]
            assert security["readOnlyRootFilesystem"] and not security["allowPrivilegeEscalation"]
            assert security["capabilities"] == {"drop": ["ALL"]}
    assert f"--uid {pod(manifests)['securityContext']['runAsUser']} " in (ROOT / "Dockerfile").read_text()
    assert manifests["PriorityClass", "elman"]["value"] > 0


def test_what_a_pod_mounts_is_there(manifests: Manifests) -> None:
    volumes = {one["name"]: one for one in pod(manifests)["volumes"]}
    mounts = {one["name"]: one["mountPath"] for one in container(manifests)["volumeMounts"]}
    assert volumes.keys() == mounts.keys()
    assert f"ELMAN_STORE_DIR={mounts['state']}\n" in (ROOT / "Dockerfile").read_text()
    assert settings(manifests)["ELMAN_API_KEYS_FILE"].startswith(f"{mounts['keys']}/")
    claimed = volumes["state"].get("persistentVolumeClaim")
    assert claimed is None or ("PersistentVolumeClaim", claimed["claimName"]) in manifests


def test_pods_are_replaced_by_new_ones_unless_a_disk_has_to_follow(manifests: Manifests) -> None:
    spec = manifests["Deployment", "elman"]["spec"]
    if "persistentVolumeClaim" in str(spec["template"]["spec"]["volumes"]):
        assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"})
    else:
        assert "replicas" not in spec, "it would undo what the autoscaler did"
        assert spec["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}


def test_replicas_share_a_store_that_evicts_no_session(replicas: Manifests) -> None:
    assert re.fullmatch(r"redis://valkey:\d+/0", settings(replicas)["ELMAN_STORE"])
    assert ("Service", "valkey") in replicas
    (valkey,) = pod(replicas, "StatefulSet", "valkey")["containers"]
    args = " ".join(valkey["args"])
    assert "--maxmemory-policy noeviction" in args and "--appendonly yes" in args
    (port,) = {one["containerPort"] for one in valkey["ports"]}
    to_store = [rule for rule in replicas["NetworkPolicy", "elman"]["spec"]["egress"] if "to" in rule]
    assert [one["port"] for rule in to_store for one in rule["ports"]] == [port]


# A server with the settings of the manifest


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("kubernetes")
    (folder / "models").mkdir()
    (folder / "models" / "vowels-gru").symlink_to(STORE / "vowels-gru")
    (folder / "keys.json").write_text('{"keys": []}')
    (folder / "keys.json").chmod(0o440)
    given = settings(render(FOLDER / "overlays" / "single"))
    here = {"api_keys_file": folder / "keys.json", "store_dir": folder / "state", "state_keys": "a secret of the test"}
    ours = {name.removeprefix("ELMAN_").lower(): value for name, value in given.items()} | here
    with running_server(folder / "models", "--host=0.0.0.0", "--grpc-port=0", **ours) as one:
        yield one


def test_probes_and_metrics_are_answered_without_a_key_and_nothing_else_is(
    server: RunningServer, replicas: Manifests
) -> None:
    probes = {name: one["httpGet"] for name, one in container(replicas).items() if name.endswith("Probe")}
    assert {name: one["path"] for name, one in probes.items()} == {
        "startupProbe": "/readyz",
        "readinessProbe": "/readyz",
        "livenessProbe": "/livez",
    }
    for probe in probes.values():
        assert server.client.get(probe["path"]).status_code == 200
    annotations = replicas["Deployment", "elman"]["spec"]["template"]["metadata"]["annotations"]
    assert "elman_" in server.client.get(annotations["prometheus.io/path"]).text
    assert server.client.get("/v1/models").status_code == 401


def test_the_autoscaler_goes_by_a_metric_of_the_server(
    server: RunningServer, replicas: Manifests, tmp_path: Path
) -> None:
    scaler = replicas["HorizontalPodAutoscaler", "elman"]["spec"]
    assert scaler["scaleTargetRef"]["name"] == "elman" and scaler["minReplicas"] >= 2
    (metric,) = [one["pods"]["metric"]["name"] for one in scaler["metrics"] if one["type"] == "Pods"]
    assert (metric, ()) in server.stats()
    (rule,) = yaml.safe_load((FOLDER / "overlays" / "replicas" / "prometheus-adapter.yaml").read_text())["rules"][
        "custom"
    ]
    assert rule["name"] == {"matches": metric, "as": metric} and rule["seriesQuery"].startswith(metric)
    # Two workers of one pod, as Prometheus would answer the adapter.
    query = rule["metricsQuery"].replace("<<.Series>>", metric).replace("<<.GroupBy>>", "pod")
    labels = '{namespace="shop",pod="elman-1"'
    (tmp_path / "none.yml").write_text("groups: []")
    case = {
        "rule_files": ["none.yml"],
        "tests": [
            {
                "interval": "15s",
                "input_series": [
                    {"series": f'{metric}{labels},worker="0"}}', "values": "1 3 1 3 1"},
                    {"series": f'{metric}{labels},worker="1"}}', "values": "0.5x4"},
                ],
                "promql_expr_test": [
                    {
                        "expr": query.replace("<<.LabelMatchers>>", labels[1:]),
                        "eval_time": "1m",
                        "exp_samples": [{"labels": '{pod="elman-1"}', "value": 2.3}],
                    }
                ],
            }
        ],
    }
    (tmp_path / "case.yml").write_text(json.dumps(case))
    command = ["promtool", "test", "rules", tmp_path / "case.yml"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
