"""The dashboard, the alert rules and the documents name only what the server gives."""

import json
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.running import running_server

# They start servers of their own.
pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "deploy" / "prometheus"
OPERATING = (ROOT / "docs" / "operating.md").read_text()
RULES = (PROMETHEUS / "alerts.yml").read_text()
SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}


@pytest.fixture(scope="module")
def families(small_store: Path) -> dict[str, str]:
    """The metrics of a server with two workers, by name, each with its type."""
    with running_server(small_store, workers=2) as one:
        until = time.monotonic() + 20
        while "elman_worker_up" not in (text := one.client.get("/metrics").text):
            assert time.monotonic() < until, "the workers do not meet"
    return {family.name: family.type for family in text_string_to_metric_families(text)}


def samples(families: dict[str, str]) -> set[str]:
    """The names that a query may use."""
    return {name + suffix for name, kind in families.items() for suffix in SUFFIXES.get(kind, ("",))}


def named(text: str) -> set[str]:
    return set(re.findall(r"\b(?:elman|process)_[a-z_]+", text))


def test_every_metric_of_an_alert_is_given(families: dict[str, str]) -> None:
    expressions = "".join(re.findall(r"expr:(.*?)\n        for:", RULES, re.DOTALL))
    assert len(named(expressions)) >= 7
    assert named(expressions) <= samples(families)


def test_every_metric_of_the_dashboard_is_given(families: dict[str, str]) -> None:
    dashboard = json.loads((ROOT / "deploy" / "grafana" / "elman.json").read_text())
    panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    queries = [target["expr"] for panel in panels for target in panel["targets"]]
    queries += [variable["definition"] for variable in dashboard["templating"]["list"] if "definition" in variable]
    assert all(named(query) for query in queries)
    assert named(" ".join(queries)) <= samples(families)


def test_the_documents_list_every_metric_and_no_other(families: dict[str, str]) -> None:
    table = OPERATING.split("<!-- metrics -->")[1]
    listed = set(re.findall(r"^\| `(elman_\w+)`", table, re.MULTILINE))
    given = {
        name + ("_total" if kind == "counter" else "")
        for name, kind in families.items()
        if name.startswith("elman_") and not name.endswith("_created")
    }
    assert listed == given


def test_every_alert_has_a_paragraph() -> None:
    alerts = re.findall(r"- alert: (\w+)", RULES)
    assert len(alerts) == len(set(alerts)) >= 8
    assert re.findall(r"^\*\*`(\w+)`\*\*", OPERATING, re.MULTILINE) == alerts


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
@pytest.mark.parametrize(
    "arguments",
    [("check", "config", "prometheus.yml"), ("check", "rules", "alerts.yml"), ("test", "rules", "alerts_test.yml")],
)
def test_promtool_takes_the_files(arguments: tuple[str, ...]) -> None:
    done = subprocess.run(["promtool", *arguments], cwd=PROMETHEUS, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
