"""The manifests hold against KServe's own models: no field that they do not have, none of another type."""

import re
from pathlib import Path

import kserve.models
import pytest
import yaml
from kubernetes import client

MANIFESTS = Path(__file__).parents[3] / "deploy" / "kubernetes" / "kserve"
KINDS = {
    "cluster-serving-runtime.yaml": "V1alpha1ClusterServingRuntime",
    "inference-service.yaml": "V1beta1InferenceService",
}
SIMPLE = {"str": str, "int": int, "bool": bool, "float": (int, float)}
ANYTHING = {"object", "IntOrString", "ResourceQuantity"}


def check(value, kind, path):
    """Raise AssertionError, with the path, for what is not of a kind."""
    if inner := re.fullmatch(r"list\[(.*)\]", kind, re.IGNORECASE):
        assert isinstance(value, list), f"{path} is no list"
        for at, one in enumerate(value):
            check(one, inner[1], f"{path}[{at}]")
    elif inner := re.fullmatch(r"dict[(\[]str, ?(.*)[)\]]", kind, re.IGNORECASE):
        for name, one in value.items():
            check(one, inner[1], f"{path}.{name}")
    elif kind in SIMPLE:
        assert isinstance(value, SIMPLE[kind]), f"{path} is no {kind}"
    elif kind not in ANYTHING:
        model = getattr(kserve.models, kind, None) or getattr(client, kind)
        names = {name: attribute for attribute, name in model.attribute_map.items()}
        for name, one in value.items():
            assert name in names, f"{path} has {name!r}, which {kind} does not"
            check(one, model.openapi_types[names[name]], f"{path}.{name}")


@pytest.mark.parametrize(("manifest", "kind"), KINDS.items())
def test_a_manifest_is_what_its_kind_has(manifest, kind):
    content = yaml.safe_load((MANIFESTS / manifest).read_text())
    check(content, kind, content["kind"])


def test_what_a_kind_does_not_have_is_seen():
    with pytest.raises(AssertionError, match="spec has 'protocolVersion', which"):
        check({"spec": {"protocolVersion": ["v2"]}}, "V1alpha1ClusterServingRuntime", "ClusterServingRuntime")
