"""`elman bench`."""

import json
from pathlib import Path

import pytest

from tests.cli.command import elman
from tests.running import STORE

pytestmark = pytest.mark.slow


def test_bench_measures_kernel_engine_and_server(tmp_path: Path) -> None:
    asked = ("bench", STORE / "vowels-gru", "--seconds", "0.2", "--connections", "1,3", "--json")
    done = elman(*asked, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout)
    assert [line["what"] for line in measured["lines"]] == ["kernel", "engine", "HTTP, 1 at once", "HTTP, 3 at once"]
    for line in measured["lines"]:
        assert line["steps_per_second"] > 0 and line["failed"] == 0
    for line in measured["lines"][2:]:
        assert 0 < line["p50_seconds"] <= line["p99_seconds"]
        assert line["steps_per_second"] == pytest.approx(22 * line["sequences_per_second"], rel=0.5)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_measured_is_told_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"no model")
    refused = elman("bench", ".", cwd=tmp_path)
    assert refused.returncode == 1 and "is refused" in refused.stderr
    assert elman("bench", "nowhere", cwd=tmp_path).returncode == 2
    wrong = elman("bench", STORE / "vowels-gru", "--connections", "many", cwd=tmp_path)
    assert wrong.returncode == 2 and "--connections" in wrong.stderr
